"""Prepares every page as the site build does, in a copy, and checks what a reader would get; a part of the gate.

    python tests/site.py [--counts] [--pages 30_masks.ipynb ...] [--faults]

It fails if a page cannot be made, loses prose, shows a raw link in a signature, a type that is not there, a field without its comment,
or not all fields, and if the README changes. `--counts` also lists what is counted and not refused. `--faults` puts each of `FAULTS`
into a copy of the checkout, runs this script on it, and prints what it said."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import is_dataclass
from importlib import import_module
from inspect import get_annotations, isclass, isfunction
from pathlib import Path

ROOT = Path(__file__).parent.parent
WORKFLOW = ".github/workflows/site.yml"
QUARTO = """#!/bin/sh
mkdir -p _docs
case "$*" in *README.md*) echo "made by the build" > _docs/README.md;; esac
"""  # in place of Quarto: it renders nothing, and writes what nbdev then moves


def copied(folder):
    "What git knows of the checkout"
    names = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name, follow_symlinks=False)


def prepared(folder, only=()):
    "The pages as Quarto would get them: made in a copy, by the command that the workflow runs"
    copied(folder)
    for page in (folder / "nbs").rglob("*.ipynb"):
        if only and page.relative_to(folder / "nbs").as_posix() not in only:
            page.unlink()
    tools = folder / "tools"
    tools.mkdir()
    (tools / "quarto").write_text(QUARTO)
    (tools / "quarto").chmod(0o755)
    path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = dict(os.environ, PYTHONPATH=str(folder), PATH=path)
    command = re.search(r"run: (.*nbdev_docs.*)", (folder / WORKFLOW).read_text())[1]
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout, done.stderr, "a page cannot be made, see above", sep="\n")
        sys.exit(1)
    return sorted((folder / "_proc").rglob("*.ipynb"))


def words(cells):
    "Words of the prose, without markup and addresses"
    text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] in ("markdown", "raw"))
    return re.findall(r"\w{3,}", re.sub(r"\]\([^)]*\)", "]", text))


def lost_words(source, page):
    "Words of a notebook's prose that its page lacks"
    left = words(page)
    lost = []
    for word in words(source):
        left.remove(word) if word in left else lost.append(word)
    return lost


def raw_links(page):
    "Links inside the code of a signature, where they are read as they stand"
    shown = ["".join(o["data"].get("text/markdown", "")) for c in page for o in c.get("outputs", []) if "data" in o]
    return [
        line
        for text in shown
        for block in re.findall(r"```.*?```", text, re.S)
        for line in block.split("\n")
        if "](" in line
    ]


def nested_links(page):
    "Links whose text is a name in backticks: nbdev makes a link of the name, too"
    text = "\n".join("".join(c["source"]) for c in page if c["cell_type"] == "markdown")
    return re.findall(r"\[\[`[^`]*`\]\([^)]*\)\]\(", text)


def unknown_types():
    "Types of exported functions, in quotes or not, that name nothing"
    from plmsub.app.site import SYMBOLS

    for module, names in SYMBOLS.items():
        for name in names:
            thing = import_module(module)
            for part in name[len(module) + 1 :].split("."):
                thing = getattr(thing, part, None)
            try:
                if isfunction(thing):
                    get_annotations(thing, eval_str=True)
            except NameError as error:
                if error.name != "torch":  # imported by functions, so that small modules load quickly
                    yield f"{name}: {error.name}"


def bare_fields():
    "Fields of exported dataclasses without a comment"
    from plmsub.app.site import SYMBOLS, rows_of

    things = [(m, getattr(import_module(m), n[len(m) + 1 :], None)) for m, names in SYMBOLS.items() for n in names]
    classes = [(m, t) for m, t in things if isclass(t) and is_dataclass(t) and not t.__name__.startswith("_")]
    return [
        f"{m}.{t.__name__}.{r.name}"
        for m, t in classes
        for r in rows_of(t)
        if not r.about and not r.name.startswith("_")
    ]


def lost_fields(page):
    "Fields of the dataclasses that a page defines and does not name"
    from plmsub.app.site import SYMBOLS, rows_of

    outputs = [o.get("data", {}) for cell in page for o in cell.get("outputs", [])]
    shown = "\n".join("".join(data.get("text/markdown", "")) for data in outputs)
    names = set(re.findall(r"^### (\w+)", shown, re.M))
    things = [getattr(import_module(m), n) for m in SYMBOLS for n in names if f"{m}.{n}" in SYMBOLS[m]]
    classes = [t for t in things if isclass(t) and is_dataclass(t)]
    return [
        f"{t.__name__}.{r.name}"
        for t in classes
        for r in rows_of(t)
        if r.name != "_" and f"| `` {r.name} `` |" not in shown
    ]


def with_jquery(page):
    "Outputs for which Quarto would load jQuery and require.js, without need"
    outputs = ["".join(o.get("data", {}).get("text/html", "")) for c in page for o in c.get("outputs", [])]
    return [html[:60] for html in outputs if html and "<script" not in html]


def pictures(page):
    "Cells with a picture: (has alt text, has a caption)"
    with_picture = [c for c in page if any("image/png" in o.get("data", {}) for o in c.get("outputs", []))]
    return [("fig-alt" in "".join(c["source"]), "fig-cap" in "".join(c["source"])) for c in with_picture]


def counts(pages):
    "What is counted and not refused"
    cells = [c for page in pages for c in page if c["cell_type"] == "code" and "show_doc(" not in "".join(c["source"])]
    sources = ["".join(c["source"]) for c in cells]
    tests = [s for s in sources if re.search(r"^\s*(assert |test_\w+\(|with expect_fail)", s, re.M)]
    figures = [p for page in pages for p in pictures(page)]
    return {
        "visible code cells": len(sources),
        "of these with a check": len(tests),
        "pictures": len(figures),
        "of these without alt text": sum(not alt for alt, _ in figures),
        "of these without a caption": sum(not caption for _, caption in figures),
    }


FOUND = "nbs/45_tables.ipynb", "plmsub/tables.py"  # a page with its module, on which faults are planted
DATACLASS = "nbs/20_batches.ipynb", "plmsub/batches.py"
FAULTS = {
    "a type that is defined later": ([(f, "-> dict[str, list]:", "-> Later:") for f in FOUND], "a page cannot be made"),
    "the same in quotes": ([(f, "-> dict[str, list]:", "-> 'Later':") for f in FOUND], "a type that is not there"),
    "prose below the title": ([(FOUND[0], "the same columns", "the same columns\\n\\nProse")], "lost: Prose"),
    "signatures by nbdev": ([("settings.ini", "renderer =", "no_renderer =")], "a raw link"),
    "a field without a comment": ([(f, "  # B ids", "") for f in DATACLASS], "has no comment"),
    "fields left out": ([("plmsub/app/site.py", "if not plain:", "if False:")], "a lost field"),
    "README made by the build": ([(WORKFLOW, "touch README.md && ", "")], "README.md was changed"),
}


def say_faults():
    "Each fault in a copy of its own, and what this script says of it"
    missed = 0
    for name, (changes, expected) in FAULTS.items():
        with tempfile.TemporaryDirectory() as copy:
            folder = Path(copy)
            copied(folder)
            for file, old, new in changes:
                text = (folder / file).read_text()
                assert old in text, f"{file} lacks {old!r}: name another place in FAULTS"
                (folder / file).write_text(text.replace(old, new, 1))
            for git in ("init -q", "add -A"):
                subprocess.run(["git", *git.split()], cwd=folder, check=True)
            command = [sys.executable, "tests/site.py", "--pages", "45_tables.ipynb", "20_batches.ipynb", "index.ipynb"]
            environment = dict(os.environ, PYTHONPATH=copy)
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
            said = [line for line in (done.stdout + done.stderr).split("\n") if expected in line]
            missed += not (done.returncode and said)
            print(f"{name:30} {said[0][:140] if said else 'NOT NOTICED ' + done.stdout[-800:]}", flush=True)
    sys.exit(missed)


def main(flags):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = prepared(folder, flags.pages)
        copies = folder / "_proc" / "notebooks"
        downloads = {f.relative_to(copies).with_suffix(".ipynb") for f in copies.rglob("*.json")}
        changed = (folder / "README.md").read_bytes() != (ROOT / "README.md").read_bytes()
        pages = {f.relative_to(folder / "_proc"): json.loads(f.read_text())["cells"] for f in files}
        sources = {p: json.loads((folder / "nbs" / p).read_text())["cells"] for p in pages}
    wrong = [f"{p}: lost: {' '.join(lost)}" for p in pages if (lost := lost_words(sources[p], pages[p]))]
    wrong += [f"{p}: a raw link: {line}" for p, page in pages.items() for line in raw_links(page)]
    wrong += [f"{p}: a link in a link: {link}" for p, page in pages.items() for link in nested_links(page)]
    wrong += [f"{p}: HTML as an output: {html}" for p, page in pages.items() for html in with_jquery(page)]
    wrong += [f"{p}: its notebook cannot be downloaded" for p in pages if p not in downloads]
    wrong += [f"{p}: a lost field: {field}" for p, page in pages.items() for field in lost_fields(page)]
    wrong += [f"a type that is not there: {name}" for name in unknown_types()]
    wrong += [f"{field} has no comment" for field in bare_fields()]
    wrong += ["README.md was changed"] * changed
    for name, n in counts(pages.values()).items() if flags.counts else ():
        print(f"{n:6,} {name}")
    print(*wrong or [f"{len(pages)} pages: nothing lost"], sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", action="store_true")
    parser.add_argument("--pages", nargs="+", default=())
    parser.add_argument("--faults", action="store_true")
    flags = parser.parse_args()
    say_faults() if flags.faults else main(flags)
