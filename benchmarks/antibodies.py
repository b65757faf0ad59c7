"""What a model of antibodies loses: light chains, heavy chains, CDRs, lambda chains, chains from mice.

    pip download --no-deps antiberty==0.1.3 && unzip antiberty-0.1.3-*.whl     # AntiBERTy's weights; never part of this project
    python benchmarks/antibodies.py prepare ../shared/data                     # numbers, clusters, split (pip install anarcii; MMseqs2)
    python benchmarks/antibodies.py run ../shared/data                         # trains and measures what is missing; can be stopped
    python benchmarks/antibodies.py run ../shared/data --row 1                 # one row of `JOBS`
    python benchmarks/antibodies.py lost ../shared/data                        # germline recovery, separation of kinds of chains
    python benchmarks/antibodies.py report ../shared/data                      # the tables in nbs/results/antibodies that the page reads

Runs go to runs/antibodies. The split is by clusters at 80 % identity, with seed 0. Training and its validations compute in bf16, test in full precision."""

import argparse
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from string import ascii_uppercase

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, silhouette_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from plmsub.anatomy import overlap_table, weight_magnitudes, zeros_of
from plmsub.base.files import read_json, whole_file, write_json, write_table
from plmsub.base.runs import checkpoint_file, provenance
from plmsub.base.seeds import numpy_rng
from plmsub.batches import amino_acid_tokens, encode, masked_positions
from plmsub.categories import label_category, residue_label_category
from plmsub.comparison import compare, corrected
from plmsub.controls import magnitude_mask, random_mask
from plmsub.esm import MASK
from plmsub.io.headers import read_proteins
from plmsub.losses import logit_requests
from plmsub.models.embed import mean_embeddings
from plmsub.models.weights import load_plm
from plmsub.proteins import AMINO_ACIDS
from plmsub.splits import PARTS, Split, check_split, closest, clusters, split
from plmsub.subnetwork import Subnetwork, load_mask, save_mask
from plmsub.tasks.language_model import mlm_perplexity, unigram_model
from plmsub.teacher import Teacher
from plmsub.train import (
    TrainConfig,
    describe,
    fit,
    load_run,
    load_state,
    new_state,
    temperature_at,
    training_batches,
)

RUNS, RESULTS = Path("runs/antibodies"), Path("nbs/results/antibodies")
PLM = "antiberty/trained_models/AntiBERTy_md_smooth"
CHAINS = {"H": "heavy", "K": "kappa", "L": "lambda"}
CDRS = {"1": (27, 38), "2": (56, 65), "3": (105, 117)}  # IMGT numbers of the CDRs
ORIGIN = {
    "Human": "human",
    "Mouse": "mouse",
    "Chimeric": "mouse",
}  # variable domains of a chimeric antibody are a mouse's
IDENTITY = 0.8  # from which two chains are alike
PER_CLUSTER = 3  # chains of a cluster that are scored, at most
TRASTUZUMAB = ("EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIH", "DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAW")  # how its chains begin
FEW = 5  # members of a cluster from which its consensus is taken, at least
CATEGORIES = ("light", "heavy", "CDR", "lambda", "mouse")


@dataclass(frozen=True)
class Job:
    "One run"

    category: str
    seed: int = 0
    kind: str = "trained"  # or 'shuffled'

    name = property(lambda self: f"{self.category} {self.kind} {self.seed}")


SETTINGS = dict(
    batch_size=8,
    suppressed=2,
    steps=70,
    suppress_weight=5.0,
    maintain_weight=40.0,
    valid_every=10,
    valid_proteins=48,
    corruptions=1,
)
JOBS = [
    *(Job("light", s) for s in range(3)),
    *(Job(c) for c in CATEGORIES[1:]),
    Job("light", kind="shuffled"),
    *(Job(c, s) for s in (1, 2) for c in ("heavy", "CDR")),
]


def numbered(proteins):
    "Id -> chain type, first residue of the domain, and the IMGT number of every residue in it, by ANARCII's model"
    from anarcii import Anarcii

    model = Anarcii(seq_type="antibody", mode="accuracy", cpu=True, ncpu=1, batch_size=32, verbose=False)
    found, rows = model.number({p.id: p.sequence for p in proteins}), {}
    for id, one in found.items():
        places = [f"{n}{code.strip()}" for (n, code), letter in one["numbering"] if letter != "-"]
        rows[id] = dict(chain=CHAINS[one["chain_type"]], start=one["query_start"], numbers=" ".join(places))
    return rows


def numbers_of(p):
    "IMGT number of every residue, as text; '' outside the domain"
    numbers = p.labels["numbers"].split()
    start = int(p.labels["start"])
    return [""] * start + numbers + [""] * (len(p) - start - len(numbers))


def whole(number):
    "An IMGT number without its insertion code"
    return int(number.rstrip(ascii_uppercase))


def region(number):
    "'1', '2', '3' for the CDRs, 'f' for the framework, '.' outside the domain"
    if not number:
        return "."
    return next((cdr for cdr, (first, last) in CDRS.items() if first <= whole(number) <= last), "f")


def different(data):
    "Every different sequence once"
    proteins = read_proteins(data / "antibodies" / "imgt_mab_db.fa")
    return sorted({p.sequence: p for p in reversed(proteins)}.values(), key=lambda p: p.id)


def prepare(data):
    "Write type, origin, IMGT numbers, cluster and part of every chain"
    proteins = different(data)
    species = pd.read_csv(data / "antibodies" / "imgt_mab_db.tsv", sep="\t", dtype=str)
    species, rows = dict(zip(species.INN_Number, species.Species)), numbered(proteins)
    cluster_of = clusters(proteins, IDENTITY)
    for p in proteins:
        origin = ORIGIN.get(species[p.id.split("_")[0]], "")
        rows[p.id] |= dict(origin=origin, cluster=cluster_of[p.id], part="left out")
    labeled = [replace(p, labels=rows[p.id]) for p in proteins]
    parts = split_of(labeled)
    for part in PARTS:
        for p in getattr(parts, part):
            rows[p.id]["part"] = part
    RUNS.mkdir(parents=True, exist_ok=True)
    write_table(pd.DataFrame([dict(id=id) | row for id, row in rows.items()]), RUNS / "chains.csv")


def chains(data):
    "Every different chain, and the split"
    table = pd.read_csv(RUNS / "chains.csv", keep_default_na=False).set_index("id")
    everyone = [replace(p, labels=table.loc[p.id].to_dict()) for p in different(data)]
    of_part = [[p for p in everyone if p.labels["part"] == part] for part in PARTS]
    return everyone, Split(*of_part, "cluster", 0)


def unlike(proteins, others):
    "Those that are not like any of the others, sought from both sides until nothing is found"
    while True:
        here, there = (closest(Split(*parts), "mmseqs") for parts in ((others, [], proteins), (proteins, [], others)))
        alike = {*here.id[here.similarity >= IDENTITY], *there.train_id[there.similarity >= IDENTITY]}
        if not alike:
            return proteins
        proteins = [p for p in proteins if p.id not in alike]


def split_of(everyone):
    "Train, valid and test by cluster; what is like a chain of test is left out of train and valid"
    parts = split(everyone, "cluster", category=category_of("light", everyone))
    return Split(unlike(parts.train, parts.test), unlike(parts.valid, parts.test), parts.test, "cluster", 0)


def some_of(proteins):
    "A few chains of every cluster"
    ordered = sorted(proteins, key=lambda p: p.id)
    order, seen, some = numpy_rng(0, "chains to score").permutation(len(ordered)), Counter(), []
    for p in (ordered[i] for i in order):
        seen[p.labels["cluster"]] += 1
        if seen[p.labels["cluster"]] <= PER_CLUSTER:
            some.append(p)
    return sorted(some, key=lambda p: p.id)


def concerns(name, p):
    "Does a category say anything about this chain?"
    if name == "lambda":
        return p.labels["chain"] != "heavy"
    return name != "mouse" or p.labels["origin"] != ""


def category_of(name, everyone):
    "A category by its name in `CATEGORIES`"
    if name == "CDR":
        return residue_label_category(name, {p.id: "".join(map(region, numbers_of(p))) for p in everyone}, "123")

    def side(p):
        if name == "mouse":
            return p.labels["origin"]
        kind = p.labels["chain"]
        return kind if name == "lambda" or kind == "heavy" else "light"

    return label_category({p.id: side(p) for p in everyone if concerns(name, p)}, name)


def shuffled(category, parts, seed):
    "The same number of clusters, drawn at random in every part"
    ids, known = [], []
    for name in PARTS:
        groups = defaultdict(list)
        for p in sorted(getattr(parts, name), key=lambda p: p.id):
            groups[p.labels["cluster"]].append(p)
        own = np.array([category.holds(members[0]) for members in groups.values()])
        drawn = numpy_rng("shuffled labels", category.name, name, seed).permutation(own)
        ids += [p.id for members, inside in zip(groups.values(), drawn) for p in members if inside]
        known += [p.id for p in getattr(parts, name)]
    return label_category({id: "shuffled" if id in {*ids} else "other" for id in known}, "shuffled")


def plan(job, everyone, parts):
    "Category, parts and settings of a job"
    category = category_of(job.category, everyone)
    few = {name: [p for p in getattr(parts, name) if concerns(job.category, p)] for name in PARTS}
    own = replace(parts, **few)
    check_split(own, category)
    if job.kind == "shuffled":
        category = shuffled(category, own, job.seed)
    return category, own, TrainConfig(**SETTINGS, seed=job.seed)


def folder_of(job):
    return RUNS / job.name.replace(" ", "-")


def scored(models, proteins, everyone):
    "Losses of all residues, and of those of CDRs and framework apart"
    return mlm_perplexity(models, proteins, passes=1, category=category_of("CDR", everyone))


def last_mask(plm, run, parts):
    "The mask at the end of a run, read hard, whatever its scores on valid"
    config = run.config
    state = new_state(plm, config, describe(plm, parts, run.category, config))
    load_state(state, checkpoint_file(run.folder, config.steps))
    return state.mask.hard(temperature_at(config.steps - 1, config), config.threshold)


def run(data, plm, jobs):
    "Train and measure what is missing"
    everyone, parts = chains(data)
    some = some_of(parts.test)
    if not (RUNS / "full.csv").exists():
        write_table(scored({"full": plm, "unigram": unigram_model(parts.train)}, some, everyone), RUNS / "full.csv")
    for job in jobs:
        here = folder_of(job)
        if (here / "test.csv").exists():
            continue
        category, own, config = plan(job, everyone, parts)
        batches, teacher = training_batches(own, category, config), Teacher(plm, RUNS / "teacher")
        steps = range(config.steps * config.accumulate)  # the teacher's logits come first, in full precision
        teacher.compute((q.tokens, q.where) for i in steps for q in logit_requests(config, batches[i]))
        started, used = time.time(), time.process_time()
        with torch.autocast("cpu", torch.bfloat16):
            done = fit(plm, own, category, config, here, teacher=teacher, mmseqs=False)
        if not (here / "last.safetensors").exists():
            wall, cpu = (time.time() - started) / config.steps, (time.process_time() - used) / config.steps
            write_json(here / "times.json", dict(wall_s_per_step=wall, cpu_s_per_step=cpu))
            save_mask(last_mask(plm, done, own), here / "last.safetensors", plm)
        mask = load_mask(here / "last.safetensors", plm)
        models = {"subnetwork": Subnetwork(plm, mask)}
        if job.kind == "trained" and job.seed == 0:
            models["random"] = Subnetwork(plm, random_mask(mask))
            models["magnitude"] = Subnetwork(plm, magnitude_mask(plm, mask))
        write_table(scored(models, some, everyone), here / "test.csv")
        print(job.name, done.log.iloc[-1][["valid_S", "valid_D", "sparsity"]].to_dict(), flush=True)


def finished(plm):
    "Job -> last mask and log of the runs that are done"
    done = [job for job in JOBS if (folder_of(job) / "test.csv").exists()]
    return {
        job: (load_mask(folder_of(job) / "last.safetensors", plm), load_run(folder_of(job), plm).log) for job in done
    }


def with_clusters(table, proteins):
    "The table with what `compare` resamples: a cluster stands where the superfamily of a domain does"
    names = sorted({p.labels["cluster"] for p in proteins})
    code_of = {p.id: f"1.1.1.{1 + names.index(p.labels['cluster'])}" for p in proteins}
    return table.assign(code=table.id.map(code_of))


def losses(done, name):
    "Losses of the masks of a category, with those of the full model and of all controls, which are of seed 0"
    frames, inverse = [pd.read_csv(RUNS / "full.csv")], {"light": "heavy", "heavy": "light"}.get(name)
    for job in done:
        table = pd.read_csv(folder_of(job) / "test.csv")
        trained = table[table.model == "subnetwork"]
        if job.category == name and job.kind == "trained":
            frames += [trained.assign(seed=job.seed), table.drop(trained.index)]
        elif job.category == name:
            frames.append(trained.assign(model=job.kind))
        elif job.category == inverse and job.kind == "trained" and job.seed == 0:
            frames.append(trained.assign(model="inverse"))
    return pd.concat(frames, ignore_index=True)


def results(done, some, everyone):
    "S, D, margins and lost knowledge of every category"
    rows = []
    for name in dict.fromkeys(job.category for job in done):
        about = [p for p in some if concerns(name, p)]
        table = losses(done, name)
        table = with_clusters(table[table.id.isin({p.id for p in about})], about)
        rows.append(compare(table, category_of(name, everyone)).assign(category=name))
    table = pd.concat(rows, ignore_index=True)
    return table.assign(margin_p_corrected=corrected(table.margin_p))


def groups(some):
    "Name -> chains, and the column of their loss"
    by = {name: [p for p in some if p.labels["chain"] == name] for name in CHAINS.values()}
    for origin in ("human", "mouse"):
        by[f"{origin} heavy"] = [p for p in by["heavy"] if p.labels["origin"] == origin]
    columns = {name: (ps, "value") for name, ps in by.items()}
    return columns | {"CDR residues": (some, "suppressed_nats"), "framework residues": (some, "maintained_nats")}


def changes(done, some):
    "Mean change of the loss under every mask in every group of chains or residues"
    full, rows = pd.read_csv(RUNS / "full.csv").query("model == 'full'").set_index("id"), []
    for job in done:
        for model, table in pd.read_csv(folder_of(job) / "test.csv").groupby("model", sort=False):
            table = table.set_index("id")
            for group, (members, column) in groups(some).items():
                ids = [p.id for p in members]
                before, after = full.loc[ids, column].mean(), table.loc[ids, column].mean()
                about = dict(category=job.category, kind=job.kind, seed=job.seed, model=model, group=group)
                rows.append(about | dict(n=len(ids), full_nats=before, change_nats=after - before))
    return pd.DataFrame(rows)


def consensus(everyone):
    "Id -> number -> commonest residue of the other chains of its cluster, before CDR 3; in clusters of `FEW` or more"
    at, columns = {p.id: dict(zip(numbers_of(p), p.sequence)) for p in everyone}, defaultdict(Counter)
    size = Counter(p.labels["cluster"] for p in everyone)
    for p in everyone:
        for number, residue in at[p.id].items():
            columns[p.labels["cluster"], number][residue] += 1
    found = {}
    for p in everyone:
        if size[p.labels["cluster"]] < FEW:
            continue
        own = {}
        for number, residue in at[p.id].items():
            others = columns[p.labels["cluster"], number] - Counter([residue])
            if region(number) == "f" and whole(number) < CDRS["3"][0] and others:
                own[number] = min(others, key=lambda a: (-others[a], a))
        found[p.id] = own
    return found


def predictions(model, proteins):
    "Id, IMGT number, residue and prediction of every hidden residue, in two passes"
    rows = []
    for p, i in product(proteins, range(2)):
        hidden = masked_positions(p.id, p.sequence, 0, i)
        tokens = encode([p.sequence])
        tokens[0, 1 + hidden] = MASK
        with torch.no_grad():
            best = model(tokens)[0, 1 + hidden][:, list(amino_acid_tokens())].argmax(-1)
        numbers = numbers_of(p)
        for k, letter in zip(hidden.tolist(), best.tolist()):
            rows.append(dict(id=p.id, number=numbers[k], residue=p.sequence[k], predicted=AMINO_ACIDS[letter]))
    return pd.DataFrame(rows)


def recovery(models, some, everyone):
    "How often the consensus and the own residue of a chain are predicted at framework positions"
    germline, rows = consensus(everyone), []
    chain_of = {p.id: p.labels["chain"] for p in some}
    scored = [p for p in some if p.id in germline]
    for name, model in models.items():
        table = predictions(model, scored)
        table["germline"] = [germline[r.id].get(r.number, "") for r in table.itertuples()]
        table = table[table.germline != ""]
        for side, t in table.groupby(np.where(table.id.map(chain_of) == "heavy", "heavy", "light")):
            other = t[t.residue != t.germline]
            shares = dict(germline=(t.predicted == t.germline).mean(), own=(t.predicted == t.residue).mean())
            shares |= dict(own_where_mutated=(other.predicted == other.residue).mean(), n_mutated=len(other))
            rows.append(dict(model=name, chains=side, n_chains=t.id.nunique(), n=len(t), **shares))
    return pd.DataFrame(rows)


KINDS = {"heavy": ("heavy", "kappa", "lambda"), "kappa": ("kappa", "lambda"), "mouse": ("mouse", "human")}


def separation(models, some):
    "How well two kinds of chains can be told apart in the mean states of the last layer, cluster by cluster"
    rows = []
    for name, model in models.items():
        states = mean_embeddings(model, some, desc=None)
        for kind, kinds in KINDS.items():
            label = np.array([p.labels["origin" if kind == "mouse" else "chain"] for p in some])
            keep = np.isin(label, kinds)
            x, y, groups = states[keep], label[keep] == kind, np.array([p.labels["cluster"] for p in some])[keep]
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
            folds = StratifiedGroupKFold(4, shuffle=True, random_state=0)
            read = cross_val_predict(probe, x, y, groups=groups, cv=folds, method="decision_function")
            about = dict(model=name, kind=kind, others=", ".join(kinds[1:]), n=len(y), clusters=len({*groups}))
            rows.append(about | dict(auc=roc_auc_score(y, read), silhouette=silhouette_score(x, y)))
    return pd.DataFrame(rows)


def lost(data, plm):
    "What else the masks take, seed 0"
    everyone, parts = chains(data)
    some, done = some_of(parts.test), finished(plm)
    first = {job.category: mask for job, (mask, _) in done.items() if job.kind == "trained" and job.seed == 0}
    models = {"full": plm, "random": Subnetwork(plm, random_mask(first["light"]))}
    models |= {f"without {name}": Subnetwork(plm, first[name]) for name in ("light", "heavy")}
    save(dict(recovery=recovery(models, some, everyone), separation=separation(models, some)))


def runs_of(done):
    "Last scores on valid, and time, of every run"
    rows = []
    for job, (_, log) in done.items():
        scores = log.iloc[-1][["step", "valid_S", "valid_D", "sparsity"]].to_dict()
        rows.append(
            dict(category=job.category, kind=job.kind, seed=job.seed)
            | scores
            | read_json(folder_of(job) / "times.json")
        )
    return pd.DataFrame(rows)


def along(done):
    "Loss, and S and D on valid, along the runs"
    columns = ["step", "loss", "kl_teacher", "valid_S", "valid_D", "sparsity"]
    logs = [log[columns].assign(category=job.category, kind=job.kind, seed=job.seed) for job, (_, log) in done.items()]
    return pd.concat(logs, ignore_index=True)


def anatomy(plm, done):
    "Where the zeros are, whether they are small weights, and what the masks share"
    masks = {job.name: mask for job, (mask, _) in done.items()}
    zeros = pd.concat([zeros_of(m).assign(run=name) for name, m in masks.items()], ignore_index=True)
    small = weight_magnitudes(plm, masks[JOBS[0].name])
    return dict(zeros=zeros, overlap=overlap_table(masks), magnitudes=small)


def split_table(everyone, parts, some):
    "Chains and clusters of every part"
    of = {part: getattr(parts, part) for part in PARTS} | {"test, scored": some}
    of["left out"] = [p for p in everyone if p.labels["part"] not in PARTS]
    rows = []
    for part, proteins in of.items():
        kinds = Counter(p.labels["chain"] for p in proteins) + Counter(p.labels["origin"] for p in proteins)
        kinds = {kind: kinds[kind] for kind in (*CHAINS.values(), "mouse", "human")}
        rows.append(
            dict(part=part, chains=len(proteins), clusters=len({p.labels["cluster"] for p in proteins})) | kinds
        )
    return pd.DataFrame(rows)


def cdrs_of(everyone, start):
    "CDRs of the chains that begin in one way"
    rows = []
    for p in (p for p in everyone if p.sequence.startswith(start)):
        regions = [*map(region, numbers_of(p))]
        cdrs = {f"CDR {k}": "".join(a for a, r in zip(p.sequence, regions) if r == k) for k in CDRS}
        rows.append(dict(chain=p.labels["chain"]) | cdrs)
    return rows


def save(tables):
    "Write tables for the page"
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        with whole_file(RESULTS / f"{name}.csv") as f:
            table.to_csv(f, index=False, float_format="%.5g")
        print(f"{name}: {len(table)} rows, {(RESULTS / f'{name}.csv').stat().st_size / 1e3:.0f} KB")


def report(data, plm):
    "Write the tables that the page reads"
    everyone, parts = chains(data)
    some, done = some_of(parts.test), finished(plm)
    tables = dict(results=results(done, some, everyone), changes=changes(done, some), runs=runs_of(done))
    tables |= dict(along=along(done), **anatomy(plm, done), split=split_table(everyone, parts, some))
    rows = [dict(id=p.id) | {k: p.labels[k] for k in ("chain", "origin", "cluster", "part")} for p in everyone]
    tables["chains"] = pd.DataFrame(rows)
    tables["cdrs"] = pd.DataFrame([r for start in TRASTUZUMAB for r in cdrs_of(everyone, start)])
    save(tables)
    about = dict(command="python benchmarks/antibodies.py report", runs=len(done), model="AntiBERTy, antiberty 0.1.3")
    about |= dict(fingerprint=plm.fingerprint, settings=SETTINGS, split_seed=0, identity=IDENTITY)
    write_json(RESULTS / "antibodies.json", provenance("cpu", **about, scored=len(some)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["prepare", "run", "lost", "report"])
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("--plm", default=PLM)
    parser.add_argument("--row", type=int, help="only this row of JOBS, from 1")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    if flags.what == "prepare":
        return prepare(flags.data)
    jobs, plm = JOBS if flags.row is None else [JOBS[flags.row - 1]], load_plm(flags.plm)
    if flags.what == "run":
        return run(flags.data, plm, jobs)
    return lost(flags.data, plm) if flags.what == "lost" else report(flags.data, plm)


if __name__ == "__main__":
    main()
