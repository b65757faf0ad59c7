"README.md from nbs/index.ipynb without Quarto: `python tests/readme.py` writes it, `--check` only compares."

import argparse
import difflib
import json
import posixpath
import re
import sys
from configparser import ConfigParser
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTICE = "<!-- Made from nbs/index.ipynb by tests/readme.py: edit the notebook, not this file. -->"


def settings(root=ROOT):
    cfg = ConfigParser(delimiters=["="])
    cfg.read(root / "settings.ini", encoding="utf-8")
    return cfg["DEFAULT"]


class Rows(HTMLParser):
    "The cells of an HTML table, row by row"

    def __init__(self):
        super().__init__()
        self.rows, self.cell = [], None

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.cell = ""

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data

    def handle_endtag(self, tag):
        if tag in ("th", "td") and self.cell is not None:
            self.rows[-1].append(" ".join(self.cell.split()).replace("|", "\\|"))
            self.cell = None


def table(html):
    "A pandas table as a Markdown table"
    parser = Rows()
    parser.feed(html)
    head, *body = [row for row in parser.rows if row]
    width = max(map(len, [head, *body]))
    lines = [head + [""] * (width - len(head)), ["---"] * width, *([""] * (width - len(row)) + row for row in body)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def absolute(target, cfg, image=False, folder="nbs"):
    "A link of the notebook as one that also works outside the checkout: notebooks lead to the site, files to the repository"
    if re.match(r"[a-z][a-z0-9+.-]*:|#|//", target, re.I):
        return target
    path, hash_, anchor = target.partition("#")
    inside = posixpath.normpath(posixpath.join(folder, path))
    if inside.startswith("../"):
        raise SystemExit(f"index.ipynb: the link “{target}” leaves the repository")
    if path.endswith((".ipynb", ".html", ".qmd")) and inside.startswith("nbs/"):
        page = Path(inside).relative_to("nbs")
        page = page.with_name(re.sub(r"^\d+[a-zA-Z0-9]*_", "", page.name)).with_suffix(".html")
        return f"{cfg['doc_host']}{cfg['doc_baseurl']}/{page.as_posix()}{hash_}{anchor}"
    view = "raw" if image else "blob"
    return f"{cfg['git_url']}/{view}/{cfg['branch']}/{inside}{hash_}{anchor}"


def links(text, cfg):
    "Relative links and images outside code fences made absolute"

    def one(m):
        return f"{m[1]}({absolute(m[2], cfg, image=m[1].startswith('!'))}{m[3] or ''})"

    def html(m):
        return f"{m[1]}{absolute(m[2], cfg, image=m[1].startswith('<img'))}{m[3]}"

    parts = re.split(r"(^```.*?^```[ ]*$)", text, flags=re.M | re.S)
    for i in range(0, len(parts), 2):
        # a linked image first: [![alt](image)](target)
        parts[i] = re.sub(r'(!\[[^\]]*\])\(([^)\s]+)(\s+"[^"]*")?\)', one, parts[i])
        parts[i] = re.sub(r'((?<!!)\[(?:!\[[^\]]*\]\([^)]*\)|[^\]])*\])\(([^)\s]+)(\s+"[^"]*")?\)', one, parts[i])
        parts[i] = re.sub(r'(<img [^>]*?src=")([^"]+)(")', html, parts[i])
    return "".join(parts)


def join(source):
    return source if isinstance(source, str) else "".join(source)


def directives(source):
    "The `#|` lines of a code cell, and the rest"
    found, rest = {}, []
    for line in source.splitlines():
        m = re.match(r"\s*#\|\s*([\w-]+)\s*:?\s*(.*?)\s*$", line)
        if m:
            found[m[1]] = m[2]
        else:
            rest.append(line)
    return found, "\n".join(rest).strip("\n")


def output(out, number, found, cfg, images):
    "One stored output as Markdown"
    if out["output_type"] == "error":
        raise SystemExit(f"index.ipynb: cell {number} holds an error")
    if out["output_type"] == "stream":
        return f"```text\n{join(out['text']).rstrip()}\n```" if out["name"] == "stdout" else ""
    data = {kind: value if isinstance(value, dict) else join(value) for kind, value in out["data"].items()}
    if "text/markdown" in data:
        return links(data["text/markdown"].strip(), cfg)
    if "<table" in data.get("text/html", ""):
        return table(data["text/html"])
    if "image/png" in data:
        name = f"index_files/cell-{number}-{len(images) + 1}.png"
        images[name] = data["image/png"]
        alt = (found.get("fig-alt") or found.get("fig-cap") or "Figure").strip("\"'")
        return f"![{alt}]({absolute('../' + name, cfg, image=True)})"
    return f"```text\n{data['text/plain'].rstrip()}\n```" if "text/plain" in data else ""


def make(root=ROOT):
    "The text of README.md and its images (name to base64 text)"
    cfg, blocks, images = settings(root), [], {}
    cells = json.loads((root / "nbs" / "index.ipynb").read_text(encoding="utf-8"))["cells"]
    for number, cell in enumerate(cells):
        source = join(cell["source"]).strip()
        if cell["cell_type"] == "markdown" and source:
            blocks.append(links(source, cfg))
        if cell["cell_type"] != "code":
            continue
        found, code = directives(source)
        shown = not ({"hide", "default_exp"} & set(found)) and found.get("include") != "false"
        if not shown:
            continue
        if code and found.get("echo") != "false" and "hide_input" not in found:
            blocks.append(f"```python\n{code}\n```")
        if found.get("output") == "false" or "hide_output" in found:
            continue
        blocks += [text for out in cell["outputs"] if (text := output(out, number, found, cfg, images))]
    title, *rest = blocks[0].split("\n", 1)
    blocks[:1] = [title, NOTICE, *(r.strip() for r in rest if r.strip())]
    return "\n\n".join(blocks) + "\n", images


def main(argv=None):
    from base64 import b64decode

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where README.md differs")
    check = parser.parse_args(argv).check
    text, images = make()
    wanted = {"README.md": text.encode(), **{name: b64decode(data) for name, data in images.items()}}
    stale = [p for p in sorted((ROOT / "index_files").glob("*")) if p.relative_to(ROOT).as_posix() not in wanted]
    differing = [
        name for name, data in wanted.items() if not (ROOT / name).exists() or (ROOT / name).read_bytes() != data
    ]
    if check:
        if "README.md" in differing and (ROOT / "README.md").exists():
            sys.stdout.writelines(
                difflib.unified_diff(
                    (ROOT / "README.md").read_text(encoding="utf-8").splitlines(True),
                    text.splitlines(True),
                    "README.md",
                    "nbs/index.ipynb",
                )
            )
        if differing or stale:
            sys.exit(f"out of date: {', '.join(differing + [p.name for p in stale])}; run python tests/readme.py")
        return print("README.md is in sync with nbs/index.ipynb")
    for name, data in wanted.items():
        (ROOT / name).parent.mkdir(exist_ok=True)
        (ROOT / name).write_bytes(data)
    for path in stale:
        path.unlink()
    print(f"wrote {', '.join(wanted)}")


if __name__ == "__main__":
    main()
