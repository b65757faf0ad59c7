"Models: what people type, and files that are not quite models"

import argparse
import json

import numpy as np
import pandas as pd
import pytest
import torch

from plmsub.base.errors import ConfigError, DataError, ModelError
from plmsub.base.files import write_json
from plmsub.batches import encode
from plmsub.esm import PlmConfig
from plmsub.models.baselines import ngram_losses, ngram_model
from plmsub.models.export import export_transformers
from plmsub.models.pretrain import PretrainConfig, pretrain
from plmsub.models.weights import load_plm, save_fairesm, save_plm
from plmsub.plm import tiny_esm1, tiny_esm2
from plmsub.proteins import Protein
from plmsub.tables import COLUMNS


def test_sequences_are_as_good_as_tokens():
    plm, tokens = tiny_esm2(), encode(["MKTAY"])
    for given in ("MKTAY", ["MKTAY"], ("MKTAY",)):
        assert torch.equal(plm(given), plm(tokens))
        assert torch.equal(plm.representations(given)[3], plm.representations(tokens)[3])
        assert torch.equal(plm.attention_maps(given), plm.attention_maps(tokens))


@pytest.mark.parametrize("given", [[Protein("p", "MKT")], [5, 7], None, [], torch.ones(1, 3), torch.ones(3).long()])
def test_what_is_neither_sequence_nor_token_is_told_what_to_do(given):
    with pytest.raises(ModelError, match="encode"):
        tiny_esm2()(given)


def test_a_model_names_itself(tmp_path):
    plm, path = tiny_esm2(), save_plm(tiny_esm2(), tmp_path / "tiny.safetensors", torch.float32)
    assert load_plm(plm) is plm and load_plm(plm, dtype="float64").dtype == torch.float64
    assert load_plm(path).fingerprint == load_plm(str(path)).fingerprint == plm.fingerprint
    for wrong in (["toy"], 3, None, torch.nn.Linear(2, 2)):
        with pytest.raises(ModelError, match="does not name a model"):
            load_plm(wrong)
    with pytest.raises(ModelError, match="facebook/esm2_t9"):
        load_plm("facebook/esm2_t9")
    with pytest.raises(ConfigError, match="precision"):
        load_plm("toy", dtype="int8")


def test_numbers_of_numpy_and_pandas():
    table = pd.DataFrame(dict(n=[3], dim=[32], heads=[4], rate=[0.01]))
    assert PlmConfig(table.n[0], table.dim[0], np.int64(4)) == PlmConfig(3, 32, 4)
    config = PretrainConfig(n_layers=table.n[0], dim=np.int32(32), learning_rate=np.float32(0.25), steps=np.int64(900))
    assert config == PretrainConfig(n_layers=3, dim=32, learning_rate=0.25, steps=900)
    assert type(config.steps) is int and type(config.learning_rate) is float
    assert ngram_model(["MKTAY"], np.int64(2)).n == 2


def test_baselines_fill_the_one_table():
    table = ngram_losses(ngram_model(["MKTAYIAK"], 2), [Protein("p", "MKTAYIAK")], passes=2)
    assert list(table)[: len(COLUMNS)] == COLUMNS and list(table)[len(COLUMNS) :] == ["pass", "residues"]
    assert set(table.model) == {"2-gram, left", "2-gram, both sides"} and (table.n == 1).all()


# --- Files of fair-esm


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    return torch.load(save_fairesm(tiny_esm2(), tmp_path_factory.mktemp("valid") / "esm2_tiny.pt"), weights_only=True)


def changed(valid, **new):
    "The shape with new values; those of None are left out"
    fields = {**vars(valid["cfg"]["model"]), **new}
    return argparse.Namespace(**{k: v for k, v in fields.items() if v is not None})


BIAS = "encoder.lm_head.bias"
SHAPES = {  # what stands beside the weights -> the error
    "nothing": (lambda v: {"cfg": {"model": argparse.Namespace()}}, "lacks a field"),
    "heads": (lambda v: {"cfg": {"model": changed(v, encoder_attention_heads=5)}}, "describes no model"),
    "field": (lambda v: {"cfg": {"model": changed(v, token_dropout=None)}}, "lacks a field"),
    "positions": (lambda v: {"args": changed(v, arch="roberta_large")}, "lacks a field"),
    "msa": (lambda v: {"args": changed(v, arch="msa_transformer")}, "not ESM-1b, ESM-1v or ESM-2"),
}
WEIGHTS = {  # the weights -> the error
    "missing": (lambda w: {k: x for k, x in w.items() if k != BIAS}, "weights are missing"),
    "extra": (lambda w: w | {"adapter": torch.ones(3)}, "unexpected weights"),
    "shape": (lambda w: w | {BIAS: torch.ones(34)}, r"has shape \(34,\)"),
    "text": (lambda w: w | {BIAS: "zeros"}, "not a tensor of numbers"),
    "whole": (lambda w: w | {BIAS: torch.ones(33).long()}, "a weight of torch.int64"),
    "twice": (lambda w: w | {"lm_head.bias": w[BIAS]}, "stands here twice"),
    "untied": (lambda w: w | {"encoder.lm_head.weight": torch.ones(33, 32)}, "should be a copy"),
    "few": (lambda w: {BIAS: w[BIAS]}, "cannot be those of 3 layers"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_of_fairesm_that_cannot_be(valid, tmp_path, name):
    make, words = SHAPES[name]
    torch.save(make(valid) | {"model": valid["model"]}, tmp_path / "esm2_x.pt")
    with pytest.raises(ModelError, match=words):
        load_plm(tmp_path / "esm2_x.pt")


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_of_fairesm_that_do_not_fit(valid, tmp_path, name):
    make, words = WEIGHTS[name]
    torch.save(valid | {"model": make(valid["model"])}, tmp_path / "esm2_x.pt")
    with pytest.raises(ModelError, match=words):
        load_plm(tmp_path / "esm2_x.pt")


def test_weights_alone_are_no_model(valid, tmp_path):
    torch.save(valid["model"], tmp_path / "esm2_x.pt")
    with pytest.raises(ModelError, match="fair-esm's layout"):
        load_plm(tmp_path / "esm2_x.pt")


# --- Folders of transformers

CONFIGS = {
    "folding": (dict(is_folding_model=True), "is_folding_model should be False"),
    "relative": (dict(position_embedding_type="relative_key"), "no such kind of positions"),
    "epsilon": (dict(layer_norm_eps=1e-12), "layer_norm_eps should be 1e-05"),
    "decoder": (dict(is_decoder=True), "is_decoder should be False"),
}


@pytest.fixture
def folder(tmp_path):
    return export_transformers(tiny_esm2(), tmp_path / "tiny")


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_of_another_model(folder, name):
    changes, words = CONFIGS[name]
    write_json(folder / "config.json", json.loads((folder / "config.json").read_text()) | changes)
    with pytest.raises(ModelError, match=words):
        load_plm(folder)


def test_a_folder_that_lacks_something(folder):
    (folder / "vocab.txt").write_text("<pad> A C D")
    with pytest.raises(ModelError, match="not that of ESM"):
        load_plm(folder)
    (folder / "vocab.txt").unlink()
    (folder / "config.json").write_text('{"hidden_size": [32')
    with pytest.raises(DataError, match="JSON"):
        load_plm(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match="lacks config.json"):
        load_plm(folder)


def test_a_folder_without_safetensors(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights as safetensors"):
        load_plm(folder)


@pytest.mark.parametrize("wrong", [dict(sequences=[]), dict(sequences=["XX"]), dict(valid=["MKTX", "XXXX"])])
def test_refused_sequences_leave_the_folder_of_a_pretraining_free(tmp_path, wrong):
    config = PretrainConfig(n_layers=1, dim=16, n_heads=2, steps=1, warmup_steps=0)
    with pytest.raises(DataError):
        pretrain(**(dict(sequences=["MKTAYIAKQR"], config=config, folder=tmp_path / "run") | wrong))
    assert not (tmp_path / "run").exists()
    assert pretrain(["MKTAYIAKQR"], config, tmp_path / "run").n_layers == 1


# --- fair-esm's own class


@pytest.mark.parametrize("make", [tiny_esm2, tiny_esm1])
def test_replaced_weights_come_as_a_module_that_shares_the_rest(make):
    plm = make()
    whole, tokens = plm.fairesm(), encode(["MKTAYIAK", "GSHM"])
    given = {n: 0.5 * w for n, w in plm.weights.items() if ".1." in n}
    module = plm.fairesm(given)
    assert type(module) is type(whole) and module.num_layers == plm.n_layers and not module.eval().training
    assert torch.allclose(module(tokens)["logits"], plm(tokens, given), atol=1e-4)
    shared = [k for k, w in module.state_dict().items() if w.data_ptr() == whole.state_dict()[k].data_ptr()]
    assert (
        len(shared) == len(whole.state_dict()) - len(given) and module.state_dict().keys() == whole.state_dict().keys()
    )
    assert not any(w.requires_grad for w in module.parameters())
    with pytest.raises(ModelError, match="no contact head"):
        module.predict_contacts(tokens)
    leaf = {n: w.clone().requires_grad_() for n, w in given.items()}
    plm.fairesm({n: w * 0.9 for n, w in leaf.items()})(tokens)["logits"].sum().backward()
    assert all(w.grad.abs().sum() > 0 for w in leaf.values())
