"""What a training step costs, against the arithmetic that it needs and against a loop as the release describes it.

    python benchmarks/step_time.py [--pairs 20] [--shape 6,320,20] [--device cpu] [--out nbs/results]

Random weights of the shape of ESM-2 8M, batches of 16 with 4 suppressed (class 1), lengths of CATH S20. Every pair times two things one after the other on the same
batch, in turns (random batches, which are slow, at every fourth pair); shown are the medians of the ratios with their quartiles. `bare`: forward on the tokens of the step and backward to the masked matrices as leaves, without
noise, loss terms or optimizer. `released`: three forwards through fair-esm's modules with swapped weights, the teacher run each time, the mask drawn
once more for the report of its sparsity."""

import argparse
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

from plmsub.base.files import shared_dir, whole_file, write_json
from plmsub.base.runs import provenance
from plmsub.base.seeds import generator, numpy_rng
from plmsub.batches import CategoryBatches, make_batch
from plmsub.categories import cath_category
from plmsub.io.cath import read_domains
from plmsub.losses import kl_to_teacher, kl_to_uniform, logit_requests, mlm_loss, protein_weights, weigh
from plmsub.plm import tiny_esm2
from plmsub.proteins import of_length
from plmsub.schedules import cosine
from plmsub.teacher import Teacher
from plmsub.train import TrainConfig, new_state, run_step, subnetwork_logits, train_step


def seconds(work, device):
    "Wall-clock seconds of some work"
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def bare(plm, names, requests):
    "Forward on the tokens of a step, backward to the masked matrices"
    leaves = {n: plm.weights[n].detach().requires_grad_() for n in names}
    logits = torch.cat(subnetwork_logits(plm, leaves, requests))
    torch.autograd.grad(logits.sum(), list(leaves.values()))


def released_loss(plm, mask, batch, config, step):
    "The objective on clean inputs by three forwards of fair-esm's modules"
    temperature = cosine(step, config.steps, config.temperature_start, config.temperature_end)

    def drawn():
        return mask.sample(
            temperature, config.threshold, generator(config.seed, "mask noise", step, device=mask.logits.device)
        )

    def subnetwork(tokens):
        return plm.fairesm({n: plm.weights[n] * m for n, m in drawn().items()})(tokens)["logits"]

    with torch.no_grad():
        teacher = plm.fairesm()(batch.tokens)["logits"]
    clean, corrupted = subnetwork(batch.tokens), subnetwork(batch.corrupted)
    terms = dict(
        kl_uniform=kl_to_uniform(clean, protein_weights(batch.suppressed)),
        kl_teacher=kl_to_teacher(clean, teacher, protein_weights(batch.maintained)),
        mlm=mlm_loss(corrupted, batch.tokens, protein_weights(batch.maintained & batch.chosen)),
    )
    return weigh(config, terms), drawn


def released_step(plm, state, batch, config, step):
    "A step of the loop that the release describes"
    loss, drawn = released_loss(plm, state.mask, batch, config, step)
    state.optimizer.zero_grad()
    loss.backward()
    state.optimizer.step()
    with torch.no_grad():
        sum((m == 0).sum().item() for m in drawn().values())


def random_batch(domains, category, config, k):
    "A batch as the release draws it: lengths as they come"
    inside, outside = [d for d in domains if category.holds(d)], [d for d in domains if not category.holds(d)]
    rng, n = numpy_rng(config.seed, "random batch", k), config.suppressed
    rows = [inside[i] for i in rng.choice(len(inside), n, False)] + [
        outside[i] for i in rng.choice(len(outside), config.batch_size - n, False)
    ]
    return make_batch(rows, [0] * len(rows), category, config.seed)


def measure(plm, domains, category, pairs, folder):
    "Ratios and shares, a row a pair"
    masked, clean = (TrainConfig(steps=10_000, reading="sampled", kl_inputs=inputs) for inputs in ("masked", "clean"))
    batches, teacher = CategoryBatches(domains, category, 16, 4), Teacher(plm, folder)
    state, rows = new_state(plm, masked), []

    def one_step(config, k):
        state.step = k
        train_step(plm, state, batches, teacher, config)

    def work_of(k, batch, other, requests):
        return dict(
            bare=lambda: bare(plm, state.mask.shapes, requests),
            step=lambda: one_step(masked, k),
            step_clean=lambda: one_step(clean, k),
            released=lambda: released_step(plm, state, batch.to(plm.device), clean, k),
            released_random=lambda: released_step(plm, state, other.to(plm.device), clean, k),
        )

    for k in range(pairs + 2):  # two to warm up
        batch, other = batches[k], random_batch(domains, category, masked, k)
        requests = [q.to(plm.device) for q in logit_requests(masked, batch)]
        for config in (masked, clean):
            teacher.compute((q.tokens, q.where) for q in logit_requests(config, batch))
        work = work_of(k, batch, other, requests)
        if k % 4:
            del work["released_random"]  # ten times as long as the others
        order = list(work) if k % 2 else list(work)[::-1]
        took = {name: seconds(work[name], plm.device) for name in order}
        if k >= 2:
            rows.append(
                dict(
                    took,
                    tokens=batch.tokens.numel(),
                    residues=int(batch.tokens.ne(1).sum()),
                    tokens_random=other.tokens.numel(),
                    residues_random=int(other.tokens.ne(1).sum()),
                )
            )
    return pd.DataFrame(rows)


def same_loss(plm, domains, category, folder):
    "Largest relative difference between the two loops' losses under equal noise"
    config, state = TrainConfig(steps=100, reading="sampled", kl_inputs="clean"), new_state(plm, TrainConfig())
    batches, teacher = CategoryBatches(domains, category, 16, 4), Teacher(plm, folder)
    both = [
        (
            run_step(plm, state.mask, [batches[k]], teacher, config, k)["loss"].item(),
            released_loss(plm, state.mask, batches[k].to(plm.device), config, k)[0].item(),
        )
        for k in range(3)
    ]
    return max(abs(a - b) / abs(b) for a, b in both)


def summary(found):
    "Median and quartiles of each ratio"
    slow, fast, rng = (
        found.released_random.dropna().to_numpy(),
        found.step.to_numpy(),
        numpy_rng("throughput"),
    )  # of as many proteins
    throughput = pd.Series(
        [rng.choice(slow, len(slow)).mean() / rng.choice(fast, len(fast)).mean() for _ in range(1000)]
    )
    ratios = {
        "step / bare": found.step / found.bare,
        "released / step, identical batches and inputs": found.released / found.step_clean,
        "released / step, as each is run": throughput,
        "padding": 1 - found.residues / found.tokens,
        "padding, random batches": 1 - found.residues_random / found.tokens_random,
    }
    return pd.DataFrame(
        [
            dict(
                what=name,
                median=r.median(),
                low=r.quantile(0.25),
                high=r.quantile(0.75),
                pairs=len(slow) if r is throughput else len(r),
            )
            for name, r in ratios.items()
        ]
    ).round(3)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--shape", default="6,320,20", help="layers, width, heads")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("nbs/results"))
    flags, cath = parser.parse_args(), shared_dir() / "cath"
    domains = of_length(
        read_domains(cath / "cath-domain-list-S20-v4_3_0.txt", cath / "cath-dataset-nonredundant-S20-v4_3_0.fa")
    )
    plm, category = tiny_esm2(*map(int, flags.shape.split(","))).to(flags.device), cath_category("1")
    with tempfile.TemporaryDirectory() as folder:
        difference = same_loss(plm, domains, category, folder)
        table = summary(measure(plm, domains, category, flags.pairs, folder))
    print(table.to_string(index=False), f"\nlargest relative difference of the losses: {difference:.1e}", sep="\n")
    with whole_file(flags.out / "step_time.csv") as f:
        table.to_csv(f, index=False)
    write_json(
        flags.out / "step_time.json",
        provenance(
            plm.device,
            command=f"python benchmarks/step_time.py --pairs {flags.pairs} --shape {flags.shape}",
            threads=torch.get_num_threads(),
            loss_difference=difference,
        ),
    )
