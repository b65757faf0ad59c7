"""The figures of the paper: their numbers against a plain calculation row by row, their look against pictures kept beside

`python tests/test_figures.py` draws the pictures and writes the tables of `baseline_images` again."""

import io
import json
import re
import time
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control, ks_2samp, ttest_rel

if __name__ == "__main__":
    matplotlib.use("Agg")
import matplotlib.pyplot as plt

from plmsub.base.errors import DataError
from plmsub.paper.figures import (
    METRICS,
    all_figures,
    figure3b,
    figure3c,
    figure3de,
    figure3fg,
    table3b,
    table3c,
    table3de,
    table3fg,
)
from plmsub.paper.panels import RUN_LEVELS, figure1, figure2b, figure2c, table1, table2b, table2c
from plmsub.paper.results import STATE_CLASS, made_up_tables

BASELINES = Path(__file__).parent / "baseline_images"
TOLERANCE = (
    2  # mean difference of the inked pixels, of 255; the wrong colors, sizes and places below differ by 3.5 to 82
)

# --- Numbers: everything again, in plain Python, one row after the other


@pytest.fixture(scope="module")
def tables():
    return made_up_tables(300, passes=2, seed=1)


def plain(table):
    return [{k: str(v) if k in ("run", "id") else v for k, v in row.items()} for row in table.to_dict("records")]


def pairs(table):
    return {(row["run"], row["id"]) for row in plain(table)}


def mean(values):
    return sum(values) / len(values) if len(values) else float("nan")


def by_domain(rows, value):
    "(run, id) -> mean of a value over the rows that have it"
    found = {}
    for row in rows:
        if (v := value(row)) is not None:
            found.setdefault((row["run"], row["id"]), []).append(v)
    return {key: mean(values) for key, values in found.items()}


@pytest.fixture(scope="module")
def sides_of(tables):
    suppressed, trained = pairs(tables["suppressed"]), pairs(tables["train"])
    code = {row["id"]: row["code"] for row in plain(tables["domains"])}

    def sides(run, ids, as_released):
        "Suppressed and maintained ids of a run"
        ids = [i for i in ids if as_released or (run["run"], i) not in trained]
        if run["level"] == "residue":
            number = "2" if as_released else STATE_CLASS[run["target"]]
            inside = {i for i in ids if code[i].startswith(f"{number}.")}
        else:
            inside = {i for i in ids if (run["run"], i) in suppressed}
        return [i for i in ids if i in inside], [i for i in ids if i not in inside]

    return sides


@pytest.mark.parametrize("as_released", [False, True])
def test_perplexities(tables, sides_of, as_released):
    rows, trained, at = plain(tables["perplexity"]), pairs(tables["train"]), {}
    means = {"value": by_domain(rows, lambda r: r["perplexity" if as_released else "value"])}
    for name in ("helix_nats", "strand_nats", "coil_nats"):
        means[name] = by_domain(rows, lambda r, k=name: np.exp(r[k]) if as_released else r[k] or None)
    result = table2c(tables, as_released)
    assert len(result) == 38 * 4 and list(dict.fromkeys(result.level)) == list(RUN_LEVELS)
    at = {(row.run, row.model, row.side): row for row in result.itertuples()}
    for run in plain(tables["runs"]):
        ids = [i for r, i in means["value"] if r == run["run"]]
        for side in ("suppressed", "maintained"):
            names = ["value"]
            if run["level"] == "residue":
                states = [s for s in ("helix", "strand", "coil") if (s == run["target"]) == (side == "suppressed")]
                names = [f"{s}_nats" for s in states]
                here = [i for i in ids if as_released or (run["run"], i) not in trained]
                both = [[any((r, i) in means[k] for k in names) for r in (run["run"], "")] for i in here]
                here = [i for i, given in zip(here, both) if all(given)]
            else:
                here = sides_of(run, ids, as_released)[side == "maintained"]
            for model, r in (("subnetwork", run["run"]), ("ESM-2", "")):
                wanted = mean([mean([means[k][r, i] for k in names if (r, i) in means[k]]) for i in here])
                row = at[run["run"], model, side]
                assert row.n == len(here)
                np.testing.assert_allclose(row.perplexity, wanted if as_released else np.exp(wanted), rtol=1e-12)


@pytest.mark.parametrize("as_released", [False, True])
def test_structures(tables, sides_of, as_released):
    values = {(row["run"], row["id"]): row for row in plain(tables["structure"])}
    b, c = table3b(tables, as_released), table3c(tables, as_released)
    assert len(b) == 38 * 2 * 3 and len(c) == 38 * 3
    at_b = {(row.run, row.side, row.metric): row for row in b.itertuples()}
    at_c = {(row.run, row.metric): row for row in c.itertuples()}
    for run in plain(tables["runs"]):
        sides = sides_of(run, [i for r, i in values if r == run["run"]], as_released)
        for metric in METRICS:
            changes = []
            for side, ids in zip(("suppressed", "maintained"), sides):
                ours, esm = ([values[r, i][metric] for i in ids] for r in (run["run"], ""))
                changes.append(np.subtract(ours, esm))
                row = at_b[run["run"], side, metric]
                assert row.n == len(ids)
                if len(ids) > 1:
                    t = ttest_rel(ours, esm)
                    np.testing.assert_allclose(
                        [row.change, row.t, row.p], [mean(changes[-1]), t.statistic, t.pvalue], rtol=1e-7
                    )
                else:
                    assert np.isnan(row.p)
            row = at_c[run["run"], metric]
            assert (row.n_suppressed, row.n_maintained) == tuple(map(len, sides))
            if all(map(len, sides)):
                ks = ks_2samp(*changes, method="exact")
                np.testing.assert_allclose(
                    [row.excess, row.ks, row.p],
                    [abs(mean(changes[0])) - abs(mean(changes[1])), ks.statistic, ks.pvalue],
                    rtol=1e-7,
                )
            else:
                assert np.isnan(row.excess) and np.isnan(row.p)
    for table in (b, c):
        if as_released:
            assert "p_corrected" not in table and (table.significant == (table.p < 0.05)).all()
        else:
            there = table.p.notna()
            np.testing.assert_allclose(table.p_corrected[there], false_discovery_control(table.p[there]))
            assert (table.significant == (table.p_corrected < 0.05)).all() and table.p_corrected[~there].isna().all()


@pytest.mark.parametrize("by", ["domain", "residue"])
def test_residues(tables, by):
    rows, code = plain(tables["residue_plddt"]), {row["id"]: row["code"] for row in plain(tables["domains"])}
    for state, number in STATE_CLASS.items():
        result = table3fg(tables, state, by=by)
        for row in result.itertuples():
            run = {"ESM-2": "", f"{state} run": f"residue-{state}", f"class {number} run": f"class-{number}"}[row.model]
            values = [
                r["plddt"]
                for r in rows
                if r["run"] == run
                and (by == "residue" or r["state"] == state)
                and ((r["state"] == state) if by == "residue" else code[r["id"]][0] == number)
                == (row.side == "suppressed")
            ]
            assert row.n == len(values)
            np.testing.assert_allclose(
                [row.mean, row.q1, row.median, row.q3], [np.mean(values), *np.quantile(values, [0.25, 0.5, 0.75])]
            )
            box = matplotlib.cbook.boxplot_stats(values)[0]
            np.testing.assert_allclose([row.low, row.high], [box["whislo"], box["whishi"]])


def test_text_and_categories_are_the_same(tables):
    "Columns of text, as they come from a CSV file, give the same numbers as categories"
    text = {
        k: t.astype({c: object for c in ("run", "id") if c in t}) if isinstance(t, pd.DataFrame) else t
        for k, t in tables.items()
    }
    for of in (table2c, table3b, table3c):
        pd.testing.assert_frame_equal(of(text), of(tables))


# --- Files


def test_all_figures(tables, tmp_path):
    done = all_figures(tables, tmp_path / "new")
    assert done.drawn.all() and not done.note.any() and len(done) == 14
    names = {f"{name}{ending}" for name in done.figure for ending in (".png", ".svg", ".pdf", ".csv")} | {"captions.md"}
    assert {f.name for f in (tmp_path / "new").iterdir()} == names
    assert all(f.stat().st_size > 100 for f in (tmp_path / "new").iterdir())
    kept = pd.read_csv(tmp_path / "new" / "figure3c.csv", dtype=dict(target=str))
    pd.testing.assert_frame_equal(kept, table3c(tables), check_dtype=False)
    assert not plt.get_fignums()


def test_same_files_again(tables, tmp_path):
    few = {"runs": tables["runs"]}
    for folder in ("a", "b"):
        all_figures(few, tmp_path / folder)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


def test_nothing_to_draw(tmp_path):
    done = all_figures({}, tmp_path / "none")
    assert not done.drawn.any() and done.note.str.len().all()
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="not a folder"):
        all_figures({}, tmp_path / "file")


@pytest.mark.slow
def test_size_of_the_paper(tmp_path):
    "38 runs, 10 passes, 8,885 domains: all panels in a minute of one core"
    large = made_up_tables(8885, passes=10)
    start = time.process_time()
    assert all_figures(large, tmp_path).drawn.all()
    assert time.process_time() - start < 60


# --- Looks

FIGURES = {
    "figure1": (figure1, lambda t: table1(t["domains"])),
    "figure2b": (figure2b, table2b),
    "figure2c": (figure2c, table2c),
    "figure3b": (figure3b, table3b),
    "figure3c": (figure3c, table3c),
    "figure3f": (figure3fg, lambda t: table3fg(t, "helix")),
}


def picture(axes):
    "(H,W,3) pixels of a figure, made half as large"
    figure = np.ravel(axes)[0].figure
    figure.set_dpi(80)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(float)
    plt.close(figure)
    h, w = (n // 2 * 2 for n in pixels.shape[:2])
    return pixels[:h, :w].reshape(h // 2, 2, w // 2, 2, 3).mean((1, 3))


def drawn(draw, table):
    with matplotlib.rc_context(matplotlib.rcParamsDefault | {"backend": matplotlib.get_backend()}):
        return picture(draw(table))


def difference(a, b):
    "Mean difference of the pixels that are not white in both"
    assert a.shape == b.shape, (a.shape, b.shape)
    ink = (a.min(-1) < 250) | (b.min(-1) < 250)
    return np.abs(a - b).mean(-1)[ink].mean()


def kept(name):
    return plt.imread(BASELINES / f"{name}.png")[..., :3].astype(float) * 255


def kept_table(name):
    return pd.read_csv(BASELINES / f"{name}.csv", dtype=dict(target=str, name=str))


def test_numbers_are_what_they_were():
    "The tables of the pictures, from the made-up results"
    made_up = made_up_tables(1500)
    for name, (_, numbers) in FIGURES.items():
        text = io.StringIO(numbers(made_up).to_csv(index=False, float_format="%.6g"))
        pd.testing.assert_frame_equal(pd.read_csv(text, dtype=dict(target=str, name=str)), kept_table(name))


@pytest.mark.parametrize("name", FIGURES)
def test_looks(name):
    assert difference(drawn(FIGURES[name][0], kept_table(name)), kept(name)) < TOLERANCE


def test_looks_of_structures():
    tables = made_up_tables(300)
    assert difference(drawn(figure3de, tables), kept("figure3de")) < TOLERANCE
    assert table3de(tables).structure.tolist() == ["ESM-2", "subnetwork"]


# --- Type that can be read: on the site, pictures of 80 dots an inch are enlarged, and at most as wide as the text

WIDTH_PX, SMALLEST_PX = 860, 9
CSS = (Path(__file__).parent.parent / "nbs" / "styles.css").read_text()
ZOOM = float((re.search(r"\.cell-output-display img \{[^}]*zoom: ([\d.]+)", CSS) or [None, 1])[1])


def shown_px(points, width_px, dpi=80):
    "Size of type on a page, pixels"
    return points * dpi / 72 * min(ZOOM, WIDTH_PX / width_px)


def smallest_type(axes):
    "The smallest type of a figure on a page, pixels"
    figure = np.ravel(axes)[0].figure
    figure.draw_without_rendering()
    texts = [t for t in figure.findobj(matplotlib.text.Text) if t.get_visible() and t.get_text().strip()]
    size = min(shown_px(t.get_fontsize(), 80 * figure.get_figwidth()) for t in texts)
    plt.close(figure)
    return size


@pytest.mark.parametrize("name", FIGURES)
def test_type_can_be_read(name, tables):
    draw, numbers = FIGURES[name]
    assert smallest_type(draw(numbers(tables))) >= SMALLEST_PX
    if name in ("figure2c", "figure3b", "figure3c"):  # the made-up examples at half the width
        with plt.rc_context({"font.size": 8.5}):
            assert smallest_type(draw(numbers(tables), plt.figure(figsize=(3.9, 3)))) >= SMALLEST_PX


def test_type_of_structures_can_be_read(tables):
    assert smallest_type(figure3de(tables)) >= SMALLEST_PX


def test_numbers_of_type_on_pages():
    "Sizes that pages give as numbers; a page that sets no dpi has 72 at least"
    for page in (Path(__file__).parent.parent / "nbs").rglob("*.ipynb"):
        for cell in json.loads(page.read_text())["cells"]:
            source = "".join(cell["source"]) * (cell["cell_type"] == "code")
            for points in re.findall(r"(?:font|label)size=([\d.]+)", source):
                assert shown_px(float(points), 480, dpi=72) >= SMALLEST_PX, f"{page.name}: {points}"


def types_swapped(t):
    return t.replace({"type": {"alpha": "beta", "beta": "alpha"}})


def sides_swapped(t):
    return t.replace({"side": {"suppressed": "maintained", "maintained": "suppressed"}})


@pytest.mark.parametrize(
    "name, change",
    [
        ("figure1", lambda t: t.assign(name=t.name.str.replace("^1", "3", regex=True))),
        ("figure2b", lambda t: t[::-1]),
        ("figure2b", lambda t: t.assign(sparsity_percent_mean=t.sparsity_percent_mean * np.linspace(0.8, 1.2, 6))),
        ("figure2c", types_swapped),
        ("figure2c", sides_swapped),
        ("figure2c", lambda t: t.assign(size=10)),
        ("figure3b", sides_swapped),
        ("figure3b", lambda t: t.assign(significant=~t.significant)),
        ("figure3c", types_swapped),
        ("figure3c", lambda t: t.assign(excess=-t.excess)),
        ("figure3f", sides_swapped),
    ],
)
def test_a_wrong_look_is_noticed(name, change):
    "The measure is worth something: pictures that are wrong are told from the right ones"
    assert difference(drawn(FIGURES[name][0], change(kept_table(name))), kept(name)) > TOLERANCE


# --- As the paper has it: labels, order, colors, sizes, limits, rims


@pytest.fixture
def color():
    yield lambda c: matplotlib.colors.to_rgba(c)
    plt.close("all")


TYPE_COLORS = dict(alpha="orange", beta="royalblue", mixed="lightgray")
SIDE_COLORS = dict(suppressed="tomato", maintained="royalblue")
ORDER = ["residue", "class", "architecture", "topology", "superfamily", "random"]


def columns(ax):
    return [c for c in ax.collections if len(c.get_offsets())]


def medians(ax):
    return [line for line in ax.lines if matplotlib.colors.same_color(line.get_color(), "red")]


def labels(axis):
    return [t.get_text() for t in axis.get_ticklabels()]


def same(collection, rows, value, colors, sizes=None):
    "The circles of a column are the rows: height, color, size, rim"
    np.testing.assert_allclose(collection.get_offsets()[:, 1], rows[value])
    wanted = np.array([matplotlib.colors.to_rgba(c) for c in colors])
    np.testing.assert_allclose(np.broadcast_to(collection.get_facecolors(), wanted.shape), wanted)
    if sizes is not None:
        np.testing.assert_allclose(collection.get_sizes(), sizes)
    if "significant" in rows:
        rims = np.broadcast_to(collection.get_linewidths(), len(rows))
        assert rims[rows.significant].min(initial=9) > 2 * rims[~rows.significant].max(initial=0)


def test_2b_is_the_papers(tables, color):
    numbers = table2b(tables)
    ax = figure2b(numbers)
    assert numbers.level.tolist() == ORDER and [t.split("\n")[0] for t in labels(ax.xaxis)] == ORDER
    thick, thin = ax.patches, ax.figure.axes[1].patches
    assert all(a.get_width() > 3 * b.get_width() for a, b in zip(thick, thin, strict=True))
    np.testing.assert_allclose([b.get_height() for b in thick], numbers.sparsity_percent_mean)
    np.testing.assert_allclose([b.get_height() for b in thin], numbers.steps_mean)
    bars = ax.containers[1].lines[2][0].get_segments()
    np.testing.assert_allclose([np.ptp(s[:, 1]) / 2 for s in bars], numbers.sparsity_percent_sd)
    assert (ax.get_ylabel(), ax.figure.axes[1].get_ylabel()) == ("sparsity (%)", "steps")


def test_2c_is_the_papers(tables, color):
    runs = tables["runs"].assign(size=np.resize([50, 99, 100, 1000, 1001], 38))
    numbers = table2c(dict(tables, runs=runs), as_released=True)
    axes = figure2c(numbers)
    assert [ax.get_title() for ax in axes.flat] == ORDER
    for ax in axes.flat:
        assert ax.get_ylim() == (
            0,
            max(
                75 if ax.get_title() == "superfamily" else 45,
                1.08 * numbers.perplexity[numbers.level == ax.get_title()].max(),
            ),
        )
    quiet = figure2c(numbers.assign(perplexity=numbers.perplexity.clip(upper=40)))
    assert [ax.get_ylim() for ax in quiet.flat] == [(0, 45)] * 4 + [(0, 75), (0, 45)]
    assert labels(axes[1, 0].xaxis) == [
        "subnetwork\nsuppressed",
        "subnetwork\nmaintained",
        "ESM-2\nsuppressed",
        "ESM-2\nmaintained",
    ]
    small, middle, large = sorted({s for ax in axes.flat for c in columns(ax) for s in c.get_sizes()})

    def size(n):
        return small if n < 100 else middle if n <= 1000 else large

    for ax in axes.flat:
        rows = numbers[numbers.level == ax.get_title()]
        four = [
            rows[(rows.model == m) & (rows.side == s)].dropna(subset="perplexity")
            for m in ("subnetwork", "ESM-2")
            for s in SIDE_COLORS
        ]
        for circles, line, part in zip(columns(ax), medians(ax), four, strict=True):
            same(circles, part, "perplexity", part.type.map(TYPE_COLORS), part["size"].map(size))
            np.testing.assert_allclose(line.get_ydata(), part.perplexity.median())
    legend = [t.get_text() for t in axes[0, 0].figure.legends[0].get_texts()]
    assert legend == ["alpha", "beta", "mixed", "< 100 domains", "100–1000 domains", "> 1000 domains", "median"]


@pytest.mark.parametrize("as_released", [False, True])
def test_3b_is_the_papers(tables, as_released, color):
    numbers = table3b(tables, as_released)
    axes = figure3b(numbers)
    assert [ax.get_ylabel() for ax in axes] == ["ΔTM-score", "ΔRMSD (Å)", "ΔpLDDT"] and labels(axes[0].xaxis) == ORDER
    for ax, metric in zip(axes, METRICS):
        zero = ax.lines[0]
        assert (
            zero.get_linestyle() == "--" and color(zero.get_color()) == color("gray") and set(zero.get_ydata()) == {0}
        )
        groups = [
            numbers[(numbers.metric == metric) & (numbers.level == v) & (numbers.side == s)].dropna(subset="change")
            for v in ORDER
            for s in SIDE_COLORS
        ]
        groups = [g for g in groups if len(g)]
        for circles, line, rows in zip(columns(ax), medians(ax), groups, strict=True):
            same(circles, rows, "change", [SIDE_COLORS[rows.side.iloc[0]]] * len(rows))
            np.testing.assert_allclose(line.get_ydata(), rows.change.median())
    words = [t.get_text() for t in axes[0].figure.legends[0].get_texts()]
    assert words == ["suppressed", "maintained", "p < .05" if as_released else "p < .05, corrected", "median"]


def test_3c_is_the_papers(tables, color):
    numbers = table3c(tables, as_released=True)
    axes = figure3c(numbers)
    assert [ax.get_ylabel() for ax in axes] == [f"|{m}| suppressed − maintained" for m in METRICS.values()]
    for ax, metric in zip(axes, METRICS):
        for circles, level in zip(columns(ax), ORDER, strict=True):
            rows = numbers[(numbers.metric == metric) & (numbers.level == level)].dropna(subset="excess")
            same(circles, rows, "excess", rows.type.map(TYPE_COLORS))


def test_3de_is_the_papers(color):
    axes = figure3de(made_up_tables(300))
    legend = axes[0, 0].figure.legends[0]
    assert [t.get_text() for t in legend.get_texts()] == [
        "native",
        "very high (≥ 90)",
        "high (≥ 70)",
        "low (≥ 50)",
        "very low (≥ 0)",
    ]
    assert [ax.get_title().split(",")[-2 if k else 0].split()[0] for k, ax in enumerate(axes[0])] == [
        "made",
        "ESM-2",
        "subnetwork",
    ]


@pytest.mark.parametrize("state, number", STATE_CLASS.items())
def test_3fg_is_the_papers(tables, state, number, color):
    numbers = table3fg(tables, state)
    ax = figure3fg(numbers)
    assert (
        labels(ax.xaxis) == [f"{state} run", f"class {number} run", "ESM-2"]
        and ax.get_ylabel() == f"pLDDT of {state} residues"
        and ax.get_ylim() == (0, 100)
    )
    boxes = sorted(ax.patches, key=lambda p: p.get_path().vertices[:, 0].min())
    for box, row in zip(boxes, numbers.itertuples(), strict=True):
        assert color(box.get_facecolor())[:3] == color(SIDE_COLORS[row.side])[:3]
        np.testing.assert_allclose(
            [box.get_path().vertices[:, 1].min(), box.get_path().vertices[:, 1].max()], [row.q1, row.q3]
        )
    assert sorted(line.get_ydata()[0] for line in medians(ax)) == sorted(numbers["median"])


def test_1_is_the_papers(tables, color):
    axes = figure1(table1(tables["domains"]))
    assert [color(b.get_facecolor()) for b in axes[0].patches] == [
        color(TYPE_COLORS[t]) for t in ("alpha", "beta", "mixed")
    ]
    counts = [b.get_width() for b in axes[1].patches]
    assert counts[:12] == sorted(counts[:12], reverse=True)


if __name__ == "__main__":
    BASELINES.mkdir(exist_ok=True)
    made_up = made_up_tables(1500)
    for name, (draw, numbers) in FIGURES.items():
        numbers(made_up).to_csv(BASELINES / f"{name}.csv", index=False, float_format="%.6g")
        plt.imsave(BASELINES / f"{name}.png", drawn(draw, kept_table(name)).round().astype(np.uint8))
    plt.imsave(BASELINES / "figure3de.png", drawn(figure3de, made_up_tables(300)).round().astype(np.uint8))
