"""Time to draw every panel of the paper, from the released layout and from a folder of own runs, at the size of the paper.

    python benchmarks/figures.py [--domains 8885] [--passes 10] [--structures 200] [--folder FOLDER] [--out nbs/results]

38 runs, made up. `plmsub_figures` is run as from the shell, start of Python included: once for each layout before the structures of
Figures 3F and 3G were ever read, and once after. FOLDER keeps what was made for the next time; the files take about a gigabyte."""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from plmsub.base.files import progress, whole_file, write_json
from plmsub.base.runs import provenance
from plmsub.categories import as_category
from plmsub.paper.released import read_perplexity, read_runs, read_splits, read_structure
from plmsub.train import TrainConfig

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from made_up import made_up_folder  # noqa: E402

SECONDS = 60  # bar for all panels
CODE = "from plmsub.app.commands import plmsub_figures\nplmsub_figures.main()\n"


def own_runs(released, folder, domains):
    "The same results as `plmsub_train`, `plmsub_eval`, `plmsub_fold` and `plmsub_tm` would leave them"
    files = {
        k: str((released.parent / "cath" / name).resolve())
        for k, name in dict(domains="cath.clf", fasta="cath.fa", dssp="dssp.fa").items()
    }
    command = dict(files, plm="none", headers="", final_stop=False, skip=False)
    command |= dict(min_length=1, max_length=10**6, dash="unassigned", dssp_by="")
    full, structure = read_perplexity(released, [""]), read_structure(released).set_index("run")
    for row in progress(list(read_runs(released).itertuples()), desc="own runs"):
        place, source = folder / row.run, released / "subnetworks" / row.run
        category = as_category(f"random:{row.size}" if row.level == "random" else row.target, domains)
        parts = read_splits(released, [row.run]).drop_duplicates("id")
        place.mkdir(parents=True)
        write_json(
            place / "config.json", dict(config=asdict(TrainConfig()), category=category.to_dict(), command=command)
        )
        write_json(
            place / "result.json", dict(valid_S=1.0, valid_D=0.05, sparsity=row.sparsity_percent / 100, step=row.steps)
        )
        write_json(
            place / "split.json",
            dict(
                {p: sorted(parts.id[parts.part == p]) for p in ("train", "valid", "test")},
                by="domain",
                seed=0,
                suppressed_by=None,
            ),
        )
        (place / "mask.safetensors").write_bytes(b"")  # a figure looks at no weight
        both = pd.concat([full.assign(model="full"), read_perplexity(released, [row.run]).assign(model="subnetwork")])
        write_json(
            place / "all" / "evaluation.json", dict(part="all", n=both.id.nunique(), passes=both["pass"].nunique())
        )
        both.drop(columns=["run", "perplexity"]).assign(draw=0).to_csv(place / "all" / "perplexity.csv", index=False)
        (place / "folded").mkdir()
        structure.loc[row.run].to_csv(place / "folded" / "subnetwork.csv", index=False)
        structure.loc[""].to_csv(place / "folded" / "full.csv", index=False)
        if (source / "folded").is_dir():
            shutil.copytree(source / "folded" / "pred", place / "folded" / "subnetwork")
            shutil.copytree(released / "esmfold_650M_pdbs", place / "folded" / "full")


def measure(layout, folder, domains, natives, flags):
    "Seconds of plmsub_figures, and its memory"
    out, env = folder.parent / f"figures-{layout}", dict(os.environ, PLMSUB_QUIET="1", MPLBACKEND="Agg")
    with tempfile.TemporaryDirectory() as place:
        script, said, start = Path(place) / "draw.py", Path(place) / "said", time.perf_counter()
        script.write_text(CODE)
        with open(said, "w") as f:
            child = subprocess.Popen(
                [sys.executable, script, folder, "--out", out, "--natives", natives, *domains], env=env, stdout=f
            )
        _, status, used = os.wait4(child.pid, 0)
        wall, said = time.perf_counter() - start, said.read_text()
    assert status == 0, said
    drawn = [line for line in said.splitlines() if " drawn" in line and "not drawn" not in line]
    assert len(drawn) == 14, said
    return dict(
        layout=layout,
        runs=38,
        passes=flags.passes,
        domains=flags.domains,
        structures=flags.structures,
        pictures=3 * len(drawn),
        seconds=round(wall, 1),
        cpu_seconds=round(used.ru_utime + used.ru_stime, 1),
        peak_GB=round(used.ru_maxrss / 2**20, 1),
    )


def make(folder, flags):
    "Both folders, unless they are there"
    if (folder / "done").exists():
        return
    shutil.rmtree(folder / "released", ignore_errors=True)
    shutil.rmtree(folder / "own", ignore_errors=True)
    place, domains = made_up_folder(folder / "released", flags.domains, flags.passes, n_pdbs=flags.structures)
    own_runs(place, folder / "own", domains)
    (folder / "done").write_text("")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", type=int, default=8885)
    parser.add_argument("--passes", type=int, default=10)
    parser.add_argument("--structures", type=int, default=200)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("nbs/results"))
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, rows = flags.folder or Path(temporary), []
        folder.mkdir(parents=True, exist_ok=True)
        make(folder, flags)
        natives = folder / "released" / "natives"
        cath = {"released": ["--domains", folder / "released" / "cath" / "cath.clf"], "own": []}
        for layout in ("released", "own"):
            for kept in folder.glob(f"{layout}/**/*.residues.npz"):
                kept.unlink()
            for structures in ("read", "kept"):
                rows.append(dict(measure(layout, folder / layout, cath[layout], natives, flags), residues=structures))
                print(rows[-1], flush=True)
    with whole_file(flags.out / "figures_speed.csv") as f:
        pd.DataFrame(rows).to_csv(f, index=False)
    write_json(
        flags.out / "figures_speed.json",
        provenance(
            command=f"python benchmarks/figures.py --domains {flags.domains} --passes {flags.passes} --structures {flags.structures}"
        ),
    )
    sys.exit(max(row["seconds"] for row in rows if row["residues"] == "kept") > SECONDS)
