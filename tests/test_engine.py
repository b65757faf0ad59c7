"The training engine: killed, cut off, on a full disk, with damaged checkpoints, in two processes, with and without stored logits"

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_runs import SHORT

from plmsub.base.errors import RunError
from plmsub.base.runs import checkpoints, read_log
from plmsub.categories import cath_category
from plmsub.io.cath import read_domains
from plmsub.models.weights import load_plm
from plmsub.splits import split
from plmsub.subnetwork import load_mask
from plmsub.teacher import Teacher
from plmsub.train import TrainConfig, fit

CONFIG = TrainConfig(
    steps=8, valid_every=4, valid_proteins=16, checkpoint_every=2, keep=0.55, learning_rate=0.5, max_damage=10.0
)


@pytest.fixture(scope="module")
def world():
    target = cath_category("1")
    return load_plm("toy"), split(read_domains("toy"), seed=0, category=target), target


@pytest.fixture(scope="module")
def undisturbed(world, tmp_path_factory):
    return fit(*world, CONFIG, tmp_path_factory.mktemp("run") / "run", mmseqs=False).folder


def left(folder):
    return {n: (folder / n).read_bytes() for n in ("mask.safetensors", "result.json", "log.jsonl")}


def half_way(undisturbed, folder, steps=4):
    "A run as a kill after some steps leaves it"
    shutil.copytree(undisturbed, folder)
    for name in ("mask.safetensors", "result.json"):
        (folder / name).unlink()
    for file in checkpoints(folder):
        if int(file.stem) > steps:
            file.unlink()
    return folder


def test_killed_at_random_and_inside_checkpoints():
    script = Path(__file__).with_name("kill.py")  # in a process of its own: it forks, and this one may have threads
    done = subprocess.run([sys.executable, script, "--trials", "4", "--inside", "2"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("4 of 4 trials"), done.stdout + done.stderr


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:-5] + bytes([b[-5] ^ 4]) + b[-4:]],
    ids=["cut", "empty", "flipped bit"],
)
def test_a_damaged_checkpoint_is_passed_over(world, undisturbed, tmp_path, damage):
    folder = half_way(undisturbed, tmp_path / "run", steps=8)
    last = checkpoints(folder)[-1]
    last.write_bytes(damage(last.read_bytes()))
    fit(*world, CONFIG, folder, mmseqs=False)
    assert left(folder) == left(undisturbed)


def test_only_damaged_checkpoints_are_named(world, undisturbed, tmp_path):
    folder = half_way(undisturbed, tmp_path / "run", steps=8)
    for file in checkpoints(folder):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(RunError, match="damaged checkpoint"):
        fit(*world, CONFIG, folder, mmseqs=False)


@pytest.mark.parametrize("other", [dict(learning_rate=0.3), dict(seed=1)], ids=["settings", "seed"])
def test_a_checkpoint_of_another_run_is_refused(world, undisturbed, tmp_path, other):
    foreign = fit(*world, replace(CONFIG, **other), tmp_path / "foreign", mmseqs=False).folder
    folder = half_way(undisturbed, tmp_path / "run", steps=0)
    shutil.copy(checkpoints(foreign)[-1], folder / "checkpoint")
    with pytest.raises(RunError, match="other settings"):
        fit(*world, CONFIG, folder, mmseqs=False)


LIMITED = """
import resource, sys
from plmsub.app.commands import plmsub_train
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000)) # as a full disk: a checkpoint does not fit, the log does
plmsub_train.main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs setrlimit")
def test_no_room_for_a_checkpoint(tmp_path):
    (tmp_path / "run.py").write_text(LIMITED)
    done = subprocess.run(
        [sys.executable, "run.py", *SHORT, "--out", "run"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1 and "cannot write" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not [f for f in (tmp_path / "run" / "checkpoint").glob("*")]


def test_stored_logits_change_nothing(world, undisturbed, tmp_path):
    "Not stored, stored by the first run, found by the second: the same mask, and nothing is computed twice"
    for name in ("first", "second"):
        teacher = Teacher(world[0], tmp_path / "logits")
        assert left(fit(*world, CONFIG, tmp_path / name, mmseqs=False, teacher=teacher).folder) == left(undisturbed)
        assert (teacher.computed > 0) == (name == "first")


def test_less_memory_gives_the_same_mask(world, undisturbed, tmp_path):
    plm, parts, target = world
    assert left(fit(plm.tuned(recompute=True), parts, target, CONFIG, tmp_path / "run", mmseqs=False).folder) == left(
        undisturbed
    )


def test_batches_one_after_the_other(world, tmp_path):
    "Two batches of 8 are a step like one of 16, up to the proteins that are in them"
    run = fit(*world, replace(CONFIG, batch_size=8, suppressed=2, accumulate=2), tmp_path / "run", mmseqs=False)
    log = read_log(run.folder)
    assert len(log) == 8 and run.subnetwork.mask.n_removed


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_two_processes_train_the_same_mask(tmp_path):
    (tmp_path / "run.py").write_text(
        "import torch\nfrom plmsub.app.commands import plmsub_train\ntorch.set_num_threads(1)\nplmsub_train.main()\n"
    )
    flags = ["run.py", *SHORT, "--steps", "12", "--valid_every", "6"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    for out, start in (
        ("one", [sys.executable]),
        ("two", [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]),
    ):
        done = subprocess.run([*start, *flags, "--out", out], cwd=tmp_path, capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Run(category") == 1
    one, two = (load_mask(tmp_path / out / "mask.safetensors") for out in ("one", "two"))
    different = sum((one[n] != two[n]).sum().item() for n in one)
    assert one.n_removed and different <= one.n_weights / 1000
    assert [row["step"] for row in read_log(tmp_path / "two")] == list(range(1, 13))
