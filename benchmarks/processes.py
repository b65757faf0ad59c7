"""Whether two processes train the mask that one trains: the same global batch, 50 steps, bit by bit.

    python benchmarks/processes.py [--steps 50] [--processes 2] [--out nbs/results]

A model of random weights in the shape of ESM-2 8M, the domains of the toy proteome with class 1 suppressed, batches of 16 with 4 suppressed. The processes are started by torchrun and
talk through gloo; each is given one thread."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from plmsub.base.files import whole_file, write_json
from plmsub.base.runs import provenance
from plmsub.categories import cath_category
from plmsub.io.cath import read_domains
from plmsub.plm import tiny_esm2
from plmsub.splits import split
from plmsub.subnetwork import load_mask
from plmsub.teacher import Teacher
from plmsub.train import TrainConfig, fit


def train(folder, steps):
    "One run, by as many processes as torchrun has started"
    target, plm = cath_category("1"), tiny_esm2(6, 320, 20)
    config = TrainConfig(
        steps=steps, keep=0.7, valid_every=steps, valid_proteins=16, checkpoint_every=steps, max_damage=100.0
    )
    fit(
        plm,
        split(read_domains("toy"), category=target),
        target,
        config,
        folder / "run",
        mmseqs=False,
        teacher=Teacher(plm, folder / "teacher"),
    )


def trained(n, folder, steps):
    "The mask that n processes train, and the seconds that takes"
    start = time.perf_counter()
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={n}",
        __file__,
        "--steps",
        str(steps),
        "--train",
        str(folder),
    ]
    subprocess.run(command, check=True, env=dict(os.environ, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES=""))
    return load_mask(folder / "run" / "mask.safetensors"), time.perf_counter() - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("nbs/results"))
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.train:
        sys.exit(train(flags.train, flags.steps))
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as several:
        alone, seconds = trained(1, Path(one), flags.steps)
        together, shared = trained(flags.processes, Path(several), flags.steps)
    same = sum(int((m == together[name]).sum()) for name, m in alone.items())
    row = dict(
        processes=flags.processes,
        steps=flags.steps,
        weights=alone.n_weights,
        equal=same,
        share_equal=same / alone.n_weights,
        sparsity=round(alone.sparsity, 4),
        seconds_alone=round(seconds, 1),
        seconds_together=round(shared, 1),
    )
    print(row)
    with whole_file(flags.out / "processes.csv") as f:
        pd.DataFrame([row]).to_csv(f, index=False)
    write_json(
        flags.out / "processes.json",
        provenance(
            "cpu", command=f"python benchmarks/processes.py --steps {flags.steps} --processes {flags.processes}"
        ),
    )
