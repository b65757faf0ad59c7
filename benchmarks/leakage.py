"""What valid and test share with train in splits of the real CATH S20 set; time and memory of k-mers and of MMseqs2.

    python benchmarks/leakage.py [--out nbs/results/leakage.csv]

The memory is what the largest process has had at its peak; for k-mers that is more than before they were looked at."""

import argparse
import resource
import subprocess
import time
from pathlib import Path

import pandas as pd

from plmsub.base.files import shared_dir, write_json
from plmsub.base.runs import provenance
from plmsub.io.cath import read_domains
from plmsub.proteins import of_length
from plmsub.splits import MMSEQS, closest, leakage, split


def peak_MB(who):
    return resource.getrusage(who).ru_maxrss / 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("nbs/results/leakage.csv"))
    flags = parser.parse_args()
    cath = shared_dir() / "cath"
    domains = of_length(
        read_domains(cath / "cath-domain-list-S20-v4_3_0.txt", cath / "cath-dataset-nonredundant-S20-v4_3_0.fa")
    )
    tables = []
    for by in ("superfamily", "domain"):
        parts = split(domains, by=by)
        for kind, who in (("k-mers", resource.RUSAGE_SELF), ("mmseqs", resource.RUSAGE_CHILDREN)):
            before, start = peak_MB(resource.RUSAGE_SELF), time.perf_counter()
            closest(parts, kind)
            print(
                f"{by}, {kind}: {time.perf_counter() - start:.1f} s, peak {peak_MB(who):.0f} MB (this process before: {before:.0f} MB)",
                flush=True,
            )
        table, _ = leakage(parts)
        table.insert(0, "by", by)
        tables.append(table)
    table = pd.concat(tables)
    table.round(6).to_csv(flags.out, index=False)
    print(table.to_string(index=False))
    version = subprocess.run(["mmseqs", "version"], capture_output=True, text=True, check=True).stdout.strip()
    write_json(
        flags.out.with_suffix(".json"),
        provenance(command="python benchmarks/leakage.py", seed=0, mmseqs=MMSEQS, mmseqs_version=version),
    )
