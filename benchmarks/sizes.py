"""Does a better language model read secondary structure better? Three sizes of `mini`, trained equally long.

    python benchmarks/sizes.py train ../shared/data    # about 10 minutes on one core; can be stopped and started again
    python benchmarks/sizes.py score ../shared/data    # about 5 minutes

All three see the same residues of the CATH domains that `mini` was trained on, in the same order, with the same settings. Kept are the models after a
quarter, a half and all of the steps; each is also scored as its training starts, with random weights. Perplexity, Q8 and Q3 are of the same held-out domains of known secondary structure (other superfamilies); probes are
fitted on training domains. Rows go to nbs/results/sizes.csv, what they say together to nbs/results/sizes_relation.csv."""

import argparse
import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from mini import held_out
from scipy.stats import rankdata
from study import proteins

from plmsub.base.files import whole_file, write_json
from plmsub.base.intervals import intervals, resampled_means
from plmsub.base.runs import checkpoint_file, provenance
from plmsub.base.seeds import numpy_rng
from plmsub.models.embed import OneHot
from plmsub.models.pretrain import PretrainConfig, Trainee, load_checkpoint, pretrain
from plmsub.models.weights import load_plm
from plmsub.proteins import of_length
from plmsub.tasks.language_model import mlm_perplexity, per_protein
from plmsub.tasks.secondary import secondary_structure

OUT, RUNS, SEED, R = Path("nbs/results"), Path("runs/sizes"), 0, 10_000
SIZES = {"2 layers of 64": (2, 64, 2), "4 layers of 96": (4, 96, 3), "6 layers of 128": (6, 128, 4)}
STEPS, KEPT, SHIPPED = 640, (160, 320, 640), 7000  # the last: steps of mini as it is shipped
TRAINING = dict(steps=STEPS, batch_tokens=4096, max_residues=512, mask_fraction=0.3, learning_rate=2e-3)
TRAINING |= dict(warmup_steps=50, local_start=True, precision="float32", checkpoint_every=160, valid_every=160)


def folder_of(name):
    return RUNS / name.replace(" ", "_")


def config_of(name):
    layers, width, heads = SIZES[name]
    return PretrainConfig(name=name, n_layers=layers, dim=width, n_heads=heads, seed=SEED, **TRAINING)


def train(data):
    "Pretrain the three sizes; the checkpoints that are wanted are kept aside"
    parts = held_out(data)
    sequences, valid = ([p.sequence for p in of_length(part)] for part in (parts.train, parts.valid))
    for name in SIZES:
        folder = folder_of(name)

        def keep(step, folder=folder, name=name):
            if step in KEPT and (file := checkpoint_file(folder, step)).exists():
                (folder / "kept").mkdir(exist_ok=True)
                shutil.copy(file, folder / "kept")

        plm = pretrain(sequences, config_of(name), folder, valid=valid, on_step=keep)
        print(plm, flush=True)


def stages(name):
    "The kept models of a size, by step, and the one that training starts from"
    models = {}
    for step in (0, *KEPT):
        trainee = Trainee(config_of(name), torch.device("cpu"))
        if step:
            load_checkpoint(trainee, folder_of(name) / "kept" / f"{step:08d}.safetensors")
        models[step] = trainee.plm()
    return models


def labeled(data):
    "Training and held-out domains of which the table knows all eight states"
    parts, table = held_out(data), pd.read_csv(data / "ss" / "s20_dssp_joined.tsv", sep="\t")
    eight = set(table[table.alphabet == "DSSP8"].domain)
    known = {p.id: p for p in proteins(data) if p.dssp and p.id in eight}
    return ([known[p.id] for p in part if p.id in known] for part in (parts.train, [*parts.valid, *parts.test]))


def score(data):
    "Perplexity, Q8 and Q3 by protein, and how they go together"
    fit_on, test = labeled(data)
    print(len(fit_on), "domains to fit on,", len(test), "to score", flush=True)
    models = {(name, step): plm for name in SIZES for step, plm in stages(name).items()}
    models |= {("one-hot", 0): OneHot(), ("mini, as shipped", SHIPPED): load_plm("mini")}
    by_name = {f"{name}|{step}": m for (name, step), m in models.items()}
    rows = [
        secondary_structure(by_name, fit_on, test, states, n_residues=10_000, seed=SEED).query(f"metric == 'Q{states}'")
        for states in (8, 3)
    ]
    read = {k: m for k, m in by_name.items() if not k.startswith("one-hot")}
    rows.append(per_protein(mlm_perplexity(read, test, passes=3, seed=SEED)).assign(metric="nats"))
    wide = pd.concat(rows).pivot(index=["id", "code"], columns=["metric", "model"], values="value").reset_index()
    assert not wide.isna().any(axis=None)
    write(wide, by_name, fit_on, models)


def write(wide, names, fit_on, models):
    "The two tables: each model with its intervals, and what they say together"
    clusters, rng = wide["code"].to_numpy(), numpy_rng(SEED, "sizes")
    columns = wide.drop(columns=["id", "code"], level=0)
    drawn = resampled_means(columns.to_numpy(), clusters, R, rng)
    G, at = len(set(clusters)), {c: k for k, c in enumerate(columns.columns)}
    every = dict(zip(at, zip(columns.mean(), intervals(drawn, G))))
    rows = []
    for key, (model, step) in zip(names, models):
        plm = models[model, step]
        row = dict(model=model, step=step, weights=getattr(plm, "n_parameters", None))
        for metric in ("nats", "Q8", "Q3"):
            if (metric, key) in every:
                mean, (low, high) = every[metric, key]
                change = np.exp if metric == "nats" else float
                label = "perplexity" if metric == "nats" else metric
                row |= {label: change(mean), f"{label} low": change(low), f"{label} high": change(high)}
        rows.append(row)
    table = pd.DataFrame(rows)
    table["weights"] = table.weights.astype("Int64")
    finals = [f"{name}|{STEPS}" for name in SIZES]
    kept = [f"{name}|{step}" for name in SIZES for step in KEPT]
    point = columns.mean().to_numpy()
    relation = []

    def add(what, function):
        values = np.array([function(v) for v in drawn])
        ((low, high),) = intervals(values[:, None], G)
        relation.append(dict(what=what, value=function(point), low=low, high=high))

    for a, b in combinations(finals, 2):
        for metric, sign in (("nats", "log perplexity"), ("Q8", "Q8"), ("Q3", "Q3")):
            i, j = at[metric, a], at[metric, b]
            add(f"{sign}: {b.split('|')[0]} less {a.split('|')[0]}", lambda v, i=i, j=j: v[j] - v[i])
    for metric in ("Q8", "Q3"):
        for name in SIZES:
            i, j = at[metric, f"{name}|0"], at[metric, f"{name}|{STEPS}"]
            add(f"{metric} by training: {name}", lambda v, i=i, j=j: v[j] - v[i])
        for a, b in combinations(SIZES, 2):
            i, j = ([at[metric, f"{name}|{step}"] for step in (0, STEPS)] for name in (a, b))
            add(f"{metric} by training: {b} less {a}", lambda v, i=i, j=j: (v[j[1]] - v[j[0]]) - (v[i[1]] - v[i[0]]))
        x, y = ([at[m, key] for key in kept] for m in ("nats", metric))
        add(f"rank correlation of perplexity and {metric}, nine kept models", lambda v, x=x, y=y: ranks(v[x], v[y]))
    relation = pd.DataFrame(relation)
    print(table.round(3).to_string(), "\n", relation.round(3).to_string())
    for name, t in (("sizes", table), ("sizes_relation", relation)):
        with whole_file(OUT / f"{name}.csv") as f:
            t.to_csv(f, index=False, float_format="%.5g")
    about = dict(command="python benchmarks/sizes.py train; python benchmarks/sizes.py score", seed=SEED, sizes=SIZES)
    about |= dict(training=TRAINING, fitted_on=len(fit_on), scored=len(wide), superfamilies=G, resamples=R)
    write_json(OUT / "sizes.json", provenance("cpu", **about))


def ranks(x, y):
    return np.corrcoef(rankdata(x), rankdata(y))[0, 1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "score"))
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    args = parser.parse_args()
    {"train": train, "score": score}[args.what](args.data)
