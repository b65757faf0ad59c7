"Representations on disk: killed and resumed without a lost or doubled record"

import random
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch

from plmsub.base.errors import DataError, PlmsubError, RunError
from plmsub.io.headers import read_proteins
from plmsub.masks import HardMask
from plmsub.models.embed import Embeddings, embed_proteins, mean_embeddings
from plmsub.plm import tiny_esm2
from plmsub.subnetwork import Subnetwork

SCRIPT = """import sys, torch
from plmsub.models.embed import embed_proteins
from plmsub.plm import tiny_esm2
torch.set_num_threads(1)
embed_proteins(tiny_esm2(dim=64), 'proteins.fa', sys.argv[1], repr_layers=(1, -1), include=('mean', 'per_tok', 'bos'), half=True, shard_residues=1000)
"""


def start(folder, out):
    (folder / "embed.py").write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, "embed.py", out], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def left(folder):
    return {f.name: f.read_bytes() for f in sorted(folder.iterdir()) if f.name != "provenance.json"}


def test_killed_and_resumed_without_a_lost_or_doubled_record(tmp_path):
    chance = random.Random(0)
    sequences = ["".join(chance.choices("ACDEFGHIKLMNPQRSTVWY", k=chance.randint(60, 600))) for _ in range(120)] + [
        "MKV" * 500
    ]
    (tmp_path / "proteins.fa").write_text("".join(f">p{i} a protein\n{s}\n" for i, s in enumerate(sequences)))
    whole = start(tmp_path, "whole")
    said, _ = whole.communicate()
    assert whole.returncode == 0, said
    n = len(list((tmp_path / "whole").glob("*.safetensors")))
    assert n > 30
    for k in range(3):  # killed when some more shards are there, at whatever moment
        process, wanted = start(tmp_path, "killed"), (k + 1) * n // 5
        while process.poll() is None and len(list((tmp_path / "killed").glob("[0-9]*.safetensors"))) < wanted:
            time.sleep(0.005)
        time.sleep(0.05 * chance.random())
        process.kill()
        process.communicate()
        assert wanted <= len(list((tmp_path / "killed").glob("[0-9]*.safetensors"))) < n
        with pytest.raises(DataError, match="shards are missing"):
            Embeddings(tmp_path / "killed")
    finished = start(tmp_path, "killed")
    said, _ = finished.communicate()
    assert finished.returncode == 0, said
    assert left(tmp_path / "whole") == left(tmp_path / "killed")
    found = Embeddings(tmp_path / "killed")
    assert list(found) == [f"p{i}" for i in range(121)]
    for i in (0, 99, 120):
        record = found[f"p{i}"]
        assert record["representations"][1].shape == record["representations"][3].shape == (len(sequences[i]), 64)
        torch.testing.assert_close(
            record["representations"][3].float().mean(0),
            record["mean_representations"][3].float(),
            atol=2e-3,
            rtol=2e-3,
        )
    means = mean_embeddings(tiny_esm2(dim=64), read_proteins(tmp_path / "proteins.fa"))
    assert abs(found.matrix("mean") - means).max() < 5e-3


def test_damaged_files_are_named(tmp_path):
    (tmp_path / "proteins.fa").write_text(">a\nMKV\n>b\nMKVA\n")

    def embed():
        return embed_proteins(tiny_esm2(), tmp_path / "proteins.fa", tmp_path / "out", shard_residues=4)

    before = embed().matrix()
    shard, index = tmp_path / "out/000001.safetensors", tmp_path / "out/index.csv"
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(DataError, match="damaged"):
        Embeddings(tmp_path / "out")["b"]
    assert (embed().matrix() == before).all()  # a damaged shard is computed again
    for text in ("", "id,residues\na,3\n", "<html>\n", 'a\n"'):
        index.write_text(text)
        with pytest.raises(DataError):
            Embeddings(tmp_path / "out")
    assert list(pd.read_csv(embed().folder / "index.csv").id) == ["a", "b"]


def test_another_mask_is_another_model(tmp_path):
    (tmp_path / "proteins.fa").write_text(">a\nMKV\n>b\nMKVA\n")
    plm, name = tiny_esm2(), "layer.0.attention.query"

    def masked(n):
        return Subnetwork(
            plm, HardMask({name: torch.arange(plm.weights[name].numel()).reshape(plm.weights[name].shape) >= n})
        )

    def embed(n):
        return embed_proteins(masked(n), tmp_path / "proteins.fa", tmp_path / "out").matrix()

    first = embed(300)
    assert (first == embed(300)).all() and abs(
        first - mean_embeddings(plm, read_proteins(tmp_path / "proteins.fa"))
    ).max() > 1e-4
    with pytest.raises(RunError, match="differs in its model"):
        embed(301)


@pytest.mark.parametrize(
    "wrong", [dict(window=100, overlap=100), dict(window=0), dict(repr_layers=9), dict(include="x")]
)
def test_refused_settings_leave_the_folder_free(tmp_path, wrong):
    (tmp_path / "proteins.fa").write_text(">a\nMKTAYIAKQR\n")
    with pytest.raises(PlmsubError):
        embed_proteins(tiny_esm2(), tmp_path / "proteins.fa", tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()
    assert len(embed_proteins(tiny_esm2(), tmp_path / "proteins.fa", tmp_path / "out").index) == 1
