"""Measure the code of one checkout, or of two side by side: package, notebooks, linters, own plumbing.

    python benchmarks/structure_of_code.py BEFORE [AFTER] [--out nbs/results/structure_of_code.csv]

A checkout takes a minute or two, most of it for mypy. Files that cannot be parsed are named on stderr; their lines are
counted, their code is not."""

import argparse
import ast
import graphlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median

import pandas as pd

PACKAGE = "plmsub"
NOT_MODULES = {"__init__", "_modidx", "all"}
NOT_BOOK = {"tutorials", "figures", "studies", "_proc", ".ipynb_checkpoints"}
LINE_LENGTH = 120
RULES = "E4,E7,E9,F,B,I,UP"
DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
IMPORTS = ast.Import | ast.ImportFrom

# Purpose -> names of modules (in any folder) and folders; the first that fits counts
PURPOSES = {
    "the idea": """masks subnetwork controls losses schedules teacher train language_model perplexity evaluate
        evaluation compare comparison tables intervals batches splits category categories anatomy""",
    "models": "plm esm weights pretrain embed baselines export",
    "formats and plumbing": "base/ io/ core manifest coordinates cath headers dssp toy proteins",
    "tasks": "tasks/ structure folding probes homology variants transfer",
    "paper and plots": "paper/ original released results figures plots",
    "app": "app/ cli sweep track",
}

# Kind of plumbing that a library could do (REVIEW.md, section 2) -> functions and classes, with module or class where a
# name is ambiguous. What is gone counts 0, so a function that lives on under a new name has to be added here.
PLUMBING = {
    "PDB and mmCIF": """one_letter pdb_text write_pdb _Atom _pdb_field _pdb_atom _read_pdb _cif_words cif_tables _column
        _add_row _cif_number _cif_atom _read_cif coordinates._groups structures._groups _is_residue _chains
        _one_location is_cif read_chain pick_chain""",
    "FASTA": """_first_bad first_bad_letter _pieces fasta._records cath._joined fasta._joined note_error
        fasta_records read_fasta fasta._sequence""",
    "DSSP files": "letters_of _check_total _classic_rows _mmcif_rows read_dssp",
    "placement on a sequence": "_gaps _cheapest dssp._places letters_on _mismatch",
    "lDDT and superposition": "_superposition rmsd lddt superposed",
    "download": """_wrong _part _parts _Failed _network _ask _fetch download _stays_inside _matches _address Release
        _release read_manifest _get fetch _zenodo _huggingface read_listing _state local holdings
        available_releases core._save core._refuse core._whole downloads._save downloads._refuse downloads._whole
        manifest._known manifest._listed data._known data._listed _what_is_wrong downloads._check_answer data._find
        data._fetch_listing data._matching data._is_address""",
    "unpacking": """_zip_kind _tar_kind _check_end _zip_count manifest._members data._members manifest._checked
        data._checked _write unpack data._Member _zip_members _tar_members""",
    "process pool": "_serve structure._start _answer _work _in_processes",
    "strict JSON": """core._plain core._pairs core._number files._pairs files._number files._unique_keys files._finite to_plain write_json parse_json
        read_json""",
    "checks of settings": """PlmSettings.__post_init__ PlmConfig.__post_init__ Objective.__post_init__
        TuneConfig.__post_init__ check_config train._check_settings train._check_numbers train.run_settings
        folding._values folding._settings Allowed settings.at_least settings.above settings.between settings.one_of
        settings.plain_value settings._kinds _is_kind check_fields TrainConfig.__post_init__
        PretrainConfig.__post_init__ train.run_settings""",
    "bootstrap": """resampled_means resampled_counts resampled_rho _over_folds _again _draws _ranks _rho _mean_rho
        _of_models""",
    "AUC": "_auc auc",
    "F1, MAE and R2": "_class_scores _number_scores _fold_scores spearman_rho number_scores",
    "folds of groups": "_deal deal folds group_folds _dealt identity_folds",
    "training loops": """train._train train.train_step train_to_end pretrain.train finetune fit_effects contact_probe
        _one_epoch _learn baselines._fit minimize train.train_step _train_to_end""",
}

PACKAGE_ERROR = re.compile(r"\b(Plmsub|Data|Config|Model|Run)Error\b")
SHOWS_ERROR = {"refused", "refusal", "expect_fail", "test_fail", "shows_error", "show_error", "raises"}


def parsed(source: str, file: Path | str) -> ast.Module:
    "The syntax tree of some code; an empty one for code that cannot be parsed, which is reported"
    try:
        return ast.parse(source, str(file))
    except (SyntaxError, ValueError) as error:
        print(f"{file}: {error}", file=sys.stderr)
        return ast.Module([], [])


def p90(values: list[float]) -> float:
    "The smallest value that 90 % of all do not exceed"
    return sorted(values)[-(-9 * len(values) // 10) - 1]


# Package


def imports(module: str, is_package: bool, tree: ast.Module) -> Iterator[str]:
    "Dotted path of everything a file imports, be it at the top or within a function"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            above = parts[: len(parts) + is_package - node.level] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def defining(path: str, imported: dict[str, list[str]], packages: set[str]) -> str:
    "The file that an import leads to; a package passes on what it imports itself"
    base = path
    while base and base not in imported:
        base = base.rpartition(".")[0]
    if base in packages and base != path:
        name = path.removeprefix(f"{base}.")
        found = next((p for p in imported[base] if p.endswith(f".{name}") and p != path), None)
        return defining(found, imported, packages) if found else base
    return base


def arrows_of(files: dict[str, Path], trees: dict[str, ast.Module], modules: list[str]) -> set[tuple[str, str]]:
    "Pairs of modules of which the first imports the second"
    packages = {m for m, file in files.items() if file.stem == "__init__"}
    imported = {m: list(imports(m, m in packages, tree)) for m, tree in trees.items()}
    pairs = {(m, defining(path, imported, packages)) for m in modules for path in imported[m]}
    return {(a, b) for a, b in pairs if b in modules and a != b}


def floors_and_circle(arrows: set[tuple[str, str]]) -> tuple[int | str, str]:
    "Length of the longest chain, and the first circle, which leaves no floors"
    below = {}
    for a, b in arrows:
        below.setdefault(a, set()).add(b)
    floor = {}
    try:
        for node in graphlib.TopologicalSorter(below).static_order():
            floor[node] = 1 + max((floor[b] for b in below.get(node, ())), default=0)
    except graphlib.CycleError as error:
        return "-", " <- ".join(name.removeprefix(f"{PACKAGE}.") for name in error.args[1])
    return max(floor.values(), default=1), "none"


def folder(module: str) -> str:
    "Folder of a module within the package"
    return ".".join(module.split(".")[1:-1]) or "book"


def purpose(module: str) -> str:
    "What a module is for"
    names = {module.split(".")[-1], f"{folder(module).split('.')[0]}/"}
    return next((what for what, words in PURPOSES.items() if names & {*words.split()}), "not named")


def public_functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    "Public functions of a module, and public methods of its public classes, `__init__` and its like among them"
    for node in tree.body:
        if isinstance(node, DEFINITIONS) and not re.match(r"_[^_]", node.name):
            yield from public_functions(node) if isinstance(node, ast.ClassDef) else [node]


def parameters(function: ast.FunctionDef) -> list[ast.arg]:
    "All parameters but the object itself"
    a = function.args
    found = [*a.posonlyargs, *a.args, *filter(None, [a.vararg]), *a.kwonlyargs, *filter(None, [a.kwarg])]
    return [p for p in found if p.arg not in ("self", "cls")]


def public_names(tree: ast.Module) -> int:
    "How many names `__all__` holds"
    lists = [n for n in tree.body if isinstance(n, ast.Assign) and isinstance(n.value, ast.List | ast.Tuple)]
    return sum(len(n.value.elts) for n in lists if ast.unparse(n.targets[0]) == "__all__")


def count(trees: list[ast.AST], kind: type) -> int:
    "How many nodes of a kind there are"
    return sum(isinstance(node, kind) for tree in trees for node in ast.walk(tree))


def package_measures(files: dict[str, Path], texts: dict[str, str], trees: dict[str, ast.Module]) -> dict:
    "Rooms, floors, lines and functions"
    modules = [m for m, file in files.items() if file.stem not in NOT_MODULES]
    arrows = arrows_of(files, trees, modules)
    crossing = [(folder(a), folder(b)) for a, b in arrows if folder(a) != folder(b)]
    floors, circle = floors_and_circle(arrows)
    lines = [line.strip() for m in modules for line in texts[m].splitlines()]
    code = [trees[m] for m in modules]
    functions = [n for t in code for n in ast.walk(t) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = [f.end_lineno - f.lineno + 1 for f in functions] or [0]
    given = [p for t in code for f in public_functions(t) for p in parameters(f)]
    by_purpose = Counter()
    for m in modules:
        by_purpose[purpose(m)] += texts[m].count("\n")
    return {
        "modules": len(modules),
        "floors": floors,
        "arrows": len(arrows),
        "arrows that cross folders": len(crossing),
        "arrows between folders": len(set(crossing)),
        "circle of modules": circle,
        "circle of folders": floors_and_circle(set(crossing))[1],
        "lines": sum(texts[m].count("\n") for m in modules),
        "non-blank lines": sum(bool(line) for line in lines),
        "code lines": sum(bool(line) and not line.startswith("#") for line in lines),
        "statements": count(code, ast.stmt),
        **{f"lines: {what}": by_purpose[what] for what in [*PURPOSES, "not named"]},
        "public names": sum(map(public_names, code)),
        "functions": len(functions),
        "function lines, median": median(lengths),
        "function lines, 90th percentile": p90(lengths),
        "raises": count(code, ast.Raise),
        "raises per 100 lines": round(100 * count(code, ast.Raise) / max(1, len(lines)), 1),
        "public parameters": len(given),
        "public parameters without type": sum(p.annotation is None for p in given),
    }


def definitions(tree: ast.AST, place: tuple[str, ...]) -> Iterator[tuple[set[str], ast.stmt]]:
    "Every function and class with the names it may be called by: alone, or behind its module or class"
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, DEFINITIONS):
            yield {node.name, *(f"{outer}.{node.name}" for outer in place)}, node
        if isinstance(node, ast.ClassDef):
            yield from definitions(node, (*place, node.name))


def own_plumbing(trees: dict[str, ast.Module]) -> dict[str, list[ast.stmt]]:
    "Own functions and classes of each kind"
    found = [d for m, tree in trees.items() for d in definitions(tree, (m.split(".")[-1],))]
    return {kind: [node for known, node in found if known & {*names.split()}] for kind, names in PLUMBING.items()}


def plumbing_measures(own: dict[str, list[ast.stmt]]) -> dict:
    "Lines of own code for what libraries do"
    lines = {kind: sum(n.end_lineno - n.lineno + 1 for n in nodes) for kind, nodes in own.items()}
    statements = sum(count(nodes, ast.stmt) for nodes in own.values())
    return {**lines, "all, lines": sum(lines.values()), "all, statements": statements}


# Notebooks


def exports(source: str) -> bool:
    "Does a cell go to the package?"
    return re.search(r"^#\|\s*export", source, re.M) is not None


def is_lesson(source: str, body: list[ast.stmt]) -> bool:
    "Does a cell show the reader something: neither exported nor hidden, and more than imports?"
    hidden = re.search(r"^#\|\s*(export|hide|default_exp)", source, re.M)
    return not hidden and not (body and all(isinstance(node, IMPORTS) for node in body))


def catches(tree: ast.AST, error: re.Pattern | str) -> bool:
    "Does some code catch an error of this name?"
    handlers = [node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.type]
    return any(re.search(error, ast.unparse(node.type)) for node in handlers)


def provokes_error(body: list[ast.stmt], helpers: set[str]) -> bool:
    "Does a cell provoke an error of the package, caught or handed to a helper?"
    for statement in body:
        if isinstance(statement, DEFINITIONS):
            continue
        calls = [node.func for node in ast.walk(statement) if isinstance(node, ast.Call)]
        if catches(statement, PACKAGE_ERROR) or any(ast.unparse(f).split(".")[-1] in helpers for f in calls):
            return True
    return False


def book_cells(checkout: Path) -> Iterator[tuple[Path, list[dict]]]:
    "The numbered notebooks and their cells"
    for file in sorted((checkout / "nbs").rglob("[0-9][0-9]_*.ipynb")):
        if NOT_BOOK & {*file.relative_to(checkout).parts}:
            continue
        try:
            yield file, json.loads(file.read_text(encoding="utf-8"))["cells"]
        except (ValueError, KeyError) as error:
            print(f"{file}: {error!r}", file=sys.stderr)


def notebook_measures(checkout: Path) -> dict:
    "Cells, their lengths, and what a page shows"
    words, imports_only, exported, lessons, errors = [], 0, [], 0, 0
    longest, longest_in, notebooks = 0, "-", 0
    for file, cells in book_cells(checkout):
        notebooks, run, helpers = notebooks + 1, 0, set(SHOWS_ERROR)
        for cell in cells:
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                words.append(len(source.split()))
            if cell["cell_type"] != "code":
                continue
            lines = [line for line in source.splitlines() if line.strip() and not re.match(r"#\||[%!]", line)]
            body = parsed("\n".join(lines), file).body
            if exports(source):
                run += len(lines)
                if run > longest:
                    longest, longest_in = run, file.stem
                if all(isinstance(node, IMPORTS) for node in body):
                    imports_only += 1
                else:
                    exported.append(len(lines))
                continue
            functions = [node for top in body for node in ast.walk(top) if isinstance(node, ast.FunctionDef)]
            helpers |= {f.name for f in functions if catches(f, "")}
            outputs = cell.get("outputs", [])
            run = 0 if outputs else run
            lessons += is_lesson(source, body)
            stored_error = any(output["output_type"] == "error" for output in outputs)
            errors += stored_error or provokes_error(body, helpers)
    sizes = exported or [0]
    return {
        "numbered notebooks": notebooks,
        "export cells": len(exported) + imports_only,
        "export cells with more than imports": len(exported),
        "their lines, median": median(sizes),
        "their lines, max": max(sizes),
        "% of them over 15 lines": round(100 * mean(n > 15 for n in sizes), 1),
        "% of them over 40 lines": round(100 * mean(n > 40 for n in sizes), 1),
        "exported lines without output, longest run": longest,
        "the longest run is in": longest_in,
        "prose cells": len(words),
        "words per prose cell, median": median(words or [0]),
        "words per prose cell, mean": round(mean(words or [0]), 1),
        "lesson cells": lessons,
        "error cells": errors,
        "error cells, % of lesson cells": round(100 * errors / max(1, lessons), 1),
    }


# Linters


def tool(name: str) -> str | None:
    "Path of a program, first of all beside this Python"
    return shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


def output_of(checkout: Path, name: str, *options: str) -> str | None:
    "What a linter says of the package; `None` where it is not installed or gives up"
    if not (program := tool(name)):
        return None
    done = subprocess.run([program, *options, PACKAGE], cwd=checkout, capture_output=True, text=True)
    if done.returncode in (0, 1):
        return done.stdout
    print(f"{name}: {(done.stdout + done.stderr).strip().splitlines()[-1:]}", file=sys.stderr)
    return None


def linter_measures(checkout: Path, texts: dict[str, str]) -> dict:
    "Findings of ruff and mypy, whatever the project's own settings; `-` where there are none to be had"
    options = ["--isolated", "--no-cache", "--select", RULES, "--line-length", str(LINE_LENGTH)]
    ruff = output_of(checkout, "ruff", "check", *options, "--output-format", "json")
    with tempfile.TemporaryDirectory() as cache:
        options = ["--ignore-missing-imports", "--follow-imports=silent", "--config-file=", f"--cache-dir={cache}"]
        mypy = output_of(checkout, "mypy", *options)
    long = [line for text in texts.values() for line in text.splitlines() if len(line) > LINE_LENGTH]
    return {
        f"ruff, {RULES}": "-" if ruff is None else len(json.loads(ruff)),
        f"lines over {LINE_LENGTH}": len(long),
        "mypy errors": "-" if mypy is None else len(re.findall(r": error:", mypy)),
    }


# All together


def label(checkout: Path) -> str:
    "Name of a checkout, with its commit"
    command = ["git", "--no-optional-locks", "-C", str(checkout), "describe", "--always", "--dirty"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return f"{checkout.name} {commit}".strip()


def measures(checkout: Path) -> pd.Series:
    "All measures of a checkout"
    files = {}
    for file in sorted((checkout / PACKAGE).rglob("*.py")):
        parts = file.relative_to(checkout).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    texts = {m: file.read_text(encoding="utf-8", errors="replace") for m, file in files.items()}
    trees = {m: parsed(text, files[m]) for m, text in texts.items()}
    ours = {m: text for m, text in texts.items() if files[m].stem != "_modidx"}
    own = own_plumbing(trees)
    parts = {
        "package": package_measures(files, texts, trees),
        "notebooks": notebook_measures(checkout),
        "linters": linter_measures(checkout, ours),
        "own plumbing, lines": plumbing_measures(own),
    }
    rows = {(part, measure): value for part, found in parts.items() for measure, value in found.items()}
    column = pd.Series(rows, dtype=object, name=label(checkout)).rename_axis(["part", "measure"])
    column.attrs["plumbing"] = {node.name for nodes in own.values() for node in nodes}
    return column


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", type=Path, nargs="+", help="one folder, or two: before and after")
    parser.add_argument("--out", type=Path, help="CSV file to write; nothing is written without it")
    flags = parser.parse_args()
    if lost := [str(c) for c in flags.checkouts if not (c / PACKAGE).is_dir()]:
        parser.error(f"no {PACKAGE}/ in {', '.join(lost)}")
    columns = [measures(checkout.resolve()) for checkout in flags.checkouts]
    table = pd.concat(columns, axis=1)
    print(table.to_string())
    if gone := columns[0].attrs["plumbing"] - columns[-1].attrs["plumbing"]:
        print(f"Own plumbing that is gone (renamed? add it to PLUMBING): {', '.join(sorted(gone))}", file=sys.stderr)
    if flags.out:
        table.to_csv(flags.out)
