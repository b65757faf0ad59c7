"""Real deep mutational scans end to end: zero-shot scores of a model, and a lasso on its mean embeddings

    python benchmarks/variants.py --plm mini                 # 7 assays, 9,507 variants
    python benchmarks/variants.py --plm mini --finetune 1    # and trained on each assay, one of five folds held out

Beside the model stand the same shape with random weights, the frequencies of the amino acids in the scanned proteins, BLOSUM62, and one-hots for the
lasso. What grows how: masked marginals with mutated positions times length (160,000 tokens for all seven assays and one model), the
lasso with variants times length (1.6 million for all variants; 0.9 million for the seeded samples of at most 800 an assay that are the default),
pseudo-perplexity with variants times length squared, so it is measured on a seeded sample of variants of the two shortest proteins."""

import argparse
import time
from pathlib import Path

import pandas as pd
import torch
from Bio.Align import substitution_matrices

from plmsub.base.files import sha256_file, shared_dir, whole_file, write_json
from plmsub.base.runs import provenance
from plmsub.base.seeds import numpy_rng
from plmsub.io.variants import read_variants
from plmsub.models.embed import OneHot
from plmsub.models.weights import load_plm
from plmsub.proteins import Protein
from plmsub.tables import tidy
from plmsub.tasks.language_model import unigram_model
from plmsub.tasks.variants import METHODS, fold_scores, lasso_variants, rank_correlation, supervised, zero_shot

SHORT = 110  # residues of proteins for which pseudo-perplexity is measured


def read_scans(folder):
    "Assay -> variants"
    return {
        f.name.removesuffix("_metadata.csv"): read_variants(f) for f in sorted((folder / "dms").glob("*_metadata.csv"))
    }


def by_matrix(scans):
    "Scores by BLOSUM62, as `zero_shot` gives them"
    matrix = substitution_matrices.load("BLOSUM62")

    def score(row):
        return sum(matrix[a, b] for a, b in zip(row.wild_type, row.sequence) if a != b)

    columns = ["mutant", "positions", "substitutions", "target"]
    frames = [
        s[columns].assign(
            assay=name,
            model="BLOSUM62",
            metric="matrix",
            id=[f"{name} {m}" for m in s.mutant],
            value=[score(r) for r in s.itertuples()],
        )
        for name, s in scans.items()
    ]
    return tidy(pd.concat(frames, ignore_index=True), "mutations")


def sampled(scans, n):
    "At most n substitutions of each assay"
    scans = {name: s[s.substitutions > 0] for name, s in scans.items()}
    rows = {name: numpy_rng(0, "sample", name).permutation(len(s))[: n or None] for name, s in scans.items()}
    return {name: s.iloc[sorted(rows[name])] for name, s in scans.items()}


class Clock:
    "Seconds of each step"

    def __init__(self):
        self.last, self.seconds = time.time(), {}

    def __call__(self, name):
        self.seconds[name], self.last = round(time.time() - self.last, 1), time.time()
        print(f"{name}: {self.seconds[name]} s", flush=True)


def run(plm, scans, flags):
    "Rows of Spearman correlations, rows of the lasso, seconds"
    full, random = (
        {"full": plm},
        {"random weights": plm.untrained()},
    )
    unigram = {"unigram": unigram_model([Protein(name, s.wild_type.iloc[0]) for name, s in scans.items()])}
    clock, scores = Clock(), [by_matrix(scans)]
    scores.append(zero_shot(full | random | unigram, scans))
    clock("marginals")
    short = {name: s for name, s in scans.items() if len(s.wild_type.iloc[0]) <= SHORT}
    if flags.pseudo and short:
        scores.append(zero_shot(full | random, sampled(short, flags.pseudo), METHODS[2:]))
    clock("pseudo-perplexity")
    predicted = lasso_variants(full | random | {"one-hot": OneHot()}, sampled(scans, flags.lasso))
    clock("lasso")
    scores.append(predicted)
    if flags.finetune:
        scores.append(supervised(full | random, scans, fractions=(0, 0.1, 0.8), held_out=tuple(range(flags.finetune))))
    clock("fine-tuning")
    table = pd.concat([rank_correlation(s) for s in scores], ignore_index=True)
    clock("intervals")
    return table, fold_scores(predicted), clock.seconds


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plm", default="mini")
    parser.add_argument("--lasso", type=int, default=800, help="variants of an assay for the lasso, at most; 0: all")
    parser.add_argument(
        "--pseudo", type=int, default=30, help="variants of each short protein for pseudo-perplexity; 0: none"
    )
    parser.add_argument(
        "--finetune", type=int, default=0, help="folds of five that are held out in fine-tuning; 0: none"
    )
    parser.add_argument("--only", nargs="*", help="names of assays; all of them without it")
    parser.add_argument("--out", type=Path, default=Path("nbs/results"))
    flags = parser.parse_args()
    data, plm = shared_dir(), load_plm(flags.plm)
    scans = {name: s for name, s in read_scans(data).items() if not flags.only or name in flags.only}
    table, lassos, seconds = run(plm, scans, flags)
    print(table.pivot_table(index="id", columns=["metric", "model"], values="value").round(3).to_string())
    name, hashes = Path(flags.plm).stem, {f.name: sha256_file(f) for f in sorted((data / "dms").glob("*_metadata.csv"))}
    for kind, rows in (("", table), ("_lasso", lassos)):
        with whole_file(flags.out / f"variants_{name}{kind}.csv") as f:
            rows.to_csv(f, index=False, float_format="%.5g")
    command = f"python benchmarks/variants.py --plm {flags.plm} --lasso {flags.lasso} --pseudo {flags.pseudo} --finetune {flags.finetune}"
    if flags.only:
        command += f" --only {' '.join(flags.only)}"
    write_json(
        flags.out / f"variants_{name}.json",
        provenance(
            plm.device,
            command=command,
            model=plm.name,
            fingerprint=plm.fingerprint,
            seconds=seconds,
            threads=torch.get_num_threads(),
            data=hashes,
        ),
    )
