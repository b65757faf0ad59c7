"""Which inputs should the KL terms see? Valid S and D on the toy, class 1, by seed.

    python benchmarks/kl_inputs.py [--seeds 2] [--steps 300] [--out nbs/results/kl_inputs.csv]

The best mask within the limit on D counts, so the settings are compared at like damage. The table is what the default of
`TrainConfig.kl_inputs` rests on; the test part is not used."""
import argparse, tempfile, time
from pathlib import Path
import pandas as pd
from plmsub.all import *
from plmsub.core import provenance, write_json

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, default=2)
    parser.add_argument('--steps', type=int, default=TrainConfig.steps)
    parser.add_argument('--out', type=Path, default=Path('nbs/results/kl_inputs.csv'))
    flags = parser.parse_args()
    plm, domains, target, rows = load_plm('toy'), read_domains('toy'), cath_category('1'), []
    for seed in range(flags.seeds):
        parts = split(domains, seed=seed, category=target)
        for inputs in ('masked', 'clean', 'both'):
            start = time.perf_counter()
            run = fit(plm, parts, target, TrainConfig(steps=flags.steps, kl_inputs=inputs, seed=seed), Path(tempfile.mkdtemp())/'run')
            rows.append(dict(kl_inputs=inputs, seed=seed, **run.scores, seconds=round(time.perf_counter() - start)))
            print(rows[-1], flush=True)
            pd.DataFrame(rows).round(4).to_csv(flags.out, index=False)
    write_json(flags.out.with_suffix('.json'), provenance(plm.device, command='python benchmarks/kl_inputs.py', seeds=flags.seeds, steps=flags.steps, model=plm.fingerprint))
