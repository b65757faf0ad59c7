"""Does removing a category that a task does not need leave the task alone? Three masks, every task, asked of the same proteins.

    python benchmarks/mask_by_task.py ../shared/data [--plm mini] [--only homology]
    python benchmarks/mask_by_task.py ../shared/data --plm antiberty/trained_models/AntiBERTy_md_smooth

For `mini` the masks are the study's runs of class 1 and of helix residues (`python benchmarks/study.py run`, rows 1 and 4), for `toy` runs of 300 steps that are trained here; and, of each model, a
random mask of as many zeros as that of class 1. Proteins are held out of both runs. A row says how a task's score changes under a mask, as a mean over proteins (assays, targets)
with an interval over superfamilies: nbs/results/mask_by_task.csv. Better is higher in all of them but perplexity, which is in nats, and the errors of the lasso.

A folder with AntiBERTy is asked of antibodies: its masks are those of light chains and of CDR residues, and the random one has as many zeros as the first
(`python benchmarks/antibodies.py run ../shared/data --row 1`, and `--row 5`). Tasks are asked of heavy and of light chains apart, of test; intervals are
over clusters. Rows of models that are not named stay in the table as they are."""

import argparse
import time
from pathlib import Path

import antibodies
import pandas as pd
import torch
from study import RUNS, TABLE, job_folder, prepare, proteins
from transfer import located
from variants import read_scans
from what_is_lost import chains

from plmsub.app.sweep import read_jobs
from plmsub.base.files import whole_file, write_json
from plmsub.base.runs import provenance
from plmsub.comparison import compare
from plmsub.controls import random_mask
from plmsub.io.cath import read_domains
from plmsub.models.weights import load_plm
from plmsub.splits import split
from plmsub.subnetwork import Subnetwork, load_mask
from plmsub.tasks.contacts import contact_precision
from plmsub.tasks.fine_tuning import TuneConfig
from plmsub.tasks.homology import neighbor_purity, remote_homology
from plmsub.tasks.language_model import mlm_perplexity
from plmsub.tasks.properties import lasso_proteins, protein_targets
from plmsub.tasks.secondary import cross_validate, secondary_structure
from plmsub.tasks.transfer import label_prediction
from plmsub.tasks.variants import METHODS, rank_correlation, zero_shot
from plmsub.train import TrainConfig, fit, load_run

RESULT, SEED, N_TEST = Path("nbs/results/mask_by_task.csv"), 0, 600
PROPERTIES = ["fraction helix", "fraction strand", "hydrophobicity", "isoelectric_point_pH"]
KEPT = {  # task -> the metric that stands for it
    "language model": None,
    "secondary structure": "Q3",
    "homology": "Hit-10, superfamily",
    "contacts": "P@L",
}


def runs_of(name, plm, domains):
    "The two runs, and the split that both were held to"
    if name == "toy":
        parts = split(domains, by="superfamily", seed=SEED)
        return [
            fit(plm, parts, word, TrainConfig(), f"runs/mask_by_task/{word}", mmseqs=False) for word in ("1", "helix")
        ], parts
    jobs = read_jobs(TABLE)
    found = []
    for job in (jobs[0], jobs[3]):
        asked = prepare(job, domains, plm.n_layers)
        found.append((load_run(job_folder(job, plm, asked, RUNS), plm), asked.parts))
    held = {p.id for p in found[1][1].test}
    one = found[0][1]
    return [r for r, _ in found], type(one)(one.train, one.valid, [p for p in one.test if p.id in held])


def tasks(name, models, parts, data, domains):
    "Name -> a function that gives the rows of a task"
    test = parts.test[:N_TEST]
    known = [[d for d in part if d.dssp] for part in (parts.train, parts.test)]

    def contacts():
        some, maps = chains(data, domains)
        return cross_validate(contact_precision, models, some, "superfamily", contacts=maps, probe="attention")

    found = {
        "language model": lambda: mlm_perplexity(models, test, passes=1),
        "secondary structure": lambda: secondary_structure(models, *known, seed=SEED),
        "homology": lambda: remote_homology(models, test),
        "properties": lambda: lasso_proteins(models, test[::2], protein_targets(test[::2])[PROPERTIES]),
    }
    if name != "toy":
        found["contacts"] = contacts
    found["mutations"] = lambda: rank_correlation(zero_shot(models, read_scans(data), METHODS[0]))
    found["localization"] = lambda: label_prediction(models, located(data), config=TuneConfig(tune="head"))
    return found


def antibody_models(plm):
    "AntiBERTy, without light chains, without CDR residues, and without as many random weights as the first"
    jobs = {name: antibodies.Job(name) for name in ("light", "CDR")}
    masks = {name: load_mask(antibodies.folder_of(job) / "last.safetensors", plm) for name, job in jobs.items()}
    masks["random"] = random_mask(masks["light"])
    return {"full": plm} | {name: Subnetwork(plm, mask) for name, mask in masks.items()}


def antibody_tasks(models, data):
    "Name -> a function that gives the rows of a task, of chains that no run has seen"
    _, parts = antibodies.chains(data)
    test, head = parts.test, TuneConfig(tune="head", seed=SEED)
    found = {
        "chain type": lambda: label_prediction(models, test, "chain", head, by="cluster", seed=SEED),
        "origin": lambda: label_prediction(
            models, [p for p in test if p.labels["origin"]], "origin", head, by="cluster", seed=SEED
        ),
    }
    for side in ("heavy", "light"):
        own = [p for p in test if (p.labels["chain"] == "heavy") == (side == "heavy")]

        def properties(own=own):
            targets = protein_targets(own)[PROPERTIES[2:]]
            return lasso_proteins(models, own, targets, [p.labels["cluster"] for p in own], seed=SEED)

        found |= {
            f"language model, {side} chains": lambda own=own: mlm_perplexity(models, own, passes=1),
            f"nearest of its cluster, {side} chains": lambda own=own: neighbor_purity(models, own, ("cluster",)),
            f"properties, {side} chains": properties,
        }
    return {name: lambda ask=ask: antibodies.with_clusters(ask(), test) for name, ask in found.items()}


def changes(task, rows):
    "Change of the score under every mask, with its interval; all proteins together"
    table = compare(rows, None, subnetwork=None)
    table = table[~table.model.isin(["full", "unigram"])]
    if (metric := KEPT.get(task)) and (table.metric == metric).any():
        table = table[table.metric == metric]
    columns = dict(value_all="value", D="change", D_low="low", D_high="high", n_all="n", clusters_all="clusters")
    table = table.rename(columns={"task": "what"} | columns)
    return table[["what", "metric", "model", *columns.values()]].assign(task=task)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("--plm", nargs="+", default=["mini", "toy"])
    parser.add_argument("--only", nargs="*", default=[])
    flags = parser.parse_args()
    torch.set_num_threads(1)
    known = pd.read_csv(RESULT) if RESULT.exists() else pd.DataFrame(columns=["plm", "task"])
    for folder in flags.plm:
        name, plm = Path(folder).name.partition("_")[0], load_plm(folder)
        if name == "AntiBERTy":
            asked = antibody_tasks(antibody_models(plm), flags.data)
        else:
            domains = read_domains("toy") if name == "toy" else proteins(flags.data)
            (one, helix), parts = runs_of(name, plm, domains)
            models = {"full": plm, "class 1": one.subnetwork, "helix": helix.subnetwork}
            asked = tasks(name, models | {"random": one.controls(1)["random"][0]}, parts, flags.data, domains)
        for task, ask in asked.items():
            if flags.only and task not in flags.only:
                continue
            start = time.process_time()
            table = changes(task, ask()).assign(plm=name)
            print(f"{name}, {task}: {time.process_time() - start:.0f} CPU s\n{table.to_string()}", flush=True)
            known = pd.concat([known[(known.plm != name) | (known.task != task)], table])
            with whole_file(RESULT) as f:
                known.to_csv(f, index=False, float_format="%.5g")
    about = dict(command="python benchmarks/mask_by_task.py ../shared/data", seed=SEED, test_proteins=N_TEST)
    write_json(RESULT.with_suffix(".json"), provenance("cpu", models=sorted({*known.plm}), **about))
