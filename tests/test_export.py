"Exported subnetworks load where plmsub cannot be imported, and give the same logits there"

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from plmsub.base.errors import ConfigError, DataError, ModelError
from plmsub.base.files import read_json
from plmsub.base.seeds import generator
from plmsub.batches import encode
from plmsub.esm import PlmConfig, contact_shapes, initial_weights
from plmsub.masks import HardMask, WeightMask, select_weights
from plmsub.models.export import export_fairesm, export_transformers, mask_sha256
from plmsub.models.weights import load_plm, save_fairesm
from plmsub.plm import EsmPlm, tiny_esm1, tiny_esm2
from plmsub.subnetwork import Subnetwork, save_mask

SEQUENCES = [
    "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQVKVKALPDAQFEVV",
    "GSHMLEXBUZO",
    "W",
]  # a protein, odd letters, and one residue
BOUND = 1e-4  # single precision


def tokens():
    t = encode(SEQUENCES)
    t[0, 5:30:4] = t[1, 3] = 32  # hidden residues
    return t


def masked(plm):
    "The model under a random mask of all its matrices"
    shapes = select_weights(plm, projections=("query", "key", "value", "output", "up", "down"))
    return Subnetwork(
        plm, HardMask({n: torch.rand(s, generator=generator(0, "export", n)) < 0.8 for n, s in shapes.items()})
    )


def with_head(plm):
    head = {n: torch.randn(s, generator=generator(0, n)) for n, s in contact_shapes(plm.config).items()}
    return EsmPlm(plm.config, {**plm.all_weights, **head}, plm.name)


def esm2_8m():  # the shape of esm2_t6_8M_UR50D
    config = PlmConfig(n_layers=6, dim=320, n_heads=20)
    return EsmPlm(config, initial_weights(config, 1), "esm2_8M_shape")


MODELS = {
    "esm2_tiny": lambda: masked(with_head(tiny_esm2())),
    "esm1b_tiny": lambda: masked(with_head(tiny_esm1())),
    "esm1v_tiny": lambda: masked(tiny_esm1(norm_before=False)),
    "esm2_toy": lambda: masked(load_plm("toy")),
    "esm2_8M_shape": lambda: masked(esm2_8m()),
    "esm2_whole": tiny_esm2,
    "esm1v_head": lambda: with_head(tiny_esm1(norm_before=False)),
}

# What a user without plmsub writes; it runs in a process where importing plmsub fails.
ELSEWHERE = """
import sys, warnings
sys.modules['plmsub'] = None
import numpy as np, torch
folder, names = sys.argv[1], sys.argv[2:]
tokens = torch.from_numpy(np.load(f'{folder}/tokens.npy'))
out = {}

from esm.pretrained import load_model_and_alphabet
for name in names:
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model, alphabet = load_model_and_alphabet(f'{folder}/{name}.pt')
    _, _, again = alphabet.get_batch_converter()([('a', 'MKTAYIAK<mask>'), ('b', 'GSHM')])
    said = model.eval()(tokens, return_contacts=True)
    out |= {f'{name} fairesm': said['logits'], f'{name} fairesm contacts': said['contacts'], f'{name} fairesm tokens': again}

from transformers import AutoTokenizer, EsmForMaskedLM
here = tokens.ne(1).long()
for name in names:
    model, said = EsmForMaskedLM.from_pretrained(f'{folder}/{name}', output_loading_info=True)
    if any(said.values()): sys.exit(f'{name}: {said}')
    again = AutoTokenizer.from_pretrained(f'{folder}/{name}')(['MKTAYIAK<mask>', 'GSHM'], padding=True, return_tensors='pt')['input_ids']
    out |= {f'{name} transformers': model.eval()(tokens, attention_mask=here).logits, f'{name} transformers tokens': again}
    model.set_attn_implementation('eager') # contacts need attention maps
    out[f'{name} transformers contacts'] = model.predict_contacts(tokens, here)

np.savez(f'{folder}/out.npz', **{k: x.detach().numpy() for k, x in out.items()})
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    "Every model, what it says of the tokens, and what the exported files say elsewhere"
    pytest.importorskip("transformers")
    folder, ours = tmp_path_factory.mktemp("exported"), {}
    np.save(folder / "tokens.npy", tokens().numpy())
    for name, make in MODELS.items():
        ours[name] = model = make()
        export_fairesm(model, folder / f"{name}.pt", category="1.10", seed=3)
        export_transformers(model, folder / name, category="1.10", seed=3)
    (folder / "elsewhere.py").write_text(ELSEWHERE)
    done = subprocess.run(
        [sys.executable, "elsewhere.py", ".", *MODELS],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("LOAD REPORT", "newly initialized", "Warning", "MISSING", "UNEXPECTED"):
        assert word not in done.stderr, done.stderr
    return folder, ours, dict(np.load(folder / "out.npz"))


@pytest.mark.parametrize("library", ["fairesm", "transformers"])
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_the_same_elsewhere(exported, name, library):
    _, ours, theirs = exported
    t = tokens()
    gap = np.abs(theirs[f"{name} {library}"] - ours[name](t).numpy())[t.ne(1).numpy()].max()
    assert gap < BOUND, gap


@pytest.mark.parametrize("library", ["fairesm", "transformers"])
@pytest.mark.parametrize("name", MODELS)
def test_tokens_are_the_same_elsewhere(exported, name, library):
    rows = encode(["MKTAYIAK", "GSHM"])
    wanted = torch.cat([rows, torch.full((2, 1), 1)], 1)
    wanted[0, 9:11] = torch.tensor([32, 2])
    assert np.array_equal(exported[2][f"{name} {library} tokens"], wanted.numpy())


@pytest.mark.parametrize("library", ["fairesm", "transformers"])
@pytest.mark.parametrize("name", MODELS)
def test_contacts_are_predicted_or_nan(exported, name, library):
    _, ours, theirs = exported
    model, contacts = ours[name], theirs[f"{name} {library} contacts"]
    plm = getattr(model, "plm", model)
    if "contact" not in plm.all_weights:
        return np.testing.assert_array_equal(np.isnan(contacts), True)
    wanted = model.fairesm()(tokens(), return_contacts=True)["contacts"].numpy()
    np.testing.assert_allclose(
        contacts[0], wanted[0], atol=BOUND
    )  # the longest protein: padding is treated in two ways


@pytest.mark.parametrize("name", MODELS)
def test_what_was_written_reads_back(exported, name):
    folder, ours, _ = exported
    t, model = tokens(), ours[name]
    for path in (f"{name}.pt", name):
        back = load_plm(folder / path)
        assert torch.equal(back(t), model(t)), path
        card = read_json(folder / name / "plmsub.json" if path == name else folder / f"{name}.json")
        assert card["fingerprint"] == back.fingerprint
        assert card["base"]["fingerprint"] == getattr(model, "plm", model).fingerprint
        assert card["contact_head"] == ("contact" in back.all_weights)
        assert card["about"] == dict(category="1.10", seed=3)
        if card["mask"] is not None:
            assert card["mask"]["sha256"] == mask_sha256(model.mask) and card["mask"]["sparsity"] == model.mask.sparsity


def test_same_model_same_bytes(tmp_path):
    model = masked(tiny_esm1())
    for place in ("a", "b"):
        export_fairesm(model, tmp_path / place / "esm1b_tiny.pt")
        export_transformers(model, tmp_path / place / "esm1b_tiny")
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) == 3 + 6
    for f in files:
        assert (tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes(), f


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precision(tmp_path, dtype):
    model = masked(tiny_esm2())
    export_fairesm(model, tmp_path / "esm2_x.pt", dtype)
    export_transformers(model, tmp_path / "x", dtype)
    for path in ("esm2_x.pt", "x"):
        back = load_plm(tmp_path / path, dtype=dtype)
        assert torch.equal(back.weights["layer.1.ffn.up"], model.weights["layer.1.ffn.up"].to(dtype))
        assert back.all_weights["rotary"].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert back.fingerprint == read_json(tmp_path / "x/plmsub.json")["fingerprint"]


def test_nothing_is_replaced_or_left_half_done(tmp_path, monkeypatch):
    model = tiny_esm2()
    for name in ("esm2_x.pt", "esm2_y.json", "esm2_z-contact-regression.pt"):
        (tmp_path / name).write_text("mine")
        target = tmp_path / (name.partition("-")[0].partition(".")[0] + ".pt")
        with pytest.raises(ConfigError, match="already there"):
            export_fairesm(model, target)
        assert (tmp_path / name).read_text() == "mine"
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match="already there"):
        export_transformers(model, tmp_path / "mine")
    with pytest.raises(DataError, match="JSON"):
        export_transformers(model, tmp_path / "new", when=object())
    with pytest.raises(DataError, match="JSON"):
        export_fairesm(model, tmp_path / "esm2_new.pt", when=object())
    assert len(list(tmp_path.iterdir())) == 4


# --- The models themselves, read from files as they are found in the world


@pytest.fixture
def releases(tmp_path, monkeypatch):
    "A manifest of two models on a server of this machine, with a contact head for the first; returns (data folder, files asked for)"
    import functools
    import http.server
    import threading

    import plmsub.models.weights as module
    from plmsub.io import data

    served, asked = tmp_path / "served", []
    save_fairesm(with_head(tiny_esm2()), served / "esm2_a.pt")
    save_fairesm(tiny_esm1(norm_before=False), served / "esm1v_b.pt")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=served))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    names = ("esm2_a", "esm2_a-contact-regression", "esm1v_b")
    entries = {
        n: data.Release(n, "models", f"http://127.0.0.1:{server.server_port}/{n}.pt", f"models/{n}.pt", "a test")
        for n in names
    }
    monkeypatch.setattr(module, "read_manifest", lambda: entries)
    for f in ("fetch", "local"):
        monkeypatch.setattr(module, f, functools.partial(getattr(data, f), manifest=entries))
    monkeypatch.setenv("PLMSUB_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    yield tmp_path / "data" / "models", served, asked
    server.shutdown()
    server.server_close()


def contacts(plm):
    return plm.fairesm()(tokens()[:1], return_contacts=True)["contacts"]


def test_a_model_by_name_comes_with_its_contact_head(releases):
    here, served, asked = releases
    plm = load_plm("facebook/esm2_a")  # the name on the hub
    assert plm.fingerprint == tiny_esm2().fingerprint and contacts(plm).isfinite().all()
    assert sorted(f.name for f in here.glob("*.pt")) == ["esm2_a-contact-regression.pt", "esm2_a.pt"]
    asked.clear()
    load_plm("esm2_a")
    assert not asked  # nothing is asked for twice
    load_plm("esm1v_b")
    assert len(asked) == 1  # the manifest has no contact head for it


def test_a_model_works_without_its_contact_head(releases):
    here, served, asked = releases
    (served / "esm2_a-contact-regression.pt").unlink()
    plm = load_plm("esm2_a")
    assert plm.fingerprint == tiny_esm2().fingerprint
    with pytest.raises(ModelError, match="contact-regression"):
        contacts(plm)
    asked.clear()
    load_plm("esm2_a")
    assert not asked  # a model that is here is not held up by a network that may not be


def test_torch_hub_comes_first_and_takes_a_contact_head_from_plmsub(releases, tmp_path):
    here, served, asked = releases
    path = save_fairesm(tiny_esm2(seed=5), tmp_path / "hub" / "checkpoints" / "esm2_a.pt")
    path.with_name("esm2_a-contact-regression.pt").unlink()
    plm = load_plm("esm2_a")
    assert plm.fingerprint == tiny_esm2(seed=5).fingerprint and not asked
    with pytest.raises(ModelError, match="contact-regression"):
        contacts(plm)
    here.mkdir(parents=True)
    (here / "esm2_a-contact-regression.pt").write_bytes((served / "esm2_a-contact-regression.pt").read_bytes())
    assert contacts(load_plm("esm2_a")).isfinite().all()


def test_without_a_network_it_says_which_file_to_put_where(releases):
    here, served, asked = releases
    (served / "esm2_a.pt").unlink()
    with pytest.raises(DataError, match="esm2_a.pt"):
        load_plm("esm2_a")
    assert not list(here.glob("*.pt"))


def test_a_folder_that_transformers_wrote(tmp_path):
    transformers = pytest.importorskip("transformers")
    t = tokens()
    for kind in (
        dict(position_embedding_type="rotary"),
        dict(position_embedding_type="absolute", emb_layer_norm_before=True),
        dict(position_embedding_type="absolute"),
    ):
        config = transformers.EsmConfig(
            vocab_size=33,
            mask_token_id=32,
            pad_token_id=1,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            max_position_embeddings=1026,
            layer_norm_eps=1e-5,
            token_dropout=True,
            **kind,
        )
        model = transformers.EsmForMaskedLM(config).eval()
        for size in ("1GB", "50KB"):  # in one file, and in several with an index
            folder = tmp_path / f"{len(kind)}{kind['position_embedding_type']}{size}"
            model.save_pretrained(folder, max_shard_size=size)
            assert (folder / "model.safetensors").exists() == (size == "1GB")
            gap = (load_plm(folder)(t) - model(t, attention_mask=t.ne(1).long()).logits)[t.ne(1)].abs().max()
            assert gap < BOUND
    transformers.EsmModel(config).save_pretrained(tmp_path / "headless")
    with pytest.raises(ModelError, match="no head for language modeling"):
        load_plm(tmp_path / "headless")("MKT")
    with pytest.raises(ModelError, match="no head for language modeling"):
        export_transformers(load_plm(tmp_path / "headless"), tmp_path / "again")
    index = folder / "model.safetensors.index.json"
    for bad in (
        "[]",
        '{"weight_map": []}',
        '{"weight_map": {"x": "../model.safetensors"}}',
        '{"weight_map": {"x": "gone.safetensors"}}',
        "{",
    ):
        index.write_text(bad)
        with pytest.raises((ModelError, DataError)):
            load_plm(folder)


@pytest.mark.parametrize(
    "broken",
    [
        "null",
        "[]",
        "{}",
        '"esm"',
        '{"model_type": "esm"}',
        "3",
        '{"model_type": "esm", "vocab_size": 33, "mask_token_id": 32, "pad_token_id": 1, "layer_norm_eps": 1e-5, "hidden_size": "32", "intermediate_size": null}',
        '{"model_type": "esm", "vocab_size": 33, "mask_token_id": 32, "pad_token_id": 1, "layer_norm_eps": 1e-5, "hidden_size": 32, "intermediate_size": 128, "max_position_embeddings": "1026"}',
    ],
)
def test_broken_configurations_are_named(tmp_path, broken):
    (tmp_path / "config.json").write_text(broken)
    with pytest.raises((ModelError, DataError)):
        load_plm(tmp_path)


@pytest.mark.parametrize("make", [tiny_esm1, lambda: tiny_esm1(norm_before=False)])
def test_masks_work_on_esm1(tmp_path, make):
    plm, t = make(), tokens()
    for granularity in ("weight", "neuron", "head"):
        trainable = WeightMask(select_weights(plm, 0.67), plm.n_heads, granularity, keep=0.8)
        sampled = trainable.sample(0.5, 0.5, generator(0, granularity))
        plm(t, {n: plm.weights[n] * m for n, m in sampled.items()}).logsumexp(-1).mean().backward()
        assert trainable.logits.grad.abs().sum() > 0
    mask = masked(plm).mask
    back = Subnetwork(plm, save_mask(mask, tmp_path / "mask.safetensors", plm))
    assert torch.equal(back(t), Subnetwork(plm, mask)(t)) and not torch.equal(back(t), plm(t))
    assert torch.equal(Subnetwork(plm, HardMask({n: torch.ones_like(m) for n, m in mask.items()}))(t), plm(t))
    with pytest.raises(ModelError, match="weights"):
        Subnetwork(tiny_esm1(seed=9, norm_before=plm.config.norm_before), tmp_path / "mask.safetensors")
    with pytest.raises(DataError, match="positions for 1,022"):
        Subnetwork(plm, mask)(encode(["A" * 1023]))
