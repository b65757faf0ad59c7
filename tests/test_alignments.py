"Alignments: files that Biopython reads too, and numbers that a plain calculation gives."

import math

import numpy as np
import pytest
import torch
from Bio import Align, AlignIO

from plmsub.base.errors import ConfigError, DataError, PlmsubError
from plmsub.base.files import ReadingNote
from plmsub.base.seeds import numpy_rng
from plmsub.io.alignments import (
    AlignedModel,
    Alignment,
    Covariation,
    Joined,
    Profiles,
    aligned_states,
    average_product_corrected,
    mean_and_covariance,
    mutual_information,
    pair_features,
    profile_of,
    read_alignment,
    read_alignments,
    row_weights,
)
from plmsub.io.toy import toy_alignments
from plmsub.models.embed import OneHot, residue_states
from plmsub.plm import tiny_esm2
from plmsub.proteins import AMINO_ACIDS, Protein

LETTERS = AMINO_ACIDS + "-"


def random_rows(M=12, N=9, near=3):
    "Rows of which some are nearly the same"
    rng = numpy_rng("alignment", M, N)
    rows = ["".join(rng.choice([*AMINO_ACIDS[:5]], N))]
    while len(rows) < M:
        row = [*rows[-1]] if len(rows) % near else [*rng.choice([*AMINO_ACIDS[:5]], N)]
        row[int(rng.integers(1, N))] = rng.choice([*"ACD-"])
        rows.append("".join(row))
    return Alignment(tuple(f"r{m}" for m in range(M)), tuple(rows))


@pytest.fixture
def written(tmp_path):
    def write(name, text):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


# --- Reading


BLOCKS = """# STOCKHOLM 1.0
#=GF ID   made up
#=GS seq/1-6 AC X1

seq/1-6      MKV--L
other        M.VAAL
#=GR other SS HHHHHH
third        MKVA-L
#=GC RF      xxx.xx

seq/1-6      ACD
other        A-D
#=GR other SS HHH
third        AWD
#=GC RF      xxx
//
"""


def test_stockholm_in_blocks_is_what_biopython_reads(written):
    file = written("x.sto", BLOCKS)
    theirs = [(r.id, str(r.seq).replace(".", "-")) for r in AlignIO.read(file, "stockholm")]
    assert [(id.split("/")[0], row) for id, row in read_alignment(file)] == [(i.split("/")[0], r) for i, r in theirs]


def test_a2m_is_what_biopython_reads(written):
    file = written("x.a2m", ">q\nMK-..VLA\n>a\nMKLawV-A\n>b\nM--.yVLA\n>c\n-KL..VLA\n")
    theirs = Align.read(file, "a2m")
    match = [state == "D" for state in theirs.column_annotations["state"]]
    for k, (_, row) in enumerate(read_alignment(file)):
        assert "".join(c for c in row if not c.islower()) == "".join(c for c, m in zip(theirs[k], match) if m)
        assert row.replace("-", "").upper() == theirs[k].replace("-", "").upper()


ROWS = [("q", "MK-VLA"), ("a", "MKLaV-A"), ("b", "M--VLA")]


@pytest.mark.parametrize(
    "text",
    [
        "# STOCKHOLM 1.0\nq MK-.VLA\na MKLaV-A\nb M--.VLA\n//\n",
        "# STOCKHOLM 1.0\n\nq MK-.\na MKLa\nb M--.\n\nq VLA\na V-A\nb VLA\n//\n\n",
        ">q\nMK-VLA\n>a\nMKLa\nV-A\n\n>b\nM--VLA\n",
        ">q\nMK-.VLA\n>a\nMKLaV-A\n>b\nM--.VLA\n",
        ">q\r\nMK-VLA\r\n>a x\r\nMKLaV-A\r\n>b\r\nM--VLA\r\n",
    ],
)
def test_one_alignment_in_five_forms(written, text):
    assert read_alignment(written("x", text)) == ROWS


@pytest.mark.parametrize(
    "text, says",
    [
        (">a\nMKV\n>b\nMK\n", "line 3: b has 2 columns, the first row has 3"),
        (">a\nMKV\n>b\nM1V\n", "line 4: b: this letter is not known: “1”"),
        (">a\nMKV\n>a\nMKV\n", "line 3: this id was there before, in line 1"),
        ("# STOCKHOLM 1.0\na MKV\nb MK\n//\n", "line 3: b has 2 columns"),
        ("# STOCKHOLM 1.0\na MKV\nb M*V\n//\n", "line 3: b: this letter is not known: “[*]”"),
        ("# STOCKHOLM 1.0\na MKV\na MKV\n//\n", "line 3: this id was in the same block before"),
        ("# STOCKHOLM 1.0\na MKV\nb\n//\n", "line 3: a row is an id and letters"),
        ("# STOCKHOLM 1.0\na MKV\nb MKV\n", "the end .// is missing"),
        ("# STOCKHOLM 1.0\na MKV\n//\n# STOCKHOLM 1.0\nb MKV\n//\n", "line 4: another alignment begins here"),
        ("# STOCKHOLM 1.0\n//\n", "holds no row"),
        ("CLUSTAL W (1.83)\n\na MKV\n", "line 1: this format of alignments is not read"),
    ],
)
def test_what_is_no_alignment_is_refused_by_line(written, text, says):
    with pytest.raises(DataError, match=says.replace(".//", r".//.")) as e:
        read_alignment(written("x.txt", text))
    assert "x.txt" in str(e.value)


def test_small_letters_and_j_are_read_and_told(written):
    with pytest.warns(ReadingNote, match="line 1: small letters that are no insertions, read as capitals"):
        assert read_alignment(written("x.fa", ">a\nmkvl-\n>b\nmkv-a\n")) == [("a", "MKVL-"), ("b", "MKV-A")]
    with pytest.warns(ReadingNote, match="line 3: J.*read as X"):
        assert read_alignment(written("y.fa", ">a\nMK\n>b\nMJ\n"))[1] == ("b", "MX")
    with pytest.raises(DataError, match="read as X"):
        read_alignment(written("z.fa", ">a\nMK\n>b\nMJ\n"), strict=True)


def test_folder_of_alignments(written, tmp_path):
    written("b.a3m", ">q\nMKV\n>b\nM-V\n")
    written("other.sto", "# STOCKHOLM 1.0\nq MKV\nb M-V\n//\n")
    found = read_alignments(tmp_path)
    assert {name: a.ids[0] for name, a in found.items()} == {"b": "b", "other": "q"}
    assert found["b"].rows == ("MV", "MkV")


@pytest.mark.parametrize("k", range(6))
def test_columns_are_the_residues_of_any_query(k):
    rows = toy_alignments(1, doublings=3)[0].rows
    a = Alignment.of(rows, rows[k][0])
    whole = dict((id, row.replace("-", "").upper()) for id, row in rows)
    assert a.rows[0] == whole[rows[k][0]] and a.ids[0] == rows[k][0]
    assert {len([c for c in row if not c.islower()]) for row in a.rows} == {len(a.rows[0])}
    assert [a.protein(m).sequence for m in range(len(rows))] == [whole[id] for id in a.ids]


# --- Counting, plainly


def plain_weights(rows, least):
    return [1 / sum(sum(x == y for x, y in zip(a, b)) >= least * len(a) for b in rows) for a in rows]


def plain_information(a, identity, pseudocount):
    w, N, q = plain_weights(a.rows, identity), len(a.rows[0]), 21
    total = pseudocount + sum(w)
    info = np.zeros((N, N))
    for i in range(N):
        for j in range(N):
            if i == j:
                continue
            for x in LETTERS:
                for y in LETTERS:
                    both = (pseudocount / q**2 + sum(v for v, r in zip(w, a.rows) if (r[i], r[j]) == (x, y))) / total
                    fx = (pseudocount / q + sum(v for v, r in zip(w, a.rows) if r[i] == x)) / total
                    fy = (pseudocount / q + sum(v for v, r in zip(w, a.rows) if r[j] == y)) / total
                    info[i, j] += both * math.log(both / (fx * fy))
    return info


def plain_apc(x):
    n = len(x)
    of = [sum(x[i][j] for j in range(n) if j != i) / (n - 1) for i in range(n)]
    all_ = sum(x[i][j] for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return np.array([[x[i][j] - of[i] * of[j] / all_ if i != j else 0 for j in range(n)] for i in range(n)])


def test_weights_and_profile_are_counted_plainly():
    a = random_rows()
    weights = plain_weights(a.rows, 0.8)
    assert len(set(weights)) > 1
    np.testing.assert_allclose(row_weights(a.numbers), weights)
    total = 2 + sum(weights)
    for i in range(9):
        for k, letter in enumerate(LETTERS):
            f = (2 / 21 + sum(w for w, row in zip(weights, a.rows) if row[i] == letter)) / total
            assert profile_of(a, pseudocount=2)[i, k] == pytest.approx(f)
    np.testing.assert_allclose(profile_of(a).sum(1), 1)


def test_eighty_per_cent_is_similar_enough():
    a = Alignment(("a", "b", "c"), ("AAAAAAAAAA", "AAAAAAAACC", "AAAAAAACCC"))
    np.testing.assert_allclose(row_weights(a.numbers), [1 / 2, 1 / 3, 1 / 2])
    np.testing.assert_allclose(row_weights(a.numbers, 1), 1)


@pytest.mark.parametrize("pseudocount", [0.5, 22])
def test_mutual_information_is_counted_plainly(pseudocount):
    a = random_rows(N=6)
    plain = plain_information(a, 0.8, pseudocount)
    found = mutual_information(a, pseudocount=pseudocount, corrected=False)
    np.testing.assert_allclose(found, plain, atol=1e-6)
    np.testing.assert_allclose(average_product_corrected(plain + np.eye(6)), plain_apc(plain), atol=1e-12)
    np.testing.assert_allclose(mutual_information(a, pseudocount=pseudocount), plain_apc(plain), atol=1e-6)


def test_settings_of_counts_that_cannot_be():
    a = random_rows()
    for wrong in (dict(identity=0), dict(identity=1.1), dict(pseudocount=-1)):
        with pytest.raises(ConfigError):
            profile_of(a, **wrong)
    with pytest.raises(ConfigError):
        mutual_information(a, pseudocount=0)


# --- A model over the rows


def test_mean_and_covariance_are_what_loops_give():
    a = Alignment.of([("q", "MKVLA"), ("a", "MKVwLA"), ("b", "M-VLC"), ("c", "-RILA")])
    model, there = tiny_esm2(), a.numbers < 20
    states, read = aligned_states(model, a, 1)
    assert read.tolist() == [0, 1, 2, 3]
    by_row = [x[1] for _, x in sorted(residue_states(model, [a.protein(m) for m in range(4)], 1, desc=None))]
    places = [[0, 1, 2, 3, 4], [0, 1, 2, 4, 5], [0, None, 1, 2, 3], [None, 0, 1, 2, 3]]
    z = [[None if p is None else by_row[m][p].numpy().astype(float) for p in row] for m, row in enumerate(places)]
    w = np.array([0.5, 0.5, 1, 1])
    mean, covariance = mean_and_covariance(states, there, w, None)
    D, means = states.shape[2], []
    for i in range(5):
        seen = [m for m in range(4) if z[m][i] is not None]
        means.append(sum(w[m] * z[m][i] for m in seen) / sum(w[m] for m in seen))
    np.testing.assert_allclose(mean, means, atol=1e-5)
    norms = np.zeros((5, 5))
    for i in range(5):
        for j in range(5):
            c = np.zeros((D, D))
            for m in range(4):
                if z[m][i] is not None and z[m][j] is not None:
                    c += w[m] / w.sum() * np.outer(z[m][i] - means[i], z[m][j] - means[j])
            norms[i, j] = np.sqrt((c**2).sum())
    np.testing.assert_allclose(covariance, plain_apc(norms), atol=1e-4 * norms.max())
    # 20 centered columns span fewer than 16 dimensions here, so nothing is lost by the projection
    np.testing.assert_allclose(mean_and_covariance(states, there, w, 16)[1], covariance, atol=1e-3 * norms.max())


def test_rows_that_are_read_are_spread_and_begin_with_the_query():
    toy = toy_alignments(1)[0]
    _, read = aligned_states(OneHot(), Alignment.of(toy.rows), most=4)
    assert read.tolist() == [0, 21, 42, 63]
    _, read = aligned_states(OneHot(), Alignment.of([("q", "MK"), ("gaps", "--"), ("a", "MR")]))
    assert read.tolist() == [0, 2]


def test_features_stand_in_for_a_model():
    toy = toy_alignments(2, doublings=3)
    aligned = {t.domain.id: Alignment.of(t.rows) for t in toy}
    proteins = [aligned[t.domain.id].protein() for t in toy]
    over, model = AlignedModel(tiny_esm2(), aligned), tiny_esm2()
    both = Joined(Profiles(aligned), over, Covariation(aligned), model)
    for i, layers in residue_states(both, proteins, [1, 2], desc=None):
        a = aligned[proteins[i].id]
        states, _ = aligned_states(model, a, 2)
        mean, covariance = mean_and_covariance(states, a.numbers < 20, row_weights(a.numbers))
        ((_, own),) = residue_states(model, [proteins[i]], [1, 2], desc=None)
        parts = [torch.tensor(profile_of(a)).float(), torch.tensor(mean), own[2]]
        torch.testing.assert_close(layers[2], torch.cat(parts, 1), atol=1e-4, rtol=1e-4)
        assert not torch.allclose(layers[1][:, 21:], layers[2][:, 21:])
        pairs = pair_features(both, proteins[i], 2)
        torch.testing.assert_close(pairs[0], torch.tensor(covariance), atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(pairs[1], torch.tensor(mutual_information(a)).float())
    for feature in (Profiles(aligned), over, Covariation(aligned)):
        with pytest.raises(PlmsubError, match="no alignment"):
            list(residue_states(feature, [Protein("other", "MKV")], desc=None))
        with pytest.raises(PlmsubError, match="another sequence"):
            list(residue_states(Joined(feature), [Protein(proteins[0].id, "MKV")], desc=None)) or pair_features(
                feature, Protein(proteins[0].id, "MKV")
            )
