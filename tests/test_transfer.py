"Learning a task from a model: against plain calculations, with masks, folds and what is refused"

import sys

import numpy as np
import pandas as pd
import pytest
import torch

from plmsub.base.errors import ConfigError, DataError, ModelError, PlmsubError, RunError
from plmsub.base.files import shared_dir
from plmsub.base.seeds import generator, numpy_rng
from plmsub.batches import encode
from plmsub.comparison import compare
from plmsub.io.cath import read_domains
from plmsub.io.localization import read_localization, with_clusters
from plmsub.masks import HardMask
from plmsub.models.embed import OneHot, mean_embeddings
from plmsub.plm import tiny_esm1, tiny_esm2
from plmsub.proteins import AMINO_ACIDS, Protein
from plmsub.splits import deal
from plmsub.subnetwork import Subnetwork
from plmsub.tables import COLUMNS
from plmsub.tasks.contacts import contact_precision
from plmsub.tasks.fine_tuning import TuneConfig, fine_tune, masked_parameters, module_states, shorten, tunable_module
from plmsub.tasks.transfer import label_prediction, transfer_scores

SHORT = TuneConfig(epochs=2, patience=2, batch=4)


def random_proteins(n, length=(20, 40), classes="ab", **labels):
    "Random sequences of two classes; the second has more tryptophan"
    out = []
    for i in range(n):
        rng, c = numpy_rng("transfer", i, *length), i % len(classes)
        p = np.where(np.array(list(AMINO_ACIDS)) == "W", 1 + 6 * c, 1.0)
        sequence = "".join(rng.choice(list(AMINO_ACIDS), rng.integers(*length), p=p / p.sum()))
        out.append(
            Protein(
                f"P{i}",
                sequence,
                dict(
                    location=classes[c],
                    group="gh"[i // 2 % 2],
                    fold=i // 4 % 3,
                    share=sequence.count("W") / len(sequence),
                    **labels,
                ),
            )
        )
    return out


def halved(plm, seed=0):
    "A subnetwork that lacks 3 of 10 weights in all layers"
    like = {n: torch.rand(w.shape, generator=generator(seed, n)) < 0.7 for n, w in plm.weights.items()}
    return Subnetwork(plm, HardMask(like))


@pytest.fixture(scope="module")
def hf():
    pytest.importorskip("transformers")
    pytest.importorskip("peft")


# --- The modules that are trained


@pytest.mark.parametrize("make", [tiny_esm2, tiny_esm1, lambda: tiny_esm1(norm_before=False)])
@pytest.mark.parametrize("tune", ["lora", "full"])
def test_before_training_the_module_is_the_model(hf, make, tune):
    for model in (make(), halved(make())):
        texts = [p.sequence for p in random_proteins(3)]
        found, there = module_states(tunable_module(model, TuneConfig(tune)), texts, "cpu")
        wanted = model.representations(encode(texts))[model.n_layers]
        torch.testing.assert_close(found[there], wanted[there], atol=1e-4, rtol=1e-4)
        assert there.sum(1).tolist() == [len(t) for t in texts] and not there[:, 0].any()


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_what_a_mask_removed_stays_removed(hf, tune):
    model, proteins = halved(tiny_esm2()), random_proteins(16)
    before = model.plm.fingerprint
    tuned = fine_tune(
        model,
        proteins[:12],
        proteins[12:],
        config=TuneConfig(tune, epochs=4, patience=4, batch=4, learning_rate=0.01, weight_decay=0.1),
    )
    pairs = masked_parameters(tuned.module, model)
    assert len(pairs) == len(model.mask) and tuned.regrown == 0 and model.plm.fingerprint == before
    assert all((p[mask == 0] == 0).all() for p, mask in pairs)
    changed = [not torch.equal(p, model.weights[n]) for (p, _), n in zip(pairs, model.mask)]
    assert all(changed) if tune == "full" and tuned.log.kept.idxmax() else not any(changed)


def test_weights_regrow_where_one_asks(hf):
    model, proteins = halved(tiny_esm2()), random_proteins(16)
    config = TuneConfig("full", epochs=2, learning_rate=0.001, regrow=True)
    tuned = fine_tune(model, proteins[:12], proteins[12:], config=config)
    assert tuned.log.kept.idxmax() and tuned.regrown > 0.9 * model.mask.n_removed


def test_lora_trains_adapters_of_query_and_value_alone(hf):
    plm, proteins = tiny_esm2(n_layers=2, dim=32), random_proteins(12)
    tuned = fine_tune(plm, proteins[:8], proteins[8:], config=SHORT)
    names = [n for n, p in tuned.module.named_parameters() if p.requires_grad]
    assert len(names) == 2 * 2 * 2 and all("lora_" in n and ("query" in n or "value" in n) for n in names)
    assert tuned.n_trained == 2 * 2 * 2 * 4 * 32 + (32 + 1) * 2
    lora = tuned.module.peft_config["default"]
    assert (lora.r, lora.lora_alpha, lora.lora_dropout) == (4, 32, 0.01)


@pytest.mark.parametrize("tune", ["head", "lora", "full"])
def test_the_same_again_and_nobody_else_is_disturbed(hf, tune):
    plm, proteins, found = tiny_esm2(), random_proteins(16), []
    config = TuneConfig(tune, epochs=2, batch=4, pooling="attention")
    for seed in (0, 1):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        found.append(fine_tune(plm, proteins[:12], proteins[12:], config=config).predict(proteins))
        assert torch.equal(torch.get_rng_state(), state)
    pd.testing.assert_frame_equal(*found)


@pytest.mark.parametrize("tune", ["head", "lora"])
@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_a_prediction_does_not_depend_on_company(hf, tune, pooling):
    proteins = random_proteins(16, (5, 60))
    tuned = fine_tune(
        tiny_esm2(),
        proteins[:12],
        proteins[12:],
        config=TuneConfig(tune, pooling=pooling, epochs=3, batch=4, learning_rate=0.01),
    )
    together = tuned.predict(proteins).filter(like="p_").to_numpy()
    alone = np.concatenate([tuned.predict([p]).filter(like="p_").to_numpy() for p in proteins])
    np.testing.assert_allclose(together, alone, atol=1e-5)


# --- Heads


def test_the_head_on_one_hots_is_a_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    proteins = random_proteins(80)
    train, valid = proteins[:60], proteins[60:]
    tuned = fine_tune(OneHot(), train, valid, config=TuneConfig("head", epochs=150, patience=150, weight_decay=0.0))
    x = mean_embeddings(OneHot(), proteins)
    z = (x - x[:60].mean(0)) / x[:60].std(0)
    theirs = LogisticRegression(C=1.0, max_iter=1000).fit(z[:60], [p.labels["location"] for p in train])
    assert (tuned.predict(valid).predicted == theirs.predict(z[60:])).mean() >= 0.9
    assert tuned.log.valid_loss.min() < 0.4 < np.log(2) - 0.1 < tuned.log.valid_loss[0]


def test_the_layer_that_is_asked_for_is_read():
    proteins, plm = random_proteins(24), tiny_esm2()
    read = [label_prediction(plm, proteins, config=TuneConfig("head", layer=k, epochs=2)).p_b for k in (1, 3, None)]
    assert read[1].equals(read[2]) and not np.allclose(read[0], read[1])
    with pytest.raises(ModelError, match="layers go from 0 to 3"):
        label_prediction(plm, proteins, config=TuneConfig("head", layer=99))
    with pytest.raises(ConfigError, match="reads its last layer"):
        TuneConfig("lora", layer=1)


@pytest.mark.parametrize("probe", ["attention", "projections"])
def test_contacts_are_read_from_the_layer_that_is_asked_for(probe):
    plm, rng = tiny_esm2(), numpy_rng("contacts")
    proteins = [Protein(f"c{i}", "".join(rng.choice(list(AMINO_ACIDS), 40))) for i in range(6)]
    contacts = {p.id: (rng.random((40, 40)) < 0.3).astype(float) for p in proteins}
    settings = dict(probe=probe) | (dict(steps=5) if probe == "projections" else dict(penalty=10))

    def read(layer):
        return contact_precision(plm, proteins[:3], proteins[3:], contacts, layer=layer, **settings).value

    assert not read(1).equals(read(2)) and read(-1).equals(read(3))
    with pytest.raises(PlmsubError, match="layers|the layers 1 to 3"):
        read(99)


def test_attention_finds_the_few_residues_that_tell():
    proteins = []
    for i in range(120):  # the class is whether there is a W
        rng = numpy_rng("few", i)
        letters = rng.choice(list(AMINO_ACIDS.replace("W", "")), 100)
        if i % 2:
            letters[rng.integers(100)] = "W"
        proteins.append(Protein(f"P{i}", "".join(letters), dict(location="ab"[i % 2])))
    loss = {
        p: fine_tune(
            OneHot(), proteins[:80], proteins[80:], config=TuneConfig("head", pooling=p, epochs=60, patience=60)
        ).log.valid_loss.min()
        for p in ("mean", "attention")
    }
    assert loss["attention"] < 0.7 * loss["mean"] or loss["attention"] < 0.02, loss


def test_a_number_comes_back_in_its_own_units():
    proteins = [Protein(p.id, p.sequence, dict(share=1000 + 50 * p.labels["share"])) for p in random_proteins(80)]
    config = TuneConfig("head", output="number", epochs=150, patience=50)
    tuned = fine_tune(OneHot(), proteins[:60], proteins[60:70], "share", config)
    found, truth = tuned.predict(proteins[70:]).predicted, np.array([p.labels["share"] for p in proteins[70:]])
    assert np.corrcoef(found, truth)[0, 1] > 0.9 and abs(found - truth).mean() < 0.5 * abs(truth - truth.mean()).mean()
    assert (
        tuned.classes is None
        and abs(tuned.log.valid_loss.min() - ((found - truth) ** 2).mean() / tuned.units[1] ** 2) < 1
    )


def test_training_stops_and_keeps_the_best():
    proteins = random_proteins(30)
    noise = [
        Protein(p.id, p.sequence, dict(location="ab"[int(numpy_rng("noise", p.id).integers(2))])) for p in proteins
    ]
    tuned = fine_tune(
        OneHot(), noise[:20], noise[20:], config=TuneConfig("head", epochs=200, patience=4, head_learning_rate=0.05)
    )
    log = tuned.log
    assert len(log) < 100 and log.kept.sum() == 1 and log.valid_loss[log.kept].item() == log.valid_loss.min()
    assert log.epoch.max() - log.epoch[log.kept].item() == 4
    truth = [p.labels["location"] for p in noise[20:]]
    read = tuned.predict(noise[20:])
    nll = -np.mean([np.log(read[f"p_{t}"][i]) for i, t in enumerate(truth)])
    assert abs(nll - log.valid_loss.min()) < 1e-5


def test_a_loss_that_is_no_number_is_named():
    proteins, broken = random_proteins(12), OneHot()
    broken.representations = lambda tokens, layers=None: {
        k: torch.full((*tokens.shape, 20), float("inf")) for k in layers
    }
    with pytest.raises((RunError, ModelError), match="not a finite|not finite"):
        fine_tune(broken, proteins[:8], proteins[8:], config=TuneConfig("head", pooling="attention"))


# --- Folds and cross-validation


def test_plain_and_nested_are_what_they_say(hf):
    proteins, config = random_proteins(24), TuneConfig("head", epochs=20)
    models = {"x": tiny_esm2(), "draws": [halved(tiny_esm2(), s) for s in range(2)]}

    def fold(*ks):
        return [p for p in proteins if p.labels["fold"] in ks]

    def learned(model, k, stop):
        return (
            fine_tune(model, fold(*({0, 1, 2} - {k, stop})), fold(stop), config=config)
            .predict(fold(k))
            .set_index("id")
            .filter(like="p_")
        )

    for nested in (False, True):
        table = label_prediction(models, proteins, config=config, nested=nested)
        assert (
            len(table) == 3 * 24
            and (table.groupby(["model", "draw"]).id.nunique() == 24).all()
            and not table.drop(columns=["seed", "code"]).isna().any().any()
        )
        for name, draw, model in (("x", 0, models["x"]), ("draws", 1, models["draws"][1])):
            ours = table[(table.model == name) & (table.draw == draw)].set_index("id")
            for k in range(3):
                wanted = (
                    sum(learned(model, k, s) for s in stops) / len(stops)
                    if (stops := [(k + 1) % 3, (k + 2) % 3][: 1 + nested])
                    else None
                )
                np.testing.assert_allclose(ours.loc[wanted.index].filter(like="p_"), wanted, atol=1e-5)
        assert (table.value == (table.truth == table.predicted)).all()
        assert (table.predicted == table.filter(like="p_").idxmax(axis=1).str[2:]).all()


def test_lora_in_cross_validation(hf):
    table = label_prediction(
        {"full": tiny_esm2(), "subnetwork": halved(tiny_esm2())}, random_proteins(12), config=SHORT
    )
    assert table.columns[:10].tolist() == [*COLUMNS, "fold"]
    assert (
        set(table.metric) == {"location accuracy"}
        and set(table.model) == {"full", "subnetwork"}
        and table.code.isna().all()
    )
    assert (table.n == 1).all() and set(table.group) == {"g", "h"}


def test_the_table_is_taken_by_compare_with_draws_and_codes():
    domains = read_domains("toy")[:40]
    proteins = [
        type(d)(d.id, d.sequence, dict(location=f"class {d.code[0]}", fold=i % 3), code=d.code)
        for i, d in enumerate(domains)
    ]
    table = label_prediction(
        {"full": OneHot(), "control": [OneHot(), OneHot()]}, proteins, config=TuneConfig("head", epochs=3)
    )
    assert table.code.tolist()[:40] == [d.code for d in domains]
    result = compare(table, subnetwork=None, n_boot=50).set_index("model")
    assert len(result) == 2 and abs(result.value_all["full"] - table[table.model == "full"].value.mean()) < 1e-9


def in_folds(proteins, by="k-mers", n=5):
    "id -> labels, with the fold dealt from clusters"
    clustered = with_clusters(proteins, by=by)
    classes = [p.labels["location"] for p in clustered]
    fold = deal([p.labels["cluster"] for p in clustered], n, classes=classes)
    return {p.id: p.labels | dict(fold=int(k)) for p, k in zip(clustered, fold)}


def test_similar_proteins_stay_in_one_fold():
    base = random_proteins(30, (80, 120), "a")
    copies = [Protein(f"{p.id}c{k}", p.sequence[:-5] + "A" * k, dict(p.labels)) for p in base for k in (1, 2)]
    for by in ("k-mers", None):
        of = in_folds([*base, *copies], by)
        assert all(of[p.id]["fold"] == of[f"{p.id}c{k}"]["fold"] for p in base for k in (1, 2))
        assert len({labels["cluster"] for labels in of.values()}) == 30
        assert {labels["clustered_by"] for labels in of.values()} <= {"k-mers", "mmseqs"}
        assert list(pd.Series([labels["fold"] for labels in of.values()]).value_counts()) == [18] * 5
    assert in_folds([*base, *copies][::-1]) == in_folds([*base, *copies])


def test_classes_are_spread_evenly_and_folds_may_be_dealt():
    proteins = random_proteins(60, (80, 120), "abc")
    of = in_folds(proteins)
    counts = pd.crosstab(*([labels[k] for labels in of.values()] for k in ("fold", "location")))
    assert counts.shape == (5, 3) and counts.to_numpy().min() >= 3 and counts.to_numpy().max() <= 5
    table = label_prediction(
        OneHot(), with_clusters(proteins, by="k-mers"), config=TuneConfig("head", epochs=1), by="cluster"
    )
    assert dict(zip(table.id, table.fold)) == {id: labels["fold"] for id, labels in of.items()}


def test_without_mmseqs_kmers_make_the_clusters(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert {p.labels["clustered_by"] for p in with_clusters(random_proteins(20))} == {"k-mers"}
    with pytest.raises(RunError, match="not installed"):
        with_clusters(random_proteins(20), by="mmseqs")


def test_folds_that_cannot_be():
    proteins, config = with_clusters(random_proteins(8, (80, 120)), by="k-mers"), TuneConfig("head")
    for n in (1, 9):
        with pytest.raises(ConfigError, match=f"8 groups cannot fill {n} folds"):
            label_prediction(OneHot(), proteins, config=config, by="cluster", n_folds=n)
    with pytest.raises(ConfigError, match="no such clusters"):
        with_clusters(proteins, by="blast")
    with pytest.raises(DataError, match="has no family"):
        label_prediction(OneHot(), proteins, config=config, by="family")
    two = [Protein(p.id, p.sequence, p.labels | dict(fold=i % 2)) for i, p in enumerate(proteins)]
    with pytest.raises(DataError, match="2 folds"):
        label_prediction({"x": OneHot()}, two, config=TuneConfig("head"))
    with pytest.raises(DataError, match="same id"):
        label_prediction({"x": OneHot()}, random_proteins(12) * 2, config=TuneConfig("head"))
    with pytest.raises(ConfigError, match="no model"):
        label_prediction({}, random_proteins(12), config=TuneConfig("head"))


# --- Scores


def scored(**columns):
    "A table of predictions, as far as scores need it"
    table = (
        pd.DataFrame(dict(model="m", seed=np.nan, draw=0, group="", fold=0) | columns).rename_axis("id").reset_index()
    )
    right = table.truth == table.predicted
    return table.assign(value=right * 1.0 if right.any() else (table.truth - table.predicted) ** 2)


def test_scores_equal_plain_ones():
    from sklearn.metrics import accuracy_score, f1_score

    rng, n = numpy_rng("scores"), 200
    truth, predicted = rng.choice(list("abcd"), n), rng.choice(list("abcde"), n)
    table = scored(truth=truth, predicted=predicted, group=rng.choice(["g", "h"], n), fold=rng.integers(0, 5, n))
    scores = transfer_scores(table).set_index(["id", "metric"])
    assert transfer_scores(table).columns[: len(COLUMNS)].tolist() == COLUMNS
    for group, part in [("all", table), *table.groupby("group")]:
        accuracy, f1 = scores.loc[(group, "accuracy")], scores.loc[(group, "macro F1")]
        assert accuracy.n == f1.n == len(part) and accuracy.classes == 4
        assert abs(accuracy.value - accuracy_score(part.truth, part.predicted)) < 1e-12
        assert abs(f1.value - f1_score(part.truth, part.predicted, average="macro")) < 1e-12
        assert abs(accuracy.fold_sd - np.std(part.groupby("fold").value.mean(), ddof=1)) < 1e-12
    perfect = transfer_scores(table.assign(predicted=table.truth, value=1.0))
    assert (perfect.value == 1).all()


def test_macro_f1_counts_classes_that_are_only_predicted():
    from sklearn.metrics import f1_score

    truth, predicted = list("aabb"), list("aabc")  # F1 of a: 1, of b: 2/3, of c: 0
    f1 = transfer_scores(scored(truth=truth, predicted=predicted)).set_index("metric").value["macro F1"]
    assert f1 == pytest.approx(5 / 9) and f1 == pytest.approx(f1_score(truth, predicted, average="macro"))  # was 0.833


def test_scores_of_numbers_equal_plain_ones():
    from scipy.stats import spearmanr
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

    rng = numpy_rng("numbers")
    truth = rng.normal(size=50)
    table = scored(truth=truth, predicted=truth + rng.normal(size=50))
    scores = transfer_scores(table).set_index("metric").value
    for name, of in dict(R2=r2_score, MAE=mean_absolute_error, RMSE=root_mean_squared_error).items():
        assert abs(scores[name] - of(table.truth, table.predicted)) < 1e-12
    assert abs(scores["Spearman"] - spearmanr(table.truth, table.predicted).statistic) < 1e-12


# --- What is shown of long proteins


def test_what_is_left_out_is_counted(hf):
    proteins = random_proteins(12, (50, 90))
    for tune in ("head", "lora"):
        table = label_prediction({"x": tiny_esm2()}, proteins, config=TuneConfig(tune, epochs=1, max_residues=60))
        assert table.left_out_residues.tolist() == [max(0, len(p) - 60) for p in proteins]
    table = label_prediction({"x": tiny_esm2()}, proteins, config=TuneConfig("head", epochs=1, max_residues=None))
    assert (table.left_out_residues == 0).all()
    with pytest.raises(DataError, match="are shown"):
        fine_tune(OneHot(), proteins[:6], proteins[6:], config=TuneConfig("head", max_residues=60, cut="refuse"))


def test_a_cut_protein_is_read_as_its_ends(hf):
    long, train = Protein("L", "ACDEFGHIKL" * 10), random_proteins(12)
    for tune in ("head", "lora"):
        tuned = fine_tune(tiny_esm2(), train[:8], train[8:], config=TuneConfig(tune, epochs=1, max_residues=50))
        ends = Protein("E", long.sequence[:25] + long.sequence[-25:])
        np.testing.assert_allclose(*(tuned.predict([p]).filter(like="p_").to_numpy() for p in (long, ends)), atol=1e-6)
        assert tuned.predict([long]).left_out_residues.item() == 50


def test_a_model_with_positions_says_that_it_has_too_few(hf):
    proteins = [*random_proteins(8), Protein("long", "ACDEFGHIKL" * 110, dict(location="a"))]
    with pytest.raises(DataError, match="positions for 1,022"):
        fine_tune(tiny_esm1(), proteins[:4], proteins[4:], config=TuneConfig(epochs=1, max_residues=None))
    read = fine_tune(
        tiny_esm1(), proteins[:4], proteins[4:], config=TuneConfig("head", epochs=1, max_residues=None)
    ).predict(proteins)
    assert (read.left_out_residues == 0).all()  # a frozen model reads windows
    assert (
        fine_tune(tiny_esm1(), proteins[:4], proteins[4:], config=TuneConfig(epochs=1, batch=2))
        .predict(proteins[-1:])
        .left_out_residues.item()
        == 78
    )


@pytest.mark.parametrize("n", [1, 2, 7, 20])
def test_shorten(n):
    text = AMINO_ACIDS
    assert len(shorten(text, n)) == n and shorten(text, n, "end") == text[:n]
    first, last = -(-n // 2), n // 2
    assert shorten(text, n) == text[:first] + text[20 - last :]


# --- What is refused


@pytest.mark.parametrize(
    "bad",
    [
        dict(tune="prompt"),
        dict(tune=None),
        dict(output="class"),
        dict(pooling="max"),
        dict(cut="start"),
        dict(epochs=0),
        dict(epochs=2.0),
        dict(patience=True),
        dict(batch=-1),
        dict(rank=0),
        dict(alpha="32"),
        dict(learning_rate=-1.0),
        dict(learning_rate="1e-3"),
        dict(head_learning_rate=float("nan")),
        dict(dropout=1.0),
        dict(max_residues=0),
        dict(regrow=True),
    ],
)
def test_settings_that_cannot_be(bad):
    with pytest.raises(ConfigError):
        TuneConfig(**bad)


def test_labels_that_cannot_be_learned():
    proteins, config = random_proteins(8), TuneConfig("head", epochs=1)

    def tried(values, config=config, **more):
        changed = [Protein(p.id, p.sequence, dict(location=v)) for p, v in zip(proteins, values)]
        return fine_tune(OneHot(), changed[:4], changed[4:], config=config, **more)

    number = TuneConfig("head", output="number", epochs=1)
    for bad in (None, 3, "", " ", float("nan")):
        with pytest.raises(DataError, match="P5 has no location that is a text"):
            tried([*"abaab", bad, *"ab"])
    for bad in (None, "3", True, float("nan"), float("inf")):
        with pytest.raises(DataError, match="P5 has no location that is a number"):
            tried([1.0, 2.0, 3.0, 4.0, 5.0, bad, 6.0, 7.0], number)
    with pytest.raises(DataError, match="none of those given"):
        tried("abcababa", classes=["a", "b"])
    assert tried("abababab", classes=["a", "b", "c"]).classes == ["a", "b", "c"]
    assert tried([5.0] * 8, number).predict(proteins).predicted.round(3).eq(5.0).all()
    with pytest.raises(DataError, match="train and valid"):
        fine_tune(OneHot(), proteins, [], config=config)
    with pytest.raises(DataError, match="same id"):
        fine_tune(OneHot(), proteins, proteins[:1], config=config)
    with pytest.raises(DataError, match="no protein"):
        tried("abababab").predict([])


@pytest.mark.parametrize("lacking", ["transformers", "peft"])
def test_without_the_libraries_it_says_what_to_install(monkeypatch, lacking):
    monkeypatch.setitem(sys.modules, lacking, None)
    proteins = random_proteins(8)
    with pytest.raises(ConfigError, match=rf"{lacking} is not installed.*plmsub\[hf\]"):
        fine_tune(tiny_esm2(), proteins[:4], proteins[4:], config=SHORT)
    assert (
        len(fine_tune(tiny_esm2(), proteins[:4], proteins[4:], config=TuneConfig("head", epochs=1)).predict(proteins))
        == 8
    )


BAD = {
    "no bars": ">P1\nMKT\n",
    "three fields": ">P1|Cytoplasm|positive\nMKT\n",
    "five fields": ">P1|Cytoplasm|positive|1|2\nMKT\n",
    "no fold": ">P1|Cytoplasm|positive|\nMKT\n",
    "a word for a fold": ">P1|Cytoplasm|positive|one\nMKT\n",
    "twice": ">P1|C|p|0\nMKT\n>P1|C|p|0\nMKV\n",
    "no sequence": ">P1|C|p|0\n",
    "a bad letter": ">P1|C|p|0\nMK?\n",
    "spelling": ">P1|Cell wall|p|0\nMKT\n>P2|CellWall|p|0\nMKT\n",
    "group spelling": ">P1|C|Positive|0\nMKT\n>P2|C|positive|0\nMKT\n",
    "a page": "<html>\n",
    "empty": "",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named(tmp_path, name):
    (tmp_path / "x.fasta").write_text(BAD[name])
    with pytest.raises(DataError, match="x.fasta"):
        read_localization(tmp_path / "x.fasta")


@pytest.mark.parametrize(
    "rows",
    [
        "P1,Nucleus\n",
        "P1,Nucleus\nP2,Nucleus\nP3,Nucleus\n",
        "P1,Nucleus\nP2\n",
        "P1,Nucleus\nP1,Cytoplasm\nP2,Nucleus\n",
        "P1,Nucleus\nP2,nucleus\n",
        "",
    ],
)
def test_bad_tables_are_named(tmp_path, rows):
    (tmp_path / "x.fasta").write_text(">P1\nMKT\n>P2\nMKV\n")
    (tmp_path / "x.csv").write_text(rows)
    with pytest.raises(DataError, match=r"x\.(csv|fasta)"):
        read_localization(tmp_path / "x.fasta", tmp_path / "x.csv")


@pytest.mark.skipif(shared_dir() is None or not (shared_dir() / "localisation").is_dir(), reason="needs shared data")
def test_real_files():
    place = shared_dir() / "localisation"
    real = read_localization(place / "la_query_setHARD.fasta", place / "la_query_setHARD_labels.txt")
    assert len(real) == 490 and len({p.labels["location"] for p in real}) == 10
    assert [p.labels["fold"] for p in read_localization(place / "deeplocpro_example.fasta")] == [1, 3, 2, 3, 1]
