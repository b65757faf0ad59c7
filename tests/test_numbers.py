"Numbers worked out by hand, for what every page builds on"

import os
import signal
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from plmsub.anatomy import _p, zeros_of
from plmsub.base.errors import ConfigError, DataError, RunError
from plmsub.base.files import write_json
from plmsub.batches import encode
from plmsub.categories import as_category
from plmsub.controls import control_masks
from plmsub.evaluation import evaluate
from plmsub.io.cath import read_domains
from plmsub.io.structures import Chain, ideal_backbone
from plmsub.masks import GRANULARITIES, HardMask, MaskLayout, WeightMask, select_weights
from plmsub.models.embed import _components
from plmsub.models.weights import load_plm
from plmsub.paper.original import batch_scaled
from plmsub.paper.released import run_row
from plmsub.plm import tiny_esm2
from plmsub.proteins import AMINO_ACIDS, Domain, Protein
from plmsub.schedules import cosine, hold_then_ramp, one_cycle
from plmsub.splits import Split, leakage, split
from plmsub.subnetwork import _is_shape
from plmsub.tables import pooled, tidy
from plmsub.tasks.contacts import ContactProbe
from plmsub.tasks.fine_tuning import _batches
from plmsub.tasks.homology import auc, search, similarity_blocks
from plmsub.tasks.language_model import mlm_perplexity, per_protein, perplexity
from plmsub.tasks.properties import lasso, lasso_proteins
from plmsub.tasks.secondary import Scale
from plmsub.tasks.structure import rmsd, superposed
from plmsub.tasks.variants import _scaled
from plmsub.teacher import Teacher, request_key
from plmsub.train import TrainConfig, fit, new_state, run_step, temperature_at, training_batches

# --- Splits and schedules


def test_only_the_suppressed_are_dealt_one_by_one():
    parts = split(read_domains("toy"), category="1.20.20.10", suppressed_by="domain")
    held = [{d.code for d in part if d.code != "1.20.20.10"} for part in (parts.train, parts.valid, parts.test)]
    assert all(held) and sum(map(len, held)) == len(set.union(*held))


def test_a_fifth_of_the_words_makes_a_near_copy():
    letters = np.random.default_rng(0).choice(list(AMINO_ACIDS), (4, 54))
    train, a, b, c = ("".join(row) for row in letters)
    proteins = [Protein("train", train), Protein("near", a[:40] + train[40:]), Protein("far", b[:42] + train[42:])]
    parts = Split(proteins[:1], proteins[1:], [Protein("other", c)])  # 10 and 8 of 50 words are those of train
    found = leakage(parts, mmseqs=False)
    seen = found.pairs[found.pairs.kind == "k-mers"]
    assert dict(zip(seen.id, seen.similarity)) == {"near": pytest.approx(0.2)}


def test_schedules_between_their_ends():
    assert [cosine(k, 5, 1, 0) for k in range(6)] == pytest.approx([1, 0.853553, 0.5, 0.146447, 0, 0], abs=1e-6)
    rates = [one_cycle(k, 20, 1, 0.2, 4, 10) for k in range(20)]
    assert rates[:5] == pytest.approx([0.25, 0.359835, 0.625, 0.890165, 1], abs=1e-6)
    assert np.diff(rates[4:]).max() < 0 and rates[-1] == pytest.approx(0.1)
    assert [hold_then_ramp(k, 2, 3) for k in range(7)] == [0, 0, 0.25, 0.5, 0.75, 1, 1]


# --- What a mask and its training are made of


def test_masks_of_different_matrices_combine():
    a, b = HardMask({"x": torch.tensor([[True, False]])}), HardMask({"y": torch.tensor([[False, True]])})
    for both in (a & b, b & a):  # what a mask does not name, it keeps whole
        assert {n: m.tolist() for n, m in both.items()} == {"x": [[True, False]], "y": [[False, True]]}
    for either in (a | b, b | a):
        assert {n: m.all().item() for n, m in either.items()} == {"x": True, "y": True}


def test_an_entry_stands_for_a_weight_a_neuron_or_a_head():
    shapes = {"layer.0.attention.query": (4, 6), "layer.0.attention.output": (6, 4)}
    sizes = {g: MaskLayout(shapes, 2, g).sizes for g in GRANULARITIES}
    assert sizes == {"weight": [24, 24], "neuron": [4, 6], "head": [2, 2]}
    neurons = MaskLayout(shapes, 2, "neuron").spread(torch.arange(10.0))
    assert neurons["layer.0.attention.query"].tolist() == [[k] * 6 for k in range(4)]
    heads = MaskLayout(shapes, 2, "head").spread(torch.arange(4.0))
    assert heads["layer.0.attention.query"][:, 0].tolist() == [0, 0, 1, 1]  # rows: what a head asks
    assert heads["layer.0.attention.output"][0].tolist() == [2, 2, 3, 3]  # columns: what it has found


def test_one_draw_of_the_controls_is_enough():
    plm = load_plm("toy")
    shapes = select_weights(plm, [3])
    mask = HardMask({n: torch.arange(a * b).reshape(a, b) % 5 > 0 for n, (a, b) in shapes.items()})
    found = control_masks(plm, mask, WeightMask(shapes, plm.n_heads), 3.2, 0.4, draws=1)
    assert {name: len(some) for name, some in found.items()} == dict.fromkeys(found, 1) and len(found) == 4
    with pytest.raises(ConfigError, match="at least one draw"):
        control_masks(plm, mask, WeightMask(shapes, plm.n_heads), 3.2, 0.4, draws=0)


def test_zeros_of_heads_in_matrices_that_are_not_square():
    mask = {"layer.0.attention.query": (4, 6), "layer.0.attention.output": (6, 4)}
    mask = HardMask({n: torch.ones(s, dtype=torch.bool) for n, s in mask.items()})
    mask["layer.0.attention.query"][3, :5], mask["layer.0.attention.output"][:2, 0] = False, False
    zeros = zeros_of(mask, by="head", n_heads=2).n_zeros.tolist()
    assert zeros == [0, 5, 2, 0]


def test_every_weight_of_the_tiny_model_matters():
    plm = tiny_esm2()
    assert "3 layers, 32 dims, 4 heads, 40k weights" in repr(plm)
    vectors = {n: w for n, w in plm.all_weights.items() if w.ndim == 1 and n != "rotary"}
    assert vectors and all(w.std() > 0.05 for w in vectors.values())  # neither biases nor scales are all alike


def test_a_step_is_the_mean_of_its_batches(tmp_path):
    plm, config = load_plm("toy"), TrainConfig(steps=4, accumulate=2, batch_size=4, suppressed=2)
    parts = split(read_domains("toy")[::4], by="domain", category="1")
    batches, teacher = training_batches(parts, "1", config), Teacher(plm, tmp_path)
    results = []
    for some in ([batches[0]], [batches[0], batches[0]], [batches[1]], [batches[0], batches[1]]):
        state = new_state(plm, config)
        loss = run_step(plm, state.mask, some, teacher, config, 0)["loss"]
        results.append((loss, state.mask.logits.grad))
    (one, g), (twice, gg), (other, h), (mean, gh) = results
    torch.testing.assert_close((twice, gg), (one, g))
    torch.testing.assert_close((mean, gh), ((one + other) / 2, (g + h) / 2), rtol=1e-3, atol=1e-6)


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("steps", [2, 3])
def test_a_run_that_is_stopped_in_its_last_step_is_done(tmp_path, steps):
    parts = split(read_domains("toy")[::8], by="domain", category="1")
    config = TrainConfig(steps=steps, valid_every=1, valid_proteins=4, batch_size=4, suppressed=2)

    def stop(state):
        if state.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    done = partial(fit, "toy", parts, "1", config, tmp_path / "run", mmseqs=False, on_validation=stop)
    if steps == 2:
        assert done().config.steps == 2
    else:
        with pytest.raises(RunError, match="stopped by SIGTERM at step 2"):
            done()


def test_temperature_and_rate_belong_to_their_step():
    config = TrainConfig(steps=11, temperature_start=3.0, temperature_end=1.0)
    assert [temperature_at(k, config) for k in (0, 5, 10)] == pytest.approx([3, 2, 1])
    assert temperature_at(10, replace(config, temperature_steps=21)) == pytest.approx(2)


def test_the_key_of_a_request_holds_what_is_asked():
    tokens, where = encode(["MKTAYIAKQR"])[0], torch.zeros(12, dtype=torch.bool)
    keys = {request_key(tokens, where.scatter(0, torch.tensor([k]), True)) for k in range(1, 11)}
    assert len(keys) == 10 and request_key(tokens, where) not in keys


def test_losses_are_scaled_within_their_batch():
    assert batch_scaled([1, 2, 3, 4], [1, 3, 5, 15], size=2).tolist() == [0.5, 3, 1.5, 6]


# --- What tasks count


def test_a_query_is_not_its_own_hit_and_ties_count_half():
    proteins = read_domains("toy")[:6]
    found = search("toy", proteins, proteins, k=5)
    assert (found["query"] != found["hit"]).all() and found.groupby("query").size().eq(5).all()
    assert auc(np.array([1, 2]), np.array([1, 1])) == 0.75 and auc(np.array([1]), np.array([1])) == 0.5


def test_a_mirror_image_is_another_structure():
    helix = Chain("A" * 12, ideal_backbone(np.full((12, 2), (-57, -47))))
    mirror = replace(helix, atoms=helix.atoms * [1, 1, -1])
    assert rmsd(helix, helix) < 1e-4 and rmsd(mirror, helix) > 1
    assert np.abs(superposed(mirror, helix, fit="rmsd").atoms - helix.atoms).max() > 1


def test_models_keep_the_order_in_which_they_were_given():
    plm = load_plm("toy")
    table = mlm_perplexity({"subnetwork": plm, "full": plm}, read_domains("toy")[:2], passes=2)
    assert list(per_protein(table).model) == ["subnetwork"] * 2 + ["full"] * 2
    assert list(perplexity(table).model.unique()) == ["subnetwork", "full"]


@pytest.mark.parametrize("wrong", [np.ones(3), np.ones((0, 3)), np.ones((2, 3, 1))])
def test_embeddings_are_a_table(wrong):
    with pytest.raises(DataError, match="a table of proteins and dimensions"):
        next(similarity_blocks(wrong, np.ones((2, 3))))


def test_what_the_rows_of_the_table_do_not_say():
    row = tidy([dict(metric="m", model="full", id="P1", value=2)], "task").iloc[0]
    assert row[["task", "draw", "n"]].tolist() == ["task", 0, 1] and row[["seed", "code"]].isna().all()
    rows = [
        dict(metric="m", model="full", id=f"P{k}", value=v, n=n, draw=d) for k, v, n, d in ((0, 1, 1, 0), (1, 4, 2, 1))
    ]
    assert pooled(tidy(rows, "task")).loc[0, ["value", "proteins", "n"]].tolist() == [3, 2, 3]


def test_a_scale_centers_and_keeps_what_does_not_vary():
    x = np.array([[1, 5, 2], [3, 5, 6]], np.float32)
    assert Scale.of(x)(x).tolist() == [[-1, 0, -1], [1, 0, 1]]


def test_a_lasso_of_equal_values_predicts_them():
    table, predicted = lasso(np.arange(12.0).reshape(6, 2), np.full(6, 3.5), np.arange(6) % 3)
    assert predicted.tolist() == [3.5] * 6 and (table.value[table.metric == "MAE"] == 0).all()


def test_proteins_without_a_value_are_left_out_of_a_lasso():
    proteins = read_domains("toy")[:13]
    targets = pd.DataFrame({"x": [np.nan, *np.arange(12.0)]}, [p.id for p in proteins])
    table = lasso_proteins("toy", proteins, targets, groups=range(13), folds=3)
    assert table[table.metric == "RMSE"].n.sum() == 12


def test_tasks_are_asked_one_after_the_other():
    def length(models, parts):
        return tidy(
            [dict(metric="residues", model=m, id=p.id, value=len(p)) for m in models for p in parts.test], "length"
        )

    found = evaluate("toy", read_domains("toy")[:2], [length, length])
    assert found.index.tolist() == [0, 1, 2, 3] and found.value[0] == found.value[2]


def test_as_many_components_as_there_are_residues():
    x = np.random.default_rng(0).normal(size=(3, 5))
    assert _components(x, "pca", [0, 2]).shape == (10,)
    with pytest.raises(DataError, match="3 residues of 5 dimensions have no component 4"):
        _components(x, "pca", [3])


def test_the_shape_of_a_matrix_is_two_whole_numbers():
    assert _is_shape([2, 3]) and not any(map(_is_shape, ([2], [2, 0], [2.0, 3], [2, 3, 4], "23", (2, 3), {2: 3})))


def test_a_run_as_a_row_of_the_released_table(tmp_path):
    write_json(tmp_path / "split.json", dict(train=["a"] * 10))
    config, scores = TrainConfig(batch_size=4, accumulate=2), dict(step=5, sparsity=0.25)
    domains = [
        Domain(f"1abcA0{k}", "MKTA", code=f"{k}.10.8.10", dssp=s) for k, s in enumerate(("HHCC", "EECC", None), 1)
    ]
    rows = []
    for category in ("helix", "strand", "1", "1.10"):
        run = SimpleNamespace(category=as_category(category), scores=scores, config=config, folder=tmp_path)
        rows.append(run_row(run, domains, "r"))
    assert [r["size"] for r in rows] == [1, 1, 1, 1] and [r["type"] for r in rows] == [
        "alpha",
        "beta",
        "alpha",
        "alpha",
    ]
    assert [r["level"] for r in rows] == ["residue", "residue", "class", "architecture"]
    assert all((r["epoch"], r["steps"], r["sparsity_percent"]) == (3, 5, 25) for r in rows)  # 40 proteins of 10


def test_an_epoch_shows_every_protein_once():
    batches = list(_batches([5, 9, 7] * 20, SimpleNamespace(batch=4, seed=0), 0))
    assert sorted(i for batch in batches for i in batch) == list(range(60)) and max(map(len, batches)) == 4


# --- Found by a second draw of tests/mutants.py


def test_shared_zeros_that_cannot_be_avoided_are_counted():
    n, zeros = np.array([4]), np.array([3])  # two masks that keep one weight of four share two zeros or three
    assert _p(n, zeros, zeros, 3) == pytest.approx(2 * 1 / 4) and _p(n, zeros, zeros, 2) == 1


def test_contacts_are_the_mean_of_both_ways():
    first, second = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [1.0]])
    probe = ContactProbe(None, lambda x: x, first, second, torch.tensor(0.5))  # one way it scores the first residue
    assert probe.scores(np.array([[1.0], [3.0]], np.float32)).tolist() == [[1.5, 2.5], [2.5, 3.5]]


def test_training_targets_have_mean_and_spread_of_the_scores():
    scaled = _scaled(pd.DataFrame(dict(target=[1.0, 2.0, 6.0], value=[10.0, 12.0, 17.0])))
    assert scaled.mean() == pytest.approx(13) and scaled.std() == pytest.approx(np.std([10, 12, 17]))
