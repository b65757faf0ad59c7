"""Which layer, which compression, which model, how much data? Transfer to mutational scans and to properties of domains, after Vieira, Handojo and Wilke.

    python benchmarks/transfer_grid.py            # vectors and lasso 22 CPU-minutes, LoRA 19; goes on where it was stopped

Seven deep mutational scans (up to 400 variants of each, positions held out) and six properties of 400 CATH domains (superfamilies held out). Three fifths
are for training, two fifths are predicted; shares of the training part are nested. `grid` is LassoCV on saved vectors: 30 penalties, five folds. `lora`
trains adapters of rank 4 on the same samples, each run with the same number of residues. `shuffled` is a control with shuffled training values; `checks`
asks whether iterations, impossible predictions and the length of a domain explain what is found for properties.

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
from plmsub.base.intervals import intervals, resampled_counts
from plmsub.base.runs import provenance
from plmsub.base.seeds import numpy_rng
from plmsub.models.baselines import NgramStates, ngram_model, tuned_alpha
from plmsub.models.embed import OneHot, _states, compress
from plmsub.models.weights import load_plm
from plmsub.proteins import Protein, node
from plmsub.splits import deal
from plmsub.tasks.fine_tuning import TuneConfig, fine_tune
from plmsub.tasks.properties import (
    lasso_fit,
    number_intervals,
    number_scores,
    protein_targets,
    resampled_r2,
    resampled_rho,
)

SHARES = (0.05, 0.1, 0.25, 0.5, 1.0)  # of the training part
COMPRESSIONS = ("mean", "max", "bos", "idct 5x44", "pca 1", "rbf 1")
PROPERTIES = "molecular_weight_Da isoelectric_point_pH hydrophobicity instability".split()
PROPERTIES += ["fraction helix", "fraction strand"]
N, SEED, N_BOOT, ROUNDS = 400, 0, 500, 1000  # samples; resamples; rounds of coordinate descent at most
TRIED = (100, ROUNDS, 10_000)  # rounds, in the part `checks`
BUDGET = 15_000  # residues that a LoRA run trains on
# by the loss on the held-back fifth, for two targets with `toy`; which two is not recorded
LORA = dict(batch=2, learning_rate=3e-3, head_learning_rate=1e-2)
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


KEYS = ["model", "layer", "compression", "target", "share", "rounds"]
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
                named = {f"{k}|{m}": x for (k, m), x in found.items()}
                np.savez(out, **named, seconds=time.process_time() - start)
    with np.load(path) as stored:
        return {(int(k.split("|")[0]), k.split("|")[1]): stored[k] for k in stored.files if "|" in k}


def fitted(X, y, t, train, rounds=ROUNDS):
    "Predictions for the test part, and the fit"
    folds = deal(t.groups[train], min(5, len(set(t.groups[train]))), SEED)
    fit = lasso_fit(X[train].astype(float), y[train], np.unique(folds, return_inverse=True)[1], max_iter=rounds)
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


def last_means(name, model, t):
    "Mean over residues of the last layer; composition also with the length as one more number"
    X = vectors(name, model, t, COMPRESSIONS)[model.n_layers, "mean"]
    longer = np.column_stack([X, [len(p) for p in t.proteins]])
    return {name: X} | ({"composition and length": longer} if name == "composition" else {})


def checks(rows, name, model, t):
    "Rounds of coordinate descent, predictions of impossible fractions, and composition told the length"
    inputs = last_means(name, model, t)
    for (named, X), (target, y), share, rounds in product(inputs.items(), t.values.items(), SHARES, TRIED):
        about = dict(model=named, layer=model.n_layers, compression="mean", target=target, share=share, rounds=rounds)
        if tuple(about.values()) in rows:
            continue
        train = t.train[: round(share * len(t.train))]
        start = time.process_time()
        predicted, fit = fitted(X, y, t, train, rounds)
        seconds = round(time.process_time() - start, 3)
        inside = np.clip(predicted, 0, 1) if target.startswith("fraction") else predicted
        held = row_of({}, y[t.test], inside, t.groups[t.test])
        more = {k.replace("R2", "R2_inside"): held[k] for k in ("R2", "R2_low", "R2_high")}
        more |= dict(impossible=(inside != predicted).sum(), n_train=len(train), seconds=seconds)
        more |= dict(used=np.count_nonzero(fit.coefficients))
        rows.add(row_of(about, y[t.test], predicted, t.groups[t.test], **more))


def beside(of, t):
    "With all training data: `mini` minus each other model, by target; and the fractions that `mini` predicts"
    inputs = {named: X for name, (model, _) in of.items() for named, X in last_means(name, model, t).items()}
    group = pd.factorize(t.groups[t.test])[0]
    drawn = resampled_counts(group.max() + 1, N_BOOT, numpy_rng(SEED, "beside"))[:, group]
    rows, shown = [], dict(domain=[t.proteins[i].id for i in t.test], hydrophobicity=t.values["hydrophobicity"][t.test])
    for target, y in t.values.items():
        truth, shift, scored = y[t.test], y[t.test].mean(), {}
        for name, X in inputs.items():
            x = fitted(X, y, t, t.train)[0]
            once, rho, held = number_scores(truth, x), resampled_rho(truth, x, drawn), np.clip(x, 0, 1)
            scored[name, "rho"] = once["Spearman"], rho
            scored[name, "R2"] = once["R2"], resampled_r2(truth - shift, x - shift, drawn)
            if target.startswith("fraction"):
                again = resampled_r2(truth - shift, held - shift, drawn)
                scored[name, "R2_inside"] = number_scores(truth, held)["R2"], again
                shown |= {target: truth, f"{target}, predicted": x} if name == "mini" else {}
        for name, score in scored:
            (mine, ways), (other, others) = scored["mini", score], scored[name, score]
            [(low, high)] = intervals((ways - others)[:, None], group.max() + 1)
            about = dict(target=target, minus=name, score=score, difference=mine - other, low=low, high=high)
            rows += [about] if name != "mini" else []
    return pd.DataFrame(rows).round(4), pd.DataFrame(shown).round(4)


def seen(data, t):
    "Number of domains in each part of the split that `mini` was trained by"
    parts = held_out(data)
    part_of = {p.id: part for part in ("train", "valid", "test") for p in getattr(parts, part)}
    of = pd.DataFrame(dict(here="train", mini=[part_of[p.id] for p in t.proteins]))
    of.loc[t.test, "here"] = "test"
    return of.groupby(["here", "mini"], sort=False).size().rename("domains").reset_index()


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
    for path in WORK.glob("*.npz"):
        with np.load(path) as stored:
            minutes["vectors"] = minutes.get("vectors", 0) + float(stored["seconds"]) / 60
    of_target = {target: t.name for t in known for target in t.values}
    for path in sorted(WORK.glob("*.csv")):
        table = pd.read_csv(path, keep_default_na=False)
        minutes[path.stem] = pd.to_numeric(table.seconds, errors="coerce").sum() / 60
        table = with_missing(table, of_target) if path.stem == "lora" else table
        assert not table.duplicated([k for k in KEYS if k in table]).any(), path
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
        command="python benchmarks/transfer_grid.py",
        threads=torch.get_num_threads(),
        cpu_minutes={k: round(m, 2) for k, m in minutes.items()},
    )
    about |= dict(budget_residues=BUDGET, samples=N, shares=SHARES, compressions=COMPRESSIONS, n_boot=N_BOOT, seed=SEED)
    write_json(OUT / "transfer.json", provenance("cpu", **about, max_iter=ROUNDS, lora=LORA))


def main(parts):
    torch.set_num_threads(1)
    data = shared_dir()
    known = tasks(data)
    of = models(data)
    sizes = pd.DataFrame([dict(model=n, parameters=k, layers=m.n_layers, dim=m.dim) for n, (m, k) in of.items()])
    for part in parts:
        start, rows = time.process_time(), Rows(part, KEYS if part == "checks" else KEYS[:-1])
        if part == "lora":  # whole shares one after the other, so that what is there can be compared
            short = sorted(known, key=lambda t: (t.name != "domains", len(t.proteins[0])))
            for share, name, t in product((1.0, 0.25, 0.05, 0.5, 0.1), ("toy", "mini"), short):
                lora(rows, name, of[name][0], t, BUDGET, (share,))
        for (name, (model, _)), t in product(of.items(), known):
            if part == "grid":
                lassos(rows, name, model, t, COMPRESSIONS, SHARES)
            elif part == "shuffled":
                lassos(rows, name, model, t, COMPRESSIONS, (1.0,), shuffled=("mean",))
            elif part == "checks" and t.name == "domains":
                checks(rows, name, model, t)
        print(part, f"{(time.process_time() - start) / 60:.1f} min", flush=True)
    write(known)
    differences, fractions = beside(of, known[-1])
    tables = dict(models=sizes, seen=seen(data, known[-1]), beside=differences, fractions=fractions)
    for file, table in tables.items():
        with whole_file(OUT / f"{file}.csv") as f:
            table.to_csv(f, index=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = ("grid", "shuffled", "checks", "lora")
    parser.add_argument("--parts", nargs="*", default=every, choices=every)
    main(parser.parse_args().parts)
