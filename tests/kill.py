"""Kill what plmsub does without warning, again and again, and compare what it ends with.

    python tests/kill.py [--what train] [--trials 100] [--inside 40] [--seed 0]

A trial is a piece of work that is killed (SIGKILL) once to three times at random moments and then left to finish. The files that it
leaves must be those of the undisturbed work, byte for byte, and no other: nothing half written stays. In `--inside` trials of
`train`, one kill falls between the first byte of a checkpoint and its renaming."""

import argparse
import gzip
import hashlib
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import namedtuple
from contextlib import contextmanager, nullcontext
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import torch

from plmsub.app import commands, mask_commands
from plmsub.base.errors import ConfigError
from plmsub.base.seeds import generator
from plmsub.categories import cath_category
from plmsub.io.cath import read_domains
from plmsub.io.data import Release, fetch
from plmsub.io.toy import toy_corpus
from plmsub.masks import HardMask, select_weights
from plmsub.models.embed import embed_proteins
from plmsub.models.pretrain import PretrainConfig, pretrain
from plmsub.models.weights import load_plm
from plmsub.paper.figures import all_figures
from plmsub.paper.results import made_up_tables
from plmsub.plm import tiny_esm2
from plmsub.splits import split
from plmsub.subnetwork import Subnetwork
from plmsub.tasks.folding import fold_beside, tiny_folding
from plmsub.teacher import Teacher
from plmsub.train import TrainConfig, fit

CONFIG = TrainConfig(
    steps=12, valid_every=4, valid_proteins=16, checkpoint_every=1, keep=0.55, learning_rate=0.5, max_damage=10.0
)  # weights fall at once
fork = multiprocessing.get_context("fork")
World = namedtuple("World", "plm parts target folder")  # read once; the folder is for what all trials share
MADE_WITH = ("provenance.json", "attempts.jsonl")  # hold the time


def prepared(folder):
    "What all work needs"
    torch.set_num_threads(1)
    target = cath_category("1")
    return World(load_plm("toy"), split(read_domains("toy"), seed=0, category=target), target, folder)


def train(world, here):
    "A run; its teacher keeps logits in a folder that all trials share"
    teacher = Teacher(world.plm, world.folder / "logits")
    fit(world.plm, world.parts, world.target, CONFIG, here, mmseqs=False, teacher=teacher)


def pretraining(world, here):
    shape = dict(name="small", n_layers=2, dim=32, n_heads=2, max_residues=64, batch_tokens=1024)
    pace = dict(steps=40, warmup_steps=4, log_every=5, valid_every=10, checkpoint_every=4)
    corpus = [s for _, s in toy_corpus(200)]
    pretrain(corpus[20:], PretrainConfig(**shape, **pace), here, valid=corpus[:20])


def sweeping(world, here):
    table = world.folder / "jobs.csv"
    rows = ["1,0", "2,0"]
    settings = "steps,valid_every,valid_proteins,checkpoint_every,keep,learning_rate,max_damage"
    values = "4,2,8,1,0.55,0.5,10"
    table.write_text(f"category,seed,{settings}\n" + "".join(f"{row},{values}\n" for row in rows))
    commands.plmsub_sweep(str(table), str(here), proteins=8, draws=1)


def embedding(world, here):
    chance = random.Random(0)
    sequences = ["".join(chance.choices("ACDEFGHIKLMNPQRSTVWY", k=chance.randint(60, 400))) for _ in range(120)]
    fasta = world.folder / "proteins.fa"
    fasta.write_text("".join(f">p{i}\n{s}\n" for i, s in enumerate(sequences)))
    settings = dict(repr_layers=(1, -1), include=("mean", "per_tok", "bos"), shard_residues=1500)
    embed_proteins(tiny_esm2(dim=64), fasta, here, **settings)


def folding(world, here):
    plm = tiny_esm2()
    mask = {n: torch.rand(s, generator=generator(0, n)) < 0.9 for n, s in select_weights(plm).items()}
    proteins = [d for d in world.parts.test if len(d) < 80][:4]
    fold_beside(tiny_folding(plm, 1), Subnetwork(plm, HardMask(mask)), proteins, here, 1, recycles=0, batch_tokens=1)


def trained(world):
    "A finished run, made once"
    run = world.folder / "run"
    if not (run / "mask.safetensors").exists():
        settings = dict(steps=8, valid_every=4, valid_proteins=16, keep=0.55, learning_rate=0.5, max_damage=10)
        commands.plmsub_train("1", str(run), **settings)
    return run


def evaluating(world, here):
    if not here.exists():
        shutil.copytree(trained(world), here)
    commands.plmsub_eval(str(here), proteins=16, passes=1, draws=1)


def exporting(world, here):
    for name in ("esm2_without.pt", "without"):
        try:
            commands.plmsub_export(str(trained(world)), str(here / name))
        except ConfigError as e:
            if "already there" not in str(e):
                raise


def probing(world, here):
    run, scan = trained(world), world.folder / "scan.csv"
    sequence = min((d.sequence for d in world.parts.test), key=len)
    rows = [
        f"{a}{i}{b},{sequence[: i - 1]}{b}{sequence[i:]},{i}" for i, a in enumerate(sequence, 1) for b in "AW" if a != b
    ]
    scan.write_text("\n".join(["mutant,sequence,target", *rows]) + "\n")
    commands.plmsub_probe("mutations", str(run), draws=1, data=str(scan), out=str(here / "probe.csv"))


def drawing(world, here):
    tables = made_up_tables(300)
    few = {name: tables[name] for name in ("full", "made_up", "runs", "domains", "perplexity", "suppressed", "train")}
    all_figures(few, here)


class Slowly(SimpleHTTPRequestHandler):
    "A server far away"

    def log_message(self, *args):
        pass

    def copyfile(self, source, outputfile):
        while block := source.read(1 << 16):
            outputfile.write(block)
            time.sleep(0.005)


@contextmanager
def served(folder):
    "A server of this machine, in a process of its own; its port"
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Slowly, directory=folder))
    server.handle_error = lambda *_: None  # who asked is dead
    process = fork.Process(target=server.serve_forever, daemon=True)
    process.start()
    yield server.server_port
    process.kill()
    process.join()
    server.server_close()


def fetching(world, here, manifest):
    mask_commands.read_manifest = lambda: manifest
    mask_commands.fetch = partial(fetch, manifest=manifest)
    commands.plmsub_data([*manifest], folder=str(here), unpacked=True)


@contextmanager
def data(world):
    "The work of fetching two files, an archive among them"
    place = world.folder / "served"
    (place / "many").mkdir(parents=True)
    for k in range(300):
        (place / "many" / f"{k}.txt").write_bytes(np.random.default_rng(k).bytes(20_000))
    shutil.make_archive(str(place / "many"), "gztar", place, "many")
    (place / "many.tar.gz").rename(place / "many.tgz")
    (place / "one.bin").write_bytes(np.random.default_rng(0).bytes(3_000_000))
    with served(place) as port:
        manifest = {}
        for file in ("many.tgz", "one.bin"):
            sha256 = hashlib.sha256((place / file).read_bytes()).hexdigest()
            url = f"http://127.0.0.1:{port}/{file}"
            name = file.split(".")[0]
            manifest[name] = Release(name, "cath", url, f"cath/{file}", "a test", sha256=sha256)
        yield partial(fetching, manifest=manifest)


WORK = dict(train=train, pretrain=pretraining, sweep=sweeping, embed=embedding, fold=folding, eval=evaluating)
WORK |= dict(export=exporting, probe=probing, figures=drawing, data=data)


def on_a_slow_disk():
    "A file waits 10 ms for its name: time enough to be killed before it has one"

    def wait_and(do):
        def slow(*args, **kwargs):
            time.sleep(0.01)
            return do(*args, **kwargs)

        return slow

    os.replace, os.rename = wait_and(os.replace), wait_and(os.rename)


def quietly(work, world, place):
    "The work, in a process of its own, in a folder whose name it does not see"
    on_a_slow_disk()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    place.mkdir(exist_ok=True)
    os.chdir(place)
    work(world, Path("out"))


def started(work, world, place):
    process = fork.Process(target=quietly, args=(work, world, place))
    process.start()
    return process


def half_written(folder):
    return [f for f in (folder / "out" / "checkpoint").glob(".tmp-*/*") if f.stat().st_size]


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


def content(file):
    if not file.is_file():
        return b""
    return gzip.decompress(file.read_bytes()) if file.name.endswith(".csv.gz") else file.read_bytes()


def left(folder):
    "Name -> content of all that is there, hidden files and folders included"
    files = sorted(f for f in folder.rglob("*") if f.name not in MADE_WITH)
    return {f.relative_to(folder).as_posix(): content(f) for f in files}


def trials(work, world, n, inside, seed):
    "Run the trials; yields whether one was killed inside a checkpoint, and in what it ended unlike the undisturbed work"
    chance, start = random.Random(seed), time.monotonic()
    process = started(work, world, world.folder / "undisturbed")
    process.join()
    whole, duration = left(world.folder / "undisturbed"), time.monotonic() - start
    print(f"undisturbed: {duration:.1f} s, {len(whole)} files, exit {process.exitcode}", file=sys.stderr, flush=True)
    for k in range(n):
        here, caught = world.folder / f"trial-{k}", False
        for _ in range(chance.randint(1, 3)):
            process = started(work, world, here)
            if inside and not caught:
                time.sleep(chance.random() * duration / 3)  # not always the first checkpoint
                caught = kill_inside(process, here)
            else:
                kill_after(process, chance.random() * duration)
        inside -= caught
        process = started(work, world, here)
        process.join()
        ours = left(here) if process.exitcode == 0 else {}
        unlike = [name for name in whole.keys() | ours.keys() if whole.get(name) != ours.get(name)]
        yield caught, [f"exit {process.exitcode}"] if process.exitcode else unlike
        shutil.rmtree(here)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=WORK, default="train")
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--inside", type=int, default=40, help="trials of train with a kill inside a checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    inside = flags.inside if flags.what == "train" else 0
    with tempfile.TemporaryDirectory() as name:
        world = prepared(Path(name))
        if flags.what in ("eval", "export", "probe"):
            trained(world)
        with data(world) if flags.what == "data" else nullcontext(WORK[flags.what]) as work:
            found = list(trials(work, world, flags.trials, inside, flags.seed))
    print(
        f"{sum(not unlike for _, unlike in found)} of {len(found)} trials of {flags.what} ended like the undisturbed; "
        f"{sum(caught for caught, _ in found)} were killed inside a checkpoint"
    )
    assert not any(unlike for _, unlike in found), [unlike for _, unlike in found]
    assert sum(caught for caught, _ in found) >= inside


if __name__ == "__main__":
    main()
