"""Size of the page that browses masks, and how long a browser takes to show it.

    python benchmarks/browse.py RUN... [--copies 48] [--times 5] [--out FILE.json]

RUN are folders of finished runs. `--copies N` repeats them under the same names until there are N, to see what a page of N runs would be.
Seconds are from the start of loading a file to all charts drawn, in a headless Chromium with a fresh profile: median, least and most.
Then each run is chosen once, which gives the seconds to draw another run."""

import argparse
import statistics
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

from plmsub.app.browse import browse
from plmsub.base.files import write_json
from plmsub.base.runs import provenance

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from chromium import browser, find_browser  # noqa: E402

CHOOSE = """(async k => {
  const start = performance.now(), select = document.getElementById("run");
  select.value = k;
  await showRun();
  return performance.now() - start;
})(%d)"""


def measured(folders, times):
    "A page of some runs: bytes, and seconds to make it, to show it, and to show another run"
    with tempfile.TemporaryDirectory() as here:
        start = time.perf_counter()
        page = browse(folders, Path(here) / "page.html")
        made = time.perf_counter() - start
        with browser(find_browser()) as tab:
            loads = [
                tab.open(page) or int(tab.ask("document.documentElement.dataset.drawn")) / 1e3 for _ in range(times)
            ]
            another = [tab.ask(CHOOSE % k) / 1e3 for k in range(len(folders))]
            version = tab.call("Browser.getVersion")["product"]
            assert not tab.problems, tab.problems
        row = dict(runs=len(folders), different_runs=len(set(folders)), bytes=page.stat().st_size)
        row |= dict(
            make_seconds=made, load_seconds=statistics.median(loads), load_least=min(loads), load_most=max(loads)
        )
        return row | dict(another_run_seconds=statistics.median(another)), version


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--copies", type=int, help="so many runs, by repeating those that were given")
    parser.add_argument("--times", type=int, default=5, help="times that the page is loaded")
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    flags = parser.parse_args()
    if not find_browser():
        raise SystemExit("no Chromium here; name one in CHROMIUM")
    row, version = measured([*islice(cycle(flags.runs), flags.copies or len(flags.runs))], flags.times)
    print(
        *(f"{name}: {value:.2f}" if isinstance(value, float) else f"{name}: {value:,}" for name, value in row.items()),
        version,
        sep="\n",
    )
    if flags.out:
        rounded = {k: round(v, 3) for k, v in row.items()}
        write_json(
            flags.out,
            provenance("cpu", command="python benchmarks/browse.py RUN... --copies 48", browser=version, **rounded),
        )
