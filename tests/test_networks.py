"The two networks: what they compute, how they are trained, and what they read where the truth is planted."

import math

import numpy as np
import pandas as pd
import pytest
import torch

from plmsub.app.measures import plmsub_probe
from plmsub.base.errors import ConfigError, DataError, PlmsubError
from plmsub.io.alignments import Alignment, Covariation, Joined, Profiles, mutual_information
from plmsub.io.structures import Chain, ideal_backbone, write_pdb
from plmsub.io.toy import clf_text, fasta_text, toy_alignments
from plmsub.models.embed import OneHot
from plmsub.proteins import Domain, Protein
from plmsub.tables import COLUMNS, pooled
from plmsub.tasks.contacts import LONG, contact_network, contact_precision, long_range_precision
from plmsub.tasks.networks import PairNet, SequenceNet, fit_network, seeded
from plmsub.tasks.secondary import secondary_network, secondary_structure, with_valid

FAST = dict(epochs=2)


@pytest.fixture(scope="module")
def toy():
    made = toy_alignments(12)
    proteins = [Domain(d.id, d.sequence, code=d.code, dssp=d.dssp) for d in (a.domain for a in made)]
    aligned = {a.domain.id: Alignment.of(a.rows) for a in made}
    return proteins, aligned, {a.domain.id: a.contact_map for a in made}


# --- The same numbers, plainly


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numbers(module):
    return {name: w.double().numpy() for name, w in module.named_parameters()}


def plain_convolution(x, weight, bias):  # x: (N,D); weight: (F,D,span)
    N, reach = len(x), weight.shape[2] // 2
    y = np.tile(bias, (N, 1))
    for i in range(N):
        for k in range(weight.shape[2]):
            if 0 <= i + k - reach < N:
                y[i] += weight[:, :, k] @ x[i + k - reach]
    return y


def plain_lstm(x, w, tail):  # one direction; gates in the order input, forget, cell, output
    H = w["weight_hh" + tail].shape[1]
    h, c, out = np.zeros(H), np.zeros(H), []
    for row in x:
        gates = w["weight_ih" + tail] @ row + w["bias_ih" + tail] + w["weight_hh" + tail] @ h + w["bias_hh" + tail]
        i, f, g, o = np.split(gates, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        out.append(h)
    return np.array(out)


@torch.no_grad()
def test_sequence_net_is_what_loops_give():
    net = seeded(3, lambda: SequenceNet(4, (8, 3), filters=3, spans=(3, 5), hidden=2)).eval()
    w, x = numbers(net), np.random.default_rng(0).normal(size=(7, 4))
    h = x
    for k in (0, 1):
        h = np.maximum(0, plain_convolution(h, w[f"convolutions.{k}.weight"], w[f"convolutions.{k}.bias"]))
    both, of_lstm = np.hstack([x, h]), numbers(net.lstm)
    there, back = plain_lstm(both, of_lstm, "_l0"), plain_lstm(both[::-1], of_lstm, "_l0_reverse")[::-1]
    read = net(torch.tensor(x[None]).float(), torch.tensor([7]))
    for k, y in enumerate(read):
        plain = np.hstack([there, back]) @ w[f"out.{k}.weight"].T + w[f"out.{k}.bias"]
        np.testing.assert_allclose(y[0], plain, atol=1e-5)


def plain_convolution_2d(x, weight, bias, dilation=1):  # x: (C,N,N)
    C, N, _ = x.shape
    reach = weight.shape[2] // 2
    y = np.zeros((len(weight), N, N)) + bias[:, None, None]
    for i in range(N):
        for j in range(N):
            for a in range(weight.shape[2]):
                for b in range(weight.shape[3]):
                    p, q = i + (a - reach) * dilation, j + (b - reach) * dilation
                    if 0 <= p < N and 0 <= q < N:
                        y[:, i, j] += weight[:, :, a, b] @ x[:, p, q]
    return y


@torch.no_grad()
def test_pair_net_is_what_loops_give():
    net = seeded(4, lambda: PairNet(3, 2, width=4, projected=2, dilations=(1, 2)))
    for parameter in net.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())) / 4)
    w, rng = numbers(net), np.random.default_rng(1)
    x, pairs, N = rng.normal(size=(6, 3)), rng.normal(size=(2, 6, 6)), 6
    p = x @ w["project.weight"].T + w["project.bias"]
    seen = np.zeros((2 + 1 + 4, N, N))
    for i in range(N):
        for j in range(N):
            seen[:, i, j] = [*pairs[:, i, j], abs(i - j) / 24, *p[i], *p[j]]
    h = plain_convolution_2d(seen, w["first.weight"], w["first.bias"])
    for k, dilation in enumerate((1, 2)):
        inner = np.maximum(0, h)
        for part in (0, 1):
            inner = plain_convolution_2d(inner, w[f"blocks.{k}.{part}.weight"], w[f"blocks.{k}.{part}.bias"], dilation)
            inner = np.maximum(0, inner) if part == 0 else inner
        h = h + inner
    y = plain_convolution_2d(np.maximum(0, h), w["out.weight"], w["out.bias"])[0]
    found = net(torch.tensor(x[None]).float(), torch.tensor(pairs[None]).float(), torch.tensor([6]))
    np.testing.assert_allclose(found[0], (y + y.T) / 2, atol=1e-5)


# --- Training


def test_training_stops_by_the_validation_part_and_keeps_the_best():
    "The parameter falls by steps of the optimizer from 1 towards -9, where training has its minimum; validation has its at 0.5"

    class One(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.x = torch.nn.Parameter(torch.ones(()))

    def losses(net, batch):
        return ((net.x - batch) ** 2)[None]

    fit = dict(learning_rate=0.1, weight_decay=0, epochs=50, patience=3)
    net, history = fit_network(One, losses, [torch.tensor(-9.0)], [torch.tensor(0.5)], **fit)
    assert len(history) == int(history.valid.idxmin()) + 1 + 3 < 50
    assert (net.x.item() - 0.5) ** 2 == pytest.approx(history.valid.min(), abs=1e-6)
    assert history.train.is_monotonic_decreasing and not net.training


def test_networks_are_the_same_for_the_same_seed(toy):
    proteins, aligned, maps = toy
    fits = [
        lambda seed: secondary_network(OneHot(), proteins, seed=seed, **FAST).history,
        lambda seed: contact_network(Covariation(aligned), proteins[:5], maps, seed=seed, **FAST).history,
    ]
    for fit in fits:
        pd.testing.assert_frame_equal(fit(0), fit(0))
        assert (fit(0).valid != fit(1).valid).all()


def test_validation_part_is_of_other_groups():
    coded = [Domain(f"1aaaA{i:02}", "MKV", code=f"1.10.10.{1 + i // 3}") for i in range(30)]
    train, valid = with_valid(coded, 0)
    assert len(train) == 24 and len(valid) == 6 and not {p.code for p in train} & {p.code for p in valid}
    clustered = [Protein(f"p{i}", "MKV", {"cluster": f"c{i // 5}"}) for i in range(20)]
    train, valid = with_valid(clustered, 0)
    assert not {p.labels["cluster"] for p in train} & {p.labels["cluster"] for p in valid} and len(valid) == 5
    assert len(with_valid([Protein(f"p{i}", "MKV") for i in range(10)])[1]) == 2
    with pytest.raises(DataError, match="two groups"):
        with_valid(coded[:3])


def test_answers_do_not_depend_on_the_company(toy):
    proteins, aligned, maps = toy
    model = Joined(OneHot(), Profiles(aligned), Covariation(aligned))
    net = secondary_network(model, proteins[:8], **FAST)
    together = net.predict(model, proteins)
    for k, p in enumerate(proteins):
        assert all((net.predict(model, [p])[n][0] == together[n][k]).all() for n in (8, 3))
    touch = contact_network(model, proteins[:5], maps, **FAST)
    together = touch.predict(model, proteins[:4])
    for k, p in enumerate(proteins[:4]):
        np.testing.assert_allclose(touch.predict(model, [p])[0], together[k], atol=1e-4)
        np.testing.assert_allclose(together[k], together[k].T, atol=1e-5)


# --- The tables


def test_network_gives_the_rows_of_the_probe(toy):
    proteins, aligned, _ = toy
    models = {"one-hot": OneHot(), "profile": Profiles(aligned)}
    parts = proteins[:9], proteins[9:]
    linear = secondary_structure(models, *parts, states=(8, 3))
    network = secondary_structure(models, *parts, states=(8, 3), probe="network", **FAST)
    assert [*network] == COLUMNS and set(network.task) == {"secondary structure, network"}
    same = ["metric", "model", "id", "code", "n"]
    pd.testing.assert_frame_equal(linear[same], network[same])
    alone = pd.concat([secondary_structure(models, *parts, states=k) for k in (8, 3)])
    keys = ["metric", "model", "id"]
    pd.testing.assert_frame_equal(
        linear.sort_values(keys, ignore_index=True), alone.sort_values(keys, ignore_index=True)
    )
    fitted = secondary_network(OneHot(), parts[0], (8, 3), n_residues=20_000, **FAST)
    letters = fitted.predict(OneHot(), parts[1])[8]
    right = [(a == np.array([*p.dssp])).mean() for a, p in zip(letters, parts[1])]
    found = network[(network.metric == "Q8") & (network.model == "one-hot")].value
    np.testing.assert_allclose(found, right)


def test_scores_of_pairs_are_taken_as_they_are(toy):
    proteins, aligned, maps = toy
    table = contact_precision({"MI": Covariation(aligned)}, proteins[:2], proteins[2:], maps, probe="pairs")
    assert set(table.task) == {"contacts, pairs"}
    for row in table[table.metric == "P@L/2"].itertuples():
        scores = mutual_information(aligned[row.id]).astype(np.float32)
        assert row.value == long_range_precision(scores, maps[row.id], 2)
    with pytest.raises(ConfigError, match="one number for each pair, not 0"):
        contact_precision(OneHot(), proteins[:2], proteins[2:], maps, probe="pairs")


def test_what_cannot_be_is_refused(toy):
    proteins, aligned, maps = toy
    parts = proteins[:9], proteins[9:]
    for wrong in (
        dict(probe="deep"),
        dict(states=4),
        dict(probe="network", epochs=0),
        dict(probe="network", models=Covariation(aligned)),
        dict(models=Profiles(aligned), hidden=True),
        dict(models=Profiles({}), probe="network"),
    ):
        with pytest.raises(PlmsubError):
            secondary_structure(**(dict(models=OneHot(), train=parts[0], test=parts[1]) | wrong))
    with pytest.raises(ConfigError, match="no such probe"):
        contact_precision(OneHot(), *parts, maps, probe="deep")
    with pytest.raises(DataError, match="are contacts"):
        contact_network(OneHot(), proteins, {id: np.zeros_like(m) for id, m in maps.items()})


# --- Planted truth


def test_planted_contacts_are_found_by_what_changes_together(toy):
    _, aligned, maps = toy
    found, chance = [], []
    for id, contacts in maps.items():
        found.append(long_range_precision(mutual_information(aligned[id]), contacts))
        chance.append(np.nanmean(contacts[np.triu_indices(len(contacts), LONG)]))
    assert np.nanmean(found) > 5 * np.mean(chance)
    columns = np.random.default_rng(0)
    wrong = []
    for id, a in aligned.items():
        letters = np.array([[c for c in row if not c.islower()] for row in a.rows])
        rows = ["".join(r) for r in np.vstack([letters[:1], columns.permuted(letters[1:], axis=0)])]
        wrong.append(long_range_precision(mutual_information(Alignment(a.ids, tuple(rows))), maps[id]))
    assert np.nanmean(wrong) < np.nanmean(found) / 2  # not 0: what varies more has more of it, by chance too


def test_profiles_tell_more_than_one_sequence_and_the_network_more_than_the_probe():
    made = toy_alignments(60, seed=1, doublings=5)
    proteins = [Domain(d.id, d.sequence, code=d.code, dssp=d.dssp) for d in (a.domain for a in made)]
    models = {"one-hot": OneHot(), "profile": Profiles({a.domain.id: Alignment.of(a.rows) for a in made})}
    read = {
        probe: pooled(secondary_structure(models, proteins[:48], proteins[48:], probe=probe))
        .set_index(["model", "metric"])
        .value
        for probe in ("linear", "network")
    }
    q3 = {(probe, model): read[probe][model, "Q3"] for probe in read for model in models}
    assert q3["linear", "profile"] > q3["linear", "one-hot"] + 0.05
    assert q3["network", "profile"] > q3["linear", "profile"] + 0.05
    assert not any(math.isnan(x) for x in q3.values())


# --- From the shell


def test_probe_takes_a_head_and_alignments(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made = toy_alignments(20, doublings=3)
    (tmp_path / "msa").mkdir()
    for a in made[1:]:
        text = "".join(f">{id}\n{row}\n" for id, row in a.rows)
        (tmp_path / "msa" / f"{a.domain.id}.a3m").write_text(text)
    domains = [a.domain for a in made]
    texts = clf_text(domains), fasta_text(domains), fasta_text(domains, "dssp")
    files = dict(zip(("domains", "fasta", "dssp"), ("toy.clf", "toy.fa", "toy_dssp.fa")))
    for name, text in zip(files.values(), texts):
        (tmp_path / name).write_text(text)
    rows = plmsub_probe("secondary", plm="toy", head="network", msa="msa", **files)
    assert set(rows.model) == {"full", "full + profile", "profile"} and set(rows.task) == {
        "secondary structure, network"
    }
    assert {"Q8", "Q3"} <= set(rows.metric) and made[0].domain.id not in set(rows.id)
    assert " proteins have an alignment" in capsys.readouterr().out
    rows = plmsub_probe("secondary", plm="toy", **files)
    assert set(rows.metric) == {"Q3", "Q3 helix", "Q3 strand", "Q3 coil"} and set(rows.model) == {"full"}
    with pytest.raises(ConfigError, match="linear or a network"):
        plmsub_probe("secondary", plm="toy", head="deep", **files)
    with pytest.raises(ConfigError, match="homology has no use for this"):
        plmsub_probe("homology", plm="toy", msa="msa")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.a3m").write_text(">x\nMKV\n")
    with pytest.raises(DataError, match="none of the proteins has an alignment"):
        plmsub_probe("secondary", plm="toy", msa="other", **files)


def test_contacts_from_structures_and_alignments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folded = ideal_backbone([(-57, -47)] * 18 + [(-129, 107), (-38, -7), (-56, 165), (-82, -8)] + [(-57, -47)] * 18)
    for folder in ("hairpins", "msa"):
        (tmp_path / folder).mkdir()
    for k in range(5):  # five random sequences in the same two helices, side by side
        rng = np.random.default_rng(k)
        letters = "".join(rng.choice([*"AEKLR"], 40))
        write_pdb(Chain(letters, folded), f"hairpins/{k}.pdb")
        relatives = ["".join(rng.choice([*"AEKLR"], 40)) for _ in range(7)]
        (tmp_path / "msa" / f"{k}.a3m").write_text(f">q\n{letters}\n" + "".join(f">{r}\n{r}\n" for r in relatives))
    rows = plmsub_probe("contacts", plm="toy", data="hairpins", head="network", msa="msa")
    found = {"full", "full + alignment", "mutual information", "mutual information, as it is"}
    assert set(rows.model) == found and set(rows.task) == {"contacts, network"} and rows.id.nunique() == 5
    rows = plmsub_probe("contacts", plm="toy", data="hairpins", msa="msa")
    assert set(rows.model) == {"full", "mutual information, as it is"} and set(rows.task) == {"contacts, attention"}
