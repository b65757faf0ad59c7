"The method by natural arguments, its one set of defaults, and what a refused run leaves behind"

from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
import torch
from fastcore.docments import docments

from plmsub.app.sweep import Job, read_jobs, write_jobs
from plmsub.base.errors import ConfigError, RunError
from plmsub.base.files import read_json, write_json
from plmsub.batches import encode
from plmsub.categories import cath_category
from plmsub.io.cath import read_domains
from plmsub.losses import Objective
from plmsub.models.weights import load_plm
from plmsub.splits import split
from plmsub.subnetwork import Subnetwork
from plmsub.train import TrainConfig, fit, load_run

CONFIG = TrainConfig(steps=4, valid_every=4, valid_proteins=16, keep=0.55, learning_rate=0.5, max_damage=10.0)


@pytest.fixture(scope="module")
def parts():
    return split(read_domains("toy")[::4], by="domain", category=cath_category("1"))


@pytest.fixture(scope="module")
def run(parts, tmp_path_factory):
    return fit("toy", parts, "1", CONFIG, tmp_path_factory.mktemp("runs") / "by-name", mmseqs=False)


def test_names_stand_for_models_categories_and_runs(run, parts, tmp_path):
    plm = load_plm("toy")
    by_value = fit(plm, parts, cath_category("1"), CONFIG, tmp_path / "by-value", mmseqs=False)
    assert (run.folder / "mask.safetensors").read_bytes() == (by_value.folder / "mask.safetensors").read_bytes()
    assert load_run(str(run.folder)).scores == load_run(run.folder, "toy").scores == run.scores
    tokens = encode(["MKTAYIAKQR"])
    for plm_or_name, file in ((plm, str(run.folder / "mask.safetensors")), ("toy", run.folder / "mask.safetensors")):
        assert torch.equal(Subnetwork(plm_or_name, file)(tokens), run.subnetwork(tokens))


def test_a_list_of_proteins_is_told_to_be_split(tmp_path):
    with pytest.raises(ConfigError, match=r"split\(proteins"):
        fit("toy", read_domains("toy"), "1", CONFIG, tmp_path / "run")


def test_a_run_whose_model_is_gone_says_so(run, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("mask.safetensors", "result.json"):
        (folder / name).write_bytes((run.folder / name).read_bytes())
    write_json(folder / "config.json", read_json(run.folder / "config.json") | dict(model=dict(name="nowhere")))
    with pytest.raises(RunError, match="cannot be loaded"):
        load_run(folder)
    assert load_run(folder, "toy").scores == run.scores


def test_numbers_of_numpy_and_pandas_are_settings():
    table = pd.DataFrame({"steps": [100], "rate": [0.5]})
    config = TrainConfig(steps=table.steps[0], learning_rate=np.float32(0.5), layers=(0, np.int64(1)), seed=np.uint8(3))
    assert config == TrainConfig(steps=100, learning_rate=0.5, layers=[0, 1], seed=3)
    assert {type(config.steps), type(config.seed), type(config.layers[0])} == {int}
    for wrong in (dict(steps=0), dict(steps=True), dict(seed=0.5), dict(keep=1), dict(layers=[0.5]), dict(reading="x")):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            TrainConfig(**wrong)


def test_one_default_for_the_weight_of_the_maintained_term():
    assert Objective().maintain_weight == TrainConfig().maintain_weight == 15


def test_a_subnetwork_for_fairesm_is_a_module(run):
    module, tokens = run.subnetwork.fairesm(), encode(["MKTAYIAKQR"])
    assert isinstance(module, torch.nn.Module) and module.eval() is module and module.num_layers == 4
    torch.testing.assert_close(module(tokens)["logits"], run.subnetwork(tokens), rtol=1e-4, atol=1e-4)
    name = "layers.3.self_attn.v_proj.weight"
    assert torch.equal(module.state_dict()[name], run.subnetwork.weights["layer.3.attention.value"])
    assert not torch.equal(run.subnetwork.plm.fairesm().state_dict()[name], module.state_dict()[name])
    if "contact" in run.subnetwork.plm.all_weights:
        assert module.predict_contacts(tokens).shape == (1, 10, 10)


@pytest.mark.parametrize("wrong", [dict(layers="3-9"), dict(valid_proteins=1), dict(suppressed=16)])
def test_a_refused_configuration_leaves_its_folder_free(parts, tmp_path, wrong):
    folder = tmp_path / "run"
    with pytest.raises(ConfigError):
        fit("toy", parts, "1", replace(CONFIG, **wrong), folder, mmseqs=False)
    assert not folder.exists()
    assert fit("toy", parts, "1", CONFIG, folder, mmseqs=False).scores["step"] == 4


@pytest.mark.parametrize("column", ["suppress", "target"])
def test_former_columns_of_a_table_of_runs_are_read_and_told(tmp_path, column):
    path = write_jobs([Job("1.10", seed=2)], tmp_path / "jobs.csv")
    assert read_jobs(path) == [Job("1.10", seed=2)]
    path.write_text(path.read_text().replace("category", column))
    with pytest.warns(UserWarning, match=f"column {column} is read as category"):
        assert read_jobs(path) == [Job("1.10", seed=2)]


def test_every_setting_says_what_it_is():
    documented = docments(Objective) | {name: text for name, text in docments(TrainConfig).items() if text}
    assert all(documented.get(f.name) for f in fields(TrainConfig))
