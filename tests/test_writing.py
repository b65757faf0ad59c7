"What is written: whole or not at all, one sentence where it cannot be, nothing left behind, and the same names and bytes again"

import os
import subprocess
import sys
import time
from contextlib import contextmanager

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import SafetensorError

import plmsub.teacher
from plmsub.base.errors import ModelError, RunError
from plmsub.base.files import file_name, id_of_file, whole_file, write_json, write_table
from plmsub.base.runs import append_log, read_log
from plmsub.batches import encode
from plmsub.masks import HardMask
from plmsub.models.embed import embed_proteins
from plmsub.models.export import export_fairesm, export_transformers
from plmsub.models.pretrain import PretrainConfig, pretrain
from plmsub.models.weights import load_plm, save_plm
from plmsub.paper.figures import figure3de
from plmsub.paper.results import made_up_tables, own_runs, predicted_residues
from plmsub.plm import tiny_esm2
from plmsub.plots import plot_comparison, plot_overlap
from plmsub.proteins import Protein
from plmsub.subnetwork import Subnetwork, save_mask
from plmsub.teacher import Teacher

posix = pytest.mark.skipif(os.name != "posix", reason="needs limits and signals of POSIX")


@contextmanager
def disk_full(most):
    "No file grows beyond so many bytes"
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def half(plm):
    "A mask of one matrix"
    name = "layer.0.attention.query"
    return HardMask({name: torch.arange(plm.weights[name].numel()).reshape(plm.weights[name].shape) % 2 == 0})


PLM = tiny_esm2()
PROTEINS = [Protein(f"p{i}", "MKTAYIAKQRQISFVKSHFSRQ" * 4) for i in range(40)]
SMALL = PretrainConfig(n_layers=1, dim=32, n_heads=2, steps=2, warmup_steps=1, checkpoint_every=1, log_every=1)
WRITERS = {
    "embed": lambda to: embed_proteins(PLM, PROTEINS, to),
    "fairesm": lambda to: export_fairesm(PLM, to / "esm2_x.pt"),
    "transformers": lambda to: export_transformers(PLM, to / "x"),
    "pretrain": lambda to: pretrain(["MKTAYIAKQR"] * 20, SMALL, to),
    "model": lambda to: save_plm(PLM, to / "x.safetensors"),
    "table": lambda to: write_table(pd.DataFrame(dict(x=np.arange(5000.0) ** 0.5)), to / "x.csv.gz"),
    "json": lambda to: write_json(to / "x.json", list(range(5000))),
}


@posix
@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_one_sentence(tmp_path, writer):
    with disk_full(4096), pytest.raises(RunError, match="^[^\n]*cannot write this[^\n]*Make room[^\n]*$") as error:
        WRITERS[writer](tmp_path)
    assert str(tmp_path) in str(error.value) and ".tmp-" not in str(error.value)
    assert not [f for f in tmp_path.rglob(".*")]
    WRITERS[writer](tmp_path)  # with room again


@posix
def test_a_mask_on_a_full_disk(tmp_path):
    with disk_full(10), pytest.raises(RunError, match="mask.safetensors: cannot write this"):
        save_mask(half(PLM), tmp_path / "mask.safetensors", PLM)


@posix
def test_a_log_on_a_full_disk(tmp_path):
    append_log(tmp_path, [dict(step=1)])
    with disk_full(20), pytest.raises(RunError, match="log.jsonl: cannot write this"):
        append_log(tmp_path, [dict(step=2), dict(step=3)])
    assert [row["step"] for row in read_log(tmp_path)] == [1]  # a row that is cut off does not count


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write this"):
        write_json(tmp_path / "file" / "x.json", {})


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(RuntimeError, match="shapes differ") as error, whole_file(tmp_path / "x"):
        raise RuntimeError("shapes differ")
    assert type(error.value) is RuntimeError


ANSWERS = dict(os=OSError(28, "No space left on device"), safetensors=SafetensorError("I/O error: No space left"))


@pytest.mark.parametrize("failing", [*ANSWERS, "folder"])
def test_a_teacher_that_cannot_store_costs_time_alone(tmp_path, monkeypatch, failing):
    place = tmp_path / "logits"
    if failing == "folder":
        place.touch()
    else:

        def save_file(*args, **kwargs):
            raise ANSWERS[failing]

        monkeypatch.setattr(plmsub.teacher, "save_file", save_file)
    teacher, tokens = Teacher(PLM, place), encode(["MKTAYIAK"])
    first = teacher(tokens, tokens == tokens)
    with pytest.warns(UserWarning, match="could not be stored"):
        assert teacher.save() is None
    assert torch.equal(teacher(tokens, tokens == tokens), first) and teacher.computed == 1


# --- What killed processes leave


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from plmsub.models.export import export_fairesm, export_transformers
from plmsub.plm import tiny_esm2

plm = tiny_esm2()

def work(here):
    for export, name in ((export_fairesm, "esm2_x.pt"), (export_transformers, "x")):
        if not (here / name).exists():
            export(plm, here / name)

def killed(here, n):
    "Killed where a file or folder gets its name for the n-th time; True if it came to that"
    child = os.fork()
    if not child:
        left = [n]
        def counted(do):
            def rename(*args, **kwargs):
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                return do(*args, **kwargs)
            return rename
        os.replace, os.rename = counted(os.replace), counted(os.rename)
        work(here)
        os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL

def held(here):
    return {f.relative_to(here): f.is_file() and f.read_bytes() for f in here.rglob("*")}

whole, n = Path("whole"), 1
whole.mkdir()
work(whole)
while killed(here := Path(str(n)), n):
    work(here)
    assert held(here) == held(whole), (n, sorted(held(here)))
    n += 1
print(n - 1)
"""


@posix
def test_an_export_that_is_killed_at_any_renaming_can_be_repeated(tmp_path):
    script = [sys.executable, "-c", KILLED]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and int(done.stdout) > 8, done.stdout + done.stderr


@posix
def test_leftovers_go_by_owner_and_age(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with whole_file(tmp_path / "x.json") as temporary:
        machine = temporary.parent.name.split("-")[1]
    names = dict(ended=f"{machine}-{ended.pid}", alive=f"{machine}-1", elsewhere=f"x{machine}-1", old=f"x{machine}-2")
    for k, name in names.items():
        folder = tmp_path / f".tmp-{name}-0123abcd"
        folder.mkdir()
        (folder / "model.safetensors").write_text("half of it")
        names[k] = folder
    two_days_ago = time.time() - 2 * 86400
    os.utime(names["old"], (two_days_ago, two_days_ago))
    mine = tmp_path / ".tmp-of-another-kind"
    mine.mkdir()
    write_json(tmp_path / "x.json", {})
    assert {f.name for f in tmp_path.iterdir()} == {"x.json", mine.name, names["alive"].name, names["elsewhere"].name}


def test_hidden_files_are_no_results(tmp_path):
    (tmp_path / "pred").mkdir()
    (tmp_path / "pred" / ".1abcA00.0123abcd.pdb").write_text("ATOM  half of it")
    assert predicted_residues(tmp_path / "pred") == {}
    for name in ("run", ".tmp-here-1-0123abcd"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mask.safetensors").touch()
    assert [f.name for f in own_runs(tmp_path)] == ["run"]


# --- The same names and bytes again


def test_the_same_table_gives_the_same_bytes(tmp_path, monkeypatch):
    table = pd.DataFrame(dict(id=["NA", "a,b"], value=[1.5, np.nan]))
    first = write_table(table, tmp_path / "test.csv.gz").read_bytes()
    monkeypatch.setattr(time, "time", lambda: 1e9)
    assert write_table(table, tmp_path / "test.csv.gz").read_bytes() == first
    back = pd.read_csv(tmp_path / "test.csv.gz", keep_default_na=False, na_values=dict(value=""))
    pd.testing.assert_frame_equal(back, table)


@pytest.mark.parametrize(
    "id", ["sp|P00001|A_ECOLI", "a/b", ".hidden", "..", ".", "P1.2", "50%25", "é ü", "x.gz", "COM1:"]
)
def test_ids_come_back_from_names_of_files(tmp_path, id):
    name = file_name(id, ".pdb")
    (tmp_path / name).touch()
    assert not name.startswith(".") and [id_of_file(f) for f in tmp_path.iterdir()] == [id]


def test_a_mask_fits_the_model_that_was_stored(tmp_path):
    mask = save_mask(half(PLM), tmp_path / "mask.safetensors", PLM)
    back = load_plm(save_plm(PLM, tmp_path / "model.safetensors"))
    assert back.fingerprint == PLM.fingerprint
    (tmp_path / "plain").touch()
    assert mask.stat().st_mode == (tmp_path / "plain").stat().st_mode  # safetensors alone would hide it from others
    assert torch.equal(Subnetwork(back, mask)(encode(["MKT"])), Subnetwork(PLM, mask)(encode(["MKT"])))
    halved = load_plm(save_plm(PLM, tmp_path / "half.safetensors", torch.float16))
    with pytest.raises(ModelError, match="half precision is another"):
        Subnetwork(halved, mask)


NAME = "a$b_{c$ and $"  # between two dollars matplotlib sees a formula


def test_names_with_dollars_are_drawn_as_they_are():
    numbers = {f"{q}{end}": [1.0] for q in "SD" for end in ("", "_low", "_high")}
    table = pd.DataFrame(dict(task=NAME, metric=NAME, model=[NAME], **numbers))
    drawn = [plot_comparison(table)]
    drawn.append(plot_overlap(pd.DataFrame(dict(a=[NAME], b=["b"], ratio=[1.2]))))
    example = made_up_tables(300)["examples"]["made up"]
    drawn.append(figure3de(dict(examples={NAME: example}))[0, 0])
    for ax in drawn:
        ax.figure.canvas.draw()
        plt.close(ax.figure)
    assert drawn[2].get_title() == r"a\$b_{c\$ and \$, native"
