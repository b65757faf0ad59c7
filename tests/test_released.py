"The paper from the command line: its settings, its runs, its files, its figures"
import json, shutil, zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np, pandas as pd, pytest
from test_runs import shell

import plmsub.cli
from plmsub.cath import read_clf
from plmsub.cli import plmsub_data, plmsub_eval, plmsub_figures, plmsub_sweep
from plmsub.core import PlmsubError
from plmsub.figures import table2b, table2c, table3b, table3c
from plmsub.original import RELEASED, released_config
from plmsub.released import made_up_results, read_perplexity, read_runs, write_results
from plmsub.results import result_tables
from plmsub.sweep import Job

QUICK = dict(steps=6, keep=.55, lr=.5, valid_every=6, valid_proteins=16, max_damage=10.)

# --- Settings of the release

def test_preset_with_released_flags(tmp_path):
    status, said = shell(tmp_path, 'plmsub_train', '--preset', 'paper_cath', '--steps', '2', '--max_lr', '0.05', '--mask_temperature', '3.0', '--lr_phaseA', '0.1',
                         '--resume_last', '--model_name', 'esm2_t30', '--valid_every', '2', '--valid_proteins', '16', '--out', 'run')
    assert status == 0, said
    about = json.loads((tmp_path/'run/config.json').read_text())
    n_train = len(json.loads((tmp_path/'run/split.json').read_text())['train'])
    wanted = released_config('paper_cath', 4, n_train, 2, lr=.05, temperature_start=3., valid_every=2, valid_proteins=16)
    assert about['config'] == json.loads(json.dumps(asdict(wanted)))
    named = {line.split()[1] for line in said.splitlines() if line.startswith('warning: ')}
    assert named == {'lr_phaseA', 'resume_last', 'model_name'}, said

@pytest.mark.parametrize('preset', RELEASED)
def test_every_preset_is_the_papers(preset):
    "PAPER: weights, temperatures, threshold, first probability, batches, layers and schedules of the published runs"
    table = dict(paper_cath=(10, 7, 1, 3.2, .40, 27, 1000), paper_dssp=(50, 100, 1.2, 3.3, .38, 27, 800), plos_cath=(10, 7, 1, 3., .40, 33, 1000))
    c, _ = plmsub.cli._config(dict(preset=preset, steps=1920), 33, 6219)
    epoch = 6219//64
    assert (c.suppress_weight, c.maintain_weight, c.mlm_weight, c.temperature_start, c.threshold, len(c.layers), c.lr_steps//epoch) == table[preset]
    assert (c.keep, c.temperature_end, c.batch_size, c.suppressed, c.accumulate, c.temperature_steps//epoch) == (.96, .01, 16, 4, 4, 300)
    assert (c.lr, c.warm_up, c.start_div, c.sparsity_weight, c.kl_inputs, c.double_softmax, c.steps) == (.1, 1/125, 1, 0, 'clean', True, 1920)

@pytest.mark.parametrize('flags, words', [(['--max_lr', '0.1'], 'Use lr'), (['--mask_temp_decay', 'cosine'], 'give --preset'), (['--preset', 'cath'], 'paper_dssp'),
    (['--preset', 'paper_cath', '--final_div', '10'], 'one thirtieth'), (['--preset', 'paper_cath', '--max_lr', 'high'], 'lr cannot be this')])
def test_wrong_settings_are_one_line(tmp_path, flags, words):
    status, said = shell(tmp_path, 'plmsub_train', *flags)
    assert status == 1 and words in said and 'Traceback' not in said and len(said.strip().splitlines()) == 1, said

# --- The runs of the paper

def test_impossible_targets_are_refused_before_a_model_is_loaded(tmp_path):
    status, said = shell(tmp_path, 'plmsub_sweep', 'paper', '--plm', 'nowhere.pt')
    assert status == 1 and 'runs are impossible' in said and 'nowhere' not in said and 'Traceback' not in said, said
    assert not (tmp_path/'runs').exists()

def test_a_dry_run_prices_the_paper(tmp_path):
    status, said = shell(tmp_path, 'plmsub_sweep', 'paper', '--dry-run', '--levels', 'residue,class,random')
    assert status == 0, said
    for words in ('1920', 'hours of training on cpu', 'GB of masks', 'cannot be a category', '7 of 9 runs'): assert words in said, (words, said)
    assert not (tmp_path/'runs').exists()

def test_a_sweep_runs_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jobs = [Job('1', 'released', settings=QUICK), Job('helix', 'released', settings=QUICK)]
    monkeypatch.setattr(plmsub.cli, 'paper_jobs', lambda preset, levels, seeds: jobs[:1] if levels else jobs)
    first = plmsub_sweep('paper', levels='class', proteins=20, draws=1, out='sweep')
    mask = next((tmp_path/'sweep').glob('*/mask.safetensors'))
    made = mask.stat().st_mtime_ns
    both = plmsub_sweep('paper', proteins=20, draws=1, out='sweep')
    assert (first.state.tolist(), both.state.tolist()) == (['done'], ['done', 'done']) and mask.stat().st_mtime_ns == made
    again = plmsub_sweep(proteins=20, draws=1, out='sweep') # the table is remembered
    assert again.folder.tolist() == both.folder.tolist()
    plmsub_eval(csv='sweep/runs.csv', part='all', proteins=60, passes=2, out='theirs') # as the release's scripts do it
    runs, losses = read_runs('theirs'), read_perplexity('theirs')
    ids = losses.groupby('run').id.agg(set)
    assert sorted(runs.level) == ['class', 'residue'] and (losses.groupby(['run', 'id']).size() == 2).all()
    assert all(len(ids[run]) == 60 for run in runs.run) and ids[''] == set.union(*ids[runs.run])
    drawn = plmsub_figures('theirs', domains='toy')
    assert {'figure1', 'figure2b', 'figure2c', 'figure2c_as_released'} <= set(drawn.figure[drawn.drawn])
    own = plmsub_figures('sweep', kind='released')
    assert set(own.figure[own.drawn]) == set(drawn.figure[drawn.drawn])
    with pytest.raises(PlmsubError, match='kind'): plmsub_figures('sweep')

@pytest.mark.parametrize('text, words', [('', 'empty'), ('run\na\n', 'column folder'), ('folder\nnowhere\n', 'no run here'), ('folder\na/x\nb/x\n', 'one name')])
def test_tables_of_runs_that_are_wrong(tmp_path, text, words):
    (tmp_path/'runs.csv').write_text(text)
    with pytest.raises(PlmsubError, match=words): plmsub_eval(csv=str(tmp_path/'runs.csv'))

# --- The files of the paper

def test_results_that_are_there_are_used(tmp_path, capsys):
    made_up_results(tmp_path/'paper'/'by-hand', 200, 1)
    plmsub_data(['paper'], folder=str(tmp_path)) # tests are offline
    assert 'here already' in capsys.readouterr().out

def test_results_are_fetched_and_unpacked(tmp_path, monkeypatch, capsys):
    place = made_up_results(tmp_path/'made', 200, 1)
    def fetch(name, folder):
        at = Path(folder)/'paper'/name
        at.mkdir(parents=True)
        with zipfile.ZipFile(at/'results.zip', 'w') as z:
            for file in place.rglob('*'):
                if file.is_file(): z.write(file, file.relative_to(place.parent))
        return at
    monkeypatch.setattr(plmsub.cli, 'fetch', fetch)
    plmsub_data(['paper-zenodo'], folder=str(tmp_path))
    assert plmsub.cli.paper_results(tmp_path) is not None
    capsys.readouterr()
    plmsub_data(['paper'], folder=str(tmp_path))
    assert 'here already' in capsys.readouterr().out

# --- Its figures

@pytest.fixture(scope='module')
def made_up(tmp_path_factory):
    folder = tmp_path_factory.mktemp('figures')
    return folder, shell(folder, 'plmsub_figures', 'made-up', '--made-up')

def test_every_panel_from_one_command(made_up):
    folder, (status, said) = made_up
    assert status == 0 and 'not drawn' not in said, said
    figures = folder/'made-up/figures'
    names = [line.split()[0] for line in said.splitlines() if line.startswith('figure')]
    assert len(names) == 14 and {f.name for f in figures.iterdir()} == {f'{n}.{e}' for n in names for e in ('png', 'svg', 'pdf', 'csv')} | {'captions.md'}
    captions = [line for line in (figures/'captions.md').read_text().splitlines() if line]
    assert len(captions) == 14 and all('** Made up' in line for line in captions)
    assert all('made up' in (figures/f'{n}.svg').read_text() for n in names) # in the picture itself
    assert (pd.read_csv(figures/'figure3f.csv').n > 0).all()

def test_what_cannot_be_drawn_is_named(made_up, tmp_path):
    shutil.copytree(made_up[0]/'made-up/results', tmp_path/'results')
    shutil.rmtree(tmp_path/'results/esmfold_650M_pdbs')
    (tmp_path/'results/esm2_650M_perplexity.csv').unlink()
    (tmp_path/'results/subnetworks/made-up-class-3/tmalign.csv').unlink()
    status, said = shell(tmp_path, 'plmsub_figures', '.')
    assert status == 0 and 'not drawn: there is no table suppressed' in said, said # no list of domains
    status, said = shell(tmp_path, 'plmsub_figures', '.', '--domains', made_up[0]/'made-up/cath/cath.clf')
    lines = {line.split()[0]: line for line in said.splitlines() if line.startswith('figure')}
    assert status == 0 and 'esm2_650M_perplexity.csv' in lines['figure2c'] and 'without made-up-class-3' in lines['figure3b'], said
    assert 'not drawn' in lines['figure3f'] and 'not drawn' in lines['figure3de'] and lines['figure1'].endswith('drawn')

def test_errors_are_one_line(tmp_path):
    for flags, words in ((['.'], 'neither released results'), ([], 'plmsub_data paper'), (['nowhere'], 'neither released results')):
        status, said = shell(tmp_path, 'plmsub_figures', *flags)
        assert status == 1 and words in said and 'Traceback' not in said, said

# --- By hand: five domains and two runs, through the files

@pytest.fixture
def by_hand(tmp_path):
    """Class 1 (domains a, b) was suppressed by one run, helix residues by another; both were trained on b

    Losses in two passes: class run a 3.0, 3.2; b 2.9, 2.9; c 2.1, 2.1; d 2.3, 2.3; e 2.5, 2.5; ESM-2 2.0 everywhere."""
    ids = [f'9abcA0{k}' for k in range(1, 6)]
    codes = ['1.10.8.10', '1.10.8.20', '2.30.30.40', '2.30.30.40', '3.40.50.10']
    clf = ''.join(f'{i} {" ".join(c.replace(".", " ").split())} 1 1 1 1 1 {n} 2.000\n' for i, c, n in zip(ids, codes, (70, 90, 80, 100, 120)))
    (tmp_path/'list.txt').write_text(clf)
    runs = pd.DataFrame([dict(run='by-class', level='class', target='1', size=2, type='alpha', epoch=19, steps=1920, sparsity_percent=2.13),
                         dict(run='by-helix', level='residue', target='helix', size=2, type='alpha', epoch=1, steps=196, sparsity_percent=.9)])
    def losses(run, nll, helix, strand, coil):
        return pd.DataFrame(dict(run=run, id=ids*2, nll_nats=nll, perplexity=np.exp(nll), helix_nats=helix, strand_nats=strand, coil_nats=coil)).assign(
            **{'pass': lambda t: t.groupby('id').cumcount()})
    perplexity = pd.concat([losses('', [2.]*10, 2.1, 1.9, 1.7), losses('by-class', [3, 2.9, 2.1, 2.3, 2.5, 3.2, 2.9, 2.1, 2.3, 2.5], 2., 2., 2.),
                            losses('by-helix', [2.]*10, [3., 3, 0, 0, 2.6, 3.4, 3, 0, 2.4, 2.6], [0., 0, 2, 2, 2.2, 0, 0, 2, 2, 2.2], 1.8)])
    def scores(run, plddt): return pd.DataFrame(dict(run=run, id=ids, tm_score=.8, rmsd_A=2., plddt=plddt))
    structure = pd.concat([scores('', 80.), scores('by-class', [50., 60, 78, 76, 74]), scores('by-helix', [50., 60, 72, 70, 71])])
    splits = pd.DataFrame([(run, i, 'train' if i == ids[1] else 'valid') for run in runs.run for i in ids], columns=['run', 'id', 'part'])
    write_results(tmp_path, runs, perplexity, structure, splits)
    return tmp_path

def test_numbers_of_the_panels_by_hand(by_hand):
    tables = result_tables(by_hand, list(read_clf(by_hand/'list.txt').values()))
    at = lambda t, value: t.set_index(['run', 'model', 'side'])[value]
    ppl = at(table2c(tables), 'perplexity')
    wanted = {('by-class', 'subnetwork', 'suppressed'): 3.1, ('by-class', 'subnetwork', 'maintained'): 2.3, ('by-class', 'ESM-2', 'suppressed'): 2.,
              ('by-helix', 'subnetwork', 'suppressed'): (3.2 + 2.4 + 2.6)/3, ('by-helix', 'subnetwork', 'maintained'): (1.8 + 1.9 + 1.9 + 2.)/4, ('by-helix', 'ESM-2', 'maintained'): 1.8}
    for key, nats in wanted.items(): np.testing.assert_allclose(ppl[key], np.exp(nats))
    np.testing.assert_allclose(at(table2c(tables, True), 'perplexity')['by-class', 'subnetwork', 'suppressed'], np.exp([3, 3.2, 2.9, 2.9]).mean())
    change = table3b(tables).query('metric == "plddt"').set_index(['run', 'side']).change
    np.testing.assert_allclose([change['by-class', s] for s in ('suppressed', 'maintained')], [-30, -4]) # a; c, d, e: -2, -4, -6
    np.testing.assert_allclose([change['by-helix', s] for s in ('suppressed', 'maintained')], [-30, -9]) # class 1; -8, -10, -9
    excess = table3c(tables).query('metric == "plddt"').set_index('run').excess
    np.testing.assert_allclose(excess[['by-class', 'by-helix']], [26, 21])
    released = table3b(tables, True).query('metric == "plddt"').set_index(['run', 'side']).change
    np.testing.assert_allclose(released['by-helix', 'suppressed'], -9) # class 2: c, d
    bars = table2b(tables, True).set_index('level')
    np.testing.assert_allclose(bars.loc[['residue', 'class'], 'steps_times_4_mean'], [784, 7680])
