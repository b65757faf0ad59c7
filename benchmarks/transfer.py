"""Where proteins go in the cell, learned from a language model: the 490 proteins of setHARD, five folds by 30 % identity clusters.

    python benchmarks/transfer.py --plm mini                       # head and LoRA beside composition
    python benchmarks/transfer.py --plm mini --mask MASK.safetensors # and of a subnetwork and a random mask of its sparsity

Every protein is predicted by a model that saw none of its fold; another fold says when training stops. All are shown the same
residues: of longer proteins both ends. Writes transfer_PLM.csv (scores), transfer_PLM_proteins.csv (one row a protein) and
transfer_PLM.json. The minutes of each part stand in the last."""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from plmsub.base.files import shared_dir, whole_file, write_json
from plmsub.base.runs import provenance
from plmsub.controls import random_mask
from plmsub.io.localization import read_localization, with_clusters
from plmsub.models.weights import load_plm
from plmsub.proteins import AMINO_ACIDS
from plmsub.splits import deal
from plmsub.subnetwork import Subnetwork
from plmsub.tables import tidy
from plmsub.tasks.fine_tuning import TuneConfig, shorten
from plmsub.tasks.transfer import label_prediction, transfer_scores

STRENGTHS = 10.0 ** np.arange(-3, 3)  # of the penalty's inverse


def composition(proteins, max_residues):
    "Logistic regression on the shares of the 20 amino acids, in the same folds; the penalty is chosen on the fold that says when others stop"
    texts = [shorten(p.sequence, max_residues) for p in proteins]
    x = np.array([[t.count(a) / len(t) for a in AMINO_ACIDS] for t in texts])
    truth, fold = (np.array([p.labels[k] for p in proteins]) for k in ("location", "fold"))
    found, n = truth.copy(), len(set(fold))
    for k in range(n):
        stop, test = fold == (k + 1) % n, fold == k
        train = ~(stop | test)
        fits = [
            make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=5000)).fit(x[train], truth[train])
            for c in STRENGTHS
        ]
        known = stop & np.isin(truth, truth[train])  # a class that train lacks has no probability
        best = min(fits, key=lambda f: log_loss(truth[known], f.predict_proba(x[known]), labels=f.classes_))
        found[test] = best.predict(x[test])
    rows = dict(
        metric="location accuracy",
        tune="logistic regression",
        model="composition",
        id=[p.id for p in proteins],
        value=(found == truth) * 1.0,
        fold=fold,
        group="",
    )
    left_out = [len(p) - len(t) for p, t in zip(proteins, texts)]
    return tidy(pd.DataFrame(rows | dict(truth=truth, predicted=found, left_out_residues=left_out)), "transfer")


def located(data, n=None):
    "Proteins with their places and the number of a fold, dealt from clusters of 30 % identity, places spread evenly"
    folder = data / "localisation"
    proteins = read_localization(folder / "la_query_setHARD.fasta", folder / "la_query_setHARD_labels.txt")[:n]
    proteins = with_clusters(proteins, by="mmseqs")
    groups, places = ([p.labels[k] for p in proteins] for k in ("cluster", "location"))
    folds = deal(groups, classes=places).tolist()
    return [replace(p, labels=p.labels | dict(fold=k)) for p, k in zip(proteins, folds)]


def models(flags):
    "The model, and with a mask the subnetwork and a control"
    plm = load_plm(flags.plm, flags.device)
    if flags.mask is None:
        return {"full": plm}
    subnetwork = Subnetwork(plm, flags.mask)
    return {"full": plm, "subnetwork": subnetwork, "random": Subnetwork(plm, random_mask(subnetwork.mask))}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plm", default="toy", help="a name or a path, see load_plm")
    parser.add_argument("--mask", type=Path, default=None, help="a mask file of this model")
    parser.add_argument("--tune", nargs="*", default=["head", "lora"], choices=["head", "lora", "full"])
    parser.add_argument("--max-residues", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=5, help="at most, of LoRA and full fine-tuning; the head has 300")
    parser.add_argument("--nested", action="store_true", help="average over inner models: four times as long")
    parser.add_argument("--proteins", type=int, default=None, help="only so many, to try it out")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("nbs/results"))
    flags = parser.parse_args()
    proteins, tables, minutes = located(shared_dir(), flags.proteins), [], {}
    tables.append(composition(proteins, flags.max_residues))
    of = dict(head=dict(epochs=300, patience=10))
    for tune in flags.tune:
        start = time.perf_counter()
        config = TuneConfig(
            tune,
            max_residues=flags.max_residues,
            seed=flags.seed,
            **of.get(tune, dict(epochs=flags.epochs, patience=2)),
        )
        tables.append(label_prediction(models(flags), proteins, config=config, nested=flags.nested).assign(tune=tune))
        minutes[tune] = round((time.perf_counter() - start) / 60, 2)
        print(
            tune,
            f"{minutes[tune]} min",
            transfer_scores(tables[-1]).round(3).to_string(index=False),
            sep="\n",
            flush=True,
        )
    scores = pd.concat([transfer_scores(t).assign(tune=t.tune.iloc[0]) for t in tables])
    each = pd.concat(tables)[["tune", "model", "id", "fold", "truth", "predicted", "left_out_residues"]]
    name = f"transfer_{Path(flags.plm).stem}" + ("" if flags.mask is None else "_masked")
    for end, table in (("", scores.round(4)), ("_proteins", each)):
        with whole_file(flags.out / f"{name}{end}.csv") as f:
            table.to_csv(f, index=False)
    command = f"python benchmarks/transfer.py --plm {Path(flags.plm).name}" + (
        "" if flags.mask is None else f" --mask {flags.mask.name}"
    )
    shown = {k: v for k, v in vars(flags).items() if k not in ("out", "mask", "plm")}
    by = {k: int(v) for k, v in pd.Series([p.labels["fold"] for p in proteins]).value_counts().sort_index().items()}
    model = models(flags)["full"]
    write_json(
        flags.out / f"{name}.json",
        provenance(
            model.device,
            command=command,
            flags=shown,
            minutes=minutes,
            model=model.fingerprint,
            proteins_in_fold={str(k): v for k, v in by.items()},
            residues_left_out=int(sum(len(p) - min(len(p), flags.max_residues) for p in proteins)),
            proteins_cut=sum(len(p) > flags.max_residues for p in proteins),
            clusters=len({p.labels["cluster"] for p in proteins}),
        ),
    )
    print(scores.round(3).to_string(index=False))
