"Comparison of structures: real files, both formats, damaged models, and processes that die or do not come back"
import gc, gzip, os, sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from plmsub import structure
from plmsub.coordinates import Chain, ideal_backbone, pdb_text, read_chain, write_pdb
from plmsub.core import PlmsubError, numpy_rng, shared_dir
from plmsub.structure import contact_map, lddt, read_beta, rmsd, score_folder, score_pair, shared_residues, tm_score

try:
    import hypothesis, hypothesis.strategies as st
    from formats import CHAIN, MMCIF
    from fuzz import guarded, mutants
except ImportError: hypothesis = None
if sys.platform == 'win32': hypothesis = None # the time limit needs SIGALRM

SEQUENCE = 'SAELEKLAKEAAKKGPNPSGTVTVEVGNGKVTVRV'
ANGLES = [(-57, -47)]*14 + [(-75, 145)]*5 + [(-120, 130)]*6 + [(50, 45), (85, 10)] + [(-120, 130)]*8
NATIVE = Chain(SEQUENCE, ideal_backbone(ANGLES), b_factors=np.full(35, 80.))

def off(sd, seed=0): return replace(NATIVE, atoms=NATIVE.atoms + numpy_rng(seed, 'off').normal(0, sd, NATIVE.atoms.shape))

def test_scores_do_not_depend_on_place_and_numbers():
    model, turn = off(.5), np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    moved = replace(model, atoms=model.atoms @ turn + [5, -700, 20], numbers=[(i, 'B') for i in range(-9, 26)], name='Q')
    for score in (rmsd, lddt, lambda *pair: tm_score(*pair)['tm_score']):
        assert score(moved, NATIVE) == pytest.approx(score(model, NATIVE), abs=1e-6)

def test_rmsd_is_the_least():
    model, rng = off(1), numpy_rng(0, 'rotations')
    a, b = (c.atoms[:, 1] - c.atoms[:, 1].mean(0) for c in (model, NATIVE))
    for _ in range(200):
        q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        assert rmsd(model, NATIVE) <= np.sqrt((((a @ (q*np.linalg.det(q)) - b)**2).sum(1)).mean()) + 1e-9

@pytest.mark.parametrize('missing', [(), (0,), (34,), (6, 7, 8), (0, 12, 13, 33, 34), tuple(range(20))])
def test_residues_that_were_not_seen(missing):
    seen = [i for i in range(35) if i not in missing]
    assert shared_residues(NATIVE, NATIVE[seen]).tolist() == [[i, j] for j, i in enumerate(seen)]
    assert rmsd(NATIVE, NATIVE[seen]) < 1e-9 and lddt(NATIVE, NATIVE[seen]) == 1
    kept = lddt(NATIVE[seen], NATIVE)
    assert kept == 1 if not missing else kept < 1 # what the model lacks counts against it

def test_alpha_carbons_alone():
    alphas = replace(NATIVE, atoms=np.where(np.arange(4)[:, None] == 1, NATIVE.atoms, np.nan))
    row = score_pair(alphas, NATIVE)
    assert row['tm_score'] == pytest.approx(1) and row['lddt'] == 1 and np.isnan(row['q3'])
    known = ~np.isnan(contact_map(alphas, separation=0)).all(1)
    assert [letter for letter, k in zip(SEQUENCE, known) if k] == ['G']*4 # represented by CA

def test_both_formats_compressed_or_not(tmp_path):
    from formats import ATOM_SITE, BACKBONE, cif_text
    models, natives, chain = tmp_path/'models', tmp_path/'natives', off(.3)
    models.mkdir()
    text = pdb_text(chain)
    names = [line[17:20] for line in text.splitlines() if line[12:16] == ' CA ']
    cif = cif_text('atom_site', ATOM_SITE, *(f'ATOM {atom} . {name} A {i} ? {x:.3f} {y:.3f} {z:.3f} 1.00 80.0 {i} A 1'
        for i, (name, residue) in enumerate(zip(names, chain.atoms), 1) for atom, (x, y, z) in zip(BACKBONE, residue)))
    contents = {'a.pdb': text.encode(), 'b.ent.gz': gzip.compress(text.encode()), 'c': text.encode(), 'd.cif': cif.encode(),
                'e.mmcif.gz': gzip.compress(cif.encode()), 'notes.json': b'{}', '.hidden': b''}
    for name, data in contents.items(): (models/name).write_bytes(data)
    for name in 'abcde': write_pdb(NATIVE, natives/name)
    table = score_folder(models, natives)
    assert table.id.tolist() == [*'abcde'] and (table.error == '').all()
    assert (table.drop(columns='id').nunique() <= 1).all()
    saved = tmp_path/'table.csv'
    table.to_csv(saved, index=False)
    assert pd.read_csv(saved, keep_default_na=False).tm_score.astype(float).tolist() == table.tm_score.tolist()

@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='needs a file that never ends')
def test_a_file_that_never_ends_costs_its_row_only(tmp_path):
    for name in 'abcd':
        write_pdb(off(.3), tmp_path/'models'/name)
        write_pdb(NATIVE, tmp_path/'natives'/name)
    (tmp_path/'models'/'b').unlink()
    os.mkfifo(tmp_path/'models'/'b')
    table = score_folder(tmp_path/'models', tmp_path/'natives', timeout=10).set_index('id')
    assert table.error['b'] == 'it took more than 10 s' and (table.error.drop('b') == '').all()
    assert table.tm_score.drop('b').nunique() == 1

def test_a_batch_that_is_given_up_leaves_no_process():
    code = 'import time; from plmsub.structure import _serve; _serve(lambda n: n or time.sleep(1000))'
    workers, real = [], structure._start
    structure._start = lambda code, started, over: workers.append(started) or real(code, started, over)
    try:
        answers = structure._in_processes(code, [[0], [1], [2]], processes=2, timeout=1000)
        assert next(answers)[1] in (1, 2)
        answers.close()
    finally: structure._start = real
    assert len(workers[0]) == 2 and all(worker.poll() is not None for worker in workers[0])

@pytest.mark.skipif(hypothesis is None, reason='needs hypothesis and SIGALRM')
@pytest.mark.parametrize('name, data', [('toy.pdb', 'pdb'), ('toy.cif', 'mmcif')])
def test_damaged_models_are_refused_by_name_or_scored(tmp_path, name, data):
    content = pdb_text(replace(CHAIN, b_factors=np.full(9, 80.))).encode() if data == 'pdb' else MMCIF.encode()
    scored, refused = [], []
    gc.collect() # what earlier tests left behind speaks up here, not below

    @hypothesis.settings(max_examples=150, database=None, deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(mutants({name: content}))
    def each(files):
        (tmp_path/name).write_bytes(files[name])
        for score in (lambda: score_pair(tmp_path/name, CHAIN), lambda: read_beta(tmp_path/name)):
            with guarded() as (warned, said):
                try: scored.append(score())
                except PlmsubError as e: refused.append(e)
            assert not warned and not said.getvalue()
    each()
    assert scored and refused and not any(e.__cause__ for e in refused)

@pytest.mark.skipif(shared_dir() is None, reason='needs the shared data')
def test_real_structures_with_themselves_and_others():
    files = sorted((shared_dir()/'structures'/'pfam40').glob('*.pdb'))[:12]
    chains = [read_chain(f) for f in files]
    for file, chain, other in zip(files, chains, chains[1:] + chains[:1]):
        row = score_pair(file, file, highest=None)
        assert row['tm_score'] == pytest.approx(1, abs=1e-6) and row['rmsd_all_A'] < 1e-6 and row['lddt'] == row['q3'] == 1
        assert 0 < score_pair(chain, other, highest=None, same_sequence=False)['tm_score'] < 1
        with pytest.raises(PlmsubError, match='not of one sequence'): score_pair(chain, other, highest=None)
