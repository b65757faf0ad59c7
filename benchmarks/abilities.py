"""What did a mask of class 1 take from `mini`? Every ability of the full model, the subnetwork and its controls, on real proteins.

    python benchmarks/abilities.py ../shared/data [--only secondary homology]

The run is the study's first of class 1 (`python benchmarks/study.py run`, row 1). Probes are fitted on its training part and read on its test part. Tables of
rows and of abilities go to nbs/results/abilities."""
import argparse
from pathlib import Path
import pandas as pd
from plmsub.all import *
from plmsub.core import provenance, whole_file, write_json
from plmsub.structure import contact_map
from study import RUNS, TABLE, job_folder, prepare, proteins

RESULTS, SEED, DRAWS = Path('nbs/results/abilities'), 0, 2
N_TEST = 1200 # proteins of the test part at most

def chains(data, domains):
    "Real chains with backbone coordinates, under the CATH code of their domain; and their contact maps"
    folder, codes = data/'structures'/'backbone_pdb', {d.id: d.code for d in domains}
    listed = pd.read_csv(folder/'index.tsv', sep='\t').query('length >= 60').drop_duplicates('cath_domain')
    read = {r.cath_domain: read_chain(next(folder.glob(f'{r.chain}*'))) for r in listed.itertuples() if r.cath_domain in codes}
    return [Domain(id, c.sequence, code=codes[id]) for id, c in read.items()], {id: contact_map(c) for id, c in read.items()}

def tasks(models, parts, data, domains):
    "Name -> a function that gives the rows of a task"
    known = lambda part: [d for d in part if d.dssp]
    test = parts.test[:N_TEST]
    def contacts():
        some, maps = chains(data, domains)
        return cross_validated(contact_precision, models, some, 'superfamily', contacts=maps, probe='attention')
    def localisation():
        folder = data/'localisation'
        found = identity_folds(read_localisation(folder/'la_query_setHARD.fasta', folder/'la_query_setHARD_labels.txt'))
        return cross_validate(models, found, config=TuneConfig(tune='head'))
    return {'secondary': lambda: secondary_structure(models, known(parts.train), known(parts.test), seed=SEED),
            'secondary, probe of the full model': lambda: secondary_structure(models, known(parts.train), known(parts.test), fitted_on='full', seed=SEED).assign(task='the same, probe of the full model'),
            'homology': lambda: homology(models, test), 'contacts': contacts, 'localisation': localisation,
            'properties': lambda: lasso_proteins(models, test[::4], protein_targets(test[::4])[['fraction helix', 'fraction strand', 'hydrophobicity', 'isoelectric_point_pH']])}

def mutations(models, data):
    "Spearman of every assay"
    scans = {f.stem.removesuffix('_metadata'): read_variants(f) for f in sorted((data/'dms').glob('*_metadata.csv'))}
    return spearman(zero_shot(models, scans))

def main(flags):
    domains = proteins(flags.data)
    job, plm = read_jobs(TABLE)[0], load_plm('mini')
    asked = prepare(job, domains, plm.n_layers)
    run = load_run(job_folder(job, plm, asked, RUNS), plm)
    models = {'full': plm, 'subnetwork': run.subnetwork, **controls(run, DRAWS), **probe_baselines(plm)}
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name, ask in tasks(models, asked.parts, flags.data, domains).items():
        if flags.only and name not in flags.only: continue
        rows = ask()
        sides = asked.category if set(rows.code) != {''} and not name.startswith('properties') else None
        table = abilities(rows, sides)
        print(readable_abilities(table).to_string(), flush=True)
        with whole_file(RESULTS/f'{name.split(",")[0]}{"_same" if "," in name else ""}.csv') as f: table.to_csv(f, index=False, float_format='%.5g')
    if not flags.only or 'mutations' in flags.only:
        able = {name: m for name, m in models.items() if name != 'one-hot'}
        with whole_file(RESULTS/'mutations.csv') as f: mutations(able, flags.data).to_csv(f, index=False, float_format='%.5g')
    about = dict(command='python benchmarks/abilities.py ../shared/data', model=plm.fingerprint, target='1', seed=SEED, draws=DRAWS)
    write_json(RESULTS/'abilities.json', provenance('cpu', **about))

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', type=Path, nargs='?', default=Path('../shared/data'))
    parser.add_argument('--only', nargs='*', default=[])
    main(parser.parse_args())
