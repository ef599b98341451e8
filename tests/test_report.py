import base64
import io
import itertools
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import PathPatch
from rich.console import Console

from jacspec.axes import LayerResult
from jacspec.report import figures, write_report
from jacspec.report import page as page_module
from jacspec.report.console import print_files, print_summary
from jacspec.report.figures import box_plots, component_styles, draw_boxes, uses_log_axis
from jacspec.report.labels import metric_label, metric_title, number_format, printable, run_title
from jacspec.report.lines import draw_spectra, visible_spectrum
from jacspec.report.listing import list_figures
from jacspec.report.page import write_page
from jacspec.report.plotting import from_zero
from jacspec.runs import Run, open_run, start_run
from jacspec.spectra.metrics import METRICS

PAPER = ("spectral_radius", "decay_ratio")
HOSTILE = '<script>alert("1")</script> & [red]$x$'


def make_run(
    folder: Path,
    *,
    layers: int = 3,
    samples: int = 40,
    k: int = 6,
    components: Sequence[str] = ("attn", "mlp"),
    metrics: Sequence[str] = PAPER,
    missing: bool = False,
    text: str = "To be, or not to be.",
    provenance: Mapping[str, Any] | None = None,
) -> Run:
    """Write a finished run of random numbers; `missing` makes all of layer 0 NaN and a few samples of each other."""
    rng = np.random.default_rng(layers * 1000 + samples)
    known = {"metrics": list(metrics), "components": list(components)}
    rows = [(sample, 5 + sample, f"{text} {sample}") for sample in range(samples)]
    writer = start_run(folder, known | dict(provenance or {}), metric_names=tuple(metrics), samples=rows)
    for layer in range(layers):
        sigma, values = {}, {}
        for component in components:
            sigma[component] = -np.sort(-rng.lognormal(0, 1, (samples, k)).astype(np.float32), axis=1)
            values[component] = {name: rng.lognormal(layer, 0.7, samples).astype(np.float32) for name in metrics}
            if missing:
                for column in values[component].values():
                    column[: None if layer == 0 else 3] = np.nan
        writer.add_layer(LayerResult(layer, layer, sigma, values))
    writer.write_tables()
    writer.finish()
    return open_run(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def page(run: Run) -> str:
    write_report(run, formats=("png", "pdf"))
    return (run.folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw coarsely."""
    monkeypatch.setattr(figures, "DPI", 50)


def read_boxes(axes: Axes, components: Sequence[str]) -> dict[tuple[int, str], dict[str, Any]]:
    """Read from the artists, by where they stand, what each box says."""
    found: dict[tuple[int, str], dict[str, Any]] = {}
    by_layer: dict[int, list[tuple[float, PathPatch]]] = {}
    for patch in axes.patches:
        assert isinstance(patch, PathPatch)
        extents = patch.get_path().get_extents()
        by_layer.setdefault(round((extents.x0 + extents.x1) / 2), []).append(((extents.x0 + extents.x1) / 2, patch))
    for layer, boxes in by_layer.items():
        for component, (centre, patch) in zip(components, sorted(boxes, key=lambda pair: pair[0]), strict=True):
            extents = patch.get_path().get_extents()
            lines = [np.asarray(line.get_xydata()) for line in axes.lines if line.get_marker() != "D"]
            at = [xy for xy in lines if len(xy) and np.isclose(xy[:, 0].mean(), centre)]
            flat = [xy for xy in at if len(xy) == 2 and xy[0, 1] == xy[1, 1] and xy[0, 0] != xy[1, 0]]
            median = next(xy[0, 1] for xy in flat if np.isclose(np.ptp(xy[:, 0]), extents.x1 - extents.x0))
            caps = sorted(xy[0, 1] for xy in flat if np.ptp(xy[:, 0]) < 0.9 * (extents.x1 - extents.x0))
            fliers = [xy[:, 1] for xy in at if np.ptp(xy[:, 0]) == 0 and not _is_whisker(xy, caps)]
            found[layer, component] = {
                "q1": extents.y0,
                "q3": extents.y1,
                "median": median,
                "whisker_low": caps[0],
                "whisker_high": caps[1],
                "fliers": np.sort(np.concatenate([*fliers, []])),
            }
    return found


def _is_whisker(xy: np.ndarray, caps: Sequence[float]) -> bool:
    return len(xy) == 2 and bool(np.isin(xy[:, 1], caps).any())


def check_boxes(figure: Figure, run: Run, metric: str) -> None:
    """Compare the boxes that are drawn with NumPy's percentiles of `metrics.csv` and with `summary.csv`."""
    boxes = read_boxes(figure.axes[0], run.components)
    assert len(boxes) == len(run.summary[run.summary["metric"] == metric])
    for (layer, component), box in boxes.items():
        table = run.metrics
        values = table.loc[(table["layer"] == layer) & (table["component"] == component), metric].to_numpy(np.float64)
        q1, median, q3 = np.percentile(values, [25, 50, 75])
        np.testing.assert_allclose([box["q1"], box["median"], box["q3"]], [q1, median, q3], rtol=1e-12)
        beyond = (values < q1 - 1.5 * (q3 - q1)) | (values > q3 + 1.5 * (q3 - q1))
        np.testing.assert_allclose(box["fliers"], np.sort(values[beyond]), rtol=1e-12)
        row = run.summary.set_index(["metric", "layer", "component"]).loc[(metric, layer, component)]
        for name in ("median", "q1", "q3", "whisker_low", "whisker_high"):
            # metrics.csv has the shortest decimals of float32 values.
            np.testing.assert_allclose(box[name], row[name], rtol=1e-6, err_msg=f"{name} of {component}, layer {layer}")


@pytest.mark.parametrize("metric", PAPER)
def test_boxes_are_percentiles_and_summary(run: Run, metric: str) -> None:
    check_boxes(draw_boxes(run, metric), run, metric)


def shift_layers(table: Any) -> None:
    table["layer"] = (table["layer"] + 1) % 3


def swap_components(table: Any) -> None:
    later = table["layer"] > 0
    table.loc[later, "component"] = table.loc[later, "component"].map({"attn": "mlp", "mlp": "attn"})


@pytest.mark.parametrize("sabotage", [shift_layers, swap_components])
def test_check_of_boxes_can_fail(run: Run, sabotage: Callable[[Any], None]) -> None:
    sabotaged = Run(run.folder)
    sabotage(sabotaged.metrics)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_boxes(draw_boxes(sabotaged, "spectral_radius"), run, "spectral_radius")


@pytest.mark.parametrize(
    ("values", "log"),
    [
        ([1.0, 9.9], False),
        ([1.0, 10.0], False),
        ([1.0, 10.1], True),
        ([0.01, 1.0], False),  # shares
        ([0.009, 1.0], True),
        ([0.0, 5.0], False),
        ([0.0, 1.0, 200.0], True),
        ([np.nan, 1.0, np.inf], False),
        ([np.nan], False),
        ([], False),
    ],
)
def test_log_axis_means_more_than_a_decade(values: list[float], log: bool) -> None:
    assert uses_log_axis(np.array(values, np.float64)) is log


def test_axis_follows_the_decision(tmp_path: Path) -> None:
    wide = make_run(tmp_path / "wide", layers=8)
    assert draw_boxes(wide, "spectral_radius").axes[0].get_yscale() == "log"
    narrow = make_run(tmp_path / "narrow", layers=1, samples=6)
    assert draw_boxes(narrow, "spectral_radius").axes[0].get_yscale() == "linear"


def test_axis_from_zero_has_room_above() -> None:
    """Alone, Matplotlib leaves a share of the spread, and a nearly level line lies on the frame."""
    axes = Figure().add_subplot()
    axes.plot([0.0538, 0.054])
    from_zero(axes)
    assert axes.get_ylim() == pytest.approx((0, 1.05 * 0.054))


def test_title_says_how_much_of_which_text_was_read(tmp_path: Path) -> None:
    """Of a run without samples, in tokens or examples held out."""
    given = {"tokens": 511, "corpus": {"name": "own.txt"}}
    known = {"task": "overlap", "identity": {"checkpoint": {"name": "small"}}, **given}
    run = make_run(tmp_path / "run", layers=1, samples=2, provenance=known)
    assert run_title(run) == "small, 2 samples of own.txt"
    (run.folder / "samples.csv").unlink()
    assert run_title(run) == "small, 511 tokens of own.txt"
    run.provenance["corpus"]["held_out"] = 8
    assert run_title(run) == "small, 8 examples held out of own.txt"


def test_labels_legend_and_title(run: Run) -> None:
    figure = draw_boxes(run, "spectral_radius")
    axes = figure.axes[0]
    assert axes.get_ylabel() == r"spectral radius $\rho = \sigma_1$"
    assert axes.get_xlabel() == "layer"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["attention", "MLP"]
    assert "40 samples" in axes.get_title()


def test_boxes_say_of_how_many_samples_they_are(tmp_path: Path) -> None:
    """Where a metric is of a few samples that are drawn, the title names all of the run."""
    run = make_run(tmp_path / "run", layers=2, samples=8)
    run.metrics.loc[run.metrics["sample"] >= 3, "spectral_radius"] = np.nan
    assert draw_boxes(run, "spectral_radius").axes[0].get_ylabel().endswith("\nof 3 samples")
    assert box_plots(run, ["spectral_radius"])["spectral_radius"].caption.endswith("; 3 samples a box.")
    assert "samples" not in draw_boxes(run, "decay_ratio").axes[0].get_ylabel()


def test_boxes_of_layers_that_are_far_apart_are_as_wide_as_those_of_neighbours(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", layers=3, samples=8)
    shares = []
    for apart in (1, 10):
        run.metrics["layer"] = run.metrics["layer"] * apart
        axes = draw_boxes(run, "decay_ratio").axes[0]
        low, high = axes.get_xlim()
        widths = [patch.get_path().get_extents().width for patch in axes.patches]
        edges = [patch.get_path().get_extents() for patch in axes.patches]
        assert min(edge.x0 for edge in edges) > low
        assert max(edge.x1 for edge in edges) < high
        shares.append(max(widths) / (high - low))
    assert shares[1] == pytest.approx(shares[0], rel=0.4)


def test_ticks_of_a_logarithmic_axis_are_plain_numbers(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", layers=2, samples=8)
    run.metrics["spectral_radius"] = np.geomspace(20, 400, len(run.metrics))
    figure = draw_boxes(run, "spectral_radius")
    figure.draw_without_rendering()
    axis = figure.axes[0].yaxis
    labels = [label.get_text() for label in (*axis.get_majorticklabels(), *axis.get_minorticklabels())]
    assert {"100", "200"} <= {*labels}
    assert not any("$" in label for label in labels)


@pytest.mark.parametrize("layers", [1, 2, 12, 48])
def test_layer_labels_do_not_overlap(tmp_path: Path, layers: int) -> None:
    figure = draw_boxes(make_run(tmp_path / "run", layers=layers, samples=3, k=2), "decay_ratio")
    figure.draw_without_rendering()
    labels = [label for label in figure.axes[0].get_xticklabels() if label.get_text()]
    boxes = [label.get_window_extent() for label in labels]
    assert labels[0].get_text() == "0"
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_spectra_are_medians(run: Run) -> None:
    figure = draw_spectra(run)
    for axes, component in zip(figure.axes, run.components, strict=True):
        assert axes.get_yscale() == "log"
        for layer, line in enumerate(axes.lines):
            values = run.dataset["singular_values"].sel(layer=layer, component=component).values
            np.testing.assert_allclose(np.asarray(line.get_ydata()), np.median(values, axis=0), rtol=1e-6)
            np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 7))


def test_rounding_zeros_are_not_drawn() -> None:
    eps = float(np.finfo(np.float32).eps)
    sigma = np.array([[2.0, 1.0, 6.1 * eps, 5.9 * eps, 0.0]])
    assert np.isfinite(visible_spectrum(sigma[:, :3], np.dtype(np.float32))).tolist() == [[True, True, True]]
    assert np.isnan(visible_spectrum(sigma, np.dtype(np.float32))).tolist() == [[False, False, True, True, True]]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "options",
    [
        {"layers": 1, "samples": 1, "components": ("attn",), "k": 1},
        {"layers": 2, "samples": 1, "components": ("something_new",)},
        {"layers": 3, "missing": True},
        {"layers": 1, "missing": True},
        {"components": ("encoder.attn", "encoder.mlp", "decoder.attn", "decoder.cross", "decoder.mlp", "block")},
        {"metrics": ("spectral_radius", "metric_of_a_later_version")},
    ],
    ids=[
        "one of each",
        "unknown component",
        "missing values",
        "nothing but missing",
        "many components",
        "unknown metric",
    ],
)
def test_unusual_runs_are_reported_without_a_warning(tmp_path: Path, options: dict[str, Any]) -> None:
    run = make_run(tmp_path / "run", **{"metrics": PAPER[:1]} | options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_report(run)
        print_summary(run, Console(file=io.StringIO(), width=80))
    names = {file.stem for file in (run.folder / "figures").iterdir()}
    # Two points a layer are no spectrum.
    assert names == {*run.metric_names, *(("spectra",) if options.get("k", 3) > 2 else ())}


def test_missing_values_leave_a_gap(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", missing=True)
    boxes = read_boxes(draw_boxes(run, "spectral_radius").axes[0], run.components)
    assert {layer for layer, _ in boxes} == {1, 2}


def test_styles_are_those_of_the_component() -> None:
    both, alone = component_styles(("attn", "mlp")), component_styles(("mlp",))
    assert both["mlp"] == alone["mlp"]
    styles = component_styles(("block", "attn", "mlp", "other"))
    assert len(set(styles.values())) == 4


def drawn(run: Run) -> dict[str, bytes]:
    """Read what is in the folder of figures."""
    return {file.name: file.read_bytes() for file in (run.folder / "figures").iterdir()}


def test_figures_are_drawn_again_the_same(page: str, run: Run) -> None:
    first = drawn(run)
    for file in (run.folder / "figures").iterdir():
        file.unlink()
    write_report(run, formats=("png", "pdf"))
    assert drawn(run) == first
    assert {*first} == {f"{n}.{e}" for n in (*PAPER, "spectra") for e in ("png", "pdf")}
    assert list(list_figures(run)) == [*PAPER, "spectra"]


class _Page(HTMLParser):
    """Every tag of a page with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def attributes(self, name: str) -> Iterator[str]:
        return (value for _, attributes in self.tags if (value := attributes.get(name)) is not None)


def test_page_defines_its_metrics(page: str) -> None:
    for metric in PAPER:
        assert escape(METRICS[metric].definition) in page
        assert escape(METRICS[metric].source) in page
    assert "It is not an eigenvalue" in page
    assert "means concentration" in page


def test_page_loads_nothing(page: str, run: Run) -> None:
    parsed = _Page(page)
    assert all(value.startswith("data:image/png;base64,") for value in parsed.attributes("src"))
    links = set(parsed.attributes("href"))
    assert links >= {"metrics.csv", "summary.csv", "samples.csv", "spectra.nc", "run.json"}
    parts = {link for link in links if link.startswith("#")}
    assert parts <= {f"#{name}" for name in parsed.attributes("id")}
    assert all((run.folder / link).is_file() for link in links - parts)
    assert not {"link", "iframe", "object"} & {tag for tag, _ in parsed.tags}
    assert ["src" in attributes for tag, attributes in parsed.tags if tag == "script"] == [False] * 3
    assert "url(" not in page
    assert "@import" not in page


def test_page_embeds_the_figures(page: str, run: Run) -> None:
    images = [attributes for tag, attributes in _Page(page).tags if tag == "img"]
    assert len(images) == len(PAPER) + 1
    for image, name in zip(images, [*PAPER, "spectra"], strict=True):
        data = base64.b64decode((image["src"] or "").partition(",")[2], validate=True)
        assert data == (run.folder / "figures" / f"{name}.png").read_bytes()
        assert imread(io.BytesIO(data)).ndim == 3
        assert image["alt"]


def test_page_has_the_numbers_of_the_summary(page: str, run: Run) -> None:
    for metric in PAPER:
        rows = run.summary[run.summary["metric"] == metric]
        write = number_format(rows[["median", "q1", "q3", "mean"]].to_numpy().ravel())
        for _, row in rows.iterrows():
            assert f">{write(row['median'])} [{write(row['q1'])}, {write(row['q3'])}]<" in page
            assert f">{write(row['mean'])} ± " in page


def test_a_page_opens_with_five_sentences_and_folds_the_others(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    named = page_module.study_of(run.provenance).page
    assert named is not None
    sentences = [f"Sentence {number}." for number in range(7)]
    monkeypatch.setattr(page_module, "load", lambda what: lambda run: sentences)
    first, folded = page_module._findings(run, named).split("<details><summary>2 more</summary>")
    assert [each in first for each in sentences] == [True] * 5 + [False] * 2
    assert all(each in folded for each in sentences[5:])
    monkeypatch.setattr(page_module, "load", lambda what: lambda run: sentences[:5])
    assert "<details>" not in page_module._findings(run, named)


@pytest.mark.usefixtures("quick")
def test_hostile_text_stays_text(tmp_path: Path) -> None:
    identity = {
        "checkpoint": {"name": f"{HOSTILE} HALF", "revision": HOSTILE, "files": {HOSTILE: HOSTILE}},
        "config": {"data": {"name": HOSTILE}},
        "device": {HOSTILE: [HOSTILE]},
    }
    run = make_run(
        tmp_path / "run",
        layers=1,
        samples=2,
        text=HOSTILE,
        components=(HOSTILE,),
        metrics=("spectral_radius",),
        provenance={"identity": identity, "engine": HOSTILE, "audit": {"by": HOSTILE}, "created": "<b>"},
    )
    # JSON can hold half a surrogate pair, which UTF-8 cannot.
    stored = (run.folder / "run.json").read_text(encoding="utf-8")
    (run.folder / "run.json").write_text(stored.replace("HALF", r"\ud800"), encoding="utf-8")
    run = open_run(run.folder)
    write_report(run)
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert escape(HOSTILE) in page
    tags = [tag for tag, _ in _Page(page).tags]
    assert tags.count("script") == 3, "Plotly, the data, the page's own"
    assert "b" not in tags
    console = Console(file=io.StringIO(), width=400)
    print_summary(run, console)
    assert "[red]$x$" in _written(console)


def test_page_of_a_run_without_provenance(run: Run, page: str) -> None:
    """The run above has nothing in run.json but its metrics and components."""
    assert "of unnamed corpus: spectra of Jacobians" in page
    assert ">None<" not in page


@pytest.mark.usefixtures("quick")
def test_page_says_what_was_run(tmp_path: Path) -> None:
    provenance = {
        "created": "2026-10-01T09:46:11+00:00",
        "finished": "2026-10-01T09:47:00+00:00",
        "task": "jacobian",
        "config": {"seed": 7, "model": {"name": "path"}},
        "identity": {
            "checkpoint": {"name": "nano", "revision": "step16", "files": {"model.safetensors": "ab12"}},
            "config": {"data": {"name": "text"}},
            "corpus": {"sha256": "cd34", "splitter": "lines"},
            "versions": {"jax": "0.10.1"},
            "device": {"platform": "cpu", "kind": "EPYC"},
        },
        "corpus": {"source": "/texts/mine.txt", "candidates": 99, "drawn": [1, 2]},
        "precision": {"dtype": "float32", "matmul": "highest"},
        "seconds": {"spectra": 12.345},
        "seed": 7,
        "git_commit": "abc123",
        "engine": "jacfwd",
    }
    run = make_run(tmp_path / "run", layers=1, samples=2, metrics=PAPER[:1], provenance=provenance)
    page = write_page(run).read_text("utf-8")
    assert "<h1>nano, 2 samples of mine.txt: spectra of Jacobians</h1>" in page
    for text in (
        "finished 2026-10-01T09:47:00+00:00", "step16", "2 of 99 candidates, 5 to 6 tokens", "cd34", "lines",
        "jax 0.10.1", "platform cpu, kind EPYC", "dtype float32, matmul highest", "spectra 12.35", "abc123", "jacfwd",
        "&quot;seed&quot;: 7", "&quot;ab12&quot;",
    ):  # fmt: skip
        assert text in page, text


def _written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_console_has_the_numbers_of_the_summary(run: Run) -> None:
    console = Console(file=io.StringIO(), width=80)
    print_summary(run, console)
    text = _written(console)
    for metric in PAPER:
        rows = run.summary[run.summary["metric"] == metric].set_index(["layer", "component"])
        part = text[text.index(metric_title(run, metric)) :]
        for layer in range(3):
            line = next(line for line in part.splitlines() if re.match(rf"\s+{layer}\s", line))
            assert len(line) <= 80
            shown = [float(number) for number in re.findall(r"[\d.]*\d(?:e[-+]\d+)?", line)][1:]
            stored = [rows.loc[(layer, c), name] for c in run.components for name in ("median", "q1", "q3")]
            np.testing.assert_allclose(shown, stored, rtol=5e-3)
    assert "attention" in text
    assert "MLP" in text


def test_console_never_cuts_a_path(tmp_path: Path) -> None:
    run = make_run(tmp_path / ("long" * 40), layers=1, samples=2)
    (run.folder / "figures").mkdir()
    for name in (*PAPER, "spectra"):
        (run.folder / "figures" / f"{name}.png").touch()
    console = Console(file=io.StringIO(), width=80)
    print_files(run, console)
    assert str(run.folder) in _written(console)
    assert "decay_ratio.png, spectra.png, spectral_radius.png" in _written(console)


@pytest.mark.parametrize(
    ("values", "written"),
    [
        ([1.0, 20.0], ["1", "20"]),
        ([0.5, 12.25], ["0.5000", "12.2500"]),
        ([0.5, 1234.5], ["0.500", "1234.500"]),
        ([0.001, 1234.5], ["1.00e-03", "1.23e+03"]),
        ([float("nan"), 0.0], ["–", "0"]),
        ([12345.5, 0.0], ["12346", "0"]),
    ],
)
def test_numbers_of_a_table_align(values: list[float], written: list[str]) -> None:
    assert [number_format(values)(value) for value in values] == written


@pytest.mark.parametrize("metric", METRICS)
def test_every_symbol_has_unicode_and_mathtext(metric: str, run: Run) -> None:
    assert not set(metric_title(run, metric)) & set("\\${}")
    figure = Figure()
    figure.text(0, 0, metric_label(run, metric))
    figure.draw_without_rendering()


def test_printable_defuses_terminal_codes() -> None:
    assert printable("a\x1b[2Jb\u202ec\n") == "a�[2Jb�c"
