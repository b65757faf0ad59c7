"Where proteins go: the toy with planted signals, what is cut, what is trained, the table of scores and learned attention"

import warnings
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from plmsub.app.measures import plmsub_probe
from plmsub.base.errors import ConfigError
from plmsub.base.seeds import numpy_rng
from plmsub.batches import encode
from plmsub.io.localization import location_counts, read_localization
from plmsub.io.toy import TOY_PLACES, localization_text, toy_families, toy_locations
from plmsub.models.embed import OneHot
from plmsub.plm import EsmPlm, tiny_esm2
from plmsub.proteins import AMINO_ACIDS, Protein
from plmsub.tasks.fine_tuning import (
    TuneConfig,
    fine_tune,
    module_states,
    plot_residue_weights,
    residue_weights,
    shorten,
    trained_weights,
    training_memory,
    truncation,
    tunable_module,
)
from plmsub.tasks.transfer import label_prediction, permuted, scores_by_group, transfer_scores


@pytest.fixture(scope="module")
def planted():
    return toy_locations(120)


@pytest.fixture(scope="module")
def proteins(planted, tmp_path_factory):
    path = tmp_path_factory.mktemp("toy") / "toy.fasta"
    path.write_text(localization_text(planted))
    return read_localization(path)


# --- The toy


def test_the_toy_is_read_as_it_was_drawn(planted, proteins):
    for drawn, read in zip(planted, proteins, strict=True):
        assert (read.id, read.sequence) == (drawn.id, drawn.sequence)
        assert read.labels == dict(location=drawn.location, group=drawn.group, fold=drawn.fold)
        assert drawn.location in TOY_PLACES[drawn.group] and len(drawn.signal) == len(drawn.sequence)


def test_signals_stand_where_they_belong(planted):
    for p in planted:
        runs = [kind for i, kind in enumerate(p.signal) if kind != "." and (not i or p.signal[i - 1] != kind)]
        wanted = dict(Cytoplasmic="", CYtoplasmicMembrane="M", Extracellular="S", Cellwall="SW")[p.location]
        assert "".join(runs) == wanted and p.sequence[0] == "M"
        assert p.signal.startswith("S") == ("S" in wanted) and p.signal.endswith("W") == ("W" in wanted)
        if "W" in wanted:
            assert p.sequence[p.signal.index("W") :].startswith("LP")


def test_letters_alone_do_not_tell_who_leaves():
    "A protein that stays has the letters of a signal, scattered"
    drawn = [p for p in toy_locations(600) if p.location in ("Cytoplasmic", "Extracellular") and len(p.sequence) < 300]
    x = np.array([[p.sequence.count(a) / len(p.sequence) for a in AMINO_ACIDS] for p in drawn])
    y, fold = np.array([p.location == "Extracellular" for p in drawn]), np.array([p.fold for p in drawn])
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    areas = [
        roc_auc_score(
            y[fold == k], LogisticRegression(C=100).fit(x[fold != k], y[fold != k]).decision_function(x[fold == k])
        )
        for k in range(5)
    ]
    assert abs(np.mean(areas) - 0.5) < 0.08


def test_no_family_is_in_two_folds(monkeypatch):
    import plmsub.io.toy as toy

    seen, now = {}, []
    plain = toy.sample

    def watched(family, rng):
        seen.setdefault(family.name, set()).add(len(now) % 5)
        return plain(family, rng)

    monkeypatch.setattr(toy, "sample", watched)
    monkeypatch.setattr(toy, "_placed", lambda *a: (now.append(1), ("MK", ".."))[1])
    toy_locations(200)
    assert len(seen) == len(set(toy_families().values())) and all(len(folds) == 1 for folds in seen.values())


# --- What the file holds, and what is cut


def test_counts_equal_plain_ones(proteins):
    table = location_counts(proteins)
    plain = Counter((p.labels["location"], p.labels["group"]) for p in proteins)
    for (where, group), n in plain.items():
        assert table.loc[where, group] == n
    assert table.loc["all", "all"] == len(proteins) == table.iloc[:-1, :-1].to_numpy().sum()


def test_truncation_equals_what_shorten_leaves_out(proteins):
    table = truncation(proteins, (60, 1022))
    for n, row in table.iterrows():
        left = [len(p) - len(shorten(p.sequence, n)) for p in proteins]
        assert (row.cut, row.left_out) == (sum(map(bool, left)), sum(left))
        assert row.share_left_out == pytest.approx(sum(left) / sum(map(len, proteins)))
        assert row.share_cut == pytest.approx(sum(map(bool, left)) / len(proteins))


# --- What is trained, and memory


@pytest.fixture(scope="module")
def hf():
    pytest.importorskip("transformers")
    pytest.importorskip("peft")


def test_trained_weights_are_those_of_a_tuned_model(hf, proteins):
    plm = tiny_esm2(n_layers=2, dim=32)
    ways = {tune: TuneConfig(tune, epochs=1, max_residues=20) for tune in ("head", "lora", "full")}
    ways["attention"] = replace(ways["head"], pooling="attention")
    rows = trained_weights(plm, 4, ways).set_index("way")
    for way, config in ways.items():
        tuned = fine_tune(plm, proteins[:30], proteins[30:40], config=config)
        assert len(tuned.classes) == 4 and rows.loc[way, ["head", "adapters", "model_trained"]].sum() == tuned.n_trained
        assert rows.model_trained[way] + rows.model_frozen[way] == sum(w.numel() for w in plm.all_weights.values())
    assert rows.adapters["lora"] == 2 * 2 * 2 * 4 * 32 and rows.model_frozen["lora"] == rows.model_frozen["head"]
    assert trained_weights(OneHot(), 3, {"head": TuneConfig("head")}).iloc[0, 1:].tolist() == [63, 0, 0, 0]


def test_memory_grows_with_proteins_and_residues(hf):
    plm, config = tiny_esm2(), TuneConfig("lora", batch=2)
    one = training_memory(plm, config, 100)
    assert training_memory(plm, replace(config, batch=4), 100) == pytest.approx(2 * one, rel=0.02)
    assert 1.8 * one < training_memory(plm, config, 200) < 5 * one
    assert training_memory(plm, replace(config, max_residues=100), 200) == one
    attention = TuneConfig("head", pooling="attention", batch=2)
    states = 2 * 100 * plm.dim * 4  # bytes of float32
    assert states <= training_memory(plm, attention, 100) < 4 * states
    assert training_memory(plm, TuneConfig("head", batch=2), 100) < states / 10


def test_counting_disturbs_nobody(hf):
    before = torch.get_rng_state()
    training_memory(tiny_esm2(), TuneConfig("lora", batch=1), 30)
    trained_weights(tiny_esm2(), 2, {"lora": TuneConfig("lora")})
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_without_its_head_is_tuned(hf, proteins):
    whole = tiny_esm2()
    kept = {n: w for n, w in whole.all_weights.items() if not n.startswith("head.")}
    headless = EsmPlm(whole.config, kept, "encoder")
    texts = [p.sequence[:30] for p in proteins[:3]]
    found, there = module_states(tunable_module(headless, TuneConfig("lora")), texts, "cpu")
    torch.testing.assert_close(found[there], whole.representations(encode(texts))[3][there], atol=1e-4, rtol=1e-4)


# --- Table 2


def plain_scores(truth, predicted):
    "Accuracy and macro F1 by counting, in words of one syllable"
    f1 = []
    for c in {*truth, *predicted}:
        hit = sum(t == p == c for t, p in zip(truth, predicted))
        said, there = sum(p == c for p in predicted), sum(t == c for t in truth)
        f1.append(0.0 if not hit else 2 * (hit / said) * (hit / there) / (hit / said + hit / there))
    return sum(t == p for t, p in zip(truth, predicted)) / len(truth), sum(f1) / len(f1)


def answers(n=90, seed=0, **columns):
    "A table of predictions that are right in half"
    rng = numpy_rng("answers", seed)
    truth = rng.choice(list("aaaabbc"), n)
    predicted = np.where(rng.random(n) < 0.5, truth, rng.choice(list("abcd"), n))
    group = rng.choice(["archaea", "positive", "negative"], n)
    table = dict(
        model="m", seed=np.nan, draw=0, id=[f"P{i}" for i in range(n)], fold=rng.integers(0, 5, n), group=group
    )
    return pd.DataFrame(table | dict(truth=truth, predicted=predicted, value=(truth == predicted) * 1.0) | columns)


def test_table_2_equals_a_plain_calculation():
    table = pd.concat([answers(), answers(seed=1, model="other")])
    wide = scores_by_group(transfer_scores(table))
    assert list(wide.index) == ["m", "other"]
    for model, own in table.groupby("model"):
        for group, part in [("all", own), *own.groupby("group")]:
            wanted = plain_scores(list(part.truth), list(part.predicted))
            found = wide.loc[model, [f"accuracy, {group}", f"macro F1, {group}"]]
            np.testing.assert_allclose(found.astype(float), wanted, atol=1e-12)


def test_macro_f1_is_that_of_scikit_learn():
    from sklearn.metrics import f1_score

    for seed in range(5):
        table = answers(12, seed)
        scores = transfer_scores(table, n_boot=10).set_index(["id", "metric"]).value
        for group, part in [("all", table), *table.groupby("group")]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                theirs = f1_score(part.truth, part.predicted, average="macro")
            assert scores[group, "macro F1"] == pytest.approx(theirs, abs=1e-12)


def test_spread_over_folds_equals_a_plain_one():
    table = answers(40)  # some folds lack a class
    assert table.groupby("fold").apply(lambda f: len({*f.truth, *f.predicted})).nunique() > 1
    scores = transfer_scores(table).query("id == 'all'").set_index("metric").fold_sd
    each = np.array([plain_scores(list(f.truth), list(f.predicted)) for _, f in table.groupby("fold")])
    np.testing.assert_allclose([scores["accuracy"], scores["macro F1"]], each.std(0, ddof=1), atol=1e-12)


def test_intervals_are_as_wide_as_a_plain_bootstrap_says():
    table = answers(200).assign(group="")
    scores = transfer_scores(table, n_boot=4000).set_index("metric")
    rng, truth, predicted = np.random.default_rng(0), table.truth.to_numpy(), table.predicted.to_numpy()
    drawn = np.array([plain_scores(truth[i], predicted[i]) for i in rng.integers(0, 200, (400, 200))])
    for metric, sd in zip(("accuracy", "macro F1"), drawn.std(0)):
        row = scores.loc[metric]
        assert (row.high - row.low) / 2 == pytest.approx(1.97 * sd, rel=0.12)
        assert (row.high + row.low) / 2 == pytest.approx(row.value)


def test_relatives_widen_the_interval():
    one = answers(60).assign(group="")
    four = pd.concat([one.assign(id=one.id + k) for k in "abcd"])

    def width(table):
        return transfer_scores(table).set_index("metric").eval("high - low")["accuracy"]

    assert width(four) == pytest.approx(width(one) / 2, rel=0.1)
    assert width(four.assign(cluster=[i[:-1] for i in four.id])) == pytest.approx(width(one), rel=0.05)


def test_what_cannot_vary_has_no_interval():
    one = transfer_scores(answers(1).assign(truth="a", predicted="a")).query("id == 'all'")
    assert (one.value == 1).all() and one[["low", "high", "fold_sd"]].isna().all(axis=None)
    right = answers(40)
    right = transfer_scores(right.assign(predicted=right.truth))
    assert (right[["value", "low", "high"]] == 1).all(axis=None)


# --- Controls


def test_permuted_labels_are_the_same_ones_elsewhere(proteins):
    dealt = permuted(proteins)
    assert [p.sequence for p in dealt] == [p.sequence for p in proteins]
    was, now = ([p.labels["location"] for p in ps] for ps in (proteins, dealt))
    assert Counter(was) == Counter(now) and 0.2 < np.mean(np.array(was) == now) < 0.6
    assert all(a.labels | dict(location="") == b.labels | dict(location="") for a, b in zip(proteins, dealt))
    assert permuted(proteins) == dealt and permuted(proteins, seed=1) != dealt


def test_the_cluster_comes_along(proteins):
    given = [replace(p, labels=p.labels | dict(cluster=f"c{i // 2}")) for i, p in enumerate(proteins)]
    for ps, wanted in ((given, [f"c{i // 2}" for i in range(len(proteins))]), (proteins, [p.id for p in proteins])):
        assert label_prediction(OneHot(), ps, config=TuneConfig("head", epochs=1)).cluster.tolist() == wanted


# --- From the shell


def test_the_command_prints_what_the_functions_say(planted, proteins, tmp_path, capsys):
    (tmp_path / "toy.fasta").write_text(localization_text(planted))
    files = dict(data=str(tmp_path / "toy.fasta"), out=str(tmp_path / "rows.csv"), picture=str(tmp_path / "seen.png"))
    rows = plmsub_probe("localization", plm="toy", max_residues=100, **files)
    told = capsys.readouterr().out
    for table in (location_counts(proteins), truncation(proteins, (100, 128, 512, 1022)).round(3)):
        assert table.to_string() in told
    assert set(rows.model) == {"full", "composition", "permuted labels"} and rows.fold.nunique() == 5
    scores = transfer_scores(rows).set_index(["model", "metric", "id"])
    first = transfer_scores(rows[rows.fold == 0].assign(group="")).set_index(["model", "metric"])
    for model, metric in first.index:
        line = next(x for x in told[told.index(metric) :].splitlines() if f" {model} " in x)
        cells = [scores.loc[model, metric, g] for g in ("all", "archaea", "negative", "positive")]
        for s in [*cells, first.loc[(model, metric)]]:
            assert f"{s.value:.2f} [{s.low:.2f}, {s.high:.2f}]" in line
    for way, n in (("head, mean", 4 * 129), ("head, attention", 4 * 129 + 128)):
        assert next(x for x in told.splitlines() if x.startswith(way)).split()[2] == str(n)
    assert len(pd.read_csv(files["out"])) == len(rows) and (tmp_path / "seen.png").stat().st_size > 5000


def test_the_command_folds_a_file_without_folds(tmp_path, capsys):
    drawn = toy_locations(24)
    (tmp_path / "x.fasta").write_text("".join(f">{p.id}\n{p.sequence}\n" for p in drawn))
    (tmp_path / "x.csv").write_text("".join(f"{p.id},{p.location}\n" for p in drawn))
    files = dict(data=str(tmp_path / "x.fasta"), labels=str(tmp_path / "x.csv"))
    rows = plmsub_probe("localization", plm="toy", max_residues=60, nested=True, **files)
    assert rows.groupby("model").fold.nunique().eq(5).all() and "not given" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="a picture is a"):
        plmsub_probe("localization", plm="toy", picture="seen.doc", **files)


# --- Attention


@pytest.fixture(scope="module")
def learned(proteins):
    "Attention that was learned, on labels that are right and on permuted ones; and what is tested"
    config = TuneConfig("head", pooling="attention", epochs=40, patience=8, max_residues=120)
    found = []
    for ps in (proteins, permuted(proteins)):
        train, valid, test = ([p for p in ps if p.labels["fold"] in k] for k in ((2, 3, 4), (1,), (0,)))
        found.append(fine_tune("mini", train, valid, config=config))
    return *found, test


def test_attention_looks_at_the_planted_signal_more_than_by_chance(learned, planted):
    sees, blind, test = learned
    signal = {p.id: p.signal for p in planted}

    def looks(tuned):
        weights = residue_weights(tuned, test)
        kind = [signal[id][n - 1] for id, n in zip(weights.id, weights.position)]
        return weights.groupby(kind).weight.mean()

    assert looks(sees)["S"] > 2 and looks(sees)["M"] > 2 and looks(sees)["."] < 1
    assert looks(sees)["S"] > 1.5 * looks(blind)["S"]


def test_weights_are_those_of_the_head(learned):
    sees, _, test = learned
    p = max(test, key=len)
    weights = residue_weights(sees, [p])
    assert len(p) > 1000 and weights.position.tolist() == [*range(1, 61), *range(len(p) - 59, len(p) + 1)]
    assert "".join(weights.residue) == shorten(p.sequence, 120) and weights.weight.mean() == pytest.approx(1, abs=1e-5)
    x = sees.model.representations(encode([shorten(p.sequence, 120)]))[sees.model.n_layers][0, 1:-1]
    score = (x - sees.head.center) / sees.head.scale @ sees.head.score.detach() / sees.model.dim**0.5
    np.testing.assert_allclose(weights.weight, 120 * score.softmax(0), rtol=1e-3)


def test_the_picture_shows_the_weights(learned):
    import matplotlib.pyplot as plt

    sees, _, test = learned
    weights = residue_weights(sees, test)
    ax = plot_residue_weights(weights, {p.id: p.labels["location"] for p in test}, first=30)
    grid = ax.images[0].get_array()
    assert grid.shape == (len(test), 30)
    last = max(test, key=lambda p: (p.labels["location"], p.id))
    np.testing.assert_allclose(grid[-1], weights[weights.id == last.id].weight[:30], rtol=1e-6)
    assert [t.get_text() for t in ax.get_yticklabels()] == sorted({p.labels["location"] for p in test})
    plt.close(ax.figure)


def test_no_toy_of_no_proteins():
    with pytest.raises(ConfigError, match="at least one"):
        toy_locations(0)


def test_a_short_protein_is_drawn_too():
    weights = pd.DataFrame(dict(id=["a", "b", "b"], position=[1, 1, 2], weight=[1.0, 0.5, 1.5]))
    ax = plot_residue_weights(weights, dict(a="x", b="y"), first=3)
    assert np.isnan(np.ma.filled(ax.images[0].get_array(), np.nan)[0, 1:]).all()


def test_an_unknown_group_is_said(proteins):
    assert list(location_counts([Protein("P", "MK", dict(location="x"))])) == ["not given", "all"]
