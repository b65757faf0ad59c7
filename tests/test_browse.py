"The page that browses masks: what it holds, what it refuses, and what happens when it is clicked."

import json
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from chromium import browser, find_browser

from plmsub.app.browse import MOST_BYTES, browse, losses_in
from plmsub.app.commands import plmsub_browse
from plmsub.base.errors import ConfigError, DataError, RunError
from plmsub.base.files import write_json, write_table
from plmsub.categories import as_category
from plmsub.models.weights import load_plm
from plmsub.subnetwork import HardMask, save_mask
from plmsub.tables import tidy
from plmsub.train import TrainConfig

NASTY = "</script><img src=x onerror=document.title='broken'>"
CODES = ["1.10.8.10", "1.20.5.1", "2.60.40.10", "3.40.50.300"]


@dataclass
class Row:
    "What the page reads of a protein; a `Domain` would refuse an id that is HTML"

    id: str
    code: str
    length: int

    def __len__(self):
        return self.length


def domains(n=40):
    "Domains of three classes; the name of the first one would be HTML"
    ids = [NASTY, *(f"{i}abcA00" for i in range(1, n))]
    return [Row(id, CODES[i % 4], 60 + 3 * i) for i, id in enumerate(ids)]


def made_up_losses(seed, proteins):
    "Losses as evaluate would give them"
    rng, rows = np.random.default_rng(seed), []
    for d in proteins:
        full = rng.uniform(2, 3)
        for model, more in dict(full=0, subnetwork=0.3 * (d.code[0] == "1"), random=0.1).items():
            row = dict(model=model, metric="NLL (nats)", id=d.id, code=d.code, value=full + more * rng.uniform(0.5, 1))
            rows.append(row | dict(residues=9, **{"pass": 0}))
    return tidy(rows, "language model")


def made_up_run(folder, seed, model="toy", layers=(0, 1, 2, 3), losses=True, category="1"):
    "The files of a finished run, with a random mask in which every matrix has another share of zeros"
    plm, rng = load_plm(model), torch.Generator().manual_seed(seed)
    names = [n for n in plm.weights if "attention" in n and int(n.split(".")[1]) in layers]
    shares = torch.rand(len(names), generator=rng) / 2
    mask = HardMask({n: torch.rand(plm.weights[n].shape, generator=rng) > s for n, s in zip(names, shares)})
    config, scores = TrainConfig(), dict(valid_S=0.3, valid_D=0.01, sparsity=mask.sparsity, step=20)
    about = dict(config=vars(config), category=as_category(category).to_dict(), model=dict(name=model))
    write_json(folder / "config.json", about | dict(command=dict(plm=model, domains="/somewhere/secret/list")))
    write_json(folder / "result.json", scores)
    log = [dict(step=s, valid_S=s / 100, valid_D=0.01, sparsity=0.1) for s in (10, 20)]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    save_mask(mask, folder / "mask.safetensors", plm, config=vars(config), scores=scores)
    if losses:
        write_table(made_up_losses(seed, domains()), folder / "test.csv.gz")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    "Three runs: one is named like HTML, one masks fewer layers and was never scored"
    root = tmp_path_factory.mktemp("runs")
    few = made_up_run(root / "few", 2, layers=(2, 3), losses=False)
    return [made_up_run(root / "one", 0), made_up_run(root / "<img src=x onerror=alert(1)>", 1), few]


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "masks.html"
    return browse(runs, out, domains(), {"1.10": "Orthogonal <b>Bundle</b>"}, title="Masks <b>& more</b>")


def data_of(page):
    "The JSON object of a page"
    return json.loads(re.search(r'<script type="application/json" id="page">(.*?)</script>', page.read_text(), re.S)[1])


def test_one_file_that_asks_for_nothing(page):
    text = page.read_text(encoding="utf-8")
    assert 500_000 < len(text.encode()) < 1_300_000
    assert not re.search(r"<script[^>]*\bsrc|<link\b|<iframe|@import|url\(", text.split('id="page"')[0])
    assert "default-src 'none'" in text and "{{" not in text.split("<script", 1)[0]
    assert "secret" not in text and str(page.parent) not in text


def test_the_page_holds_the_runs(page, runs):
    data = data_of(page)
    assert [r["name"] for r in data["runs"]] == [r.name for r in runs]
    one, _, few = data["runs"]
    assert len(one["cells"]) == 16 and len(few["cells"]) == 8
    assert one["rows"]["n"] == [128] * 16 and one["heads"]["n"] == [4] * 16
    assert one["training"] == [[10, 0.1, 0.01], [20, 0.2, 0.01]]
    assert {"subnetwork", "random", "full"} == {row[0] for row in one["controls"]["rows"]}
    assert few["changes"] is None and few["controls"] is None
    assert [data["overlaps"][k][:2] for k in ("0 1", "0 2", "1 2")] == [[n, "weights"] for n in (16, 8, 8)]
    assert data["proteins"]["length"][data["proteins"]["id"].index("1abcA00")] == 63
    assert data["names"] == {"1.10.8.10": "Orthogonal <b>Bundle</b>"}


def test_text_is_escaped(page):
    text = page.read_text(encoding="utf-8")
    assert text.count("Masks &lt;b&gt;&amp; more&lt;/b&gt;") == 2 and "Masks <b>" not in text
    own = text.partition("<script>")[0]  # before the library
    assert NASTY in data_of(page)["proteins"]["id"] and "onerror" in own and "<img" not in own
    assert text.count("</script") == 3


def test_refusals(runs, page, tmp_path):
    out = tmp_path / "x.html"
    for folders, error, words in [
        ([tmp_path], RunError, "no run here"),
        ([], ConfigError, "1 to 48 runs"),
        ([runs[0]] * 49, ConfigError, "not 49"),
        ([runs[0], made_up_run(tmp_path / "mini", 0, "mini", losses=False)], ConfigError, "several models"),
    ]:
        with pytest.raises(error, match=words):
            browse(folders, out)
    with pytest.raises(ConfigError, match="here already"):
        browse(runs, page)
    (tmp_path / "mini/mask.safetensors").unlink()
    with pytest.raises(RunError, match="no mask yet"):
        browse([tmp_path / "mini"], out)
    assert not out.exists()


def test_a_page_that_grows_too_large(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("plmsub.app.browse.MOST_BYTES", 900_000)
    with pytest.raises(ConfigError, match="would take"):
        browse(runs, tmp_path / "x.html")
    assert MOST_BYTES == 5_000_000


def test_losses_of_another_kind(runs, tmp_path):
    "Of two evaluations the one on more test proteins is shown; one without the full model is refused"
    folder = made_up_run(tmp_path / "run", 3, losses=False)
    for name, part, n in [("valid-40", "valid", 40), ("test-8", "test", 8), ("test-16", "test", 16)]:
        write_json(folder / name / "evaluation.json", dict(part=part, n=n))
        write_table(made_up_losses(0, domains(n)), folder / name / "perplexity.csv")
    source, table = losses_in(folder)
    assert (source, table.id.nunique()) == ("test-16", 16)
    write_table(table[table.model != "full"], folder / "test-16" / "perplexity.csv")
    with pytest.raises(DataError, match="of the full model"):
        browse([folder], tmp_path / "x.html")


def test_the_command(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pd.DataFrame(dict(folder=[str(r) for r in runs[:1]])).to_csv("runs.csv", index=False)
    assert plmsub_browse(csv="runs.csv").name == "masks.html"
    said = capsys.readouterr().out
    assert "no lengths of proteins" in said and "1 runs in masks.html" in said
    with pytest.raises(SystemExit, match="--overwrite"):
        plmsub_browse.main([str(runs[0])])


# --- In a browser


@pytest.fixture(scope="module")
def tab():
    if not find_browser():
        pytest.skip("no Chromium here; name one in CHROMIUM")
    with browser(find_browser()) as tab:
        yield tab


CELL = "document.querySelector('#zeros [aria-label^=\"projection: {}; layer: {}\"]')"


def bars(tab):
    "Heights of the bars of the rows panel, as drawn"
    return tab.ask("[...document.querySelectorAll('#rows .mark-rect path')].map(p => p.getAttribute('d')).join()")


def choose(tab, select, key, times=1):
    "Choose in a select with the keyboard"
    tab.ask(f"document.getElementById('{select}').focus()")
    for _ in range(times):
        tab.key(key)
    return tab.ask(f"document.getElementById('{select}').value")


def settled(tab):
    "After everything that is going on has been drawn"
    tab.ask("Promise.all(Object.values(views).map(v => v.runAsync())).then(() => new Promise(requestAnimationFrame))")


def test_clicks_and_keys(tab, page):
    tab.open(page)
    assert tab.problems == [] and tab.ask("document.title") == "Masks <b>& more</b>"
    before, said = bars(tab), tab.ask("document.getElementById('cell').textContent")
    assert before.count("M") == 128
    tab.click(CELL.format("key", 1))
    settled(tab)
    after = tab.ask("document.getElementById('cell').textContent")
    assert after.startswith("Layer 1, key: ") and after != said and bars(tab) != before
    cell = next(c for c in data_of(page)["runs"][0]["cells"] if c[:2] == [1, "key"])
    assert f"{cell[3]:,} of {cell[2]:,} weights" in after

    assert choose(tab, "run", "ArrowDown") == "1"  # another run, by keyboard; the matrix stays chosen
    settled(tab)
    cell = next(c for c in data_of(page)["runs"][1]["cells"] if c[:2] == [1, "key"])
    assert f"Layer 1, key: {cell[3]:,} of" in tab.ask("document.getElementById('cell').textContent")
    assert "<img src=x onerror=alert(1)>" in tab.ask("document.getElementById('settings').textContent")

    before = bars(tab)
    choose(tab, "layer", "ArrowDown")
    settled(tab)
    assert bars(tab) != before


def test_filters_and_proteins(tab, page):
    tab.open(page)
    shown = "[views.change.data('change').length, new Set(views.change.data('change').map(d => d.code[0])).size]"
    assert tab.ask(shown) == [40, 3]
    assert choose(tab, "class", "ArrowDown") == "1"
    settled(tab)
    assert tab.ask(shown) == [20, 1]
    assert choose(tab, "side", "ArrowDown", 2) == "maintained"
    settled(tab)
    assert tab.ask(shown) == [0, 0]  # all of class 1 is suppressed
    choose(tab, "side", "ArrowUp", 2)
    choose(tab, "class", "Home")
    choose(tab, "protein", "Home")
    choose(tab, "protein", "ArrowDown")
    settled(tab)
    id = tab.ask("document.getElementById('told').textContent").partition(": CATH ")[0]
    assert tab.ask("document.querySelector('#protein option:checked').textContent").startswith(f"{id} (")
    at = data_of(page)["proteins"]["id"].index(id)
    length = data_of(page)["proteins"]["length"][at]
    assert f", {length} residues, suppressed" in tab.ask("document.getElementById('told').textContent")


POINT = """(d => {
  const box = document.querySelector("#change canvas").getBoundingClientRect(), [x, y] = views.change.origin(), { left, top } = views.change.padding();
  return [d.id, box.x + left + x + views.change.scale("x")(d.full), box.y + top + y + views.change.scale("y")(d.change)];
})(views.change.data("change")[%d])"""


def test_a_click_on_a_point_tells_its_protein(tab, page):
    tab.open(page)
    tab.ask("document.getElementById('change').scrollIntoView({block: 'center'})")
    id, x, y = tab.ask(POINT % 3)
    tab.click_at(x, y)
    settled(tab)
    assert tab.ask("document.getElementById('told').textContent").startswith(f"{id}: CATH ")
    assert tab.ask("document.querySelector('#protein option:checked').textContent").startswith(f"{id} (")


def test_overlap_and_a_run_that_was_never_scored(tab, page):
    tab.open(page)
    shared = data_of(page)["overlaps"]["0 1"][2]
    assert f"shared zeros (weights){shared:,}" in tab.ask("document.getElementById('overlap').textContent")
    choose(tab, "second", "ArrowUp")
    assert tab.ask("document.getElementById('overlap').textContent") == "Choose two masks."
    choose(tab, "run", "End")
    settled(tab)
    assert "plmsub_eval" in tab.ask("document.getElementById('controls').textContent")
    assert tab.ask("document.getElementById('change-figure').hidden") is True
    assert "plmsub_eval" in tab.ask("document.getElementById('told').textContent")
    assert tab.ask("document.querySelectorAll('#layer option').length") == 2


def test_nothing_is_wider_than_a_phone(tab, page):
    tab.open(page, 390, 844)
    assert tab.ask("document.documentElement.scrollWidth <= innerWidth") is True
    labelled = "[...document.querySelectorAll('select')].every(s => s.labels.length === 1)"
    assert tab.ask(labelled) is True and tab.problems == []
    tab.open(page)
    tab.key("Tab")
    assert tab.ask("document.activeElement.id") == "run"
    assert tab.ask("getComputedStyle(document.activeElement).outlineStyle") == "solid"
