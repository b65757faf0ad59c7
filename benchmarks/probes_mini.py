"""How well are secondary structure and contacts read from `mini`? Real domains in five folds by superfamily, topology and architecture; random weights and one-hots beside it.

    python benchmarks/probes_mini.py ../shared/data

Every fourth domain of known secondary structure, 10,000 residues to fit on; 158 chains of known structure. Means and standard deviations over folds go to
nbs/results/probes_mini.csv, and what the folds share to nbs/results/probes_mini_leakage.csv. About ten minutes on one core."""

import argparse
from pathlib import Path

import pandas as pd
from study import proteins
from what_is_lost import chains

from plmsub.base.files import whole_file, write_json
from plmsub.base.runs import provenance
from plmsub.models.weights import load_plm
from plmsub.splits import folds, leakage
from plmsub.tasks.contacts import contact_precision
from plmsub.tasks.secondary import cross_validate, over_folds, probe_baselines, secondary_structure

LEVELS, SEED, OUT = ("superfamily", "topology", "architecture"), 0, Path("nbs/results")


def eight_states(domains, data):
    "Domains of which the table knows all eight states"
    table = pd.read_csv(data / "ss" / "s20_dssp_joined.tsv", sep="\t")
    named = set(table[table.alphabet == "DSSP8"].domain)
    return [d for d in domains if d.id in named]


def folds_leakage(proteins, by, seed):
    "What the test parts of all folds share with their training parts"
    table = pd.concat([leakage(part, mmseqs=False).table for part in folds(proteins, by, seed=seed)])
    table = table.query("part == 'test' and shared != 'mmseqs'")
    sums = table.groupby("shared", sort=False)[["proteins", "seen"]].sum().reset_index()
    return sums.assign(fraction_seen=sums.seen / sums.proteins)


def main(data):
    plm = load_plm("mini")
    models, domains = {"full": plm, **probe_baselines(plm)}, proteins(data)
    able = {k: m for k, m in models.items() if k != "one-hot"}  # what has attention
    known, (some, maps) = [d for d in domains if d.dssp][::4], chains(data, domains)
    rows, shared = [], []
    for by in LEVELS:
        rows.append(cross_validate(secondary_structure, models, known, by, seed=SEED, n_residues=10_000))
        rows.append(cross_validate(contact_precision, able, some, by, seed=SEED, contacts=maps, probe="attention"))
        shared += [
            folds_leakage(ps, by, seed=SEED).assign(by=by, task=task)
            for task, ps in (("secondary structure", known), ("contacts", some))
        ]
        print(over_folds(pd.concat(rows[-2:])).round(3).to_string(), flush=True)
    rows.append(
        cross_validate(
            secondary_structure,
            models,
            eight_states(known, data),
            "superfamily",
            seed=SEED,
            n_residues=10_000,
            states=8,
        )
    )
    rows.append(cross_validate(contact_precision, models, some, "superfamily", seed=SEED, contacts=maps))
    print(over_folds(pd.concat(rows[-2:])).round(3).to_string(), flush=True)
    for name, table in (("probes_mini", over_folds(pd.concat(rows))), ("probes_mini_leakage", pd.concat(shared))):
        with whole_file(OUT / f"{name}.csv") as f:
            table.to_csv(f, index=False, float_format="%.5g")
    about = dict(
        command="python benchmarks/probes_mini.py ../shared/data",
        model=plm.fingerprint,
        seed=SEED,
        domains=len(known),
        chains=len(some),
    )
    write_json(OUT / "probes_mini.json", provenance("cpu", **about))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    main(parser.parse_args().data)
