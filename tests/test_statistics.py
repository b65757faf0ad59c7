"Statistics that hold: interval and p value agree, and results depend on neither order, batches, nor names"

import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, t, ttest_1samp, ttest_ind

from plmsub.base.errors import DataError
from plmsub.base.intervals import effective_number, intervals, t_interval
from plmsub.categories import cath_category
from plmsub.comparison import compare, corrected, readable, verdict
from plmsub.controls import random_mask
from plmsub.io.cath import read_domains
from plmsub.masks import HardMask, select_weights
from plmsub.models.weights import load_plm
from plmsub.subnetwork import Subnetwork
from plmsub.tables import tidy
from plmsub.tasks.language_model import mlm_perplexity

few = settings(max_examples=25, deadline=None, derandomize=True, database=None)


def made_up(seed, families=(3, 5), members=2, seeds=(None,), lost=0.3):
    "Losses of three models on suppressed (class 1) and maintained (class 2) superfamilies"
    rng, rows = np.random.default_rng(seed), []
    for first, n in zip("12", families):
        for f in range(n):
            for m in range(members + f % 2):
                hard = rng.normal(2, 0.4)
                for model in ("full", "subnetwork", "random"):
                    for s in (None,) if model == "full" else seeds:
                        own = 0 if model == "full" else rng.normal(lost * (model == "subnetwork") * (first == "1"), 0.3)
                        about = dict(id=f"{first}-{f}-{m}", code=f"{first}.10.8.{f + 1}", model=model, seed=s)
                        rows.append(about | dict(value=hard + own, metric="NLL (nats)"))
    return tidy(rows, "language model")


@few
@given(st.integers(0, 10**6), st.integers(2, 9), st.integers(2, 9), st.sampled_from([(None,), (0, 1, 2)]))
def test_p_is_below_5_percent_where_the_interval_leaves_out_0(seed, n, m, seeds):
    at = compare(made_up(seed, (n, m), seeds=seeds), "1", n_boot=50).set_index("model").loc[["full", "random"]]
    outside = (at.margin_low > 0) | (at.margin_high < 0)
    assert (outside == (at.margin_p < 0.05)).all() and at.margin_p.between(0, 1).all()
    assert np.allclose(at.margin - at.margin_low, at.margin_high - at.margin)


@few
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=4), st.floats(0.01, 3), st.integers(1, 30))
def test_interval_and_p_are_two_readings_of_one_distribution(value, error, df):
    value = np.array(value)
    low, high, p = t_interval(value, [(np.full(len(value), error**2), df)])
    assert np.allclose(high - low, 2 * t.ppf(0.975, df) * error)
    assert (((low > 0) | (high < 0)) == (p < 0.05)).all()


def test_with_families_of_one_size_it_is_the_t_test():
    rng = np.random.default_rng(0)
    rows = [
        (f"{c}{f}", f"{c}.10.8.{f + 1}", m) for c in "12" for f in range(6) for m in ("full", "subnetwork", "random")
    ]
    table = pd.DataFrame(rows, columns=["id", "code", "model"]).assign(metric="NLL (nats)")
    table["value"] = np.where(table.model == "full", 2.0, 2 + rng.normal(0.2, 0.3, len(table)))
    wide = table.pivot(index="id", columns="model", values="value")
    margin, inside = wide.subnetwork - wide.random, wide.index.str.startswith("1")
    at = compare(table, "1", n_boot=40_000).set_index("model")
    exact = ttest_ind(margin[inside], margin[~inside], equal_var=False)
    low, high = exact.confidence_interval()
    assert at.margin_p["random"] == pytest.approx(exact.pvalue, abs=0.01)
    assert at.margin_high["random"] - at.margin_low["random"] == pytest.approx(high - low, rel=0.02)
    low, high = ttest_1samp(wide.subnetwork[~inside] - wide.full[~inside], 0).confidence_interval()
    assert at.D_high["subnetwork"] - at.D_low["subnetwork"] == pytest.approx(high - low, rel=0.02)
    assert list(at.reset_index().columns[:3]) == ["model", "task", "metric"]


def test_percentiles_go_as_far_out_as_t_with_one_degree_less_than_clusters():
    ((low, high),) = intervals(np.linspace(0, 1, 100_001)[:, None], 5)
    assert (low, 1 - high) == pytest.approx((norm.cdf(t.ppf(0.025, 4)),) * 2, abs=1e-6)


def test_three_superfamilies_far_from_0_give_a_small_p_or_a_wide_interval():
    table = made_up(0, (3, 40), lost=1.2)
    at = compare(table, "1").set_index("model").loc["random"]
    assert (at.margin_low > 0) == (at.margin_p < 0.05) and at.margin > 0.8


def test_a_superfamily_that_outweighs_the_others_widens_the_interval():
    table = made_up(1, (8, 8))
    large = table[table.code == "1.10.8.1"]
    copies = pd.concat([large.assign(id=large.id + f"-{k}") for k in range(40)])
    assert effective_number(np.repeat([0, 1, 2], [8, 1, 1])) == pytest.approx(100 / 66)
    plain, heavy = (
        compare(rows, "1").set_index("model").loc["subnetwork"] for rows in (table, pd.concat([table, copies]))
    )
    assert heavy.change_high - heavy.change_low > 1.5 * (plain.change_high - plain.change_low)


def test_few_seeds_widen_the_interval():
    table = made_up(2, (30, 30), seeds=(0, 1))
    shifted = table.value + 0.5 * (table.model == "subnetwork") * (table.seed == 1) * table.code.str.startswith("1")
    at = compare(table.assign(value=shifted), "1").set_index("model").loc["subnetwork"]
    assert at.n_runs == 2 and at.S_high - at.S_low > 1.5  # two trainings that are 0.5 nats apart: t with 1 degree


@settings(few, max_examples=6)
@given(st.integers(0, 10**6), st.permutations(range(8)), st.sampled_from([(None,), (0, 1)]))
def test_S_and_D_depend_on_neither_order_nor_names(seed, order, seeds):
    table = made_up(seed, (3, 5), seeds=seeds)
    one = compare(table, "1", n_boot=20).set_index("model")
    shuffled = table.sample(frac=1, random_state=seed)
    same = compare(shuffled, "1", n_boot=20).set_index("model").loc[one.index]
    pd.testing.assert_frame_equal(same, one)  # the intervals too
    ids = dict(zip(sorted(set(table.id)), np.random.default_rng(seed).permutation(table.id.nunique())))
    codes = table.code.str.rsplit(".", n=1).map(lambda c: f"{c[0]}.{order[int(c[1]) - 1] + 100}")
    renamed = compare(table.assign(id=table.id.map(lambda i: f"P{ids[i]}"), code=codes), "1", n_boot=20).set_index(
        "model"
    )
    assert np.allclose(renamed[["S", "D", "change"]], one[["S", "D", "change"]], atol=1e-12)


def test_S_and_D_depend_on_neither_batches_nor_the_order_of_proteins():
    plm, proteins = load_plm("toy"), read_domains("toy")[::60]
    fifth = HardMask({n: torch.arange(s[0] * s[1]).reshape(s) % 5 > 0 for n, s in select_weights(plm).items()})
    models = {"full": plm, "subnetwork": Subnetwork(plm, random_mask(fifth, 0))}
    results = [
        compare(mlm_perplexity(models, ps, batch_tokens=n), cath_category("1"), n_boot=20)
        for ps, n in ((proteins, 4096), (proteins[::-1], 300))
    ]
    np.testing.assert_allclose(*(r[["S", "D", "S_low", "D_high"]].iloc[1].astype(float) for r in results), atol=2e-5)


def test_rows_that_do_not_pair_are_refused():
    table = made_up(3)
    for bad, words in (
        (pd.concat([table, table.iloc[[7]]]), "scored twice by a model"),
        (table.drop(index=7), "not scored by a model, but by others"),
        (table.assign(n=np.arange(len(table)) % 3 + 1), "another number of residues"),
    ):
        with pytest.raises(DataError, match=words):
            compare(bad, "1")


@few
@given(st.integers(0, 10**6), st.floats(-0.3, 1))
def test_a_verdict_speaks_of_one_control_and_holds_for_all(seed, lost):
    table = made_up(seed, (4, 4), lost=lost)
    other = table[table.model == "random"].assign(model="other", value=lambda rows: rows.value + 0.1)
    result = compare(pd.concat([table, other]), "1", n_boot=50)
    controls, v = result.set_index("model").loc[["random", "other"]], verdict(result)
    assert [v.margin, v.margin_low, v.margin_high, v.p] == controls.loc[
        v.control, ["margin", "margin_low", "margin_high", "margin_p"]
    ].tolist()
    assert v.real == (controls.margin_low > 0).all() == ((controls.margin > 0) & (controls.margin_p < 0.05)).all()
    assert ("S exceeds" in str(v)) == (v.margin > 0)


def test_rows_of_several_metrics_show_values_and_losses_alone_perplexities():
    losses = made_up(4)
    accuracy = losses.assign(task="probe", metric="Q3", value=0.5)
    alone, mixed = (readable(compare(rows, "1", n_boot=20)) for rows in (losses, pd.concat([losses, accuracy])))
    result = compare(losses, "1", n_boot=20)
    assert alone.iloc[0, 0] == f"{np.exp(result.value_suppressed[0]):.2f}" and alone.columns[0].startswith("perplexity")
    assert mixed.iloc[[0, 3], 0].tolist() == [f"{result.value_suppressed[0]:.2f}", "0.50"]
    assert mixed.columns[0].startswith("value")


def test_lost_knowledge_is_a_share_of_what_there_is_to_lose():
    values = {"full": 2.0, "subnetwork": 2.2, "unigram": 2.5}
    rows = [
        dict(id=f"{c}{k}", code=f"{c}.10.8.{k}", model=m, value=v)
        for m, v in values.items()
        for c in "12"
        for k in "12"
    ]
    table = tidy(pd.DataFrame(rows).assign(metric="NLL (nats)"), "language model")
    at = compare(table, "1").set_index("model")
    assert at.lost_suppressed.tolist() == pytest.approx([0, 0.4, 1]) and at.S.tolist() == [0, 0, 0]
    assert compare(table[table.model != "unigram"], "1").lost_suppressed.isna().all()


@few
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.randoms())
def test_corrections_keep_order_and_are_never_smaller(p, random):
    adjusted = corrected(p)
    assert (adjusted >= p).all() and (corrected(p, "by") >= adjusted - 1e-12).all()
    order = random.sample(range(len(p)), len(p))
    assert np.allclose(corrected(np.array(p)[order]), adjusted[order])


def test_the_stored_table_keeps_the_promise(root):
    held = pd.read_csv(root / "nbs/results/coverage.csv")
    equal = held[(held.sizes == "equal") & held.superfamilies.isin([5, 20, 200])]
    assert len(equal) == 3 and equal.filter(like="_held").stack().between(0.93, 0.97).all()
    assert (held["p<0.05"] < 0.07).all() and (equal.ks_p > 0.01).all()
    found = pd.read_csv(root / "nbs/results/coverage_corrected.csv")
    assert (found.fdr <= 0.05).all()
    assert json.loads((root / "nbs/results/coverage.json").read_text())["command"].startswith(
        "python benchmarks/coverage"
    )
