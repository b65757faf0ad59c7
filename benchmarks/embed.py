"""What embedding and searching cost: 10,000 proteins of 150 residues to disk, and exact nearest neighbors of 15,000 and 100,000 proteins, with the memory each needs.

    python benchmarks/embed.py [--plm mini] [--out nbs/results]

Random sequences; without --plm a model of the shape of `mini` (6 layers of 192 dimensions) with random weights. Every row is a process of its own; `peak_MB` is all that it held at most,
Python and torch included; `seconds` pass on the clock and `cpu_seconds` are computed, which differ where other work shares the cores. Searches are timed on embeddings at hand: random numbers of 192 dimensions. The row `homology` includes the embedding by amino-acid counts."""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from plmsub.base.files import whole_file, write_json
from plmsub.base.runs import provenance
from plmsub.base.seeds import numpy_rng
from plmsub.models.embed import OneHot, embed_proteins
from plmsub.models.weights import load_plm
from plmsub.plm import tiny_esm2
from plmsub.proteins import AMINO_ACIDS, Domain, Protein
from plmsub.tasks.homology import nearest, remote_homology

ROWS = [
    ("embed", dict(n=10_000, length=150)),
    ("search", dict(queries=15_000, n=15_000)),
    ("search", dict(queries=15_000, n=15_000, metric="l2")),
    ("search", dict(queries=1_000, n=100_000)),
    ("homology", dict(n=15_000, length=150)),
]


def sequences(n, length):
    "Random sequences"
    letters = np.array(list(AMINO_ACIDS))
    return ["".join(row) for row in letters[numpy_rng("embed", n, length).integers(20, size=(n, length))]]


def timed(work):
    "What some work gives, and the seconds it took"
    start, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, dict(seconds=time.perf_counter() - start, cpu_seconds=time.process_time() - cpu)


def embed(plm, n, length):
    "Proteins to disk: mean, start token and every residue, in half precision"
    model = load_plm(plm) if plm else tiny_esm2(n_layers=6, dim=192, n_heads=6)
    proteins = [Protein(f"p{i:05}", s) for i, s in enumerate(sequences(n, length))]
    with tempfile.TemporaryDirectory() as folder:
        found, took = timed(
            lambda: embed_proteins(model, proteins, folder, include=("mean", "per_tok", "bos"), half=True)
        )
        assert list(found) == [p.id for p in proteins] and np.isfinite(found.matrix()).all()
        return took | dict(disk_MB=sum(f.stat().st_size for f in Path(folder).iterdir()) / 2**20)


def search(plm, queries, n, metric="cosine"):
    "Ten exact neighbors of every query"
    rng = numpy_rng("search", n)
    q, x = (rng.standard_normal((k, 192), np.float32) for k in (queries, n))
    return timed(lambda: nearest(q, x, 10, metric))[1]


def judge(plm, n, length):
    "Hit-10 and AUC of every domain at the fold level"
    rng = numpy_rng("codes", n)
    codes = [f"1.10.{t}.{h}" for t, h in zip(10 * (1 + rng.geometric(0.004, n)), 10 * (1 + rng.integers(4, size=n)))]
    domains = [
        Domain(f"{1 + i // 36**3}{np.base_repr(i % 36**3, 36).lower():0>3}A00", s, code=c)
        for i, (s, c) in enumerate(zip(sequences(n, length), codes))
    ]
    return timed(lambda: remote_homology({"amino acids": OneHot()}, domains, "fold"))[1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plm", help="a model; default: random weights in the shape of mini")
    parser.add_argument("--out", type=Path, default=Path("nbs/results"))
    parser.add_argument("--row", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.row:
        what, row = json.loads(flags.row)
        result = dict(embed=embed, search=search, homology=judge)[what](flags.plm, **row)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        sys.exit(print(json.dumps(result | dict(peak_MB=peak))))
    rows = []
    for what, row in ROWS:
        done = subprocess.run(
            [sys.executable, __file__, "--row", json.dumps((what, row)), *(["--plm", flags.plm] if flags.plm else [])],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            sys.exit(done.stderr)
        rows.append(
            dict(
                what=what,
                proteins=row["n"],
                queries=row.get("queries"),
                metric=row.get("metric", "cosine" if what != "embed" else None),
                **{k: float(f"{v:.4g}") for k, v in json.loads(done.stdout).items()},
            )
        )
        print(rows[-1], flush=True)
    with whole_file(flags.out / "embed.csv") as f:
        pd.DataFrame(rows).astype(dict(queries="Int64")).to_csv(f, index=False)
    command = "python benchmarks/embed.py" + (f" --plm {flags.plm}" if flags.plm else "")
    write_json(
        flags.out / "embed.json",
        provenance(
            command=command,
            threads=torch.get_num_threads(),
            cores=os.cpu_count(),
            model=flags.plm or "random weights, 6 layers of 192",
        ),
    )
