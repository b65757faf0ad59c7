"""How often intervals hold the truth, how p values are spread where nothing is different, and what `corrected` controls.

    python benchmarks/coverage.py [--tables 1000] [--seed 0] [--out nbs/results/coverage.csv]

Tables are made up, with a truth that is known: superfamilies differ at random in what a model loses on them, and members
of one are alike. `compare` is asked about each. Beside the table of intervals, a second one (`_corrected`) has the
share of false discoveries among many margins, half of which are truly 0. Both take some ten minutes on one core."""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import kstest, norm

from plmsub.base.files import progress, write_json
from plmsub.base.runs import provenance
from plmsub.comparison import compare, corrected
from plmsub.tables import tidy

MODELS = ("full", "subnetwork", "random")
S, D = 0.0, 0.3  # nats, of subnetwork and random alike: the margin is 0
BETWEEN, WITHIN, DIFFICULTY = 0.3, 0.3, 0.4  # standard deviations of superfamilies, of their members, of proteins


def made_up(rng, n, unequal):
    "Losses of three models on two groups of n superfamilies"
    tables = []
    for first, truth in (("1", S + D), ("2", D)):
        sizes = rng.geometric(0.4, n) if unequal else np.full(n, 2)  # S20 of CATH: 1 to 50, most of them 1
        family = np.repeat(np.arange(n), sizes)
        hard = rng.normal(2.5, DIFFICULTY, len(family))
        ids, codes = [f"{first}-{i}" for i in range(len(family))], [f"{first}.10.8.{f + 1}" for f in family]
        for model in MODELS:
            lost = rng.normal(truth, BETWEEN, n)[family] + rng.normal(0, WITHIN, len(family))
            value = hard + (model != "full") * lost
            tables.append(pd.DataFrame(dict(id=ids, code=codes, model=model, value=value)))
    return tidy(pd.concat(tables).assign(metric="NLL (nats)"), "language model")


def intervals_of(rng, n, unequal, tables):
    "A row: how many intervals hold the truth, and how the p values of a margin of 0 are spread"
    rows = []
    for k in progress(range(tables), desc=f"{n} superfamilies"):
        at = compare(made_up(rng, n, unequal), "1", n_boot=500, seed=k).set_index("model")
        held = {
            q: at.loc["subnetwork", f"{q}_low"] <= t <= at.loc["subnetwork", f"{q}_high"]
            for q, t in dict(S=S, D=D).items()
        }
        held["margin"] = at.margin_low["random"] <= 0 <= at.margin_high["random"]
        rows.append(held | dict(p=at.margin_p["random"]))
    rows = pd.DataFrame(rows)
    below = {f"p<{limit}": (rows.p < limit).mean() for limit in (0.05, 0.01)}
    held = {f"{q}_held": rows[q].mean() for q in ("S", "D", "margin")}
    sizes = "unequal" if unequal else "equal"
    return (
        dict(superfamilies=n, sizes=sizes, tables=tables) | held | below | dict(ks_p=kstest(rows.p, "uniform").pvalue)
    )


def corrected_of(rng, method, shared, trials, n=40, true=20, effect=3.0):
    "A row: false discoveries among n margins, of which some are truly not 0; `shared` is the correlation of the margins"
    share, any_false = [], []
    for _ in range(trials):
        common = np.where(np.arange(n) % 2, 1, -1) if shared < 0 else np.ones(n)
        z = abs(shared) ** 0.5 * rng.normal() * common + (1 - abs(shared)) ** 0.5 * rng.normal(size=n)
        found = corrected(2 * norm.sf(np.abs(z + effect * (np.arange(n) < true))), method) < 0.05
        share.append(found[true:].sum() / max(1, found.sum()))
        none = corrected(2 * norm.sf(np.abs(z)), method) < 0.05  # where all margins are 0
        any_false.append(none.any())
    return dict(method=method, correlation=shared, trials=trials, fdr=np.mean(share), any_if_all_0=np.mean(any_false))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("nbs/results/coverage.csv"))
    flags = parser.parse_args()
    rng = np.random.default_rng(flags.seed)
    held = pd.DataFrame([intervals_of(rng, n, u, flags.tables) for u in (False, True) for n in (3, 5, 20, 200)])
    held.round(4).to_csv(flags.out, index=False)
    print(held.round(3).to_string(index=False))
    cases = [(m, c) for m in ("bh", "by") for c in (0, 0.5, -0.5)]
    found = pd.DataFrame([corrected_of(rng, m, c, 10 * flags.tables) for m, c in cases])
    found.round(4).to_csv(flags.out.with_name(flags.out.stem + "_corrected.csv"), index=False)
    print(found.round(3).to_string(index=False))
    command = "python benchmarks/coverage.py" + ("" if flags.tables == 1000 else f" --tables {flags.tables}")
    write_json(flags.out.with_suffix(".json"), provenance(command=command, seed=flags.seed))
