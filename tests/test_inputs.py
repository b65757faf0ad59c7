"What users bring, through the commands: headers, labels of proteins and residues, DSSP files, and a model that leaves again"

import io
import re
import subprocess
import sys
from contextlib import chdir, redirect_stdout

import pytest
from test_runs import SHORT, shell

from plmsub.app.command import _hyphens
from plmsub.app.commands import COMMANDS, main, plmsub_data, plmsub_domain, plmsub_train
from plmsub.base.errors import ConfigError
from plmsub.base.files import package_file
from plmsub.io.cath import read_domains
from plmsub.io.structures import Chain, ideal_backbone, write_pdb
from plmsub.io.toy import write_toy


def short(**flags):
    return SHORT + ["--steps", "4"] + [x for k, v in flags.items() for x in (f"--{k}", str(v))]


@pytest.fixture
def toy(tmp_path):
    write_toy(tmp_path)
    return read_domains("toy")


def test_domain_prints_its_record(tmp_path, toy):
    (tmp_path / "names.txt").write_text(f"# names\n1    {toy[0].id}    :Mainly Alpha\n")
    status, said = shell(
        tmp_path, "plmsub_domain", toy[0].id, "--domains", "toy.clf", "--fasta", "toy.fa", "--names", "names.txt"
    )
    assert status == 0, said
    for word in (toy[0].id, toy[0].boundary, toy[0].code, toy[0].sequence, "Mainly Alpha", "S100 count", "resolution"):
        assert word in said, word
    status, said = shell(tmp_path, "plmsub_domain", "9zzzA00")
    assert status == 1 and "not in the toy proteome" in said and "--domains FILE" in said and "Traceback" not in said


def test_domain_looks_at_what_was_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("PLMSUB_DATA", str(tmp_path))
    (tmp_path / "cath").mkdir()
    for name, file in (
        ("cath-domain-list-v4_3_0.txt", "toy.clf"),
        ("cath-dataset-nonredundant-S20-v4_3_0.fa", "toy.fa"),
    ):
        (tmp_path / "cath" / name).write_text(package_file(file).read_text().replace("1t00A01", "9abcA01"))
    status, said = shell(tmp_path, "plmsub_domain", "9abcA01")
    assert status == 0 and "cath-domain-list-v4_3_0.txt" in said and read_domains("toy")[0].sequence in said, said
    status, said = shell(tmp_path, "plmsub_domain", "1t00A01")
    assert status == 0 and re.search("list +toy\n", said), said


def test_data_lists_releases_and_refuses_other_names(tmp_path, monkeypatch):
    monkeypatch.setenv("PLMSUB_DATA", str(tmp_path / "data"))
    status, said = shell(tmp_path, "plmsub_data")
    assert status == 0 and "cath-s20" in said and "esm1v_t33_650M_UR90S_5" in said
    status, said = shell(tmp_path, "plmsub_data", "cath-s21")
    assert status == 1 and "cath-s21" in said and "Traceback" not in said


def test_proteins_by_their_headers(tmp_path, toy):
    fasta = "".join(
        f">sp|P{i:05}|X{i}_{'ECOLI' if i % 3 else 'YEAST'} Protein {i} OS={'Escherichia coli' if i % 3 else 'Saccharomyces'} "
        f"OX={562 if i % 3 else 4932} PE=1 SV=1\n{d.sequence}\n"
        for i, d in enumerate(toy[:200])
    )
    (tmp_path / "sprot.fasta").write_text(fasta)
    flags = short(fasta="sprot.fasta", headers="uniprot", category="taxon=4932", split_by="domain", out="run")
    status, said = shell(tmp_path, "plmsub_train", *flags)
    assert status == 0, said
    status, said = shell(tmp_path, "plmsub_eval", "--run", "run", "--passes", "1", "--draws", "1")
    assert status == 0, said
    (tmp_path / "sprot.fasta").write_text(fasta.replace("OX=562", "OX=none", 1))
    flags = short(fasta="sprot.fasta", headers="uniprot", category="taxon=4932", split_by="domain", out="skipped")
    status, said = shell(tmp_path, "plmsub_train", *flags)
    assert status == 1 and "line" in said, said
    status, said = shell(tmp_path, "plmsub_train", *flags, "--skip")
    assert status == 0 and "1 record left out" in said, said
    (tmp_path / "sprot.fasta").write_text(fasta)
    status, said = shell(
        tmp_path, "plmsub_train", *short(fasta="sprot.fasta", headers="deeplocpro", category="taxon=4932", out="other")
    )
    assert status == 1 and "--headers uniprot" in said and "line 1" in said, said


def test_labels_of_residues(tmp_path, toy):
    (tmp_path / "sites.tsv").write_text(
        "".join(f"{d.id}\t{''.join('B' if a in 'AL' else '-' for a in d.sequence)}\n" for d in toy[:300])
    )
    status, said = shell(tmp_path, "plmsub_train", *short(category="residues:sites.tsv:B", out="run"))
    assert status == 0 and "300 of 960 proteins used" in said, said
    (tmp_path / "sites.tsv").write_text(f"{toy[0].id}\tBB\n")
    status, said = shell(tmp_path, "plmsub_train", *short(category="residues:sites.tsv:B", out="short"))
    assert status == 1 and "2 letters for" in said and "Traceback" not in said, said


def test_a_subnetwork_leaves(tmp_path, toy):
    assert shell(tmp_path, "plmsub_train", *short(out="run"))[0] == 0
    for out, inside in (("esm2_out.pt", None), ("out", "model.safetensors")):
        status, said = shell(tmp_path, "plmsub_export", "--run", "run", "--out", out)
        assert status == 0, said
        assert (tmp_path / out / inside if inside else tmp_path / out).stat().st_size > 100_000
    status, said = shell(tmp_path, "plmsub_export", "--run", "run", "--out", "out")
    assert status == 1 and "Traceback" not in said, said


def test_secondary_structure_without_cath_codes(tmp_path, toy):
    (tmp_path / "mine.fasta").write_text("".join(f">P{i}\n{d.sequence}\n" for i, d in enumerate(toy[:60])))
    rows = "".join(f"P{i}\tDSSP8\t{d.sequence}\t{d.dssp}\n" for i, d in enumerate(toy[:50]))
    (tmp_path / "mine.tsv").write_text("domain\talphabet\tsequence\tss\n" + rows)
    flags = short(fasta="mine.fasta", headers="plain", dssp="mine.tsv", category="helix", split_by="domain", out="run")
    status, said = shell(tmp_path, "plmsub_train", *flags)
    assert (
        status == 0 and "10 of 60 proteins get no secondary structure" in said and "50 of 60 proteins used" in said
    ), said


@pytest.mark.parametrize(
    "command, flags",
    [
        (plmsub_train, dict(dash="coil")),
        (plmsub_train, dict(dssp_by="pydssp")),
        (plmsub_train, dict(dssp=".", dash="coil")),
        (plmsub_train, dict(headers="plain", fasta="toy.fa", domains="toy.clf")),
        (plmsub_train, dict(min_length=600, max_length=700)),
        (plmsub_domain, dict(id="1t00A01", fasta="toy.fa")),
        (plmsub_domain, dict(id="1t00A01", domains="toy.clf", dssp="toy_dssp.fa")),
        (plmsub_data, dict(unpacked=True)),
    ],
)
def test_flags_without_a_use_are_refused(tmp_path, toy, monkeypatch, command, flags):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError):
        command(**flags)
    assert not (tmp_path / "runs").exists()


# --- The shell's own words


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--category", "1.10.10.10"], "--suppressed-by domain"),
        (["--fasta", "stop.fa", "--headers", "plain", "--strict"], "Without --strict this is left out"),
        (
            ["--domains", "toy.clf", "--fasta", "toy.fa", "--dssp", "structures", "--category", "helix"],
            "--dssp-by pydssp",
        ),
        (["--domains", "toy.clf", "--fasta", "toy.fa", "--dssp", "dashes.fa"], "--dash coil or --dash unassigned"),
        (["--domains", "toy.clf", "--fasta", "cut.fa"], "Take list and sequences from one release of CATH\n"),
        (["--headers", "deeplocpro", "--fasta", "toy.fa"], "--headers cath"),
        (["--category", "taxon=9606"], "such as --headers uniprot"),
        (["--skip"], "--skip is for FASTA files"),
        (["--fasta", "toy.fa"], "--domains FILE"),
        (["--learning_rate", "0"], "--learning-rate must be"),
        (["--steps", "0"], "--steps must be"),
    ],
)
def test_errors_speak_of_flags(tmp_path, toy, flags, words):
    sequence = toy[0].sequence
    (tmp_path / "stop.fa").write_text(f">a\n{sequence}*\n")
    (tmp_path / "dashes.fa").write_text(f">{toy[0].id}\n{'-' * len(sequence)}\n")
    (tmp_path / "cut.fa").write_text(f">{toy[0].id}\n{sequence[1:]}\n")
    (tmp_path / "structures").mkdir()
    write_pdb(Chain(sequence, ideal_backbone([(-57, -47)] * len(sequence))), tmp_path / f"structures/{toy[0].id}.pdb")
    with redirect_stdout(io.StringIO()), pytest.raises(SystemExit) as e, chdir(tmp_path):
        plmsub_train.main([*flags, "--out", "run"])
    said = f"{e.value.code}\n"
    assert said.startswith("plmsub_train: ") and words in said and said.count("\n") == 1, said
    assert not re.search(r"\b[a-z_]+=['\"]|=(True|False)", said), said


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_takes_hyphens_and_underscores(name, capsys):
    "And every command has a help, in groups, with an example and no empty default"
    for flag in COMMANDS[name].parser()._option_string_actions:
        _hyphens_only(COMMANDS[name], flag)
    with pytest.raises(SystemExit) as e:
        COMMANDS[name].main(["--help"])
    said = capsys.readouterr().out
    assert e.value.code == 0 and "examples:" in said and "default: )" not in said and "None" not in said
    assert name in said.partition("examples:")[2]


def _hyphens_only(command, flag):
    parser = command.parser()
    value = {} if parser._option_string_actions[flag].nargs == 0 else {"": "1"}
    spelled = [[name, *value.values()] for name in (flag, flag[:2] + flag[2:].replace("-", "_"))]
    if flag not in ("-h", "--help"):
        assert "_" not in flag and _hyphens(spelled[0], {}) == _hyphens(spelled[1], {})


def test_plmsub_lists_and_starts_commands(capsys):
    main([])
    said = capsys.readouterr().out
    assert all(f"plmsub_{name} " in said for name in COMMANDS)
    with pytest.raises(SystemExit) as e:
        main(["train", "--help"])
    said = capsys.readouterr().out
    assert e.value.code == 0 and said.startswith("usage: plmsub train ")
    for heading in ("Proteins", "Split", "Model", "Objective", "Mask", "Training", "Validation"):
        assert f"\n{heading}:\n" in said, heading
    with pytest.raises(SystemExit) as e:
        main(["trian"])
    assert e.value.code == 2 and "no command trian" in capsys.readouterr().err


def test_python_m_plmsub(tmp_path):
    done = subprocess.run([sys.executable, "-m", "plmsub", "--version"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("plmsub 0."), done.stderr


def test_old_names_of_flags(tmp_path, toy):
    with redirect_stdout(io.StringIO()), chdir(tmp_path):
        quick = dict(steps=1, valid_every=1, valid_proteins=16)
        assert plmsub_train(suppress="2", out="run", **quick).category.name == "2"
        plmsub_train.main(["--suppress=2", "--out", "run", *(x for k, v in quick.items() for x in (f"--{k}", str(v)))])
