"Small models with random weights in the file formats of the published ones, and how far plmsub is from their own libraries"

import copy
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from plmsub.base.files import write_json
from plmsub.base.seeds import generator
from plmsub.batches import encode, esm_alphabet
from plmsub.masks import HardMask
from plmsub.models.weights import load_plm, save_fairesm
from plmsub.plm import tiny_esm1, tiny_esm2
from plmsub.proteins import AMINO_ACIDS
from plmsub.subnetwork import Subnetwork

LETTERS = "LAGVESIKRDTPNQFYMHWCXUBZO"  # in the order of ProtBERT's vocab.txt
SEQUENCES = ["MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ", "GSHMLEWD", "WYRNDC"]
HIDDEN = [{2, 7, 30}, {0, 4}, {5}]  # residues behind a mask token
AT = [esm_alphabet().get_idx(a) for a in AMINO_ACIDS]


@dataclass(frozen=True)
class Small:
    "A model of a family, as its own library has it and as a file"

    path: Path  # file or folder, as the published models are stored
    module: nn.Module  # of its library
    words: dict[str, int]  # its vocabulary
    special: tuple[str | None, str | None, str, str | None]  # its start, end, padding, mask; `None`: it has none
    run: Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, list[Tensor]]]  # tokens, real -> logits, K+1 states
    projections: tuple[str, ...] = ("query", "key", "value", "output")
    causal: bool = False

    def own_tokens(self, sequences=SEQUENCES, hidden=HIDDEN):  # -> (B,L) its own, (B,L) bool
        "Tokens written by hand from the vocabulary"
        start, end, pad, mask = self.special
        rows = []
        for s, at in zip(sequences, hidden):
            letters = [mask if mask and i in at and not self.causal else a for i, a in enumerate(s)]
            rows.append([*([start] if start else []), *letters, *([end] if end else [])])
        n = max(map(len, rows))
        ids = torch.tensor([[self.words[w] for w in [*row, *[pad] * (n - len(row))]] for row in rows])
        return ids, torch.tensor([[k < len(row) for k in range(n)] for row in rows])

    def theirs(self, dtype=torch.float32):  # -> (n,20), (K+1,n,D)
        "Logits of the amino acids at every residue of all sequences, and states, by the library alone"
        ids, real = self.own_tokens()
        logits, states = self.run(moved(self.module, dtype), ids, real)
        first, letters = bool(self.special[0]), [self.words[a] for a in AMINO_ACIDS]
        places = [(b, i) for b, s in enumerate(SEQUENCES) for i in range(len(s))]
        at = torch.stack([logits[b, first + i - self.causal, letters] for b, i in places])
        return at, torch.stack([torch.stack([x[b, first + i] for b, i in places]) for x in states])


def moved(module, dtype):
    "A copy in another precision, whose rotary angles keep theirs"
    module = copy.deepcopy(module)
    kept = {n: b.clone() for n, b in module.named_buffers() if b.is_floating_point()}
    module.to(dtype)
    for n, b in kept.items():
        part, _, name = n.rpartition(".")
        setattr(module.get_submodule(part), name, b.to(torch.promote_types(b.dtype, dtype)))
    return module


# --- The families


def _fairesm(module, ids, real):
    K = module.num_layers
    with patch("esm.multihead_attention.utils_softmax", lambda x, dim, onnx_trace=False: x.softmax(dim)):
        out = module(
            ids, repr_layers=range(K + 1)
        )  # fair-esm takes the softmax in single precision, whatever it is given
    return out["logits"], [out["representations"][k] for k in range(K + 1)]


def _esm(folder, name):
    from esm.pretrained import load_model_and_alphabet_local

    make = dict(esm2=tiny_esm2, esm1b=tiny_esm1, esm1v=lambda k, d: tiny_esm1(k, d, norm_before=False))[name]
    path = save_fairesm(make(2, 16), folder / f"{name}_tiny.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no contact head
        module, alphabet = load_model_and_alphabet_local(path)
    return Small(path, module.eval(), alphabet.tok_to_idx, ("<cls>", "<eos>", "<pad>", "<mask>"), _fairesm)


def _esm1(folder):
    "ESM-1 as fair-esm's first files hold it: names with decoder in front, waves for positions, no end token"
    from argparse import Namespace

    from esm import Alphabet, ProteinBertModel
    from esm.pretrained import load_model_and_alphabet_local

    shape = dict(layers=2, embed_dim=16, ffn_embed_dim=32, attention_heads=4)
    made, alphabet = Namespace(arch="protein_bert_base", final_bias=True, **shape), Alphabet.from_architecture("ESM-1")
    state = _randomized(ProteinBertModel(made, alphabet)).state_dict()
    state["embed_positions._float_tensor"] = torch.zeros(1)  # it holds whatever was in memory
    head = {n: state.pop(n) for n in list(state) if n.startswith("contact_head")}
    named = OrderedDict()  # torch opens it without being asked to trust it
    vars(named).update({f"decoder_{n}": v for n, v in shape.items()}, arch="protein_bert_base", final_bias=True)
    path = folder / "esm1_t2_tiny.pt"
    torch.save({"args": named, "model": {f"decoder.{n}": w for n, w in state.items()}}, path)
    torch.save({"model": head}, folder / "esm1_t2_tiny-contact-regression.pt")
    module, own = load_model_and_alphabet_local(path)
    return Small(path, module.eval(), own.tok_to_idx, ("<cls>", None, "<pad>", "<mask>"), _fairesm)


def _transformers(module, ids, real):
    out = module(ids, attention_mask=real.long(), output_hidden_states=True)
    return out.logits, list(out.hidden_states)


SHAPE = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32)
ESM_LIKE = ("<cls>", "<pad>", "<eos>", "<unk>")


def _randomized(module):
    "Weights of which every one matters"
    with torch.no_grad():
        for n, p in module.named_parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator(0, "small", n))
    return module.eval()


def _bert(folder, shape=SHAPE):
    import transformers as t

    words = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS])}
    module = _randomized(t.BertForMaskedLM(t.BertConfig(vocab_size=30, **shape)))
    module.config.save_pretrained(folder / "bert")
    torch.save(module.state_dict(), folder / "bert" / "pytorch_model.bin")  # as ProtBERT is stored
    (folder / "bert" / "vocab.txt").write_text("\n".join(words))
    return Small(folder / "bert", module, words, ("[CLS]", "[SEP]", "[PAD]", "[MASK]"), _transformers)


def _roberta(folder):
    import transformers as t

    words = {w: i for i, w in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *LETTERS])}
    module = _randomized(
        t.RobertaForMaskedLM(t.RobertaConfig(vocab_size=len(words), max_position_embeddings=130, **SHAPE))
    )
    module.save_pretrained(folder / "roberta")
    write_json(folder / "roberta" / "vocab.json", words)
    return Small(folder / "roberta", module, words, ("<s>", "</s>", "<pad>", "<mask>"), _transformers)


def _tokenizer(folder, words):  # tokenizer.json of the tokenizers library, reduced to what is read
    special = [dict(id=i, content=w) for w, i in words.items() if w.startswith("<")]
    write_json(folder / "tokenizer.json", dict(added_tokens=special, model=dict(type="BPE", vocab=words)))


def _modernbert(folder):
    import transformers as t

    words = {w: i for i, w in enumerate([*ESM_LIKE, "<mask>", *LETTERS])}
    ids = dict(pad_token_id=1, bos_token_id=0, cls_token_id=0, eos_token_id=2, sep_token_id=2)
    near = dict(local_attention=8, layer_types=["full_attention", "sliding_attention"])  # a window that matters
    module = _randomized(t.ModernBertForMaskedLM(t.ModernBertConfig(vocab_size=32, **ids, **near, **SHAPE)))
    module.save_pretrained(folder / "modernbert")
    _tokenizer(folder / "modernbert", words)
    return Small(folder / "modernbert", module, words, ("<cls>", "<eos>", "<pad>", "<mask>"), _transformers)


def _esmc(folder, shape=SHAPE):
    import transformers as t

    words, heads = esm_alphabet().tok_to_idx, shape["num_attention_heads"]
    more = dict(vocab_size=64, num_key_value_heads=heads, head_dim=shape["hidden_size"] // heads)
    module = _randomized(t.EsmcForMaskedLM(t.EsmcConfig(**more, **shape)))
    module.save_pretrained(folder / "esmc")
    _tokenizer(folder / "esmc", words)
    return Small(folder / "esmc", module, words, ("<cls>", "<eos>", "<pad>", "<mask>"), _transformers)


def _jamba(folder):
    import transformers as t

    words = {w: i for i, w in enumerate(["<pad>", "<s>", "</s>", "<unk>", *LETTERS])}
    more = dict(num_key_value_heads=2, attn_layer_period=2, attn_layer_offset=1, mamba_d_state=4, mamba_dt_rank=2)
    more |= dict(num_experts=2, num_experts_per_tok=1, expert_layer_period=2, expert_layer_offset=1)
    ids = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)
    module = _randomized(t.JambaForCausalLM(t.JambaConfig(vocab_size=len(words), **more, **ids, **SHAPE)))
    module.save_pretrained(folder / "jamba")
    write_json(folder / "jamba" / "vocab.json", words)
    module.set_experts_implementation("eager")  # the others know no double precision
    roles = ("query", "key", "value", "output", "in", "x", "dt", "out")

    def run(module, ids, real):
        out = module(ids, attention_mask=real.long(), output_hidden_states=True, use_cache=False)
        return out.logits, list(out.hidden_states)

    return Small(folder / "jamba", module, words, ("<s>", "</s>", "<pad>", None), run, roles, causal=True)


def _carp(folder):
    from sequence_models.constants import PROTEIN_ALPHABET
    from sequence_models.convolutional import ByteNetLM
    from sequence_models.pretrained import load_carp

    shape = dict(d_embed=8, d_model=16, n_layers=4, kernel_size=5, r=4, activation="gelu", slim=True)
    given = [shape[k] for k in ("d_embed", "d_model", "n_layers", "kernel_size", "r")]
    kept = dict(padding_idx=PROTEIN_ALPHABET.index("#"), dropout=0.0, causal=False, final_ln=True)
    state = _randomized(ByteNetLM(30, *given, activation="gelu", slim=True, **kept)).state_dict()
    torch.save(data := {"model": "carp_tiny", **shape, "model_state_dict": state}, folder / "carp_tiny.pt")
    words = {a: i for i, a in enumerate(PROTEIN_ALPHABET)}

    def run(module, ids, real):
        K = len(module.model.embedder.layers)
        out = module(ids, repr_layers=list(range(K + 1)), logits=True)
        return out["logits"], [out[0], *(out["representations"][k] for k in range(1, K + 1))]

    roles = ("up", "kernel", "down")
    return Small(folder / "carp_tiny.pt", load_carp(data), words, (None, None, "-", "#"), run, roles)


FAMILIES: dict[str, Callable[[Path], Small]] = {
    "ESM-2": lambda folder: _esm(folder, "esm2"),
    "ESM-1": _esm1,
    "ESM-1b": lambda folder: _esm(folder, "esm1b"),
    "ESM-1v": lambda folder: _esm(folder, "esm1v"),
    "BERT": _bert,
    "RoBERTa": _roberta,
    "ModernBERT": _modernbert,
    "ESM C": _esmc,
    "CARP": _carp,
    "Jamba": _jamba,
}
LIBRARY = dict.fromkeys(FAMILIES, "transformers") | {"CARP": "sequence_models"}
LIBRARY |= dict.fromkeys(("ESM-2", "ESM-1", "ESM-1b", "ESM-1v"), "esm")


def installed(name: str) -> bool:  # of a family
    return find_spec(LIBRARY[name]) is not None


def random_mask(plm, share=0.2, seed=0):
    "A subnetwork without a share of all maskable weights"
    kept = {n: torch.rand(w.shape, generator=generator(seed, "small mask", n)) >= share for n, w in plm.weights.items()}
    return Subnetwork(plm, HardMask(kept))


# --- How far plmsub is from the library


def tokens(sequences=SEQUENCES, hidden=HIDDEN, causal=False):
    "Tokens of plmsub, with the same residues behind mask tokens"
    out = encode(list(sequences))
    for row, at in zip(out, hidden):
        row[[1 + i for i in at if not causal]] = esm_alphabet().mask_idx
    return out


def residues(x):  # (B,L,...) -> (n,...)
    "Rows of all residues"
    return torch.cat([row[1 : len(s) + 1] for row, s in zip(x, SEQUENCES)])


def gap(a, b):
    return (a.double() - b.double()).abs().max().item()


@torch.no_grad()
def against_library(small: Small, dtype: Any) -> tuple[float, float]:
    "Largest difference of logits and of hidden states"
    plm = load_plm(small.path, dtype=dtype)
    logits, states = small.theirs(dtype)
    ids = tokens(causal=small.causal)
    own = plm.representations(ids, range(plm.n_layers + 1))
    ours = torch.stack([residues(own[k]) for k in range(plm.n_layers + 1)])
    return gap(residues(plm(ids))[:, AT], logits), gap(ours, states)


@torch.no_grad()
def company(small: Small, dtype: Any) -> float:
    "How far the logits of a sequence are from those that it has alone"
    plm = load_plm(small.path, dtype=dtype)
    together = residues(plm(SEQUENCES))[:, AT]
    alone = torch.cat([plm([s])[0, 1 : len(s) + 1][:, AT] for s in SEQUENCES])
    return gap(together, alone)


@torch.no_grad()
def ones(small: Small) -> float:
    "What masks of ones change"
    plm = load_plm(small.path)
    return gap(plm(SEQUENCES), plm(SEQUENCES, {n: w * 1.0 for n, w in plm.weights.items()}))


def slope(small: Small) -> float:
    "Largest error of the gradient along a random direction of every matrix, against central differences; the largest slope is 1"
    plm, found, h = load_plm(small.path, dtype=torch.float64), [], 1e-4
    ids = tokens(causal=small.causal)
    masked = random_mask(plm).weights
    leaves = {n: w.clone().requires_grad_() for n, w in masked.items()}

    def value(weights):
        return plm(ids, weights)[..., AT].log_softmax(-1)[..., 3].mean()

    got = torch.autograd.grad(value(leaves), list(leaves.values()), allow_unused=True)
    for (n, w), g in zip(masked.items(), got):
        d = torch.randn(w.shape, generator=generator(1, "slope", n), dtype=w.dtype)
        with torch.no_grad():
            up, down = (value({**masked, n: w + s * h * d}).item() for s in (1, -1))
        true, ours = (up - down) / (2 * h), (g * d).sum().item() if g is not None else 0.0
        found.append((true, ours))
    return max(abs(true - ours) for true, ours in found) / max(abs(true) for true, _ in found)
