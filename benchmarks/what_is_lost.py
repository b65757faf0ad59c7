"""What did a mask of class 1 take from `mini`? Every task, asked of the full model, the subnetwork and its controls, on real proteins.

    python benchmarks/what_is_lost.py ../shared/data [--only secondary homology]

The run is the study's first of class 1 (`python benchmarks/study.py run`, row 1). Probes are fitted on its training part and read on its test part. A table
of `compare` for each task, and what the hold-outs share with what is fitted, go to nbs/results/what_is_lost."""

import argparse
from pathlib import Path

import pandas as pd
from study import RUNS, TABLE, job_folder, prepare, proteins
from transfer import located
from variants import read_scans

from plmsub.app.sweep import read_jobs
from plmsub.base.files import whole_file, write_json
from plmsub.base.runs import provenance
from plmsub.comparison import compare, readable
from plmsub.io.structures import read_chain
from plmsub.models.weights import load_plm
from plmsub.proteins import Domain
from plmsub.splits import folds, leakage
from plmsub.tasks.contacts import contact_precision
from plmsub.tasks.fine_tuning import TuneConfig
from plmsub.tasks.homology import remote_homology
from plmsub.tasks.properties import lasso_proteins, protein_targets
from plmsub.tasks.secondary import cross_validate, probe_baselines, secondary_structure
from plmsub.tasks.structure import contact_map
from plmsub.tasks.transfer import label_prediction
from plmsub.tasks.variants import METHODS, rank_correlation, zero_shot
from plmsub.train import load_run

RESULTS, SEED, DRAWS = Path("nbs/results/what_is_lost"), 0, 2
N_TEST = 1200  # proteins of the test part at most
PROPERTIES = [
    "fraction helix",
    "fraction strand",
    "hydrophobicity",
    "isoelectric_point_pH",
]  # that a lasso reads from mean embeddings


def chains(data, domains):
    "Real chains with backbone coordinates, under the CATH code of their domain; and their contact maps"
    folder, codes = data / "structures" / "backbone_pdb", {d.id: d.code for d in domains}
    listed = pd.read_csv(folder / "index.tsv", sep="\t").query("length >= 60").drop_duplicates("cath_domain")
    read = {
        r.cath_domain: read_chain(next(folder.glob(f"{r.chain}*")))
        for r in listed.itertuples()
        if r.cath_domain in codes
    }
    return [Domain(id, c.sequence, code=codes[id]) for id, c in read.items()], {
        id: contact_map(c) for id, c in read.items()
    }


def tasks(models, parts, data, domains):
    "Name -> a function that gives the rows of a task"
    test = parts.test[:N_TEST]
    able = {k: m for k, m in models.items() if k != "one-hot"}  # what has attention and logits

    def contacts():
        some, maps = chains(data, domains)
        return cross_validate(contact_precision, able, some, "superfamily", contacts=maps, probe="attention")

    def known(part):
        return [d for d in part if d.dssp]

    def states(fitted_on=None, hidden=False):
        asked = {k: m for k, m in models.items() if fitted_on is None or k not in ("random weights", "one-hot")}
        return secondary_structure(
            asked, known(parts.train), known(parts.test)[:: 1 + hidden], fitted_on=fitted_on, hidden=hidden, seed=SEED
        )

    return {
        "secondary": states,
        "secondary_same": lambda: states("full").assign(task="the same, probe of the full model"),
        "secondary_hidden": lambda: states("full", True).assign(task="the same, of hidden residues"),
        "homology": lambda: remote_homology(models, test),
        "contacts": contacts,
        "mutations": lambda: rank_correlation(zero_shot(able, read_scans(data), METHODS[0])),
        "localization": lambda: label_prediction(models, located(data), config=TuneConfig(tune="head")),
        "properties": lambda: lasso_proteins(models, test[::4], protein_targets(test[::4])[PROPERTIES]),
    }


def hold_outs(parts, data, domains):
    "What the test parts of the tasks share with what their probes and heads were fitted on"

    def summed(name, splits):
        table = pd.concat([leakage(p).table for p in splits]).query("part == 'test'")
        sums = table.groupby("shared", sort=False)[["proteins", "measured", "seen"]].sum().reset_index()
        return sums.assign(task=name, fraction_seen=sums.seen / sums.measured)

    fits = {
        "secondary structure": [parts],
        "contacts": folds(chains(data, domains)[0]),
        "localization": folds(located(data), by="fold"),
    }
    table = pd.concat([summed(name, splits) for name, splits in fits.items()])
    return table[["task", "shared", "proteins", "measured", "seen", "fraction_seen"]]


def main(flags):
    domains = proteins(flags.data)
    job, plm = read_jobs(TABLE)[0], load_plm("mini")
    asked = prepare(job, domains, plm.n_layers)
    run = load_run(job_folder(job, plm, asked, RUNS), plm)
    models = {"full": plm, "subnetwork": run.subnetwork, **run.controls(DRAWS), **probe_baselines(plm)}
    RESULTS.mkdir(parents=True, exist_ok=True)
    if not flags.only or "leakage" in flags.only:
        with whole_file(RESULTS / "leakage.csv") as f:
            hold_outs(asked.parts, flags.data, domains).to_csv(f, index=False, float_format="%.5g")
    for name, ask in tasks(models, asked.parts, flags.data, domains).items():
        if flags.only and name not in flags.only:
            continue
        rows = ask()
        table = compare(rows, asked.category if rows.code.notna().any() else None)
        print(readable(table).to_string(), flush=True)
        with whole_file(RESULTS / f"{name}.csv") as f:
            table.to_csv(f, index=False, float_format="%.5g")
    about = dict(
        command="python benchmarks/what_is_lost.py ../shared/data",
        model=plm.fingerprint,
        target="1",
        seed=SEED,
        draws=DRAWS,
    )
    write_json(RESULTS / "what_is_lost.json", provenance("cpu", **about))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("--only", nargs="*", default=[])
    main(parser.parse_args())
