"A sweep as its users meet it: status, exit status, what is remembered, and what is given up; tests/slurm.sh has a real Slurm"

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from plmsub.app import mask_commands
from plmsub.app.commands import plmsub_sweep
from plmsub.app.slurm import SlurmFlags
from plmsub.app.sweep import Job, add_rows, write_jobs
from plmsub.base.errors import ConfigError, RunError
from plmsub.base.runs import read_log

QUICK = dict(steps=2, valid_every=2, valid_proteins=8, corruptions=1, batch_size=8, suppressed=2, keep=0.55)
QUICK |= dict(learning_rate=0.5, max_damage=10.0)
SMALL = dict(proteins=20, draws=1)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jobs([Job("1", settings=QUICK), Job("1", seed=1, settings=QUICK)], "jobs.csv")


def said(call, *args, **flags):
    with redirect_stdout(io.StringIO()) as out:
        returned = call(*args, **flags)
    return returned, out.getvalue()


def status_of(*words):
    with redirect_stdout(io.StringIO()) as out:
        try:
            plmsub_sweep.main(list(words))
        except SystemExit as e:
            return e.code, out.getvalue()
    return 0, out.getvalue()


def test_the_status_of_a_sweep(monkeypatch):
    with pytest.raises(RunError, match="no sweep here"):
        plmsub_sweep(status="nowhere")
    fit = mask_commands.sweep.__globals__["fit"]

    def once(*args, **kwargs):
        monkeypatch.setitem(mask_commands.sweep.__globals__, "fit", broken)
        return fit(*args, **kwargs)

    def broken(*args, **kwargs):
        raise MemoryError("no room")

    monkeypatch.setitem(mask_commands.sweep.__globals__, "fit", once)
    assert status_of("jobs.csv", "--out", "sweep", "--proteins", "20", "--draws", "1")[0] == 3
    code, text = status_of("--status", "sweep")
    assert code == 3 and "MemoryError: no room" in text and "2 runs: 1 done, 1 failed" in text
    code, text = status_of("--status", "sweep", "--json")
    rows = json.loads(text)
    assert [row["state"] for row in rows] == ["done", "failed"] and rows[0]["step"] == rows[0]["steps"] == 2
    said(plmsub_sweep, out="sweep", **SMALL)
    monkeypatch.setitem(mask_commands.sweep.__globals__, "fit", fit)
    table, _ = said(plmsub_sweep, out="sweep", **SMALL)
    assert table.error[1].count("failed twice: MemoryError: no room") == 1
    table, text = said(plmsub_sweep, out="sweep", retry=True, **SMALL)
    assert table.state.tolist() == ["done", "done"] and status_of("--status", "sweep")[0] == 0
    write_jobs([Job("2", settings=QUICK)], "more.csv")
    (Path("sweep/jobs.csv")).write_text(
        Path("sweep/jobs.csv").read_text() + Path("more.csv").read_text().splitlines()[1] + "\n"
    )
    assert status_of("--status", "sweep")[0] == 4


def test_what_is_done_is_collected():
    said(plmsub_sweep, "jobs.csv", "sweep", **SMALL)
    table, text = said(plmsub_sweep, collect="sweep")
    row = table[table.model == "subnetwork"].iloc[0]
    assert (row.seeds, row.n_runs) == ("0 1", 2) and row.n_suppressed == 10 and "margin" in text
    runs = pd.read_csv("sweep/runs.csv")
    assert row.S == pytest.approx(runs.S.mean())
    assert pd.read_csv("sweep/collected.csv").shape == table.shape and Path("sweep/collected.png").stat().st_size > 5000
    assert np.isfinite(table.margin_p_adjusted[table.model == "random"]).all()


def test_the_order_of_runs_csv_is_that_of_the_jobs():
    Path("sweep").mkdir()
    jobs = [Job("1", seed=k, settings=QUICK) for k in range(3)]
    write_jobs(jobs, "sweep/jobs.csv")
    rows = [dict(job=str(j), state="done", folder=f"f{k}", step=2, S=0.5, error="") for k, j in enumerate(jobs)]
    texts = set()
    for order in ([0, 1, 2], [2, 0, 1]):
        Path("sweep/runs.csv").unlink(missing_ok=True)
        for k in order:
            add_rows(pd.DataFrame([rows[k]]), "sweep/runs.csv")
        texts.add(Path("sweep/runs.csv").read_text())
    assert len(texts) == 1 and ",2," in texts.pop()
    Path("sweep/f1").mkdir()
    Path("sweep/f1/measured.json").touch()
    add_rows(pd.DataFrame([rows[1] | dict(state="elsewhere", S=None)]), "sweep/runs.csv")  # looked before it was done
    assert pd.read_csv("sweep/runs.csv").state.tolist() == ["done"] * 3


def test_the_flags_of_slurm_are_kept(monkeypatch):
    "Also for a device that this machine lacks; nothing is loaded, and nothing is handed to a real Slurm"
    asked = []

    def submit(words, folder, flags):
        asked.append((words, flags))
        return [SimpleNamespace(job_id=f"{len(asked)}_{k}") for k in range(flags.slurm)]

    monkeypatch.setattr(mask_commands, "submit", submit)
    monkeypatch.setattr(mask_commands, "queue_of", lambda tasks: {task: "PENDING" for task in tasks} or None)
    monkeypatch.setattr("plmsub.models.weights.load_plm", None)
    given = dict(slurm=2, partition="low", mem="16G", slurm_extra="qos=long", device="cuda", plm="mini", **SMALL)
    tasks, text = said(plmsub_sweep, "jobs.csv", "sweep", **given)
    assert (
        tasks == ["1_0", "1_1"]
        and "--status sweep --watch" in text
        and "sweep/slurm/1*_log.out" in text.replace("\\", "/")
    )
    said(plmsub_sweep, out="sweep", slurm=1, mem="32G")
    (words, first), (again, second) = asked
    assert first == SlurmFlags(slurm=2, partition="low", mem="16G", slurm_extra="qos=long", gpus="1")
    assert second == SlurmFlags(slurm=1, partition="low", mem="32G", slurm_extra="qos=long", gpus="1")
    assert words == again and {"--device=cuda", "--plm=mini", "--proteins=20", "--draws=1"} <= set(words)
    assert json.loads(Path("sweep/slurm.json").read_text())["tasks"] == ["1_0", "1_1", "2_0"]
    code, text = status_of("--status", "sweep")
    assert code == 4 and "Slurm: 3 pending" in text
    cancelled = []
    monkeypatch.setattr(mask_commands, "cancel", cancelled.extend)
    assert "1_0, 1_1, 2_0" in said(plmsub_sweep, cancel="sweep")[1] and len(cancelled) == 3


def test_flags_that_do_not_go_together():
    for wrong in (dict(watch=True), dict(status="a", cancel="b")):
        with pytest.raises(ConfigError):
            plmsub_sweep(**wrong)


def test_a_dry_run_says_what_it_plans_with():
    _, text = said(plmsub_sweep, "jobs.csv", dry_run=True)
    assert "Planned with the toy proteome (960 domains)" in text and " of evaluation on cpu" in text and "kB" in text


def test_the_log_is_written_before_the_first_checkpoint(monkeypatch):
    seen, step = [], mask_commands.fit.__globals__["train_step"]

    def watched(plm, state, *args):
        seen.append(len(read_log(next(Path("run").parent.glob("run")))))
        return step(plm, state, *args)

    monkeypatch.setitem(mask_commands.fit.__globals__, "train_step", watched)
    said(mask_commands.plmsub_train, "1", "run", **QUICK | dict(steps=4, checkpoint_every=99))
    assert seen == [0, 1, 1, 1] and [row["step"] for row in read_log("run")] == [1, 2, 3, 4]
