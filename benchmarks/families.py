"""How close every family of models is to its own library, and what plmsub adds to the time of a step.

    python benchmarks/families.py [--pairs 15] [--base FOLDER] [--out nbs/results]

The first table is of small models with random weights (tests/small_models.py): largest differences of logits and hidden states between plmsub and the
library, between a protein alone and among others, between a model and itself under masks of ones, between the gradient and a slope, between a masked
model and the same exported and loaded again. The second is of times on one thread: forward and backward to the four matrices of attention, by plmsub
and by the bare module, in turns on 16 proteins of 126 residues through 6 layers of 320; shown is the median of the ratios. With --base, a checkout
of another commit, a training step of the shape of ESM-2 8M is timed by both versions, each in a process of its own, in turns."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

from plmsub.base.files import write_json
from plmsub.base.runs import provenance
from plmsub.base.seeds import numpy_rng
from plmsub.batches import encode
from plmsub.models.export import export_transformers
from plmsub.models.weights import load_plm
from plmsub.proteins import AMINO_ACIDS

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))
from small_models import (  # noqa: E402
    AT,
    FAMILIES,
    SEQUENCES,
    _bert,
    _esmc,
    against_library,
    company,
    gap,
    installed,
    ones,
    random_mask,
    residues,
    slope,
)

SHAPE = dict(hidden_size=320, num_hidden_layers=6, num_attention_heads=20, intermediate_size=1280)
ROLES = ("query", "key", "value", "output")


@torch.no_grad()
def again(small, folder):
    "What exporting a masked model and loading it again changes"
    masked = random_mask(load_plm(small.path))
    place = export_transformers(masked, folder / "again")
    back = load_plm(next((place / n for n in ("carp.pt", "esm1.pt") if (place / n).exists()), place))
    return gap(residues(back(SEQUENCES))[:, AT], residues(masked(SEQUENCES))[:, AT])


def row(name):
    "All differences of a family"
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        small = FAMILIES[name](Path(folder))
        single, double = (against_library(small, d) for d in (torch.float32, torch.float64))
        return {
            "family": name,
            "logits, single": single[0],
            "states, single": single[1],
            "logits, double": double[0],
            "states, double": double[1],
            "alone or among others, double": company(small, torch.float64),
            "masks of ones": ones(small),
            "gradient, double": slope(small),
            "exported and loaded": again(small, Path(folder)),
        }


def ratio(make, pairs):
    "Median of the ratios of times, plmsub to the bare module"
    with tempfile.TemporaryDirectory() as folder:
        small = make(Path(folder), SHAPE)
        plm, module = load_plm(small.path), small.module.requires_grad_(False)
    rng = numpy_rng("families", "proteins")
    tokens = encode(["".join(rng.choice([*AMINO_ACIDS], 126)) for _ in range(16)])
    names = [n for n in plm.weights if n.endswith(ROLES)]
    own, real = plm.translation.there(tokens)
    parameters = {p.parameter: module.get_parameter(p.parameter) for p in (plm.family.matrices[n] for n in names)}
    for p in parameters.values():
        p.requires_grad_(True)

    def ours():
        leaves = {n: plm.weights[n].detach().requires_grad_() for n in names}
        torch.autograd.grad(plm(tokens, leaves)[..., AT].sum(), list(leaves.values()))

    def bare():
        out = module(own, attention_mask=real.long()).logits[..., AT]
        torch.autograd.grad(out.sum(), list(parameters.values()))

    def seconds(work):
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    ours(), bare()
    return pd.Series([seconds(ours) / seconds(bare) for _ in range(pairs)]).quantile([0.25, 0.5, 0.75]).tolist()


STEP = """
import sys, time, tempfile, os
os.environ["PLMSUB_DATA"] = tempfile.mkdtemp()
import torch
torch.set_num_threads(1)
from plmsub.batches import make_batch
from plmsub.categories import cath_category
from plmsub.io.cath import read_domains
from plmsub.plm import tiny_esm2
from plmsub.teacher import Teacher
from plmsub.train import TrainConfig, new_state, run_step
plm, config = tiny_esm2(6, 320, 20), TrainConfig()
batch = make_batch(read_domains("toy")[:16], [0] * 16, cath_category("1"), 0)
teacher, state = Teacher(plm), new_state(plm, config)
loss = run_step(plm, state.mask, [batch], teacher, config, 0)["loss"].item()
print(loss, flush=True)
for line in sys.stdin:
    start = time.perf_counter()
    run_step(plm, state.mask, [batch], teacher, config, 0)
    print(time.perf_counter() - start, flush=True)
"""


def against(base, pairs):
    "Ratio of times of a step, this version to another; and the difference of the loss"
    workers = []
    for folder in (ROOT, Path(base).resolve()):
        env = {**os.environ, "PYTHONPATH": str(folder)}
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        workers.append(subprocess.Popen([sys.executable, "-c", STEP], env=env, cwd=folder, **pipes))
    losses = [float(w.stdout.readline()) for w in workers]

    def seconds(worker):
        worker.stdin.write("go\n")
        worker.stdin.flush()
        return float(worker.stdout.readline())

    ratios = pd.Series([seconds(workers[0]) / seconds(workers[1]) for _ in range(pairs)])
    for w in workers:
        w.communicate()
    return ratios.quantile([0.25, 0.5, 0.75]).tolist(), abs(losses[0] - losses[1])


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--pairs", type=int, default=15)
parser.add_argument("--base", default="", help="checkout of another commit")
parser.add_argument("--out", type=Path, default=Path("nbs/results"))

if __name__ == "__main__":
    flags = parser.parse_args()
    torch.set_num_threads(1)
    table = pd.DataFrame([row(name) for name in FAMILIES if installed(name)])
    table.to_csv(flags.out / "families.csv", index=False, float_format="%.1e")
    print(table.to_string())
    times = [("BERT, forward and backward, to the bare module", *ratio(_bert, flags.pairs))]
    times.append(("ESM C, forward and backward, to the bare module", *ratio(_esmc, flags.pairs)))
    about = dict(pairs=flags.pairs)
    if flags.base:
        quartiles, about["loss_difference"] = against(flags.base, flags.pairs)
        times.append(("ESM-2, a training step, to the version before other families", *quartiles))
    columns = ["what", "lower quartile", "median ratio", "upper quartile"]
    times = pd.DataFrame(times, columns=columns)
    times.to_csv(flags.out / "families_time.csv", index=False, float_format="%.3f")
    write_json(flags.out / "families.json", about | dict(provenance=provenance("cpu")))
    print(times.to_string())
