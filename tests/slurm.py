"""Disturb a sweep on Slurm at random, and compare what it ends with. Started by tests/slurm.sh, which starts the cluster."""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

SETTINGS = dict(steps=90, valid_every=30, valid_proteins=16, checkpoint_every=3, batch_size=8, suppressed=2)
SETTINGS |= dict(keep=0.55, learning_rate=0.5, max_damage=10, corruptions=2)
SCORING = ["--proteins", "20", "--draws", "1"]
TASKS = 2


def said(*words, check=True):
    "What a program prints"
    done = subprocess.run(words, capture_output=True, text=True)
    if check and done.returncode:
        sys.exit(f"{' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout.strip()


def sweep(*words):
    "plmsub_sweep; its exit status"
    done = subprocess.run([sys.executable, "-m", "plmsub", "sweep", *words], capture_output=True, text=True)
    if done.returncode not in (0, 3, 4):
        sys.exit(f"plmsub_sweep {' '.join(words)}: {done.stdout}{done.stderr}")
    return done.returncode


def write_jobs():
    rows = [f"{category},{seed},{','.join(map(str, SETTINGS.values()))}" for category in (1, 2) for seed in range(4)]
    Path("jobs.csv").write_text("\n".join([f"category,seed,{','.join(SETTINGS)}", *rows]) + "\n")


def tasks(state="R"):
    return said("squeue", "-h", "-r", "-p", "low", "-t", state, "-o", "%i", check=False).split()


def preempt(chance, flags):
    "A job of the higher partition takes the whole machine for a moment"
    if tasks():
        said("sbatch", "-p", "high", "-n", "2", "-o", "/dev/null", "--wrap", "sleep 2")
        return True


def requeue(chance, flags):
    if running := tasks():
        said("scontrol", "requeue", chance.choice(running), check=False)
        return True


def cancel(chance, flags):
    if running := tasks():
        said("scancel", chance.choice(running))
        return True


def node_down(chance, flags):
    if tasks():
        host = said("sinfo", "-h", "-o", "%n")
        said("scontrol", "update", f"nodename={host}", "state=down", "reason=test")
        time.sleep(chance.uniform(1, 4))
        while "down" in said("sinfo", "-h", "-o", "%T", check=False):
            said("scontrol", "update", f"nodename={host}", "state=resume", check=False)
            time.sleep(0.5)
        return True


def no_controller(chance, flags):
    os.kill(int(flags.pid_file.read_text()), signal.SIGKILL)
    time.sleep(chance.uniform(1, 4))
    subprocess.Popen(["slurmctld", "-D"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not said("sinfo", "-h", "-p", "low", "-o", "%T", check=False):
        time.sleep(0.5)
    return True


DISTURBANCES = (preempt, requeue, cancel, node_down, no_controller)


def disturbed(flags):
    "The sweep on Slurm; which disturbances it met"
    chance, met, submitted = random.Random(flags.seed), Counter(), 0
    again = ["jobs.csv", *SCORING, "--partition", "low", "--time", "2:00:00", "--cpus", "1"]  # used again after that
    pool, start = [], time.monotonic()
    while True:
        if not tasks("PD,R,CG,CF,S"):
            if sweep("--status", "disturbed") == 0 if submitted else False:
                return met, submitted
            sweep(*again, "--out", "disturbed", "--slurm", str(TASKS))
            again, submitted = [], submitted + 1
        time.sleep(chance.uniform(*flags.pause))
        if met.total() < flags.disturbances:
            pool = pool or chance.sample(DISTURBANCES, len(DISTURBANCES))  # each kind as often
            if pool[-1](chance, flags):
                kind = pool.pop().__name__
                met[kind] += 1
                print(f"{time.monotonic() - start:6.0f} s  {met.total():3}  {kind}", flush=True)


def unlike(one, other):
    "Files of finished runs, and tables, that differ"
    names = ["runs.csv", "collected.csv", "jobs.csv"]
    for run in sorted(path.parent.name for path in one.glob("*/mask.safetensors")):
        names += [f"{run}/{name}" for name in ("mask.safetensors", "log.jsonl", "result.json", "measured.json")]
        names += [f"{run}/test-20-draws-1/{name}" for name in ("perplexity.csv", "comparison.csv")]
    return len(names), [
        n for n in names if not (other / n).exists() or (one / n).read_bytes() != (other / n).read_bytes()
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--disturbances", type=int, default=22)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, nargs=2, default=(2, 12), help="seconds between two disturbances")
    parser.add_argument("--keep", type=Path, help="folder for what is left")
    parser.add_argument("--pid-file", type=Path, required=True, help="of slurmctld")
    flags = parser.parse_args()
    write_jobs()
    start = time.monotonic()
    sweep("jobs.csv", "--out", "local", *SCORING)
    print(f"undisturbed, on this machine alone: {time.monotonic() - start:.0f} s", flush=True)
    start = time.monotonic()
    try:
        met, submitted = disturbed(flags)
        wall = time.monotonic() - start
        for folder in ("local", "disturbed"):
            sweep("--collect", folder)
        print(
            subprocess.run(
                [sys.executable, "-m", "plmsub", "sweep", "--status", "disturbed"], capture_output=True, text=True
            ).stdout
        )
        n, wrong = unlike(Path("local"), Path("disturbed"))
    finally:
        if flags.keep:
            shutil.copytree(".", flags.keep, dirs_exist_ok=True)
    kinds = ", ".join(f"{kind} {k}" for kind, k in sorted(met.items()))
    print(
        f"{met.total()} disturbances ({kinds}), handed over {submitted} times, {wall:.0f} s; {n - len(wrong)} of {n} files are equal"
    )
    sys.exit(f"these differ: {wrong}" if wrong or met.total() < flags.disturbances else 0)


if __name__ == "__main__":
    main()
