"What people type works, or the error says what to do: the calls of a first-time user"

import numpy as np
import pandas as pd
import pytest

import plmsub
from plmsub import PlmsubError, Subnetwork, TrainConfig, cath_category, compare, fit, load_plm, load_run, mlm_perplexity
from plmsub.base.errors import ConfigError, DataError
from plmsub.io.variants import make_variants
from plmsub.plm import tiny_esm2
from plmsub.tasks.homology import remote_homology
from plmsub.tasks.secondary import secondary_structure
from plmsub.tasks.variants import zero_shot

QUICK = dict(
    steps=2, batch_size=8, suppressed=2, valid_proteins=8, valid_every=2, corruptions=2, max_damage=10, keep=0.55
)


@pytest.fixture(scope="module")
def domains():
    return plmsub.read_domains("toy")


@pytest.fixture(scope="module")
def parts(domains):
    return plmsub.split(domains, by="superfamily", category="1")


@pytest.fixture(scope="module")
def plm():
    return tiny_esm2(2, 16, 2)


@pytest.fixture(scope="module")
def run(parts, tmp_path_factory):
    "A model by its name, a category by its code"
    return fit("toy", parts, "1", TrainConfig(**QUICK), tmp_path_factory.mktemp("runs") / "run")


def test_1_names_of_the_main_job_are_at_hand():
    assert {"fit", "load_plm", "read_domains", "split", "evaluate", "compare", "TrainConfig"} <= set(dir(plmsub))
    assert 20 <= len(plmsub.__all__) <= 30 and plmsub.__doc__


def test_2_fit_wants_a_split_and_says_so(plm, domains):
    with pytest.raises(PlmsubError, match="split"):
        fit(plm, domains, cath_category("1"))


def test_3_and_4_a_model_and_a_category_by_name(run):
    assert run.category == cath_category("1") and run.subnetwork.plm.name == "toy"


def test_5_one_model_needs_no_name(plm, domains):
    table = mlm_perplexity(plm, domains[:3], passes=1)
    assert table.model.unique().tolist() == ["tiny"] and table.id.tolist() == [d.id for d in domains[:3]]


def test_6_compare_takes_the_code_of_a_category(plm, domains):
    table = mlm_perplexity({"full": plm, "subnetwork": tiny_esm2(2, 16, 2, seed=1)}, domains[::40], passes=1)
    pd.testing.assert_frame_equal(compare(table, "1", n_boot=50), compare(table, cath_category("1"), n_boot=50))


def test_7_and_8_a_model_reads_sequences(plm):
    assert plm(["MKTAY", "GSH"]).shape == (2, 7, 33) and plm("MKTAY").equal(plm(["MKTAY"]))


def test_9_split_says_what_a_protein_is():
    with pytest.raises(DataError, match=r"(?i)protein"):
        plmsub.split(["MKTAYIAKQR", "GSHMLEDPVA"])


def test_10_a_subnetwork_from_a_file(run):
    again = Subnetwork(run.subnetwork.plm, str(run.folder / "mask.safetensors"))
    assert again("MKTAY").equal(run.subnetwork("MKTAY"))


def test_11_a_run_finds_its_model(run):
    assert load_run(str(run.folder)).subnetwork("MKTAY").equal(run.subnetwork("MKTAY"))


def test_12_13_14_tasks_take_one_model(plm, domains):
    wild = domains[0].sequence
    assert set(zero_shot(plm, make_variants(wild, [f"{wild[4]}5A"])).model) == {"tiny"}
    assert set(secondary_structure(plm, domains[:40:4], domains[1:9:4], n_residues=300).model) == {"tiny"}
    assert set(remote_homology(plm, domains[::20]).model) == {"tiny"}


def test_15_16_17_settings_from_numpy_and_pandas():
    config = TrainConfig(steps=np.int64(100), learning_rate=np.float32(0.1), layers=(0, 1), keep=pd.Series([0.5])[0])
    assert config.steps == 100 and type(config.steps) is int and list(config.layers) == [0, 1]
    assert abs(config.learning_rate - 0.1) < 1e-7 and config.keep == 0.5


def test_18_a_float_has_lost_its_zero():
    with pytest.raises(ConfigError, match="2.30"):
        cath_category(2.30)
    assert cath_category(1) == cath_category("1")


def test_names_of_the_hub_are_understood(monkeypatch):
    "The part behind the owner is the name that fair-esm uses; nothing is downloaded here"
    from plmsub.models import weights

    def fetch(name, *args):
        raise DataError("asked for", text=name)

    monkeypatch.setattr(weights, "fetch", fetch)
    with pytest.raises(DataError, match="asked for: “esm2_t6_8M_UR50D”"):
        load_plm("facebook/esm2_t6_8M_UR50D")
