"""Reading of real structures, agreement of scores with TMalign, pairs per second, and pydssp against mkdssp by state

    python benchmarks/structure.py [self] [tmalign] [speed] [dssp] [--cpp PROGRAM] [--folder FOLDER] [--out nbs/results]

Without a word, all four. FOLDER holds cath_domains, backbone_pdb and pfam40 as the shared data do, which are the default.
TMalign and mkdssp are Debian's packages tm-align and dssp. That TMalign is built from the Fortran source of its release; PROGRAM
is one that is built from the C++ source beside it: apt-get source tm-align; g++ -O3 -ffast-math -o PROGRAM TMalign.cpp"""

import argparse
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from plmsub.base.errors import PlmsubError
from plmsub.base.files import progress, shared_dir, whole_file, write_json
from plmsub.base.runs import provenance
from plmsub.base.seeds import numpy_rng
from plmsub.io.dssp import assign_dssp
from plmsub.io.structures import read_chain, write_pdb
from plmsub.proteins import states_of
from plmsub.tasks.structure import lddt, rmsd, score_folder, ss_agreement, tm_score

LIMIT = 0.002  # largest difference of a TM-score
PAIRS, RESIDUES, PROCESSES, SECONDS = 1000, 150, 2, 60


def structures(folder):
    "Files of all structures"
    cath = [f for f in (folder / "cath_domains").iterdir() if not f.suffix]
    return sorted(cath) + [f for kind in ("backbone_pdb", "pfam40") for f in sorted((folder / kind).glob("*.pdb"))]


def read_all(folder):
    "File -> chain of all that can be read; and the errors of the others"
    chains, refused = {}, []
    for file in structures(folder):
        try:
            chains[file] = read_chain(file)
        except PlmsubError as e:
            refused.append(str(e))
    return chains, refused


def shaken(chain, sd, *seed):
    "Coordinates with noise that neighbours share, of standard deviation `sd` in Angstrom"
    noise = numpy_rng(0, *seed).normal(size=(len(chain) + 6, 3))
    smooth = np.stack([np.convolve(noise[:, k], np.ones(7) / 7**0.5, "valid") for k in range(3)], 1)
    return replace(chain, atoms=chain.atoms + sd * smooth[:, None])


def save(table, name, flags, **about):
    "Table and provenance"
    with whole_file(flags.out / f"{name}.csv") as f:
        table.to_csv(f, index=False)
    write_json(
        flags.out / f"{name}.json", provenance(command=f"python benchmarks/structure.py {name.split('_')[1]}", **about)
    )


# --- Every structure with itself


def alone(flags):
    chains, refused = read_all(flags.folder)
    rows = [dict(tm_score(c, c), rmsd_all_A=rmsd(c, c), lddt=lddt(c, c)) for c in progress(list(chains.values()))]
    table = pd.DataFrame(rows)
    lowest, largest = table[["tm_score", "tm_score_model", "lddt"]].min(), table[["rmsd_A", "rmsd_all_A"]].max()
    print(f"{len(chains)} of {len(chains) + len(refused)} files read", *refused, sep="\n")
    print(
        "with themselves, lowest:",
        *(f"{k} {v:.6f}" for k, v in lowest.items()),
        "largest:",
        *(f"{k} {v:.2g}" for k, v in largest.items()),
    )
    return len(chains) >= 320 and lowest.min() > 0.999999 and largest.max() < 1e-3


# --- TMalign


def by_tmalign(model, native, program="TMalign"):
    "What the program TMalign prints of two files"
    text = subprocess.run([program, model, native], capture_output=True, text=True, check=True).stdout
    tm = {
        name: float(x)
        for x, name in re.findall(r"TM-score= *([0-9.]+) \(if normalized by length of (Chain_[12])", text)
    }
    n, d, same = re.search(
        r"Aligned length= *(\d+), RMSD= *([0-9.]+), Seq_ID=n_identical/n_aligned= *([0-9.]+)", text
    ).groups()
    return dict(
        tm_score=tm["Chain_2"],
        tm_score_model=tm["Chain_1"],
        rmsd_A=float(d),
        aligned=int(n),
        identity=float(same),
        version=re.search(r"Version (\d+)", text)[1],
    )


def pairs_of(chains, folder):
    "(kind, first, second): the same entry, one superfamily, a shaken copy, and any two"
    names = {f.stem: f for f in chains}
    index = pd.read_csv(folder / "backbone_pdb" / "index.tsv", sep="\t")
    for _, group in index.groupby("cath"):
        for a, b in combinations([names[c] for c in group.chain if c in names], 2):
            yield "one superfamily", a, chains[a], b, chains[b]
    files = list(chains)
    rng = numpy_rng(0, "pairs")
    for i, k in enumerate(rng.permutation(len(files))[:100]):
        sd = (0.5, 1, 2, 4)[i % 4]
        yield f"copy shaken by {sd} Å", None, shaken(chains[files[k]], sd, "copy", i), files[k], chains[files[k]]
    for i, k in rng.integers(len(files), size=(100, 2)):
        yield "any two", files[i], chains[files[i]], files[k], chains[files[k]]


def tmalign(flags):
    chains, _ = read_all(flags.folder)
    programs, both, rows = (
        dict(debian="TMalign") | (dict(cpp=flags.cpp) if flags.cpp else {}),
        ["tm_score", "tm_score_model"],
        [],
    )
    with tempfile.TemporaryDirectory() as place:
        a, b = Path(place) / "a.pdb", Path(place) / "b.pdb"
        for kind, file, model, native_file, native in progress(list(pairs_of(chains, flags.folder))):
            write_pdb(replace(model, name="A", numbers=()), a)
            write_pdb(replace(native, name="A", numbers=()), b)
            row = dict(
                kind=kind,
                model=(file or native_file).stem,
                native=native_file.stem,
                n_model=len(model),
                n_native=len(native),
            )
            row |= tm_score(read_chain(a), read_chain(b))
            for name, program in programs.items():
                theirs = by_tmalign(a, b, program)
                row |= {f"{name}_{k}": theirs[k] for k in both} | {
                    f"{name}_difference": max(abs(row[k] - theirs[k]) for k in both)
                }
            if file:
                row["as_read_difference"] = abs(by_tmalign(file, native_file)["tm_score"] - row["debian_tm_score"])
            rows.append(row)
        versions = {name: by_tmalign(a, b, program)["version"] for name, program in programs.items()}
    table = pd.DataFrame(rows).round(5)
    save(table, "structure_tmalign", flags, tmalign=versions)
    for name in programs:
        d = table[f"{name}_difference"]
        print(f"{name}: {(d <= LIMIT).sum()} of {len(table)} pairs within {LIMIT}, largest difference {d.max():.5f}")
        print(
            table.assign(over=d > LIMIT)
            .groupby("kind", sort=False)
            .agg(pairs=("over", "size"), over=("over", "sum"), largest=(d.name, "max"))
        )
    print(
        "TMalign reads another chain from the file itself:",
        *table[table.as_read_difference > LIMIT][["model", "native"]].values.tolist(),
    )
    return (table.debian_difference <= LIMIT).sum() >= 100


# --- Pairs per second


def speed(flags):
    chains = [c for c in read_all(flags.folder)[0].values() if len(c) >= 130]
    with tempfile.TemporaryDirectory() as place:
        models, natives = Path(place) / "models", Path(place) / "natives"
        for i in range(PAIRS):
            whole = chains[i % len(chains)]
            native = replace(whole[:RESIDUES], name="A", b_factors=np.full(min(len(whole), RESIDUES), 80.0))
            write_pdb(native, natives / f"{i:04d}")
            write_pdb(shaken(native, (0.3, 1, 3)[i % 3], "speed", i), models / f"{i:04d}.pdb")
        start, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        table = score_folder(models, natives, processes=PROCESSES)
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    assert (table.error == "").all()
    row = dict(
        pairs=len(table),
        residues_mean=round(float(table.n_residues.mean()), 1),
        processes=PROCESSES,
        seconds=round(seconds, 1),
        cpu_seconds=round(cpu, 1),
    )
    print(row)
    save(pd.DataFrame([row]), "structure_speed", flags)
    return seconds <= SECONDS


# --- pydssp against mkdssp


def dssp(flags):
    chains = list(read_all(flags.folder)[0].values())
    both = [(assign_dssp(c).dssp, assign_dssp(c, "mkdssp").dssp) for c in progress(chains)]
    pydssp, mkdssp = ("".join(text) for text in zip(*both))
    table = ss_agreement(pydssp, mkdssp).rename(columns=dict(n_native="n_mkdssp", n_predicted="n_pydssp"))
    save(table, "structure_dssp", flags, chains=len(chains))
    pairs = pd.DataFrame(dict(mkdssp=[*mkdssp.replace("P", "C")], pydssp=[*states_of(pydssp)]))
    counts = pd.crosstab(pairs.mkdssp, pairs.pydssp).reindex(index=[*"HGIEBTSC."], columns=[*"hec."], fill_value=0)
    letters = (
        counts.rename_axis(None, axis=1)
        .rename(columns={"h": "helix", "e": "strand", "c": "coil", ".": "none"})
        .reset_index()
    )
    save(letters, "structure_dssp_letters", flags, chains=len(chains))
    q3 = [ss_agreement(a, b).recall.iloc[-1] for a, b in both]
    print(
        table.round(4), letters, f"{len(chains)} chains, Q3 lowest {min(q3):.3f}, median {np.median(q3):.3f}", sep="\n"
    )
    return True


PARTS = dict(self=alone, tmalign=tmalign, speed=speed, dssp=dssp)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART")
    parser.add_argument("--cpp", metavar="PROGRAM")
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=Path("nbs/results"))
    flags = parser.parse_args()
    flags.folder = flags.folder or shared_dir() / "structures"
    for program, part in (("TMalign", "tmalign"), ("mkdssp", "dssp")):
        if part in (flags.parts or PARTS) and not shutil.which(program):
            sys.exit(f"{program} is not installed")
    passed = {part: PARTS[part](flags) for part in flags.parts or PARTS}
    print(passed)
    sys.exit(not all(passed.values()))
