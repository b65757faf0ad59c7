"""How the cost of training and evaluation grows with the model, with length and with the number of proteins; and what a mask file of a large model costs.

    python benchmarks/scaling.py [--steps 5] [--device cpu] [--out nbs/results]

Random weights in the shapes of ESM-2, random sequences, batches of 16 with 4 suppressed. Every row is a process of its own; the time is the median of its steps after the first,
with the teacher's logits at hand, and the memory is what the process held at most, less what it held before there was a model."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

from plmsub.base.files import whole_file, write_json
from plmsub.base.runs import provenance
from plmsub.base.seeds import numpy_rng
from plmsub.batches import CategoryBatches
from plmsub.categories import random_category
from plmsub.losses import logit_requests, masked_nll
from plmsub.masks import HardMask
from plmsub.plm import tiny_esm2
from plmsub.proteins import AMINO_ACIDS, Protein
from plmsub.subnetwork import load_mask, save_mask
from plmsub.teacher import Teacher
from plmsub.train import TrainConfig, new_state, train_step

SHAPES = {"8M": (6, 320, 20), "35M": (12, 480, 20), "150M": (30, 640, 20), "650M": (33, 1280, 20)}
ROWS = [("model", dict(shape=s)) for s in ("8M", "35M", "150M")] + [
    ("length", dict(length=n)) for n in (64, 128, 256, 512)
]
ROWS += [("proteins", dict(proteins=n)) for n in (500, 2000, 8000)] + [("recompute", dict(length=512, recompute=True))]
ROWS += [("evaluation", dict(evaluate=True, shape=s)) for s in ("8M", "35M")] + [("mask file", dict(mask="650M"))]


def proteins_of(n, length):
    "Random sequences"
    rng = numpy_rng("scaling", n, length)
    return [Protein(f"p{i:05}", "".join(rng.choice(list(AMINO_ACIDS), length))) for i in range(n)]


def peak_MB(device):
    "Most memory held so far"
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def timed(work, device):
    "Seconds of some work"
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def training(folder, steps, device, shape="8M", length=150, proteins=500, recompute=False):
    "Seconds a step, tokens a second"
    before, domains = peak_MB(device), proteins_of(proteins, length)
    plm, config = tiny_esm2(*SHAPES[shape]).to(device).tuned(recompute=recompute), TrainConfig(steps=1000)
    batches, teacher, state = (
        CategoryBatches(domains, random_category(domains, proteins // 4), 16, 4),
        Teacher(plm, folder),
        new_state(plm, config),
    )
    for k in range(steps + 1):
        teacher.compute((q.tokens, q.where) for q in logit_requests(config, batches[k]))
    took = [timed(lambda: train_step(plm, state, batches, teacher, config), device) for _ in range(steps + 1)][1:]
    return dict(
        seconds=statistics.median(took),
        tokens_per_second=16 * (length + 2) / statistics.median(took),
        peak_MB=peak_MB(device) - before,
    )


def evaluation(folder, steps, device, shape="8M"):
    "Seconds for 256 proteins of 64 to 512 residues, one pass"
    before, plm, rng = peak_MB(device), tiny_esm2(*SHAPES[shape]).to(device), numpy_rng("evaluation")
    sequences = [p.sequence for n in rng.integers(64, 513, 256) for p in proteins_of(1, int(n))]
    positions = [sorted(rng.choice(len(s), len(s) * 15 // 100, False)) for s in sequences]
    took = [timed(lambda: masked_nll({"m": plm}, sequences, positions, desc=None), device) for _ in range(2)][1]
    return dict(seconds=took, tokens_per_second=sum(map(len, sequences)) / took, peak_MB=peak_MB(device) - before)


def mask_file(folder, steps, device, shape):
    "Seconds to write and to read a mask; bits a weight"
    K, D, _ = SHAPES[shape]
    mask, file = (
        HardMask(
            {
                f"layer.{k}.attention.{p}": torch.rand(D, D) < 0.95
                for k in range(K)
                for p in ("query", "key", "value", "output")
            }
        ),
        Path(folder) / "mask.safetensors",
    )
    writing = [timed(lambda: save_mask(mask, file), "cpu") for _ in range(5)]
    reading = [timed(lambda: load_mask(file), "cpu") for _ in range(5)]
    again = load_mask(file)
    assert again.sparsity == mask.sparsity and all(torch.equal(m, again[n]) for n, m in mask.items())
    return dict(
        seconds=statistics.median(writing),
        seconds_to_read=statistics.median(reading),
        bits_per_weight=8 * file.stat().st_size / mask.n_weights,
        bytes_beyond=file.stat().st_size - mask.n_weights / 8,
    )


def one(row, steps, device):
    "A row, in this process"
    with tempfile.TemporaryDirectory() as folder:
        if "mask" in row:
            return mask_file(folder, steps, device, row["mask"])
        if row.pop("evaluate", False):
            return evaluation(folder, steps, device, **row)
        return training(folder, steps, device, **row)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("nbs/results"))
    parser.add_argument("--row", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.row:
        sys.exit(print(json.dumps(one(json.loads(flags.row), flags.steps, flags.device))))
    rows = []
    for what, row in ROWS:
        done = subprocess.run(
            [sys.executable, __file__, "--steps", str(flags.steps), "--device", flags.device, "--row", json.dumps(row)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            sys.exit(done.stderr)
        rows.append(
            dict(
                what=what,
                value=" ".join(str(v) for v in row.values() if v is not True),
                **{k: float(f"{v:.4g}") for k, v in json.loads(done.stdout).items()},
            )
        )
        print(rows[-1], flush=True)
    with whole_file(flags.out / "scaling.csv") as f:
        pd.DataFrame(rows).to_csv(f, index=False)
    write_json(
        flags.out / "scaling.json",
        provenance(
            flags.device,
            command=f"python benchmarks/scaling.py --steps {flags.steps}",
            threads=torch.get_num_threads(),
            cores=os.cpu_count(),
        ),
    )
