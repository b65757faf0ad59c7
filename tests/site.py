"""Prepares every page as the site build does, in a copy, and checks what a reader would get; a part of the gate.

    python tests/site.py [--counts]

It fails if a page cannot be made, loses prose, shows a raw link in a signature, or a field without its comment, and if the README changes.
`--counts` also lists what is counted and not refused."""

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
from inspect import isclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
BUILD = "from nbdev.serve import proc_nbs; proc_nbs()"


def prepared(folder):
    "The pages as Quarto would get them: made in a copy of what git knows"
    names = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name, follow_symlinks=False)
    environment = dict(os.environ, PYTHONPATH=str(folder))
    subprocess.run([sys.executable, "-c", BUILD], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
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


def main(flags):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = prepared(folder)
        changed = (folder / "README.md").read_bytes() != (ROOT / "README.md").read_bytes()
        pages = {f.relative_to(folder / "_proc"): json.loads(f.read_text())["cells"] for f in files}
        sources = {p: json.loads((folder / "nbs" / p).read_text())["cells"] for p in pages}
    wrong = [f"{p}: lost: {' '.join(lost)}" for p in pages if (lost := lost_words(sources[p], pages[p]))]
    wrong += [f"{p}: a raw link: {line}" for p, page in pages.items() for line in raw_links(page)]
    wrong += [f"{p}: a link in a link: {link}" for p, page in pages.items() for link in nested_links(page)]
    wrong += [f"{field} has no comment" for field in bare_fields()]
    wrong += ["README.md was changed"] * changed
    for name, n in counts(pages.values()).items() if flags.counts else ():
        print(f"{n:6,} {name}")
    print(*wrong or [f"{len(pages)} pages: nothing lost"], sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", action="store_true")
    main(parser.parse_args())
