"""Do DSSP's own files, mkdssp and pydssp say the same of the same coordinates, in three states?

Six CATH domain files have a classic DSSP file beside them. Every residue of the file and of the coordinates is compared, by
residue number; a residue that only one of the two has counts as a difference.

    python benchmarks/dssp_agreement.py [FOLDER] [--all]

--all also compares mkdssp with pydssp on every structure of the folder (about a minute)."""

import argparse
import shutil
import sys
import time
from pathlib import Path

from plmsub.base.files import shared_dir
from plmsub.io.dssp import assign_dssp, read_dssp
from plmsub.io.structures import read_chain
from plmsub.proteins import states_of

BARS = dict(mkdssp=0.99, pydssp=0.95)


def compared(known, chain):
    "(residue, state, state) of every residue that one of the two has; '.' where it is absent or not assigned"
    a, b = (
        {number: (letter, state) for number, letter, state in zip(c.numbers, c.sequence, states_of(c.dssp))}
        for c in (known, chain)
    )
    both = [number for number in a if number in b]
    assert all(a[number][0] == b[number][0] for number in both), "residues differ"
    return [("{}{}".format(*number), a.get(number, "..")[1], b.get(number, "..")[1]) for number in {**a, **b}]


def row(name, pairs):
    "Count, fraction that agrees, and what differs"
    different = [f"{number}:{x}{y}" for number, x, y in pairs if x != y]
    shown = " ".join(different[:8]) + (" ..." if len(different) > 8 else "")
    return f"{name:18s}{len(pairs):7d}{1 - len(different) / len(pairs):9.4f}  {shown}".rstrip()


def structures(folder):
    "Kind -> files"
    cath = [f for f in (folder / "cath_domains").iterdir() if not f.suffix]
    return dict(cath_domains=sorted(cath)) | {
        kind: sorted((folder / kind).glob("*.pdb")) for kind in ("backbone_pdb", "pfam40")
    }


def beside(folder, program):
    "Print the comparison with the DSSP files; True where it passes"
    print(f"DSSP files and {program}: residues, fraction that agrees, differences (number: file, {program})")
    overall = []
    for file in sorted((folder / "cath_domains").glob("*.dssp")):
        pairs = compared(read_dssp(file), assign_dssp(read_chain(file.with_suffix("")), program))
        overall += pairs
        print(row(file.stem, pairs))
    agree = sum(x == y for _, x, y in overall) / len(overall)
    print(row("all", overall))
    print(f"{agree:.4f}, to reach {BARS[program]}: {'passed' if agree >= BARS[program] else 'NOT PASSED'}\n")
    return agree >= BARS[program]


def everywhere(folder):
    "Print how far mkdssp and pydssp agree on all structures"
    for kind, files in structures(folder).items():
        chains = [read_chain(f) for f in files]
        each = [compared(assign_dssp(c, "mkdssp"), assign_dssp(c)) for c in chains]
        fractions = sorted(sum(x == y for _, x, y in pairs) / len(pairs) for pairs in each)
        same = [x == y for pairs in each for _, x, y in pairs]
        print(
            f"{kind}: {len(chains)} chains, {len(same)} residues, mkdssp and pydssp agree on {sum(same) / len(same):.4f}; "
            f"by chain: lowest {fractions[0]:.3f}, median {fractions[len(fractions) // 2]:.3f}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="structures; by default the shared data's")
    parser.add_argument("--all", action="store_true")
    flags = parser.parse_args()
    folder = flags.folder or shared_dir() / "structures"
    start = time.perf_counter()
    chains = [read_chain(f) for files in structures(folder).values() for f in files]
    print(
        f"{len(chains)} structure files read, {sum(map(len, chains))} residues, {time.perf_counter() - start:.2f} s\n"
    )
    programs = [program for program in BARS if program == "pydssp" or shutil.which(program)]
    if "mkdssp" not in programs:
        print("mkdssp is not installed: not compared\n")
    passed = [beside(folder, program) for program in programs]
    if flags.all and "mkdssp" in programs:
        everywhere(folder)
    sys.exit(not all(passed))
