"The released trainer's command as it was typed, its checkpoints, given splits, and data that are put there by hand"

import sys
from contextlib import redirect_stderr
from dataclasses import fields
from functools import cache
from io import StringIO
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from plmsub.app import mask_commands
from plmsub.app.command import _hyphens
from plmsub.app.commands import plmsub_checkpoint, plmsub_eval, plmsub_fold, plmsub_released, plmsub_sweep, plmsub_train
from plmsub.app.flags import ModelFlags, category_and_parts
from plmsub.base.errors import ConfigError, DataError
from plmsub.base.files import read_json, shared_dir, write_json
from plmsub.io.cath import read_domains
from plmsub.io.data import fetch, read_manifest
from plmsub.io.toy import write_toy
from plmsub.models.weights import load_plm
from plmsub.paper.trainer import NO_EFFECT, ReleasedFlags
from plmsub.train import load_run

README = (  # the command of the release's README, with a model and epochs for a test
    "--run_name R --wandb_project P --batch_size 16 --max_epochs 2 --mask_init_value 0.96 --suppression_mode cath "
    "--suppression_level class --suppression_target 1 --num_examples_per_batch 4 --learning_rate 1e-1 --precision bf16 "
    "--maintenance_lambda 7 --suppression_lambda 10 --maintenance_mlm_lambda 1 --num_workers 4 "
    "--accumulate_grad_batches 4 --mask_top_layer_frac 0.8 --sparsity_warmup_epochs 200 --mask_temp_init 3.2 "
    "--mask_temp_final 0.01 --mask_temp_decay 100 --lr_phaseA 1e-1 --lr_phaseB 5e-4 --lr_plateau_epochs 125 "
    "--lr_hold_epochs 50 --mask_threshold 0.40 --ckpt_freq 5 --sparsity_ramp_epochs 150"
).split()
CLASS_1 = "--suppression_mode cath --suppression_level class --suppression_target 1".split()
TOY = "--model_name toy --domains toy".split()
N_STEPS = (
    13  # of an epoch on the toy proteome with the defaults, and with those of the README: 16 suppressed domains a step
)

# flag -> words that follow it, and what the table says; further flags that it needs
FLAGS = {
    "run_name": ("mine", "out runs/mine", ""),
    "run_dir": ("there", "out there/1", ""),
    "suppression_mode": ("dssp", "category helix", "--suppression_target helix"),
    "suppression_level": ("architecture", "part of the category", "--suppression_target 1.10"),
    "suppression_target": ("2", "part of the category", ""),
    "random_n": ("100", "part of the category", "--suppression_level random"),
    "model_name": ("toy", "plm toy", ""),
    "min_n_res": ("70", "min_length 70", ""),
    "max_n_res": ("200", "max_length 200", ""),
    "val_check_interval": ("0.5", "valid_every {half}", ""),
    "ckpt_freq": ("5", "checkpoint_every {five}", ""),
    "precision": ("bf16", "no effect", ""),
    "num_workers": ("4", "no effect", ""),
    "shuffle": ("False", "no effect", ""),
    "debug": ("", "no effect", ""),
    "resume_last": ("", "no effect", ""),
    "wandb_project": ("P", "track wandb, offline", ""),
    "wandb_run_id": ("abc", "track wandb, offline", ""),
    "wandb_dir": ("watched", "track wandb, offline", ""),
    "max_epochs": ("7", "steps {seven}", ""),
    "batch_size": ("8", "batch_size 8", ""),
    "num_examples_per_batch": ("1", "suppressed 1", ""),
    "accumulate_grad_batches": ("16", "accumulate 16", ""),
    "suppression_lambda": ("10", "suppress_weight 10", ""),
    "maintenance_lambda": ("7", "maintain_weight 7", ""),
    "maintenance_mlm_lambda": ("2", "mlm_weight 2", ""),
    "sparsity_lambda_init": ("0", "no sparsity term in the first {hundred} steps", ""),
    "sparsity_lambda_final": ("0.3", "sparsity_weight 0.3", "--sparsity_lambda_init 0"),
    "sparsity_warmup_epochs": ("1", "sparsity_hold {one}", "--sparsity_lambda_init 0"),
    "sparsity_ramp_epochs": ("7", "sparsity_ramp {seven}", "--sparsity_lambda_init 0"),
    "mask_init_value": ("0.96", "keep 0.96", ""),
    "mask_threshold": ("0.4", "threshold 0.4", ""),
    "mask_temp_init": ("3.2", "temperature_start 3.2, temperature_steps {epochs_300}", ""),
    "mask_temp_final": ("0.01", "temperature_end 0.01", ""),
    "mask_temp_decay": ("100", "no effect", ""),
    "mask_top_layer_frac": ("0.5", "layers 1-3", ""),
    "mask_layer_range": ("1 2", "layers 1-2", ""),
    "layers_to_mask": ("0 3", "layers [0, 3]", ""),
    "learning_rate": ("1e-1", "learning_rate 0.1", ""),
    "lr_plateau_epochs": ("10", "warm_up 0.1", ""),
    "lr_phaseA": ("1e-1", "no effect", ""),
    "lr_phaseB": ("5e-4", "no effect", ""),
    "lr_hold_epochs": ("50", "no effect", ""),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    "Proteins and model are read once for all tests; runs go to a folder of the test's own"
    monkeypatch.setattr(mask_commands, "category_and_parts", CACHED["parts"])
    monkeypatch.setattr(ModelFlags, "load", CACHED["load"])
    monkeypatch.chdir(tmp_path)


CACHED = dict(parts=cache(category_and_parts), load=cache(ModelFlags.load))


def arguments(*words):
    "The flags of a command line"
    given = vars(plmsub_released.parser().parse_args(_hyphens([*words], {})))
    return {k: v for k, v in given.items() if v is not None}


def translated(*words):
    "Flag -> what the table says of it"
    table = plmsub_released(**arguments(*TOY, *words, "--dry_run"))
    return {text.split()[0].removeprefix("--"): here for text, here in zip(table.released, table.here)}


def test_every_flag_of_the_release_is_a_flag_and_is_tested():
    assert {f.name for f in fields(ReleasedFlags)} == FLAGS.keys()
    assert {f.name for f in fields(ReleasedFlags)} <= plmsub_released.__signature__.parameters.keys()


@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_is_what_the_table_says(name, monkeypatch, capsys):
    monkeypatch.setattr(mask_commands, "find_spec", lambda package: True)
    words, here, others = FLAGS[name]
    numbers = dict(one=N_STEPS, half=round(N_STEPS / 2), five=5 * N_STEPS, seven=7 * N_STEPS)
    numbers |= dict(hundred=100 * N_STEPS, epochs_300=300 * N_STEPS)
    table = translated(*CLASS_1, *others.split(), f"--{name}", *words.split())
    assert table[name] == here.format(**numbers)
    said = capsys.readouterr().out
    assert (f"--{name} has no effect" in said) == (here == "no effect"), said


def test_flags_that_others_make_useless_are_named(monkeypatch, capsys):
    for words, useless in (
        ("--suppression_mode dssp --suppression_target coil --suppression_level class", "suppression_level"),
        ("--suppression_mode dssp --suppression_target coil --num_examples_per_batch 4", "num_examples_per_batch"),
        ("--suppression_level random --random_n 90 --suppression_target 1", "suppression_target"),
        ("--random_n 90", "random_n"),
        ("--sparsity_ramp_epochs 9", "sparsity_ramp_epochs"),
        ("--layers_to_mask 2 --mask_top_layer_frac 0.8", "mask_top_layer_frac"),
    ):
        assert translated(*CLASS_1, *words.split()).get(useless) == "no effect", words
        assert f"--{useless} has no effect" in capsys.readouterr().out


def test_defaults_are_those_of_the_release():
    table = translated(*CLASS_1)
    assert table["max_epochs"] == f"steps {4 * N_STEPS}" and table["mask_init_value"] == "keep 0.010001"
    known = dict(
        batch_size=2, num_examples_per_batch=1, accumulate_grad_batches=16, learning_rate=1e-4, mask_threshold=0.5
    )
    known |= dict(suppression_lambda=1, maintenance_lambda=1, maintenance_mlm_lambda=0.5, mask_top_layer_frac=0.5)
    known |= dict(sparsity_lambda_init=1, sparsity_lambda_final=1, sparsity_warmup_epochs=100, sparsity_ramp_epochs=100)
    known |= dict(mask_temp_init=1, mask_temp_final=0.1, mask_temp_decay=50, precision="16-mixed", max_epochs=4)
    assert {name: getattr(ReleasedFlags(), name) for name in known} == known


def test_the_readme_command_is_read_as_typed(monkeypatch, capsys):
    monkeypatch.setattr(mask_commands, "find_spec", lambda package: None)
    table = translated(*README)
    expected = dict(
        run_name="out runs/R",
        suppression_mode="category 1",
        max_epochs=f"steps {2 * N_STEPS}",
        batch_size="batch_size 16",
    )
    expected |= dict(
        num_examples_per_batch="suppressed 4",
        accumulate_grad_batches="accumulate 4",
        ckpt_freq=f"checkpoint_every {5 * N_STEPS}",
    )
    expected |= dict(suppression_lambda="suppress_weight 10", maintenance_lambda="maintain_weight 7")
    expected |= dict(mask_init_value="keep 0.96", mask_threshold="threshold 0.4", learning_rate="learning_rate 0.1")
    expected |= dict(
        mask_temp_final="temperature_end 0.01", lr_plateau_epochs="warm_up 0.008", mask_top_layer_frac="layers 0-3"
    )
    assert {k: table[k] for k in expected} == expected
    said = [line.split()[0][2:] for line in capsys.readouterr().out.splitlines() if " has no effect: " in line]
    never = [word[2:] for word in README if word[2:] in NO_EFFECT]
    assert {*said} == {*never, "wandb_project", "sparsity_warmup_epochs", "sparsity_ramp_epochs"}


def test_what_is_refused(tmp_path, monkeypatch):
    for words, said in (
        ("", "do not say what is suppressed"),
        ("--suppression_mode cath --suppression_level topology --suppression_target 1.10", "not a CATH topology"),
        ("--suppression_mode cath --suppression_level random", "has a size"),
        ("--suppression_mode dssp --suppression_target 1", "helix, strand or coil"),
    ):
        with pytest.raises(ConfigError, match=said):
            translated(*words.split())
    monkeypatch.setenv("PLMSUB_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match="no CATH data was fetched"):
        plmsub_released(**arguments("--model_name", "toy", *CLASS_1, "--dry_run"))
    with pytest.raises(SystemExit), redirect_stderr(StringIO()) as said:
        arguments("--mask_init_values", "0.96")
    assert "--mask-init-value" in said.getvalue()


def test_fetched_data_are_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("PLMSUB_DATA", str(tmp_path))
    write_toy(tmp_path / "toy")
    (tmp_path / "cath").mkdir()
    for name, file in (("domain-list-v4_3_0.txt", "toy.clf"), ("dataset-nonredundant-S20-v4_3_0.fa", "toy.fa")):
        (tmp_path / "toy" / file).rename(tmp_path / "cath" / f"cath-{name}")
    (tmp_path / "cath/cath-dataset-nonredundant-S20-v4_3_0.atom.fa").write_text("not read")
    table = plmsub_released(**arguments("--model_name", "toy", *CLASS_1, "--dry_run"))
    assert f"steps {4 * N_STEPS}" in set(table.here)


def test_a_run_that_is_watched_and_scored_everywhere(monkeypatch, capsys):
    logged, asked = [], {}
    watcher = SimpleNamespace(log=lambda row, step: logged.append(step), finish=lambda: logged.append("end"))
    monkeypatch.setattr(mask_commands, "find_spec", lambda package: True)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **given: asked.update(given) or watcher))
    short = (
        "--max_epochs 1 --batch_size 32 --num_examples_per_batch 16 --accumulate_grad_batches 4 --mask_init_value 0.6"
    )
    watch = "--wandb_project P --wandb_run_id one --wandb_dir watched --learning_rate 0.5 --run_name R --seed 3"
    run = plmsub_released(**arguments(*TOY, *CLASS_1, *short.split(), *watch.split()))
    assert (asked["project"], asked["id"], asked["dir"], asked["mode"]) == ("P", "one", "watched", "offline")
    assert logged == [*range(1, run.config.steps + 1), "end"]
    assert run.folder.as_posix() == "runs/R" and run.config.double_softmax and run.config.reading == "sampled"
    assert (run.config.suppressed, run.config.accumulate, run.config.seed) == (16, 4, 3)
    assert read_json(run.folder / "config.json")["command"]["released"]["max_epochs"] == 1
    sizes = [len(read_json(run.folder / "split.json")[part]) for part in ("train", "valid", "test")]
    assert sizes == [672, 192, 96]
    capsys.readouterr()
    plmsub_eval("runs/R", part="all", proteins=24, draws=1)
    assert "On all parts, those of training included," in capsys.readouterr().out
    scored = pd.read_csv(run.folder / "all-24-draws-1/perplexity.csv")
    lists = read_json(run.folder / "split.json")
    assert all(set(scored.id) & set(lists[part]) for part in ("train", "test"))
    with pytest.raises(ConfigError, match="test, valid, train or all"):
        plmsub_fold("runs/R", part="every")


def checkpoint(path, **settings):
    "A checkpoint as Lightning writes it, of the toy model"
    plm, state = load_plm("toy"), {}
    g = torch.Generator().manual_seed(0)
    for layer in range(1, plm.n_layers):
        for short, role in dict(q="query", k="key", v="value", out="output").items():
            w = plm.weights[f"layer.{layer}.attention.{role}"]
            name = f"mask_learner.mask_params.layers||{layer}||self_attn||{short}_proj||"
            state[f"{name}weight"] = 3 + 2 * torch.randn(w.shape, generator=g)
            state[f"{name}bias"] = torch.full((w.shape[0],), 3.0)
    torch.save(dict(state_dict=state, mask_temperature=3.1, epoch=9, global_step=90, hyper_parameters=settings), path)


def test_a_checkpoint_becomes_a_run_that_is_scored(capsys):
    checkpoint(
        "one.ckpt", suppression_mode="cath", suppression_level="class", suppression_target="1", mask_threshold=0.4
    )
    run = plmsub_checkpoint("one.ckpt", plm="toy", domains="toy")
    assert run.folder.as_posix() == "runs/one" and run.category.name == "1" and run.config.threshold == 0.4
    assert list(run.config.layers) == [1, 2, 3] and 0 < run.scores["sparsity"] < 0.3 and run.scores["step"] == 90
    other = plmsub_checkpoint("one.ckpt", "other", plm="toy", domains="toy", threshold=0.38)
    assert other.config.threshold == 0.38 and other.scores["sparsity"] < run.scores["sparsity"]
    drawn = plmsub_checkpoint("one.ckpt", "drawn", plm="toy", domains="toy", draw=0)
    assert drawn.scores["sparsity"] != run.scores["sparsity"]
    capsys.readouterr()
    comparison = plmsub_eval("runs/one", proteins=16, draws=1)
    assert {"subnetwork", "full", "random", "untrained, hard"} <= set(comparison.model)
    assert load_run("runs/one").subnetwork.mask.sparsity == run.scores["sparsity"]
    with pytest.raises(ConfigError, match="a finished run here already"):
        plmsub_checkpoint("one.ckpt", plm="toy", domains="toy")


def test_a_checkpoint_that_says_little_is_asked_for_more():
    checkpoint("none.ckpt")
    checkpoint("set.ckpt", suppression_mode="cath", suppression_level="random", random_n=100, mask_threshold=0.4)
    with pytest.raises(ConfigError, match="does not name its threshold"):
        plmsub_checkpoint("none.ckpt", plm="toy", domains="toy")
    with pytest.raises(ConfigError, match="names no category"):
        plmsub_checkpoint("none.ckpt", plm="toy", domains="toy", threshold=0.4)
    with pytest.raises(ConfigError, match="known by its ids"):
        plmsub_checkpoint("set.ckpt", plm="toy", domains="toy")
    run = plmsub_checkpoint("none.ckpt", plm="toy", domains="toy", threshold=0.38, category="helix", split="60/20/20")
    assert run.config.threshold == 0.38 and run.category.name == "helix"


def test_a_given_split_trains_and_sweeps(monkeypatch):
    ids = [d.id for d in read_domains("toy")]
    lists = dict(train=ids[:600], val=ids[600:800], test=ids[800:])
    write_json("train_val_split.json", lists)
    quick = dict(steps=2, valid_every=2, valid_proteins=8)
    run = plmsub_train(split="train_val_split.json", out="given", **quick)
    split = read_json(run.folder / "split.json")
    assert [sorted(split[p]) for p in ("train", "valid", "test")] == [sorted(part) for part in lists.values()]
    run = plmsub_train(split="70/20/10", split_by="domain", out="shares", **quick)
    assert [len(read_json(run.folder / "split.json")[p]) for p in ("train", "valid", "test")] == [672, 192, 96]
    pd.DataFrame([dict(category="1", **quick)]).to_csv("jobs.csv", index=False)
    plmsub_sweep("jobs.csv", out="sweep", split="train_val_split.json", proteins=8, draws=1)
    (folder,) = [f for f in (run.folder.parent / "sweep").iterdir() if f.is_dir() and (f / "split.json").exists()]
    assert sorted(read_json(folder / "split.json")["valid"]) == sorted(lists["val"])
    assert "train_val_split.json" in pd.read_csv("sweep/jobs.csv").split[0]


def test_data_without_an_address_say_what_to_put_where(tmp_path, capsys):
    releases = read_manifest()
    names = {"cath-s20-atom", "deeplocpro", "dms-tables", "proteingym-substitutions", "swissprot", "netsurfp2"}
    assert names <= releases.keys()
    by_hand = {name for name in names if releases[name].by_hand}
    assert by_hand == names - {"swissprot"}
    assert all(releases[name].bytes is None and releases[name].sha256 is None for name in names)
    for name in by_hand:
        with pytest.raises(DataError, match="Put there"):
            fetch(name, tmp_path)
    mask_commands.plmsub_data(["mutations"], folder=str(tmp_path))  # a group says so of each, and fetches the others
    said = capsys.readouterr().out
    assert (
        "dms-tables is not downloaded" in said and "https://proteingym.org" in said and "mutations/proteingym" in said
    )
    (tmp_path / "mutations/scans").mkdir(parents=True)
    assert fetch("dms-tables", tmp_path) == tmp_path / "mutations/scans"
    mask_commands.plmsub_data(["dms-tables"], folder=str(tmp_path))
    assert str(tmp_path / "mutations/scans") in capsys.readouterr().out


@pytest.mark.skipif(not shared_dir(), reason="no shared data")
def test_the_readme_command_counts_the_steps_of_cath():
    cath = shared_dir() / "cath"
    files = (
        "--domains",
        cath / "cath-domain-list-S20-v4_3_0.txt",
        "--fasta",
        cath / "cath-dataset-nonredundant-S20-v4_3_0.fa",
    )
    table = plmsub_released(**arguments(*README, "--model_name", "mini", *map(str, files), "--dry_run"))
    assert "steps 276" in set(table.here) and "temperature_start 3.2, temperature_steps 41400" in set(table.here)
