"The paper from the command line: its settings, its runs, its files, its figures"

import json
import shutil
import warnings
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from made_up import made_up_folder
from small_models import FAMILIES
from test_runs import shell

import plmsub.app.mask_commands
from plmsub.app.mask_commands import plmsub_data, plmsub_eval, plmsub_figures, plmsub_sweep
from plmsub.app.sweep import Job
from plmsub.base.errors import ConfigError, DataError, ModelError, PlmsubError
from plmsub.categories import cath_category
from plmsub.io.cath import read_clf, read_domains
from plmsub.paper.figures import table3b, table3c
from plmsub.paper.original import RELEASED, released_config
from plmsub.paper.panels import table2b, table2c
from plmsub.paper.released import (
    read_checkpoint,
    read_perplexity,
    read_run_config,
    read_runs,
    read_splits,
    read_structure,
    read_suppressed,
    write_results,
)
from plmsub.paper.results import result_tables
from plmsub.splits import split

QUICK = dict(steps=6, keep=0.55, learning_rate=0.5, valid_every=6, valid_proteins=16, max_damage=10.0)

# --- Settings of the release


def test_a_preset_and_other_settings(tmp_path):
    own = dict(learning_rate=0.05, temperature_start=3.0, valid_every=2, valid_proteins=16)
    flags = [part for name, value in own.items() for part in (f"--{name}", str(value))]
    status, said = shell(tmp_path, "plmsub_train", "--preset", "paper_cath", "--steps", "2", *flags, "--out", "run")
    assert status == 0, said
    about = json.loads((tmp_path / "run/config.json").read_text())
    n_train = len(json.loads((tmp_path / "run/split.json").read_text())["train"])
    wanted = released_config("paper_cath", 4, n_train, 2, **own)
    assert about["config"] == json.loads(json.dumps(asdict(wanted)))


@pytest.mark.parametrize("preset", RELEASED)
def test_every_preset_is_the_papers(preset):
    "PAPER: weights, temperatures, threshold, first probability, layers, batches and schedules of the published runs"
    esm2 = (0.96, 0.01, 16, 4, 4)
    attention = "query key value output"
    table = dict(
        paper_cath=(10, 7, 1, 3.2, 0.40, 27, 1000, *esm2, attention),
        paper_dssp=(50, 100, 1.2, 3.3, 0.38, 27, 800, *esm2, attention),
        plos_cath=(10, 7, 1, 3.0, 0.40, 33, 1000, *esm2, attention),
        protbert=(10, 9, 1, 1, 0.43, 33, 100, 0.998, 0.1, 16, 4, 2, attention),
        carp=(10, 9, 1, 1, 0.40, 33, 100, 0.995, 0.1, 16, 4, 4, "up kernel down"),
        dayhoff=(4, 4, 4, 1, 0.40, 33, 200, 0.99, 0.1, 64, 16, 4, f"{attention} in x dt out"),
    )
    c = released_config(preset, 33, 6219, steps=1920)
    epoch = 6219 // (c.batch_size * c.accumulate)
    assert (
        *(c.suppress_weight, c.maintain_weight, c.mlm_weight, c.temperature_start, c.threshold, len(c.layers)),
        *(c.learning_rate_steps / epoch, c.keep, c.temperature_end, c.batch_size, c.suppressed, c.accumulate),
        " ".join(c.projections),
    ) == table[preset]
    sparsity = (1, 65 * epoch, 15 * epoch) if preset == "dayhoff" else (0, 0, 0)
    assert (c.sparsity_weight, c.sparsity_hold, c.sparsity_ramp) == sparsity
    assert (c.learning_rate, c.warm_up, c.start_div, c.kl_inputs, c.double_softmax, c.steps) == (
        *(0.1, 1 / 125, 1, "clean", True, 1920),
    )
    assert c.temperature_steps == 300 * epoch
    assert released_config(preset, 33, 6219, None).steps == c.learning_rate_steps


def test_a_wrong_preset_is_one_line(tmp_path):
    status, said = shell(tmp_path, "plmsub_train", "--preset", "cath")
    assert status == 1 and "paper_dssp" in said and "Traceback" not in said and len(said.strip().splitlines()) == 1, (
        said
    )


# --- The runs of the paper


def test_impossible_targets_are_refused_before_a_model_is_loaded(tmp_path):
    status, said = shell(tmp_path, "plmsub_sweep", "paper", "--plm", "nowhere.pt")
    assert status == 1 and "runs are impossible" in said and "nowhere" not in said and "Traceback" not in said, said
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_prices_the_paper(tmp_path):
    status, said = shell(tmp_path, "plmsub_sweep", "paper", "--dry-run", "--levels", "residue,class,random")
    assert status == 0, said
    for words in ("1920", "of training and ", "B of masks", "cannot be a category", "7 of 9, "):
        assert words in said, (words, said)
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_prices_another_family(tmp_path):
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    bert = FAMILIES["BERT"](tmp_path).path
    flags = "--family protbert --levels class --dry-run".split()
    status, said = shell(tmp_path, "plmsub_sweep", "paper", *flags, "--plm", str(bert))
    assert status == 0 and "1, protbert, seed 0" in said and "3 of 3, " in said, said
    n_train = len(split(read_domains("toy"), seed=0, category=cath_category("1")).train)
    assert str(100 * (n_train // 32)) in said, said  # 100 epochs of two batches of 16
    status, said = shell(tmp_path, "plmsub_sweep", "paper", *flags, "--preset", "paper_cath")
    assert status == 1 and "one preset" in said, said
    status, said = shell(tmp_path, "plmsub_sweep", "paper", "--family", "carp", *flags[2:], "--plm", str(bert))
    assert status == 1 and "kernel" in said and "Traceback" not in said, said  # a BERT has no convolutions


def test_a_sweep_runs_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jobs = [Job("1", "released", settings=QUICK), Job("helix", "released", settings=QUICK)]
    monkeypatch.setattr(
        plmsub.app.mask_commands, "paper_jobs", lambda preset, levels, seeds: jobs[:1] if levels else jobs
    )
    first = plmsub_sweep("paper", levels="class", proteins=20, draws=1, out="sweep")
    mask = next((tmp_path / "sweep").glob("*/mask.safetensors"))
    made = mask.stat().st_mtime_ns
    both = plmsub_sweep("paper", proteins=20, draws=1, out="sweep")
    assert (first.state.tolist(), both.state.tolist()) == (
        ["done"],
        ["done", "done"],
    ) and mask.stat().st_mtime_ns == made
    again = plmsub_sweep(proteins=20, draws=1, out="sweep")  # the table is remembered
    assert again.folder.tolist() == both.folder.tolist()
    plmsub_eval(csv="sweep/runs.csv", part="all", proteins=60, passes=2, out="theirs")  # as the release's scripts do it
    runs, losses = read_runs("theirs"), read_perplexity("theirs")
    ids = losses.groupby("run").id.agg(set)
    assert sorted(runs.level) == ["class", "residue"] and (losses.groupby(["run", "id"]).size() == 2).all()
    assert all(len(ids[run]) == 60 for run in runs.run) and ids[""] == set.union(*ids[runs.run])
    drawn = plmsub_figures("theirs", domains="toy")
    assert {"figure1", "figure2b", "figure2c", "figure2c_as_released"} <= set(drawn.figure[drawn.drawn])
    own = plmsub_figures("sweep", kind="released")
    assert set(own.figure[own.drawn]) == set(drawn.figure[drawn.drawn])
    with pytest.raises(PlmsubError, match="kind"):
        plmsub_figures("sweep")


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "empty"),
        ("run\na\n", "column folder"),
        ("folder\nnowhere\n", "no run here"),
        ("folder\na/x\nb/x\n", "one name"),
    ],
)
def test_tables_of_runs_that_are_wrong(tmp_path, text, words):
    (tmp_path / "runs.csv").write_text(text)
    with pytest.raises(PlmsubError, match=words):
        plmsub_eval(csv=str(tmp_path / "runs.csv"))


# --- The files of the paper


def test_results_that_are_there_are_used(tmp_path, capsys):
    made_up_folder(tmp_path / "paper" / "by-hand", passes=1)
    plmsub_data(["paper"], folder=str(tmp_path))  # tests are offline
    assert "here already" in capsys.readouterr().out


def test_results_are_fetched_and_unpacked(tmp_path, monkeypatch, capsys):
    place, _ = made_up_folder(tmp_path / "made", passes=1)

    def fetch(name, folder):
        at = Path(folder) / "paper" / name
        at.mkdir(parents=True)
        with zipfile.ZipFile(at / "results.zip", "w") as z:
            for file in place.rglob("*"):
                if file.is_file():
                    z.write(file, file.relative_to(place.parent))
        return at

    monkeypatch.setattr(plmsub.app.mask_commands, "fetch", fetch)
    plmsub_data(["paper-zenodo"], folder=str(tmp_path))
    assert plmsub.app.mask_commands.paper_results(tmp_path) is not None
    capsys.readouterr()
    plmsub_data(["paper"], folder=str(tmp_path))
    assert "here already" in capsys.readouterr().out


# --- Reading and writing them


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    return made_up_folder(tmp_path_factory.mktemp("released"), n_pdbs=6)


def test_what_was_read_is_written_again_as_the_same_bytes(released, tmp_path):
    place, domains = released
    runs, losses = read_runs(place), read_perplexity(place)
    assert len(runs) == 38 and (losses.groupby("run").size() == 600).all() and set(losses["pass"]) == {0, 1}
    splits = read_splits(place, runs.run)
    suppressed = read_suppressed(place, runs, domains, losses.id.unique())
    assert {run: len(ids) for run, ids in suppressed.items()} == dict(
        runs[runs.level != "residue"].set_index("run")["size"]
    )
    configs = {run: read_run_config(place, run) for run in runs.run}
    copy = write_results(tmp_path, runs, losses, read_structure(place), splits, suppressed, configs)
    files = {f.relative_to(place): f.read_bytes() for f in place.rglob("*") if f.is_file() and f.suffix != ".pdb"}
    assert {f.relative_to(copy): f.read_bytes() for f in copy.rglob("*") if f.is_file()} == files


def test_random_runs_are_scored_on_training_domains(released):
    place, domains = released
    runs = read_runs(place).set_index("run")
    splits, suppressed = read_splits(place, runs.index), read_suppressed(place, runs.reset_index(), domains)
    twice = splits[splits.duplicated(["run", "id"])]
    assert set(runs.level[twice.run]) == {"random"}
    assert all(set(rows.id) == suppressed[run] for run, rows in twice.groupby("run"))


def test_a_loss_of_zero_can_be_read_as_missing(released):
    states = ["helix_nats", "strand_nats", "coil_nats"]
    written, right = (read_perplexity(released[0], [""], zero_is_missing=z)[states] for z in (False, True))
    assert (written == 0).any().all() and right.isna().equals(written == 0) and (written.mean() < right.mean()).all()


def replaced(place, name, old, new):
    "Change the first place of a file that holds `old`"
    text = (place / name).read_text()
    assert old in text
    (place / name).write_text(text.replace(old, new, 1))


@pytest.fixture
def copied(released, tmp_path):
    "A copy with the table of runs and the files of three of them"
    place = tmp_path / "results"
    for name in ("metadata.csv", *(f"subnetworks/{r}" for r in ("class-1", "random-69"))):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        source = released[0] / name
        shutil.copytree(source, place / name) if source.is_dir() else shutil.copy(source, place / name)
    return place


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("cath_class_code,1,", "fold,1,", "no such category of runs: “fold”"),
        ("code,2.60,", "code,2.6,", "zero at its end"),
        ("code,2.60,", "code,2.60.8,", "not a CATH architecture"),
        ("code,2.60,", "code,9.60,", "CATH has the classes"),
        ("residue,1,", "residue,3,", "1 \\(helix\\) or 2 \\(strand\\)"),
        (",alpha,", ",all,", "a type is"),
        ("class-2", "../made-up", "cannot be the name of a run"),
        ("class-2", "class-1", "line 5: two runs have one name"),
        ("sparsity\n", "zeros\n", "lacks the column sparsity"),
        ("size,", "type,", "two columns have one name: “type”"),
        ("residue,1,", "residue,1,2,", "line 2: 9 cells in a table of 8"),
        ("alpha,", "alpha,x", "epoch is a whole number"),
    ],
)
def test_wrong_tables_of_runs(copied, old, new, words):
    replaced(copied, "metadata.csv", old, new)
    with pytest.raises(DataError, match=words):
        read_runs(copied)


def test_a_wrong_sparsity(copied):
    text = (copied / "metadata.csv").read_text().splitlines()
    for value in ("213", "-1", "nan", ""):
        line = text[3].rpartition(",")[0] + f",{value}"
        (copied / "metadata.csv").write_text("\n".join([*text[:3], line, *text[4:]]))
        with pytest.raises(DataError, match="line 4: sparsity is a number from 0 to 100"):
            read_runs(copied)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda cells: [*cells, "1"], "7 cells in a table of 6"),
        (lambda cells: cells[:-1], "5 cells in a table of 6 columns.*cut off"),
        (lambda cells: [""], "1 cell in a table"),
        (lambda cells: [cells[0], "high", *cells[2:]], "mlm_loss is a number of at least 0"),
        (lambda cells: [cells[0], "-1", *cells[2:]], "mlm_loss is a number of at least 0"),
        (lambda cells: [cells[0], "", *cells[2:]], "mlm_loss is a number of at least 0"),
        (lambda cells: [cells[0], "inf", *cells[2:]], "mlm_loss is a number of at least 0"),
        (lambda cells: [*cells[:-1], "x"], "coil_mlm is a number of at least 0"),
        (lambda cells: ["", *cells[1:]], "has no id"),
        (lambda cells: [f" {cells[0]}", *cells[1:]], "has no id"),
    ],
)
def test_wrong_rows_of_losses(copied, change, words):
    file = copied / "subnetworks/class-1/perplexity.csv"
    lines = file.read_text().splitlines()
    lines[3] = ",".join(change(lines[3].split(",")))
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=f"perplexity.csv, line 4: .*{words}"):
        read_perplexity(copied, ["class-1"])


@pytest.mark.parametrize(
    "text, words", [("<html>Not found</html>", "web page"), ("cath_id,mlm_loss\n", "lacks the column"), ("", "empty")]
)
def test_files_that_are_not_tables(copied, text, words):
    (copied / "subnetworks/class-1/perplexity.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        read_perplexity(copied, ["class-1"])


def test_cells_that_are_missing_or_quoted(copied):
    "An empty state is missing; quotes as R writes them, a gzip file and another name for the steps are read"
    file = copied / "subnetworks/class-1/perplexity.csv"
    lines = [line.split(",") for line in file.read_text().splitlines()]
    whole = read_perplexity(copied, ["class-1"])
    lines[1][3:5] = ["", "NaN"]
    file.write_text("\n".join(",".join([f'"{cells[0]}"', *cells[1:]]) for cells in lines) + "\n\n")
    table = read_perplexity(copied, ["class-1"])
    assert table.loc[0, ["helix_nats", "strand_nats"]].isna().all() and table[1:].equals(whole[1:])
    replaced(copied, "metadata.csv", ",steps,", ",global_step,")
    assert len(read_runs(copied)) == 38


def test_other_files_of_a_run_that_are_wrong(copied, released):
    domains, runs = released[1], read_runs(copied)
    scores = copied / "subnetworks/class-1/tmalign.csv"
    scores.write_text(scores.read_text() + scores.read_text().splitlines()[1] + "\n")
    with pytest.raises(DataError, match="this domain is given twice"):
        read_structure(copied, ["class-1"])
    replaced(copied, "subnetworks/class-1/train_val_split.json", '"val"', '"valid"')
    with pytest.raises(DataError, match="train, val and test"):
        read_splits(copied, ["class-1"])
    listed = copied / "subnetworks/random-69/random_supp_ids.txt"
    listed.write_text(listed.read_text() * 2)
    with pytest.raises(DataError, match="one id a line, each once"):
        read_suppressed(copied, runs[runs.run == "random-69"])
    of_class = runs[runs.level == "class"]
    with pytest.raises(ConfigError, match="none of 5 domains lies under the target of class-2"):
        read_suppressed(copied, of_class, [d for d in domains if d.code[0] == "1"][:5])
    with pytest.raises(DataError, match="this domain has no code: “1avcA07”"):
        read_suppressed(copied, of_class, domains, ids=["1avcA07"])
    with pytest.raises(ConfigError, match="no such run"):
        read_perplexity(copied, ["class-9"])
    with pytest.raises(DataError, match="not a folder of released results"):
        read_runs(copied / "subnetworks")


def test_what_is_odd_is_a_warning(copied):
    file = copied / "subnetworks/class-1/perplexity.csv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0] + ",model", *(row + ",650M" for row in lines[1:-1])]) + "\n")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert len(read_perplexity(copied, ["class-1"])) == 599
    assert [str(w.message).split(": ")[1].split(" ")[-1] for w in said] == ["read", "2"], [str(w.message) for w in said]


KEY = "mask_learner.mask_params.layers||1||self_attn||q_proj||weight"
CHECKPOINT = dict(state_dict={KEY: torch.zeros(4, 4)}, epoch=9, global_step=450, mask_temperature=torch.tensor(3.19))


class Runs:
    def __reduce__(self):
        return print, ("hello",)


@pytest.mark.parametrize(
    "change, words",
    [
        (CHECKPOINT["state_dict"], "not a Lightning checkpoint"),
        (CHECKPOINT | dict(state_dict={"model.x": torch.zeros(1)}), "holds no mask"),
        (CHECKPOINT | dict(state_dict={KEY: torch.zeros(3)}), "cannot be \\(3,\\)"),
        (CHECKPOINT | dict(state_dict={KEY: torch.full((4, 4), torch.nan)}), "not finite"),
        (
            CHECKPOINT | dict(state_dict={KEY.replace("q_proj", "gate"): torch.zeros(2, 2)}),
            "not a parameter of attention",
        ),
        ({k: v for k, v in CHECKPOINT.items() if k != "epoch"}, "epoch and step"),
        (CHECKPOINT | dict(mask_temperature="hot"), "mask_temperature of the checkpoint is not a number"),
        (CHECKPOINT | dict(hyper_parameters=Runs()), ""),
    ],
)
def test_files_that_are_not_checkpoints(tmp_path, capsys, change, words):
    torch.save(change, tmp_path / "wrong.ckpt")
    with pytest.raises(ModelError, match=words or None):
        read_checkpoint(tmp_path / "wrong.ckpt")
    assert "hello" not in capsys.readouterr().out  # no code was run


def test_damaged_checkpoints(tmp_path):
    torch.save(CHECKPOINT, tmp_path / "whole.ckpt")
    assert read_checkpoint(tmp_path / "whole.ckpt").temperature == pytest.approx(3.19)
    for name, content in (
        ("cut.ckpt", (tmp_path / "whole.ckpt").read_bytes()[:500]),
        ("other.ckpt", b"not a checkpoint"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError):
            read_checkpoint(tmp_path / name)


# --- Its figures


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    return folder, shell(folder, "plmsub_figures", "made-up", "--made-up")


def test_every_panel_from_one_command(made_up):
    folder, (status, said) = made_up
    assert status == 0 and "not drawn" not in said, said
    figures = folder / "made-up/figures"
    names = [line.split()[0] for line in said.splitlines() if line.startswith("figure")]
    assert len(names) == 14 and {f.name for f in figures.iterdir()} == {
        f"{n}.{e}" for n in names for e in ("png", "svg", "pdf", "csv")
    } | {"captions.md"}
    captions = [line for line in (figures / "captions.md").read_text().splitlines() if line]
    assert len(captions) == 14 and all("** Made up" in line for line in captions)
    assert all("made up" in (figures / f"{n}.svg").read_text() for n in names)  # in the picture itself
    assert (pd.read_csv(figures / "figure3f.csv").n > 0).all()


def test_every_panel_from_the_files_of_the_release(released):
    place, domains = released
    tables = result_tables(place, domains, place.parent / "natives")
    assert not tables["absent"] and not tables["left_out"] and len(tables["examples"]) == 2
    assert set(tables["residue_plddt"].run) == {"", "class-1", "class-2", "residue-helix", "residue-strand"}
    row = tables["residue_plddt"].iloc[0]
    values = [
        float(line[60:66]) for line in (place / f"esmfold_650M_pdbs/{row.id}.pdb").open() if line[12:16] == " CA "
    ]
    assert row.run == "" and row.plddt == pytest.approx(values[0], abs=0.01)


def test_what_cannot_be_drawn_is_named(released, tmp_path):
    shutil.copytree(released[0], tmp_path / "results")
    shutil.rmtree(tmp_path / "results/esmfold_650M_pdbs")
    (tmp_path / "results/esm2_650M_perplexity.csv").unlink()
    (tmp_path / "results/subnetworks/class-3/tmalign.csv").unlink()
    status, said = shell(tmp_path, "plmsub_figures", ".")
    assert status == 0 and "not drawn: there is no table suppressed" in said, said  # no list of domains
    status, said = shell(tmp_path, "plmsub_figures", ".", "--domains", released[0].parent / "cath/cath.clf")
    lines = {line.split()[0]: line for line in said.splitlines() if line.startswith("figure")}
    assert status == 0 and "esm2_650M_perplexity.csv" in lines["figure2c"] and "without class-3" in lines["figure3b"], (
        said
    )
    assert "not drawn" in lines["figure3f"] and "not drawn" in lines["figure3de"] and lines["figure1"].endswith("drawn")


def test_errors_are_one_line(tmp_path):
    for flags, words in (
        (["."], "neither released results"),
        ([], "plmsub_data paper"),
        (["nowhere"], "neither released results"),
    ):
        status, said = shell(tmp_path, "plmsub_figures", *flags)
        assert status == 1 and words in said and "Traceback" not in said, said


# --- By hand: five domains and two runs, through the files


@pytest.fixture
def by_hand(tmp_path):
    """Class 1 (domains a, b) was suppressed by one run, helix residues by another; both were trained on b

    Losses in two passes: class run a 3.0, 3.2; b 2.9, 2.9; c 2.1, 2.1; d 2.3, 2.3; e 2.5, 2.5; ESM-2 2.0 everywhere."""
    ids = [f"9abcA0{k}" for k in range(1, 6)]
    codes = ["1.10.8.10", "1.10.8.20", "2.30.30.40", "2.30.30.40", "3.40.50.10"]
    clf = "".join(
        f"{i} {' '.join(c.replace('.', ' ').split())} 1 1 1 1 1 {n} 2.000\n"
        for i, c, n in zip(ids, codes, (70, 90, 80, 100, 120))
    )
    (tmp_path / "list.txt").write_text(clf)
    runs = pd.DataFrame(
        [
            dict(
                run="by-class",
                level="class",
                target="1",
                size=2,
                type="alpha",
                epoch=19,
                steps=1920,
                sparsity_percent=2.13,
            ),
            dict(
                run="by-helix",
                level="residue",
                target="helix",
                size=2,
                type="alpha",
                epoch=1,
                steps=196,
                sparsity_percent=0.9,
            ),
        ]
    )

    def losses(run, nll, helix, strand, coil):
        return pd.DataFrame(
            dict(
                run=run,
                id=ids * 2,
                value=nll,
                perplexity=np.exp(nll),
                helix_nats=helix,
                strand_nats=strand,
                coil_nats=coil,
            )
        ).assign(**{"pass": lambda t: t.groupby("id").cumcount()})

    perplexity = pd.concat(
        [
            losses("", [2.0] * 10, 2.1, 1.9, 1.7),
            losses("by-class", [3, 2.9, 2.1, 2.3, 2.5, 3.2, 2.9, 2.1, 2.3, 2.5], 2.0, 2.0, 2.0),
            losses(
                "by-helix",
                [2.0] * 10,
                [3.0, 3, 0, 0, 2.6, 3.4, 3, 0, 2.4, 2.6],
                [0.0, 0, 2, 2, 2.2, 0, 0, 2, 2, 2.2],
                1.8,
            ),
        ]
    )

    def scores(run, plddt):
        return pd.DataFrame(dict(run=run, id=ids, tm_score=0.8, rmsd_A=2.0, plddt=plddt))

    structure = pd.concat(
        [scores("", 80.0), scores("by-class", [50.0, 60, 78, 76, 74]), scores("by-helix", [50.0, 60, 72, 70, 71])]
    )
    splits = pd.DataFrame(
        [(run, i, "train" if i == ids[1] else "valid") for run in runs.run for i in ids], columns=["run", "id", "part"]
    )
    write_results(tmp_path, runs, perplexity, structure, splits)
    return tmp_path


def test_numbers_of_the_panels_by_hand(by_hand):
    tables = result_tables(by_hand, list(read_clf(by_hand / "list.txt").values()))

    def at(table):
        return table.set_index(["run", "model", "side"]).perplexity

    ppl = at(table2c(tables))
    wanted = {
        ("by-class", "subnetwork", "suppressed"): 3.1,
        ("by-class", "subnetwork", "maintained"): 2.3,
        ("by-class", "ESM-2", "suppressed"): 2.0,
        ("by-helix", "subnetwork", "suppressed"): (3.2 + 2.4 + 2.6) / 3,
        ("by-helix", "subnetwork", "maintained"): (1.8 + 1.9 + 1.9 + 2.0) / 4,
        ("by-helix", "ESM-2", "maintained"): 1.8,
    }
    for key, nats in wanted.items():
        np.testing.assert_allclose(ppl[key], np.exp(nats))
    np.testing.assert_allclose(
        at(table2c(tables, True))["by-class", "subnetwork", "suppressed"],
        np.exp([3, 3.2, 2.9, 2.9]).mean(),
    )
    change = table3b(tables).query('metric == "plddt"').set_index(["run", "side"]).change
    np.testing.assert_allclose(
        [change["by-class", s] for s in ("suppressed", "maintained")], [-30, -4]
    )  # a; c, d, e: -2, -4, -6
    np.testing.assert_allclose(
        [change["by-helix", s] for s in ("suppressed", "maintained")], [-30, -9]
    )  # class 1; -8, -10, -9
    excess = table3c(tables).query('metric == "plddt"').set_index("run").excess
    np.testing.assert_allclose(excess[["by-class", "by-helix"]], [26, 21])
    released = table3b(tables, True).query('metric == "plddt"').set_index(["run", "side"]).change
    np.testing.assert_allclose(released["by-helix", "suppressed"], -9)  # class 2: c, d
    bars = table2b(tables, True).set_index("level")
    np.testing.assert_allclose(bars.loc[["residue", "class"], "steps_times_4_mean"], [784, 7680])
