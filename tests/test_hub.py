"A mask goes to the hub and comes back bit for bit: against a small server on this machine, in fresh processes"

import json
import os
import re
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub")

sys.path.insert(0, str(Path(__file__).parent))
from hub_server import hub_server  # noqa: E402

from plmsub.app.commands import plmsub_eval, plmsub_train  # noqa: E402
from plmsub.subnetwork import load_mask  # noqa: E402

QUICK = dict(steps=2, valid_every=2, valid_proteins=8, corruptions=1, batch_size=8, suppressed=2, keep=0.55)
QUICK |= dict(learning_rate=0.5, max_damage=10.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A finished run with an evaluation"
    folder = tmp_path_factory.mktemp("pushed")
    with pytest.MonkeyPatch.context() as m, chdir(folder):
        m.setattr("plmsub.app.report.report_figure", lambda *args: __import__("matplotlib.figure").figure.Figure())
        plmsub_train("1.10", "run", **QUICK)
        plmsub_eval("run", proteins=20, draws=1)
    return folder / "run"


@pytest.fixture
def hub(tmp_path):
    with hub_server() as (kept, url):
        yield (
            kept,
            dict(os.environ, HF_ENDPOINT=url, HF_HUB_OFFLINE="0", HF_HOME=str(tmp_path / "hf"), HF_TOKEN="hf_test"),
        )


def python(env, code, *words):
    "Run Python in a fresh process; what it prints"
    env = dict(env, HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_TELEMETRY="1")
    done = subprocess.run(
        [sys.executable, *(["-c", code] if code else []), *words], env=env, capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


def push(env, *words):
    return python(env, "", "-m", "plmsub", "push", *words)


PULL = "from plmsub.subnetwork import load_mask, Subnetwork; import sys, json\n"
SAVE = """
from plmsub.subnetwork import save_mask
for k, name in enumerate(sys.argv[2:]):
    s = Subnetwork.from_pretrained(name)
    save_mask(s.mask, f"{sys.argv[1]}/{k}.safetensors", s.plm, **s.mask.info)
"""


def test_a_mask_comes_back_bit_for_bit(run, hub, tmp_path):
    kept, env = hub
    status, said, wrong = push(env, str(run), "lab/without-1.10", "--tag", "v1", "--license", "cc-by-4.0")
    assert status == 0, wrong
    assert "/lab/without-1.10/commit/" in said and 'from_pretrained("lab/without-1.10")' in said
    sha, files = kept.commits["lab/without-1.10"][-1]
    assert sorted(files) == ["README.md", "mask.safetensors"]
    assert files["mask.safetensors"] == (run / "mask.safetensors").read_bytes()
    names = ["lab/without-1.10", "lab/without-1.10@v1", f"lab/without-1.10@{sha}"]
    for more, offline in ({}, False), ({"HF_HUB_OFFLINE": "1"}, True):
        asked, place = len(kept.asked), tmp_path / f"back-{offline}"
        place.mkdir()
        status, said, wrong = python(env | more, PULL + SAVE, str(place), *names)
        assert status == 0, wrong
        assert [f.read_bytes() == (run / "mask.safetensors").read_bytes() for f in place.iterdir()] == [True] * 3
        assert (len(kept.asked) == asked) == offline  # then from the cache, and nobody is asked


def test_a_revision_stays_what_it_was(run, hub, tmp_path):
    kept, env = hub
    code = (
        PULL
        + "s = Subnetwork.from_pretrained(sys.argv[1]); s.push_to_hub('lab/two', tag='v1'); s.mask.info['more'] = 1; s.push_to_hub('lab/two')"
    )
    status, _, wrong = python(env, code, str(run / "mask.safetensors"))
    assert status == 0, wrong
    more_of = PULL + "print(json.dumps([load_mask(n).info.get('more') for n in ('lab/two@v1', 'lab/two@main')]))"
    status, said, wrong = python(env, more_of)
    assert json.loads(said) == [None, 1], wrong
    assert b"was not scored on the test part" in kept.commits["lab/two"][-1][1]["README.md"]


def test_what_the_hub_refuses_is_said(run, hub):
    kept, env = hub
    code = PULL + "load_mask(sys.argv[1])"
    kept.commits["lab/empty"] = [("1" * 40, {"config.json": b"{}"})]
    for name, words in (("lab/nothing", "does not give this"), ("lab/empty", "holds no mask")):
        status, _, wrong = python(env, code, name)
        assert status and words in wrong and name in wrong, wrong
    status, _, wrong = push(env | {"HF_ENDPOINT": "http://127.0.0.1:9"}, str(run), "lab/x")
    assert status == 1 and "does not take this" in wrong and wrong.count("\n") == 1


def test_a_changed_file_in_the_cache_is_noticed(run, hub, tmp_path):
    kept, env = hub
    assert push(env, str(run), "lab/changed")[0] == 0
    code = PULL + "print(load_mask('lab/changed').n_removed)"
    assert python(env, code)[0] == 0
    (blob,) = [f for f in (tmp_path / "hf").rglob("blobs/*") if len(f.name) == 64]
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    status, _, wrong = python(env, code)
    assert status and "does not fit its checksum" in wrong


def test_the_card_says_what_the_run_says(run, tmp_path):
    status, said, wrong = push(dict(os.environ), str(run), "lab/without-1.10", "--card", str(tmp_path / "card.md"))
    assert status == 0, wrong
    card, info = (tmp_path / "card.md").read_text(), load_mask(run / "mask.safetensors").info
    assert card.startswith("---\nlicense: mit\nlibrary_name: plmsub\n")
    for words in (
        info["fingerprint"],
        f"{info['n_removed']:,} weights",
        "| subnetwork |",
        "| magnitude |",
        "20 proteins of the test part",
    ):
        assert words in card, words
    import pandas as pd

    row = pd.read_csv(run / "test-20-draws-1" / "comparison.csv").set_index("model").loc["subnetwork"]
    assert f"{row.S:.2f} [{row.S_low:.2f}, {row.S_high:.2f}]" in card


def test_the_lines_of_the_card_run(run, hub, tmp_path):
    "As they stand: for plmsub, fair-esm and transformers"
    kept, env = hub
    assert push(env, str(run), "lab/without-1.10")[0] == 0
    blocks = re.findall(r"```python\n(.*?)```", kept.commits["lab/without-1.10"][-1][1]["README.md"].decode(), re.S)
    assert len(blocks) == 3 and all(block.count("\n") <= 4 for block in blocks)
    for block, words in zip(blocks, ("torch.Size([1,", "ESM2(", "EsmForMaskedLM(")):
        last = {"torch": "print(logits.shape)"}.get(words[:5], "print(module)")
        if words.startswith("EsmFor"):
            pytest.importorskip("transformers")
        with chdir(tmp_path):
            status, said, wrong = python(env | {"PYTHONPATH": env.get("PYTHONPATH", "")}, block + last)
        assert status == 0 and words in said, wrong
