"""The small real model `mini`: its corpus, its training, and what it is worth.

    python benchmarks/mini.py corpus ../shared/data     # about 8 minutes on two cores; needs MMseqs2
    python benchmarks/mini.py train                     # about 2 hours on two cores; can be stopped and started again
    python benchmarks/mini.py score ../shared/data      # about 10 minutes

Everything lies in runs/mini. `corpus` writes train.fa, valid.fa and the table of its sources, `train` is one plmsub_pretrain, `score` compares the model with what a language model has to
beat on the held-out superfamilies, and writes its card. `score --ship` also puts the model and its card into plmsub/data."""
import argparse, subprocess, sys
from dataclasses import replace
from pathlib import Path
import pandas as pd
from plmsub.cath import Protein, of_length, read_domains
from plmsub.core import provenance, sha256_file, whole_file, write_json
from plmsub.headers import read_proteins
from plmsub.splits import clusters, relatives, split

OUT, RESULTS = Path('runs/mini'), Path('nbs/results/mini')
HELD_OUT = dict(by='superfamily', seed=0, fractions=(.8, .05, .15)) # the split of CATH S20
UNIPROT, REFSEQ = 'UniProt, CC BY 4.0', 'NCBI, no restrictions'
SOURCES = { # file in the folder corpus -> what, licence, why it is left out
    'UP000000625_83333.fasta': ('E. coli K-12, reference proteome', UNIPROT, ''),
    'UP000002311_559292.fasta': ('S. cerevisiae, reference proteome', UNIPROT, ''),
    'prokka_kingdom_Archaea_sprot.faa': ('Swiss-Prot, Archaea', UNIPROT, ''),
    'prokka_kingdom_Mitochondria_sprot.faa': ('Swiss-Prot, mitochondria', UNIPROT, ''),
    'prokka_kingdom_Viruses_sprot.faa': ('Swiss-Prot, viruses', UNIPROT, ''),
    'prokka_genus_Enterococcus.faa': ('RefSeq, Enterococcus', REFSEQ, ''),
    'prokka_genus_Staphylococcus.faa': ('RefSeq, Staphylococcus', REFSEQ, ''),
    'prokka_kingdom_Bacteria_AMR.faa': ('GenBank, resistance and virulence genes', REFSEQ, ''),
    'prokka_genus_Escherichia.faa': ('EcoCyc, E. coli K-12', 'EcoCyc', 'another copy of the first proteome, under a licence of its own'),
    'prokka_kingdom_Bacteria_IS.faa': ('ISfinder, insertion sequences', 'ISfinder', 'no licence that allows passing on'),
}
TRAINING = '--name mini --n_layers 6 --dim 192 --n_heads 3 --max_residues 512 --batch_tokens 4096 --warmup_steps 200 --precision bfloat16'

def held_out(data):
    "The split of CATH S20 that `mini` is trained and judged by"
    cath = data/'cath'
    return split(read_domains(cath/'cath-domain-list-S20-v4_3_0.txt', cath/'cath-dataset-nonredundant-S20-v4_3_0.fa'), **HELD_OUT)

def write_fasta(path, proteins):
    "Proteins under their ids"
    with whole_file(path) as f: f.write_text(''.join(f'>{p.id}\n{p.sequence}\n' for p in proteins))

def residues(proteins): return sum(len(p) for p in proteins)

def corpus(data):
    "Read the sources, take out what resembles held-out domains, keep one of each cluster"
    parts = held_out(data)
    judges = [*parts.valid, *parts.test]
    rows, ours = [dict(source='CATH v4.3.0 S20, training part', licence='CATH, CC BY 4.0', proteins=parts.train)], []
    for file, (what, licence, out) in SOURCES.items():
        skipped = []
        read = read_proteins(data/'corpus'/file, final_stop=True, skipped=skipped)
        for e in skipped: print('not read:', e)
        rows.append(dict(source=what, licence=licence, left_out=out, proteins=[replace(p, id=f'{Path(file).stem}|{p.id}') for p in read]))
    used = [row for row in rows if not row.get('left_out')]
    alike = set(relatives([p for row in used for p in row['proteins']], judges).id)
    print(f'{len(alike):,} proteins resemble held-out domains', flush=True)
    for row in used: row['kept'] = [p for p in row['proteins'] if p.id not in alike]
    stands = clusters([p for row in used[1:] for p in row['kept']])
    for row in used[1:]: row['used'] = [p for p in row['kept'] if stands[p.id] == p.id]
    used[0]['used'] = used[0]['kept']
    OUT.mkdir(parents=True, exist_ok=True)
    write_fasta(OUT/'train.fa', [p for row in used for p in row['used']])
    write_fasta(OUT/'valid.fa', of_length(parts.valid))
    table = pd.DataFrame([dict(source=row['source'], licence=row['licence'], sequences=len(row['proteins']), residues=residues(row['proteins']),
                               resemble_held_out=len(row['proteins']) - len(row['kept']) if 'kept' in row else None, used=len(row.get('used', [])),
                               residues_used=residues(row.get('used', [])), left_out=row.get('left_out', '')) for row in rows])
    table = table.astype({'resemble_held_out': 'Int64'})
    print(table.to_string())
    RESULTS.mkdir(parents=True, exist_ok=True)
    with whole_file(RESULTS/'corpus.csv') as f: table.to_csv(f, index=False)
    about = dict(command='python benchmarks/mini.py corpus', held_out=HELD_OUT, superfamilies_held_out=len({d.code for d in judges}),
                 domains_held_out=len(judges), train_sha256=sha256_file(OUT/'train.fa'), valid_sha256=sha256_file(OUT/'valid.fa'))
    write_json(RESULTS/'corpus.json', provenance('cpu', **about))

def train(steps):
    "Pretrain the model, or go on with it"
    command = f'plmsub_pretrain {OUT}/train.fa --valid {OUT}/valid.fa --out {OUT}/run {TRAINING} --steps {steps}'
    print(command, flush=True)
    sys.exit(subprocess.run(command.split()).returncode)

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', choices=['corpus', 'train', 'score'])
    parser.add_argument('data', type=Path, nargs='?', default=Path('../shared/data'))
    parser.add_argument('--steps', type=int, default=9000)
    parser.add_argument('--ship', action='store_true')
    flags = parser.parse_args()
    if flags.what == 'corpus': corpus(flags.data)
    if flags.what == 'train': train(flags.steps)
