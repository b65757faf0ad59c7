"""Do the proteins of two species lie beside their orthologs, or beside their own kind? E. coli and yeast, before and after the training of `mini`.

    python benchmarks/orthologs.py ../shared/data    # about 5 minutes on two cores; needs MMseqs2

Pairs are reciprocal best hits of the two reference proteomes (`reciprocal_best_hits`), of proteins of 50 to 600 residues: no database of orthologs says so.
Compared are `mini`, the same model with random weights (three draws), and amino-acid composition. Rows go to nbs/results/orthologs.csv: purity of the nearest
neighbor by group and by species, beside shuffled labels; and whether the mean step from one species to the other leads to the partner."""

import argparse
from pathlib import Path

import pandas as pd

from plmsub.base.files import whole_file, write_json
from plmsub.base.intervals import intervals, resampled_means
from plmsub.base.runs import provenance
from plmsub.base.seeds import numpy_rng
from plmsub.io.headers import read_proteins
from plmsub.models.embed import OneHot
from plmsub.models.weights import load_plm
from plmsub.tasks.homology import neighbor_purity, ortholog_translation, orthologs_of

SPECIES = {"E. coli": "UP000000625_83333.fasta", "yeast": "UP000002311_559292.fasta"}
PAIRS, SEED, DRAWS, R, OUT = 250, 0, 3, 5_000, Path("nbs/results")


def proteome(data, name):
    "Proteins of 50 to 600 residues, under their accessions"
    read = read_proteins(data / "corpus" / SPECIES[name], header="uniprot", skipped=[])
    return [p for p in read if 50 <= len(p) <= 600]


def summary(rows, group_of):
    "Means by model and metric with intervals from resampled groups"
    out = []
    for (task, metric, model), own in rows.groupby(["task", "metric", "model"], sort=False):
        clusters = own["id"].map(group_of).to_numpy()
        drawn = resampled_means(own[["value"]].to_numpy(), clusters, R, numpy_rng(SEED, "orthologs", metric, model))
        ((low, high),) = intervals(drawn, len(set(clusters)))
        about = dict(task=task, metric=metric, model=model, value=own.value.mean(), low=low, high=high)
        out.append(about | dict(proteins=own["id"].nunique(), groups=len(set(clusters))))
    return pd.DataFrame(out)


def main(data):
    species = {name: proteome(data, name) for name in SPECIES}
    proteins = orthologs_of(species)
    groups = sorted({p.labels["group"] for p in proteins})
    print(f"{len(groups)} pairs", flush=True)
    kept = {groups[k] for k in numpy_rng(SEED, "drawn pairs").permutation(len(groups))[:PAIRS]}
    proteins = [p for p in proteins if p.labels["group"] in kept]
    plm = load_plm("mini")
    models = {"mini": plm, "random weights": [plm.untrained(s) for s in range(DRAWS)], "amino acids": OneHot()}
    group_of, rows = {p.id: p.labels["group"] for p in proteins}, []
    for m in ("cosine", "l2"):
        rows.append(neighbor_purity(models, proteins, seed=SEED, metric=m).assign(task=m))
        moved = ortholog_translation(models, proteins, axes=("species",), metric=m)
        rows.append(moved.assign(task=m))
    table = summary(pd.concat(rows), group_of)
    print(table.round(3).to_string(), flush=True)
    with whole_file(OUT / "orthologs.csv") as f:
        table.to_csv(f, index=False, float_format="%.3f")
    about = dict(command="python benchmarks/orthologs.py ../shared/data", seed=SEED, model=plm.fingerprint, resamples=R)
    about |= dict(random_weights=DRAWS)
    about |= dict(proteins={k: len(v) for k, v in species.items()}, pairs=len(groups), drawn=len(kept))
    write_json(OUT / "orthologs.json", provenance("cpu", **about))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    main(parser.parse_args().data)
