"""The defaults of `TrainConfig`: each setting changed alone, judged on the valid part.

    python benchmarks/search.py toy                      # class 1 and helix residues of the toy proteome: about 20 minutes on one core
    python benchmarks/search.py mini ../shared/data      # class 2 of CATH S20 and the model mini: about 10 minutes

Every run takes 160 steps. Of the looks at valid along it the one with the largest S counts whose damage is within a limit, so that settings are
compared at like damage; there is a row for each limit. The test part is not used. Runs lie in runs/search, so that a search that was stopped goes on."""

import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd

from plmsub.base.files import whole_file, write_json
from plmsub.base.runs import provenance
from plmsub.categories import cath_category, residue_category
from plmsub.io.cath import read_domains
from plmsub.models.weights import load_plm
from plmsub.proteins import of_length
from plmsub.splits import split
from plmsub.train import TrainConfig, fit, rank

RUNS, RESULTS = Path("runs/search"), Path("nbs/results")
ALL_SIX = ("query", "key", "value", "output", "up", "down")
CHANGES = [("default", {})] + [
    (name, {name: value})
    for name, values in dict(
        reading=("hard", "sampled"),
        keep=(0.8, 0.96),
        learning_rate=(0.1, 0.6),
        maintain_weight=(5.0, 30.0),
        mlm_weight=(0.0,),
        kl_inputs=("clean", "both"),
        uniform_over=("amino acids",),
        suppressed=(8,),
        layers=(0.5,),
        granularity=("neuron", "head"),
        projections=(("value", "output"), ("query", "key"), ALL_SIX),
    ).items()
    for value in values
]
CHANGES += [("temperature", dict(temperature_start=a, temperature_end=b)) for a, b in ((3.2, 0.01), (1.0, 1.0))]
CHANGES += [
    (
        "the paper, all at once",
        dict(
            reading="sampled",
            keep=0.96,
            temperature_start=3.2,
            temperature_end=0.01,
            threshold=0.4,
            maintain_weight=7.0,
            kl_inputs="clean",
            learning_rate=0.1,
            layers=0.8,
        ),
    )
]
LIMITS = (0.05, 0.15)  # on D, nats
SEVERAL_SEEDS = ("default", "reading", "the paper, all at once")  # the others have one; on mini only these are run


def worlds(which, data):
    "Model, domains, targets and seeds of a search"
    if which == "toy":
        return read_domains("toy"), [cath_category("1"), residue_category("helix")], (0, 1, 2)
    cath = data / "cath"
    return (
        of_length(
            read_domains(cath / "cath-domain-list-S20-v4_3_0.txt", cath / "cath-dataset-nonredundant-S20-v4_3_0.fa")
        ),
        [cath_category("2")],
        (0,),
    )


def search(which, data):
    "One row per setting, target, seed and limit"
    plm, (domains, targets, seeds), rows = load_plm(which), worlds(which, data), []
    for seed in seeds:
        for target in targets:
            parts = split(domains, seed=seed, category=target)
            for name, change in CHANGES:
                if (which == "mini" or seed) and name not in SEVERAL_SEEDS:
                    continue
                value = (
                    " to ".join(map(str, change.values()))
                    if name == "temperature"
                    else str(*change.values())
                    if len(change) == 1
                    else ""
                )
                folder = (
                    RUNS / which / "-".join([target.name, str(seed), name, value]).replace(" ", "_").replace("/", "")
                )
                run = fit(
                    plm, parts, target, replace(TrainConfig(steps=160, valid_every=20, seed=seed), **change), folder
                )
                looks = run.log.dropna(subset="valid_S")[["step", "valid_S", "valid_D", "sparsity"]].to_dict("records")
                for limit in LIMITS:
                    rows.append(
                        dict(
                            setting=name,
                            value=value,
                            category=target.name,
                            seed=seed,
                            limit_nats=limit,
                            **max(looks, key=lambda look: rank(look, limit)),
                        )
                    )
                    print(rows[-1], flush=True)
                with whole_file(RESULTS / f"search_{which}.csv") as f:
                    pd.DataFrame(rows).to_csv(f, index=False, float_format="%.4g")
    write_json(
        RESULTS / f"search_{which}.json",
        provenance("cpu", command=f"python benchmarks/search.py {which}", seeds=len(seeds), model=plm.fingerprint),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=["toy", "mini"])
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    flags = parser.parse_args()
    search(flags.which, flags.data)
