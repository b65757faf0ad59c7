"""Does a better language model read secondary structure better? Three sizes of `mini`, trained equally long, each from three seeds.

    python benchmarks/sizes.py train ../shared/data [--seed 0]    # about 10 minutes a seed on one core; can be stopped, and seeds trained at once
    python benchmarks/sizes.py score ../shared/data               # about 15 minutes

With one seed, all sizes see the same residues of the CATH domains that `mini` was trained on, in the same order, with the same settings. Kept are the models
after a quarter, a half and all of the steps. Perplexity, Q8 and Q3 are of the same held-out domains of known secondary structure (other superfamilies);
probes are fitted on training domains, and also of each size before any training. A score is the mean over seeds, with an interval over superfamilies. Rows go
to nbs/results/sizes.csv, each seed's to nbs/results/sizes_seeds.csv, what they say together to nbs/results/sizes_relation.csv."""

import argparse
import shutil
from itertools import combinations, product
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

OUT, RUNS, SEEDS, R = Path("nbs/results"), Path("runs/sizes"), (0, 1, 2), 10_000
SIZES = {"2 layers of 64": (2, 64, 2), "4 layers of 96": (4, 96, 3), "6 layers of 128": (6, 128, 4)}
STEPS, KEPT, SHIPPED = 640, (160, 320, 640), 7000  # the last: steps of mini as it is shipped
TRAINING = dict(steps=STEPS, batch_tokens=4096, max_residues=512, mask_fraction=0.3, learning_rate=2e-3)
TRAINING |= dict(warmup_steps=50, local_start=True, precision="float32", checkpoint_every=160, valid_every=160)


def folder_of(name, seed):
    return RUNS / f"{name.replace(' ', '_')}-{seed}"


def config_of(name, seed):
    layers, width, heads = SIZES[name]
    return PretrainConfig(name=name, n_layers=layers, dim=width, n_heads=heads, seed=seed, **TRAINING)


def train(data, seeds):
    "Pretrain the three sizes; the checkpoints that are wanted are kept aside"
    parts = held_out(data)
    sequences, valid = ([p.sequence for p in of_length(part)] for part in (parts.train, parts.valid))
    for seed, name in product(seeds, SIZES):
        folder = folder_of(name, seed)

        def keep(step, folder=folder, name=name):
            if step in KEPT and (file := checkpoint_file(folder, step)).exists():
                (folder / "kept").mkdir(exist_ok=True)
                shutil.copy(file, folder / "kept")

        plm = pretrain(sequences, config_of(name, seed), folder, valid=valid, on_step=keep)
        print(plm, flush=True)


def kept(name, step):
    "A size after some steps, of each seed"
    models = []
    for seed in SEEDS:
        trainee = Trainee(config_of(name, seed), torch.device("cpu"))
        load_checkpoint(trainee, folder_of(name, seed) / "kept" / f"{step:08d}.safetensors")
        models.append(trainee.plm())
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
    models = {(name, step): kept(name, step) for name in SIZES for step in KEPT}
    models |= {(name, 0): [models[name, STEPS][0].untrained(seed) for seed in SEEDS] for name in SIZES}
    models |= {("one-hot", 0): [OneHot()], ("mini, as shipped", SHIPPED): [load_plm("mini")]}
    by_name = {f"{name}|{step}": m for (name, step), m in models.items()}
    rows = secondary_structure(by_name, fit_on, test, (8, 3), n_residues=10_000, seed=0).query("metric in ('Q8', 'Q3')")
    read = {k: m for k, m in by_name.items() if not k.startswith("one-hot")}
    losses = per_protein(mlm_perplexity(read, test, passes=3, seed=0)).assign(metric="nats")
    rows = pd.concat([rows, losses])
    each = rows.groupby(["metric", "model", "draw"], sort=False).value.mean()
    wide = rows.pivot_table("value", ["id", "code"], ["metric", "model"]).reset_index()  # a mean over seeds
    assert not wide.isna().any(axis=None)
    write(wide, each, models, len(fit_on))


def rows_of(each, every, models):
    "Table of each model with its intervals, and of each seed"
    rows, seeds = [], []
    for (model, step), draws in models.items():
        row = dict(model=model, step=step, weights=getattr(draws[0], "n_parameters", None), seeds=len(draws))
        for metric, label, change in (("nats", "perplexity", np.exp), ("Q8", "Q8", float), ("Q3", "Q3", float)):
            if (key := (metric, f"{model}|{step}")) in every:
                mean, (low, high) = every[key]
                row |= {label: change(mean), f"{label} low": change(low), f"{label} high": change(high)}
                seeds += [
                    dict(model=model, step=step, metric=label, seed=s, value=change(v)) for s, v in each[key].items()
                ]
        rows.append(row)
    return pd.DataFrame(rows).astype({"weights": "Int64"}), pd.DataFrame(seeds)


def relation_of(columns, drawn, G):
    "Differences between sizes, what training adds, and rank correlations"
    at, point, found = {c: k for k, c in enumerate(columns.columns)}, columns.mean().to_numpy(), []

    def add(what, function):
        ((low, high),) = intervals(np.array([function(v) for v in drawn])[:, None], G)
        found.append(dict(what=what, value=function(point), low=low, high=high))

    def difference(metric, a, b):
        i, j = at[metric, a], at[metric, b]
        return lambda v: v[j] - v[i]

    for a, b in combinations(SIZES, 2):
        for metric, label in (("nats", "log perplexity"), ("Q8", "Q8"), ("Q3", "Q3")):
            add(f"{label}: {b} less {a}", difference(metric, f"{a}|{STEPS}", f"{b}|{STEPS}"))
    gain = {(m, name): difference(m, f"{name}|0", f"{name}|{STEPS}") for m in ("Q8", "Q3") for name in SIZES}
    for (metric, name), function in gain.items():
        add(f"{metric} by training: {name}", function)
    for metric, (a, b) in product(("Q8", "Q3"), combinations(SIZES, 2)):
        more, less = gain[metric, b], gain[metric, a]
        add(f"{metric} by training: {b} less {a}", lambda v, more=more, less=less: more(v) - less(v))
    kept = [f"{name}|{step}" for name in SIZES for step in KEPT]
    for metric in ("Q8", "Q3"):
        x, y = ([at[m, key] for key in kept] for m in ("nats", metric))
        add(f"rank correlation of perplexity and {metric}, nine kept models", lambda v, x=x, y=y: ranks(v[x], v[y]))
    return pd.DataFrame(found)


def write(wide, each, models, n_fitted):
    "The three tables"
    columns, clusters = wide.drop(columns=["id", "code"], level=0), wide["code"].to_numpy()
    G = len(set(clusters))
    drawn = resampled_means(columns.to_numpy(), clusters, R, numpy_rng(0, "sizes"))
    every = dict(zip(columns.columns, zip(columns.mean(), intervals(drawn, G))))
    table, seeds = rows_of(each, every, models)
    relation = relation_of(columns, drawn, G)
    print(table.round(3).to_string(), "\n", relation.round(3).to_string())
    for name, t in dict(sizes=table, sizes_seeds=seeds, sizes_relation=relation).items():
        with whole_file(OUT / f"{name}.csv") as f:
            t.to_csv(f, index=False, float_format="%.5g")
    about = dict(command="python benchmarks/sizes.py train; python benchmarks/sizes.py score", seeds=SEEDS, sizes=SIZES)
    about |= dict(training=TRAINING, fitted_on=n_fitted, scored=len(wide), superfamilies=G, resamples=R)
    write_json(OUT / "sizes.json", provenance("cpu", **about))


def ranks(x, y):
    return np.corrcoef(rankdata(x), rankdata(y))[0, 1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "score"))
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("--seed", type=int, nargs="+", default=SEEDS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    train(args.data, args.seed) if args.what == "train" else score(args.data)
