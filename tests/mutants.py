"""Plant small faults in the package, one at a time, and see whether the tests notice.

    python tests/mutants.py [--only comparison splits] [--each 5] [--seed 0] [--jobs 1] [--out mutants.csv]

A fault changes one operator, number, or function in one exported cell: of the module, and of the page that defines it.
Most faults are drawn by a seed from all that are possible, so that nobody can write tests for them; `NAMED` are those
that once went unnoticed. Each is put into a copy of the checkout, where the tests of the module run, then its page,
up to the first failure. The table says what noticed it. Survivors are read by hand: a test is added, or `EQUAL` says
why nothing changes. mutmut and cosmic-ray mutate modules alone, and would leave the code in the pages as it is."""

import argparse
import ast
import contextlib
import copy
import csv
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pandas  # noqa: F401  (this and torch are loaded once, for all the processes to come)
import pytest
import torch  # noqa: F401
from nbdev.config import get_config
from nbdev.test import test_nb

ROOT = Path(__file__).resolve().parent.parent
# Tests of a module, beside `numbers` and those named like it
TESTS = dict(intervals="statistics", comparison="statistics", splits="leakage", subnetwork="runs", plm="models")
TESTS |= dict(esm="models", original="released", dssp="inputs", localization="transfer", fine_tuning="transfer")
TESTS |= dict(split_files="sweep", processes="engine")
MODULES = """masks losses teacher train subnetwork controls anatomy tasks.language_model comparison base.intervals
    splits tasks.structure io.dssp io.localization tasks.fine_tuning tasks.secondary tasks.contacts tasks.homology
    tasks.variants tasks.transfer
    paper.released paper.original models.embed batches plm esm schedules tables evaluation tasks.properties
    processes io.split_files""".split()
MIRROR = "moving * [1, 1, np.sign(np.linalg.det((fixed - fixed.mean(0)).T @ (moving - moving.mean(0))))]"
NAMED = [  # module, old, new, what it breaks
    ("splits", "inside and suppressed_by else by", "suppressed_by else by", "maintained proteins leak"),
    ("splits", '"k-mers": 0.2', '"k-mers": 0.3', "near copies are not seen"),
    ("base.intervals", "2 * t.sf", "t.sf", "p is one-sided"),
    ("base.intervals", "n_clusters - 1", "n_clusters", "t of percentiles with G degrees of freedom"),
    ("comparison", "group.weights) - 1)", "group.weights))", "t with G degrees of freedom"),
    ("tasks.structure", "set(fixed, moving)", f"set(fixed, {MIRROR})", "superposition may mirror"),
    ("tasks.homology", "if i != place.get(p.id)", "if True", "a query is its own hit"),
    ("tasks.homology", "return float(rankdata(", "return float(partial(rankdata, method='min')(", "ties are misses"),
    ("train", "{k: v / len(batches) for", "{k: v for", "batches of a step are summed"),
    ("train", "return cosine(step, config", "return cosine(step - 1, config", "temperature is a step late"),
    ("teacher", " + np.packbits(where[:n].numpy()).tobytes()", "", "the key leaves out what is asked"),
    ("masks", "in {**a, **b}.items()", "in {n: m for n, m in a.items() if n in b}.items()", "& and | forget matrices"),
    ("paper.original", "np.arange(len(residues)) // size", "np.zeros(len(residues), int)", "scaled over all rows"),
]
EQUAL = {  # fault -> why it changes no number
    "schedules 9fa43524 411: step < rise -> step <= rise": "at the peak both halves have the same value",
    "anatomy 0810b375 898: 1 -> 2": "a number of zeros beyond the largest possible one has probability 0",
    "tasks.secondary ea9d9678 813: 0 -> 1": "a window holds the longest protein, so that no two overlap",
    "batches 5e63f609 181: 256 -> 257": "a byte is 255 at most",
    "subnetwork 241e58d2 737: 1 -> 2": "NumPy takes any negative length for the missing one",
    "paper.released 9fd1355f 1001: sorted({run for g in groups for run in g} - {\"\", *runs.run}) -> list({run for g in groups for run in g} - {'', *runs.run})": "only which of several names an error shows",
}


class Mutant(NamedTuple):
    "A fault in one cell"

    name: str  # such as 'splits 195: a < b -> a <= b'
    module: str
    cell: str  # id
    old: str  # text of the cell in the module
    new: str


# --- What can be changed

COMPARED = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
COMPARED |= {ast.In: ast.NotIn, ast.NotIn: ast.In}
COMPUTED = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div}
COMPUTED |= {ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.MatMult: ast.Add, ast.Pow: ast.Mult, ast.Mod: ast.Mult}
CALLED = dict(mean="sum", sum="mean", min="max", max="min", argmin="argmax", argmax="argmin", any="all", all="any")
CALLED |= dict(sorted="list", ceil="floor", floor="ceil", exp="log", log="exp", cumsum="cumprod")
TEXT = (ast.JoinedStr, ast.Raise, ast.arguments, ast.AnnAssign, ast.Import, ast.ImportFrom)  # computes nothing


def changed(node):
    "A syntax tree with a fault in its root; nothing where none is known"
    new = copy.deepcopy(node)
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARED:
        new.ops[0] = COMPARED[type(node.ops[0])]()
    elif isinstance(node, ast.BinOp) and type(node.op) in COMPUTED:
        new.op = COMPUTED[type(node.op)]()
    elif isinstance(node, ast.BoolOp):
        new.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif isinstance(node, ast.UnaryOp):
        new = new.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        new.value = not node.value
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        new.value = node.value + 1 if isinstance(node.value, int) else node.value * 1.5 + 0.01
    elif isinstance(node, ast.Call) and (name := getattr(node.func, "attr", getattr(node.func, "id", ""))) in CALLED:
        setattr(new.func, "attr" if hasattr(new.func, "attr") else "id", CALLED[name])
    elif isinstance(node, ast.IfExp):
        new.body, new.orelse = node.orelse, node.body
    else:
        return None
    return new


def numeric(tree):
    "Nodes that may compute something: no messages, docstrings, defaults and annotations, and nothing of __repr__"
    for child in ast.iter_child_nodes(tree):
        text = isinstance(child, TEXT) or getattr(child, "name", "") == "__repr__"
        if isinstance(child, ast.keyword) and child.arg in ("desc", "do", "text", "stacklevel", "ascending"):
            continue
        if not text and child not in getattr(tree, "decorator_list", []) and child is not getattr(tree, "returns", 0):
            yield child
            yield from numeric(child)


def cells(module):
    "Cell id -> text of the cell in a module, without the imports"
    parts = re.split(r"(?m)^# %% \S*\.ipynb #(\S+)\n", module_file(module).read_text("utf-8"))[1:]
    return {id: text.strip("\n") for id, text in zip(parts[::2], parts[1::2])}


def possible(module):
    "All faults of a module"
    for cell, old in cells(module).items():
        starts = [0]
        for line in old.encode().splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        for node in numeric(ast.parse(old)):
            if hasattr(node, "lineno") and (new := changed(node)) is not None:
                a, b = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
                before, after = " ".join(old.encode()[a:b].decode().split()), ast.unparse(new)
                text = (old.encode()[:a] + after.encode() + old.encode()[b:]).decode()
                yield Mutant(f"{module} {cell} {a}: {before} -> {after}", module, cell, old, text)


def named(module):
    "The faults of `NAMED` in a module"
    for old, new, what in [rest for place, *rest in NAMED if place == module]:
        ((cell, text),) = [(id, text) for id, text in cells(module).items() if old in text]
        yield Mutant(f"{module} {cell}: {what}", module, cell, text, text.replace(old, new))


# --- Where it is put, and who notices


def module_file(module, root=ROOT):
    return root / "plmsub" / (module.replace(".", "/") + ".py")


def page_of(module):
    *folder, stem = module.split(".")
    (page,) = ROOT.joinpath("nbs", *folder).glob(f"[0-9]*_{stem}.ipynb")
    return page.relative_to(ROOT)


def tests_of(module):
    stem = module.split(".")[-1]
    names = [f"tests/test_{n}.py" for n in (stem, "numbers", TESTS.get(stem))]
    return [Path(n) for n in dict.fromkeys(names) if (ROOT / n).exists()]


def plant(mutant, root):
    "Put a fault into the module and its page"
    path = module_file(mutant.module, root)
    assert path.read_text("utf-8").count(mutant.old) == 1
    path.write_text(path.read_text("utf-8").replace(mutant.old, mutant.new), "utf-8")
    page = root / page_of(mutant.module)
    notebook = json.loads(page.read_text("utf-8"))
    (cell,) = [c for c in notebook["cells"] if c["id"] == mutant.cell]
    source = "".join(cell["source"])
    assert mutant.old in source, f"{mutant.name}: page and module differ, run nbdev_export"
    cell["source"] = source.replace(mutant.old, mutant.new)
    page.write_text(json.dumps(notebook), "utf-8")


def run(root, path):
    "In a process of its own, in a copy of the checkout: exit with 0 if a file of tests, or a page, passes"
    os.chdir(root)
    os.setsid()
    sys.path.insert(0, str(root))
    os.environ.update(PYTHONPATH=str(root), PYTHONDONTWRITEBYTECODE="1", OMP_NUM_THREADS="1", PLMSUB_QUIET="1")
    sys.dont_write_bytecode = True
    log = os.open(root / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1), os.dup2(log, 2)
    if path.suffix == ".py":
        options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--no-header"]
        os._exit(pytest.main([*options, str(path)]))
    os.environ["MPLBACKEND"] = "Agg"
    passed, _ = test_nb(root / path, skip_flags=get_config().tst_flags.split(), basepath=root)
    os._exit(not passed)


def passes(root, path, limit_s):
    process = multiprocessing.get_context("fork").Process(target=run, args=(root, path))
    process.start()
    process.join(limit_s)
    with contextlib.suppress(ProcessLookupError):  # what runs on, and what it has started
        os.killpg(process.pid, signal.SIGKILL)
    process.join()
    return process.exitcode == 0


def copy_of_checkout(folder, mutant=None):
    root = Path(folder).resolve() / "copy"
    shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(".*", "__pycache__", "_docs", "_proc", "*.egg-info"))
    if mutant is not None:
        plant(mutant, root)
    return root


def guards(module):
    "Seconds that the tests of a module and its page take without a fault, the quick ones first"
    seconds = {}
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        root = copy_of_checkout(folder)
        for path in [*tests_of(module), page_of(module)]:
            start = time.perf_counter()
            if not passes(root, path, 900):
                sys.exit(f"{path} fails without a fault:\n{(root / 'log').read_text()[-3000:]}")
            seconds[path] = time.perf_counter() - start
    return dict(sorted(seconds.items(), key=lambda item: item[1]))


def noticed_by(mutant, seconds):
    "What notices a fault, or nothing; and the seconds it took"
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        root = copy_of_checkout(folder, mutant)
        for path, usual in seconds.items():
            if not passes(root, path, 5 * usual + 20):
                return path.as_posix(), time.perf_counter() - start
    return "", time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=MODULES, choices=MODULES, metavar="MODULE")
    parser.add_argument("--each", type=int, default=5, help="faults drawn for each module")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("mutants.csv"), help="goes on where it stands")
    flags = parser.parse_args()
    done = {row["mutant"] for row in csv.DictReader(flags.out.open())} if flags.out.exists() else set()
    with flags.out.open("a", newline="") as file, ThreadPoolExecutor(flags.jobs) as pool:
        write = csv.writer(file)
        if not done:
            write.writerow(["module", "mutant", "caught_by", "seconds"])
        for module in flags.only:
            drawn = list(possible(module))
            random.Random(f"{flags.seed} {module}").shuffle(drawn)
            mutants = [m for m in [*named(module), *drawn[: flags.each]] if m.name not in {*done, *EQUAL}]
            seconds = guards(module) if mutants else {}
            for m, (by, took) in zip(mutants, pool.map(noticed_by, mutants, [seconds] * len(mutants))):
                print(f"{by or 'NOT CAUGHT':30} {m.name}", flush=True)
                write.writerow([m.module, m.name, by, round(took)])
                file.flush()


if __name__ == "__main__":
    main()
