"Comparison of structures: real files, both formats, damaged models, and processes that die or do not come back"

import gc
import gzip
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import gemmi
import numpy as np
import pandas as pd
import pytest

from plmsub.base.errors import PlmsubError
from plmsub.base.files import ReadingNote, shared_dir
from plmsub.base.seeds import numpy_rng
from plmsub.comparison import compare
from plmsub.io.cath import read_domains
from plmsub.io.structures import Chain, ideal_backbone, pdb_text, read_beta, read_chain, write_pdb
from plmsub.tasks.structure import (
    _in_processes,
    contact_map,
    lddt,
    rmsd,
    score_folder,
    score_pair,
    shared_residues,
    structure_scores,
    tm_score,
)

try:
    import hypothesis
    from formats import CHAIN, MMCIF
    from fuzz import guarded, mutants
except ImportError:
    hypothesis = None
if sys.platform == "win32":
    hypothesis = None  # the time limit needs SIGALRM

SEQUENCE = "SAELEKLAKEAAKKGPNPSGTVTVEVGNGKVTVRV"
ANGLES = [(-57, -47)] * 14 + [(-75, 145)] * 5 + [(-120, 130)] * 6 + [(50, 45), (85, 10)] + [(-120, 130)] * 8
NATIVE = Chain(SEQUENCE, ideal_backbone(ANGLES), b_factors=np.full(35, 80.0))


def off(sd, seed=0):
    return replace(NATIVE, atoms=NATIVE.atoms + numpy_rng(seed, "off").normal(0, sd, NATIVE.atoms.shape))


def test_scores_do_not_depend_on_place_and_numbers():
    model, turn = off(0.5), np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    moved = replace(
        model, atoms=model.atoms @ turn + [5, -700, 20], numbers=[(i, "B") for i in range(-9, 26)], name="Q"
    )
    for score in (rmsd, lddt, lambda *pair: tm_score(*pair)["tm_score"]):
        assert score(moved, NATIVE) == pytest.approx(score(model, NATIVE), abs=1e-6)


def test_rmsd_is_the_least():
    model, rng = off(1), numpy_rng(0, "rotations")
    a, b = (c.atoms[:, 1] - c.atoms[:, 1].mean(0) for c in (model, NATIVE))
    for _ in range(200):
        q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        assert rmsd(model, NATIVE) <= np.sqrt((((a @ (q * np.linalg.det(q)) - b) ** 2).sum(1)).mean()) + 1e-9


@pytest.mark.parametrize("missing", [(), (0,), (34,), (6, 7, 8), (0, 12, 13, 33, 34), tuple(range(20))])
def test_residues_that_were_not_seen(missing):
    seen = [i for i in range(35) if i not in missing]
    assert shared_residues(NATIVE, NATIVE[seen]).tolist() == [[i, j] for j, i in enumerate(seen)]
    assert rmsd(NATIVE, NATIVE[seen]) < 1e-9 and lddt(NATIVE, NATIVE[seen]) == 1
    kept = lddt(NATIVE[seen], NATIVE)
    assert kept == 1 if not missing else kept < 1  # what the model lacks counts against it


def test_alpha_carbons_alone():
    alphas = replace(NATIVE, atoms=np.where(np.arange(4)[:, None] == 1, NATIVE.atoms, np.nan))
    row = score_pair(alphas, NATIVE)
    assert row["tm_score"] == pytest.approx(1) and row["lddt"] == 1 and np.isnan(row["q3"])
    known = ~np.isnan(contact_map(alphas, separation=0)).all(1)
    assert [letter for letter, k in zip(SEQUENCE, known) if k] == ["G"] * 4  # represented by CA


def test_both_formats_compressed_or_not(tmp_path):
    from formats import ATOM_SITE, BACKBONE, cif_text

    models, natives, chain = tmp_path / "models", tmp_path / "natives", off(0.3)
    models.mkdir()
    text = pdb_text(chain)
    names = [line[17:20] for line in text.splitlines() if line[12:16] == " CA "]
    cif = cif_text(
        "atom_site",
        ATOM_SITE,
        *(
            f"ATOM {atom} . {name} A {i} ? {x:.3f} {y:.3f} {z:.3f} 1.00 80.0 {i} A 1"
            for i, (name, residue) in enumerate(zip(names, chain.atoms), 1)
            for atom, (x, y, z) in zip(BACKBONE, residue)
        ),
    )
    contents = {
        "a.pdb": text.encode(),
        "b.ent.gz": gzip.compress(text.encode()),
        "c": text.encode(),
        "d.cif": cif.encode(),
        "e.mmcif.gz": gzip.compress(cif.encode()),
        "notes.json": b"{}",
        ".hidden": b"",
    }
    for name, data in contents.items():
        (models / name).write_bytes(data)
    for name in "abcde":
        write_pdb(NATIVE, natives / name)
    table = score_folder(models, natives)
    assert table.id.tolist() == [*"abcde"] and (table.error == "").all()
    assert (table.drop(columns=["id", "note"]).nunique() <= 1).all()
    saved = tmp_path / "table.csv"
    table.to_csv(saved, index=False)
    assert pd.read_csv(saved, keep_default_na=False).tm_score.astype(float).tolist() == table.tm_score.tolist()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a file that never ends")
def test_a_file_that_never_ends_costs_its_row_only(tmp_path):
    for name in "abcd":
        write_pdb(off(0.3), tmp_path / "models" / name)
        write_pdb(NATIVE, tmp_path / "natives" / name)
    (tmp_path / "models" / "b").unlink()
    os.mkfifo(tmp_path / "models" / "b")
    table = score_folder(tmp_path / "models", tmp_path / "natives", timeout=10).set_index("id")
    assert table.error["b"] == "it took more than 10 s" and (table.error.drop("b") == "").all()
    assert table.tm_score.drop("b").nunique() == 1


def sleeping(folder, name):
    (Path(folder) / name).write_text(str(os.getpid()))
    time.sleep(0 if name == "first" else 1000)
    return name


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_a_batch_that_is_given_up_leaves_no_process(tmp_path):
    results = _in_processes(
        sleeping, [[str(tmp_path), name] for name in ("first", "b", "c")], processes=2, timeout=1000
    )
    assert next(results) == "first"
    while len(pids := [int(f.read_text() or 0) for f in tmp_path.iterdir()]) < 3:
        time.sleep(0.05)
    results.close()
    alive = [pid for pid in pids if Path(f"/proc/{pid}/stat").exists()]
    assert not [pid for pid in alive if "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]]


def test_a_plain_script_needs_no_guard(tmp_path):
    "Processes do not run the script again that starts them"
    for name in "abc":
        write_pdb(off(0.3), tmp_path / "models" / name)
        write_pdb(NATIVE, tmp_path / "natives" / name)
    code = "from plmsub.tasks.structure import score_folder\nprint(len(score_folder('models', 'natives')))\n"
    (tmp_path / "script.py").write_text(code)
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "3\n", done.stderr


def test_scores_go_into_the_one_table(tmp_path):
    domains = read_domains("toy")[::60]
    tables = {}
    for k, name in enumerate(("full", "subnetwork", "random-0", "random-1")):
        rows = [dict(id=d.id, tm_score=0.9 - 0.1 * k, plddt=80.0 - k, error="") for d in domains]
        tables[name] = pd.DataFrame(rows)
    tables["random-1"].loc[0, "tm_score"] = np.nan  # one protein could not be scored
    scores = structure_scores(tables, domains)
    assert {*scores.metric} == {"TM-score", "pLDDT"} and {*scores.model} == {"full", "subnetwork", "random"}
    assert domains[0].id not in {*scores.id[scores.metric == "TM-score"]}
    compared = compare(scores, "1", n_boot=50).set_index(["metric", "model"])
    assert compared.D["TM-score", "subnetwork"] == pytest.approx(-0.1)
    assert compared.D["TM-score", "random"] == pytest.approx(-0.25)


# --- What gemmi makes of numbers that are none; plmsub looks at every number first


def test_gemmi_reads_what_is_no_number():
    atom = pdb_text(NATIVE).splitlines()[2]

    def first(line):
        return gemmi.read_pdb_string(line + "\n")[0][0][0]

    bad = {
        "nan": atom[:30] + "     nan" + atom[38:],
        "text": atom[:22] + "  x1" + atom[26:],
        "shifted": atom[:30] + atom[31:54] + " " + atom[54:],
        "no B factor": atom[:54],
    }
    assert np.isnan(first(bad["nan"])[0].pos.x)  # plmsub's sign of an absent atom
    assert str(first(bad["text"]).seqid) != "1" and first(bad["shifted"])[0].pos.x != NATIVE.atoms[0, 0, 0] - 1
    assert first(bad["no B factor"])[0].b_iso == 20
    for name in ("nan", "text", "shifted"):
        with pytest.raises(PlmsubError, match="is not a number"):
            read_text(bad[name])
    assert np.isnan(read_text(atom[:54].replace(" N  ", " CA ")).b_factors[0])


def read_text(text):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "made.pdb").write_text(text + "\n")
        return read_chain(Path(folder) / "made.pdb")


@pytest.mark.skipif(hypothesis is None, reason="needs hypothesis and SIGALRM")
@pytest.mark.parametrize("name, data", [("toy.pdb", "pdb"), ("toy.cif", "mmcif")])
def test_damaged_models_are_refused_by_name_or_scored(tmp_path, name, data):
    content = pdb_text(replace(CHAIN, b_factors=np.full(9, 80.0))).encode() if data == "pdb" else MMCIF.encode()
    scored, refused = [], []
    gc.collect()  # what earlier tests left behind speaks up here, not below

    @hypothesis.settings(
        max_examples=150,
        database=None,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(mutants({name: content}))
    def each(files):
        (tmp_path / name).write_bytes(files[name])
        for score in (lambda: score_pair(tmp_path / name, CHAIN), lambda: read_beta(tmp_path / name)):
            with guarded() as (warned, said):
                try:
                    scored.append(score())
                except PlmsubError as e:
                    refused.append(e)
            assert all(w.category is ReadingNote for w in warned) and not said.getvalue()

    each()
    assert scored and refused and not any(e.__cause__ for e in refused)


@pytest.mark.skipif(shared_dir() is None, reason="needs the shared data")
def test_real_structures_with_themselves_and_others():
    files = sorted((shared_dir() / "structures" / "pfam40").glob("*.pdb"))[:12]
    chains = [read_chain(f) for f in files]
    for file, chain, other in zip(files, chains, chains[1:] + chains[:1]):
        row = score_pair(file, file, highest=0)
        assert (
            row["tm_score"] == pytest.approx(1, abs=1e-6) and row["rmsd_all_A"] < 1e-6 and row["lddt"] == row["q3"] == 1
        )
        assert 0 < score_pair(chain, other, highest=0, same_sequence=False)["tm_score"] < 1
        with pytest.raises(PlmsubError, match="not of one sequence"):
            score_pair(chain, other, highest=0)
