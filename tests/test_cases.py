"""Files as people have them: what has one sensible reading is read that way and told once, and the rest is refused in true words

Most cases come from reports to neighboring tools. The inputs are made here, small; where the shared cases are at hand,
`test_shared_cases` reads those as well."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import warnings
import zipfile
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from plmsub.app.commands import plmsub_embed, plmsub_probe, plmsub_tm
from plmsub.app.flags import DataFlags
from plmsub.base.errors import ConfigError, DataError, ModelError
from plmsub.base.files import ReadingNote, decoded_lines, read_json, shared_dir, zstd
from plmsub.base.seeds import numpy_rng
from plmsub.categories import parse_category
from plmsub.io.cath import read_clf, read_domains
from plmsub.io.dssp import read_dssp, with_dssp
from plmsub.io.fasta import MOST_LETTERS, read_fasta
from plmsub.io.headers import read_proteins
from plmsub.io.labels import read_labels, read_residue_labels
from plmsub.io.structures import Chain, ideal_backbone, pdb_text, read_chain, write_pdb
from plmsub.io.variants import make_variants, mutations, read_variants
from plmsub.models.export import export_transformers
from plmsub.models.weights import load_pickle, load_plm, read_fairesm, save_fairesm
from plmsub.plm import tiny_esm2
from plmsub.proteins import Domain, Protein
from plmsub.tasks.structure import plddt, score_folder, structure_files

A, B = "MKTAYIAKQRQISFVKSHFSRQ", "QRSFHSKVFSIQRQKAIYATKM"
TWO = f">a\n{A}\n>b\n{B}\n"


@pytest.fixture
def written(tmp_path):
    def write(name, content):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return tmp_path / name

    return write


def told(read):
    "What a reader returns, and its notes"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = read()
    assert all(w.category is ReadingNote for w in said), [str(w.message) for w in said]
    return found, [str(w.message) for w in said]


def sequences(file, **how):
    return [(p.id, p.sequence) for p in read_proteins(file, **how)]


# --- Sequences

MENDED = {  # what is written, how it is read, words of the note
    "small": (TWO.replace(A, A.lower()), TWO, "small letters, read as capitals"),
    "stop": (TWO.replace(A, A + "*"), TWO, "a stop codon (*) at the end, left out"),
    "blanks": (TWO.replace(A, f"{A[:10]} {A[10:]}"), TWO, "blanks in a sequence, left out"),
    "digits": (TWO.replace(A, f"1{A[:10]}\n11{A[10:]}"), TWO, "digits in a sequence, left out"),
    "J": (TWO.replace(A, A + "J"), TWO.replace(A, A + "X"), "J, which is leucine or isoleucine, read as X"),
    "twice": (TWO + f">a\n{A}\n", TWO, "line 5: an entry that was there before, counted once"),
    "utf16": (TWO.encode("utf-16"), TWO, "UTF-16, decoded"),
    "latin1": (
        TWO.replace(">a", ">a Müller’s").encode("cp1252"),
        TWO,
        "line 1: text that is not UTF-8, read as Latin-1",
    ),
}


@pytest.mark.parametrize("name", MENDED)
def test_sequences_are_mended_and_told_once(written, name):
    text, plain, words = MENDED[name]
    file = written("x.fa", text)
    found, notes = told(lambda: sequences(file))
    assert found == sequences(written("plain.fa", plain))
    assert len(notes) == 1 and words in notes[0] and "x.fa" in notes[0], notes
    with pytest.raises(DataError, match="x.fa.*Without strict=True this is"):
        read_proteins(file, strict=True)


def test_a_kind_is_counted(written):
    text = "".join(f">p{i}\n{A.lower()}*\n" for i in range(1200))
    found, notes = told(lambda: read_fasta(written("x.fa", text)))
    assert len(found) == 1200 and len(notes) == 2
    assert all("line 2: " in note and note.endswith("(1,200 times in this file)") for note in notes)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstd.compress])
def test_compressed_text(written, pack):
    file = written("x.fa", pack(TWO.encode()))
    assert told(lambda: sequences(file)) == ([("a", A), ("b", B)], [])
    with pytest.raises(DataError, match="cut off or damaged|cannot be read"):
        read_proteins(written("cut.fa", pack(TWO.encode() * 50)[:-9]))


def zipped(**members):
    with zipfile.ZipFile(file := io.BytesIO(), "w") as z:
        for name, text in members.items():
            z.writestr(name, text)
    return file.getvalue()


def test_a_zip_of_one_file(written):
    assert sequences(written("x.fa.zip", zipped(a=TWO, **{"__MACOSX/._a": b"\0"}))) == [("a", A), ("b", B)]
    with pytest.raises(DataError, match="a zip archive of 2 files"):
        read_proteins(written("two.zip", zipped(a=TWO, b=TWO)))


def test_one_id_with_two_sequences_names_both_lines(written):
    file = written("x.fa", TWO + f">a\n{B}\n")
    for read in (read_fasta, read_proteins):
        with pytest.raises(DataError, match="x.fa, line 5: this id was there before, in line 1"):
            read(file)
    assert len(read_fasta(file, skipped=(skipped := []))) == 2 and skipped[0].line == 5


@pytest.mark.parametrize("text", ["MKTAY--IAKQR", "MKTAy.iakQRQ", "MKTAyiakQRQ--SFVK"])
def test_alignments_are_refused_and_their_reader_is_named(written, text):
    with pytest.raises(DataError, match="x.fa, line 2: a: this sequence is aligned, it has gaps.*read_alignment"):
        read_proteins(written("x.fa", f">a\n{text}\n"))
    from plmsub.io.alignments import read_alignment

    assert read_alignment(written("x.fa", f">a\n{text}\n"))[0][0] == "a"


GENE = "ATGAAAACCGCGTATATTGCGAAACAGCGTCAGATTAGCTTTGTG"


@pytest.mark.parametrize("text", [GENE, GENE.lower(), GENE.replace("T", "U"), GENE + "N" * 9])
def test_nucleotides_are_no_proteins(written, text):
    with pytest.raises(DataError, match="x.fa, line 1: a: these look like nucleotides"):
        read_proteins(written("x.fa", f">a\n{text}\n"))


@pytest.mark.parametrize("text", [GENE[:39], GENE + "K", "A" * 80, "ACG" * 40, "GAT" * 40])
def test_proteins_of_few_letters_are_proteins(written, text):
    assert sequences(written("x.fa", f">a\n{text}\n")) == [("a", text)]


def test_a_small_file_cannot_unpack_without_end(written, monkeypatch):
    long = gzip.compress(b">a\n" + b"A" * (1 << 25))
    with pytest.raises(DataError, match="line 2: a line of more than 16,777,216 characters"):
        read_proteins(written("line.fa.gz", long))
    rows = gzip.compress(b">a\n" + b"AAAA\n" * (MOST_LETTERS // 4 + 2))
    with pytest.raises(DataError, match="line 1: this record has more than 1,000,000 letters"):
        read_proteins(written("rows.fa.gz", rows))
    monkeypatch.setattr("plmsub.base.files._SMALL", 10**5)
    many = written("many.fa.gz", gzip.compress(b">a\nAAAAAAAA\n" * 40_000))
    with pytest.raises(DataError, match="it unpacks without an end"):
        list(decoded_lines(many))
    assert len(list(decoded_lines(written("many.fa", b">a\nAAAAAAAA\n" * 40_000)))) == 80_000


def test_settings_are_never_mended(written):
    with pytest.raises(DataError, match="UTF-16"):
        read_json(written("x.json", '{"a": 1}'.encode("utf-16")))
    with pytest.raises(DataError, match="not UTF-8"):
        read_json(written("x.json", '{"a": "é"}'.encode("latin1")))


def test_archives_and_binary_files_are_called_what_they_are(written):
    bcif = b"\x83\xa7encoder\xa1x\xa7version\xa50.3.0\xaadataBlocks\x91\x82\0"
    with pytest.raises(DataError, match=r"this is BinaryCIF, not text. Take the mmCIF"):
        read_chain(written("x.bcif.gz", gzip.compress(bcif)))


# --- Structures

CHAIN = Chain(A, ideal_backbone([(-57, -47)] * 22), b_factors=np.linspace(50, 90, 22))
LINES = [line for line in pdb_text(CHAIN).splitlines() if line.startswith("ATOM")]


def columns(line, **changes):
    for where, text in changes.items():
        first, last = map(int, where[1:].split("_"))
        line = line[: first - 1] + f"{text:<{last - first + 1}}" + line[last:]
    return line


def named(*names):
    "The chain with other names for its first residues"
    return "\n".join(
        columns(line, c18_20=names[i // 4]) if i // 4 < len(names) else line for i, line in enumerate(LINES)
    )


def test_atoms_that_two_kinds_of_residue_share(written):
    other = [columns(line, c17_17="B", c18_20="SER", c55_60="  0.40") for line in LINES[37:40]]
    first = [columns(line, c17_17="A", c55_60="  0.60") for line in LINES[37:40]]
    file = written("x.pdb", "\n".join([*LINES[:37], *first, *other, *LINES[40:]]))
    assert read_chain(file).sequence == A
    with pytest.raises(DataError, match="residue 10 of chain A has two names: ARG, SER"):
        read_chain(
            written("y.pdb", "\n".join([*LINES[:40], *(columns(line, c17_17=" ") for line in other), *LINES[40:]]))
        )


def test_names_of_force_fields(written):
    names = "HSD HSE HSP HID HIE HIP CYX CYM CYN LYN ASH GLH".split()
    chain, notes = told(lambda: read_chain(written("x.pdb", named(*names))))
    assert chain.sequence == "HHHHHHCCCKDE" + A[12:] and len(notes) == 1, notes
    assert "GLH as E" in notes[0] and "(12 times in this file)" in notes[0]
    with pytest.raises(DataError, match="force fields"):
        read_chain(written("x.pdb", named(*names)), strict=True)


def test_homoserine_is_no_histidine(written):
    rows = [columns(line, c1_6="HETATM", c18_20="HSE") for line in LINES[:4]]
    side = columns(rows[1], c13_16=" ND1", c31_38="   9.000")
    assert read_chain(written("x.pdb", "\n".join(rows + LINES[4:]))).sequence[0] == "S"
    assert told(lambda: read_chain(written("y.pdb", "\n".join([*rows, side, *LINES[4:]]))))[0].sequence[0] == "H"


def test_unknown_names_are_told_by_name(written):
    chain, notes = told(lambda: read_chain(written("x.pdb", named("ZZZ", "UNK"))))
    assert chain.sequence[:2] == "XX" and len(notes) == 1 and "ZZZ as X" in notes[0] and "UNK" not in notes[0]


def test_large_numbers(written):
    base36 = [columns(line, c7_11="A0000", c23_26=f"A{i // 4:03d}") for i, line in enumerate(LINES)]
    assert read_chain(written("x.pdb", "\n".join(base36))).numbers[:2] == ((10000, ""), (10001, ""))
    six = [columns(line, c6_11=100_000 + i) for i, line in enumerate(LINES)]
    water = columns(LINES[0], c1_6="HETATM", c13_20=" O   HOH", c23_26="****")
    assert read_chain(written("y.pdb", "\n".join([*six, water]))) == read_chain(written("z.pdb", "\n".join(LINES)))
    with pytest.raises(DataError, match="line 1: the residue number in columns 23 to 26 is not a number"):
        read_chain(written("n.pdb", "\n".join([columns(LINES[0], c23_26="****"), *LINES[1:]])))


def test_endings_of_structures(written, tmp_path):
    names = "a.PDB b.CIF c.mmCIF d.pdb1 e.pdb1.gz f.pdb.bz2 g.ent.xz h i.pdb.zst".split()
    for name in names:
        written(f"s/{name}", pdb_text(CHAIN))
    for other in ("x.bcif", "notes.txt", "y.pdbqt"):
        written(f"s/{other}", "x")
    files, notes = told(lambda: structure_files(tmp_path / "s"))
    assert [*files] == [name[0] for name in names]
    assert len(notes) == 1 and "2 of 12 files left out" in notes[0] and "x.bcif, y.pdbqt" in notes[0]


@pytest.mark.parametrize("name", ["0", "A", " "])
def test_chain_0_of_cath_is_the_chain_there_is(written, tmp_path, name):
    text = pdb_text(replace(CHAIN, name=name))
    written("e/PDB1ABC.ENT" if name == "A" else "e/1abc.pdb", text)
    (labeled,), missing = with_dssp([Domain("1abc000", A, code="1.10.8.10")], tmp_path / "e", "pydssp")
    assert missing == {} and len(labeled.dssp) == 22


def test_a_chain_called_0_is_found_among_others(written):
    text = pdb_text(CHAIN) + pdb_text(replace(CHAIN[:9], name="0"))
    assert len(read_chain(written("x.pdb", text.replace("END\n", "")), "0")) == 9
    with pytest.raises(DataError, match="several protein chains"):
        read_chain(written("y.pdb", text.replace("END\n", "").replace(" 0 ", " B ")), "0")


def classic(chains):
    head = "  #  RESIDUE AA STRUCTURE BP1 BP2  ACC  X-CA   Y-CA   Z-CA            CHAIN AUTHCHAIN"
    rows = [
        f"{i:5d}{i:5d} > A  H{'':98}{i:7.1f}{0:7.1f}{0:7.1f}{'':18}Z{i}    {name}" for i, name in enumerate(chains, 1)
    ]
    return "\n".join([head, *rows, ""])


def test_dssp_tells_chains_of_two_letters_apart(written):
    file = written("x.dssp", classic(["AA", "AA", "AA", "BB"]))
    assert [len(read_dssp(file, name)) for name in ("AA", "BB")] == [3, 1]
    with pytest.raises(DataError, match="several protein chains: “'AA', 'BB'”"):
        read_dssp(file)
    with pytest.raises(DataError, match="line 2: the name of this chain is too long"):
        read_dssp(written("y.dssp", classic(["AA"]).replace("CHAIN", "").replace("AUTH", "")))


def test_plddt_of_every_scale_and_of_none(written, tmp_path):
    for name, b in dict(hundred=[50, 90], one=[0.5, 0.9], ones=[1], zeros=[0], b_factors=[5, 140]).items():
        write_pdb(replace(CHAIN, b_factors=np.resize(b, 22).astype(float)), tmp_path / f"m/{name}.pdb")
        write_pdb(CHAIN, tmp_path / f"n/{name}.pdb")
    table, notes = told(lambda: score_folder(tmp_path / "m", tmp_path / "n", processes=1))
    table = table.set_index("id")
    assert (
        (table.error == "").all() and np.allclose(table.tm_score, 1) and len(notes) == 1 and "3 of 5 rows" in notes[0]
    )
    assert np.allclose(table.plddt[["hundred", "one"]], 70) and table.plddt.isna().sum() == 3
    assert "all B factors are 1, so they are no pLDDT" in table.note["ones"] and table.note["one"] == ""
    with redirect_stdout(io.StringIO()):
        row, notes = told(lambda: plmsub_tm(tmp_path / "m/ones.pdb", tmp_path / "n/ones.pdb"))
    assert row.tm_score[0] == pytest.approx(1) and "no pLDDT; the other scores are given" in notes[0]
    with pytest.raises(DataError, match="no pLDDT from 0 to 100"):
        plddt(replace(CHAIN, b_factors=np.linspace(0, 1, 22)), highest=100)


# --- Variants

HEAD = ["mutant", "target", "sequence"]
ROWS = [["K2A", "1.0", "MATAYI"], ["T3G", "0.5", "MKGAYI"], ["A4C", "0.1", "MKTCYI"]]


def table(*rows, head=HEAD, separator=","):
    return "\n".join(separator.join(row) for row in (head, *rows)) + "\n"


def scan(file, **how):
    return [(v.mutant, v.target) for v in read_variants(file, **how).itertuples()]


PLAIN = [("K2A", 1.0), ("T3G", 0.5), ("A4C", 0.1)]
COMMAS = [[name, value.replace(".", ","), text] for name, value, text in ROWS]
SCANS = {  # what is written, how it is read beyond the three, words of the only note
    "case": (table(*ROWS, head=["Mutant", "Target", "SEQUENCE"]), [], None),
    "gym": (table(*ROWS, head=["mutant", "DMS_score", "mutated_sequence"]), [], None),
    "semicolon": (table(*ROWS, separator=";"), [], None),
    "tab": (table(*ROWS, separator="\t"), [], None),
    "decimal": (table(*COMMAS, head=HEAD, separator=";"), [], "decimal commas, read as points (3 times"),
    "equal": (table(*ROWS, ROWS[0]), [], "counted once"),
    "wild": (table(*ROWS, ["WT", "1", "MKTAYI"]), [("WT", 1.0)], None),
    "synonymous": (table(*ROWS, ["K2K", "1", "MKTAYI"]), [("K2K", 1.0)], None),
    "same": (table(*ROWS, ["p.Lys2=", "1", "MKTAYI"]), [("K2K", 1.0)], None),
    "stop": (table(*ROWS, ["p.Tyr5Ter", "0", "MKTA"], ["I6*", "0", "MKTAY"]), [], "a stop codon, left out (2 times"),
    "slash": (table(*ROWS, ["K2A/T3G", "0", "MAGAYI"]), [("K2A:T3G", 0.0)], None),
    "low": (table(*ROWS, ["K2A_T3G", "0", "MAGAYI"]), [("K2A:T3G", 0.0)], None),
    "comma": (table(*ROWS, ['"K2A,T3G"', "0", "MAGAYI"]), [("K2A:T3G", 0.0)], None),
    "three letters": (table(*ROWS, ["Lys2Ala:Thr3Gly", "0", "MAGAYI"]), [("K2A:T3G", 0.0)], None),
}


@pytest.mark.parametrize("name", SCANS)
def test_tables_of_variants(written, name):
    text, more, words = SCANS[name]
    found, notes = told(lambda: scan(written("x.csv", text)))
    assert found == PLAIN + more and len(notes) == bool(words) and (not words or words in notes[0]), notes
    if words:
        with pytest.raises(DataError, match="Without strict=True"):
            read_variants(written("x.csv", text), strict=True)


def test_missing_values_and_mixed_numbers(written):
    missing = [[f"K2{a}", value, f"M{a}TAYI"] for a, value in zip("ACDEFG", ("", "NA", "n/a", "None", "null", "NaN"))]
    assert read_variants(written("x.csv", table(*missing))).target.isna().all()
    with pytest.raises(DataError, match="line 3: decimal points in line 2, decimal commas in line 3"):
        read_variants(written("x.csv", table(ROWS[0], COMMAS[1], separator=";")))


def test_a_table_of_mavedb(written):
    rows = [
        ["urn:1", "p.Lys2Ala", "1.0"],
        ["urn:2", "p.Lys2Ter", "0"],
        ["urn:3", "p.=", "NA"],
        ["urn:4", "p.Ala4=", "1"],
    ]
    file = written("x.csv", "# MaveDB\n" + table(*rows, head=["accession", "hgvs_pro", "score"]))
    with pytest.raises(DataError, match="no column of sequences"):
        read_variants(file)
    found = read_variants(file, wild_type="MKTAYI")
    assert [*found.mutant] == ["K2A", "WT", "A4A"] and [*found.sequence] == ["MATAYI", "MKTAYI", "MKTAYI"]
    with pytest.raises(
        DataError, match="line 3: the wild type has M at position 2: “K2A”. The variants fit with first=1"
    ):
        read_variants(file, wild_type="MKTAYI", first=2)


def test_a_variant_with_two_values(written):
    file = written("x.csv", table(*ROWS, ["K2A", "0.5", "MATAYI"], ["K2A", "", "MATAYI"]))
    with pytest.raises(
        DataError, match="line 5: this variant was there before, in line 2, with another value.*average=True"
    ):
        read_variants(file)
    found, notes = told(lambda: scan(file, average=True))
    assert found == [("K2A", 0.75), *PLAIN[1:]] and "averaged (2 times" in notes[0]


@pytest.mark.parametrize("first", [0, 23])
def test_the_number_of_the_first_residue_is_found(written, first):
    rows = [[f"{name[0]}{int(name[1]) + first - 1}{name[2]}", value, text] for name, value, text in ROWS]
    file = written("x.csv", table(*rows))
    with pytest.raises(DataError, match=f"x.csv, line 2.*The variants fit with first={first}$"):
        read_variants(file)
    assert [name for name, _ in scan(file, first=first)] == [row[0] for row in rows]
    wrong = written("y.csv", table(*rows, ["Y9W", "1", "MKTAYI"]))
    with pytest.raises(DataError, match=f"3 of 4 variants fit with first={first}"):
        read_variants(wrong)


def test_names_of_variants_without_a_table():
    assert mutations("NP_000001.1:p.(Lys2Ala)") == mutations("K2A") and mutations("wt") == ()
    assert [*make_variants("MKTAYI", ["WT", "p.Lys2Ala"]).substitutions] == [0, 1]
    for name in ("K2del", "K2_T3insG", "p.Lys2fs", "p.Lys2Argfs*9"):
        with pytest.raises(DataError, match="insertions and deletions"):
            mutations(name)


# --- Labels


@pytest.mark.parametrize(
    "text",
    [
        '"p1","kin, x"\n"p2","oth"\n',
        'id;label\np1;"kin, x"\np2;oth\n',
        '"","x"\n"p1","kin, x"\n"p2","oth"\n',
        '"","id","location"\n"1","p1","kin, x"\n"2","p2","oth"\n',
        "p1\tkin, x\np2\toth\np1\tkin, x\n",
    ],
)
def test_labels(written, text):
    file = written("x.csv", text)
    found, notes = told(lambda: read_labels(file))
    assert found == dict(p1="kin, x", p2="oth") and len(notes) == (not text.startswith('"p1"'))
    assert told(lambda: parse_category(f"{file}:kin, x"))[0].ids == {"p1"}


def test_labels_that_are_the_sequences(written):
    file = written("x.fa", TWO)
    assert read_residue_labels(file)["a"] == A
    for read in (
        lambda: read_residue_labels(file, {"a": A}),
        lambda: parse_category(f"residues:{file}:K", [Protein("a", A)]),
    ):
        with pytest.raises(DataError, match="x.fa, line 1: a: these letters are its sequence"):
            read()


def test_rows_of_a_domain_list_that_stand_there_twice(written):
    row = "1oaiA00     1    10     8    10     1     1     1     1     1    59 1.000\n"
    found, notes = told(lambda: read_clf(written("x.clf", row + row)))
    assert [*found] == ["1oaiA00"] and "counted once" in notes[0]


# --- Checkpoints


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    "A folder of transformers, its weights, and the model"
    folder, plm = tmp_path_factory.mktemp("models") / "tiny", tiny_esm2()
    export_transformers(plm, folder)
    return folder, load_file(folder / "model.safetensors"), plm


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module.", "module._orig_mod.", "model."])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_prefixes_are_seen_through(exported, tmp_path, prefix, name):
    folder, weights, plm = exported
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    weights = {prefix + key: w for key, w in weights.items()}
    save_file(weights, tmp_path / name) if name.endswith("rs") else torch.save(weights, tmp_path / name)
    assert load_plm(tmp_path).fingerprint == plm.fingerprint
    if name.endswith("bin"):
        assert load_plm(tmp_path / name).fingerprint == plm.fingerprint


def test_prefixes_of_fairesm(tmp_path):
    file = save_fairesm(plm := tiny_esm2(), tmp_path / "esm2_tiny.pt")
    data = torch.load(file, weights_only=True)
    torch.save(data | dict(model={f"module.{k}": w for k, w in data["model"].items()}), file)
    assert read_fairesm(file).fingerprint == plm.fingerprint


@pytest.mark.parametrize("start", ["esm.", ""])
def test_a_model_without_a_head_gives_representations_only(exported, tmp_path, start):
    folder, weights, plm = exported
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    weights = {start + k.removeprefix("esm."): w for k, w in weights.items() if "lm_head" not in k}
    save_file(weights | {"classifier.bias": torch.zeros(2)} if start else weights, tmp_path / "model.safetensors")
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        headless = load_plm(tmp_path)
    assert [("classifier.bias" in str(n.message)) for n in notes] == [True] * bool(start)
    assert torch.equal(headless.representations("MKTAY")[3], plm.representations("MKTAY")[3])
    with pytest.raises(ModelError, match="no head for language modeling.*fit_lm_head"):
        headless("MKTAY")


class Harm:
    def __reduce__(self):
        return os.system, ("echo harm",)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5, None])
def test_a_pickle_that_runs_commands(tmp_path, protocol, capfd):
    data = dict(model=Harm())
    file = tmp_path / "x.pt"
    torch.save(data, file) if protocol is None else file.write_bytes(pickle.dumps(data, protocol))
    with pytest.raises(ModelError, match=f"asks to run foreign code, and is not opened: “{os.name}.system”"):
        load_pickle(file)
    assert capfd.readouterr() == ("", "")


def test_a_file_that_unfolds(tmp_path):
    torch.save(dict(a=[torch.zeros(1).expand(100_000, 140_000)]), tmp_path / "x.pt")
    assert (tmp_path / "x.pt").stat().st_size < 9000
    with pytest.raises(ModelError, match="shows 56,000,000,000 bytes and stores 4"):
        load_pickle(tmp_path / "x.pt")
    torch.save(dict(a=(w := torch.zeros(500, 500)), b=w, c=w.T, d=torch.zeros(3).expand(9, 3)), tmp_path / "y.pt")
    assert load_pickle(tmp_path / "y.pt")["c"].shape == (500, 500)


def test_compressed_parts_of_a_torch_file(tmp_path):
    torch.save(dict(a=torch.zeros(10**5)), tmp_path / "x.pt")
    with (
        zipfile.ZipFile(tmp_path / "x.pt") as old,
        zipfile.ZipFile(tmp_path / "y.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for part in old.infolist():
            new.writestr(part.filename, old.read(part))
    with pytest.raises(ModelError, match="parts of this file are compressed"):
        load_pickle(tmp_path / "y.pt")


# --- Commands


def run(command, *words):
    "Exit status or last words, what was printed, what was said on stderr"
    code = 0
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        try:
            command.main([*map(str, words)])
        except SystemExit as e:
            code = e.code
    return code, out.getvalue(), err.getvalue()


def test_embed_tells_skips_and_refuses(written, tmp_path):
    written("x.fa", f">a\n{A.lower()}*\n>b\nMK--TA\n>c\n{B}\n")
    with chdir(tmp_path):
        assert "x.fa, line 4: b: this sequence is aligned" in run(plmsub_embed, "x.fa", "out")[0]
        code, out, err = run(plmsub_embed, "x.fa", "out", "--skip")
        assert code == 0 and "1 record left out" in out and "x.fa     4 b: this sequence is aligned" in out, out
        assert err.splitlines() == [
            "note: x.fa, line 2: a stop codon (*) at the end, left out",
            "note: x.fa, line 2: small letters, read as capitals",
        ]
        assert "Without --strict this is left out" in run(plmsub_embed, "x.fa", "other", "--strict")[0]


def test_probe_of_mutations(written, tmp_path):
    wild = "".join(numpy_rng(0, "wild").choice([*"ACDEFGHIKLMNPQRSTVWY"], 24))
    rows = [[f"{wild[i]}{i + 23}{'A' if wild[i] != 'A' else 'G'}", f"{i / 7:.2f}"] for i in range(12)]
    written("scans/a.csv", table(*rows, head=["hgvs_pro", "score"]))
    written("scans/b.txt", table(*rows, ["K99del", "1"], head=["what", "number"], separator=";"))
    written("scans/c.csv", "<html>404</html>")
    written("wild.fa", f">a\n{wild}\n>b\n{wild}\n>c\n{wild}\n")
    flags = ["mutations", "--plm", "toy", "--data", "scans"]
    with chdir(tmp_path):
        assert "wild_type" not in (said := run(plmsub_probe, *flags)[0]) and "--wild-type" in said, said
        flags += ["--wild-type", "wild.fa"]
        assert run(plmsub_probe, *flags)[0].endswith("The variants fit with --first 23")
        code, out, _ = run(plmsub_probe, *flags, "--first", 23, "--skip")
        assert code == 0 and "2 files left out" in out and "web page" in out and "needs one column mutant" in out, out
        (tmp_path / "scans/a.csv").unlink()
        columns = ["--columns", "what,number", "--separator", ";"]
        code, out, _ = run(plmsub_probe, *flags, "--first", 23, "--skip", *columns)
        assert code == 0 and "1 variant left out" in out and "insertions and deletions" in out, out


def test_one_bad_structure_does_not_stop_a_folder(written, tmp_path):
    folded = ideal_backbone([(-57, -47)] * 18 + [(-129, 107), (-38, -7), (-56, 165), (-82, -8)] + [(-57, -47)] * 18)
    for k in range(10):
        letters = "".join(numpy_rng("hairpin", k).choice([*"AEKLR"], 40))
        write_pdb(Chain(letters, folded, name="B"), tmp_path / f"s/{k}.pdb")
    written("s/bad.pdb", "ATOM      x")
    flags = ["contacts", "--plm", "toy", "--data", tmp_path / "s", "--chain", "B"]
    assert "bad.pdb, line 1" in run(plmsub_probe, *flags)[0]
    code, out, _ = run(plmsub_probe, *flags, "--skip")
    assert code == 0 and "1 file left out" in out and "bad.pdb" in out, out


def test_flags_of_training_are_strict_on_request(written):
    file = str(written("x.fa", f">a\n{A.lower() * 4}\n>b\n{B * 4}\n"))
    assert [p.sequence for p in told(lambda: DataFlags(fasta=file, headers="plain").read())[0]] == [A * 4, B * 4]
    with pytest.raises(DataError, match="small letters"):
        DataFlags(fasta=file, headers="plain", strict=True).read()
    with pytest.raises(ConfigError, match="skip=True is for FASTA files"):
        DataFlags(skip=True).read()
    assert len(read_domains("toy", strict=True)) == 960


def test_one_bad_file_of_secondary_structure_is_skipped(written, tmp_path):
    domains, flags = read_domains("toy")[:2], dict(dssp=str(tmp_path / "s"), dssp_by="pydssp")
    for d in domains:
        write_pdb(Chain(d.sequence, ideal_backbone([(-57, -47)] * len(d))), tmp_path / f"s/{d.id}.pdb")
    written(f"s/{domains[1].id}.pdb", "ATOM      x")
    with pytest.raises(DataError, match=domains[1].id):
        DataFlags(**flags).read()
    with redirect_stdout(io.StringIO()) as out:
        proteins = {p.id: p for p in DataFlags(**flags, skip=True).read()}
    assert proteins[domains[0].id].dssp and not proteins[domains[1].id].dssp
    assert "959 of 960 proteins get no secondary structure" in out.getvalue()


def test_a_compressed_table_of_secondary_structure(written):
    rows = [
        ("domain", "alphabet", "sequence", "ss"),
        *((d.id, "DSSP8", d.sequence, d.dssp) for d in read_domains("toy")),
    ]
    file = written("x.tsv.gz", gzip.compress("".join("\t".join(row) + "\n" for row in rows).encode()))
    assert all(p.dssp for p in DataFlags(dssp=str(file)).read())


def test_labels_of_localization_take_any_separator(written, tmp_path):
    rng, letters = numpy_rng(0, "localization"), [*"ACDEFGHIKLMNPQRSTVWY"]
    texts = ["".join(rng.choice(letters, 30)) for _ in range(30)]
    written("x.fa", "".join(f">p{i}\n{text}\n" for i, text in enumerate(texts)))
    written("x.tsv", "id\tlocation\n" + "".join(f"p{i}\t{'in' if i % 2 else 'out'}\n" for i in range(30)))
    flags = ["localization", "--plm", "toy", "--data", "x.fa", "--labels", "x.tsv"]
    with chdir(tmp_path):
        code, _, err = run(plmsub_probe, *flags)
        assert code == 0 and "read as a header" in err, (code, err)
        assert "none is left out. Leave the flag away: --skip" in run(plmsub_probe, *flags, "--skip")[0]


# --- The shared cases, where they are at hand

SHARED = (shared_dir() or Path("/nowhere")).parent / "cases"
READ = {  # case: what reads it, and what comes out; words of the error where it is refused
    "microhet_blank_N.pdb": (lambda f: read_chain(f).sequence, A),
    "amber.pdb": (lambda f: "X" in read_chain(f).sequence, False),
    "amber_names.pdb": (lambda f: read_chain(f).sequence, "MKTHCHHKDEHHHCVKSHFSRQ"),
    "hybrid36.pdb": (lambda f: read_chain(f).sequence, A),
    "serial_six.pdb": (lambda f: read_chain(f).sequence, A),
    "dssp/gt_chain.dssp": (lambda f: [len(read_dssp(f, c)) for c in ("AA", "BB")], [99, 100]),
    "seq/gap.fa": (sequences, "has gaps"),
    "seq/a3m.fa": (sequences, "has gaps"),
    "seq/J.fa": (sequences, [("a", A + "X"), ("b", B)]),
    "seq/digits.fa": (sequences, [("a", A[:10])]),
    "seq/spaces.fa": (sequences, [("a", A[:16])]),
    "seq/latin1.fa": (sequences, [("a", A)]),
    "var/offset.csv": (scan, "The variants fit with first=23"),
    "var/zero_based.csv": (scan, "The variants fit with first=0"),
    "var/hgvs.csv": (scan, PLAIN[:1]),
    "var/threeletter.csv": (scan, PLAIN[:1]),
    "var/colon.csv": (scan, [*PLAIN, ("K2A:T3G", 1.0)]),
    "var/slash.csv": (scan, [*PLAIN, ("K2A:T3G", 1.0)]),
    "var/wt_row.csv": (scan, [*PLAIN, ("WT", 1.0)]),
    "var/syn_self.csv": (scan, [*PLAIN, ("K2K", 1.0)]),
    "lab/lab_quotes.csv": (read_labels, {"p1": "kin, x"}),
    "labq.csv": (read_labels, dict(g0="kin", g1="oth")),
    "lq.csv": (read_labels, {"P1": "Cell membrane", "P2": "Nucleus"}),
    "ckpt/encoder_only": (lambda f: load_plm(f)("MKT"), "no head for language modeling"),
    "ckpt/seqcls": (lambda f: load_plm(f)("MKT"), "no head for language modeling"),
    "tm/ones.pdb": (lambda f: plddt(read_chain(f)), "all B factors are 1"),
}
READ |= {f"seq/{n}": (sequences, [("a", A), ("b", B)]) for n in ("lower.fa", "stop.fa", "dup.fa", "utf16le_bom.fa")}
READ |= {f"seq/x.fa.{n}": (sequences, [("a", A), ("b", B)]) for n in ("bz2", "xz", "zip")}
READ |= {f"var/{n}.csv": (scan, PLAIN) for n in ("case_header", "deccomma", "dup", "semi_csv", "stop", "tsv")}
READ |= {f"ckpt/{n}": (lambda f: load_plm(f).n_layers, 2) for n in ("ddp", "orig_mod", "hf_bin")}


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared cases")
@pytest.mark.parametrize("name", READ)
def test_shared_cases(name):
    read, right = READ[name]
    if isinstance(right, str) and right not in (A, "MKTHCHHKDEHHHCVKSHFSRQ"):
        with pytest.raises((DataError, ModelError), match=right):
            read(SHARED / name)
    else:
        assert told(lambda: read(SHARED / name))[0] == right
