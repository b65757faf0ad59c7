"""Which inputs should the KL terms see? Valid S and D on the toy, by seed and by the weight of the teacher term.

    python benchmarks/kl_inputs.py [--seeds 3] [--steps 300] [--out nbs/results/kl_inputs.csv]

Inputs are compared at matched damage: each is run with several weights of the term that maintains, and the best mask within the
limit on D counts. The table says what the default of `TrainConfig.kl_inputs` rests on; the test part is not used."""
import argparse, json, tempfile
from pathlib import Path
import pandas as pd, torch
from plmsub.all import *
from plmsub.core import provenance, write_json

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--steps', type=int, default=TrainConfig.steps)
    parser.add_argument('--out', type=Path, default=Path('nbs/results/kl_inputs.csv'))
    flags = parser.parse_args()
    plm, domains, target, rows = load_plm('toy'), read_domains('toy'), cath_category('1'), []
    for seed in range(flags.seeds):
        parts = split(domains, seed=seed, category=target)
        for inputs in ('clean', 'masked', 'both'):
            for maintain in (20., 60.):
                config = TrainConfig(steps=flags.steps, kl_inputs=inputs, maintain_weight=maintain, seed=seed, valid_passes=2)
                run = fit(plm, parts, target, config, Path(tempfile.mkdtemp())/'run')
                rows.append(dict(kl_inputs=inputs, maintain_weight=maintain, seed=seed, **run.scores))
                print(rows[-1], flush=True)
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).round(4).to_csv(flags.out, index=False)
    write_json(flags.out.with_suffix('.json'), provenance(plm.device, command='python benchmarks/kl_inputs.py', seeds=flags.seeds, steps=flags.steps, model=plm.fingerprint))
