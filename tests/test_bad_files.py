"""Bad files, one fault each: every reader refuses them by name, in the right words, at the right line

`bad_files/index.tsv` says of each file: the format (an entry of `formats.py`), the name it takes among the files of that
format where there are several, the class of the error, its line, and words of its message. Binary files, and text that an
editor could repair unasked, are not kept but made here (`MADE`)."""

import gzip
import io
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from formats import FORMATS
from safetensors.torch import load, save

from plmsub.base.errors import PlmsubError
from plmsub.base.files import package_file
from plmsub.models.weights import FORMAT
from plmsub.plm import tiny_esm2
from plmsub.subnetwork import MASK_FORMAT

FOLDER = Path(__file__).parent / "bad_files"
HEAD, *ROWS = [line.split("\t") for line in (FOLDER / "index.tsv").read_text(encoding="utf-8").splitlines()]
INDEX = [dict(zip(HEAD, row, strict=True)) for row in ROWS]

# --- Files that are made: name -> a function that turns the valid bytes into bad ones

PAGE = b"<!DOCTYPE html>\n<title>404</title>\n"


def half(valid):
    return valid[: len(valid) // 2]


def page(_):
    return PAGE


def empty(_):
    return b""


def flipped(valid, place):
    return valid[:place] + bytes([valid[place] ^ 1]) + valid[place + 1 :]


def metadata(valid):
    return json.loads(valid[8 : 8 + int.from_bytes(valid[:8], "little")]).get("__metadata__", {})


def tensors(change, **meta):  # of a safetensors file
    return lambda valid: save(change(load(valid)), {**metadata(valid), **meta})


def lacking(weights):
    return {name: w for name, w in weights.items() if not re.search("fc2|ffn.down|output.dense", name)}


def with_nan(weights):
    return {
        name: w * float("nan") if re.search("fc2|ffn.down|output.dense", name) else w for name, w in weights.items()
    }


def shorter(weights):
    return {name: w[:-1].contiguous() for name, w in weights.items()}


def torch_bytes(x):
    torch.save(x, file := io.BytesIO())
    return file.getvalue()


def pickled(change):  # of what a `.pt` file holds
    return lambda valid: torch_bytes(change(torch.load(io.BytesIO(valid), weights_only=False)))


def weights(change):
    return pickled(lambda found: {**found, "model": change(found["model"])})


def flipped_weight(valid):
    found = torch.load(io.BytesIO(valid), weights_only=False)["model"]
    return flipped(valid, valid.index(max(found.values(), key=torch.Tensor.numel).numpy().tobytes()))


class Code:
    "What a pickle can do to whoever opens it"

    def __reduce__(self):
        return print, ("this code must never run",)


def mask_file(model=None, **told):  # the mask of a run, said to be of another model or run
    def make(valid):
        about = json.loads(metadata(valid)[MASK_FORMAT]) | told
        if model:
            about["fingerprint"] = model.fingerprint
        return save(load(valid), {MASK_FORMAT: json.dumps(about)})

    return make


def config(change):  # of a run
    def make(valid):
        change(about := json.loads(valid))
        return json.dumps(about).encode()

    return make


def setting(**changes):
    return config(lambda about: about["config"].update(changes))


def zip_of(*names):
    with zipfile.ZipFile(file := io.BytesIO(), "w") as z:
        for name in names:
            z.writestr(name, "ATOM")
    return file.getvalue()


def tgz_of_link(_):
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w:gz") as t:
        t.addfile(link := tarfile.TarInfo("toy/1t00A01"))
        link.type, link.linkname = tarfile.SYMTYPE, "../list.txt"
        t.addfile(link)
    return file.getvalue()


MADE = {
    "clf/binary.clf": lambda valid: b"\x89PNG\r\n\0\0",
    "clf/cut_off.clf.gz": lambda valid: gzip.compress(valid)[:-9],
    "clf/no_text.clf": lambda valid: valid + b"# prot\x81ine\n",
    "clf/zip.clf": lambda valid: zip_of("toy.clf", "other.clf"),
    "fasta/damaged.fa.gz": lambda valid: flipped(gzip.compress(valid, mtime=0), 11),
    "fasta/folder": lambda valid: "folder",
    "fasta/absent.fa": lambda valid: None,
    "plm/half.safetensors": half,
    "plm/page.safetensors": page,
    "plm/empty.safetensors": empty,
    "plm/mask.safetensors": lambda valid: FORMATS["mask"].files()["mask.safetensors"],
    "plm/weight_lacking.safetensors": tensors(lacking),
    "plm/weight_too_many.safetensors": tensors(lambda weights: {**weights, "layer.7.ffn.up": torch.zeros(2)}),
    "plm/other_shape.safetensors": tensors(shorter),
    "plm/nan.safetensors": tensors(with_nan),
    "plm/settings.safetensors": tensors(dict, **{FORMAT: '{"name": "tiny", "settings": {"n_layers": 1}}'}),
    "plm_of_fairesm/half.pt": half,
    "plm_of_fairesm/page.pt": page,
    "plm_of_fairesm/empty.pt": empty,
    "plm_of_fairesm/code.pt": lambda valid: torch_bytes(dict(cfg=Code(), model={})),
    "plm_of_fairesm/tensor.pt": lambda valid: torch_bytes(torch.zeros(3)),
    "plm_of_fairesm/no_settings.pt": pickled(lambda found: dict(model=found["model"])),
    "plm_of_fairesm/weight_lacking.pt": weights(lacking),
    "plm_of_fairesm/nan.pt": weights(with_nan),
    "plm_of_fairesm/flipped.pt": flipped_weight,
    "plm_of_fairesm/contact.pt": weights(lambda found: {name: torch.zeros(1, 3) for name in found}),
    "plm_of_fairesm/contact_half.pt": half,
    "plm_of_transformers/half.safetensors": half,
    "plm_of_transformers/nan.safetensors": tensors(with_nan),
    "plm_of_transformers/weight_lacking.safetensors": tensors(lacking),
    "mask/half.safetensors": half,
    "mask/page.safetensors": page,
    "mask/model.safetensors": lambda valid: FORMATS["plm"].files()["tiny.safetensors"],
    "mask/flipped_bit.safetensors": lambda valid: flipped(valid, -1 + len(valid)),
    "mask/other_shapes.safetensors": tensors(shorter),
    "run/unknown_setting.json": setting(dropout=0.1),
    "run/setting_lacking.json": config(lambda about: about["config"].pop("learning_rate")),
    "run/steps_is_text.json": setting(steps="2"),
    "run/negative_steps.json": setting(steps=-2),
    "run/threshold.json": setting(threshold=2),
    "run/layers.json": setting(layers=["1"]),
    "run/other_settings.json": setting(learning_rate=0.2),
    "run/nan.json": setting(learning_rate=float("nan")),
    "run/other_category.json": config(lambda about: about.update(category=dict(name="2", kind="cath", value="2"))),
    "run/no_such_category.json": config(lambda about: about.update(category=dict(name="9", kind="cath", value="9"))),
    "run/no_category.json": config(lambda about: about.pop("category")),
    "run/mask_of_another_model.safetensors": mask_file(tiny_esm2(n_layers=1, dim=8, n_heads=2, seed=1)),
    "run/mask_of_another_run.safetensors": mask_file(category=dict(name="2", kind="cath", value="2")),
    "checkpoint/half.safetensors": half,
    "checkpoint/other_step.safetensors": tensors(dict, state='{"step": 3, "scores": null}'),
    "checkpoint/other_model.safetensors": tensors(shorter),
    "pretraining/half.safetensors": half,
    "zip/half.zip": half,
    "zip/leads_out.zip": lambda valid: zip_of("toy/1t00A01", "../1t00A02"),
    "zip/directory.zip": lambda valid: flipped(
        valid, valid.index(b"PK\1\2") + 33
    ),  # the first entry swallows the second
    "tgz/half.tgz": half,
    "tgz/link.tgz": tgz_of_link,
    "tgz/page.tgz": page,
}

# --- The readers


@pytest.mark.parametrize("row", INDEX, ids=lambda row: row["file"])
def test_it_is_refused(row, tmp_path, capfd):
    form = FORMATS[row["format"]]
    files = dict(form.files())
    name = row["as"] or next(iter(files))
    files[name] = MADE[row["file"]](files[name]) if row["file"] in MADE else (FOLDER / row["file"]).read_bytes()
    for n, data in files.items():
        if data == "folder":
            (tmp_path / n).mkdir()
        elif data is not None:
            (tmp_path / n).write_bytes(data)
    with pytest.raises(PlmsubError) as caught:
        form.read(tmp_path)
    error, line = caught.value, int(row["line"]) if row["line"] else None
    assert type(error).__name__ == row["error"] and row["words"] in str(error), f"{type(error).__name__}: {error}"
    assert error.line == line and (any(n in str(error) for n in files) or not form.from_file), str(error)
    assert str(error).isprintable() and capfd.readouterr() == ("", "")


def test_the_index_is_complete():
    kept = {p.relative_to(FOLDER).as_posix() for p in FOLDER.rglob("*") if p.is_file() and p.name != "index.tsv"}
    listed = [row["file"] for row in INDEX]
    assert len(set(listed)) == len(listed) and set(listed) == kept | set(MADE) and not kept & set(MADE)
    assert {row["format"] for row in INDEX} == {name for name, form in FORMATS.items() if form.refuses}


# --- The command line

TOY = ["--domains", package_file("toy.clf"), "--fasta", package_file("toy.fa")]
COMMANDS = [  # flags of plmsub_train, the file that is wrong
    (["--domains", "clf/short_row.clf", "--fasta", package_file("toy.fa")], "clf/short_row.clf"),
    (["--domains", package_file("toy.clf"), "--fasta", "cath_fasta/wrong_range.fa"], "cath_fasta/wrong_range.fa"),
    ([*TOY, "--dssp", "dssp_strings/unknown_letter.fa", "--suppress", "helix"], "dssp_strings/unknown_letter.fa"),
    (["--suppress", "labels/three_columns.tsv:kinase"], "labels/three_columns.tsv"),
    (["--plm", "plm_of_fairesm/code.pt"], "plm_of_fairesm/code.pt"),
]


def test_commands_say_it_in_one_line(tmp_path):
    script = tmp_path / "train.py"
    script.write_text("from plmsub.app.commands import plmsub_train\nplmsub_train.main()\n")

    def here(flag):
        return str(FOLDER / flag if (FOLDER / str(flag).partition(":")[0]).is_file() else flag)

    (tmp_path / "plm_of_fairesm").mkdir()
    (tmp_path / "plm_of_fairesm/code.pt").write_bytes(MADE["plm_of_fairesm/code.pt"](b""))

    def run(i, flags):
        return subprocess.Popen(
            [sys.executable, script, *map(here, flags), "--out", f"run{i}"],
            cwd=tmp_path,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    started = [run(i, flags) for i, (flags, _) in enumerate(COMMANDS)]
    for process, (_, file) in zip(started, COMMANDS):
        said, error = process.communicate()
        row = next(row for row in INDEX if row["file"] == file)
        assert process.returncode == 1 and said == "" and len(error.splitlines()) == 1, said + error
        assert (
            error.startswith("plmsub_train: ") and file in error and row["words"] in error and "Traceback" not in error
        ), error
        assert not row["line"] or f"line {row['line']}:" in error, error
