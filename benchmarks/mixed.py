"""Do masks that were trained in mixed precision do the same as others? Class 1 of the toy proteome, three seeds, each trained in both precisions and evaluated in single precision.

python benchmarks/mixed.py        # nbs/results/mixed.csv; about four CPU-minutes"""

import tempfile
from pathlib import Path

import pandas as pd
import torch

from plmsub.base.files import whole_file, write_json
from plmsub.base.runs import provenance
from plmsub.categories import cath_category
from plmsub.comparison import compare
from plmsub.evaluation import evaluate
from plmsub.io.cath import read_domains
from plmsub.models.weights import load_plm
from plmsub.splits import split
from plmsub.train import TrainConfig, fit, load_run

RESULT = Path("nbs/results/mixed.csv")

if __name__ == "__main__":
    torch.set_num_threads(1)
    plm, category, rows = load_plm("toy"), cath_category("1"), []
    parts = split(read_domains("toy"), by="superfamily", seed=0)
    for seed in range(3):
        for precision in ("single", "mixed"):
            with tempfile.TemporaryDirectory() as folder:
                trained = fit(
                    plm.tuned(mixed=precision == "mixed"), parts, category, TrainConfig(seed=seed), folder, mmseqs=False
                )
                run = load_run(trained.folder, plm)
                table = compare(evaluate(run, parts, passes=1, draws=1), category).set_index("model")
            found = table.loc["subnetwork", ["S", "S_low", "S_high", "D", "D_low", "D_high"]]
            rows.append(dict(seed=seed, precision=precision, **found, sparsity=run.scores["sparsity"]))
            print(rows[-1], flush=True)
    with whole_file(RESULT) as f:
        pd.DataFrame(rows).to_csv(f, index=False, float_format="%.4g")
    write_json(RESULT.with_suffix(".json"), provenance("cpu", command="python benchmarks/mixed.py", model=plm.name))
