"""What real proteins lose: the study on CATH S20 with the model `mini`.

    python benchmarks/study.py jobs                          # writes nbs/studies/study.csv, the table of runs
    python benchmarks/study.py run ../shared/data            # trains and measures what is missing; can be stopped, and started several times at once
    python benchmarks/study.py run ../shared/data --row 7    # one row of the table, from nothing
    python benchmarks/study.py report ../shared/data         # the tables in nbs/results/study that the pages read
    python benchmarks/study.py browse ../shared/data         # nbs/results/study/browser.html: the runs that are done, to look at in a browser
    python benchmarks/study.py panels ../shared/data         # proteins.csv.gz, states.csv.gz and residues.csv.gz there, of the trained runs of seed 0

Runs go to runs/study. Everything is split by superfamily (the superfamily by domain within itself) with split seed 0; three seeds of everything that is trained."""

import argparse
import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from plmsub.anatomy import overlap_table, zeros_of
from plmsub.app.browse import browse
from plmsub.app.sweep import Job, job_folder, prepare, read_jobs, sweep, write_jobs
from plmsub.base.files import whole_file, write_json
from plmsub.base.runs import provenance, read_log
from plmsub.base.seeds import generator, numpy_rng
from plmsub.categories import as_category, cath_category
from plmsub.comparison import by_distance, by_model, compare, corrected, groups_of
from plmsub.evaluation import evaluate
from plmsub.io.cath import read_cath_names, read_domains
from plmsub.io.dssp import assign_dssp, read_dssp_table, with_dssp
from plmsub.io.headers import read_proteins
from plmsub.io.structures import read_chain
from plmsub.losses import masked_nll
from plmsub.masks import HardMask
from plmsub.models.weights import load_plm
from plmsub.proteins import AMINO_ACIDS, STATES, of_length, states_of
from plmsub.splits import relatives
from plmsub.subnetwork import Subnetwork, load_mask
from plmsub.tasks.language_model import mlm_perplexity, per_protein
from plmsub.train import load_run, rank, sample_proteins, temperature_at

TABLE, RUNS, RESULTS = Path("nbs/studies/study.csv"), Path("runs/study"), Path("nbs/results/study")
LEVEL = {
    "1": "class",
    "2": "class",
    "3": "class",
    "helix": "residue",
    "strand": "residue",
    "2.60": "architecture",
    "3.40.50": "topology",
    "3.40.50.300": "superfamily",
    "random:200": "random",
    "random:2000": "random",
}
CLASSES = [t for t, level in LEVEL.items() if level == "class"]
DAMAGES = (0.02, 0.05)  # nats, at which methods are held against each other
PAIRS = {"helix": "1", "strand": "2"}  # runs on residues and on the classes made of them
N_PASSES = 5  # of masking, where runs are compared by state
PROTEOMES = ("UP000000625_83333.fasta", "UP000002311_559292.fasta")  # E. coli, yeast
N_SEARCHED, N_OUTSIDE = (
    2000,
    128,
)  # of their proteins, how many are searched, and how many without similarity to CATH are scored
N_CLASS, N_TEST, N_ALONG = (
    1000,
    384,
    192,
)  # test proteins for the result (of classes, of others), and for each validation along a run; half of them suppressed where there are enough


def jobs():
    "The table: every target three times; the classes also with shuffled labels and with the release's settings, which see as many residues in a quarter of the steps"

    def settings(target):
        return dict(
            steps=120, valid_every=20 if target in CLASSES else 30, max_damage=0.04
        )  # below .05, since D on test is another

    rows = [Job(t, seed=s, settings=settings(t)) for s in range(3) for t in LEVEL] + [
        Job(t, "shuffled", s, settings=settings("")) for s in range(3) for t in CLASSES
    ]
    rows += [Job(t, "released", s, settings=dict(steps=30, valid_every=10)) for s in range(3) for t in CLASSES]
    rows = [r for s in range(3) for r in rows if r.seed == s]  # a whole study of one seed comes first
    TABLE.parent.mkdir(exist_ok=True)
    return write_jobs(rows, TABLE)


def proteins(data):
    "Domains of 64 to 512 residues, with secondary structure where it is known"
    cath = data / "cath"
    domains = of_length(
        read_domains(cath / "cath-domain-list-S20-v4_3_0.txt", cath / "cath-dataset-nonredundant-S20-v4_3_0.fa")
    )
    return with_dssp(domains, read_dssp_table(data / "ss" / "s20_dssp_joined.tsv"))[0]


def target_of(asked, job, domains):
    return as_category(job.category, domains) if job.kind == "shuffled" else asked.category


def tests(asked, target, n):
    return sample_proteins(asked.parts.test, target, n, 0)


def write_fasta(path, proteins):
    "Proteins under their ids"
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as f:
        f.write_text("".join(f">{p.id}\n{p.sequence}\n" for p in proteins))


def write(table, path):
    "A gzipped CSV file, the same bytes for the same table"
    path.parent.mkdir(exist_ok=True)
    with whole_file(path) as f:
        f.write_bytes(gzip.compress(table.to_csv(index=False, float_format="%.6g").encode(), mtime=0))


def outside(data, domains):
    "Proteins of E. coli and yeast in which MMseqs2 finds no similarity to any domain; found once, and kept"
    file = RUNS / "outside.fa"
    if not file.exists():
        some = of_length([p for name in PROTEOMES for p in read_proteins(data / "corpus" / name)])
        some = [some[i] for i in numpy_rng(0, "outside CATH").permutation(len(some))[:N_SEARCHED]]
        alike = {*relatives(some, domains).id}
        write_fasta(file, [p for p in some if p.id not in alike][:N_OUTSIDE])
    return read_proteins(file)


def measured(data, domains, job):
    "What is done with a finished run: the losses of its subnetwork and its controls on test"

    def measure(run, asked):
        target = target_of(asked, job, domains)
        some, plm = tests(asked, target, N_CLASS if job.category in CLASSES else N_TEST), run.subnetwork.plm
        if job.kind == "trained":
            table = evaluate(run, replace(asked.parts, test=some), passes=1, draws=1)
        else:
            table = mlm_perplexity({"full": plm, job.kind: run.subnetwork}, some, passes=1)
        write(table, run.folder / "test.csv.gz")
        if target.name.startswith("random"):
            seen = sample_proteins(asked.parts.train, target, N_TEST, 0)
            write(
                mlm_perplexity({"full": plm, "subnetwork": run.subnetwork}, seen, passes=1), run.folder / "train.csv.gz"
            )
        if job.kind == "trained" and target.kind == "cath":
            models = {"full": plm, "subnetwork": run.subnetwork, "random": run.controls(1)["random"]}
            write(mlm_perplexity(models, outside(data, domains), passes=1), run.folder / "outside.csv.gz")

    return measure


def looking(plm, domains, job):
    "What is done at every validation: the losses of the mask, read hard and (released) sampled, on test"
    full = []

    def on_validation(here, asked, state):
        T, tau = temperature_at(state.step - 1, asked.config), asked.config.threshold

        def draw(i):
            sampled = state.mask.sample(T, tau, generator(i, "reading"))
            return HardMask({n: m.bool().cpu() for n, m in sampled.items()})

        models, some = (
            {"hard": Subnetwork(plm, state.mask.hard(T, tau))},
            tests(asked, target_of(asked, job, domains), N_ALONG),
        )
        with torch.no_grad():
            if job.kind == "released":
                models["sampled"] = [Subnetwork(plm, draw(i)) for i in range(3)]
        if not full:
            full.append(mlm_perplexity({"full": plm}, some, passes=1))  # the same at every validation
        table = pd.concat([*full, mlm_perplexity(models, some, passes=1)], ignore_index=True)
        write(table.assign(step=state.step), here / "along" / f"{state.step:05}.csv.gz")

    return on_validation


def run(data, plm, rows):
    "Train and measure what is missing"
    domains = proteins(data)
    for job in rows:
        follow = looking(plm, domains, job) if job.category in CLASSES and job.kind != "shuffled" else None
        state = sweep([job], plm, domains, RUNS, measured(data, domains, job), follow).iloc[0]
        print(
            f"{job}: {state.state}",
            *(f"{k} {state[k]:.3f}" for k in ("valid_S", "valid_D", "sparsity") if state.state == "done"),
            state.error,
            flush=True,
        )


def finished(data, plm, rows):
    "Job, Plan, target and folder of every run that is done"
    domains, out = proteins(data), []
    for job in rows:
        asked = prepare(job, domains, plm.n_layers)
        here = job_folder(job, plm, asked, RUNS)
        if (here / "measured.json").exists():
            out.append((job, asked, target_of(asked, job, domains), here))
        else:
            print("not done:", job)
    return out


def joined(done, word, file="test.csv.gz"):
    "The losses of all runs for a target: seeds and kinds in one table, the full model once"
    runs = [
        (job, pd.read_csv(here / file).assign(seed=job.seed))
        for job, _, _, here in done
        if job.category == word and (here / file).exists()
    ]
    whole = [
        t[~t.model.isin(["full", "unigram"])] if k else t.assign(seed=t.seed.where(~t.model.isin(["full", "unigram"])))
        for k, (_, t) in enumerate(runs)
    ]
    return pd.concat(whole, ignore_index=True)


def perplexity_of(result):
    "Perplexity of a target with its intervals, a row a model and group"
    result, frames = result[result.model.isin(["full", "subnetwork", "unigram"])], []
    for group in ("suppressed", "maintained"):
        nats = {"perplexity": "", "low": "_low", "high": "_high"}
        frame = pd.DataFrame({name: np.exp(result[f"value_{group}{end}"]) for name, end in nats.items()})
        frames.append(result[["model", "category", "level"]].join(frame).assign(group=group, n=result[f"n_{group}"]))
    return pd.concat(frames)[["model", "group", "n", "perplexity", "low", "high", "category", "level"]]


def levels(done):
    "S, D, margins and lost knowledge of every target, with all controls; perplexities"
    rows, perplexities = [], []
    for word in dict.fromkeys(job.category for job, *_ in done):
        target = next(t for job, _, t, _ in done if job.category == word)
        table = joined(done, word)
        rows.append(compare(table, target).assign(category=word, level=LEVEL[word], part="test"))
        perplexities.append(perplexity_of(rows[-1]))
        if word.startswith("random"):
            rows.append(
                compare(joined(done, word, "train.csv.gz"), target).assign(category=word, level="random", part="train")
            )
    table = pd.concat(rows, ignore_index=True)
    return {
        "levels": table.assign(margin_p_corrected=corrected(table.margin_p)),
        "perplexity": pd.concat(perplexities, ignore_index=True),
    }


def distances(done):
    "Change of the loss by distance from the target"
    nodes = [s for s in dict.fromkeys(job.category for job, *_ in done) if s[0].isdigit()]
    keep = ["full", "subnetwork", "random"]
    frames = []
    for s in nodes:
        table = pd.concat([joined(done, s), joined(done, s, "outside.csv.gz")], ignore_index=True)
        frames.append(by_distance(table[table.model.isin(keep)], cath_category(s)).assign(category=s))
    return {"distance": pd.concat(frames, ignore_index=True)}


def scored(table, target, reading):  # S and D of one reading at one validation
    proteins = table.groupby(["id", "code", "model"]).value.mean().unstack("model").reset_index()
    change, inside = proteins[reading] - proteins["full"], proteins.apply(target.holds, axis=1)
    return dict(S=change[inside].mean() - change[~inside].mean(), D=change[~inside].mean())


def along(done):
    "S and D along the runs of the classes; the comparison at matched damage"
    rows, best = [], {}
    for job, asked, target, here in done:
        log = {row["step"]: row for row in read_log(here) if "valid_S" in row}
        for file in sorted((here / "along").glob("*.csv.gz")):
            table = pd.read_csv(file)
            for reading in ("hard", "sampled"):
                if reading not in {*table.model}:
                    continue
                row = dict(
                    category=job.category,
                    kind=job.kind,
                    reading=reading,
                    seed=job.seed,
                    step=int(table.step[0]),
                    **scored(table, target, reading),
                )
                row |= dict(
                    proteins_seen=row["step"] * asked.config.accumulate * asked.config.batch_size,
                    sparsity=log[row["step"]]["sparsity"],
                )
                rows.append(row)
                for damage in DAMAGES:  # trained: chosen on valid; released: on test, in its favor
                    by = log[row["step"]] if job.kind == "trained" else dict(valid_S=row["S"], valid_D=row["D"])
                    key, order = (job.category, damage, f"{job.kind}, {reading}", job.seed), rank(by, damage)
                    if key not in best or order > best[key][0]:
                        best[key] = order, table, reading
    matched = []
    for word, damage in dict.fromkeys(k[:2] for k in best):
        masks = {k[2:]: v for k, v in best.items() if k[:2] == (word, damage)}
        tables = [
            t[t.model == reading].assign(model=name, seed=seed) for (name, seed), (_, t, reading) in masks.items()
        ]
        full = next(iter(masks.values()))[1]
        table = pd.concat([full[full.model == "full"].assign(seed=np.nan), *tables])
        matched.append(
            compare(table, cath_category(word), subnetwork="trained, hard").assign(category=word, damage_nats=damage)
        )
    return {"along": pd.DataFrame(rows), "matched": pd.concat(matched, ignore_index=True)}


def anatomy(done):
    "Where the zeros are, and what the masks share"
    masks = {
        f"{job.category} {job.kind} {job.seed}": load_mask(here / "mask.safetensors")
        for job, _, _, here in done
        if job.kind != "released"
    }
    zeros = pd.concat([zeros_of(m).assign(run=name) for name, m in masks.items()], ignore_index=True)
    return {"zeros": zeros, "overlap": overlap_table(masks, match="matrix")}


def report(data, plm, rows):
    "Write the tables that the pages read"
    done = finished(data, plm, rows)
    tables = {**levels(done), **distances(done), **along(done), **anatomy(done)}
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        with whole_file(RESULTS / f"{name}.csv") as f:
            table.to_csv(f, index=False, float_format="%.5g")
        print(f"{name}: {len(table)} rows, {(RESULTS / f'{name}.csv').stat().st_size / 1e3:.0f} KB")
    about = dict(
        command="python benchmarks/study.py report",
        runs=len(done),
        model=plm.name,
        fingerprint=plm.fingerprint,
        test_proteins=N_TEST,
        test_proteins_of_classes=N_CLASS,
        along_proteins=N_ALONG,
        split_seed=0,
    )
    write_json(RESULTS / "study.json", provenance("cpu", **about))


def page(data, plm, rows):
    "Write the page to browse the runs that are done"
    folders, names = [here for *_, here in finished(data, plm, rows)], data / "cath" / "cath-names-v4_2_0.txt"
    how = dict(n_heads=plm.n_heads, title=f"What masks remove from the model {plm.name}", overwrite=True)
    made = browse(folders, RESULTS / "browser.html", proteins(data), read_cath_names(names), **how)
    print(f"{made}: {len(folders)} runs, {made.stat().st_size / 1e6:.1f} MB")


def by_protein(done):
    "Losses of the test proteins of every run; of a residue run, of their suppressed and of their maintained residues"
    frames = []
    for job, _, target, here in done:
        table = pd.read_csv(here / "test.csv.gz")
        codes = table.drop_duplicates("id").set_index("id").code
        for group in groups_of(table, target):
            nats = pd.DataFrame(by_model(group.values, group.runs), columns=group.models)
            columns = dict(category=job.category, side=group.name, id=group.ids, code=codes[group.ids].to_numpy())
            frames.append(pd.DataFrame(columns).join(nats[["full", "subnetwork", "random", "unigram"]]))
    return pd.concat(frames, ignore_index=True)


def by_state(plm, done):
    "Losses of helix, strand and coil residues under a run on residues and the run on the class made of them, in the proteins held out of both"
    runs, frames = {job.category: (asked, here) for job, asked, _, here in done}, []
    for state, word in PAIRS.items():
        (asked, residue), (other, whole) = runs[state], runs[word]
        held = {p.id for p in other.parts.test}
        some = [p for p in asked.parts.test if p.id in held]
        models = {"full": plm} | {
            name: Subnetwork(plm, load_mask(here / "mask.safetensors"))
            for name, here in (("residue_run", residue), ("class_run", whole))
        }
        table = per_protein(mlm_perplexity(models, some, passes=N_PASSES))
        for s in STATES:
            rows = table[table[f"n_{s}"] > 0]
            wide = rows.pivot(index=["id", "code", f"n_{s}"], columns="model", values=f"{s}_nats").reset_index()
            wide = wide.rename(columns={f"n_{s}": "residues"}).assign(pair=state, state=s)
            frames.append(wide[["pair", "state", "id", "code", "residues", *models]])
    return pd.concat(frames, ignore_index=True)


def by_residue(data, plm, done):
    "Loss of every residue of real chains, hidden one by one, under the run on class 1; chains of domains held out of it"
    asked, here = next((asked, here) for job, asked, _, here in done if job.category == "1")
    run, folder = load_run(here, plm), data / "structures" / "backbone_pdb"
    models = {"full": plm, "subnetwork": run.subnetwork, "random": run.controls(1)["random"][0]}
    listed, frames = pd.read_csv(folder / "index.tsv", sep="\t").query("length >= 60"), []
    for row in listed[listed.cath_domain.isin([p.id for p in asked.parts.test])].itertuples():
        chain = read_chain(folder / f"{row.chain}.pdb")
        places = [i for i, letter in enumerate(chain.sequence) if letter in AMINO_ACIDS]
        nll = masked_nll(models, [chain.sequence] * len(places), [[i] for i in places], desc=None)
        states = states_of(assign_dssp(chain).dssp)
        what = dict(chain=row.chain, domain=row.cath_domain, code=row.cath, position=places)
        what["state"] = [states[i] for i in places]
        frames.append(pd.DataFrame(what | nll))
    return pd.concat(frames, ignore_index=True)


def panels(data, plm, rows):
    "Write the tables by protein and by residue that the figures read: trained runs of seed 0"
    done = finished(data, plm, [job for job in rows if job.kind == "trained" and job.seed == 0])
    tables = dict(proteins=by_protein(done), states=by_state(plm, done), residues=by_residue(data, plm, done))
    for name, table in tables.items():
        with whole_file(RESULTS / f"{name}.csv.gz") as f:
            f.write_bytes(gzip.compress(table.to_csv(index=False, float_format="%.4g").encode(), mtime=0))
        print(f"{name}: {len(table)} rows, {(RESULTS / f'{name}.csv.gz').stat().st_size / 1e3:.0f} KB")
    about = dict(command="python benchmarks/study.py panels", runs=len(done), seed=0, passes_by_state=N_PASSES)
    write_json(RESULTS / "panels.json", provenance("cpu", model=plm.name, fingerprint=plm.fingerprint, **about))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["jobs", "run", "report", "browse", "panels"])
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("--plm", default="mini")
    parser.add_argument("--row", type=int, help="only this row of the table, from 1")
    flags = parser.parse_args()
    if flags.what == "jobs":
        raise SystemExit(print(jobs()))
    rows, plm = read_jobs(TABLE), load_plm(flags.plm)
    if flags.row:
        rows = [rows[flags.row - 1]]
    dict(run=run, report=report, browse=page, panels=panels)[flags.what](flags.data, plm, rows)
