"""Does a mask that suppresses helix residues take the helices out of the representations? On the toy, where it is known what is a helix.

    python benchmarks/probes.py [--seeds 2] [--steps 300] [--runs FOLDER] [--out nbs/results/probes_toy.csv]

A mask is trained for each seed, and secondary structure is read from the last layer of the full model, of the subnetwork and of its
controls, on the test part of a split by superfamily; probes are fitted on every fourth protein of its training part. Three readings:
of residues in view by a probe fitted on each model ('own'), the same by one fitted on the full model ('full'), and this of residues that
are hidden from the model. One row per seed, reading and model; with FOLDER the runs are kept."""

import argparse
import tempfile
from pathlib import Path

import pandas as pd

from plmsub.base.files import write_json
from plmsub.base.runs import provenance
from plmsub.categories import residue_category
from plmsub.io.cath import read_domains
from plmsub.models.weights import load_plm
from plmsub.splits import split
from plmsub.tables import pooled
from plmsub.tasks.secondary import probe_baselines, secondary_structure
from plmsub.train import TrainConfig, fit

DRAWS = 2  # of the untrained and of the random masks
READINGS = (("in view", "own"), ("in view", "full"), ("hidden", "full"))


def sparsity(model):  # of the mask, draws averaged
    masks = [m.mask for m in (model if isinstance(model, list) else [model]) if hasattr(m, "mask")]
    return sum(m.sparsity for m in masks) / len(masks) if masks else None


def readings(models, parts, seed):
    "Accuracies of all models, the draws of a control together; of its draws the lowest and the highest for helices"
    for residues, probe in READINGS:
        asked = {k: m for k, m in models.items() if probe == "own" or k not in ("random weights", "one-hot")}
        rows = secondary_structure(
            asked,
            parts.train[::4],
            parts.test,
            hidden=residues == "hidden",
            fitted_on="full" if probe == "full" else None,
        )
        wide = pooled(rows).pivot(index="model", columns="metric", values="value").loc[list(asked)]
        draws = pooled(rows, ["draw"]).query("metric == 'Q3 helix'").groupby("model").value
        wide = wide.assign(helix_lowest=draws.min(), helix_highest=draws.max(), draws=draws.size())
        yield (
            wide.rename(columns=lambda c: c.lower().replace(" ", "_"))
            .reset_index()
            .assign(seed=seed, residues=residues, probe=probe)
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=TrainConfig.steps)
    parser.add_argument("--runs", type=Path, help="folder of the runs; a temporary one by default")
    parser.add_argument("--out", type=Path, default=Path("nbs/results/probes_toy.csv"))
    flags = parser.parse_args()
    plm, domains, target, tables = load_plm("toy"), read_domains("toy"), residue_category("helix"), []
    runs = flags.runs or Path(tempfile.mkdtemp())
    for seed in range(flags.seeds):
        parts = split(domains, seed=seed, category=target)
        run = fit(plm, parts, target, TrainConfig(steps=flags.steps, seed=seed), runs / str(seed))
        models = {"full": plm, "subnetwork": run.subnetwork, **run.controls(DRAWS), **probe_baselines(plm, seed)}
        del models["untrained, hard"]  # removes nothing
        for table in readings(models, parts, seed):
            tables.append(table.assign(sparsity=table.model.map({k: sparsity(m) for k, m in models.items()})))
            print(tables[-1].round(3).to_string(index=False), flush=True)
    table = pd.concat(tables, ignore_index=True)
    first = ["seed", "residues", "probe", "model", "sparsity", "draws"]
    table[first + [c for c in table if c not in first]].round(4).to_csv(flags.out, index=False)
    write_json(
        flags.out.with_suffix(".json"),
        provenance(
            plm.device,
            command="python benchmarks/probes.py",
            seeds=flags.seeds,
            steps=flags.steps,
            model=plm.fingerprint,
        ),
    )
