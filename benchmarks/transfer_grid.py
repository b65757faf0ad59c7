"""Which layer, which compression, which model, how much data? Transfer to mutational scans and to properties of domains, after Vieira, Handojo and Wilke.

    python benchmarks/transfer_grid.py            # vectors and lasso 11 CPU-minutes, LoRA 30; goes on where it was stopped

Seven deep mutational scans (up to 400 variants of each, positions held out) and six properties of 400 CATH domains (superfamilies held out). Three fifths
are for training, two fifths are predicted; shares of the training part are nested. `lasso` is LassoCV on saved vectors: 30 penalties, five folds. `lora`
trains adapters of rank 4 on the same samples, each run with the same number of residues. Control: shuffled training values.

Every row is written to runs/transfer when it is known; nbs/results/transfer/ gets the tables."""

import argparse
import time
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from mini import held_out
from study import proteins
from variants import read_scans

from plmsub.base.errors import DataError
from plmsub.base.files import shared_dir, whole_file, write_json
from plmsub.base.runs import provenance
from plmsub.base.seeds import numpy_rng
from plmsub.models.baselines import NgramStates, ngram_model, tuned_alpha
from plmsub.models.embed import OneHot, _states, compress
from plmsub.models.weights import load_plm
from plmsub.proteins import Protein, node
from plmsub.splits import deal
from plmsub.tasks.fine_tuning import TuneConfig, fine_tune
from plmsub.tasks.properties import lasso_fit, number_intervals, protein_targets

SHARES = (0.05, 0.1, 0.25, 0.5, 1.0)  # of the training part
COMPRESSIONS = ("mean", "max", "bos", "idct 5x44", "pca 1", "rbf 1")
PROPERTIES = "molecular_weight_Da isoelectric_point_pH hydrophobicity instability".split()
PROPERTIES += ["fraction helix", "fraction strand"]
N, SEED, N_BOOT, ROUNDS = 400, 0, 500, 100  # samples; resamples; rounds of coordinate descent
BUDGET = 15_000  # residues that a LoRA run trains on
LORA = dict(batch=2, learning_rate=3e-3, head_learning_rate=1e-2)  # found on valid of two targets, with the toy
WORK, OUT = Path("runs/transfer"), Path("nbs/results/transfer")
NO_START = "no start token: the state there is 0"
NOT_RUN = "not run: transfer_grid.py --parts lora goes on here"
NO_KERNEL = "no component: the states are too far apart for the radial kernel, which is the identity"


@dataclass(frozen=True)
class Task:
    "Samples of one kind, and what is to be predicted"

    name: str
    proteins: list  # n of them
    groups: np.ndarray  # (n,) what is held out and drawn together
    values: dict  # target -> (n,)
    train: np.ndarray  # rows in the order in which shares take them
    test: np.ndarray  # rows


def task(name, proteins, groups, values):
    "Two of five folds are tested"
    test = deal(groups, 5, SEED) < 2
    train = numpy_rng(SEED, "share", name).permutation(np.flatnonzero(~test))
    return Task(name, proteins, np.asarray([str(g) for g in groups]), values, train, np.flatnonzero(test))


def tasks(data):
    "The scans and the domains"
    found = []
    for name, scan in read_scans(data).items():
        scan = scan[(scan.substitutions > 0) & scan.target.notna()]
        rows = sorted(numpy_rng(SEED, "sample", name).permutation(len(scan))[:N])
        scan = scan.iloc[rows]
        variants = [Protein(m, s) for m, s in zip(scan.mutant, scan.sequence)]
        found.append(task(name, variants, scan.positions, {name: scan.target.to_numpy(float)}))
    known = [d for d in proteins(data) if d.dssp]
    some = [known[i] for i in sorted(numpy_rng(SEED, "sample", "domains").permutation(len(known))[:N])]
    targets = protein_targets(some)
    values = {t: targets[t].to_numpy(float) for t in PROPERTIES}
    return [*found, task("domains", some, [node(d.code, "superfamily") for d in some], values)]


def models(data):
    "Name -> model, its number of parameters"
    parts = held_out(data)
    train, valid = ([p.sequence for p in part] for part in (parts.train, parts.valid))
    ngram = ngram_model(train, 3, tuned_alpha(train, valid, 3, "both sides")[0])
    toy, mini = load_plm("toy"), load_plm("mini")
    of = {"composition": (OneHot(), 0), "3-gram": (NgramStates(ngram), sum(map(len, ngram.counts)))}
    of |= {m.name: (m, m.n_parameters) for m in (toy, mini)}
    return of


class Rows:
    "A table on disk that grows row by row"

    def __init__(self, name, keys):
        self.path, self.keys = WORK / f"{name}.csv", keys
        WORK.mkdir(parents=True, exist_ok=True)
        old = pd.read_csv(self.path, keep_default_na=False) if self.path.exists() else pd.DataFrame(columns=keys)
        self.known = {tuple(map(str, row)) for row in old[keys].itertuples(index=False)}

    def __contains__(self, key):
        return tuple(map(str, key)) in self.known

    def add(self, row):
        "Write a row at once"
        pd.DataFrame([row]).to_csv(self.path, mode="a", header=not self.path.exists(), index=False)
        self.known.add(tuple(str(row[k]) for k in self.keys))


COLUMNS = "model layer compression target share n_train n_test R2 R2_low R2_high rho rho_low rho_high used seconds note"


def row_of(about, truth, predicted, groups, **more):
    "One row of the table"
    s = number_intervals(truth, predicted, groups, N_BOOT, SEED).set_index("metric")
    scores = {}
    for name, metric in (("R2", "R2"), ("rho", "Spearman")):
        value, low, high = (round(float(x), 4) for x in s.loc[metric, ["value", "low", "high"]])
        scores |= {name: value, f"{name}_low": low, f"{name}_high": high}
    row = dict.fromkeys(COLUMNS.split(), "") | about | scores | more
    return row | dict(n_test=len(truth))


def compressed(model, proteins, methods):
    "(layer, compression) -> (n,M), or why there is none"
    found = {(k, m): [None] * len(proteins) for k in range(model.n_layers + 1) for m in methods}
    for i, first, states in _states(model, proteins, range(model.n_layers + 1)):
        for k, m in found:
            if isinstance(found[k, m], list):
                try:
                    found[k, m][i] = compress(states[k], m, first[k])
                except DataError:
                    found[k, m] = NO_KERNEL
    return {key: np.stack(x) if isinstance(x, list) else np.array(x) for key, x in found.items()}


def vectors(name, model, t, methods):
    "(layer, compression) -> (n,M) or a reason, from disk where they are"
    path = WORK / f"{name}_{t.name}.npz".replace(" ", "_")
    if not path.exists():
        start = time.process_time()
        found = compressed(model, t.proteins, methods)
        with whole_file(path) as f:
            with open(f, "wb") as out:
                np.savez(out, **{f"{k}|{m}": x for (k, m), x in found.items()})
        print(f"{name} {t.name}: vectors {time.process_time() - start:.0f} s", flush=True)
    with np.load(path) as stored:
        return {(int(k.split("|")[0]), k.split("|")[1]): stored[k] for k in stored.files}


def fitted(X, y, t, train):
    "Predictions for the test part, and the fit"
    folds = deal(t.groups[train], min(5, len(set(t.groups[train]))), SEED)
    fit = lasso_fit(X[train].astype(float), y[train], np.unique(folds, return_inverse=True)[1], max_iter=ROUNDS)
    return fit.predict(X[t.test]), fit


def lassos(rows, name, model, t, methods, shares, shuffled=()):
    "All cells of one model and one set of samples"
    for (layer, method), X in vectors(name, model, t, methods).items():
        if shuffled and method not in shuffled:
            continue
        for target, y in t.values.items():
            if shuffled:
                y = y.copy()
                y[t.train] = y[numpy_rng(SEED, "shuffled", target).permutation(t.train)]
            for share in shares:
                if (name, layer, method, target, share) in rows:
                    continue
                train = t.train[: round(share * len(t.train))]
                about = dict(model=name, layer=layer, compression=method, target=target, share=share)
                about["n_train"] = len(train)
                why = (
                    NO_START if method == "bos" and name in ("composition", "3-gram") else str(X) if X.ndim == 0 else ""
                )
                if why:
                    rows.add(dict.fromkeys(COLUMNS.split(), "") | about | dict(n_test=len(t.test), note=why))
                    continue
                start = time.process_time()
                predicted, fit = fitted(X, y, t, train)
                more = dict(used=np.count_nonzero(fit.coefficients), seconds=round(time.process_time() - start, 3))
                rows.add(row_of(about, y[t.test], predicted, t.groups[t.test], **more))


def until(order, proteins, residues):
    "As many rows as have so many residues, at least five"
    total = np.cumsum([len(proteins[i]) for i in order])
    return order[: max(5, int(np.searchsorted(total, residues, side="right")))]


def lora(rows, name, model, t, budget, shares):
    "LoRA on the same samples; a fifth of them says which epoch is kept"
    for target, y in t.values.items():
        named = [replace(p, labels=p.labels | {"y": float(v)}) for p, v in zip(t.proteins, y)]
        for share in shares:
            if (name, "lora", "mean", target, share) in rows:
                continue
            chosen = t.train[: round(share * len(t.train))]
            folds = deal(t.groups[chosen], min(5, len(set(t.groups[chosen]))), SEED)
            train, valid = until(chosen[folds != 0], t.proteins, budget), chosen[folds == 0]
            each = sum(len(t.proteins[i]) for i in train)
            epochs = max(1, round(budget / each))
            config = TuneConfig("lora", "number", epochs=epochs, patience=epochs, seed=SEED, **LORA)
            start = time.process_time()
            tuned = fine_tune(model, [named[i] for i in train], [named[i] for i in valid], "y", config)
            predicted = tuned.predict([t.proteins[i] for i in t.test]).predicted.to_numpy(float)
            about = dict(model=name, layer="lora", compression="mean", target=target, share=share, n_train=len(chosen))
            kept = int(tuned.log.epoch[tuned.log.kept].item())
            more = dict(
                used=each * epochs, seconds=round(time.process_time() - start, 2), note=f"epoch {kept} of {epochs}"
            )
            rows.add(row_of(about, y[t.test], predicted, t.groups[t.test], **more))
            print(name, target, share, more, rows.path.name, flush=True)


def with_missing(table, of_target):
    "The cells of LoRA that were not run, marked"
    have = {*zip(table.model, table.target, table.share)}
    rows = [
        dict.fromkeys(COLUMNS.split(), "")
        | dict(model=m, layer="lora", compression="mean", target=target, share=s, note=NOT_RUN)
        for m, target, s in product(("toy", "mini"), of_target, SHARES)
        if (m, target, s) not in have
    ]
    return pd.concat([table, pd.DataFrame(rows, columns=COLUMNS.split())], ignore_index=True)


def write(known):
    "The tables of the page"
    OUT.mkdir(parents=True, exist_ok=True)
    minutes = {}
    of_target = {target: t.name for t in known for target in t.values}
    for path in sorted(WORK.glob("*.csv")):
        table = pd.read_csv(path, keep_default_na=False)
        minutes[path.stem] = round(pd.to_numeric(table.seconds, errors="coerce").sum() / 60, 2)
        table = with_missing(table, of_target) if path.stem == "lora" else table
        assert not table.duplicated(["model", "layer", "compression", "target", "share"]).any(), path
        kind = table.target.map(of_target).where(lambda s: s == "domains", "scans")
        table.insert(3, "kind", kind)
        ending = "csv.gz" if path.stem == "grid" else "csv"
        with whole_file(OUT / f"{path.stem}.{ending}") as f:
            packed = dict(method="gzip", mtime=0) if ending == "csv.gz" else None
            table.to_csv(f, index=False, compression=packed)
    sizes = pd.DataFrame(
        [
            dict(target=target, samples=t.name, n=len(t.proteins), residues=sum(len(p) for p in t.proteins))
            | dict(groups=len(set(t.groups)), n_train=len(t.train), n_test=len(t.test))
            | dict(test_groups=len(set(t.groups[t.test])), mean=round(y.mean(), 4), sd=round(y.std(), 4))
            for t in known
            for target, y in t.values.items()
        ]
    )
    with whole_file(OUT / "targets.csv") as f:
        sizes.to_csv(f, index=False)
    about = dict(
        command="python benchmarks/transfer_grid.py", threads=torch.get_num_threads(), cpu_minutes_of_fits=minutes
    )
    about |= dict(budget_residues=BUDGET, samples=N, shares=SHARES, compressions=COMPRESSIONS, n_boot=N_BOOT, seed=SEED)
    write_json(OUT / "transfer.json", provenance("cpu", **about, max_iter=ROUNDS, lora=LORA))


def main(parts):
    torch.set_num_threads(1)
    data = shared_dir()
    known, keys = tasks(data), ["model", "layer", "compression", "target", "share"]
    of = models(data)
    sizes = pd.DataFrame([dict(model=n, parameters=k, layers=m.n_layers, dim=m.dim) for n, (m, k) in of.items()])
    for part in parts:
        start, rows = time.process_time(), Rows(part, keys)
        if part == "lora":  # whole shares one after the other, so that what is there can be compared
            short = sorted(known, key=lambda t: (t.name != "domains", len(t.proteins[0])))
            for share, name, t in product((1.0, 0.25, 0.05, 0.5, 0.1), ("toy", "mini"), short):
                lora(rows, name, of[name][0], t, BUDGET, (share,))
        for (name, (model, _)), t in product(of.items(), known):
            if part == "grid":
                lassos(rows, name, model, t, COMPRESSIONS, SHARES)
            elif part == "shuffled":
                lassos(rows, name, model, t, COMPRESSIONS, (1.0,), shuffled=("mean",))
        print(part, f"{(time.process_time() - start) / 60:.1f} min", flush=True)
    write(known)
    with whole_file(OUT / "models.csv") as f:
        sizes.to_csv(f, index=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = ("grid", "shuffled", "lora")
    parser.add_argument("--parts", nargs="*", default=every, choices=every)
    main(parser.parse_args().parts)
