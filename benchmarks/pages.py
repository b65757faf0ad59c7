"""How high the pages of the site are: simple HTML of each, measured in Chromium; Quarto is not needed.

    python benchmarks/pages.py [--out FOLDER] [--pages 30_masks.ipynb ...] [--width 1300]

Prints a line for each page, the highest first, and the median of the pages of modules. Fails if a page is higher than `LIMIT`.
With `--out` the HTML stays, to be looked at. The navigation of the site is missing; widths and sizes are those of its styles."""

import argparse
import functools
import json
import re
import runpy
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nbformat
import yaml
from nbconvert import HTMLExporter

ROOT = Path(__file__).parent.parent
LIMIT = 12_000  # pixels
STYLE = """body { font: 16px/1.5 sans-serif; max-width: 860px; margin: 0 auto 0 300px; }
@media (max-width: 900px) { body { margin: 0 1rem; } }
pre { font-size: 0.875em; line-height: 1.5; margin: 0; overflow-x: auto; }
.input_area pre { background: #f0f0f080; padding: 0.4rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.prompt, .anchor-link { display: none; } a { text-decoration: none; }
table { border-collapse: collapse; } td, th { padding: 0.5rem; border-top: 1px solid #ddd; }
h2 { margin-top: 2rem; } h3 { margin-top: 1.5rem; }"""  # near to what Quarto makes of the same notebook
MEASURE = """<body><script>
const heights = {}, pages = PAGES;
function next() {
    if (!pages.length) { document.body.innerText = "HEIGHTS" + JSON.stringify(heights) + "END"; return; }
    const page = pages.shift(), frame = document.createElement("iframe");
    frame.style = "width: WIDTHpx; height: 900px";
    frame.onload = () => {
        const whole = frame.contentDocument.documentElement;
        heights[page] = [whole.scrollHeight, whole.scrollWidth];
        frame.remove();
        next();
    };
    frame.src = page;
    document.body.append(frame);
}
window.onload = next;
</script></body>"""


def as_html(text):
    "Markdown of Quarto as far as the pages use it: divs, and attributes of links"
    text = re.sub(r"```\{=html\}\n(.*?)\n```", r"\1", text, flags=re.S)
    text = re.sub(r"^::: \{\.([\w-]+)\}$", r'<div class="\1">\n', text, flags=re.M)
    return re.sub(r"(?<=\))\{[^}\n]*\}", "", re.sub(r"^:::$", "\n</div>\n", text, flags=re.M))


def simple_html(file, styles):
    "A page, without navigation"
    page = nbformat.read(file, 4)
    front = yaml.safe_load(page.cells[0].source.strip().strip("-"))
    page.cells[0] = nbformat.v4.new_markdown_cell(f"# {front.get('title')}\n\n{front.get('description', '')}")
    for cell in page.cells:
        if cell.cell_type == "markdown":
            cell.source = as_html(cell.source)
        for output in cell.get("outputs", []):
            if "text/markdown" in output.get("data", {}):
                output.data["text/markdown"] = as_html(output.data["text/markdown"])
        if cell.cell_type == "code" and "echo: false" in cell.source:
            cell.metadata["transient"] = {"remove_source": True}
        if cell.cell_type == "code":
            lines = [line for line in cell.source.split("\n") if not line.startswith("#|")]
            cell.source = "▸ code" if front.get("code-fold") or "code-fold: true" in cell.source else "\n".join(lines)
    body, _ = HTMLExporter(template_name="basic").from_notebook_node(page)
    body = body.replace("output_subarea", "cell-output cell-output-display")
    return f"<!doctype html><meta charset=utf-8><style>{STYLE}{styles}</style>{body}"


class Silent(SimpleHTTPRequestHandler):
    "Serves a folder"

    def log_message(self, *_):
        pass


def measured(folder, names, width):
    "Height and width in pixels of each page, as Chromium lays it out"
    browser = shutil.which("chromium") or shutil.which("google-chrome") or sys.exit("Chromium is not installed")
    (folder / "measure.html").write_text(MEASURE.replace("PAGES", json.dumps(names)).replace("WIDTH", str(width)))
    handler = functools.partial(Silent, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/measure.html"
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=300000", "--dump-dom"]
        done = subprocess.run([*command, address], capture_output=True, text=True)
        server.shutdown()
    return json.loads(re.search("HEIGHTS(.*)END", done.stdout)[1])


def main(flags):
    with tempfile.TemporaryDirectory() as copy, tempfile.TemporaryDirectory() as rendered:
        files = runpy.run_path(str(ROOT / "tests" / "site.py"))["prepared"](Path(copy), flags.pages)
        folder = Path(flags.out or rendered)
        styles = (ROOT / "nbs" / "styles.css").read_text()
        names = {}
        for file in files:
            name = file.relative_to(Path(copy) / "_proc").with_suffix(".html").as_posix()
            names[name] = "default_exp" in (Path(copy, "nbs") / name).with_suffix(".ipynb").read_text()
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(simple_html(file, styles))
        sizes = measured(folder, list(names), flags.width)
    for name, (height, width) in sorted(sizes.items(), key=lambda item: -item[1][0]):
        print(f"{height:7,} {name}" + f"  wider than the window: {width}" * (width > flags.width))
    modules = [sizes[name][0] for name, has_module in names.items() if has_module]
    print(f"{statistics.median(modules or [0]):7,.0f} median of {len(modules)} pages of modules")
    sys.exit(max(height for height, _ in sizes.values()) > LIMIT)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="folder for the HTML")
    parser.add_argument("--pages", nargs="+", default=())
    parser.add_argument("--width", type=int, default=1300)
    main(parser.parse_args())
