"""Disturb a sweep on Slurm at random, and compare what it ends with. Started by tests/slurm.sh, which starts the cluster."""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from plmsub.subnetwork import load_mask

SETTINGS = dict(steps=150, valid_every=30, valid_proteins=16, checkpoint_every=3, batch_size=8, suppressed=2)
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
    "A job of the higher partition takes the whole machine for a moment; for a minute, if the controller is killed when it ends"
    if tasks():
        said("sbatch", "-p", "high", "-n", "2", "-t", "1", "-o", "/dev/null", "--wrap", "sleep 2")
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


def mend():
    "What an operator does where Slurm, whose controller was killed while a job started, has drained the node or held the job"
    host, state = said("sinfo", "-h", "-p", "low", "-o", "%n %T", check=False).split() or ("", "")
    if "drain" in state:
        said("scontrol", "update", f"nodename={host}", "state=resume", check=False)
    for line in said("squeue", "-h", "-r", "-t", "PD", "-o", "%i %r", check=False).splitlines():
        if "held" in line:
            said("scontrol", "release", line.split()[0], check=False)
            print(f"released: {line}", flush=True)


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
        mend()
        if met.total() < flags.disturbances:
            pool = pool or chance.sample(DISTURBANCES, len(DISTURBANCES))  # each kind as often
            if pool[-1](chance, flags):
                kind = pool.pop().__name__
                met[kind] += 1
                print(f"{time.monotonic() - start:6.0f} s  {met.total():3}  {kind}", flush=True)


def alike(one, other):
    "Share of the weights that two masks treat alike"
    one, other = load_mask(one), load_mask(other)
    return sum(int((m == other[name]).sum()) for name, m in one.items()) / one.n_weights


def limited(flags):
    "A run that needs more time than its task has, by one process and by two: how often it was stopped, and which files differ"
    settings = SETTINGS | dict(steps=flags.steps, valid_every=flags.steps, valid_proteins=8)
    Path("long.csv").write_text(f"category,{','.join(settings)}\n1,{','.join(map(str, settings.values()))}\n")
    sweep("long.csv", "--out", "unlimited", *SCORING)
    for processes in (0, 2):
        place, start = f"limited-{processes}", time.monotonic()
        slurm = ["--slurm", "1", "--partition", "low", "--time", str(flags.minutes), "--cpus", str(processes or 1)]
        slurm += [f"--processes={processes}"] if processes else []
        sweep("long.csv", "--out", place, *SCORING, *slurm, "--slurm-extra", f"signal=USR2@{flags.notice}")
        while tasks("PD,R,CG,CF,S"):
            time.sleep(1)
        attempts = [
            json.loads(line) for f in Path(place).glob("*/attempts.jsonl") for line in f.read_text().splitlines()
        ]
        stopped = sum(row.get("how") == "stopped" for row in attempts)
        logs = "".join(f.read_text() for f in Path(place, "slurm").glob("*_log.err"))
        mask = next(f.relative_to("unlimited") for f in Path("unlimited").glob("*/mask.safetensors"))
        names = [] if processes else ["runs.csv", str(mask), str(mask.with_name("log.jsonl"))]  # sums in another order
        wrong = [
            n
            for n in names
            if not Path(place, n).exists() or Path(place, n).read_bytes() != Path("unlimited", n).read_bytes()
        ]
        share = alike(Path("unlimited", mask), Path(place, mask))
        wrong += [f"share of equal weights {share}"] if share < 0.9999 else []
        print(
            f"{max(1, processes)} processes, {flags.minutes} min a task: stopped with a checkpoint {stopped} times by SIGUSR2 "
            f"({logs.count('timed-out')} timeouts in the log), {time.monotonic() - start:.0f} s; {share:.6f} of the mask are equal, different files: {wrong}",
            flush=True,
        )
        if wrong or not stopped or "timed-out" not in logs:
            sys.exit(f"these differ: {wrong}" if wrong else f"the time limit was not met: {attempts} {logs[-3000:]}")


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
    parser.add_argument(
        "--parts", default="limit,disturbed", help="limit: tasks that reach their time limit; disturbed"
    )
    parser.add_argument("--steps", type=int, default=600, help="of the run that is longer than a task")
    parser.add_argument("--minutes", type=int, default=2, help="of its tasks")
    parser.add_argument("--notice", type=int, default=60, help="seconds before their end that they are told")
    flags = parser.parse_args()
    if "limit" in flags.parts:
        limited(flags)
    if "disturbed" not in flags.parts:
        return
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
