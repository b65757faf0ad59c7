"The leakage report of a run: planted copies are named, with MMseqs2 and without"

import os
import shutil
import time

import pandas as pd
import pytest

from plmsub.base.errors import RunError
from plmsub.base.seeds import numpy_rng
from plmsub.categories import cath_category
from plmsub.io.cath import read_domains
from plmsub.plm import tiny_esm2
from plmsub.proteins import AMINO_ACIDS, Protein
from plmsub.splits import Split, closest, leakage, leakage_line, split
from plmsub.train import TrainConfig, fit, load_run

CONFIG = TrainConfig(
    steps=2, batch_size=6, suppressed=2, valid_proteins=8, valid_every=1, checkpoint_every=1, max_damage=10.0
)


def changed(d, identity, id):
    "The domain with random amino acids at a share of its positions, under another id"
    rng = numpy_rng("changed", d.id)
    numbers = [AMINO_ACIDS.index(a) for a in d.sequence]
    where = rng.choice(len(numbers), round(len(numbers) * (1 - identity)), replace=False)
    for i in where:
        numbers[i] += rng.integers(1, 20)
    return type(d)(id, "".join(AMINO_ACIDS[i % 20] for i in numbers), code=d.code)


def random_domain(id, code, n=90):
    return type(read_domains("toy")[0])(id, "".join(numpy_rng("random", id).choice(list(AMINO_ACIDS), n)), code=code)


@pytest.fixture(scope="module")
def planted():
    "A split whose test part has 5 copies, 5 that are 95 % identical to a train domain, and 10 that are like nothing"
    clean = split(read_domains("toy")[:120], category=cath_category("1"))
    originals = clean.train[:: len(clean.train) // 10][:10]
    copies = {f"9cop{k}00": d for k, d in enumerate(originals[:5])}
    near = {f"9nea{k}00": d for k, d in enumerate(originals[5:])}
    test = [changed(d, 1.0, id) for id, d in copies.items()] + [changed(d, 0.95, id) for id, d in near.items()]
    test += [random_domain(f"9ran{k}00", f"{1 + k % 2}.10.10.10") for k in range(10)]
    return (
        Split(clean.train, clean.valid, test),
        {id: d.id for id, d in copies.items()},
        {id: d.id for id, d in near.items()},
    )


@pytest.fixture
def no_mmseqs(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))


def run_on(parts, folder, **more):
    return fit(tiny_esm2(n_layers=2, dim=16, n_heads=2), parts, cath_category("1"), CONFIG, folder, **more)


def test_a_run_names_what_was_planted(planted, tmp_path, no_mmseqs):
    parts, copies, near = planted
    run = run_on(parts, tmp_path / "run")
    pairs = pd.read_csv(tmp_path / "run/leakage_pairs.csv")
    pairs = pairs[pairs.part == "test"]
    assert dict(pairs[pairs.kind == "sequence"][["id", "train_id"]].to_numpy()) == copies
    assert dict(pairs[pairs.kind == "k-mers"][["id", "train_id"]].to_numpy()) == copies | near
    assert (pairs.similarity[pairs.id.isin(copies)] == 1).all() and pairs.similarity[pairs.id.isin(near)].between(
        0.6, 0.95
    ).all()
    table = run.leakage[run.leakage.part == "test"].set_index("shared")
    assert (table.proteins == 20).all()
    assert table.seen["sequence"] == 5 and table.seen["k-mers"] == 10 and table.fraction_seen["k-mers"] == 0.5
    assert table.measured["mmseqs"] == 0 and pd.isna(table.seen["mmseqs"]) and "not installed" in table.note["mmseqs"]
    assert "5 of 20 test" in leakage_line(run.leakage) and "10 of 20 test" in leakage_line(run.leakage)


def test_the_report_is_written_once_and_never_compared(planted, tmp_path):
    parts, folder = planted[0], tmp_path / "run"
    first = run_on(parts, folder, mmseqs=False)
    assert set(first.leakage.note[first.leakage.shared == "mmseqs"]) == {"not measured: not asked for"}
    before = {f.name: (f.read_bytes(), f.stat().st_mtime_ns) for f in folder.glob("leakage*")}
    assert set(before) == {"leakage.csv", "leakage_pairs.csv"}
    mask = (folder / "mask.safetensors").read_bytes()
    for name in ("mask.safetensors", "result.json", "checkpoint/00000002.safetensors"):
        (folder / name).unlink()
    run_on(parts, folder)  # goes on, on a machine that may have MMseqs2
    assert {f.name: (f.read_bytes(), f.stat().st_mtime_ns) for f in folder.glob("leakage*")} == before
    assert (folder / "mask.safetensors").read_bytes() == mask
    (folder / "leakage.csv").unlink()
    with pytest.raises(RunError, match="no leakage report"):
        _ = load_run(folder, first.subnetwork.plm).leakage
    assert len(run_on(parts, folder, mmseqs=False).leakage) == 14
    (folder / "leakage.csv").write_text("")
    with pytest.raises(RunError, match="damaged"):
        _ = first.leakage


def test_a_clean_split_has_no_pairs_and_no_line(tmp_path, no_mmseqs):
    proteins = [
        Protein(f"R{k}", "".join(numpy_rng("clean", k).choice(list(AMINO_ACIDS), 80)), dict(cluster=k // 2))
        for k in range(40)
    ]
    parts = split(proteins, by="cluster")
    table, pairs = leakage(parts)
    assert list(table.shared.unique()) == ["cluster", "sequence", "k-mers", "mmseqs"] and not table.seen.fillna(0).any()
    assert pairs.empty and list(pairs) == ["part", "id", "train_id", "kind", "similarity"]
    assert leakage_line(table) == ""


def test_what_has_no_word_is_not_measured():
    parts = Split(
        [Protein("a", "MKTAYIAK")],
        [Protein("b", "MKT"), Protein("c", "MKTAXIAK"), Protein("d", "MKTAYIAK")],
        [Protein("e", "WWWWWW")],
    )
    table = leakage(parts, mmseqs=False)[0].set_index(["shared", "part"])
    assert table.measured["k-mers", "valid"] == 1 and table.seen["k-mers", "valid"] == 1
    assert table.measured["sequence", "valid"] == 3 and table.seen["sequence", "valid"] == 1
    assert table.seen["k-mers", "test"] == 0


def fake(folder, script):
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin/mmseqs").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "bin/mmseqs").chmod(0o755)
    return str(folder / "bin")


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
@pytest.mark.parametrize(
    "script, words",
    [
        ("echo no space left; exit 1", "no space left"),
        ("exit 0", "cannot be run"),
        ("kill -9 $$", "failed"),
        (r"printf '0\t0\t0.9\n' > hits", "something else"),
        (r"printf '0\t9999\t0.9\t1\n' > hits", "something else"),
    ],
)
def test_a_failure_of_mmseqs_is_a_note_and_not_the_end_of_a_run(planted, tmp_path, monkeypatch, script, words):
    monkeypatch.setenv("PATH", fake(tmp_path, script))
    with pytest.raises(RunError, match=words):
        closest(planted[0], "mmseqs")
    run = run_on(planted[0], tmp_path / "run")
    rows = run.leakage[run.leakage.shared == "mmseqs"]
    assert rows.note.str.startswith("not measured: MMseqs2").all() and rows.fraction_seen.isna().all()


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
def test_a_hanging_mmseqs_is_ended_with_its_children(planted, tmp_path, monkeypatch):
    sleep = shutil.which("sleep")
    monkeypatch.setenv("PATH", fake(tmp_path, f"({sleep} 2; echo alive > {tmp_path}/late) & wait"))
    with pytest.raises(RunError, match="longer than 0.2 s"):
        closest(planted[0], "mmseqs", timeout_s=0.2)
    time.sleep(2.5)
    assert not (tmp_path / "late").exists()


@pytest.mark.skipif(shutil.which("mmseqs") is None, reason="needs MMseqs2")
def test_mmseqs_finds_what_was_planted_and_more_distant_copies(planted):
    parts, copies, near = planted
    found = closest(parts, "mmseqs").set_index("id")
    assert {id: found.train_id[id] for id in copies | near} == copies | near
    assert (found.similarity[list(copies)] == 1).all() and found.similarity[list(near)].between(0.9, 0.98).all()
    unrelated = found[found.index.str.startswith("9ran")]
    assert len(unrelated) == 10 and (unrelated.similarity == 0).all()
    distant = [changed(d, 0.55, f"9dis{k}00") for k, d in enumerate(parts.train[:9])]
    farther = Split(parts.train, parts.valid, distant)
    assert (closest(farther).query('part == "test"').similarity < 0.2).all()
    assert (closest(farther, "mmseqs").query('part == "test"').similarity > 0.4).all()
    pd.testing.assert_frame_equal(closest(farther, "mmseqs"), closest(farther, "mmseqs"))
