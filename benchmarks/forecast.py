"""What a dry run forecasts against what the same runs then take, in turns.

    python benchmarks/forecast.py [--pairs 3] [--shapes toy,mini,8M] [--out nbs/results]

Two runs a sweep (class 1 with two seeds, the toy proteome), evaluated as plmsub_sweep does it, on the CPU with one thread. Shape 8M is a model of random weights in the shape of ESM-2 8M. Each pair forecasts by wall time and by CPU time,
then runs the sweep into a new folder, with a data folder of its own, so that no answer of the full model is there before. Shown are the ratios of forecast and truth: medians over the pairs, with the extremes. CPU time tells how good the
forecast is; wall time also has what else the machine does."""

import argparse
import os
import shutil
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch

from plmsub.app.costs import sweep_cost
from plmsub.app.report import Scoring, measure
from plmsub.app.sweep import Job, sweep
from plmsub.base.files import write_json, write_table
from plmsub.base.runs import provenance
from plmsub.io.cath import read_domains
from plmsub.models.weights import load_plm
from plmsub.plm import tiny_esm2

STEPS = dict(toy=60, mini=20)
STEPS["8M"] = 8
SCORED = dict(toy=180, mini=60)
SCORED["8M"] = 24


def model_of(shape):
    return tiny_esm2(6, 320, 20) if shape == "8M" else load_plm(shape)


def forecast(jobs, proteins, plm, how):
    "Seconds of the whole sweep by each clock, and the disk and memory that it needs"
    row = {}
    for name, clock in (("wall", time.perf_counter), ("cpu", time.process_time)):
        start = time.perf_counter()
        cost = sweep_cost(jobs, proteins, plm, how, clock=clock)
        row[f"{name}_forecast"] = 3600 * float((cost.table.training + cost.table.evaluation).sum())
        row["calibration"] = time.perf_counter() - start
    return row | dict(disk_forecast=1e9 * float(cost.table.disk_GB.sum()))


def truth(jobs, proteins, plm, how, folder):
    "What the sweep takes"
    wall, cpu = time.perf_counter(), time.process_time()
    done = sweep(jobs, plm, proteins, folder, measure(how), measured_by=asdict(how))
    if set(done.state) != {"done"}:
        raise SystemExit(done.to_string())
    row = dict(wall_taken=time.perf_counter() - wall, cpu_taken=time.process_time() - cpu)
    kept = [f for f in folder.rglob("*") if f.is_file() and f.parent.name != "checkpoint"]
    return row | dict(disk_taken=sum(f.stat().st_size for f in kept))


def pair(shape, k):
    "One forecast and its truth"
    here = Path(tempfile.mkdtemp())
    os.environ["PLMSUB_DATA"] = str(here / "data")
    settings = dict(steps=STEPS[shape], valid_every=max(4, STEPS[shape] // 3), valid_proteins=SCORED[shape])
    jobs = [Job("1", seed=seed, settings=settings | dict(max_damage=100.0)) for seed in (2 * k, 2 * k + 1)]
    plm, proteins, how = model_of(shape), read_domains("toy"), Scoring(proteins=SCORED[shape], draws=1)
    try:
        row = dict(shape=shape, steps=STEPS[shape], pair=k, **forecast(jobs, proteins, plm, how))
        return row | truth(jobs, proteins, plm, how, here / "sweep")
    finally:
        shutil.rmtree(here)


def summary(rows):
    "Ratios of forecast and truth: a row a shape"
    shown = []
    for shape, some in rows.groupby("shape", sort=False):
        row = dict(shape=shape, steps=some.steps.iloc[0], runs=2, pairs=len(some))
        row["calibration_seconds"] = some.calibration.median()
        for name in ("cpu", "wall", "disk"):
            ratio = some[f"{name}_forecast"] / some[f"{name}_taken"]
            row |= {
                f"{name}_taken": some[f"{name}_taken"].median(),
                f"{name}_ratio": ratio.median(),
                f"{name}_low": ratio.min(),
                f"{name}_high": ratio.max(),
            }
        shown.append(row)
    return pd.DataFrame(shown).round(3)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--shapes", default="toy,mini,8M")
    parser.add_argument("--out", type=Path, default=Path("nbs/results"))
    flags = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for k in range(flags.pairs):
        for shape in flags.shapes.split(","):
            rows.append(pair(shape, k))
            print({name: round(v, 2) if isinstance(v, float) else v for name, v in rows[-1].items()}, flush=True)
    table = summary(pd.DataFrame(rows))
    print(table.T.to_string())
    write_table(table, flags.out / "forecast.csv")
    command = f"python benchmarks/forecast.py --pairs {flags.pairs} --shapes {flags.shapes}"
    write_json(flags.out / "forecast.json", provenance("cpu", command=command))
