"Made-up results as a folder in the release's layout, with CATH files and structures: for tests and benchmarks"

from pathlib import Path

import numpy as np
import pandas as pd

from plmsub.base.files import progress
from plmsub.base.seeds import numpy_rng
from plmsub.io.structures import Chain, ideal_backbone, write_pdb
from plmsub.io.toy import clf_text, fasta_text
from plmsub.paper.released import write_results
from plmsub.paper.results import STATE_CLASS, made_up_tables
from plmsub.proteins import AMINO_ACIDS, Domain, states_of

ANGLES = {"h": (-57, -47), "e": (-120, 130), "c": (-80, 140)}
LETTERS = {"1": "H", "2": "E", "3": "HE"}  # class -> secondary structure


def made_up_domain(row):
    "A domain with a random sequence and the secondary structure of its class"
    rng, kinds, dssp = numpy_rng("made-up domain", row.id), LETTERS[row.code[0]], ""
    while len(dssp) < row.length:
        for kind in kinds:
            longest = 16 if kind == "H" else 8
            dssp += "C" * int(rng.integers(3, 8)) + kind * int(rng.integers(longest // 2, longest))
    sequence = "".join(AMINO_ACIDS[k] for k in rng.integers(0, 20, row.length))
    return Domain(row.id, sequence, code=row.code, boundary=f"1-{row.length}", dssp=dssp[: row.length])


def write_structures(folder, domains, run, spread_deg, mean, lower="", less=0):
    "Backbones with the secondary structure of the domains, more or less, and pLDDT that is lower in one state"
    for d in domains:
        rng, states = numpy_rng("made-up structure", run, d.id), states_of(d.dssp)
        noise = rng.normal(0, spread_deg, (len(d), 2))
        atoms = ideal_backbone(np.array([ANGLES[s] for s in states]) + noise)
        values = mean(d) - less * np.array([s == lower for s in states]) + rng.normal(0, 6, len(d))
        chain = Chain(d.sequence, atoms - atoms.mean((0, 1)), b_factors=values.clip(5, 99).round(2))
        write_pdb(chain, Path(folder) / f"{d.id}.pdb")


def made_up_folder(folder, n_domains=300, passes=2, seed=0, n_pdbs=0):
    "Write folder/results, folder/cath and, with structures, folder/natives; the folder results and its domains"
    tables, folder = made_up_tables(n_domains, passes, seed), Path(folder)
    rows = list(tables["domains"].itertuples())
    domains = [made_up_domain(row) for row in progress(rows, desc="domains")]
    (folder / "cath").mkdir(parents=True)
    (folder / "cath/cath.clf").write_text(clf_text(domains).replace("The toy proteome of plmsub", "Made up"))
    (folder / "cath/cath.fa").write_text(fasta_text(domains))
    (folder / "cath/dssp.fa").write_text(fasta_text(domains, "dssp"))
    runs, texts = tables["runs"], dict(run=str, id=str)
    losses, scores = tables["perplexity"].astype(texts).round(4), tables["structure"].astype(texts).round(4)
    sets = tables["suppressed"].astype(texts).groupby("run").id.agg(list)
    train = set(tables["train"].id.astype(str))
    splits = []
    for row in runs.itertuples():  # what a random run suppresses is in train, and appended to valid
        part = ["train" if d.id in train else "valid" for d in domains]
        splits.append(pd.DataFrame(dict(run=row.run, id=[d.id for d in domains], part=part)))
        if row.level == "random":
            splits.append(pd.DataFrame(dict(run=row.run, id=sets[row.run], part="valid")))
    configs = {run: dict(made_up=True) for run in runs.run}
    place = write_results(folder, runs, losses, scores, pd.concat(splits), sets.to_dict(), configs)
    held_out = [d for d in domains if d.id not in train and d.code[0] in STATE_CLASS.values()]
    shown = [held_out[i] for i in numpy_rng(seed, "made-up structures").permutation(len(held_out))[:n_pdbs]]
    write_structures(folder / "natives", shown, "native", 0, lambda d: 90)
    write_structures(place / "esmfold_650M_pdbs", shown, "", 5, lambda d: 80)
    for state, number in STATE_CLASS.items():
        of_state, of_class = (
            place / "subnetworks" / f"{r}/folded/pred" for r in (f"residue-{state}", f"class-{number}")
        )
        write_structures(of_state, shown, state, 15, lambda d: 75, "h" if state == "helix" else "e", 30)
        write_structures(of_class, shown, number, 15, lambda d, c=number: 45 if d.code[0] == c else 75)
    return place, domains
