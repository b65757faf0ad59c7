"Runs from the shell: killed and resumed, refused, evaluated"

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

from plmsub.app import commands
from plmsub.app.commands import plmsub_train
from plmsub.base.files import shared_dir
from plmsub.subnetwork import load_mask

SHORT = (  # weights fall at once
    "--steps 24 --valid_every 8 --valid_proteins 16 --valid_passes 1 --checkpoint_every 4 "
    "--keep 0.55 --learning_rate 0.5 --max_damage 10"
).split()


def start(folder, command, *flags):
    script = folder / f"{command}.py"
    script.write_text(
        f"import signal\nimport torch\nfrom plmsub.app.commands import {command}\ntorch.set_num_threads(1)\n"
        f"signal.signal(signal.SIGINT, signal.default_int_handler)  # also where tests run in the background\n"
        f"{command}.main()\n"
    )
    return subprocess.Popen(
        [sys.executable, script, *map(str, flags)],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


# Commands of `shell` run in processes that are forked from one that has loaded the package: this saves its start, seconds each
FORKED = multiprocessing.get_context(
    "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
)
if FORKED.get_start_method() == "forkserver":
    FORKED.set_forkserver_preload(["plmsub.app.commands"])


def _run(folder, command, flags, out, environment):
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    with open(out, "w") as f:
        os.dup2(f.fileno(), 1)
        os.dup2(f.fileno(), 2)
    sys.stdout, sys.stderr = (open(n, "w", encoding="utf-8", closefd=False) for n in (1, 2))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where tests run in the background
    torch.set_num_threads(1)
    getattr(commands, command).main([*map(str, flags)])


def shell(folder, command, *flags):
    "Exit status of a command, and what it said"
    with tempfile.TemporaryDirectory() as place:
        process = FORKED.Process(
            target=_run, args=(folder, command, flags, out := Path(place) / "said", dict(os.environ))
        )
        process.start()
        process.join()
        return process.exitcode, out.read_text(encoding="utf-8")


def test_help_names_every_command(tmp_path):
    status, said = shell(tmp_path, "plmsub_help")
    assert status == 0
    for name in ("plmsub_demo", "plmsub_pretrain", "plmsub_train", "plmsub_eval"):
        assert name in said


def test_a_killed_run_ends_with_the_same_mask_and_log(tmp_path):
    assert shell(tmp_path, "plmsub_train", *SHORT, "--out", "whole")[0] == 0
    chance = random.Random(0)
    for _ in range(3):
        process = start(tmp_path, "plmsub_train", *SHORT, "--out", "killed")
        seen = time.monotonic() + 60
        while time.monotonic() < seen and process.poll() is None and not (tmp_path / "killed/checkpoint").exists():
            time.sleep(0.02)
        time.sleep(chance.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert shell(tmp_path, "plmsub_train", *SHORT, "--out", "killed")[0] == 0
    for name in ("mask.safetensors", "log.jsonl", "result.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name
    assert load_mask(tmp_path / "whole/mask.safetensors").n_removed > 0


def test_sigterm_leaves_a_checkpoint(tmp_path):
    process = start(
        tmp_path, "plmsub_train", *SHORT, "--steps", "100000", "--checkpoint_every", "100000", "--out", "run"
    )
    log = tmp_path / "run/log.jsonl"
    while not log.exists() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(3)  # it trains
    process.terminate()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 143 and "stopped by SIGTERM" in said and "Traceback" not in said, said
    assert len(list((tmp_path / "run/checkpoint").glob("*.safetensors"))) == 1


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--suppress", "7"], "class"),
        (["--suppress", "helices"], "no such category"),
        (["--suppress", "1.99"], "1.99"),
        (["--plm", "esm9"], "no such model"),
        (["--domains", "nowhere.txt", "--fasta", "nowhere.fa"], "nowhere"),
        (["--layers", "3-9"], "layers 0 to 3"),
        (["--threshold", "2"], "threshold"),
        (["--projections", "query,bias"], "bias"),
        (["--device", "abacus"], "device"),
        (["--batch_size", "4"], "maintained"),
        (["--split_by", "fold"], "fold"),
    ],
)
def test_bad_flags_give_one_readable_line(tmp_path, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        plmsub_train.main([*SHORT, *flags, "--out", "run"])
    said = stopped.value.code  # text: it is printed, and the exit status is 1
    assert said.startswith("plmsub_train: ") and words in said and len(said.strip().splitlines()) == 1, said


def test_another_configuration_in_the_same_folder_is_refused(tmp_path):
    assert shell(tmp_path, "plmsub_train", *SHORT, "--steps", "4", "--out", "run")[0] == 0
    status, said = shell(tmp_path, "plmsub_train", *SHORT, "--steps", "4", "--learning_rate", "0.2", "--out", "run")
    assert status == 1 and "learning_rate" in said and "Traceback" not in said


def test_train_and_eval_leave_a_table_and_a_figure(tmp_path):
    assert shell(tmp_path, "plmsub_train", *SHORT, "--suppress", "helix", "--out", "run")[0] == 0
    status, said = shell(tmp_path, "plmsub_eval", "--run", "run", "--passes", "1", "--draws", "1")
    assert status == 0, said
    for model in ("full", "subnetwork", "random", "magnitude", "untrained"):
        assert model in said
    assert (tmp_path / "run/test-512-draws-1/report.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "run/config.json").read_text())["config"]["steps"] == 24


@pytest.mark.skipif(shared_dir() is None, reason="needs the real CATH files")
def test_real_cath_with_a_model_in_the_layout_of_fairesm(tmp_path):
    from plmsub.models.weights import save_fairesm
    from plmsub.plm import tiny_esm2

    cath = shared_dir() / "cath"
    save_fairesm(tiny_esm2(n_layers=2, dim=32, n_heads=4), tmp_path / "esm2_small.pt")
    flags = [
        "--domains",
        cath / "cath-domain-list-S20-v4_3_0.txt",
        "--fasta",
        cath / "cath-dataset-nonredundant-S20-v4_3_0.fa",
        "--plm",
        tmp_path / "esm2_small.pt",
    ]
    status, said = shell(
        tmp_path,
        "plmsub_train",
        *SHORT,
        "--steps",
        "3",
        *flags,
        "--suppress",
        "1.10",
        "--max_length",
        "100",
        "--out",
        "run",
    )
    assert status == 0, said
    assert "14,942 proteins read" in said
