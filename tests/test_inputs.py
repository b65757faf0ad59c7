"What users bring, through the commands: headers, labels of proteins and residues, DSSP files, and a model that leaves again"
import pytest
from plmsub.cath import read_domains
from plmsub.cli import plmsub_data, plmsub_domain, plmsub_train
from plmsub.core import ConfigError
from plmsub.toy import write_toy
from test_runs import SHORT, shell

def short(**flags): return SHORT + ['--steps', '4'] + [x for k, v in flags.items() for x in (f'--{k}', str(v))]

@pytest.fixture
def toy(tmp_path):
    write_toy(tmp_path)
    return read_domains('toy')

def test_domain_prints_its_record(tmp_path, toy):
    (tmp_path/'names.txt').write_text(f'# names\n1    {toy[0].id}    :Mainly Alpha\n')
    status, said = shell(tmp_path, 'plmsub_domain', toy[0].id, '--domains', 'toy.clf', '--fasta', 'toy.fa', '--names', 'names.txt')
    assert status == 0, said
    for word in (toy[0].id, toy[0].boundary, toy[0].code, toy[0].sequence, 'Mainly Alpha', 'S100 count', 'resolution'): assert word in said, word
    status, said = shell(tmp_path, 'plmsub_domain', '9zzzA00')
    assert status == 1 and 'not in the list' in said and 'Traceback' not in said

def test_data_lists_releases_and_refuses_other_names(tmp_path, monkeypatch):
    monkeypatch.setenv('PLMSUB_DATA', str(tmp_path/'data'))
    status, said = shell(tmp_path, 'plmsub_data')
    assert status == 0 and 'cath-s20' in said and 'esm1v_t33_650M_UR90S_5' in said
    status, said = shell(tmp_path, 'plmsub_data', 'cath-s21')
    assert status == 1 and 'cath-s21' in said and 'Traceback' not in said

def test_proteins_by_their_headers(tmp_path, toy):
    fasta = ''.join(f'>sp|P{i:05}|X{i}_{"ECOLI" if i % 3 else "YEAST"} Protein {i} OS={"Escherichia coli" if i % 3 else "Saccharomyces"} '
                    f'OX={562 if i % 3 else 4932} PE=1 SV=1\n{d.sequence}\n' for i, d in enumerate(toy[:200]))
    (tmp_path/'sprot.fasta').write_text(fasta)
    flags = short(fasta='sprot.fasta', headers='uniprot', suppress='taxon=4932', split_by='domain', out='run')
    status, said = shell(tmp_path, 'plmsub_train', *flags)
    assert status == 0, said
    status, said = shell(tmp_path, 'plmsub_eval', '--run', 'run', '--passes', '1', '--draws', '1')
    assert status == 0, said
    (tmp_path/'sprot.fasta').write_text(fasta.replace('OX=562', 'OX=none', 1))
    flags = short(fasta='sprot.fasta', headers='uniprot', suppress='taxon=4932', split_by='domain', out='skipped')
    status, said = shell(tmp_path, 'plmsub_train', *flags)
    assert status == 1 and 'line' in said, said
    status, said = shell(tmp_path, 'plmsub_train', *flags, '--skip')
    assert status == 0 and '1 record left out' in said, said
    (tmp_path/'sprot.fasta').write_text(fasta)
    status, said = shell(tmp_path, 'plmsub_train', *short(fasta='sprot.fasta', headers='deeplocpro', suppress='taxon=4932', out='other'))
    assert status == 1 and "header='uniprot'" in said and 'line 1' in said, said

def test_labels_of_residues(tmp_path, toy):
    (tmp_path/'sites.tsv').write_text(''.join(f'{d.id}\t{"".join("B" if a in "AL" else "-" for a in d.sequence)}\n' for d in toy[:300]))
    status, said = shell(tmp_path, 'plmsub_train', *short(suppress='residues:sites.tsv:B', out='run'))
    assert status == 0 and '300 of 960 proteins used' in said, said
    (tmp_path/'sites.tsv').write_text(f'{toy[0].id}\tBB\n')
    status, said = shell(tmp_path, 'plmsub_train', *short(suppress='residues:sites.tsv:B', out='short'))
    assert status == 1 and '2 letters for' in said and 'Traceback' not in said, said

def test_a_subnetwork_leaves(tmp_path, toy):
    assert shell(tmp_path, 'plmsub_train', *short(out='run'))[0] == 0
    for out, inside in (('esm2_out.pt', None), ('out', 'model.safetensors')):
        status, said = shell(tmp_path, 'plmsub_export', '--run', 'run', '--out', out)
        assert status == 0, said
        assert (tmp_path/out/inside if inside else tmp_path/out).stat().st_size > 100_000
    status, said = shell(tmp_path, 'plmsub_export', '--run', 'run', '--out', 'out')
    assert status == 1 and 'Traceback' not in said, said

def test_secondary_structure_without_cath_codes(tmp_path, toy):
    (tmp_path/'mine.fasta').write_text(''.join(f'>P{i}\n{d.sequence}\n' for i, d in enumerate(toy[:60])))
    rows = ''.join(f'P{i}\tDSSP8\t{d.sequence}\t{d.dssp}\n' for i, d in enumerate(toy[:50]))
    (tmp_path/'mine.tsv').write_text('domain\talphabet\tsequence\tss\n' + rows)
    flags = short(fasta='mine.fasta', headers='plain', dssp='mine.tsv', suppress='helix', split_by='domain', out='run')
    status, said = shell(tmp_path, 'plmsub_train', *flags)
    assert status == 0 and '10 of 60 proteins get no secondary structure' in said and '50 of 60 proteins used' in said, said

@pytest.mark.parametrize('command, flags', [(plmsub_train, dict(dash='coil')), (plmsub_train, dict(dssp_by='pydssp')),
    (plmsub_train, dict(dssp='.', dash='coil')), (plmsub_train, dict(headers='plain', fasta='toy.fa', domains='toy.clf')),
    (plmsub_train, dict(min_length=600, max_length=700)), (plmsub_domain, dict(id='1t00A01', fasta='toy.fa')),
    (plmsub_domain, dict(id='1t00A01', domains='toy.clf', dssp='toy_dssp.fa')), (plmsub_data, dict(unpacked=True))])
def test_flags_without_a_use_are_refused(tmp_path, toy, monkeypatch, command, flags):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError): command(**flags)
    assert not (tmp_path/'runs').exists()
