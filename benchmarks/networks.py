"""Do networks, profiles and alignments help where it is known what is to be found? On toy families with planted contacts.

    python benchmarks/networks.py [--seeds 3] [--families 80] [--rows 32] [--out nbs/results/networks_toy.csv]

For each seed, families of the toy with alignments of 64 rows (`toy_alignments`), three quarters to learn from and one to score; no two
share a library. Secondary structure is read by linear probes and by the network, contacts by mutual information as it is, by projections
and by the network, from one-hots, profiles, the toy model, and their combinations ('all': mutual information, profile, and
layer 1 of the toy model over the alignment). The control is an alignment whose columns were shuffled
one by one: its profile is the same, and nothing changes together. One row per task, metric, probe and features: mean over test families
of all seeds (each counts the same), interval over families, means of single seeds; and the same of the difference from a baseline."""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd

from plmsub.base.files import write_json
from plmsub.base.intervals import intervals, resampled_means
from plmsub.base.runs import provenance
from plmsub.base.seeds import numpy_rng
from plmsub.io.alignments import AlignedModel, Alignment, Covariation, Joined, Profiles
from plmsub.io.toy import toy_alignments
from plmsub.models.embed import OneHot
from plmsub.models.weights import load_plm
from plmsub.proteins import Domain
from plmsub.tasks.contacts import LONG, contact_precision
from plmsub.tasks.secondary import secondary_structure

SHORT = dict(epochs=12, patience=3)  # of the networks for contacts
BASELINES = {  # probe and features -> those it is compared with
    "secondary structure": {
        ("network", "one-hot"): ("linear", "one-hot"),
        ("linear", "profile"): ("linear", "one-hot"),
        ("network", "profile"): ("network", "one-hot"),
        ("network", "toy"): ("linear", "toy"),
        ("linear", "toy, over the alignment"): ("linear", "toy"),
        ("network", "toy, over the alignment"): ("network", "toy"),
        ("network", "toy + profile"): ("network", "toy"),
        ("network", "toy, over the alignment + profile"): ("network", "profile"),
    },
    "contacts": {
        ("as they are", "mutual information"): ("none", "random order"),
        ("as they are", "toy, over the alignment"): ("none", "random order"),
        ("as they are", "toy, layer 1, over the alignment"): ("none", "random order"),
        ("as they are", "shuffled columns"): ("none", "random order"),
        ("network", "one-hot"): ("projections", "one-hot"),
        ("network", "mutual information"): ("as they are", "mutual information"),
        ("network", "toy, over the alignment"): ("as they are", "toy, over the alignment"),
        ("network", "toy, layer 1, over the alignment"): ("as they are", "toy, layer 1, over the alignment"),
        ("network", "mutual information + profile"): ("network", "mutual information"),
        ("network", "all"): ("network", "mutual information"),
        ("network", "shuffled columns"): ("none", "random order"),
    },
}


def shuffled(alignment, seed):
    "The same columns, each in an order of its own; the query stays"
    rng, letters = (
        numpy_rng(seed, "shuffled columns", alignment.ids[0]),
        np.array([[*r] for r in aligned_rows(alignment)]),
    )
    rows = ["".join(r) for r in np.vstack([letters[:1], rng.permuted(letters[1:], axis=0)])]
    return Alignment(alignment.ids, tuple(rows))


def aligned_rows(alignment):
    return ["".join(c for c in row if not c.islower()) for row in alignment.rows]


def rows_of_seed(seed, plm, families, most):
    "Answers of all probes for the families of one seed"
    toy = toy_alignments(families, seed)
    proteins = [Domain(d.id, d.sequence, code=d.code, dssp=d.dssp) for d in (a.domain for a in toy)]
    maps = {a.domain.id: a.contact_map for a in toy}
    aligned = {a.domain.id: Alignment.of(a.rows) for a in toy}
    train, test = proteins[: 3 * families // 4], proteins[3 * families // 4 :]
    profile, mi = Profiles(aligned), Covariation(aligned)
    over = AlignedModel(plm, aligned, most)
    wrong = Covariation({id: shuffled(a, seed) for id, a in aligned.items()})

    def asked(task, reading, models, *more, **settings):
        began = time.process_time()
        rows = task(models, train, test, *more, seed=seed, **settings).assign(probe=reading)
        print(f"seed {seed}, {reading}: {', '.join(models)}: {time.process_time() - began:.0f} s", flush=True)
        return rows

    several = {
        "one-hot": OneHot(),
        "profile": profile,
        "toy": plm,
        "toy, over the alignment": over,
        "toy + profile": Joined(plm, profile),
        "toy, over the alignment + profile": Joined(over, profile),
    }
    for probe in ("linear", "network"):
        yield asked(secondary_structure, probe, several, states=(8, 3), probe=probe).assign(task="secondary structure")
    scores = {"mutual information": mi, "toy, over the alignment": over, "shuffled columns": wrong}
    single = {"one-hot": OneHot(), "toy": plm}
    networks = {"one-hot": OneHot(), "mutual information + profile": Joined(mi, profile), **scores}
    lower = {"toy, layer 1, over the alignment": over}
    found = [
        asked(contact_precision, "as they are", scores, maps, probe="pairs"),
        asked(contact_precision, "projections", single, maps, steps=300, learning_rate=1e-3),
        asked(contact_precision, "network", networks, maps, probe="network", **SHORT),
        asked(contact_precision, "as they are", lower, maps, probe="pairs", layer=1),
        asked(
            contact_precision,
            "network",
            lower | {"all": Joined(mi, profile, over)},
            maps,
            probe="network",
            layer=1,
            **SHORT,
        ),
    ]
    yield from (table.assign(task="contacts") for table in found)
    by_chance = {p.id: np.nanmean(maps[p.id][np.triu_indices(len(p), LONG)]) for p in test}
    chance = found[0][found[0].model == "mutual information"]
    yield chance.assign(task="contacts", probe="none", model="random order", value=chance.id.map(by_chance))


def summary(rows):
    "Mean, interval and means of seeds of each probe, and of its difference from its baseline"
    for (task, metric), table in rows.groupby(["task", "metric"], sort=False):
        wide = table.pivot(index=["seed", "id"], columns=["probe", "model"], values="value")
        for probe, model in wide:
            mean = {"probe": probe, "features": model, **about(wide[probe, model], "")}
            baseline = BASELINES[task].get((probe, model))
            if baseline:
                mean |= dict(baseline=": ".join(baseline), **about(wide[probe, model] - wide[baseline], "more_"))
            yield dict(task=task, metric=metric, **mean)


def about(values, prefix):
    "Mean, 95 % interval over families, and the lowest and highest mean of a seed"
    values = values.dropna()
    clusters, seeds = np.arange(len(values)), values.groupby("seed").mean()
    means = resampled_means(values.to_numpy()[:, None], clusters, 2000, numpy_rng("networks benchmark"))
    ((low, high),) = intervals(means, len(values))
    found = dict(value=values.mean(), low=low, high=high, lowest_seed=seeds.min(), highest_seed=seeds.max())
    return {prefix + name: x for name, x in found.items()} | ({} if prefix else dict(families=len(values)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--families", type=int, default=80)
    parser.add_argument("--rows", type=int, default=32, help="of an alignment, that the model reads")
    parser.add_argument("--out", type=Path, default=Path("nbs/results/networks_toy.csv"))
    flags = parser.parse_args()
    plm = load_plm("toy")
    tables = [
        table.assign(seed=seed)
        for seed in range(flags.seeds)
        for table in rows_of_seed(seed, plm, flags.families, flags.rows)
    ]
    result = pd.DataFrame(summary(pd.concat(tables, ignore_index=True)))
    result.round(4).to_csv(flags.out, index=False)
    print(result[result.metric.isin(["Q3", "Q8", "P@L", "P@L/5"])].round(3).to_string(index=False))
    settings = dict(seeds=flags.seeds, families=flags.families, rows=flags.rows, model=plm.fingerprint)
    settings["cpu_s"] = round(time.process_time())
    write_json(
        flags.out.with_suffix(".json"), provenance(plm.device, command="python benchmarks/networks.py", **settings)
    )
