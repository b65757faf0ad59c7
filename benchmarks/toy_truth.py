"""What the method finds in the toy proteome, where the truth is planted.

    python benchmarks/toy_truth.py [--seeds 3] [--steps 300] [--out nbs/results/toy_truth.csv]

Separable categories (split by superfamily) must give a large S and a small D on the test part; twins (split by domain) an
S near 0. One row per target and seed, with intervals and with the margins over the random and the magnitude masks."""

import argparse
import tempfile
import time
from pathlib import Path

import pandas as pd

from plmsub.base.files import write_json
from plmsub.base.runs import provenance
from plmsub.categories import as_category
from plmsub.comparison import compare
from plmsub.evaluation import evaluate
from plmsub.io.cath import read_domains
from plmsub.models.weights import load_plm
from plmsub.proteins import under
from plmsub.splits import split
from plmsub.train import TrainConfig, fit

SEPARABLE = [
    ("1", "superfamily", None),
    ("2", "superfamily", None),
    ("1.10", "superfamily", None),
    ("1.10.10", "superfamily", None),
    ("1.10.10.10", "superfamily", "domain"),
    ("helix", "superfamily", None),
]
TWINS = [("3", "domain", None), ("3.30", "domain", None)]
TWIN_OF = {"3": "4", "3.30": "3.40"}


def one(target, by, suppressed_by, seed, steps, domains, plm):
    category, twin = as_category(target), target in TWIN_OF
    parts = split(domains, by=by, seed=seed, category=category, suppressed_by=suppressed_by)
    start = time.perf_counter()
    run = fit(plm, parts, category, TrainConfig(steps=steps, seed=seed), Path(tempfile.mkdtemp()) / "run")
    seconds = time.perf_counter() - start
    scored = parts.test
    if twin:  # only the twin is maintained: the two labels are compared
        scored = [d for d in scored if under(d.code, target) or under(d.code, TWIN_OF[target])]
    table = evaluate(run, scored, passes=5, draws=3, seed=seed)
    result = compare(table, category, seed=seed).set_index("model")
    row = result.loc[
        "subnetwork",
        [
            "n_suppressed",
            "n_maintained",
            "ppl_suppressed",
            "ppl_maintained",
            "S",
            "S_low",
            "S_high",
            "D",
            "D_low",
            "D_high",
        ],
    ].to_dict()
    row |= {f"{c}_margin_low": result.margin_low[c] for c in ("random", "magnitude", "untrained, sampled")}
    return dict(
        category=target,
        seed=seed,
        kind="twins" if twin else "separable",
        **row,
        full_ppl_suppressed=result.ppl_suppressed["full"],
        sparsity=run.scores["sparsity"],
        best_step=run.scores["step"],
        train_s=round(seconds, 1),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=TrainConfig.steps)
    parser.add_argument("--targets", default="", help="some of the targets, with commas between them; all by default")
    parser.add_argument("--out", default="nbs/results/toy_truth.csv")
    flags = parser.parse_args()
    domains, plm, rows = read_domains("toy"), load_plm("toy"), []
    for target in SEPARABLE + TWINS:
        if flags.targets and target[0] not in flags.targets.split(","):
            continue
        for seed in range(flags.seeds):
            rows.append(one(*target, seed, flags.steps, domains, plm))
            print(pd.Series(rows[-1]).to_frame().T.to_string(index=False, header=len(rows) == 1), flush=True)
            pd.DataFrame(rows).round(4).to_csv(flags.out, index=False)
    write_json(
        Path(flags.out).with_suffix(".json"),
        provenance(
            plm.device,
            command="python benchmarks/toy_truth.py",
            seeds=flags.seeds,
            steps=flags.steps,
            model=plm.fingerprint,
        ),
    )
