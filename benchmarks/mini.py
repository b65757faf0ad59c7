"""The small real model `mini`: its corpus, its training, and what it is worth.

    python benchmarks/mini.py corpus ../shared/data     # about 8 minutes on two cores; needs MMseqs2
    python benchmarks/mini.py train                     # about 2 hours on two cores; can be stopped and started again
    python benchmarks/mini.py score ../shared/data      # about 10 minutes
    python benchmarks/mini.py ship                      # at once

Everything lies in runs/mini. `corpus` writes train.fa, valid.fa and the table of its sources, `train` is one plmsub_pretrain, `score` compares the model with what a language model has to
beat on the held-out superfamilies, and `ship` writes its card and puts both into plmsub/data."""

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from plmsub.base.files import read_json, sha256_file, whole_file, write_json
from plmsub.base.intervals import intervals, resampled_means
from plmsub.base.runs import provenance, read_log
from plmsub.base.seeds import numpy_rng
from plmsub.io.cath import read_domains
from plmsub.io.headers import read_proteins
from plmsub.models.baselines import CONTEXTS, composition_model, ece, ngram_losses, ngram_model, tuned_alpha, window_net
from plmsub.models.pretrain import read_sequences
from plmsub.models.weights import load_plm
from plmsub.proteins import Protein, of_length
from plmsub.splits import clusters, relatives, split
from plmsub.tasks.language_model import mlm_perplexity

OUT, RESULTS = Path("runs/mini"), Path("nbs/results/mini")
HELD_OUT = dict(by="superfamily", seed=0, fractions=(0.8, 0.05, 0.15))  # the split of CATH S20
UNIPROT, REFSEQ = "UniProt, CC BY 4.0", "NCBI, no restrictions"
SOURCES = {  # file in the folder corpus -> what, licence, why it is left out
    "UP000000625_83333.fasta": ("E. coli K-12, reference proteome", UNIPROT, ""),
    "UP000002311_559292.fasta": ("S. cerevisiae, reference proteome", UNIPROT, ""),
    "prokka_kingdom_Archaea_sprot.faa": ("Swiss-Prot, Archaea", UNIPROT, ""),
    "prokka_kingdom_Mitochondria_sprot.faa": ("Swiss-Prot, mitochondria", UNIPROT, ""),
    "prokka_kingdom_Viruses_sprot.faa": ("Swiss-Prot, viruses", UNIPROT, ""),
    "prokka_genus_Enterococcus.faa": ("RefSeq, Enterococcus", REFSEQ, ""),
    "prokka_genus_Staphylococcus.faa": ("RefSeq, Staphylococcus", REFSEQ, ""),
    "prokka_kingdom_Bacteria_AMR.faa": ("GenBank, resistance and virulence genes", REFSEQ, ""),
    "prokka_genus_Escherichia.faa": (
        "EcoCyc, E. coli K-12",
        "EcoCyc",
        "another copy of the first proteome, under a licence of its own",
    ),
    "prokka_kingdom_Bacteria_IS.faa": (
        "ISfinder, insertion sequences",
        "ISfinder",
        "no licence that allows passing on",
    ),
}
TIMES = 3  # that a CATH domain is seen while another sequence is seen once, since domains are what the model is for
TRAINING = "--name mini --n_layers 6 --dim 192 --n_heads 6 --max_residues 512 --mask_fraction .3 --batch_tokens 4096 --learning_rate 1e-3 --warmup_steps 100 --precision bfloat16 --local_start"


def held_out(data):
    "The split of CATH S20 that `mini` is trained and judged by"
    cath = data / "cath"
    return split(
        read_domains(cath / "cath-domain-list-S20-v4_3_0.txt", cath / "cath-dataset-nonredundant-S20-v4_3_0.fa"),
        **HELD_OUT,
    )


def write_fasta(path, proteins):
    "Proteins under their ids"
    with whole_file(path) as f:
        f.write_text("".join(f">{p.id}\n{p.sequence}\n" for p in proteins))


def residues(proteins):
    return sum(len(p) for p in proteins)


def corpus(data):
    "Read the sources, take out what resembles held-out domains, keep one of each cluster"
    parts = held_out(data)
    judges = [*parts.valid, *parts.test]
    rows = [dict(source="CATH v4.3.0 S20, training part", licence="CATH, CC BY 4.0", not_read=0, proteins=parts.train)]
    for file, (what, licence, out) in SOURCES.items():
        skipped = []
        read = read_proteins(data / "corpus" / file, skipped=skipped)
        rows.append(
            dict(
                source=what,
                licence=licence,
                left_out=out,
                not_read=len(skipped),
                proteins=[replace(p, id=f"{Path(file).stem}|{p.id}") for p in read],
            )
        )
    used = [row for row in rows if not row.get("left_out")]
    alike = set(relatives([p for row in used for p in row["proteins"]], judges).id)
    print(f"{len(alike):,} proteins resemble held-out domains", flush=True)
    for row in used:
        row["kept"] = [p for p in row["proteins"] if p.id not in alike]
    stands = clusters([p for row in used[1:] for p in row["kept"]])
    for row in used[1:]:
        row["used"] = [p for p in row["kept"] if stands[p.id] == p.id]
    used[0]["used"] = used[0]["kept"]
    OUT.mkdir(parents=True, exist_ok=True)
    domains, others = used[0]["used"], [p for row in used[1:] for p in row["used"]]
    copies = [Protein(f"{p.id}|copy {k}", p.sequence) for k in range(2, TIMES + 1) for p in domains]
    write_fasta(OUT / "train.fa", [*domains, *copies, *others])
    write_fasta(OUT / "valid.fa", of_length(parts.valid))
    table = pd.DataFrame(
        [
            dict(
                source=row["source"],
                licence=row["licence"],
                sequences=len(row["proteins"]),
                residues=residues(row["proteins"]),
                not_read=row["not_read"],
                resemble_held_out=len(row["proteins"]) - len(row["kept"]) if "kept" in row else None,
                used=len(row.get("used", [])),
                residues_used=residues(row.get("used", [])),
                left_out=row.get("left_out", ""),
            )
            for row in rows
        ]
    )
    table = table.astype({"resemble_held_out": "Int64"})
    print(table.to_string())
    RESULTS.mkdir(parents=True, exist_ok=True)
    with whole_file(RESULTS / "corpus.csv") as f:
        table.to_csv(f, index=False)
    about = dict(
        command="python benchmarks/mini.py corpus",
        held_out=HELD_OUT,
        times_cath=TIMES,
        superfamilies_held_out=len({d.code for d in judges}),
        domains_held_out=len(judges),
        train_sha256=sha256_file(OUT / "train.fa"),
        valid_sha256=sha256_file(OUT / "valid.fa"),
    )
    write_json(RESULTS / "corpus.json", provenance("cpu", **about))


def train(steps):
    "Pretrain the model, or go on with it"
    command = (
        f"plmsub_pretrain --sequences {OUT}/train.fa --valid {OUT}/valid.fa --out {OUT}/run {TRAINING} --steps {steps}"
    )
    print(command, flush=True)
    sys.exit(subprocess.run(command.split()).returncode)


def compared(data):
    "Losses on the held-out superfamilies: the model, and what a language model has to beat, fitted on the same sequences"
    test = of_length(held_out(data).test)
    sequences, valid = (read_sequences(OUT / file) for file in ("train.fa", "valid.fa"))
    models = {
        "mini": load_plm(OUT / "run" / "mini.safetensors"),
        "composition": composition_model(sequences, valid),
        "window net": window_net(sequences, valid),
    }
    tables = [mlm_perplexity(models, test)]
    for n in range(1, 6):
        for context in CONTEXTS if n > 1 else CONTEXTS[:1]:
            alpha, _ = tuned_alpha(sequences, valid, n, context)
            tables.append(ngram_losses(ngram_model(sequences, n, alpha), test, contexts=(context,)))
            print(tables[-1].model[0], "alpha", alpha, flush=True)
    return pd.concat(tables, ignore_index=True)


def compared_with_mini(table, n_boot=2000):
    "Perplexity and mini's divided by it, with intervals that draw superfamilies again"
    wide = table.groupby(["id", "code", "model"], sort=False).value.mean().unstack("model")
    families, mean = wide.index.get_level_values("code").to_numpy(), wide.mean()
    drawn = resampled_means(wide.to_numpy(), families, n_boot, numpy_rng(0, "superfamilies"))
    mine, n = drawn[:, [list(wide).index("mini")]], len(set(families))
    bounds = [
        pd.DataFrame(np.exp(intervals(values, n)), columns=names)
        for values, names in ((drawn, ["low", "high"]), (mine - drawn, ["ratio_low", "ratio_high"]))
    ]
    rows = pd.concat(
        [
            pd.DataFrame(
                dict(
                    model=mean.index,
                    perplexity=np.exp(mean.to_numpy()),
                    mini_over_it=np.exp(mean["mini"] - mean.to_numpy()),
                )
            ),
            *bounds,
        ],
        axis=1,
    )
    columns = ["model", "perplexity", "low", "high", "mini_over_it", "ratio_low", "ratio_high"]
    return rows[columns].merge(ece(table)[["model", "ece"]], on="model").sort_values("perplexity", ignore_index=True)


def score(data):
    "The table of perplexities"
    table = compared_with_mini(compared(data))
    print(table.round(3).to_string())
    with whole_file(RESULTS / "perplexity.csv") as f:
        table.to_csv(f, index=False, float_format="%.5g")


def ship():
    "The model and its card, from the tables of the other steps, into the package"
    log, config = read_log(OUT / "run"), read_json(OUT / "run" / "config.json")["config"]
    with whole_file(RESULTS / "log.csv") as f:
        pd.DataFrame([r for r in log if "valid_perplexity" in r]).to_csv(f, index=False, float_format="%.5g")
    model, corpus, scores = (
        OUT / "run" / "mini.safetensors",
        read_json(RESULTS / "corpus.json"),
        pd.read_csv(RESULTS / "perplexity.csv"),
    )
    if sha256_file(OUT / "train.fa") != corpus["train_sha256"]:
        raise SystemExit("nbs/results/mini/corpus.json is of another corpus: run corpus first")
    card = dict(
        name="mini",
        about="A small ESM-2-shaped model of real proteins, trained by masked language modeling",
        sources=pd.read_csv(RESULTS / "corpus.csv", keep_default_na=False).to_dict("records"),
        held_out=corpus,
        config=config,
        residues_seen=config["steps"] * config["batch_tokens"],
        bytes=model.stat().st_size,
        sha256=sha256_file(model),
        perplexity=scores.to_dict("records"),
        command="python benchmarks/mini.py corpus, train, score, ship",
    )
    write_json(RESULTS / "mini.json", provenance("cpu", **card))
    for source, name in ((model, "mini.safetensors"), (RESULTS / "mini.json", "mini.json")):
        with whole_file(Path("plmsub/data") / name) as f:
            f.write_bytes(source.read_bytes())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["corpus", "train", "score", "ship"])
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("--steps", type=int, default=7000)
    flags = parser.parse_args()
    if flags.what == "corpus":
        corpus(flags.data)
    if flags.what == "train":
        train(flags.steps)
    if flags.what == "score":
        score(flags.data)
    if flags.what == "ship":
        ship()
