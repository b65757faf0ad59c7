"""Where the time of a training step goes, in single and in mixed precision, for models of several sizes.

    python benchmarks/step_shapes.py [--pairs 9] [--shapes 6,320,20 12,480,20 30,640,20] [--threads 1] [--out nbs/results]

Random weights in the shapes of ESM-2 8M, 35M and 150M, batches of 16 with 4 suppressed (class 1), lengths of CATH S20. A pair times a step and its bare forward and backward, in both
precisions, one after the other and in turns; CPU seconds, so that a loaded machine does no harm. `share of peak`: the arithmetic of the step, as PyTorch counts it,
per second, against the fastest product of two large matrices in the same precision and the same process. step_profile.csv has the operations of one step."""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from step_time import bare
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from plmsub.base.files import shared_dir, whole_file, write_json
from plmsub.base.runs import provenance
from plmsub.batches import CategoryBatches
from plmsub.categories import cath_category
from plmsub.io.cath import read_domains
from plmsub.losses import logit_requests
from plmsub.plm import tiny_esm2
from plmsub.proteins import of_length
from plmsub.teacher import Teacher
from plmsub.train import TrainConfig, new_state, train_step

NAMES = {"6,320,20": "8M", "12,480,20": "35M", "30,640,20": "150M"}
PARTS = {  # of a step: the words of operations that belong to it
    "dense layers": ("aten::mm", "aten::addmm", "mkldnn"),
    "attention": ("scaled_dot_product",),
    "optimizer": ("adamw",),
    "layer norms": ("native_layer_norm",),
    "GELU": ("gelu",),
    "rotary positions": ("roll", "addcmul", "aten::cat", "slice"),
    "change of precision, copies": ("aten::copy_", "aten::_to_copy", "contiguous"),
    "sums and products": ("aten::add", "aten::mul", "aten::div", "aten::sum", "aten::sub"),
    "mask and losses": ("softmax", "sigmoid", "logit", "exp", "index", "embedding", "where", "rand"),
}


def cpu_seconds(work):
    start = time.process_time()
    work()
    return time.process_time() - start


def peak(dtype, n=1536, times=5):
    "FLOP/s of the product of two large matrices"
    a, b = (torch.randn(n, n).to(dtype) for _ in range(2))
    return 2 * n**3 / min(cpu_seconds(lambda: a @ b) for _ in range(times))


def part_of(operation):
    return next((part for part, words in PARTS.items() if any(w in operation.lower() for w in words)), "other")


def profiled(work):
    "Share of every part in the CPU time of some work"
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        work()
    rows = [(part_of(e.key), e.self_cpu_time_total) for e in seen.key_averages()]
    parts = pd.DataFrame(rows, columns=["part", "share"]).groupby("part").share.sum()
    return parts / parts.sum()


def measure(shape, domains, pairs):
    "A row for the shape, and the parts of its step"
    full = tiny_esm2(*map(int, shape.split(",")))
    plms = {"full": full, "mixed": full.tuned(mixed=True)}
    batches, config = CategoryBatches(domains, cath_category("1"), 16, 4), TrainConfig(steps=10_000)
    states = {name: new_state(plm, config) for name, plm in plms.items()}
    with tempfile.TemporaryDirectory() as folder:
        teachers = {name: Teacher(plm, folder) for name, plm in plms.items()}
        masked, rows = list(states["full"].mask.shapes), []

        def step(name, k):
            states[name].step = k
            train_step(plms[name], states[name], batches, teachers[name], config)

        for k in range(pairs + 1):  # one to warm up
            requests = logit_requests(config, batches[k])
            for teacher in teachers.values():
                teacher.compute((q.tokens, q.where) for q in requests)
            work = {f"step, {n}": partial(step, n, k) for n in plms}
            work |= {f"bare, {n}": partial(bare, plm, masked, requests) for n, plm in plms.items()}
            rows.append({name: cpu_seconds(work[name]) for name in (work if k % 2 else list(work)[::-1])})
        parts = [profiled(partial(step, n, pairs)).rename(n) for n in plms]
        with FlopCounterMode(display=False) as counter:
            bare(full, masked, requests)
    found, flops, tokens = pd.DataFrame(rows[1:]), counter.get_total_flops(), requests[0].tokens.numel() * len(requests)
    ratio, best = (
        found["step, full"] / found["step, mixed"],
        {n: peak(plms[n].blocks["layer.0.ffn.up"].dtype) for n in plms},
    )
    row = dict(
        shape=NAMES.get(shape, shape), seconds=found["step, full"].median(), seconds_mixed=found["step, mixed"].median()
    )
    row |= dict(
        full_by_mixed=ratio.median(), low=ratio.quantile(0.25), high=ratio.quantile(0.75), pairs=pairs, tokens=tokens
    )
    for n in plms:
        last = rows[-1][f"step, {n}"]  # the batch that was counted
        row |= {
            f"step_by_bare_{n}": (found[f"step, {n}"] / found[f"bare, {n}"]).median(),
            f"share_of_peak_{n}": flops / last / best[n],
        }
    return row, pd.concat(parts, axis=1).fillna(0).reset_index().assign(shape=row["shape"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--shapes", nargs="+", default=list(NAMES), help="layers, width, heads")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("nbs/results"))
    flags, cath = parser.parse_args(), shared_dir() / "cath"
    torch.set_num_threads(flags.threads)
    domains = of_length(
        read_domains(cath / "cath-domain-list-S20-v4_3_0.txt", cath / "cath-dataset-nonredundant-S20-v4_3_0.fa")
    )
    measured = [measure(shape, domains, flags.pairs) for shape in flags.shapes]
    for name, table in dict(
        step_shapes=pd.DataFrame([r for r, _ in measured]), step_profile=pd.concat([p for _, p in measured])
    ).items():
        print(table.to_string(index=False), "\n")
        with whole_file(flags.out / f"{name}.csv") as f:
            table.to_csv(f, index=False, float_format="%.4g")
    command = f"python benchmarks/step_shapes.py --pairs {flags.pairs} --threads {flags.threads}"
    write_json(flags.out / "step_shapes.json", provenance("cpu", command=command, processor_seconds=True))
