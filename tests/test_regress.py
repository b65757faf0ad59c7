"""From a FASTA file to predicted numbers by the commands, and what each of them refuses"""

import io
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import LassoCV
from sklearn.metrics import r2_score

from plmsub.app.commands import plmsub_compress, plmsub_embed, plmsub_lasso, plmsub_lora
from plmsub.base.errors import ConfigError, DataError
from plmsub.base.files import shared_dir
from plmsub.batches import encode
from plmsub.io.cath import read_domains
from plmsub.io.labels import read_numbers
from plmsub.models.baselines import NgramStates, ngram_model
from plmsub.models.embed import Embeddings, compress, compress_saved, mean_embeddings, residue_states
from plmsub.models.weights import load_plm
from plmsub.proteins import AMINO_ACIDS
from plmsub.tasks.properties import lasso_fit, lasso_table, number_intervals, protein_targets

DOMAINS = read_domains("toy")[:60:2]


@pytest.fixture
def here(tmp_path, monkeypatch):
    "A folder with sequences and a table of values"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.fa").write_text("".join(f">{d.id}\n{d.sequence}\n" for d in DOMAINS))
    alanine = [d.sequence.count("A") / len(d) for d in DOMAINS]
    table = dict(ID=[d.id for d in DOMAINS], fitness=alanine, family=[d.code for d in DOMAINS])
    pd.DataFrame(table).to_csv(tmp_path / "values.csv", index=False)
    return tmp_path


def run(function, line):
    "Exit status or message, output, errors"
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        try:
            function.main(line.split())
            code = 0
        except SystemExit as e:
            code = e.code
    return code, out.getvalue(), err.getvalue()


def test_the_chain_of_commands(here):
    code, out, _ = run(plmsub_embed, "mine.fa embedded --include bos mean per_tok --repr_layers 2 4")
    assert code == 0 and "layers 2, 4; bos, mean, per_tok" in out
    assert "Next: plmsub_compress -i embedded -c mean -o vectors" in out
    code, out, _ = run(plmsub_compress, "-i embedded -c mean max bos pca1 idct3x5 -o vectors --layer 2")
    assert code == 0 and "Next: plmsub_lasso -i vectors/mean.2.csv" in out
    names = {p.name for p in (here / "vectors").iterdir()}
    assert names == {"mean.2.csv", "max.2.csv", "bos.2.csv", "pca-1.2.csv", "idct-3x5.2.csv"}
    code, out, _ = run(plmsub_lasso, "-i vectors/mean.2.csv -m values.csv -o lasso --target fitness --group family")
    assert code == 0 and "Next: plmsub_lora" in out and "Spearman" in out
    predictions = pd.read_csv("lasso/predictions.csv")
    scores = pd.read_csv("lasso/scores.csv").set_index("metric")
    assert scores.value["R2"] == pytest.approx(r2_score(predictions.truth, predictions.predicted))
    assert scores.value["Spearman"] == pytest.approx(spearmanr(predictions.truth, predictions.predicted).statistic)
    assert (scores.low < scores.value).all() and (scores.value < scores.high).all()
    families = predictions.set_index("id").fold.groupby({d.id: d.code for d in DOMAINS}).nunique()
    assert (families == 1).all()


def test_saved_states_are_compressed_like_fresh_ones(here):
    run(plmsub_embed, "mine.fa embedded --include bos,per_tok --repr-layers -1")
    found = compress_saved("embedded", ["mean", "maxPool", "pca1-2", "kernel_pca", "iDCT5x44", "bos"])
    plm, i = load_plm("toy"), 7
    ((_, states),) = residue_states(plm, [DOMAINS[i]], desc=None)
    first = plm.representations(encode([DOMAINS[i].sequence]), (4,))[4][0, 0]
    for method in ("mean", "max", "pca 1-2", "rbf 1", "idct 5x44", "bos"):
        expected = compress(states[4], method, first)
        np.testing.assert_allclose(found[method].loc[DOMAINS[i].id], expected, atol=1.01 if "idct" in method else 1e-3)
    assert list(found["mean"].index) == [d.id for d in DOMAINS]


@pytest.mark.parametrize("layers", ["30", "-6", "2 5"])
def test_a_layer_that_the_model_lacks(here, layers):
    code, _, _ = run(plmsub_embed, f"mine.fa embedded --repr_layers {layers}")
    assert f"toy has the layers 0 (the embedding) to 4, and no layer {layers.split()[-1]}" in code
    assert "--repr-layers 4" in code and not (here / "embedded").exists()


def test_spellings_of_several(here):
    ways = ["--include bos mean --repr_layers 0 4", "--include bos,mean --repr-layers 0,4", "--include=mean,bos"]
    kinds = []
    for k, way in enumerate(ways):
        run(plmsub_embed, f"mine.fa {k} {way}" + (" --repr_layers=0,-1" if k == 2 else ""))
        kinds.append(Embeddings(here / str(k)).kinds)
    assert kinds[0] == kinds[1] == kinds[2] == ["bos.0", "bos.4", "mean.0", "mean.4"]
    code, out, _ = run(plmsub_embed, "mine.fa --toks_per_batch 500")
    assert code == 0 and (here / "mine_embedded").is_dir() and "Next: plmsub_lasso -i mine_embedded" in out


def test_what_compress_and_lasso_refuse(here):
    run(plmsub_embed, "mine.fa embedded")
    assert "max of layer 4 needs per_tok" in run(plmsub_compress, "-i embedded -c max")[0]
    assert "no such compression" in run(plmsub_compress, "-i embedded -c median")[0]
    assert "layer 2 was not saved in embedded, which has 4" in run(plmsub_compress, "-i embedded --layer 2")[0]
    assert run(plmsub_compress, "-c mean")[0] == 2
    assert "required: -i/--embedded" in run(plmsub_compress, "-c mean")[2]
    assert "no column is known to hold values" in run(plmsub_lasso, "-i embedded -m values.csv -o x")[0]
    assert "required: -m/--table" in run(plmsub_lasso, "-i embedded -o x")[2]
    (here / "other.csv").write_text("id,y\nnobody,1\nnoone,2\n")
    assert "no id of the values has a vector" in run(plmsub_lasso, "-i embedded -m other.csv -o x")[0]
    assert "no such file" in run(plmsub_lasso, "-i nowhere.csv -m other.csv -o x")[0]
    assert not (here / "x").exists()


def test_what_is_not_used_is_told(here):
    run(plmsub_embed, "mine.fa embedded")
    table = pd.read_csv("values.csv").iloc[5:]
    table.loc[len(table) + 10] = ["nobody", 0.5, "none"]
    table.to_csv("values.csv", index=False)
    code, out, _ = run(plmsub_lasso, "-i embedded -m values.csv -o lasso --target fitness")
    assert code == 0 and "1 values without a vector: not used" in out and "5 vectors without a value: not used" in out
    assert len(pd.read_csv("lasso/predictions.csv")) == 25


def test_lora_on_a_table(here):
    pytest.importorskip("peft")
    line = "-i mine.fa -m values.csv -o lora --target fitness --id ID --group family --folds 3 --epochs 1 --batch 4"
    code, out, _ = run(plmsub_lora, line)
    assert code == 0 and "Next, to compare: plmsub_embed mine.fa" in out
    predictions = pd.read_csv("lora/predictions.csv")
    assert set(predictions.id) == {d.id for d in DOMAINS} and predictions.predicted.std() > 0
    with pytest.raises(DataError, match="no column is known"):
        plmsub_lora("mine.fa", "values.csv", "x")
    with pytest.raises(ConfigError, match="epochs"):
        plmsub_lora("mine.fa", "values.csv", "x", target="fitness", epochs=0)


def test_the_fit_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 8)) * rng.uniform(0.5, 3, 8) + rng.normal(size=8)
    y, folds = X[:, 2] - 2 * X[:, 5] + rng.normal(size=60), np.arange(60) % 5
    fit = lasso_fit(X, y, folds)
    Z = (X - X.mean(0)) / X.std(0)
    parts = [(np.flatnonzero(folds != k), np.flatnonzero(folds == k)) for k in range(5)]
    path = np.geomspace(1, 0.001, 30) * np.abs(Z.T @ (y - y.mean())).max() / 60
    plain = LassoCV(alphas=path, cv=parts, tol=1e-3).fit(Z, y)
    np.testing.assert_allclose(fit.coefficients, plain.coef_, atol=1e-9)
    new = rng.normal(size=(7, 8))
    np.testing.assert_allclose(fit.predict(new), plain.predict((new - X.mean(0)) / X.std(0)), atol=1e-9)
    assert fit.penalty == pytest.approx(plain.alpha_)


def test_no_fold_sees_its_own_values():
    rng = np.random.default_rng(1)
    X = pd.DataFrame(mean_embeddings("toy", DOMAINS, desc=None), index=[d.id for d in DOMAINS])
    y = pd.DataFrame(dict(value=[d.sequence.count("L") / len(d) for d in DOMAINS]), index=X.index)
    found = lasso_table(X, y)
    assert found.scores.value[1] > 0.5
    first = found.predictions.fold == 0
    other = lasso_table(X, y.assign(value=y.value.where(~first.to_numpy(), 9.0)))
    np.testing.assert_allclose(other.predictions.predicted[first], found.predictions.predicted[first], atol=1e-9)
    shuffled = [lasso_table(X, y.assign(value=rng.permutation(y.value))).scores.value[1] for _ in range(4)]
    assert np.mean(shuffled) < 0.3


def test_groups_widen_intervals():
    rng = np.random.default_rng(2)
    group = np.repeat(np.arange(10), 8)
    shared = rng.normal(size=10)[group]
    y = shared + 0.3 * rng.normal(size=80)
    x = y + rng.normal(size=10)[group]
    alone, together = number_intervals(y, x), number_intervals(y, x, group)
    assert (alone.value == together.value).all()
    assert (together.high - together.low > 1.3 * (alone.high - alone.low)).all()
    pd.testing.assert_frame_equal(together, number_intervals(y, x, [f"g{k}" for k in group]))


def test_ngram_states_follow_the_counts():
    states = NgramStates(ngram_model(["ACAC", "ACGG"], 2, alpha=0.5))
    x = states.representations(encode(["AC", "GX"]))[0]
    assert x.shape == (2, 4, 21)
    torch.testing.assert_close(x[0, 1:3, :20].exp().sum(1), torch.ones(2))
    assert [x[0, 1, 20], x[0, 2, 20]] == [x[0, 1, AMINO_ACIDS.index("A")], x[0, 2, AMINO_ACIDS.index("C")]]
    assert x[0, 1, 20] == x[0, 1, :20].max()
    assert (x[:, [0, 3]][0] == 0).all() and (x[1, 2:] == 0).all()


def test_molecular_weight_is_that_of_biopython():
    from Bio.SeqUtils import molecular_weight

    found = protein_targets(DOMAINS).molecular_weight_Da
    assert found.tolist() == pytest.approx([molecular_weight(d.sequence, "protein") for d in DOMAINS])
    assert 100 < (found / [len(d) for d in DOMAINS]).mean() < 125


def test_scans_are_read_as_tables():
    if (data := shared_dir()) is None:
        pytest.skip("no data")
    table = read_numbers(data / "dms" / "IF1_ECOLI_metadata.csv", id_column="mutant")
    assert len(table) == 1439 and table.value["M1N"] == 0.4075
