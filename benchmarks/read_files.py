"""Time and peak memory of reading every real file, each kind in a fresh process.

    python benchmarks/read_files.py [FOLDER] [--runs 3] [--out nbs/results]

FOLDER holds CATH, DSSP, structures, scans and FASTA files as the shared data do, which are the default."""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import pandas as pd

from plmsub.base.files import shared_dir, whole_file, write_json
from plmsub.base.runs import provenance

# what | files, relative to the folder | code that reads them all into `found`, given `files`
KINDS = [
    ("CATH domain list", "cath/cath-domain-list-*.txt", "from plmsub.cath import read_clf; found = read_clf(files[0])"),
    ("CATH sequences", "cath/*.fa", "from plmsub.cath import read_cath_fasta; found = read_cath_fasta(files[0])"),
    (
        "CATH names",
        "cath/cath-names-*.txt",
        "from plmsub.cath import read_cath_names; found = read_cath_names(files[0])",
    ),
    ("DSSP strings", "ss/*.tsv", "from plmsub.dssp import read_dssp_table; found = read_dssp_table(files[0])"),
    (
        "DSSP files",
        "structures/cath_domains/*.dssp",
        "from plmsub.dssp import read_dssp; found = [read_dssp(f) for f in files]",
    ),
    (
        "CATH domain files",
        "structures/cath_domains/???????",
        "from plmsub.coordinates import read_chain; found = [read_chain(f) for f in files]",
    ),
    (
        "backbone PDB files",
        "structures/backbone_pdb/*.pdb",
        "from plmsub.coordinates import read_chain; found = [read_chain(f) for f in files]",
    ),
    (
        "whole PDB files",
        "structures/pfam40/*.pdb",
        "from plmsub.coordinates import read_chain; found = [read_chain(f) for f in files]",
    ),
    (
        "UniProt proteomes",
        "corpus/UP*.fasta",
        'from plmsub.headers import read_proteins; found = [p for f in files for p in read_proteins(f, "uniprot")]',
    ),
    (
        "Prokka proteins",
        "corpus/prokka_*.faa",
        'from plmsub.headers import read_proteins; found = [p for f in files for p in read_proteins(f, "prokka", skipped=refused)]',
    ),
    (
        "DeepLocPro sequences",
        "localisation/deeplocpro*.fasta",
        'from plmsub.headers import read_proteins; found = read_proteins(files[0], "deeplocpro")',
    ),
    (
        "plain FASTA",
        "localisation/la_query*.fasta",
        "from plmsub.headers import read_proteins; found = read_proteins(files[0])",
    ),
    ("labels", "localization/*_labels.txt", 'from plmsub.cath import read_labels; found = read_labels(files[0], ",")'),
    (
        "mutational scans",
        "dms/*_metadata.csv",
        "from plmsub.io.variants import read_variants; found = [v for f in files for v in read_variants(f).itertuples()]",
    ),
    ("list of scans", "dms/assays.csv", "from plmsub.io.variants import read_assays; found = read_assays(files[0])"),
]

CODE = """
import json, resource, sys, time
import numpy, pandas, plmsub.core
files, refused = sys.argv[1:], [] # records that are no proteins, where the reader is asked to go on
start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
{read}
print(json.dumps(dict(records=len(found), refused=len(refused), seconds=time.perf_counter() - start,
                      peak_MB=(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)/1024)))
"""


def measure(read, files, runs):
    "Records, median seconds and largest rise in memory over some fresh processes"
    code = CODE.format(read=read)
    found = [
        json.loads(
            subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=True).stdout
        )
        for _ in range(runs)
    ]
    return dict(
        records=found[0]["records"],
        refused=found[0]["refused"],
        seconds=round(statistics.median(f["seconds"] for f in found), 2),
        peak_MB=round(max(f["peak_MB"] for f in found)),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=shared_dir())
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("nbs/results"))
    flags, rows = parser.parse_args(), []
    for what, pattern, read in KINDS:
        files = sorted(str(f) for f in flags.folder.glob(pattern))
        if not files:
            sys.exit(f"no file {flags.folder / pattern}")
        megabytes = round(sum(Path(f).stat().st_size for f in files) / 1e6, 2)
        rows.append(dict(what=what, files=len(files), megabytes=megabytes, **measure(read, files, flags.runs)))
        print(rows[-1], flush=True)
    with whole_file(flags.out / "reading.csv") as f:
        pd.DataFrame(rows).to_csv(f, index=False)
    write_json(flags.out / "reading.json", provenance(command=f"python benchmarks/read_files.py --runs {flags.runs}"))
