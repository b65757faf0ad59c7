"""The formats that plmsub reads: for each, small valid files, the reader, and an oracle

An oracle says what a faithful reading of some bytes is, by other means than the reader: it is short and strict, gives no
advice, and raises `Unreadable` for what no reader may accept. `fuzz.py` and `test_bad_files.py` go through `FORMATS`. To add
a format, write one entry: the valid files, a function that reads them into plain values, and the oracle for these values."""

import argparse
import csv
import functools
import gzip
import io
import json
import math
import pickle
import re
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from Bio.Data.PDBData import protein_letters_3to1_extended
from Bio.PDB.MMCIF2Dict import MMCIF2Dict
from safetensors.torch import load, save

from plmsub.base.runs import read_log
from plmsub.base.seeds import generator
from plmsub.batches import encode, esm_alphabet
from plmsub.categories import cath_category, parse_category
from plmsub.io.cath import read_cath_fasta, read_cath_names, read_clf, read_domains, read_dssp_fasta
from plmsub.io.data import Release, read_listing, read_manifest, unpack
from plmsub.io.dssp import read_dssp, read_dssp_table
from plmsub.io.fasta import read_fasta
from plmsub.io.headers import read_proteins
from plmsub.io.labels import _IDS, _LABELS, read_labels, read_residue_labels
from plmsub.io.split_files import read_split, split_from_lists
from plmsub.io.structures import Chain, ideal_backbone, pdb_text, read_chain
from plmsub.io.toy import clf_text, fasta_text, toy_domains
from plmsub.io.variants import read_assays, read_variants
from plmsub.masks import HardMask
from plmsub.models.export import export_transformers
from plmsub.models.pretrain import PretrainConfig, Trainee, load_checkpoint, pretrain
from plmsub.models.weights import FORMAT, read_fairesm, read_plm, read_transformers, save_fairesm, save_plm
from plmsub.plm import tiny_esm2
from plmsub.splits import PARTS, split
from plmsub.subnetwork import MASK_FORMAT, load_mask, save_mask
from plmsub.teacher import Teacher, teacher_logits
from plmsub.train import TrainConfig, describe, fit, load_run, load_state, new_state


@dataclass(frozen=True)
class Format:
    "Small valid files, a reader, and an oracle for the same bytes"

    files: Callable  # () -> file name -> bytes; one of them is mutated
    read: Callable  # folder -> plain values
    oracle: Callable  # file name -> bytes, to the same plain values; raises `Unreadable`
    lines: bool = True  # has the file lines? Then errors that quote it name one
    from_file: bool = True  # is it a file that the reader is given? Then errors name it
    refuses: bool = True  # False: what cannot be read is computed again


FORMATS = {}


def one_file(name, data, read, oracle, **kwargs):  # `read` takes the path of the file, `oracle` its bytes
    "A format of one file"
    return Format(
        functools.cache(lambda: {name: data() if callable(data) else data}),
        lambda folder: read(folder / name),
        lambda files: oracle(files[name]),
        **kwargs,
    )


# --- What oracles are made of


class Unreadable(Exception):
    "No faithful reading exists"


def need(ok, why=""):
    if not ok:
        raise Unreadable(why)


def number(kind, text):  # kind: int or float
    try:
        return kind(text)
    except ValueError as e:
        raise Unreadable(e) from None


def line_of(data):
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252")


def text_of(data, invisible=False, strict=False):
    "Text with plain line ends and, unless allowed, nothing invisible, from plain or compressed bytes; strict: UTF-8 only"
    try:
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
        if strict:
            text = data.decode("utf-8")
        elif data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            text = data.decode("utf-16")
        else:
            text = "".join(map(line_of, re.split(rb"(?<=[\r\n])", data)))
        text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as e:
        raise Unreadable(e) from None
    need(invisible or text.replace("\n", "").replace("\t", "").isprintable(), "invisible characters")
    return text


def rows_of(data, **kwargs):
    "Lines that are neither empty nor comments"
    return [line for line in text_of(data, **kwargs).split("\n") if line.strip() and not line.startswith("#")]


def cells_of(data):
    "Rows of a CSV table; of tab, comma and semicolon the one that divides the first row most is the separator"
    lines = rows_of(data)
    need(lines)
    widths = {s: len(next(csv.reader(lines[:1], delimiter=s))) for s in "\t,;"}
    try:
        rows = list(csv.reader(lines, delimiter=max(widths, key=widths.get), strict=True))
    except csv.Error as e:
        raise Unreadable(e) from None
    return [[value.strip() for value in row] for row in rows]


def csv_of(data, *names):
    "These columns of a CSV table with a header, row by row"
    head, *rows = cells_of(data)
    lower = [name.lower() for name in head]
    need(rows and all(len(row) == len(head) for row in rows))
    need(all((head.count(name) or lower.count(name.lower())) == 1 for name in names))
    places = [head.index(name) if name in head else lower.index(name.lower()) for name in names]
    return [[row[place] for place in places] for row in rows]


def unique(rows):
    need(len({row[0] for row in rows}) == len(rows), "an id twice")
    return rows


def once(rows, same=lambda row: row):  # `same`: what equal rows have in common
    "Rows with one id each: an equal one counts once, another is an error"
    first = {}
    for row in rows:
        need(same(first.setdefault(row[0], row)) == same(row), "an id twice")
    return list(first.values())


def letters(rows, alphabet):  # the last value of each row
    need(all(text and not text.strip(alphabet) for *_, text in rows), "letters")
    return rows


def json_of(data, nan=False):
    "Strict JSON: no key twice and, unless `nan`, finite numbers only"

    def pairs(items):
        need(len(dict(items)) == len(items), "a key twice")
        return dict(items)

    def decimal(digits):
        need(nan or math.isfinite(float(digits)), "no number")
        return float(digits)

    text = data if isinstance(data, str) else text_of(data, invisible=True, strict=True)
    try:
        return json.loads(text, object_pairs_hook=pairs, parse_constant=decimal, parse_float=decimal)
    except (ValueError, RecursionError) as e:
        raise Unreadable(e) from None


TYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "U8": "u1", "BOOL": "?", "I64": "i8"}


def tensors_of(data):
    "Metadata, and name -> (type, shape, bytes) of a safetensors file"
    n = int.from_bytes(data[:8], "little")
    try:
        head, body = json.loads(data[8 : 8 + n].decode()), data[8 + n :]
        meta = head.pop("__metadata__", {})
        spans = sorted((*x["data_offsets"], name, TYPES[x["dtype"]], tuple(x["shape"])) for name, x in head.items())
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as e:
        raise Unreadable(e) from None
    need([0, *(end for _, end, *_ in spans)] == [*(start for start, *_ in spans), len(body)], "gaps")
    return meta, {name: (kind, shape, body[start:end]) for start, end, name, kind, shape in spans}


def plain(tensors):
    "Tensors as (type, shape, bytes)"

    def kind(w):
        return w.numpy().dtype.str[1:].replace("b1", "?")

    return {name: (kind(w), tuple(w.shape), w.contiguous().numpy().tobytes()) for name, w in tensors.items()}


def finite(tensors):
    need(all(np.isfinite(np.frombuffer(content, kind)).all() for kind, _, content in tensors.values()), "not finite")
    return tensors


# --- CATH: lists, sequences, secondary structure, names

TOY = toy_domains()[:4]
RESIDUES, STATES = "ACDEFGHIKLMNPQRSTVWYXBZUO", "HGIEBTSLCP."
CLF, FASTA, DSSP = clf_text(TOY).encode(), fasta_text(TOY).encode(), fasta_text(TOY, "dssp").encode()


def clf(file):
    return [
        [r.id, *r.code.split("."), *map(str, (*r.clusters, r.length)), r.resolution_A] for r in read_clf(file).values()
    ]


def clf_oracle(data):
    rows = [line.split() for line in rows_of(data)]
    for row in rows:
        need(len(row) == 12 and re.fullmatch(r"[0-9][a-z0-9]{3}[A-Za-z0-9][0-9]{2}", row[0]) and row[1] in "12346")
        need(all(re.fullmatch("[1-9][0-9]*", column) for column in row[1:11]) and math.isfinite(number(float, row[11])))
    return once([[*row[:11], float(row[11])] for row in rows])


def fasta_of(data):
    "(header, text) of each record"
    first, *records = re.split(r"^>", text_of(data), flags=re.M)
    need(not first.strip() and records)
    return [(head.strip(), "".join(map(str.strip, body))) for head, *body in (r.split("\n") for r in records)]


def proteins_of(data):
    "(header, sequence) of each record, in capitals, without blanks, digits and a last stop codon, J as X"
    small = str.maketrans("abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", " \t0123456789")
    found = [(head, text.translate(small).replace("J", "X").removesuffix("*")) for head, text in fasta_of(data)]
    for _, text in found:
        genes = len(text) >= 40 and set(text) <= set("ACGTUN") and len(set("ACG") & set(text)) == 3
        need(not genes or not set("TU") & set(text), "nucleotides")
    return letters(found, RESIDUES)


def cath_of(data, alphabet):
    "(id, boundary, text) of each record with a CATH header"
    form = re.compile(r"(?:\S*\|)?(\w{7})(?:/([-\w()]+))?(?:\s.*)?", re.A)
    records = proteins_of(data) if alphabet == RESIDUES else letters(fasta_of(data), alphabet)
    found = [(form.fullmatch(head), text) for head, text in records]
    need(all(match for match, _ in found))
    return once([(*match.groups(), text) for match, text in found])


def strings_of(data, alphabet=STATES):
    return {id: text for id, _, text in cath_of(data, alphabet)}


def domains(folder):
    return [
        (d.id, d.boundary, d.sequence, d.code, d.clusters, d.dssp, d.resolution_A)
        for d in read_domains(folder / "toy.clf", folder / "toy.fa", folder / "toy_dssp.fa")
    ]


def domains_oracle(files):
    rows, dssp = {row[0]: row for row in clf_oracle(files["toy.clf"])}, strings_of(files["toy_dssp.fa"])
    found = cath_of(files["toy.fa"], RESIDUES)
    need(all(id in rows and len(text) == int(rows[id][10]) == len(dssp.get(id, text)) for id, _, text in found))
    return [
        (
            id,
            boundary,
            text,
            ".".join(rows[id][1:5]),
            tuple(map(int, rows[id][5:10])),
            dssp.get(id),
            rows[id][11] if 0 < rows[id][11] < 999 else None,
        )
        for id, boundary, text in found
    ]


NAMES = (
    b"# CATH names\n1    1oaiA00    :Mainly Alpha\n1.10    1oaiA00    :Orthogonal Bundle\n1.10.8.10    1oaiA00    :\n"
)


def names_oracle(data):  # the names of CATH hold spaces that do not break
    form = re.compile(r"([1-46](?:\.[1-9]\d*){0,3})\s+\w{7}\s+:(.*)", re.A)
    lines = [line.replace("\xa0", " ").strip() for line in rows_of(data, invisible=True)]
    rows = [form.fullmatch(line) for line in lines if not line.startswith("#")]
    need(rows and all(rows) and "".join(lines).replace("\t", "").isprintable())
    return dict(unique([(row[1], row[2].strip()) for row in rows]))


FORMATS |= {
    "clf": one_file("toy.clf", CLF, clf, clf_oracle),
    "fasta": one_file("toy.fa", FASTA, read_fasta, lambda data: once(proteins_of(data))),
    "cath fasta": one_file(
        "toy.fa",
        FASTA,
        lambda file: [(id, *x) for id, x in read_cath_fasta(file).items()],
        lambda data: cath_of(data, RESIDUES),
    ),
    "dssp strings": one_file("toy_dssp.fa", DSSP, read_dssp_fasta, strings_of),
    "dssp strings with dashes": one_file(
        "toy_dssp.fa",
        DSSP.replace(b"C", b"-"),
        lambda file: read_dssp_fasta(file, "unassigned"),
        lambda data: {id: text.replace("-", ".") for id, text in strings_of(data, STATES + "-").items()},
    ),
    "domains": Format(lambda: {"toy.clf": CLF, "toy.fa": FASTA, "toy_dssp.fa": DSSP}, domains, domains_oracle),
    "names": one_file("names.txt", NAMES, read_cath_names, names_oracle),
}

# --- Sequences, labels and categories


def tokens(file):
    names, sequences = esm_alphabet().all_toks, file.read_bytes().decode("utf-8", "surrogateescape").split("\n")
    return ["".join(names[t] for t in row if names[t] != "<pad>") for row in encode(sequences).tolist()]


def tokens_oracle(data):
    return [
        f"<cls>{text}<eos>"
        for (text,) in letters([[text] for text in text_of(data, strict=True).split("\n")], RESIDUES)
    ]


def table(*rows):
    return "".join("\t".join(row) + "\n" for row in rows).encode()


def labels_oracle(data):
    rows = cells_of(data)
    id, label = ([""] + rows[0])[-2:]
    header = (
        id.lower() in _IDS and label.lower() in _LABELS and (len(rows[0]) == 2 or len(rows[0]) == 3 and not rows[0][0])
    )
    rows = [row[len(rows[0]) - 2 :] for row in rows[1:]] if header else rows
    need(rows and all(len(row) == 2 and all(row) for row in rows))
    return dict(once(rows))


def residue_labels_oracle(data):
    if text_of(data).lstrip().startswith(">"):
        rows = [(head.split()[0], text) for head, text in fasta_of(data)]
    else:
        rows = [[column.strip() for column in line.split("\t")] for line in rows_of(data)]
        need(rows and all(len(row) == 2 and all(row) for row in rows))
    return dict(once(letters(rows, "".join(chr(c) for c in range(33, 127) if chr(c) not in "#>"))))


CATEGORIES = {"node": b"1.10", "state": b"helix", "random": b"random:20:3", "number": b"domain:2"}


def categories(folder):
    texts = [(folder / name).read_bytes().decode("utf-8", "surrogateescape") for name in CATEGORIES]
    return [(c.kind, c.value or len(c.ids), c.name) for c in (parse_category(text, proteome()) for text in texts)]


def categories_oracle(files):
    form = re.compile(
        rb"(?P<cath>[1-46](?:\.[1-9]\d*){0,3})|(?P<state>helix|strand|coil)|random:(?P<set>\d+)(?::(?P<seed>\d+))?"
        rb"|domain:(?P<number>\d+)"
    )

    def one(text):
        match = form.fullmatch(text)
        need(match)
        kind, value = next((k, v.decode()) for k, v in match.groupdict().items() if v and k != "seed")
        if kind in ("cath", "state"):
            return kind, value, value
        value = int(value)
        need(kind == "number" or 0 < value < len(proteome()))
        return kind, value, f"domain-{value}" if kind == "number" else f"random-{value}-seed-{int(match['seed'] or 0)}"

    return [one(files[name]) for name in CATEGORIES]


FORMATS |= {
    "sequences": one_file(
        "toy.txt", "\n".join(d.sequence for d in TOY).encode(), tokens, tokens_oracle, from_file=False
    ),
    "labels": one_file("labels.tsv", table(*((d.id, f"class {d.code[0]}") for d in TOY)), read_labels, labels_oracle),
    "residue labels": one_file(
        "letters.tsv", table(*((d.id, d.dssp) for d in TOY)), read_residue_labels, residue_labels_oracle
    ),
    "residue label fasta": one_file("letters.fa", DSSP, read_residue_labels, residue_labels_oracle),
    "category": Format(lambda: CATEGORIES, categories, categories_oracle, from_file=False),
}

# --- FASTA headers: a header is written again from its labels


def plain_text(p):
    return " ".join(filter(None, (p.id, p.labels["description"])))


def deeplocpro_text(p):
    return "|".join((p.id, *(str(p.labels[k]) for k in ("location", "group", "fold"))))


def prokka_text(p):
    ec, gene, product, cog = (p.labels[k] or "" for k in ("ec", "gene", "product", "cog"))
    return f"{p.id} " + "~~~".join([ec, gene, product] + [cog] * bool(cog))


def uniprot_text(p):
    x, keys = p.labels, dict(OS="organism", OX="taxon", GN="gene", PE="existence", SV="version")
    fields = [f"{k}={x[v]}" for k, v in keys.items() if x[v] is not None]
    return " ".join([f"{x['db']}|{p.id}|{x['entry']}", x["protein"], *fields])


# The canonical form of a header: spaces around fields and zeros before numbers do not count
def plain_form(head):
    return " ".join(head.split(None, 1))


def deeplocpro_form(head):
    return "|".join(field.strip() for field in re.sub(r"\b0+(?=\d+\s*$)", "", head).split("|"))


def prokka_form(head):
    id, rest = (head.split(None, 1) + [""])[:2]
    fields = [field.strip() for field in rest.split("~~~")]
    need(len(fields) in (3, 4) and fields[2])
    return f"{id} " + "~~~".join(fields if any(fields[3:]) else fields[:3])


def uniprot_form(head):
    return re.sub(r"( (?:OX|PE|SV)=)0+(?=\d)", r"\1", head)


def headers(parser, write, form, separator, place, *valid):  # the id is the `place`-th field
    def read(file):
        return [(p.id, write(p), p.sequence) for p in read_proteins(file, parser)]

    def oracle(data):
        rows = [(form(head), text) for head, text in proteins_of(data)]
        return once([(head.split(separator)[place], head, text) for head, text in rows], lambda row: row[2])

    text = "".join(f">{head}\n{d.sequence}\n" for head, d in zip(valid, TOY))
    return one_file(f"{parser}.fa", text.encode(), read, oracle)


FORMATS |= {
    "plain headers": headers("plain", plain_text, plain_form, None, 0, "a", "b the second", "c"),
    "deeplocpro headers": headers(
        "deeplocpro",
        deeplocpro_text,
        deeplocpro_form,
        "|",
        0,
        "A0A0H2US87|Extracellular|negative|3",
        "P12345|Cytoplasmic|archaea|0",
    ),
    "prokka headers": headers(
        "prokka",
        prokka_text,
        prokka_form,
        None,
        0,
        "P11608 7.1.2.2~~~atp8~~~ATP synthase protein 8",
        "ABC1 ~~~~~~hypothetical protein~~~COG0001",
    ),
    "uniprot headers": headers(
        "uniprot",
        uniprot_text,
        uniprot_form,
        "|",
        1,
        "sp|P00350|6PGD_ECOLI 6-phosphogluconate dehydrogenase OS=Escherichia coli (strain K12) OX=83333 GN=gnd PE=1 SV=2",
        "sp|P05067-2|A4_HUMAN Isoform APP305 of Amyloid OS=Homo sapiens OX=9606 GN=APP",
        "tr|A0A0A1A2B3|A0A0A1A2B3_9BACT Protein X OS=A bacterium OX=77 PE=4 SV=1",
    ),
}

# --- Coordinates: one chain with a negative number, an insertion code, a gap and an unknown residue

NUMBERS = [(-1, ""), (0, ""), (1, ""), (2, ""), (2, "A"), (5, ""), (6, ""), (7, ""), (8, "")]
CHAIN = Chain("MKTXYIAKQ", ideal_backbone([(-60, -45)] * 9), numbers=NUMBERS)
THREE = dict(M="MET", K="LYS", T="THR", X="UNK", Y="TYR", I="ILE", A="ALA", Q="GLN")
ONE = {**protein_letters_3to1_extended, "SEC": "U", "PYL": "O", "ASX": "B", "GLX": "Z"}  # also modified residues
BACKBONE = ("N", "CA", "C", "O")


def cif_text(category, names, *rows):
    columns = [f"_{category}.{name}" for name in names.split()]
    return "\n".join(["data_toy", "#", "_entry.id toy", "_struct.title 'A toy'", "loop_", *columns, *rows, "#", ""])


ATOM_SITE = (
    "group_PDB label_atom_id label_alt_id label_comp_id label_asym_id label_seq_id pdbx_PDB_ins_code "
    "Cartn_x Cartn_y Cartn_z occupancy B_iso_or_equiv auth_seq_id auth_asym_id pdbx_PDB_model_num"
)
MMCIF = cif_text(
    "atom_site",
    ATOM_SITE,
    *(
        f"ATOM {name} . {THREE[CHAIN.sequence[i]]} A {i + 1} {code or '?'} {x:.3f} {y:.3f} {z:.3f} 1.00 20.50 {n} A 1"
        for i, (n, code) in enumerate(CHAIN.numbers)
        for name, (x, y, z) in zip(BACKBONE, CHAIN.atoms[i])
    ),
)


def chain(file):
    c = read_chain(file)
    rows = zip(c.sequence, c.numbers, c.atoms.reshape(-1, 12).tolist(), c.b_factors.tolist(), strict=True)
    return [(letter, *n, *xyz, b) for letter, n, xyz, b in rows]


def residues_of(atoms):  # (chain, number, code, residue, name, alternate, xyz, occupancy, b)
    "Residues of the only chain with CA atoms, as `chain` gives them"
    chains = {a[0] for a in atoms if a[4] == "CA"}
    need(len(chains) == 1, "chains")
    residues, found = {}, []
    for a in atoms:
        if a[0] in chains:
            residues.setdefault(a[1:3], []).append(a[3:])
    for place, group in residues.items():
        backbone = [a for a in group if a[1] in BACKBONE]
        need(len({a[1:3] for a in backbone}) == len(backbone), "an atom twice")
        best = {a[1]: a for a in sorted(backbone, key=lambda a: a[4])}
        if "CA" not in best and group[0][0] not in (*ONE, "UNK"):
            continue
        xyz = [x for name in BACKBONE for x in (best[name][3] if name in best else (math.nan,) * 3)]
        need(not any(map(math.isinf, xyz)))
        found.append((ONE.get(group[0][0], "X"), *place, *xyz, best["CA"][5] if "CA" in best else math.nan))
    return found


def residue_number(text):
    return int(text, 36) - 10 * 36**3 + 10_000 if re.fullmatch("[A-Z][0-9A-Z]{3}", text) else number(int, text)


def pdb_oracle(data):
    atoms = []
    for line in text_of(data).split("\n"):
        if line[:6].rstrip() in ("END", "ENDMDL", "MODEL") and atoms:
            break
        if line[:6] != "HETATM" and not re.match("ATOM[ 0-9]", line):
            continue

        def cut(i, j, line=line):
            return line[i:j].strip()

        xyz, occupancy, b = (
            tuple(number(float, cut(i, i + 8)) for i in (30, 38, 46)),
            cut(54, 60) or 1,
            cut(60, 66) or "nan",
        )
        atoms.append(
            (
                cut(21, 22),
                residue_number(line[22:26]),
                cut(26, 27),
                cut(17, 20),
                cut(12, 16),
                cut(16, 17),
                xyz,
                number(float, occupancy),
                number(float, b),
            )
        )
    return residues_of(atoms)


def table_of(data, category, names):
    "Rows of a table of an mmCIF file, as Biopython reads it; '' for what is not known"
    text = re.sub(r"^ *(data_|loop_|_\S+)", lambda m: m[0].lower(), text_of(data), flags=re.M | re.I)
    try:
        found = MMCIF2Dict(io.StringIO(text))
    except ValueError as e:
        raise Unreadable(e) from None
    columns = [found.get(f"_{category}.{name}".lower()) for name in names.split()]
    need(len({len(c) for c in columns if c}) == 1, "columns of different lengths")
    n = len(next(filter(None, columns)))
    return [["" if value in ".?" else value for value in row] for row in zip(*(c or "?" * n for c in columns))]


def mmcif_oracle(data):
    def atom(_, name, alternate, residue, chain, n, code, x, y, z, occupancy, b, author_n, author_chain, model):
        return (
            author_chain or chain,
            number(int, author_n or n),
            code,
            residue,
            name,
            alternate,
            tuple(number(float, v) for v in (x, y, z)),
            number(float, occupancy or 1),
            number(float, b or "nan"),
        )

    rows = table_of(data, "atom_site", ATOM_SITE)
    return residues_of([atom(*row) for row in rows if row[-1] == rows[0][-1]])


FORMATS |= {
    "pdb": one_file("toy.pdb", pdb_text(CHAIN).encode(), chain, pdb_oracle),
    "mmcif": one_file("toy.cif", MMCIF.encode(), chain, mmcif_oracle, lines=False),
}

# --- Secondary structure: the files of DSSP, and a table

CHAIN_STATES = " HHHHTS E"  # as DSSP writes them: a blank is loop
SUMMARY = "label_comp_id label_asym_id label_seq_id secondary_structure x_ca y_ca z_ca"
CHAIN_ROWS = list(zip(range(1, 10), CHAIN.numbers, CHAIN.sequence, CHAIN_STATES, CHAIN.atoms[:, 1]))
CLASSIC = "\n".join(
    [
        "==== Secondary Structure Definition by the program DSSP ====",
        "    9  1  0  0  0 TOTAL NUMBER OF RESIDUES",
        "  #  RESIDUE AA STRUCTURE",
        *(
            f"{i:5d}{n:5d}{code:1s}A {letter}  {state}{'':98}{x:7.1f}{y:7.1f}{z:7.1f}"
            for i, (n, code), letter, state, (x, y, z) in CHAIN_ROWS
        ),
        "",
    ]
)
DSSP_CIF = cif_text(
    "dssp_struct_summary",
    SUMMARY,
    *(
        f"{THREE[letter]} A {i} {state.strip() or '.'} {x:.1f} {y:.1f} {z:.1f}"
        for i, _, letter, state, (x, y, z) in CHAIN_ROWS
    ),
)


def dssp(file):
    c = read_dssp(file)
    rows = zip(c.sequence, c.numbers, c.dssp, c.atoms[:, 1].tolist(), strict=True)
    return [(letter, *n, state, *xyz) for letter, n, state, xyz in rows]


def states(rows):  # (letter, number, code, state, x, y, z)
    need(rows and len({row[1:3] for row in rows}) == len(rows))
    need(not "".join(row[0] for row in rows).strip(RESIDUES) and all(row[3] in list("HGIEBTSPC") for row in rows))
    return rows


def classic_oracle(data):
    head, _, body = text_of(data).partition("  #  RESIDUE AA")
    said = re.search(r"^ *(\d+) .*TOTAL NUMBER OF RESIDUES", head, re.M | re.A)
    rows = [row for row in body.split("\n")[1:] if row.strip() and row[13:14] != "!"]
    need(all(len(row) > 135 for row in rows) and len({row[11] for row in rows}) == 1)
    need(not said or int(said[1]) == len(rows))

    def residue(row):
        xyz = [number(float, row[i : i + 7]) for i in (115, 122, 129)]
        return (
            "C" if row[13].islower() else row[13],
            number(int, row[5:10]),
            row[10].strip(),
            row[16].replace(" ", "C"),
            *xyz,
        )

    return states(list(map(residue, rows)))


def dssp_cif_oracle(data):
    rows = table_of(data, "dssp_struct_summary", SUMMARY)
    need(len({row[1] for row in rows}) == 1, "chains")
    return states(
        [
            (ONE.get(residue, "X"), number(int, n), "", state or "C", *(number(float, x or "nan") for x in xyz))
            for residue, _, n, state, *xyz in rows
        ]
    )


DSSP_TABLE = table(
    ("domain", "alphabet", "length", "sequence", "ss"),
    *((d.id, name, str(len(d.sequence)), d.sequence, d.dssp) for d, name in zip(TOY, ("DSSP8", "HEC", "DSSP"))),
)
ALPHABETS = {
    "DSSP8": ("HGIEBTSPC", "", "-"),
    "HEC": ("HEC", "", "-"),
    "DSSP": ("HGIEBTSPC", "-L", "."),
}  # states, coil, none


def dssp_table_oracle(data):
    head, *rows = [line.split("\t") for line in text_of(data).split("\n") if line.strip()]
    need(
        rows
        and all(len(row) == len(head) == len(set(head)) for row in rows)
        and {"domain", "alphabet", "sequence", "ss"} <= {*head}
    )
    found = []
    for row in (dict(zip(head, row)) for row in rows):
        id, text, n = row["domain"], row["ss"], len(row["sequence"])
        need(id and row["alphabet"] in ALPHABETS and n == len(text) == int(row.get("length", n)))
        known, coil, none = ALPHABETS[row["alphabet"]]
        letters([[row["sequence"]]], RESIDUES), letters([[text]], known + coil + none)
        found.append((id, (row["sequence"], "".join("C" if s in coil else "." if s in none else s for s in text))))
    return dict(unique(found))


FORMATS |= {
    "dssp": one_file("toy.dssp", CLASSIC.encode(), dssp, classic_oracle),
    "dssp mmcif": one_file("toy_dssp.cif", DSSP_CIF.encode(), dssp, dssp_cif_oracle, lines=False),
    "dssp table": one_file("dssp.tsv", DSSP_TABLE, read_dssp_table, dssp_table_oracle),
}

# --- Deep mutational scans

WILD = TOY[0].sequence[:30]
SCAN = "\n".join(
    [
        ",mutant,target,sequence",
        f"0,{WILD[0]}1A,-3.5,A{WILD[1:]}",
        f"1,{WILD[4]}5W,0.25,{WILD[:4]}W{WILD[5:]}",
        f"2,{WILD[4]}5C:{WILD[9]}10Y,,{WILD[:4]}C{WILD[5:9]}Y{WILD[10:]}",
        f"3,{WILD[29]}30D,1e-2,{WILD[:29]}D",
        "",
    ]
)


def scan(file):
    return [
        (sorted(v.mutant.split(":")), v.sequence, v.wild_type, repr(v.target)) for v in read_variants(file).itertuples()
    ]


def scan_value(text):
    if text.lower() in ("", "na", "n/a", "none", "null", "-"):
        return math.nan
    comma = re.fullmatch("[+-]?[0-9]+,[0-9]+", text)
    return number(float, "+".join(text.replace(",", ".").split() if comma else text.split()))


def scan_oracle(data):
    form, found = re.compile(r"\(?([A-Z])0*(\d+)([A-Z*])\)?", re.A), {}
    rows = csv_of(data, "mutant", "target", "sequence")
    need(not (any("," in row[1] for row in rows) and any("." in row[1] for row in rows)))
    for mutant, target, sequence in rows:
        changes = [form.fullmatch(change) for change in re.split(r"[:,;/+_\s]+", re.sub(r"[\[\]]", "", mutant))]
        need(all(changes) and len({change[2] for change in changes}) == len(changes))
        wild, value = list(sequence), scan_value(target)
        need(not math.isinf(value))
        if "*" in mutant:
            continue
        for old, place, new in map(re.Match.groups, changes):
            need(0 < int(place) <= len(wild) and wild[int(place) - 1] == new)
            wild[int(place) - 1] = old
        row = sorted("".join(change.groups()) for change in changes), sequence, "".join(wild), repr(value)
        need(found.setdefault(":".join(row[0]), row) == row)
    need(len({wild for _, _, wild, _ in found.values()}) == 1)
    letters([row[:2] for row in found.values()] + [row[:3] for row in found.values()], RESIDUES)
    return list(found.values())


ASSAY_COLUMNS = (
    "Dataset_Name,Protein_Name,Uniprot ID (Nov 2015),Protein_Length,Measurement,Target_variable_name,"
    "measurement_type,#Mutations,Reference,PMID,Reference_URL"
).split(",")
ASSAYS = "\n".join(
    [
        ",".join(ASSAY_COLUMNS),
        'A,An enzyme,A_ECOLI,346,Growth,fitness,Deep Sequence,450 (1),"Smith et al., 2017",28585537.0,https://example.org/a',
        "B,Another,B_ECOLI,80,Growth,fitness,Single,12,Smith,,",
        "",
    ]
)


def assays(file):
    return read_assays(file).astype(str).values.tolist()


def assays_oracle(data):
    rows = csv_of(data, *ASSAY_COLUMNS)
    for row in rows:
        need(row[0] and re.fullmatch("[1-9][0-9]*", row[3]) and re.fullmatch(r"([0-9]+(\.0)?)?", row[9]))
    return unique([[*row[:9], row[9].removesuffix(".0"), row[10]] for row in rows])


FORMATS |= {
    "variants": one_file("scan.csv", SCAN.encode(), scan, scan_oracle),
    "assays": one_file("assays.csv", ASSAYS.encode(), assays, assays_oracle),
}

# --- Downloads: the manifest, the listing of a server, archives

RELEASE = Release(
    "files", "paper", "https://zenodo.org/api/records/1", "paper/files", "Files of a record", listing="zenodo"
)
ENTRIES = [
    asdict(RELEASE),
    dict(
        name="list",
        group="cath",
        url="https://example.org/list.txt",
        file="cath/list.txt",
        about="A list",
        bytes=12,
        sha256="0a" * 32,
    ),
]
LISTED = dict(
    files=[
        dict(key=f"{x}.csv", size=i, checksum=f"md5:{x * 32}", links=dict(self=f"https://example.org/{x}.csv"))
        for i, x in enumerate("ab")
    ]
)


def manifest(file):
    return [asdict(r) for r in read_manifest(file).values()]


def manifest_oracle(data):
    known, entries = list(asdict(RELEASE)), json_of(data)
    need(isinstance(entries, list) and all(isinstance(e, dict) and set(e) <= set(known) for e in entries))
    need(all(isinstance(e[k], str) and e[k] for e in entries for k in ("name", "group", "url", "file", "about")))
    need(
        all(
            e["url"].startswith(("http://", "https://")) and not {"", ".."} & set(e["file"].split("/")) for e in entries
        )
    )
    for key in ("name", "file"):
        unique([[e[key]] for e in entries])
    return [{k: e.get(k) for k in known} for e in entries]


def listing(file):
    return [
        (r.file.removeprefix("paper/files/"), r.url, r.bytes, "md5" if r.md5 else "sha256", r.md5 or r.sha256)
        for r in read_listing(file, RELEASE)
    ]


def listing_oracle(data):
    files = [(f["key"], f["links"]["self"], f["size"], *f["checksum"].split(":")) for f in json_of(data)["files"]]
    for name, _, size, kind, checksum in files:
        need(not {"", ".."} & set(name.split("/")) and type(size) is int and size >= 0)
        need(re.fullmatch(dict(md5="[0-9a-f]{32}", sha256="[0-9a-f]{64}")[kind], checksum))
    need(files)
    return unique(files)


MEMBERS = {"toy/1t00A01": b"ATOM", "toy/1t00A02": b"HETATM"}


def zip_bytes():
    with zipfile.ZipFile(file := io.BytesIO(), "w") as z:
        for name, data in MEMBERS.items():
            z.writestr(zipfile.ZipInfo(name), data)
    return file.getvalue()


def tgz_bytes():
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w") as t:
        for name, data in MEMBERS.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            t.addfile(member, io.BytesIO(data))
    return gzip.compress(file.getvalue(), mtime=0)


def unpacked(archive):  # what is in the members; nothing may land outside of the new folder
    with tempfile.TemporaryDirectory() as place:
        found = unpack(archive, Path(place) / "in" / "new")
        files = [p for p in Path(place).rglob("*") if p.is_file()]
        need(all(found in p.parents for p in files), "a file outside")
        return sorted(p.read_bytes() for p in files)


def members_oracle(_):
    return sorted(MEMBERS.values())  # checksums keep anything else out


FORMATS |= {
    "manifest": one_file(
        "manifest.json", json.dumps(ENTRIES, indent=1).encode(), manifest, manifest_oracle, lines=False
    ),
    "listing": one_file("listing.json", json.dumps(LISTED).encode(), listing, listing_oracle, lines=False),
    "zip": one_file("toy.zip", zip_bytes, unpacked, members_oracle, lines=False),
    "tgz": one_file("toy.tgz", tgz_bytes, unpacked, members_oracle, lines=False),
}

# --- Models


@functools.cache
def model():
    return tiny_esm2(n_layers=1, dim=8, n_heads=2)


def written(write):  # write(folder) -> name -> bytes
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        return {p.name: p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def plm_bytes():
    return written(lambda folder: save_plm(model(), folder / "it"))["it"]


def plm(file):
    found = read_plm(file)
    return found.config.to_dict(), plain(found.all_weights)


def plm_oracle(data):
    meta, tensors = tensors_of(data)
    need(FORMAT in meta)
    about = json_of(meta[FORMAT])
    need(isinstance(about, dict) and isinstance(about["name"], str))
    return about["settings"], finite(tensors)


def torch_read(data):
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(io.BytesIO(data), weights_only=True)


@functools.cache
def fairesm_files():  # of the model and of its contact head, the same bytes every time
    files = written(lambda folder: save_fairesm(model(), folder / "esm2_tiny.pt"))
    for name, data in files.items():
        torch.save(torch_read(data), again := io.BytesIO())
        files[name] = again.getvalue()
    return files


def contents(found):  # settings and weights whatever they are called, without what can be had from the rest
    return found.config.to_dict(), sorted(w for name, w in plain(found.all_weights).items() if name != "rotary")


def fairesm_oracle(files):
    "What torch itself reads, where the checksums of the zip archive hold"
    found = {}
    for name, data in files.items():
        try:
            need(zipfile.ZipFile(io.BytesIO(data)).testzip() is None, "checksum")
            found[name] = torch_read(data)
        except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as e:
            raise Unreadable(e) from None
    cfg = found["esm2_tiny.pt"]["cfg"]["model"]
    settings = dict(
        n_layers=cfg.encoder_layers,
        dim=cfg.encoder_embed_dim,
        n_heads=cfg.encoder_attention_heads,
        token_dropout=cfg.token_dropout,
    )
    weights = {key: w for data in found.values() for key, w in data["model"].items()}
    used = {key: w for key, w in weights.items() if not re.search("contact_head|inv_freq|lm_head.weight", key)}
    return settings, sorted(finite(plain(used)).values())


@functools.cache
def transformers_files():
    files = written(lambda folder: export_transformers(model(), folder / "tiny"))
    used = {name: w for name, w in load(files["model.safetensors"]).items() if "position_embeddings" not in name}
    return {"config.json": files["config.json"], "model.safetensors": save(used)}


def transformers_oracle(files):  # a setting that is not said, or null, has the value that transformers gives it
    said, (_, given) = json_of(files["config.json"]), tensors_of(files["model.safetensors"])
    config = {"token_dropout": False, **{k: v for k, v in said.items() if v is not None}}
    fixed = dict(
        model_type="esm",
        vocab_size=33,
        mask_token_id=32,
        pad_token_id=1,
        layer_norm_eps=1e-5,
        position_embedding_type="rotary",
    )
    need(all(config.get(k) == v for k, v in fixed.items()) and config["intermediate_size"] == 4 * config["hidden_size"])
    names = dict(
        n_layers="num_hidden_layers", dim="hidden_size", n_heads="num_attention_heads", token_dropout="token_dropout"
    )
    weights = {key: w for key, w in given.items() if not re.search("contact_head|inv_freq|position_", key)}
    return {ours: config[theirs] for ours, theirs in names.items()}, sorted(finite(weights).values())


REQUEST = encode([d.sequence[:9] for d in TOY]), torch.ones(len(TOY), 11, dtype=torch.bool)


def answers(file):  # of the model, as far as it is known
    teacher = Teacher(model(), file.parent)
    teacher.cache.folder.mkdir(exist_ok=True)
    file.replace(teacher.cache.folder / file.name)
    return plain(dict(logits=Teacher(model(), file.parent)(*REQUEST)))


def answers_bytes():
    def write(folder):
        teacher = Teacher(model(), folder)
        teacher(*REQUEST)
        teacher.save()

    return next(iter(written(write).values()))


@functools.cache
def right_answers():
    return plain(dict(logits=torch.from_numpy(np.concatenate(teacher_logits(model(), list(zip(*REQUEST)))))))


FORMATS |= {
    "plm": one_file("tiny.safetensors", plm_bytes, plm, plm_oracle, lines=False),
    "plm of fair-esm": Format(
        fairesm_files, lambda folder: contents(read_fairesm(folder / "esm2_tiny.pt")), fairesm_oracle, lines=False
    ),
    "plm of transformers": Format(
        transformers_files, lambda folder: contents(read_transformers(folder)), transformers_oracle, lines=False
    ),
    "answers": one_file(
        "answers.safetensors", answers_bytes, answers, lambda data: right_answers(), lines=False, refuses=False
    ),
}

# --- Splits, masks and runs


@functools.cache
def proteome():
    return read_domains("toy")[:60]


@functools.cache
def settings():  # of a run of two steps
    category, config = cath_category("1"), TrainConfig(steps=2, batch_size=4, suppressed=2, valid_proteins=8)
    return model(), split(proteome(), "domain", category=category), category, config


@functools.cache
def run_files():
    return written(lambda folder: fit(*settings(), folder))


def ids_of(parts):
    return [[d.id for d in getattr(parts, p)] for p in PARTS]


def ids_oracle(lists):
    need(all(isinstance(ids, list) and ids and all(isinstance(id, str) for id in ids) for ids in lists))
    every = [id for ids in lists for id in ids]
    need(len(set(every)) == len(every) and set(every) <= {d.id for d in proteome()})
    return [sorted(ids) for ids in lists]


def id_lists(folder):
    return ids_of(split_from_lists(proteome(), *(folder / f"{p}.txt" for p in PARTS), rest="out"))


def id_list_files():
    return {f"{p}.txt": "".join(f"{d.id}\n" for d in proteome()[i:12:3]).encode() for i, p in enumerate(PARTS)}


def id_lists_oracle(files):
    return ids_oracle([[line.strip() for line in rows_of(files[f"{p}.txt"])] for p in PARTS])


def split_values(file):
    parts = read_split(file, proteome())
    return ids_of(parts), parts.by, parts.seed, parts.suppressed_by


def split_oracle(data):
    d, levels = json_of(data), ("class", "architecture", "topology", "superfamily", "domain")
    need(isinstance(d, dict) and set(d) == {*PARTS, "by", "seed", "suppressed_by"})
    need(
        d["by"] in (*levels, "lists") and d["suppressed_by"] in (*levels, None) and type(d["seed"]) in (int, type(None))
    )
    return ids_oracle([d[p] for p in PARTS]), d["by"], d["seed"], d["suppressed_by"]


def mask_bytes():  # one matrix fills its last byte, the other does not
    random = {
        f"layer.0.attention.{name}": torch.rand(shape, generator=generator(0, name)) < 0.7
        for name, shape in dict(query=(8, 8), key=(5, 3)).items()
    }
    return written(lambda folder: save_mask(HardMask(random), folder / "it"))["it"]


def bits(mask):
    return {name: (tuple(m.shape), m.numpy().tobytes()) for name, m in mask.items()}


def mask(file):
    found = load_mask(file)
    return bits(found), found.info


def mask_oracle(data):
    meta, tensors = tensors_of(data)
    need(MASK_FORMAT in meta)
    about, found = json_of(meta[MASK_FORMAT]), {}
    need(isinstance(about, dict) and about["shapes"].keys() == tensors.keys())
    for name, (kind, _, content) in tensors.items():
        shape, kept = tuple(about["shapes"][name]), np.unpackbits(np.frombuffer(content, kind))
        n = math.prod(shape)
        need(kind == "u1" and 0 <= len(kept) - n < 8 and not kept[n:].any())
        found[name] = shape, kept[:n].astype(bool).tobytes()
    return found, about


def run(folder):
    r = load_run(folder, model())
    config = json.loads(json.dumps(asdict(r.config)))  # tuples become lists
    return config, r.category.to_dict(), r.scores, read_log(folder), (bits(r.subnetwork.mask), r.subnetwork.mask.info)


def run_oracle(files):
    about, complete = (
        json_of(files["config.json"]),
        text_of(files["log.jsonl"], invisible=True, strict=True).rpartition("\n")[0],
    )
    log = [json_of(line, nan=True) for line in complete.split("\n") if complete]
    return (
        about["config"],
        about["category"],
        json_of(files["result.json"]),
        log,
        mask_oracle(files["mask.safetensors"]),
    )


def in_its_folder(file):
    "Where a run has its checkpoints"
    place = file.parent / "checkpoint" / file.name
    place.parent.mkdir(exist_ok=True)
    return file.replace(place)


def checkpoint(file):
    state = new_state(model(), settings()[-1], describe(*settings()))
    load_state(state, in_its_folder(file))
    moments = {k: v for k, v in state.optimizer.state[state.mask.logits].items() if k != "step"}
    return dict(step=state.step, scores=state.scores), plain(
        dict(logits=state.mask.logits.detach(), best=state.best, **moments)
    )


def checkpoint_oracle(data):
    meta, tensors = tensors_of(data)
    about = json_of(meta["state"])
    return {k: about[k] for k in ("step", "scores")}, tensors


PRETRAIN = PretrainConfig(n_layers=1, dim=8, n_heads=2, steps=4, warmup_steps=1, checkpoint_every=2, batch_tokens=64)


def pretraining(file):
    trainee = Trainee(PRETRAIN, torch.device("cpu"))
    load_checkpoint(trainee, in_its_folder(file))
    moments = {
        f"{k} {n}": trainee.optimizer.state[w][k] for n, w in trainee.leaves.items() for k in ("exp_avg", "exp_avg_sq")
    }
    return str(trainee.step), plain({f"weight {n}": w.detach() for n, w in trainee.leaves.items()} | moments)


def pretraining_oracle(data):
    meta, tensors = tensors_of(data)
    return meta["step"], tensors


LAST = "00000004.safetensors"


def pretraining_bytes():
    return written(lambda folder: pretrain([d.sequence for d in TOY], PRETRAIN, folder))[LAST]


FORMATS |= {
    "id lists": Format(id_list_files, id_lists, id_lists_oracle),
    "split": one_file("split.json", lambda: run_files()["split.json"], split_values, split_oracle, lines=False),
    "mask": one_file("mask.safetensors", mask_bytes, mask, mask_oracle, lines=False),
    "run": Format(
        lambda: {name: run_files()[name] for name in ("config.json", "result.json", "log.jsonl", "mask.safetensors")},
        run,
        run_oracle,
        lines=False,
    ),
    "checkpoint": one_file(
        "00000002.safetensors", lambda: run_files()["00000002.safetensors"], checkpoint, checkpoint_oracle, lines=False
    ),
    "pretraining": one_file(LAST, pretraining_bytes, pretraining, pretraining_oracle, lines=False),
}
