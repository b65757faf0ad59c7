"Mutation effects: scores against plain loops, windows, correlations against SciPy, and regressions that never see their fold"

import math
import string

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

from plmsub.base.errors import DataError, PlmsubError
from plmsub.base.files import shared_dir
from plmsub.base.seeds import numpy_rng
from plmsub.batches import amino_acid_tokens, encode, esm_alphabet
from plmsub.io.variants import make_variants, read_variants
from plmsub.models.embed import OneHot
from plmsub.plm import tiny_esm1, tiny_esm2
from plmsub.proteins import AMINO_ACIDS, Protein
from plmsub.splits import deal
from plmsub.tables import COLUMNS
from plmsub.tasks.properties import lasso, lasso_proteins, protein_targets, resampled_rho
from plmsub.tasks.variants import (
    METHODS,
    _differences,
    fit_effects,
    fold_scores,
    lasso_variants,
    rank_correlation,
    supervised,
    zero_shot,
)

WILD = "MKTAYIAKQRQISFVKSHFSRQ"
LETTERS = list(amino_acid_tokens())


def sequence(n, seed=0):
    return "".join(AMINO_ACIDS[i] for i in numpy_rng(seed, "sequence").integers(20, size=n))


def by_hand(model, wild, mutant, hide=True, window=10**6):
    "Sum over the mutations of a name, one forward each"
    total = 0
    for m in mutant.split(":"):
        i = int(m[1:-1]) - 1
        start = max(0, min(i - window // 2, len(wild) - window))
        tokens = encode([wild[start : start + window]])
        if hide:
            tokens[0, i - start + 1] = esm_alphabet().mask_idx
        p = model(tokens)[0, i - start + 1].log_softmax(-1)[LETTERS]
        total += (p[AMINO_ACIDS.index(m[-1])] - p[AMINO_ACIDS.index(m[0])]).item()
    return total


@pytest.mark.parametrize("dtype, limit", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_marginals_are_a_plain_loop(dtype, limit):
    model = tiny_esm2().to(dtype=dtype)
    names = ["M1A", "Q22W", "K2R:Y5F", "M1C:S17T:Q22W", "A4A"]
    scan = make_variants(WILD, names)
    for batch_tokens in (1, 50, 10**5):
        table = (
            zero_shot({"tiny": model}, {"scan": scan}, batch_tokens=batch_tokens).set_index(["metric", "mutant"]).value
        )
        for name in names[:-1]:
            assert table[METHODS[0], name] == pytest.approx(by_hand(model, WILD, name), abs=limit)
            assert table[METHODS[1], name] == pytest.approx(by_hand(model, WILD, name, hide=False), abs=limit)
        assert table[METHODS[0], "A4A"] == 0


def test_longer_than_the_context():
    wild, model = sequence(1100), tiny_esm1(1, 16, 2)  # has positions for 1,022 residues and would refuse the whole
    names = [f"{wild[i]}{i + 1}{'A' if wild[i] != 'A' else 'C'}" for i in (0, 500, 550, 600, 1099)]
    scan = make_variants(wild, [*names, f"{names[0]}:{names[4]}"])
    table = zero_shot({"tiny": model}, {"scan": scan}, batch_tokens=4096).set_index(["metric", "mutant"]).value
    for method, hide in zip(METHODS, (True, False)):
        for name in scan.mutant:
            assert table[method, name] == pytest.approx(by_hand(model, wild, name, hide, 1022), abs=1e-5)


def test_pseudo_perplexity_skips_only_what_cannot_change():
    model, window = tiny_esm2(2, 16, 2).to(dtype=torch.float64), 7
    scan = make_variants(WILD, ["K2R", "K2R:Q22W", "Y5F:A7C"])

    def total(text):
        hidden = 0
        for i, a in enumerate(text):
            start = max(0, min(i - window // 2, len(text) - window))
            tokens = encode([text[start : start + window]])
            tokens[0, i - start + 1] = esm_alphabet().mask_idx
            hidden += model(tokens)[0, i - start + 1].log_softmax(-1)[esm_alphabet().get_idx(a)].item()
        return hidden

    table = zero_shot({"tiny": model}, {"scan": scan}, METHODS[2:], window=window)
    assert table.value.tolist() == pytest.approx([total(s) - total(WILD) for s in scan.sequence], abs=1e-9)


def test_half_precision_and_assays_together():
    models = {"tiny": tiny_esm2().to(dtype=torch.bfloat16)}
    scans = {"a": make_variants(WILD), "b": make_variants(sequence(60))}
    together = zero_shot(models, scans)
    apart = pd.concat([zero_shot(models, {name: scan}) for name, scan in scans.items()], ignore_index=True)
    pd.testing.assert_frame_equal(together, apart)
    assert np.isfinite(together.value).all()


@pytest.mark.parametrize("seed", range(6))
def test_rho_with_ties_is_that_of_scipy(seed):
    rng = numpy_rng(seed, "rho")
    x, y = rng.integers(5, size=40) + 0.0, rng.integers(9, size=40) + 0.0
    counts = np.vstack([np.ones((1, 40), int), rng.multinomial(39, np.full(40, 1 / 40), 20)])
    expected = [spearmanr(np.repeat(x, n), np.repeat(y, n)).statistic for n in counts]
    assert resampled_rho(y, x, counts) == pytest.approx(expected, abs=1e-12)


def test_intervals_hold_the_truth_as_often_as_they_say():
    wild, hits = sequence(30), 0
    truth = spearmanr(*_correlated(numpy_rng("truth"), 400)).statistic
    for seed in range(60):
        scan = make_variants(wild)
        site, own = (_correlated(numpy_rng(seed, k), n) for k, n in (("sites", 30), ("own", len(scan))))
        where = scan.positions.str[0].to_numpy() - 1
        score, target = (s[where] + o for s, o in zip(site, own))  # variants of a position share half of their variance
        table = scan.assign(assay="a", model="m", seed=np.nan, draw=0, metric="x", value=score, target=target)
        row = rank_correlation(table, n_boot=200, seed=seed).iloc[0]
        hits += row.low <= truth <= row.high
    assert 50 <= hits <= 60, (hits, truth)


def _correlated(rng, n):
    x = rng.normal(size=n)
    return x, 0.6 * x + 0.8 * rng.normal(size=n)


def test_training_fits_gradients_of_the_same_scores():
    model, scan = tiny_esm2(), make_variants(WILD, ["K2R", "K2R:Y5F", "Q22A"], [1.0, 0.0, -1.0])
    changes = [[(1, "K", "R")], [(1, "K", "R"), (4, "Y", "F")], [(21, "Q", "A")]]
    scores = zero_shot({"tiny": model}, {"a": scan}, METHODS[:1]).value
    found = _differences(model, model.weights, WILD, changes, 1022)
    assert found.tolist() == pytest.approx(scores.tolist(), abs=1e-5)
    before = {n: w.clone() for n, w in model.weights.items()}
    tuned = [fit_effects(model, {"a": scan}, epochs=60, learning_rate=3e-3) for _ in range(2)]
    assert all(torch.equal(before[n], w) for n, w in model.weights.items())
    assert tuned[0].fingerprint == tuned[1].fingerprint != model.fingerprint
    after = zero_shot({"tiny": tuned[0]}, {"a": scan}, METHODS[:1]).value
    assert after.rank().tolist() == [3, 2, 1] and after.mean() == pytest.approx(scores.mean(), abs=0.2)
    assert after.std() == pytest.approx(scores.std(), rel=0.3)


def test_no_fold_is_seen_by_its_own_regression():
    rng = numpy_rng("folds")
    X, y, folds = rng.normal(size=(90, 12)), rng.normal(size=90), deal([i // 3 for i in range(90)])
    assert all(len(set(folds[i : i + 3])) == 1 for i in range(0, 90, 3)) and np.ptp(np.bincount(folds)) == 0
    _, first = lasso(X, y + X[:, 0], folds)
    for k in range(5):
        other = np.where(folds == k, 100 * rng.normal(size=90), y + X[:, 0])
        assert lasso(X, other, folds)[1][folds == k] == pytest.approx(first[folds == k])


def test_models_fill_the_same_rows():
    scan = make_variants(WILD, targets=list(numpy_rng("t").normal(size=22 * 19))).iloc[::3].reset_index(drop=True)
    models = {"full": tiny_esm2(), "other": tiny_esm2(seed=1), "one-hot": OneHot()}
    scores = lasso_variants(models, {"a": scan}, method="pca 1")
    rows = fold_scores(scores)
    units = rows.groupby("model")[["task", "metric", "id", "n"]].apply(lambda r: list(map(tuple, r.values)))
    assert units["full"] == units["other"] == units["one-hot"] and rows[["value", "n"]].notna().all(axis=None)
    assert rank_correlation(scores, n_boot=20).variants.tolist() == [len(scan)] * 3


def test_targets_of_proteins_are_left_out_where_unknown():
    proteins = [Protein(f"P{i}", sequence(40, i), dssp="H" * i + "C" * (40 - i) if i % 2 else None) for i in range(40)]
    rows = lasso_proteins(
        {"one-hot": OneHot()}, proteins, protein_targets(proteins)[["fraction A", "fraction helix"]], groups=range(40)
    )
    n = rows[rows.metric == "MAE"].groupby("task").n.sum()
    assert n.to_dict() == {"fraction A by lasso": 40, "fraction helix by lasso": 20}


@pytest.mark.parametrize(
    "name",
    [
        "",
        ":",
        "A",
        "A4",
        "A4-",
        "A4del",
        "K2_T3insG",
        "K2dup",
        "K2fs",
        "K2R:",
        "k2r",
        "K+2R",
        "K2.0R",
        "X2R",
        "K9R",
        "K99999999R",
        "K2K2",
        "K٢R",
        "K2R:K2A",
        "K2*",
    ]
    + list(string.punctuation),
)
def test_names_that_are_none(name):
    with pytest.raises(DataError):
        make_variants(WILD, [name])


def test_tables_without_order_or_with_other_lengths():
    scan = make_variants(WILD, ["K2R", "Y5F"], [math.nan, math.nan])
    with pytest.raises(PlmsubError):
        lasso_variants({"one-hot": OneHot()}, {"a": scan})
    with pytest.raises(PlmsubError):
        rank_correlation(zero_shot({"tiny": tiny_esm2()}, {"a": scan}))
    with pytest.raises(DataError, match="22"):
        zero_shot({"tiny": tiny_esm2()}, {"a": scan.assign(sequence=[WILD[1:], WILD])})


def test_a_proteingym_table(tmp_path):
    file = tmp_path / "GYM.csv"
    file.write_text(
        "mutant,mutated_sequence,DMS_score,DMS_score_bin\n"
        + "".join(
            f"{m},{s},{i * 0.1:.1f},{i % 2}\n"
            for i, (m, s) in enumerate(zip(*(make_variants(WILD)[c] for c in ("mutant", "sequence"))))
        )
    )
    scan = read_variants(file, target="DMS_score", sequence="mutated_sequence")
    pd.testing.assert_frame_equal(scan.drop(columns="target"), make_variants(WILD).drop(columns="target"))
    file.write_text(file.read_text() + f"{WILD}A,{WILD}A,0.5,1\n")
    with pytest.raises(DataError, match="line 420"):
        read_variants(file, target="DMS_score", sequence="mutated_sequence")


def test_one_table_from_one_model_and_one_scan():
    scan = make_variants(WILD, targets=list(numpy_rng("t").normal(size=22 * 19))).iloc[::9].reset_index(drop=True)
    model, quick = tiny_esm2(), dict(epochs=1)
    tables = [
        zero_shot(model, scan),
        supervised(model, scan, fractions=(0.5,), **quick),
        lasso_variants(model, scan),
    ]
    for table in tables:
        assert list(table)[: len(COLUMNS)] == COLUMNS and set(table.model) == {"tiny"} and (table.n == 1).all()
        assert list(rank_correlation(table, n_boot=5))[: len(COLUMNS)] == COLUMNS


@pytest.mark.skipif(shared_dir() is None, reason="needs the shared data")
def test_real_scans_from_their_names():
    for file in sorted((shared_dir() / "dms").glob("*_metadata.csv")):
        scan = read_variants(file)
        again = make_variants(scan.wild_type[0], list(scan.mutant), list(scan.target))
        pd.testing.assert_frame_equal(scan, again)
