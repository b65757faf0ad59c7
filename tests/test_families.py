"Every family of models through the whole package: against its own library, under masks, in training, exported, in the tasks"

import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from small_models import (
    AT,
    FAMILIES,
    SEQUENCES,
    against_library,
    company,
    gap,
    installed,
    ones,
    random_mask,
    residues,
    slope,
    tokens,
)
from test_runs import SHORT, shell

from plmsub.base.errors import ModelError, PlmsubError
from plmsub.base.runs import checkpoints
from plmsub.batches import encode
from plmsub.categories import cath_category
from plmsub.io.cath import read_domains
from plmsub.io.variants import make_variants
from plmsub.models.embed import mean_embeddings
from plmsub.models.export import export_fairesm, export_transformers
from plmsub.models.hosted import flipped
from plmsub.models.weights import load_plm, released_models
from plmsub.proteins import AMINO_ACIDS
from plmsub.splits import split
from plmsub.tasks.contacts import attention_features
from plmsub.tasks.language_model import mlm_perplexity
from plmsub.tasks.secondary import secondary_structure
from plmsub.tasks.variants import METHODS, zero_shot
from plmsub.train import TrainConfig, fit

ESM1 = ("ESM-1b", "ESM-1v")
each = pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.skipif(not installed(n), reason="its library is not installed"))
        for n in FAMILIES
    ],
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    "name -> the model, made once"
    made = {}

    def get(name):
        if name not in made:
            torch.manual_seed(0)
            made[name] = FAMILIES[name](tmp_path_factory.mktemp("small"))
        return made[name]

    return get


@pytest.fixture(scope="module")
def world():
    category = cath_category("1")
    return split(read_domains("toy")[:160], seed=0, category=category), category


# --- Numbers


@each
@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-4), (torch.float64, 1e-10)], ids=["single", "double"])
def test_logits_and_states_are_those_of_the_library(small, name, dtype, bound):
    if name in ESM1 and dtype == torch.float64:
        bound = 1e-6  # fair-esm computes ESM-1's share of masked tokens in single precision
    assert max(against_library(small(name), dtype)) < bound


@each
def test_a_protein_gets_the_same_logits_in_any_company(small, name):
    assert company(small(name), torch.float32) < 1e-4
    assert company(small(name), torch.float64) < 1e-10


@each
def test_masks_of_ones_change_nothing(small, name):
    assert ones(small(name)) == 0


@each
def test_the_gradient_is_the_slope(small, name):
    assert slope(small(name)) < (1e-3 if name == "Jamba" else 1e-4)  # Jamba computes its norms in single precision


@each
def test_every_matrix_matters(small, name):
    plm = load_plm(small(name).path)
    whole = plm(SEQUENCES)
    for n, w in plm.weights.items():
        changed = plm(SEQUENCES, {n: torch.zeros_like(w)})
        assert torch.isfinite(changed).all() and not torch.equal(changed, whole), n
    with pytest.raises(ModelError, match="shape"):
        plm(SEQUENCES, {n: w[:1]})


# --- Training


def left(folder):
    return {n: (folder / n).read_bytes() for n in ("mask.safetensors", "result.json", "log.jsonl")}


@each
def test_training_goes_on_where_it_stopped(small, world, tmp_path, name):
    own = small(name)
    config = TrainConfig(steps=4, valid_every=2, valid_proteins=8, checkpoint_every=2, batch_size=4, suppressed=2)
    changes = dict(keep=0.55, learning_rate=0.5, max_damage=10.0, projections=own.projections)
    config = TrainConfig(**{**vars(config), **changes})
    plm = load_plm(own.path)
    run = fit(plm, *world, config, tmp_path / "whole", mmseqs=False)
    assert 0 < run.subnetwork.mask.sparsity < 1 and np.isfinite(run.log.loss).all()
    assert {n.rpartition(".")[2] for n in run.subnetwork.mask} == set(own.projections)
    half = tmp_path / "half"
    shutil.copytree(run.folder, half)
    for file in (half / "mask.safetensors", half / "result.json", checkpoints(half)[-1]):
        file.unlink()
    fit(load_plm(own.path), *world, config, half, mmseqs=False)
    assert left(half) == left(run.folder)


# --- Export

# What a user without plmsub writes; it runs in a process where importing plmsub fails.
ELSEWHERE = """
import sys, warnings
sys.modules['plmsub'] = None
from pathlib import Path
import numpy as np, torch
warnings.simplefilter('ignore')

def logits(name, folder, ids, real):
    if name == 'ESM-1':
        from esm.pretrained import load_model_and_alphabet_local
        return load_model_and_alphabet_local(folder / 'model' / 'esm1.pt')[0].eval()(ids)['logits']
    if name.startswith('ESM-'):
        from esm.pretrained import load_model_and_alphabet_local
        return load_model_and_alphabet_local(next(p for p in folder.glob('esm*.pt') if 'contact' not in p.name))[0].eval()(ids)['logits']
    if name == 'CARP':
        from sequence_models.pretrained import load_model_and_alphabet
        return load_model_and_alphabet(str(folder / 'model' / 'carp.pt'))[0](ids, logits=True)['logits']
    import transformers as t
    cls = t.AutoModelForCausalLM if name == 'Jamba' else t.AutoModelForMaskedLM
    model, said = cls.from_pretrained(folder / 'model', output_loading_info=True)
    assert not any(said.values()), said
    return model.eval()(ids, attention_mask=real.long()).logits

for name in sys.argv[2:]:
    folder = Path(sys.argv[1]) / name
    ids, real = (torch.from_numpy(x) for x in np.load(folder / 'tokens.npz').values())
    with torch.no_grad():
        np.save(folder / 'logits.npy', logits(name, folder, ids, real).numpy())
"""


def test_an_exported_model_is_the_masked_one_in_its_own_library(small, tmp_path):
    "All families in one process where there is no plmsub; and the files come back as the masked model"
    masked = {}
    for name in filter(installed, FAMILIES):
        own, place = small(name), tmp_path / name
        masked[name] = random_mask(load_plm(own.path))
        place.mkdir()
        np.savez(place / "tokens.npz", *(x.numpy() for x in own.own_tokens()))
        export_transformers(masked[name], place / "model")
        if name in ("ESM-2", *ESM1):
            export_fairesm(masked[name], place / own.path.name)
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE)
    env, flags = {**os.environ, "OMP_NUM_THREADS": "1"}, [sys.executable, "elsewhere.py", ".", *masked]
    done = subprocess.run(flags, cwd=tmp_path, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in masked:
        own, said = small(name), torch.from_numpy(np.load(tmp_path / name / "logits.npy"))
        said, first = said[..., [own.words[a] for a in AMINO_ACIDS]], bool(own.special[0]) - own.causal
        theirs = torch.cat([row[first : first + len(s)] for row, s in zip(said, SEQUENCES)])
        place = tmp_path / name / "model"
        file = {"CARP": "carp.pt", "ESM-1": "esm1.pt"}.get(name)
        back = load_plm(place / file if file else place)
        assert back.weights.keys() == masked[name].plm.weights.keys()
        with torch.no_grad():
            ids = tokens(causal=own.causal)
            ours, whole, again = (residues(m(ids))[:, AT] for m in (masked[name], masked[name].plm, back))
        assert gap(ours, theirs) < 1e-4 < 1e-2 < gap(whole, theirs), name
        assert gap(again, ours) < 1e-5, name


# --- Tasks


@each
def test_tasks_run_on_it(small, world, name):
    plm = load_plm(small(name).path)
    models, (parts, _) = {"full": plm, "subnetwork": random_mask(plm)}, world
    few = parts.test[:4]
    losses = mlm_perplexity(models, few, passes=1)
    assert len(losses) == 8 and losses.value.between(0.5, 15).all()
    vectors = mean_embeddings(models["subnetwork"], few)
    assert vectors.shape == (4, plm.dim) and np.isfinite(vectors).all()
    probed = secondary_structure(models, parts.train[:6], few, n_residues=200)
    assert set(probed.model) == {"full", "subnetwork"} and probed.value.between(0, 100).all()
    hidden = secondary_structure(models, parts.train[:6], few, n_residues=200, hidden=True)
    assert hidden.value.between(0, 100).all()
    wild = SEQUENCES[0]
    scores = zero_shot(models, make_variants(wild, ["K2A", "Y5W:Q9R"], [1.0, 2.0]), METHODS)
    assert len(scores) == 4 * len(METHODS) and np.isfinite(scores.value).all()
    if name == "CARP":
        with pytest.raises(ModelError, match="no attention"):
            attention_features(plm, few[0])
        return
    maps = plm.attention_maps(SEQUENCES)
    n = len(few[0])
    assert maps.shape[0] == 3 and maps.shape[2:] == (plm.n_heads, len(wild) + 2, len(wild) + 2)
    sums = maps.sum(-1)[1, :, :, : len(SEQUENCES[1]) + 2 - (name == "ESM-1")]  # where no token ends a protein
    if name == "ESM-1":
        assert (sums > 0).all() and (sums < 1).all()  # the rest goes to a key of no residue
    else:
        assert torch.allclose(sums, torch.ones(()), atol=1e-5)
    assert maps[1, :, :, len(SEQUENCES[1]) + 2 :].abs().sum() == 0
    assert attention_features(models["subnetwork"], few[0]).shape == (maps.shape[1] * plm.n_heads, n, n)


@each
def test_it_says_what_it_is(small, name):
    plm = load_plm(small(name).path)
    assert load_plm(small(name).path).fingerprint == plm.fingerprint
    kinds = r"layer\.\d+\.(attention|ffn|conv|mamba|expert\d+)\.\w+"
    assert len(plm.weights) >= 3 * plm.n_layers and all(re.fullmatch(kinds, n) for n in plm.weights)
    assert plm.untrained(1).fingerprint != plm.untrained(2).fingerprint
    changed = plm.replaced({n: w * 0.5 for n, w in plm.weights.items()}, "half")
    assert changed.fingerprint != plm.fingerprint and changed.name == "half"
    assert plm.embedding.shape[0] == 33 and plm.causal == (name == "Jamba")
    if plm.max_residues:
        with pytest.raises(PlmsubError, match="residues"):
            plm("A" * (plm.max_residues + 1))
        assert torch.isfinite(plm("A" * plm.max_residues)).all()


def test_esm1_is_known_by_name_and_keeps_its_contact_head(small, tmp_path, monkeypatch):
    import esm.pretrained

    own, names = small("ESM-1"), [n for n in released_models() if n.startswith("esm1_")]
    assert len(names) == 5 and all(hasattr(esm.pretrained, n) for n in names)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    for end in ("", "-contact-regression"):
        source = own.path.with_name(f"{own.path.stem}{end}.pt")
        shutil.copy(source, tmp_path / "checkpoints" / f"{names[0]}{end}.pt")
    plm = load_plm(names[0])
    assert (
        plm.name == names[0] and plm.fingerprint == load_plm(own.path).fingerprint == load_plm(own.module).fingerprint
    )
    assert torch.equal(plm.module.contact_head.regression.weight, own.module.contact_head.regression.weight)
    (tmp_path / "checkpoints" / f"{names[0]}-contact-regression.pt").unlink()
    (tmp_path / "elsewhere").mkdir()
    alone = shutil.copy(own.path, tmp_path / "elsewhere" / "esm1_alone.pt")
    assert load_plm(alone).module.contact_head.regression.weight.isnan().all()
    assert load_plm(alone).fingerprint == load_plm(alone).fingerprint
    rounded = plm.to(dtype="bfloat16")
    assert gap(rounded(SEQUENCES)[..., AT], plm(SEQUENCES)[..., AT]) < 0.5
    back = rounded.to(dtype="float32")
    back(SEQUENCES)
    waves = back.module.embed_positions(own.own_tokens()[0])
    assert torch.equal(waves, own.module.embed_positions(own.own_tokens()[0]))  # waves are not rounded
    data = torch.load(own.path, weights_only=True)
    del data["model"]["decoder.layers.1.fc2.weight"]
    torch.save(data, alone)
    with pytest.raises(ModelError, match="not an ESM-1.*fc2"):
        load_plm(alone)


@pytest.mark.skipif(not installed("BERT"), reason="transformers is not installed")
def test_commands_take_a_folder_of_another_family(small, tmp_path):
    bert = str(small("BERT").path)
    status, said = shell(tmp_path, "plmsub_train", *SHORT, "--steps", "4", "--plm", bert, "--out", "run")
    assert status == 0 and "removed, valid S" in said, said
    status, said = shell(tmp_path, "plmsub_eval", "--run", "run", "--proteins", "8", "--draws", "1")
    assert status == 0, said
    status, said = shell(tmp_path, "plmsub_export", "--run", "run", "--out", "out")
    assert status == 0, said
    assert load_plm(tmp_path / "out").n_layers == 2
    flags = ["plmsub_train", *SHORT, "--plm", bert, "--recompute", "--out", "other"]
    status, said = shell(tmp_path, *flags)
    assert status == 1 and "its own library" in said and "Traceback" not in said, said


def test_a_causal_model_reads_from_either_end(small):
    plm = load_plm(small("Jamba").path)
    back, tokens = plm.backwards(), encode(["MKTAYIAKQR", "GSHM"])
    mirrored = flipped(plm(flipped(tokens, tokens)), tokens)
    assert torch.equal(back(tokens), mirrored) and torch.equal(back.backwards()(tokens), plm(tokens))
    changed = tokens.clone()
    changed[0, 4] = encode(["W"])[0, 1]
    moved = (back(changed) - back(tokens)).abs().amax(-1)[0] > 0
    assert moved[1:4].any() and not moved[4:-1].any()  # a residue matters to those before it only
    assert torch.allclose(
        back.representations(tokens)[plm.n_layers][1, 4],
        plm.representations(encode(["MHSG"]))[plm.n_layers][0, 1],
        atol=1e-5,
    )
    with pytest.raises(ModelError, match="no attention maps"):
        back.attention_maps(tokens)
