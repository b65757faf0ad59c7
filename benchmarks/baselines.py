"""What a language model has to beat on real proteins: n-grams, composition, a window network and an LSTM on CATH S20.

    python benchmarks/baselines.py ../shared/data     # about 8 minutes of one core

All are fitted to the training part, every choice is made on the valid part, and the scores are those of the test part,
whose superfamilies no other part has. The split is that of `mini`. Writes nbs/results/baselines.csv (a row per model: what was chosen, its
perplexity, and its loss minus that of three others, with intervals over superfamilies) and baselines.json."""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from mini import HELD_OUT, held_out

from plmsub.base.files import whole_file, write_json
from plmsub.base.runs import provenance
from plmsub.comparison import compare
from plmsub.models.baselines import composition_model, lstm_net, ngram_losses, ngram_model, tuned_alpha, window_net
from plmsub.proteins import of_length
from plmsub.tasks.language_model import mlm_perplexity

TRAINING = dict(steps=2000, batch_tokens=4096, seed=0)  # of both networks
REFERENCES = {"composition": "composition", "window": "window net"}  # column -> model; beside the best n-gram


def of_counts(train, valid, test):
    "n-grams that are told the neighbors on both sides: what was chosen, and losses on test"
    chosen, tables = [], []
    for n in range(1, 6):
        alpha, grid = tuned_alpha(train, valid, n, "both sides")
        tables.append(ngram_losses(ngram_model(train, n, alpha), test, contexts=("both sides",)))
        row = dict(model=tables[-1].model[0], chosen=f"alpha {alpha:.3g}", valid_nats=grid.nll_nats.min())
        chosen.append(row)
        print(row, flush=True)
    return chosen, tables


def of_networks(train, valid, test):
    "Composition, window network and LSTM: the same"
    composition = composition_model(train, valid)
    nets = {"window net": window_net(train, valid, **TRAINING), "LSTM": lstm_net(train, valid, width=64, **TRAINING)}
    chosen = [dict(model="composition", chosen=f"a {composition.a:.3g}")]
    for name, net in nets.items():
        best = net.history.loc[net.history.valid_nats.idxmin()]
        chosen.append(dict(model=name, chosen=f"step {best.step:.0f}", valid_nats=best.valid_nats))
        print(net, chosen[-1], flush=True)
    return chosen, mlm_perplexity({"composition": composition, **nets}, test)


def compared(table, references):
    "A row per model: its perplexity, and its loss minus that of each reference, with intervals over superfamilies"
    for column, reference in references.items():
        found = compare(table, full=reference, subnetwork=None).set_index("model")
        if column == next(iter(references)):
            ends = {"perplexity_low": found.value_all_low, "perplexity_high": found.value_all_high}
            rows = pd.DataFrame(dict(perplexity=found.ppl_all) | {k: np.exp(v) for k, v in ends.items()})
        rows[[f"minus_{column}{end}" for end in ("", "_low", "_high")]] = found[["D", "D_low", "D_high"]]
    return rows.reset_index()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("nbs/results/baselines.csv"))
    flags = parser.parse_args()
    torch.set_num_threads(1)
    parts = held_out(flags.data)
    test, few = of_length(parts.test), of_length(parts.valid)
    train, valid = ([d.sequence for d in part] for part in (parts.train, few))
    counts, tables = of_counts(train, valid, test)
    best = min(counts, key=lambda row: row["valid_nats"])["model"]
    chosen, others = of_networks(train, valid, test)
    rows = compared(pd.concat([*tables, others], ignore_index=True), {"n_gram": best, **REFERENCES})
    rows = pd.DataFrame([*counts, *chosen]).merge(rows, on="model", validate="1:1")
    rows.insert(2, "valid_perplexity", np.exp(rows.pop("valid_nats")))
    print(rows.round(3).to_string())
    with whole_file(flags.out) as f:
        rows.to_csv(f, index=False, float_format="%.5g")
    residues = int(others[others.model == "LSTM"].residues.sum())
    about = dict(
        command="python benchmarks/baselines.py ../shared/data", split=HELD_OUT, training=TRAINING, best_n_gram=best
    )
    about |= dict(train=len(train), train_residues=sum(map(len, train)), valid=len(valid), test=len(test))
    about |= dict(superfamilies=len({d.code for d in test}), scored_residues=residues)
    write_json(flags.out.with_suffix(".json"), provenance("cpu", **about))
