"Results that cannot be wrong in silence: identity, locks, exit status, and folders that can be moved"

import io
import json
import os
import shutil
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir, contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from plmsub import train
from plmsub.app.commands import (
    plmsub_eval,
    plmsub_pretrain,
    plmsub_probe,
    plmsub_sweep,
    plmsub_train,
)
from plmsub.app.sweep import Job, read_jobs, write_jobs
from plmsub.base.errors import ConfigError, DataError, RunError
from plmsub.base.files import data_dir
from plmsub.io.cath import read_domains
from plmsub.io.toy import fasta_text, write_toy
from plmsub.models import pretrain
from plmsub.paper.figures import _caption
from plmsub.paper.results import result_tables

QUICK = dict(steps=2, valid_every=2, valid_proteins=8, corruptions=1, batch_size=8, suppressed=2, keep=0.55)
QUICK |= dict(learning_rate=0.5, max_damage=10.0)
SMALL = (
    "--n-layers 1 --dim 16 --n-heads 2 --batch-tokens 1024 --proteins 400 --valid-share 0.1 --warmup-steps 2".split()
)
LONG = ["--checkpoint-every", "99"]
FILES = dict(domains="toy.clf", fasta="toy.fa", dssp="toy_dssp.fa")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    "Files go to a folder of the test; the figure of a report, which takes longer than all else, is left empty"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("plmsub.app.report.report_figure", lambda *args: Figure())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    "The toy proteome as files, a run on it, and a sweep of one run"
    folder = tmp_path_factory.mktemp("finished")
    write_toy(folder)
    with chdir(folder), redirect_stdout(io.StringIO()):
        plmsub_train("1", "run", dash="unassigned", **FILES, **QUICK)
        write_jobs([Job("1", settings=QUICK)], "one.csv")
        plmsub_sweep("one.csv", "sweep", proteins=20, draws=1)
    return folder


@pytest.fixture
def here(finished, tmp_path):
    "A copy of them in the working folder"
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)


def quietly(call, *args, **flags):
    with redirect_stdout(io.StringIO()) as said:
        call(*args, **flags)
    return said.getvalue()


def status_of(call, *words):
    "Exit status of a command; text stands for 1"
    try:
        quietly(call.main, list(words))
    except SystemExit as e:
        return 1 if isinstance(e.code, str) else e.code
    return 0


@contextmanager
def another_process(folder):
    "Somebody else is at work in a folder: here a thread, which counts as one"
    from plmsub.base.runs import locked

    with ThreadPoolExecutor(1) as other:
        lock = locked(folder)
        other.submit(lock.__enter__).result()
        yield
        other.submit(lock.__exit__, None, None, None).result()


# --- Identity


@pytest.mark.parametrize(
    "name, column, words",
    [("sequence", "value", "another sequence"), ("dssp", "helix_nats", "another secondary structure")],
)
def test_ids_alone_do_not_name_a_protein(here, name, column, words):
    "Two runs whose proteins share ids only: each is scored as if it were alone"
    other = [replace(d, **{name: getattr(d, name)[::-1]}) for d in read_domains("toy")]
    Path("other").mkdir()
    Path("other/toy.clf").write_bytes(Path("toy.clf").read_bytes())
    Path("other/toy.fa").write_text(fasta_text(other))
    Path("other/toy_dssp.fa").write_text(fasta_text(other, "dssp"))
    quietly(plmsub_train, "1", "b", dash="unassigned", **{k: f"other/{v}" for k, v in FILES.items()}, **QUICK)
    Path("alone.csv").write_text("folder\nb\n")
    Path("both.csv").write_text("folder\nrun\nb\n")
    with redirect_stdout(io.StringIO()):
        alone, both = (plmsub_eval(csv=f"{table}.csv", proteins=20, passes=1) for table in ("alone", "both"))
        with pytest.raises(ConfigError, match=words):
            plmsub_eval(csv="both.csv", proteins=20, passes=1, out="as-released")
    full = [losses[(losses.run == "b") & (losses.model == "full")].set_index("id")[column] for losses in (alone, both)]
    assert full[0].notna().any()
    pd.testing.assert_series_equal(*full)


def test_a_sweep_measures_again_for_other_settings(here):
    with redirect_stdout(io.StringIO()):
        first, second = (plmsub_sweep("one.csv", "sweep", proteins=n, draws=1) for n in (20, 60))
        evaluated = plmsub_eval(f"sweep/{first.folder[0]}", proteins=60, draws=1, passes=1)
    S = evaluated.set_index("model").S["subnetwork"]
    assert first.S[0] != second.S[0] == pytest.approx(S, rel=1e-12)
    rows = pd.read_csv("sweep/runs.csv")
    assert rows.proteins.tolist() == [60] and rows.S.tolist() == pytest.approx([S])


def test_a_sweep_loses_no_run_to_another_table(here):
    write_jobs([Job("2", settings=QUICK)], "two.csv")
    quietly(plmsub_sweep, "two.csv", "sweep", proteins=20, draws=1)
    assert [job.category for job in read_jobs("sweep/jobs.csv")] == ["1", "2"]
    rows = pd.read_csv("sweep/runs.csv")
    assert rows.state.tolist() == ["done", "done"] and rows.S.notna().all()
    with pytest.raises(RunError, match="differs in its data"):
        quietly(plmsub_sweep, "two.csv", "sweep", max_length=80)
    with pytest.raises(RunError, match="differs in its model: “name toy, not mini"):
        quietly(plmsub_sweep, "two.csv", "sweep", plm="mini")


def test_evaluations_stand_beside_their_settings(here):
    for proteins in (20, 40):
        quietly(plmsub_eval, "run", proteins=proteins, passes=1, draws=1)
    found = [json.loads(f.read_text()) for f in Path("run").glob("*/evaluation.json")]
    assert {20, 40} <= {e["n"] for e in found}
    assert all({"part", "proteins", "passes", "draws", "seed", "model", "mask"} <= e.keys() for e in found)
    tables = result_tables("run", read_domains("toy"))
    caption = _caption("figure2c", True, tables)
    assert "training included" not in caption and "40 proteins of the test part, passes: 1" in caption


def test_an_evaluation_goes_on_where_it_stopped(here, monkeypatch):
    import plmsub.app.report as report

    whole = quietly(plmsub_eval, "run", proteins=20, out="whole")
    scored, score = [], report.mlm_perplexity

    def stopping(models, *args, **kwargs):
        scored.extend(models if isinstance(models, dict) else [])
        if isinstance(models, dict) and len(scored) == 3:
            raise KeyboardInterrupt
        return score(models, *args, **kwargs)

    monkeypatch.setattr(report, "mlm_perplexity", stopping)
    assert status_of(plmsub_eval, "--run", "run", "--proteins", "20") == 130
    again = quietly(plmsub_eval, "run", proteins=20)
    assert scored.count("full") == scored.count("subnetwork") == 1 and scored.count(scored[2]) == 2
    assert again.split("\n\n")[1:3] == whole.split("\n\n")[1:3]
    for name in ("perplexity.csv", "comparison.csv"):
        assert Path("run/test-20", name).read_bytes() == Path("whole/test-20", name).read_bytes()
    file = Path("run/test-20/evaluation.json")
    file.write_text(file.read_text().replace('"mask": "', '"mask": "0'))  # as if the mask were another
    quietly(plmsub_eval, "run", proteins=20)
    assert scored.count("full") == 2


def test_a_table_of_runs_goes_on_where_it_stopped(here, monkeypatch):
    "Nor is scored again what a sweep has scored"
    import plmsub.app.report as report

    rows = pd.read_csv("sweep/runs.csv").assign(folder=lambda t: "sweep/" + t.folder)
    pd.concat([rows, pd.DataFrame(dict(folder=["run"]))]).to_csv("both.csv", index=False)
    scored, score = [], report.mlm_perplexity

    def counted(models, *args, **kwargs):
        scored.extend(models)
        return score(models, *args, **kwargs)

    monkeypatch.setattr(report, "mlm_perplexity", counted)
    first = quietly(plmsub_eval, csv="both.csv", proteins=20, draws=1)
    assert scored.count("subnetwork") == 1
    assert quietly(plmsub_eval, csv="both.csv", proteins=20, draws=1) == first and scored.count("subnetwork") == 1
    S = [float(line.split()[4]) for line in first.splitlines()[3:5]]
    assert S[0] == pytest.approx(rows.S[0], abs=5e-4)


def test_evaluation_is_as_quick_as_that_of_a_sweep():
    for command in (plmsub_eval, plmsub_sweep):
        flags = command.__signature__.parameters
        assert {k: flags[k].default for k in ("proteins", "passes", "draws")} == dict(proteins=512, passes=1, draws=3)


# --- One process in a folder, and what the shell gets back


def test_two_processes_in_one_folder(here):
    quick = [word for k, v in QUICK.items() for word in (f"--{k.replace('_', '-')}", str(v))]
    with another_process("new"):
        assert status_of(plmsub_train, *quick, "--out", "new") == 4
        assert status_of(plmsub_pretrain, "--out", "new", *SMALL) == 4
    assert not Path("new").exists()
    assert status_of(plmsub_train, *quick, "--out", "new") == 0


def test_finished_runs_are_done_whoever_works_elsewhere(here):
    write_jobs([Job("1", settings=QUICK), Job("1", seed=1, settings=QUICK)], "more.csv")
    quietly(plmsub_sweep, "more.csv", "sweep", proteins=20, draws=1)
    first, second = pd.read_csv("sweep/runs.csv").folder
    shutil.rmtree(Path("sweep", second))
    with another_process(f"sweep/{first}"), another_process(f"sweep/{second}"):
        sweep = ["more.csv", "--out", "sweep", "--proteins", "20", "--draws", "1"]
        assert status_of(plmsub_sweep, *sweep) == 4
        rows = pd.read_csv("sweep/runs.csv").set_index("folder")
        assert rows.state[first] == "done" and rows.S.notna()[first] and rows.state[second] == "elsewhere"
    assert status_of(plmsub_sweep, *sweep) == 0


def test_a_sweep_with_failed_runs_says_so(here):
    write_jobs([Job("1", settings=QUICK), Job("1", settings=QUICK | dict(valid_proteins=1))], "some.csv")
    assert status_of(plmsub_sweep, "some.csv", "--out", "sweep", "--proteins", "20", "--draws", "1") == 3


def interrupting(function, after=2):
    "A function that is interrupted by Ctrl-C in one of its calls"
    calls = []

    def call(*args, **kwargs):
        calls.append(args)
        if len(calls) == after:
            signal.raise_signal(signal.SIGINT)
        return function(*args, **kwargs)

    return call


@pytest.mark.parametrize(
    "command, words",
    [
        (plmsub_train, ["--out", "stopped/run", "--steps", "9", *LONG]),
        (plmsub_sweep, ["jobs.csv", "--out", "stopped"]),
        (plmsub_pretrain, ["--out", "stopped/model", "--steps", "9", *LONG, *SMALL]),
    ],
)
def test_ctrl_c_is_as_gentle_as_sigterm(monkeypatch, capsys, command, words):
    write_jobs([Job("1", settings=dict(QUICK, steps=9, checkpoint_every=99))], "jobs.csv")
    monkeypatch.setattr(train, "train_step", interrupting(train.train_step))
    monkeypatch.setattr(pretrain.Trainee, "train", interrupting(pretrain.Trainee.train))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # also where tests run in the background
    try:
        assert status_of(command, *words) == 130
    except KeyboardInterrupt:
        pytest.fail("it was not noticed")
    finally:
        signal.signal(signal.SIGINT, before)
    said = capsys.readouterr().err
    assert "stopped by Ctrl-C at step" in said and said.count("\n") == 1
    assert len(list(Path("stopped").glob("*/checkpoint/*"))) == 1


# --- Standard output


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
def test_a_reader_that_leaves_costs_no_result(here, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", buffering=1) as left:
        monkeypatch.setattr(sys, "stdout", left)
        plmsub_eval.main(["--run", "run", "--proteins", "20", "--passes", "1", "--draws", "1"])
    assert list(Path("run").glob("**/comparison.csv"))


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_letters_that_cannot_be_printed_cost_no_result(here, monkeypatch, encoding):
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    plmsub_eval.main(["--run", "run", "--proteins", "20", "--passes", "1", "--draws", "1"])
    assert b" to " in out.buffer.getvalue() or b"-0." in out.buffer.getvalue()
    assert list(Path("run").glob("**/comparison.csv"))


# --- Folders that can be moved


def test_files_that_have_moved_are_named(here, finished):
    Path("data").mkdir()
    for file in FILES.values():
        Path(file).rename(f"data/{file}")
    config = Path("run/config.json")
    config.write_text(config.read_text().replace(finished.as_posix(), Path("gone").resolve().as_posix()))
    with pytest.raises(DataError, match="domains='FILE'"):
        quietly(plmsub_eval, "run", proteins=20)
    moved = {k: f"data/{v}" for k, v in FILES.items()}
    quietly(plmsub_eval, "run", proteins=20, draws=1, **moved)
    quietly(plmsub_probe, "homology", run="run", draws=1, **moved)
    moved["dssp"] = "data/toy.fa"
    with pytest.raises(DataError):  # used, and so refused
        quietly(plmsub_probe, "homology", run="run", draws=1, **moved)


def test_a_run_of_a_sweep_can_leave_it(here):
    (run,) = Path("sweep").glob("1-*")
    run.rename("alone")
    quietly(plmsub_eval, "alone", proteins=20, draws=1)


def test_the_evaluation_of_a_run_that_cannot_be_written(here, monkeypatch):
    before = sorted(Path("run").rglob("*"))
    quietly(plmsub_eval, "run", proteins=20, draws=1, out="mine")
    assert sorted(Path("run").rglob("*")) == before and Path("mine/test-20-draws-1/comparison.csv").exists()
    import plmsub.app.report

    monkeypatch.setattr(plmsub.app.report, "mlm_perplexity", None)  # nothing is computed before the folder is looked at
    Path("file").touch()
    with pytest.raises(RunError, match="nothing can be written here.* out='FOLDER'"):
        plmsub_eval("run", proteins=20, draws=1, out="file/mine")


def test_no_home_folder(monkeypatch):
    for name in ("HOME", "USERPROFILE", "PLMSUB_DATA", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)

    def nobody(cls=None):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    with pytest.raises(DataError, match="PLMSUB_DATA"):
        data_dir()


# --- Flags and labels


@pytest.mark.parametrize(
    "task, flags, words",
    [
        ("secondary", dict(data="nosuchfile"), "data='nosuchfile'"),
        ("homology", dict(tune="lora"), "tune='lora'"),
        ("homology", dict(contacts="projections", run="run"), "contacts='projections'"),
        ("mutations", dict(data="toy.fa", layer=2), "layer=2"),
        ("mutations", dict(data="toy.fa", dssp="toy_dssp.fa"), "dssp='toy_dssp.fa'"),
    ],
)
def test_probe_refuses_flags_that_a_task_ignores(here, task, flags, words):
    with pytest.raises(ConfigError, match="has no use for") as e:
        plmsub_probe(task, **({} if "run" in flags else dict(plm="toy")), **flags)
    assert words in str(e.value)


def test_labels_that_find_no_protein_say_what_ids_look_like(here, capsys):
    ids = [d.id for d in read_domains("toy")]
    Path("none.tsv").write_text("".join(f"sp|{i}\todd\n" for i in ids))
    with pytest.raises(ConfigError, match=r"none of 960 labels .* look like sp\|1t.*, those of the proteins like 1t"):
        plmsub_train("none.tsv:odd", "new", **QUICK)
    rows = [f"{'' if n < 300 else 'sp|'}{i}\t{'odd' if n % 2 else 'even'}\n" for n, i in enumerate(ids)]
    Path("few.tsv").write_text("".join(rows))
    plmsub_train("few.tsv:odd", "new", split_by="domain", **QUICK)
    assert "300 of 960 labels found their protein: ids of the labels look like sp|1t" in capsys.readouterr().out
