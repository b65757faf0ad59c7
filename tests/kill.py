"""Kill training runs without warning, again and again, and compare what they end with.

    python tests/kill.py [--trials 100] [--inside 40] [--seed 0]

A trial is a run that is killed (SIGKILL) once to three times at random moments and then left to finish; of at least `--inside` trials one kill falls between the first byte of a checkpoint and
its renaming. Mask, scores, log, and the last checkpoint with its optimizer must be those of the undisturbed run, byte for byte."""

import argparse
import multiprocessing
import os
import random
import shutil
import tempfile
import time
from pathlib import Path

import torch

from plmsub.base.runs import checkpoints
from plmsub.categories import cath_category
from plmsub.io.cath import read_domains
from plmsub.models.weights import load_plm
from plmsub.splits import split
from plmsub.teacher import Teacher
from plmsub.train import TrainConfig, fit

CONFIG = TrainConfig(
    steps=12, valid_every=4, valid_proteins=16, checkpoint_every=1, keep=0.55, learning_rate=0.5, max_damage=10.0
)  # weights fall at once
fork = multiprocessing.get_context("fork")


def prepared():
    "What every run needs, read once"
    torch.set_num_threads(1)
    target = cath_category("1")
    return load_plm("toy"), split(read_domains("toy"), seed=0, category=target), target


def on_a_slow_disk(replace=os.replace):
    "A checkpoint waits 10 ms for its name: time enough to be killed before it has one"

    def wait_and_replace(file, path):
        if Path(path).parent.name == "checkpoint":
            time.sleep(0.01)
        replace(file, path)

    os.replace = wait_and_replace


def train(folder, plm, parts, target, logits):
    "A run, in a process of its own; its teacher keeps logits in a folder that all trials share"
    on_a_slow_disk()
    return fit(plm, parts, target, CONFIG, folder, mmseqs=False, teacher=Teacher(plm, logits))


def started(*args):
    process = fork.Process(target=train, args=args)
    process.start()
    return process


def half_written(folder):
    return (
        [f for f in (folder / "checkpoint").glob(".*") if f.stat().st_size] if (folder / "checkpoint").is_dir() else []
    )


def kill_inside(process, folder):
    "Kill while a checkpoint is being written; True if that is where it fell"
    while process.is_alive():
        try:
            caught = half_written(folder)
        except FileNotFoundError:
            continue
        if caught:
            process.kill()
            process.join()
            return bool(half_written(folder))
    return False


def kill_after(process, seconds):
    "Kill after some time"
    process.join(seconds)
    process.kill()
    process.join()


def left(folder):
    "Bytes of all that a finished run has computed"
    files = [folder / name for name in ("mask.safetensors", "result.json", "log.jsonl")] + checkpoints(folder)
    return {f.name: f.read_bytes() for f in files}


def trials(n, inside, seed, folder):
    "Run the trials; yields whether one was killed inside a checkpoint, and in what it ended unlike the undisturbed run"
    common, chance = (*prepared(), folder / "logits"), random.Random(seed)
    start = time.monotonic()
    process = started(folder / "undisturbed", *common)
    process.join()
    whole, duration = left(folder / "undisturbed"), time.monotonic() - start
    for k in range(n):
        here, caught = folder / f"trial-{k}", False
        for _ in range(chance.randint(1, 3)):
            process = started(here, *common)
            if inside and not caught:
                time.sleep(chance.random() * duration / 3)  # not always the first checkpoint
                caught = kill_inside(process, here)
            else:
                kill_after(process, chance.random() * duration)
        inside -= caught
        process = started(here, *common)
        process.join()
        ours = left(here) if process.exitcode == 0 else {}
        yield (
            caught,
            [f"exit {process.exitcode}"]
            if process.exitcode
            else [name for name in whole.keys() | ours.keys() if whole.get(name) != ours.get(name)],
        )
        shutil.rmtree(here)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--inside", type=int, default=40, help="trials with a kill inside a checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = list(trials(flags.trials, flags.inside, flags.seed, Path(folder)))
    print(
        f"{sum(not unlike for _, unlike in found)} of {len(found)} trials ended like the undisturbed run; "
        f"{sum(caught for caught, _ in found)} were killed inside a checkpoint"
    )
    assert not any(unlike for _, unlike in found), [unlike for _, unlike in found]
    assert sum(caught for caught, _ in found) >= flags.inside
