"""Folding against fair-esm's own ESMFold, files as fair-esm publishes them, runs that are killed, and calls that are wrong

fair-esm's ESMFold is made of its own modules and of openfold's. openfold is not on the package index, so its place is taken by
transformers' copies of it; everything else (blocks, trunk, batches, other letters, pTM) is the code of fair-esm 2.0.0.

The files in `esmfold/` were written by the omegaconf versions in their names around a tiny random predictor: 2.1.2 without folding
blocks and with attention maps, from plain values; 2.3.0 with one block, from the dataclasses of fair-esm. They hold what is
beside the point as well: a part of a language model, an interpolation, a missing value."""

import copy
import dataclasses
import importlib
import multiprocessing
import sys
import time
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from plmsub.base.errors import ConfigError, DataError, ModelError, PlmsubError, RunError
from plmsub.base.files import read_json, write_table
from plmsub.base.seeds import generator
from plmsub.esm import fairesm_module
from plmsub.io.cath import read_domains
from plmsub.io.structures import read_chain
from plmsub.masks import HardMask, select_weights
from plmsub.models.embed import Embeddings, embed_proteins
from plmsub.models.weights import load_plm
from plmsub.paper.results import _own_scores
from plmsub.plm import library_state, tiny_esm1, tiny_esm2
from plmsub.proteins import Protein
from plmsub.subnetwork import Subnetwork
from plmsub.tasks.folding import Folding, fold, fold_beside, fold_sequences, load_folding, tiny_folding
from plmsub.tasks.structure import score_folder

pytest.importorskip("transformers")
HERE = Path(__file__).parent / "esmfold"
SEQUENCES = [
    "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQVKVKALPDAQFEVV",
    "GSHMLEXBUZO",
    "WA",
    "GSHMLEXAAAA",
]
BOUND_A = 1e-3


@pytest.fixture(scope="module")
def plm():
    return tiny_esm2()


@pytest.fixture(scope="module")
def folding(plm):
    return tiny_folding(plm)


def masked(plm, seed=0):
    shapes = select_weights(plm)
    return Subnetwork(
        plm, HardMask({n: torch.rand(s, generator=generator(seed, "folding", n)) < 0.9 for n, s in shapes.items()})
    )


def farthest(a, b):
    "Largest difference of two predictions: atoms (Angstrom), pLDDT, pTM"
    assert a.sequence == b.sequence and (np.isnan(a.atoms) == np.isnan(b.atoms)).all()
    there = ~np.isnan(a.plddt)
    if not there.any():
        return 0.0, 0.0, abs(a.ptm - b.ptm)
    return abs(a.atoms - b.atoms)[there].max(), abs(a.plddt - b.plddt)[there].max(), abs(a.ptm - b.ptm)


# --- fair-esm's own ESMFold


class Settings(dict):
    "A dict that is also read by attributes, as fair-esm reads its configuration"

    __getattr__ = dict.__getitem__


TRUNK = Settings(
    num_blocks=2,
    sequence_state_dim=32,
    pairwise_state_dim=16,
    sequence_head_width=8,
    pairwise_head_width=8,
    position_bins=8,
    dropout=0,
    layer_drop=0,
    cpu_grad_checkpoint=False,
    max_recycles=3,
    chunk_size=None,
    structure_module=Settings(
        c_s=16,
        c_z=8,
        c_ipa=4,
        c_resnet=8,
        no_heads_ipa=2,
        no_qk_points=2,
        no_v_points=3,
        dropout_rate=0.1,
        no_blocks=3,
        no_transition_layers=2,
        no_resnet_blocks=2,
        no_angles=7,
        trans_scale_factor=10,
        epsilon=1e-8,
        inf=1e5,
    ),
)


def stand_ins():
    "Modules named as openfold's, with transformers' copies of what fair-esm takes from them"
    from transformers.models.esm import modeling_esmfold as hf
    from transformers.models.esm import openfold_utils as utils
    from transformers.models.esm.configuration_esm import StructureModuleConfig

    from plmsub.tasks.folding import _FAIRESM

    class StructureModule(hf.EsmFoldStructureModule):
        def __init__(self, **cfg):
            super().__init__(StructureModuleConfig(**{_FAIRESM.get(k, k): v for k, v in cfg.items()}))
            self.c_s, self.c_z = cfg["c_s"], cfg["c_z"]

    def attention(starting):
        return lambda c, hidden, heads, inf: hf.EsmFoldTriangleAttention(c, hidden, heads, starting, inf)

    def product(outgoing):
        return lambda c, hidden: hf.EsmFoldTriangleMultiplicativeUpdate(Settings(pairwise_state_dim=c), outgoing)

    return {
        "omegaconf": dict(MISSING=None),
        "openfold": {},
        "openfold.model": {},
        "openfold.data": {},
        "openfold.utils": {},
        "openfold.model.structure_module": dict(StructureModule=StructureModule),
        "openfold.model.triangular_attention": dict(
            TriangleAttentionStartingNode=attention(True), TriangleAttentionEndingNode=attention(False)
        ),
        "openfold.model.triangular_multiplicative_update": dict(
            TriangleMultiplicationOutgoing=product(True), TriangleMultiplicationIncoming=product(False)
        ),
        "openfold.data.data_transforms": dict(make_atom14_masks=utils.make_atom14_masks),
        "openfold.np": dict(residue_constants=utils.residue_constants),
        "openfold.np.protein": dict(Protein=utils.OFProtein, to_pdb=utils.to_pdb),
        "openfold.utils.loss": dict(
            compute_predicted_aligned_error=utils.compute_predicted_aligned_error, compute_tm=utils.compute_tm
        ),
        "openfold.utils.feats": dict(atom14_to_atom37=utils.atom14_to_atom37),
    }


@pytest.fixture
def ESMFold(monkeypatch):
    "fair-esm's class; its dataclasses have defaults that Python 3.11 takes only where they can be hashed"
    pytest.importorskip("einops")
    for name, content in stand_ins().items():
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        vars(sys.modules[name]).update(content)
    real = dataclasses.dataclass
    monkeypatch.setattr(dataclasses, "dataclass", lambda cls: real(cls, unsafe_hash=True))
    before = set(sys.modules)
    yield importlib.import_module("esm.esmfold.v1.esmfold").ESMFold
    for name in set(sys.modules) - before:
        del sys.modules[name]


def fairesm(ESMFold, plm, blocks, monkeypatch):
    "fair-esm's model with random weights everywhere and the given language model"
    import esm

    def language_model():
        module = fairesm_module(plm.config)
        module.load_state_dict(library_state(plm.all_weights, plm.config), strict=False)
        return module.eval(), plm.alphabet

    monkeypatch.setattr(esm.pretrained, "esm2_t36_3B_UR50D", language_model)
    model = ESMFold(Settings(trunk=Settings(TRUNK, num_blocks=blocks), lddt_head_hid_dim=8)).eval()
    model.esm = language_model()[0]  # the constructor halves the precision of the other one
    with torch.no_grad():
        for n, w in model.named_parameters():
            noise = torch.randn(w.shape, generator=generator(blocks, "fair-esm", n))
            if not n.startswith("esm."):
                w.copy_(noise / w.shape[-1] ** 0.5 if w.ndim > 1 else 0.2 * noise + n.endswith("weight"))
    return model


def written(model, file, without="nothing", **settings):
    "fair-esm's model as fair-esm keeps it"
    structure = dict(TRUNK.structure_module)
    cfg = dict(
        trunk=dict(TRUNK, num_blocks=len(model.trunk.blocks), structure_module=structure),
        lddt_head_hid_dim=8,
        esm_type="esm2_tiny",
        **settings,
    )
    state = {n: w for n, w in model.state_dict().items() if not n.startswith(without)}
    torch.save(dict(cfg=dict(model=cfg), model=state), file)
    return file


def said(model, out, i, sequence):
    "A prediction of fair-esm's, with nan where it has no atoms"
    from transformers.models.esm.openfold_utils import atom14_to_atom37

    from plmsub.tasks.folding import Prediction

    n, there = len(sequence), out["atom37_atom_exists"][i].bool()
    atoms = atom14_to_atom37(out["positions"][-1], out)[i].masked_fill(~there[..., None], torch.nan)
    return Prediction(
        sequence, atoms[:n].numpy(), out["plddt"][i].masked_fill(~there, torch.nan)[:n].numpy(), out["ptm"][i].item()
    )


@pytest.mark.parametrize("blocks", [0, 2])
def test_it_computes_what_fair_esm_computes(ESMFold, plm, blocks, tmp_path, monkeypatch):
    theirs = fairesm(ESMFold, plm, blocks, monkeypatch)
    ours = load_folding(written(theirs, tmp_path / "model.pt"))
    keys = {n for n in theirs.state_dict() if not n.startswith("esm.")} - {"af2_to_esm"}
    assert keys == set(ours.module.state_dict()) and ours.n_blocks == blocks and ours.trained_on == "esm2_tiny"
    for recycles in (None, 0):
        out = theirs.infer(SEQUENCES, num_recycles=recycles)
        for i, p in enumerate(fold_sequences(ours, plm, SEQUENCES, recycles)):
            atoms, plddt, ptm = farthest(p, said(theirs, out, i, SEQUENCES[i]))
            assert atoms < BOUND_A and plddt < 1e-3 and ptm < 1e-5, (recycles, i)


def test_the_file_says_what_that_of_fair_esm_says(ESMFold, plm, tmp_path, monkeypatch):
    theirs = fairesm(ESMFold, plm, 1, monkeypatch)
    ours = load_folding(written(theirs, tmp_path / "model.pt"))
    table = fold(ours, plm, [Protein(f"p{i}", s) for i, s in enumerate(SEQUENCES)], tmp_path / "out")
    for text, row in zip(theirs.infer_pdbs(SEQUENCES), table.itertuples()):
        (tmp_path / "theirs.pdb").write_text(text)
        a, b = read_chain(tmp_path / "theirs.pdb"), read_chain(tmp_path / "out" / row.file)
        assert a.sequence == b.sequence and a.numbers == b.numbers
        np.testing.assert_allclose(a.atoms, b.atoms, rtol=0, atol=0.0021)  # two numbers of three decimals
        np.testing.assert_allclose(a.b_factors, b.b_factors, rtol=0, atol=0.011)
        assert abs(row.plddt - b.b_factors.mean()) < 0.01

        def rest(lines):
            return [(line[:26], line[66:78]) for line in lines if line.startswith("ATOM")]

        assert rest(text.splitlines()) == rest((tmp_path / "out" / row.file).read_text().splitlines())


def test_attention_maps_become_pair_states(ESMFold, plm, tmp_path, monkeypatch):
    "fair-esm 2.0.0 has no code for this; the order of axes is that of its repository after that release"
    theirs, c = fairesm(ESMFold, plm, 0, monkeypatch), TRUNK.pairwise_state_dim
    n = plm.n_layers * plm.n_heads
    theirs.esm_z_mlp = torch.nn.Sequential(
        torch.nn.LayerNorm(n), torch.nn.Linear(n, c), torch.nn.ReLU(), torch.nn.Linear(c, c)
    )
    ours = load_folding(written(theirs, tmp_path / "model.pt", use_esm_attn_map=True))
    attention, forward = [], theirs.esm.forward

    def listening(tokens, **kwargs):
        attention.append(forward(tokens, need_head_weights=True)["attentions"])
        return forward(tokens, **kwargs)

    def pairs(module, args, kwargs):
        z = attention.pop().permute(0, 4, 3, 1, 2).flatten(3, 4)[:, 1:-1, 1:-1]
        return (args[0], theirs.esm_z_mlp(z), *args[2:]), kwargs

    theirs.esm.forward = listening
    theirs.trunk.register_forward_pre_hook(pairs, with_kwargs=True)
    out, found = theirs.infer(SEQUENCES), fold_sequences(ours, plm, SEQUENCES)
    for i, p in enumerate(found):
        assert max(farthest(p, said(theirs, out, i, SEQUENCES[i]))[:2]) < BOUND_A
    silent = load_folding(written(theirs, tmp_path / "silent.pt", without="esm_z_mlp"))
    assert farthest(found[0], fold_sequences(silent, plm, SEQUENCES[:1])[0])[0] > 0.1


# --- Files


@pytest.mark.parametrize("name, blocks, maps", [("omegaconf-2.1.2", 0, 4), ("omegaconf-2.3.0", 1, 0)])
def test_configurations_of_omegaconf_are_read_without_it(name, blocks, maps):
    assert "omegaconf" not in sys.modules
    folding = load_folding(HERE / f"{name}.pt")
    assert (folding.n_blocks, folding.n_maps, folding.n_layers, folding.dim) == (blocks, maps, 2, 8)
    assert folding.trained_on == "esm2_650M" and folding.settings["trunk"]["structure_module"]["num_blocks"] == 2
    (p,) = fold_sequences(folding, tiny_esm2(2, 8, 2), ["MKTAYIAKQR"])
    assert np.isfinite(p.atoms[:, :3]).all() and "omegaconf" not in sys.modules


def saved(folding, file, change=lambda cfg: None, **weights):
    "A predictor in fair-esm's layout, with a changed configuration or other weights"
    from plmsub.tasks.folding import _FAIRESM

    back = {v: k for k, v in _FAIRESM.items()}
    cfg = copy.deepcopy(folding.settings)
    cfg["trunk"]["structure_module"] = {back.get(k, k): v for k, v in cfg["trunk"]["structure_module"].items()}
    change(cfg)
    torch.save(dict(cfg=dict(model=cfg), model={**folding.module.state_dict(), **weights}), file)
    return file


def test_newer_versions_of_openfold_wrap_two_matrices(folding, tmp_path):
    state = dict(folding.module.state_dict())
    wrapped = {n.replace("_points.", "_points.linear."): w for n, w in state.items()}
    assert len(set(wrapped) - set(state)) == 4
    from plmsub.tasks.folding import _own_weights

    assert set(_own_weights(wrapped, "f")) == set(state)


BAD = [None, "???", "${a.b}", -1, 10**9, 1.5, float("nan"), True, [1], {}, b"x"]


def test_wrong_configurations_have_an_error_of_their_own(folding):
    "Every value of a configuration in turn is replaced by every bad one"
    weights, refused, tried = dict(folding.module.state_dict()), 0, 0
    parts = [lambda c: c, lambda c: c["trunk"], lambda c: c["trunk"]["structure_module"]]
    for of in parts:
        for key in of(folding.settings):
            for bad in BAD:
                settings = copy.deepcopy(folding.settings)
                of(settings)[key] = bad
                tried += 1
                try:
                    Folding(settings, weights, file="the file")
                except ModelError as e:
                    refused += str(e).startswith("the file: ")
    assert tried > 250 and refused > 0.9 * tried


def test_numbers_of_amino_acids_are_compared(folding, tmp_path):
    with pytest.raises(ModelError, match="other numbers"):
        load_folding(saved(folding, tmp_path / "a.pt", af2_to_esm=torch.arange(22)))
    with pytest.raises(ModelError, match="unexpected weights"):
        load_folding(saved(folding, tmp_path / "b.pt", more=torch.zeros(1)))
    with pytest.raises(ModelError, match="not a tensor"):
        load_folding(saved(folding, tmp_path / "c.pt", more=[1]))


def test_damaged_files(folding, tmp_path):
    whole = saved(folding, tmp_path / "whole.pt").read_bytes()
    for k in range(40):
        place = int(torch.randint(len(whole), (1,), generator=generator(0, "damage", k)))
        damaged = whole[:place] if k % 2 else whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :]
        (tmp_path / "damaged.pt").write_bytes(damaged)
        try:
            assert load_folding(tmp_path / "damaged.pt").fingerprint == folding.fingerprint
        except ModelError as e:
            assert "damaged.pt" in str(e)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(is_folding_model=False), "not a predictor"),
        (dict(vocab_list=["<cls>"]), "vocabulary"),
        (dict(esmfold_config=None), "esmfold_config"),
        (dict(esmfold_config=dict(trunk=dict(num_blocks=3, structure_module={}))), "weights"),
    ],
)
def test_wrong_folders(folding, tmp_path, change, words):
    from safetensors.torch import save_file

    from plmsub.base.files import write_json

    good = dict(model_type="esm", is_folding_model=True, esmfold_config=folding.settings)
    write_json(tmp_path / "p" / "config.json", good)
    save_file(dict(folding.module.state_dict()) | {"esm.x": torch.zeros(1)}, tmp_path / "p" / "model.safetensors")
    assert load_folding(tmp_path / "p").fingerprint == folding.fingerprint
    write_json(tmp_path / "p" / "config.json", good | change)
    with pytest.raises(ModelError, match=words):
        load_folding(tmp_path / "p")


def test_a_released_predictor_is_looked_for_in_the_folder_of_torch(folding, tmp_path, monkeypatch):
    (tmp_path / "checkpoints").mkdir()
    saved(folding, tmp_path / "checkpoints" / "esmfold_3B_v1.pt")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    found = load_folding("esmfold_v1")
    assert found.name == "esmfold_v1" and found.fingerprint == folding.fingerprint
    with pytest.raises(DataError, match="esmfold_structure_module_only_650M.pt"):
        load_folding("esmfold_structure_module_only_650M")


def test_without_transformers(plm, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers.models.esm", None)
    with pytest.raises(ConfigError, match="transformers"):
        tiny_folding(plm)


# --- Batches


def test_a_protein_of_64_residues_folds_in_seconds(folding, plm, tmp_path):
    start, domain = time.perf_counter(), min(read_domains("toy"), key=len)
    protein = Protein("p", domain.sequence[:64])
    row = fold(folding, plm, [protein], tmp_path / "out").iloc[0]
    chain = read_chain(tmp_path / "out" / row.file)
    assert chain.sequence == protein.sequence and len(chain) == row.n_residues == 64 and row.error is None
    assert 0 <= chain.b_factors.min() <= row.plddt <= chain.b_factors.max() <= 100 and 0 < row.ptm < 1
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize("blocks, maps", [(0, False), (0, True), (2, False), (1, True)])
def test_company_does_not_matter(plm, blocks, maps):
    sequences = [d.sequence[:n] for d, n in zip(read_domains("toy"), (80, 50, 40))] + ["MKT", "MKXTA"]
    folding = tiny_folding(plm, blocks, maps, seed=1)
    for model in (plm, masked(plm)):
        for s, p in zip(sequences, fold_sequences(folding, model, sequences)):
            atoms, plddt, ptm = farthest(p, fold_sequences(folding, model, [s])[0])
            assert atoms < BOUND_A and plddt < 1e-3 and ptm < 1e-5


def test_fewer_rows_at_a_time_change_nothing(folding, plm):
    some = [s[:30] for s in SEQUENCES[:2]]
    whole = fold_sequences(folding, plm, some)
    for chunk in (1, 7, 64):
        for a, b in zip(whole, fold_sequences(folding, plm, some, chunk=chunk)):
            assert farthest(a, b)[0] < 1e-4


def test_an_error_of_one_protein_is_not_that_of_its_batch(tmp_path):
    plm = tiny_esm1()
    long, short = Protein("long", "A" * 1030), [Protein(f"s{i}", "MKTAY" + "A" * i) for i in range(4)]

    def some(folder, **how):
        return fold(tiny_folding(plm, 0), plm, [short[0], long, *short[1:]], folder, recycles=0, **how)

    table = some(tmp_path / "out", batch_tokens=10_000)
    assert list(table.error.notna()) == [False, True, False, False, False] and "1,022" in table.error[1]


def test_other_errors_are_not_taken_for_memory(folding, plm, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(folding.module.trunk, "forward", broken)
    with pytest.raises(RuntimeError, match="device-side"):
        fold(folding, plm, [Protein("p", "MKT")], tmp_path / "out")


def test_values_that_are_not_finite_are_not_written(plm, tmp_path):
    proteins = [Protein("p", "MKTAYIAK"), Protein("q", "WX")]
    for blocks, part in ((0, "bb_update"), (0, "esm_s_mlp"), (1, "esm_s_mlp"), (1, "lddt_head.1")):
        folding = tiny_folding(plm, blocks)
        state = {n: w * 1e38 if part in n else w for n, w in folding.module.state_dict().items()}
        table = fold(Folding(folding.settings, state), plm, proteins, tmp_path / f"{part}-{blocks}")
        assert list(table.file) == [None, None] and table.error.str.contains("finite|room").all(), part
        assert not list((tmp_path / f"{part}-{blocks}").glob("*.pdb"))


# --- Folders


def test_what_is_asked_decides_what_is_there(folding, plm, tmp_path):
    a, b = Protein("p", SEQUENCES[0][:30]), Protein("p", SEQUENCES[0][:31])
    file = tmp_path / "out" / "p.pdb"

    def asked(protein):
        fold(folding, plm, [protein], tmp_path / "out")
        return file.read_bytes(), file.stat().st_mtime_ns

    first = asked(a)
    assert asked(a) == first
    other = asked(b)
    assert other[0] != first[0] and read_chain(file).sequence == b.sequence  # the same name, another sequence
    assert asked(a)[0] == first[0]
    for model, predictor, how in (
        (masked(plm), folding, {}),
        (plm, tiny_folding(plm, seed=1), {}),
        (plm, folding, dict(recycles=0)),
        (plm.to(dtype=torch.bfloat16), folding, {}),
        (tiny_esm2(seed=1), folding, {}),
    ):
        with pytest.raises(RunError, match="another"):
            fold(predictor, model, [a], tmp_path / "out", **how)
    (tmp_path / "moved").mkdir()  # to a folder that no call has claimed, and asked there for something else
    (tmp_path / "moved" / "p.pdb").write_bytes(first[0])
    fold(folding, masked(plm), [a], tmp_path / "moved")
    assert (tmp_path / "moved" / "p.pdb").read_bytes() != first[0]


def test_a_mask_of_ones_and_another_one(folding, plm, tmp_path):
    "The mask reaches the file"
    protein = Protein("p", SEQUENCES[0])
    ones = HardMask({n: torch.ones_like(m) for n, m in masked(plm).mask.items()})
    models = dict(full=plm, ones=Subnetwork(plm, ones), some=masked(plm), others=masked(plm, 1))
    for name, model in models.items():
        fold(folding, model, [protein], tmp_path / name)
    atoms = {name: read_chain(tmp_path / name / "p.pdb").atoms for name in models}
    assert (atoms["full"] == atoms["ones"]).all()
    assert (
        min(abs(atoms[a] - atoms[b]).max() for a, b in (("full", "some"), ("full", "others"), ("some", "others"))) > 0.1
    )


def test_beside_a_subnetwork_stand_masks_of_its_sparsity(folding, plm, tmp_path):
    proteins = [Protein("a", "MKTAYIAK"), Protein("b", "XX")]
    table = fold_beside(folding, masked(plm), proteins, tmp_path / "out", recycles=0)
    assert list(table.model.unique()) == ["full", "subnetwork", "random-0", "random-1", "random-2"]
    assert (
        all((tmp_path / "out" / f).is_file() for f in table.file[table.id == "a"])
        and table.file[table.id == "b"].isna().all()
    )
    masks = [read_json(tmp_path / "out" / m / "config.json")["model"]["mask"] for m in table.model.unique()]
    assert masks[0] is None and len(set(masks)) == 5
    with pytest.raises(ConfigError, match="no subnetwork"):
        fold_beside(folding, plm, proteins, tmp_path / "no")
    with pytest.raises(ConfigError, match="draws"):
        fold_beside(folding, masked(plm), proteins, tmp_path / "no", draws=0)


@pytest.mark.parametrize(
    "how, kind, words",
    [
        (dict(proteins=[]), DataError, "no protein"),
        (dict(proteins=[Protein("a", "MK"), Protein("A", "MK")]), DataError, "capitals"),
        (dict(batch_tokens=0), ConfigError, "batch_tokens"),
        (dict(recycles=-1), ConfigError, "recycles"),
        (dict(chunk=0), ConfigError, "chunk"),
    ],
)
def test_wrong_calls(folding, plm, tmp_path, how, kind, words):
    with pytest.raises(kind, match=words):
        fold(folding, plm, **dict(proteins=[Protein("a", "MK")]) | how, folder=tmp_path / "out")


def test_a_file_in_place_of_the_folder(folding, plm, tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(ConfigError, match="not a folder"):
        fold(folding, plm, [Protein("a", "MK")], tmp_path / "out")


def test_ids_become_names_of_files_and_come_back(folding, plm, tmp_path):
    ids = ["a/b", "../c", "..", ".hidden", "sp|P1|X", "é ü", "COM1:", "NA", "x" * 200]
    sequence = SEQUENCES[0][:20]
    proteins = [Protein(id, sequence) for id in ids]
    table = fold(folding, plm, proteins, tmp_path / "out", recycles=0)
    assert list(table.error.notna()) == [False] * 8 + [True] and [f.name for f in tmp_path.iterdir()] == ["out"]
    assert {f.name for f in (tmp_path / "out").glob("[!.]*.pdb")} == set(table.file[:8])
    scores = score_folder(tmp_path / "out", tmp_path / "out", 1, program=None)
    assert sorted(scores.id) == sorted(ids[:8]) and (scores.error == "").all()
    embed_proteins(plm, proteins[:8], tmp_path / "embedded")
    assert list(Embeddings(tmp_path / "embedded")) == ids[:8]
    write_table(scores, tmp_path / "out.csv")
    assert sorted(_own_scores(tmp_path / "out", {}, "run").id) == sorted(ids[:8])


def fold_all(folder):
    torch.set_num_threads(1)
    plm = tiny_esm2()
    proteins = [Protein(f"p{n}", (SEQUENCES[0] * 2)[:n]) for n in range(20, 44)]
    fold(tiny_folding(plm, 1), plm, proteins, folder, recycles=0, batch_tokens=1)


def test_killed_at_any_moment_it_goes_on(tmp_path):
    fork = multiprocessing.get_context("spawn")

    def contents(folder):
        return {
            f.name: f.read_bytes() for f in folder.glob("[!.]*") if f.name not in ("config.json", "provenance.json")
        }

    fold_all(tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    kept = []
    for wanted in (1, 8):
        process = fork.Process(target=fold_all, args=(tmp_path / "killed",))
        process.start()
        while len(list((tmp_path / "killed").glob("p*.pdb"))) < wanted and process.is_alive():
            time.sleep(0.002)
        process.kill()
        process.join()
        found = contents(tmp_path / "killed")
        assert all(found[name] == whole[name] for name in found)
        kept.append(len(found))
    assert 1 <= kept[0] < kept[1] < len(whole)
    times = {f: f.stat().st_mtime_ns for f in (tmp_path / "killed").glob("p*.pdb")}
    fold_all(tmp_path / "killed")
    assert contents(tmp_path / "killed") == whole and all(f.stat().st_mtime_ns == t for f, t in times.items())


# --- Commands


def test_from_training_to_a_table_of_scores(tmp_path, capsys):
    from plmsub.app.commands import plmsub_fold, plmsub_tm, plmsub_train

    toy, run = load_plm("toy"), tmp_path / "run"
    saved(tiny_folding(toy, 0), tmp_path / "predictor.pt")
    plmsub_train(
        suppress="1",
        steps=8,
        valid_every=8,
        valid_proteins=8,
        valid_passes=1,
        keep=0.55,
        learning_rate=0.5,
        max_damage=10,
        out=str(run),
    )
    folded = plmsub_fold(run=str(run), folding=str(tmp_path / "predictor.pt"), proteins=4, draws=3, recycles=0)
    assert list(folded.model.unique()) == ["full", "subnetwork", "random-0", "random-1", "random-2"]
    assert len(folded) == 5 * 4 and folded.error.isna().all() and (run / "folded" / "summary.csv").exists()
    table = plmsub_tm(
        str(run / "folded" / "subnetwork"), str(run / "folded" / "full"), out=str(tmp_path / "scores.csv"), by="none"
    )
    assert len(table) == 4 and (table.error == "").all() and (pd.read_csv(tmp_path / "scores.csv").tm_score < 1).all()
    again = plmsub_tm(str(run / "folded" / "full"), str(run / "folded" / "full"), by="none")
    assert np.allclose(again.tm_score, 1) and np.allclose(again.rmsd_A, 0, atol=1e-3)
    said = capsys.readouterr().out
    assert "random-2" in said and folded.id[0] in said


def test_what_the_command_refuses(tmp_path):
    from plmsub.app.commands import plmsub_fold

    for flags, words in (
        (dict(), "nothing to fold with"),
        (dict(plm="toy"), "no proteins"),
        (dict(run=str(tmp_path / "none")), "none"),
    ):
        with pytest.raises(PlmsubError, match=words):
            plmsub_fold(**flags)
