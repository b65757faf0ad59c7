"""The released settings in full, beside ours: class 1 of the toy proteome, 2,000 steps of 64 proteins, three seeds.

    python benchmarks/released_full.py run [--kind released] [--seed 0]    # what is missing; can be stopped, and started several times at once
    python benchmarks/released_full.py report                              # nbs/results/released_full*.csv

`released`: objective and settings of the released trainer. `residues`: ours with as many steps and proteins, and so as many residues. `default`: ours as it is, 300 steps of 16 proteins.
At every validation the mask is read hard and, as the release does, sampled (three draws); the losses on valid and on test go to runs/released_full/KIND-SEED/along, with the
CPU seconds of training so far. The report takes the most selective mask within the limit of damage on valid, up to a number of residues or of seconds, and scores it on test."""

import argparse
import gzip
import io
import time
from itertools import product
from pathlib import Path

import pandas as pd
import torch

from plmsub.base.files import read_json, whole_file, write_json
from plmsub.base.runs import Busy, provenance
from plmsub.base.seeds import generator
from plmsub.categories import cath_category
from plmsub.comparison import compare
from plmsub.io.cath import read_domains
from plmsub.masks import HardMask
from plmsub.models.weights import load_plm
from plmsub.paper.original import released_config
from plmsub.splits import split
from plmsub.subnetwork import Subnetwork
from plmsub.tasks.language_model import mlm_perplexity
from plmsub.teacher import Teacher
from plmsub.train import TrainConfig, fit, rank, sample_proteins, temperature_at

RUNS, RESULTS, CATEGORY = Path("runs/released_full"), Path("nbs/results"), cath_category("1")
STEPS, N_TEST, N_VALID, DRAWS, DAMAGE = 2000, 384, 192, 3, 0.05


def config_of(kind, plm, parts, seed):
    if kind == "released":
        return released_config("plos_cath", plm.n_layers, len(parts.train), steps=STEPS, valid_every=100, seed=seed)
    if kind == "residues":
        return TrainConfig(steps=STEPS, accumulate=4, valid_every=100, checkpoint_every=100, seed=seed)
    return TrainConfig(valid_every=25, seed=seed)


def train(plm, parts, kind, seed):
    "A run, with the losses of its mask on valid and test at every validation"
    here, config = RUNS / f"{kind}-{seed}", config_of(kind, plm, parts, seed)
    some = {
        part: sample_proteins(getattr(parts, part), CATEGORY, n, 0)
        for part, n in dict(valid=N_VALID, test=N_TEST).items()
    }
    full = {part: mlm_perplexity({"full": plm}, proteins, passes=1) for part, proteins in some.items()}
    clock = dict(since=time.process_time())

    def look(state):
        took = time.process_time() - clock["since"]
        T, tau = temperature_at(state.step - 1, config), config.threshold

        def draw(i):
            sampled = state.mask.sample(T, tau, generator(i, "reading"))
            return Subnetwork(plm, HardMask({n: m.bool() for n, m in sampled.items()}))

        with torch.no_grad():
            models = {"hard": Subnetwork(plm, state.mask.hard(T, tau)), "sampled": [draw(i) for i in range(DRAWS)]}
        tables = [full[part].assign(part=part) for part in some]
        tables += [mlm_perplexity(models, proteins, passes=1).assign(part=part) for part, proteins in some.items()]
        (here / "along").mkdir(exist_ok=True)
        text = io.StringIO()
        pd.concat(tables, ignore_index=True).to_csv(text, index=False, float_format="%.6g")
        with whole_file(here / "along" / f"{state.step:05}.csv.gz") as f:
            f.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
        write_json(here / "along" / f"{state.step:05}.json", dict(step=state.step, seconds=took))
        clock["since"] = time.process_time()

    run = fit(
        plm, parts, CATEGORY, config, here, mmseqs=False, teacher=Teacher(plm, RUNS / "teacher"), on_validation=look
    )
    print(kind, seed, run.scores, flush=True)


def s_and_d(table, reading):  # of a few proteins, on one part
    wide = table.groupby(["id", "code", "model"]).value.mean().unstack("model").reset_index()
    change, inside = wide[reading] - wide["full"], wide.apply(CATEGORY.holds, axis=1)
    return dict(valid_S=change[inside].mean() - change[~inside].mean(), valid_D=change[~inside].mean())


def looks(plm, parts):
    "Every validation of every run: what it scored on valid, and the losses on test"
    rows = []
    for here in sorted(RUNS.glob("*-*")):
        (kind, seed), seconds = here.name.split("-"), 0.0
        config = config_of(kind, plm, parts, int(seed))
        for file in sorted((here / "along").glob("*.csv.gz")):
            seconds += read_json(file.with_name(file.name.replace(".csv.gz", ".json")))["seconds"]
            table, step = pd.read_csv(file), int(file.name[:5])
            seen = step * config.accumulate * config.batch_size
            for reading in ("hard", "sampled"):
                on = {part: t for part, t in table[table.model.isin(["full", reading])].groupby("part")}
                found = dict(kind=kind, seed=int(seed), reading=reading, step=step, proteins=seen, seconds=seconds)
                scores = {k.replace("valid", "test"): v for k, v in s_and_d(on["test"], reading).items()}
                rows.append(found | s_and_d(on["valid"], reading) | scores | dict(table=on["test"]))
    return rows


def chosen(rows, kind, reading, upto=None, by="proteins"):
    "The best look of each seed, within some proteins or seconds"
    some = [r for r in rows if (r["kind"], r["reading"]) == (kind, reading) and (upto is None or r[by] <= upto)]
    return [
        max((r for r in some if r["seed"] == s), key=lambda r: rank(r, DAMAGE))
        for s in sorted({r["seed"] for r in some})
    ]


def scored(picks, ours, reading):
    "S and D on test with intervals over seeds and superfamilies, and the S by which the others are exceeded"

    def tables(name, some):
        return [p["table"][p["table"].model == reading].assign(model=name, seed=p["seed"]) for p in some]

    full = picks[0]["table"]
    full = full[full.model == "full"].assign(seed=float("nan"))
    found = compare(pd.concat([full, *tables("these", picks), *tables("ours", ours)]), CATEGORY, subnetwork="these")
    found = found.set_index("model").drop(columns=["task", "metric"])
    less = found.loc["ours", ["margin", "margin_low", "margin_high"]]
    return found.loc["these"].to_dict() | dict(
        less.to_dict(),
        seeds=len(picks),
        proteins_seen=sum(p["proteins"] for p in picks) / len(picks),
        cpu_seconds=sum(p["seconds"] for p in picks) / len(picks),
        within=all(p["valid_D"] <= DAMAGE for p in picks),
    )


def by_superfamily(rows, kind):
    "What each maintained superfamily of test loses under the best hard masks, and under those of single seeds"
    moved = []
    for pick in chosen(rows, kind, "hard"):
        wide = pick["table"].pivot_table("value", ["id", "code"], "model").reset_index()
        wide = wide[~wide.apply(CATEGORY.holds, axis=1)]
        moved.append((wide["hard"] - wide["full"]).groupby(wide["code"]).mean())
    moved = pd.concat(moved, axis=1)
    ends = dict(change=moved.mean(axis=1), lowest_seed=moved.min(axis=1), highest_seed=moved.max(axis=1))
    return pd.DataFrame(ends).reset_index().assign(kind=kind)


def report(plm, parts):
    rows, found = looks(plm, parts), []
    ends = {k: max(r["seconds"] for r in rows if r["kind"] == k) for k in ("released", "residues", "default")}
    for reading, kind in product(("hard", "sampled"), ends):
        ours = chosen(rows, "residues", reading)
        upto = {"end": None} | ({"equal time": ends["residues"]} if kind == "released" else {})
        for at, seconds in upto.items():
            about = dict(kind=kind, reading=reading, at=at, cpu_seconds_in_all=ends[kind] if at == "end" else seconds)
            found.append(about | scored(chosen(rows, kind, reading, seconds, "seconds"), ours, reading))
    along = pd.DataFrame([{k: v for k, v in r.items() if k != "table"} for r in rows])
    families = pd.concat([by_superfamily(rows, kind) for kind in ends])
    tables = {"": pd.DataFrame(found), "_along": along, "_superfamilies": families}
    for end, table in tables.items():
        print(table.to_string())
        with whole_file(RESULTS / f"released_full{end}.csv") as f:
            table.to_csv(f, index=False, float_format="%.5g")
    about = dict(
        command="python benchmarks/released_full.py report", steps=STEPS, damage=DAMAGE, split_seed=0, draws=DRAWS
    )
    write_json(RESULTS / "released_full.json", provenance("cpu", model=plm.name, **about))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "report"])
    parser.add_argument("--kind", default="default,residues,released")
    parser.add_argument("--seed", default="0,1,2")
    flags = parser.parse_args()
    plm = load_plm("toy")
    parts = split(read_domains("toy"), by="superfamily", seed=0)
    if flags.what == "report":
        raise SystemExit(report(plm, parts))
    torch.set_num_threads(1)
    for seed in map(int, flags.seed.split(",")):
        for kind in flags.kind.split(","):
            try:
                train(plm, parts, kind, seed)
            except Busy:
                print(kind, seed, "is trained by another process")
