"""Where models come from: odd files, folders, names and modules, and what comes out of each

python tests/test_sources.py    writes the table that page 24 shows, nbs/results/sources.csv
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import warnings
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import FAMILIES, installed

from plmsub.base.errors import PlmsubError
from plmsub.models.export import export_transformers
from plmsub.models.weights import load_plm, read_vocabulary, save_fairesm
from plmsub.plm import tiny_esm1, tiny_esm2

TABLE = Path(__file__).resolve().parent.parent / "nbs/results/sources.csv"
SEQUENCES = ["MKTAYIAKQRQ", "GSHM"]


def esm(tmp):
    "A folder of transformers with an ESM-2, its weights, the model"
    plm = tiny_esm2(2, 16)
    folder = export_transformers(plm, tmp / "esm")
    return folder, load_file(folder / "model.safetensors"), plm


def bert(tmp):
    "The same with a ProtBERT"
    torch.manual_seed(0)
    small = FAMILIES["BERT"](tmp)
    return small.path, dict(small.module.state_dict()), load_plm(small.path)


def stored(folder, state):
    "A folder with other weights"
    for old in folder.glob("*model*"):
        old.unlink()
    save_file({k: w.contiguous().clone() for k, w in state.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def configured(folder, **changes):
    "A folder with another config.json; what is `None` is left out"
    about = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in about.items() if v is not None}))
    return folder


def prefixed(make, prefix):
    def source(tmp):
        folder, state, plm = make(tmp)
        return stored(folder, {prefix + k: w for k, w in state.items()}), plm

    return source


def changed(make, change):  # change: weights -> weights
    def source(tmp):
        folder, state, plm = make(tmp)
        return stored(folder, change(state)), plm

    return source


def sharded(make, kind):
    def source(tmp):
        folder, state, plm = make(tmp)
        shutil.rmtree(tmp / "sharded", ignore_errors=True)
        shutil.copytree(folder, tmp / "sharded", ignore=shutil.ignore_patterns("*model*"))
        name, where = ("model.safetensors", {}) if kind == "safetensors" else ("pytorch_model.bin", {})
        stem, end = name.rsplit(".", 1)
        for k in (0, 1):
            part = {n: w.clone() for i, (n, w) in enumerate(state.items()) if i % 2 == k}
            file = f"{stem}-0000{k + 1}-of-00002.{end}"
            where |= dict.fromkeys(part, file)
            save_file(part, tmp / "sharded" / file) if kind == "safetensors" else torch.save(
                part, tmp / "sharded" / file
            )
        (tmp / "sharded" / f"{name}.index.json").write_text(json.dumps(dict(metadata={}, weight_map=where)))
        return tmp / "sharded", plm

    return source


def with_class(make, cls, **settings):
    "What another class of transformers saves of the same model"

    def source(tmp):
        import transformers as t

        folder, state, plm = make(tmp)
        module = getattr(t, cls)(t.AutoConfig.from_pretrained(folder, **settings))
        base = module.base_model_prefix + "."
        own = {k: w for k, w in state.items() if k.startswith(base)}
        module.load_state_dict(
            own if hasattr(module, base[:-1]) else {k[len(base) :]: w for k, w in own.items()}, strict=False
        )
        kept = {n: (folder / n).read_bytes() for n in ("vocab.txt",)}
        shutil.rmtree(folder)
        module.save_pretrained(folder)
        for n, b in kept.items():
            (folder / n).write_bytes(b)
        return folder, plm

    return source


class Harm:
    def __reduce__(self):
        return os.system, ("echo harm",)


def asks_for_code(make):
    def source(tmp):
        folder, _, plm = make(tmp)
        for old in folder.glob("*model*"):
            old.unlink()
        torch.save({"x": Harm()}, folder / "pytorch_model.bin")
        return folder, plm

    return source


def cut(make):
    def source(tmp):
        folder, state, plm = make(tmp)
        file = stored(folder, state) / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
        return folder, plm

    return source


def reconfigured(make, **changes):
    def source(tmp):
        folder, _, plm = make(tmp)
        return configured(folder, **changes), plm

    return source


def worded(change):  # change: words -> words
    def source(tmp):
        folder, _, plm = bert(tmp)
        words = (folder / "vocab.txt").read_text().split()
        (folder / "vocab.txt").write_text("\n".join(change(words)))
        return folder, plm

    return source


def wordless(tmp):
    folder, _, plm = bert(tmp)
    (folder / "vocab.txt").unlink()
    return folder, plm


def in_half(make, dtype):
    def source(tmp):
        folder, state, _ = make(tmp)
        state = {k: w.to(dtype) if w.is_floating_point() else w for k, w in state.items()}
        wide = stored(folder, {k: w.float() if w.is_floating_point() else w for k, w in state.items()})
        plm = load_plm(wide)
        return stored(folder, state), plm

    return source


def family(name):
    "Folder, weights and model of any other family"

    def make(tmp):
        torch.manual_seed(0)
        small = FAMILIES[name](tmp)
        return small.path, dict(small.module.state_dict()), load_plm(small.path)

    return make


def one_layer_less(state):
    return {k: w for k, w in state.items() if "layer.1." not in k}


def one_layer_more(state):
    return state | {k.replace("layer.1.", "layer.2."): w for k, w in state.items() if "layer.1." in k}


def with_nan(state):
    key = next(k for k in state if "query.weight" in k)
    return state | {key: state[key].clone().fill_(torch.nan)}


def cache(tmp, revision="main", commit="a" * 40):
    "A folder as huggingface_hub keeps it"
    folder, _, plm = bert(tmp)
    repo = tmp / "hub" / "models--lab--protbert"
    shutil.copytree(folder, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / revision).write_text(commit)
    return plm


def tied(tmp):
    folder, state, _ = family("Jamba")(tmp)
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    plm = load_plm(stored(folder, state))
    del state["lm_head.weight"]  # as transformers stores it
    return stored(configured(folder, tie_word_embeddings=True), state), plm


# --- Modules in memory


def adapted(tmp):
    import peft

    torch.manual_seed(0)
    small = FAMILIES["BERT"](tmp)
    lora = peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False)
    return peft.get_peft_model(small.module, lora).eval(), load_plm(small.path), small.words


def adapter_alone(tmp):
    import peft

    small = FAMILIES["BERT"](tmp)
    peft.get_peft_model(small.module, peft.LoraConfig(r=2, target_modules=["query"])).save_pretrained(tmp / "adapter")
    return tmp / "adapter", None


def fairesm_module(make):
    def source(tmp):
        plm = make(2, 16)
        return plm.fairesm(), plm

    return source


def in_memory(make, change=lambda m: m):
    def source(tmp):
        torch.manual_seed(0)
        small = FAMILIES[make](tmp)
        plm = load_plm(small.path)
        return change(small.module), plm, small.words

    return source


def other_class(cls):
    def source(tmp):
        import transformers as t

        folder, _, plm = bert(tmp)
        return getattr(t, cls).from_pretrained(folder).eval(), plm, read_vocabulary(folder, 30)

    return source


def t5(tmp):
    import transformers as t

    return t.T5ForConditionalGeneration(
        t.T5Config(vocab_size=30, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=4)
    ), None


def esm_of_transformers(tmp):
    import transformers as t

    folder, _, plm = esm(tmp)
    return t.EsmForMaskedLM.from_pretrained(folder), plm


# --- What comes out: 'same' the model, 'no head' its representations only, or words of the error

SOURCES = {
    "ESM-2, all keys behind module.": (prefixed(esm, "module."), "same"),
    "ESM-2, all keys behind _orig_mod.": (prefixed(esm, "_orig_mod."), "same"),
    "ESM-2, all keys behind model.": (prefixed(esm, "model."), "same"),
    "ProtBERT, all keys behind module._orig_mod.": (prefixed(bert, "module._orig_mod."), "same"),
    "ESM-2, without esm. before the keys": (
        changed(esm, lambda s: {k.removeprefix("esm."): w for k, w in s.items()}),
        "same",
    ),
    "ESM-2, two safetensors and their index": (sharded(esm, "safetensors"), "same"),
    "ProtBERT, two safetensors and their index": (sharded(bert, "safetensors"), "same"),
    "ProtBERT, pytorch_model.bin": (lambda tmp: (bert(tmp)[0], bert(tmp)[2]), "same"),
    "ProtBERT, the file pytorch_model.bin itself": (
        lambda tmp: (bert(tmp)[0] / "pytorch_model.bin", bert(tmp)[2]),
        "same",
    ),
    "ProtBERT, two .bin and their index": (sharded(bert, "bin"), "same"),
    "EsmModel, saved without a head": (with_class(esm, "EsmModel"), "no head"),
    "BertModel, saved without a head": (with_class(bert, "BertModel"), "no head"),
    "EsmForSequenceClassification": (with_class(esm, "EsmForSequenceClassification", num_labels=3), "no head"),
    "EsmForTokenClassification": (with_class(esm, "EsmForTokenClassification", num_labels=3), "no head"),
    "BertForSequenceClassification": (with_class(bert, "BertForSequenceClassification", num_labels=3), "no head"),
    "BertForTokenClassification": (with_class(bert, "BertForTokenClassification", num_labels=3), "no head"),
    "ESM-2 with a second head": (changed(esm, lambda s: s | {"classifier.bias": torch.zeros(2)}), "same"),
    "ProtBERT with a second head": (
        changed(bert, lambda s: s | {"cls.seq_relationship.bias": torch.zeros(2)}),
        "same",
    ),
    "ProtBERT in half precision": (in_half(bert, torch.float16), "same"),
    "ESM C in bfloat16": (in_half(family("ESM C"), torch.bfloat16), "same"),
    "ModernBERT in bfloat16": (in_half(family("ModernBERT"), torch.bfloat16), "same"),
    "Jamba in half precision": (in_half(family("Jamba"), torch.float16), "same"),
    "Jamba with one matrix for embedding and head": (tied, "same"),
    "ESM-2 in half precision": (in_half(esm, torch.float16), "same"),
    "a vocabulary without W": (worded(lambda w: ["?" if x == "W" else x for x in w]), "vocabulary lacks tokens"),
    "a vocabulary with more words than the model": (worded(lambda w: [*w, "1", "2"]), "has 32 tokens"),
    "no vocabulary": (wordless, "does not say which token"),
    "ESM-2 with ProtBERT's vocab.txt": (
        lambda tmp: (shutil.copy(bert(tmp)[0] / "vocab.txt", (folder := esm(tmp)[0]) / "vocab.txt") and folder, None),
        "not that of ESM",
    ),
    "ESM-2, file cut short": (cut(esm), "cut short"),
    "ProtBERT, file cut short": (cut(bert), "cut short"),
    "ESM-2, a pickle that runs a command": (asks_for_code(esm), "foreign code"),
    "ProtBERT, a pickle that runs a command": (asks_for_code(bert), "foreign code"),
    "ESM-2, a layer is missing": (changed(esm, one_layer_less), "weights are missing"),
    "ProtBERT, a layer is missing": (changed(bert, one_layer_less), "weights are missing"),
    "ESM-2, a layer too many": (changed(esm, one_layer_more), "unexpected weights"),
    "ProtBERT, a layer too many": (changed(bert, one_layer_more), "unexpected weights"),
    "ESM-2, a matrix of nan": (changed(esm, with_nan), "not finite"),
    "ProtBERT, a matrix of nan": (changed(bert, with_nan), "not finite"),
    "ProtBERT, other width in config.json": (reconfigured(bert, hidden_size=20), "no model of these weights"),
    "config.json of a T5": (reconfigured(bert, model_type="t5"), "does not know this architecture"),
    "config.json of a GPT-2": (reconfigured(bert, model_type="gpt2"), "does not know this architecture"),
    "config.json without model_type": (reconfigured(bert, model_type=None), "model_type"),
    "a folder with an adapter of peft alone": (adapter_alone, "an adapter of peft, without"),
    "fair-esm's ESM-2, .pt": (lambda tmp: (save_fairesm(tiny_esm2(), tmp / "esm2_t.pt"), tiny_esm2()), "same"),
    "fair-esm's ESM-1b, .pt": (lambda tmp: (save_fairesm(tiny_esm1(), tmp / "esm1b_t.pt"), tiny_esm1()), "same"),
    "fair-esm's ESM-1v, .pt": (
        lambda tmp: (save_fairesm(p := tiny_esm1(norm_before=False), tmp / "esm1v_t.pt"), p),
        "same",
    ),
    "CARP's own .pt": (lambda tmp: (family("CARP")(tmp)[0], family("CARP")(tmp)[2]), "same"),
    "module: fair-esm's ESM2": (fairesm_module(tiny_esm2), "same"),
    "module: fair-esm's ProteinBertModel": (fairesm_module(tiny_esm1), "same"),
    "module: EsmForMaskedLM": (esm_of_transformers, "same"),
    "module: BertForMaskedLM": (in_memory("BERT"), "same"),
    "module: CARP of sequence-models": (in_memory("CARP"), "same"),
    "module: compiled by torch": (in_memory("BERT", torch.compile), "same"),
    "module: in DataParallel": (in_memory("BERT", torch.nn.DataParallel), "same"),
    "module: with peft's adapters": (adapted, "merged"),
    "module: BertModel": (other_class("BertModel"), "no head"),
    "module: BertForSequenceClassification": (other_class("BertForSequenceClassification"), "no head"),
    "module: BertForMaskedLM with nan": (
        in_memory("BERT", lambda m: m.load_state_dict(with_nan(m.state_dict())) and m),
        "not finite",
    ),
    "module: T5": (t5, "does not know this architecture"),
    "hub: id in the cache": ("lab/protbert", "same"),
    "hub: id@revision in the cache": ("lab/protbert@v2", "same"),
    "hub: id@commit in the cache": (f"lab/protbert@{'a' * 40}", "same"),
    "hub: id not in the cache, offline": ("lab/other", "the hub does not give this model"),
    "hub: revision not in the cache, offline": ("lab/protbert@v3", "the hub does not give this model"),
}


def outcome(name, tmp):
    "What comes out of a source: a word, and the sentence of the table"
    make, _ = SOURCES[name]
    if isinstance(make, str):
        given, plm, words = make, cache(tmp, "v2" if "@v2" in make else "main"), None
    else:
        given, plm, words = (*make(tmp), None)[:3]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            got = load_plm(given, vocabulary=words)
        except PlmsubError as e:
            text = f" “{e.text}”" if e.text and len(str(e.text)) < 60 and str(tmp) not in str(e.text) else ""
            return e.what, f"{type(e).__name__}: {e.what}{text}. {e.do or ''}".strip().replace(f"{tmp}/", "")
    notes = [str(n.message).rpartition(": ")[2] for n in told if "left out" in str(n.message)]
    said = f", without {', '.join(notes)}" if notes else ""
    state, want = got.representations(SEQUENCES)[got.n_layers], plm.representations(SEQUENCES)[got.n_layers]
    near = (state - want).abs().max() < 1e-5
    try:
        same = near and (got(SEQUENCES) - plm(SEQUENCES)).abs().max() < 1e-5
    except PlmsubError as e:
        return ("no head" if near else "another model"), f"the model without a head{said}: {e.what}"
    if "peft" in name:
        ids = torch.tensor([[words[w] for w in ("[CLS]", *SEQUENCES[1], "[SEP]")]])
        theirs = given(input_ids=ids).logits[..., [words[a] for a in "LAGV"]]
        merged = not same and (got(SEQUENCES[1:])[..., 4:8] - theirs).abs().max() < 1e-5
        return ("merged" if merged else "another model"), f"the model with the adapters merged into it{said}"
    return ("same" if same else "another model"), f"the model{said}"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    "An empty cache of huggingface_hub, offline"
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def skip_without_library(name):
    if ("CARP" in name and not installed("CARP")) or not installed("BERT"):
        pytest.skip("its library is not installed")


@pytest.mark.parametrize("name", SOURCES)
def test_a_source(name, tmp_path, hub, capfd):
    skip_without_library(name)
    word, sentence = outcome(name, tmp_path)
    want = SOURCES[name][1]
    assert word == want or (want not in ("same", "no head", "merged") and re.search(want, word + sentence)), sentence
    assert "harm" not in capfd.readouterr().out
    stored = pd.read_csv(TABLE).set_index("source")["what comes out"]
    assert stored[name] == sentence, "run python tests/test_sources.py"


# --- A hub on this machine

DOWNLOAD = """
import sys
from plmsub.base.errors import ModelError
from plmsub.models.weights import load_plm
print(load_plm("lab/protbert").fingerprint, load_plm("lab/protbert@v2").name)
try:
    load_plm("lab/nothing")
except ModelError as e:
    print(e)
"""


class Hub(SimpleHTTPRequestHandler):
    "What huggingface_hub asks of a hub, for one model"

    folder, commit = Path(), "b" * 40

    def _send(self, status, body=b"", **headers):
        self.send_response(status)
        for k, v in {"Content-Length": len(body), "X-Repo-Commit": self.commit, **headers}.items():
            self.send_header(k.replace("_", "-"), str(v))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _file(self):
        name = self.path.partition("?")[0].rpartition("/")[2]
        return self.folder / name

    def do_GET(self):
        files = sorted(self.folder.iterdir())
        if not self.path.startswith(("/api/models/lab/protbert", "/lab/protbert/resolve/")):
            return self._send(404, b"{}", X_Error_Code="RepoNotFound")
        if "/tree/" in self.path:
            rows = [dict(type="file", path=f.name, size=f.stat().st_size, oid="0" * 40) for f in files]
            return self._send(200, json.dumps(rows).encode(), Content_Type="application/json")
        if self.path.startswith("/api/"):
            about = dict(
                id="lab/protbert", sha=self.commit, private=False, siblings=[dict(rfilename=f.name) for f in files]
            )
            return self._send(200, json.dumps(about).encode(), Content_Type="application/json")
        if not self._file().is_file():
            return self._send(404, X_Error_Code="EntryNotFound")
        return self._send(200, self._file().read_bytes(), ETag=f'"{self._file().name}"')

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


def test_a_download_from_a_hub(tmp_path):
    "huggingface_hub reads HF_ENDPOINT when it is imported, hence another process"
    pytest.importorskip("huggingface_hub")
    skip_without_library("BERT")
    folder, _, plm = bert(tmp_path)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Hub,), dict(folder=folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")}
    env |= dict(HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}", HF_HOME=str(tmp_path / "hf"))
    done = subprocess.run([sys.executable, "-c", DOWNLOAD], capture_output=True, text=True, env=env, timeout=120)
    server.shutdown()
    server.server_close()
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.strip().split("\n")
    assert first == f"{plm.fingerprint} protbert"
    assert "the hub does not give this model" in last and "lab/nothing" in last


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    rows = []
    for name in SOURCES:
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
            patched.setattr("huggingface_hub.constants.HF_HUB_CACHE", f"{folder}/hub")
            rows.append(dict(source=name, **{"what comes out": outcome(name, Path(folder))[1]}))
    pd.DataFrame(rows).to_csv(TABLE, index=False)
