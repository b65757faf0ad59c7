"""Mean representations of the same proteins by plmsub, by fair-esm and by transformers.

    python benchmarks/embed_speed.py [--rounds 5] [--proteins 96] [--shapes 6,320,20 12,480,20] [--out nbs/results]

Random weights in the shapes of ESM-2 8M and 35M, the same in all three; proteins of CATH S20 drawn at random. fair-esm runs as its extract.py does (its own data set, batches of at
most 4,096 tokens, its module). transformers runs `EsmModel` on batches of 16 in the order of the file, and on the batches of plmsub, of like length. Everything in turns in one process and
on one thread, in memory; shown are medians of the ratios of CPU seconds to those of plmsub, with their range."""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from esm import Alphabet, FastaBatchedDataset
from transformers import EsmModel

from plmsub.base.files import shared_dir, whole_file, write_json
from plmsub.base.runs import provenance
from plmsub.base.seeds import numpy_rng
from plmsub.batches import encode, token_batches
from plmsub.io.cath import read_domains
from plmsub.models.embed import residue_states
from plmsub.models.export import export_transformers
from plmsub.plm import tiny_esm2
from plmsub.proteins import of_length

NAMES = {"6,320,20": "8M", "12,480,20": "35M"}
TOKENS = 4096  # of a batch


def ours(plm, proteins):
    found = {
        i: states[plm.n_layers].mean(0) for i, states in residue_states(plm, proteins, batch_tokens=TOKENS, desc=None)
    }
    return torch.stack([found[i] for i in range(len(proteins))])


@torch.no_grad()
def by_fairesm(module, proteins):
    "The loop of fair-esm's extract.py"
    names, sequences = [str(i) for i in range(len(proteins))], [p.sequence for p in proteins]
    data, found = FastaBatchedDataset(names, sequences), {}
    batches = data.get_batch_indices(TOKENS, extra_toks_per_seq=1)
    convert = Alphabet.from_architecture("ESM-1b").get_batch_converter(1022)
    for labels, texts, tokens in torch.utils.data.DataLoader(data, collate_fn=convert, batch_sampler=batches):
        states = module(tokens, repr_layers=[module.num_layers])["representations"][module.num_layers]
        found |= {int(name): states[k, 1 : len(text) + 1].mean(0) for k, (name, text) in enumerate(zip(labels, texts))}
    return torch.stack([found[i] for i in range(len(proteins))])


@torch.no_grad()
def by_transformers(module, proteins, batches):
    "EsmModel on some batches"
    found = {}
    for rows in batches:
        tokens = encode([proteins[i].sequence for i in rows])
        states = module(tokens, attention_mask=tokens.ne(1).long()).last_hidden_state
        found |= {i: states[k, 1 : len(proteins[i].sequence) + 1].mean(0) for k, i in enumerate(rows)}
    return torch.stack([found[i] for i in range(len(proteins))])


def measure(shape, proteins, rounds):
    "Ratios of CPU seconds, a row a way"
    plm = tiny_esm2(*map(int, shape.split(",")))
    with tempfile.TemporaryDirectory() as folder:
        hosted = EsmModel.from_pretrained(export_transformers(plm, Path(folder) / "hf"), add_pooling_layer=False).eval()
    in_order = [range(k, min(k + 16, len(proteins))) for k in range(0, len(proteins), 16)]
    alike = token_batches([len(p.sequence) for p in proteins], TOKENS)
    mixed, module = plm.tuned(mixed=True), plm.fairesm()
    ways = {
        "plmsub": lambda: ours(plm, proteins),
        "plmsub, mixed precision": lambda: ours(mixed, proteins),
        "fair-esm": lambda: by_fairesm(module, proteins),
        "transformers": lambda: by_transformers(hosted, proteins, in_order),
        "transformers, in the batches of plmsub": lambda: by_transformers(hosted, proteins, alike),
    }
    seconds, vectors = [], {}
    for k in range(rounds + 1):  # one to warm up
        took = {}
        for name in ways if k % 2 else reversed(ways):
            start = time.process_time()
            vectors[name] = ways[name]()
            took[name] = time.process_time() - start
        seconds.append(took)
    table, rows = pd.DataFrame(seconds[1:]), []
    for name in ways:
        ratio = table[name] / table["plmsub"]
        apart = float((vectors[name] - vectors["plmsub"]).abs().max() / vectors["plmsub"].std())
        row = dict(
            shape=NAMES.get(shape, shape), way=name, by_plmsub=ratio.median(), least=ratio.min(), most=ratio.max()
        )
        rows.append(
            row
            | dict(residues_a_second=sum(len(p.sequence) for p in proteins) / table[name].median(), difference=apart)
        )
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--proteins", type=int, default=96)
    parser.add_argument("--shapes", nargs="+", default=list(NAMES), help="layers, width, heads")
    parser.add_argument("--out", type=Path, default=Path("nbs/results"))
    flags, cath = parser.parse_args(), shared_dir() / "cath"
    torch.set_num_threads(1)
    domains = of_length(
        read_domains(cath / "cath-domain-list-S20-v4_3_0.txt", cath / "cath-dataset-nonredundant-S20-v4_3_0.fa")
    )
    some = [domains[i] for i in numpy_rng(0, "embed speed").choice(len(domains), flags.proteins, replace=False)]
    table = pd.DataFrame([row for shape in flags.shapes for row in measure(shape, some, flags.rounds)])
    assert (table.difference[~table.way.str.contains("mixed")] < 1e-4).all() and np.isfinite(table.by_plmsub).all()
    print(table.to_string(index=False))
    with whole_file(flags.out / "embed_speed.csv") as f:
        table.to_csv(f, index=False, float_format="%.4g")
    command = f"python benchmarks/embed_speed.py --rounds {flags.rounds} --proteins {flags.proteins}"
    write_json(flags.out / "embed_speed.json", provenance("cpu", command=command, threads=1))
