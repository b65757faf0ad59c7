"""Does removing a category that a task does not need leave the task alone? Three masks, every task, asked of the same proteins.

    python benchmarks/mask_by_task.py ../shared/data [--plm mini] [--only homology]

For `mini` the masks are the study's runs of class 1 and of helix residues (`python benchmarks/study.py run`, rows 1 and 4), for `toy` runs of 300 steps that are trained here; and, of each model, a
random mask of as many zeros as that of class 1. Proteins are held out of both runs. A row says how a task's score changes under a mask, as a mean over proteins (assays, targets)
with an interval over superfamilies: nbs/results/mask_by_task.csv. Better is higher in all of them but perplexity, which is in nats, and the errors of the lasso."""

import argparse
import time
from pathlib import Path

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
from plmsub.io.cath import read_domains
from plmsub.models.weights import load_plm
from plmsub.splits import split
from plmsub.tasks.contacts import contact_precision
from plmsub.tasks.fine_tuning import TuneConfig
from plmsub.tasks.homology import remote_homology
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


def changes(task, rows):
    "Change of the score under every mask, with its interval; all proteins together"
    table = compare(rows, None, subnetwork="class 1")
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
    flags, frames = parser.parse_args(), []
    torch.set_num_threads(1)
    for name in flags.plm:
        plm, domains = load_plm(name), read_domains("toy") if name == "toy" else proteins(flags.data)
        (one, helix), parts = runs_of(name, plm, domains)
        models = {
            "full": plm,
            "class 1": one.subnetwork,
            "helix": helix.subnetwork,
            "random": one.controls(1)["random"][0],
        }
        for task, ask in tasks(name, models, parts, flags.data, domains).items():
            if flags.only and task not in flags.only:
                continue
            start = time.process_time()
            table = changes(task, ask()).assign(plm=name)
            print(f"{name}, {task}: {time.process_time() - start:.0f} CPU s\n{table.to_string()}", flush=True)
            frames.append(table)
            with whole_file(RESULT) as f:
                pd.concat(frames).to_csv(f, index=False, float_format="%.5g")
    about = dict(
        command="python benchmarks/mask_by_task.py ../shared/data", models=flags.plm, seed=SEED, test_proteins=N_TEST
    )
    write_json(RESULT.with_suffix(".json"), provenance("cpu", **about))
