"""The page that is explored: what Chromium shows after every choice is what the files of the run hold."""

import base64
import gzip
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from explored import COMPONENTS, MAKERS, check, finite, head_runs, matrix_runs, read, rows_of, sample_runs, spectra_of
from test_report import make_run

from jacspec.axes import Row
from jacspec.errors import JacspecError
from jacspec.report import explorer, figures, write_report
from jacspec.report.explorer import budget, embedding, explore
from jacspec.report.page import write_sections
from jacspec.runs import Run, open_run
from jacspec.runs.rows import experiment_layout, start_rows

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SIZE = 6_000_000
"""Bytes that the page of the paper's run may have."""


# The browser


def find_chromium() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as drivers:
        found = find_chromium() or drivers.chromium.executable_path
        if not Path(found).is_file():
            pytest.skip("no Chromium: install the package chromium, or type python -m playwright install chromium")
        browser = drivers.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened(NamedTuple):
    """A page, and what it did beside showing itself: messages, errors and requests."""

    page: "Page"
    noise: list[str]


def open_page(browser: "Browser", file: Path, *, script: str = "", **options: Any) -> Opened:
    """Open a page from the disk without a network."""
    context = browser.new_context(offline=True, viewport={"width": 1000, "height": 800}, **options)
    context.add_init_script(script)
    page, noise = context.new_page(), []
    page.on("console", lambda message: noise.append(message.text))
    page.on("pageerror", lambda error: noise.append(str(error)))
    page.on("request", lambda request: noise.append(request.url) if request.url != file.as_uri() else None)
    page.goto(file.as_uri())
    page.wait_for_function(
        "() => window.Plotly && !document.getElementById('explorer-state') || !window.DecompressionStream"
    )
    return Opened(page, noise)


def open_table(page: "Page") -> None:
    page.click("#explorer-values summary")
    page.wait_for_selector("#explorer-values td")


def write_explorer(runs: Sequence[tuple[str, Run]]) -> Path:
    return write_sections(runs[0][1], "a page", [explore(runs)])


@pytest.fixture(scope="module", params=MAKERS)
def explored(
    request: pytest.FixtureRequest, browser: "Browser", tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Opened, list[tuple[str, Run]], Path]]:
    runs = MAKERS[request.param](tmp_path_factory.mktemp(request.param))
    file = write_explorer(runs)
    opened = open_page(browser, file)
    yield opened, runs, file
    opened.page.context.close()


def controls(page: "Page") -> list[str]:
    return page.eval_on_selector_all(
        "#explorer-controls > :not([hidden]) :is(select, input)", "found => found.map((control) => control.id)"
    )


def use(page: "Page", control: str) -> None:
    """Reach a control with the Tab key alone and change it with the keyboard."""
    for _ in range(60):
        if page.evaluate("document.activeElement.id") == control:
            break
        page.keyboard.press("Tab")
    else:
        raise AssertionError(f"{control} is not reached with the Tab key")
    kind, last = page.evaluate("[document.activeElement.tagName, document.activeElement.selectedIndex > 0]")
    page.keyboard.press("Space" if kind == "INPUT" else "ArrowUp" if last else "ArrowDown")
    assert page.evaluate("document.activeElement.id") == control, "the focus is lost"


def test_every_choice_by_keyboard_shows_what_the_files_hold(
    explored: tuple[Opened, list[tuple[str, Run]], Path],
) -> None:
    (page, noise), runs, _ = explored
    open_table(page)
    views = page.eval_on_selector_all("#explorer-view option", "found => found.map((option) => option.value)")
    seen = []
    for place, view in enumerate(views):
        if place:
            page.focus("#explorer-view")
            page.keyboard.press("ArrowDown")
        shown = check(page, runs)
        assert shown.choice["view"] == view
        for control in [name for name in controls(page) if name != "explorer-view"]:
            before = read(page).choice
            use(page, control)
            assert check(page, runs).choice != before, f"{control} changes nothing"
            seen.append(shown.choice["view"])
    assert set(seen) == set(views), "each view has controls"
    assert noise == []
    assert page.evaluate("window.hacked") is None
    assert page.locator("#explorer img, #explorer b, #explorer svg image").count() == 0


@pytest.mark.few(1)
def test_runs_are_played_on_axes_that_stay(
    browser: "Browser", explored: tuple[Opened, list[tuple[str, Run]], Path]
) -> None:
    """From the first run to the last, each as the files hold it; a second press stops, and so does a choice."""
    _, runs, file = explored
    page, noise = open_page(browser, file)
    axes = "['xaxis', 'yaxis'].map((axis) => document.getElementById('explorer-plot')._fullLayout[axis].range)"
    page.select_option("#explorer-view", "runs")
    assert page.is_hidden("#explorer-play")
    page.select_option("#explorer-view", "scatter")
    page.select_option("#explorer-run", "1")
    page.click("#explorer-play")
    assert page.text_content("#explorer-play") == "Stop"
    assert check(page, runs).choice["run"] == "0"
    first = page.evaluate(axes)
    page.wait_for_function("() => document.getElementById('explorer-run').value === '1'")
    assert check(page, runs).choice["run"] == "1"
    np.testing.assert_allclose(page.evaluate(axes), first)
    assert page.text_content("#explorer-play") == "Play the runs"
    page.click("#explorer-play")
    page.click("#explorer-play")
    assert page.text_content("#explorer-play") == "Play the runs"
    page.wait_for_timeout(1000)
    assert read(page).choice["run"] == "0"
    assert noise == []
    page.context.close()


def test_says_and_hovers_the_values(browser: "Browser", explored: tuple[Opened, list[tuple[str, Run]], Path]) -> None:
    _, runs, file = explored
    page, _ = open_page(browser, file)
    page.select_option("#explorer-view", "runs")
    shown = read(page)
    assert page.get_attribute("#explorer-plot", "aria-label") == shown.says
    assert page.get_attribute("#explorer-says", "aria-live") == "polite"
    page.evaluate("Plotly.Fx.hover('explorer-plot', [{curveNumber: 0, pointNumber: 1}])")
    label = page.locator("#explorer-plot .hovertext").first.text_content() or ""
    assert float(label.split(": ")[-1]) == shown.traces[0]["y"][1]
    assert label.startswith(runs[0][0])
    page.context.close()


def test_nothing_is_offered_that_leaves_the_machine(explored: tuple[Opened, list[tuple[str, Run]], Path]) -> None:
    """Plotly offers an upload of the figure to its makers unless it is told not to; a window would pass the policy."""
    (page, _), _, _ = explored
    offered = page.eval_on_selector_all(".modebar-btn", "found => found.map((button) => button.ariaLabel)")
    assert set(offered) == {"Download plot", "Zoom", "Pan", "Zoom in", "Zoom out", "Autoscale", "Reset axes"}
    page.hover("#explorer-plot")
    with page.expect_download() as download:
        page.click(".modebar-btn[aria-label='Download plot']")
    assert download.value.suggested_filename == "jacspec.svg"


def test_prints_the_plot_and_not_the_controls(explored: tuple[Opened, list[tuple[str, Run]], Path]) -> None:
    pdfium = pytest.importorskip("pypdfium2")
    (page, _), _, _ = explored
    page.select_option("#explorer-view", "runs")
    words = page.inner_text("#explorer-says")
    document = pdfium.PdfDocument(page.pdf(format="A4"))
    text = "\n".join(sheet.get_textpage().get_text_range() for sheet in document)
    assert "relative depth, layer over last layer" in text
    assert re.sub(r"\s+", " ", words).split(":")[0][:40] in re.sub(r"\s+", " ", text)
    assert "These values as a table" not in text
    assert "automatic" not in text
    # On paper the plot is narrower than the sheet, on the screen as wide as before.
    width = "document.querySelector('#explorer-plot .main-svg').getBoundingClientRect().width"
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(width) == 680
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(width) > 900


# Sabotage


def change_data(file: Path, change: Callable[[Any], None]) -> None:
    """Change what a page holds."""
    page = file.read_text(encoding="utf-8")
    data = embedded(page)
    change(data)
    packed = base64.b64encode(gzip.compress(json.dumps(data).encode())).decode()
    changed = re.sub(r'(id="explorer-data">)[^<]*', rf"\g<1>{packed}", page)
    file.write_text(changed, encoding="utf-8")


def embedded(page: str) -> Any:
    (packed,) = re.findall(r'id="explorer-data">([^<]*)<', page)
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def nudge(data: Any) -> None:
    values = data["runs"][0]["groups"][1]["values"]["spectral_radius"]
    values[3] *= 1 + 1e-12


def widen(data: Any) -> None:
    data["runs"][0]["groups"][0]["boxes"]["spectral_radius"]["q1"] *= 1 - 1e-9


def exchange(data: Any) -> None:
    for group in data["runs"][0]["groups"]:
        group["component"] = {COMPONENTS[0]: COMPONENTS[1], COMPONENTS[1]: COMPONENTS[0]}[group["component"]]


@pytest.mark.parametrize("sabotage", [nudge, widen, exchange])
def test_checks_see_a_value_that_is_changed(
    browser: "Browser", tmp_path: Path, sabotage: Callable[[Any], None]
) -> None:
    runs = sample_runs(tmp_path)
    file = write_explorer(runs)
    change_data(file, sabotage)
    page, _ = open_page(browser, file)
    page.select_option("#explorer-view", "boxes")
    open_table(page)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check(page, runs)
    page.context.close()


def test_what_is_smuggled_in_does_not_run(browser: "Browser", tmp_path: Path) -> None:
    """Past the escaping, the policy still stops scripts, handlers and requests."""
    file = write_explorer(sample_runs(tmp_path))
    smuggled = '<script>window.hacked = 1</script><img src="data:," onerror="window.hacked = 1">'
    file.write_text(file.read_text(encoding="utf-8").replace("</main>", f"{smuggled}</main>"), encoding="utf-8")
    page, noise = open_page(browser, file)
    assert page.evaluate("window.hacked") is None
    assert sum("Content Security Policy" in line for line in noise) >= 2
    assert page.evaluate("fetch('data:,x').then(() => 'fetched', () => 'stopped')") == "stopped"
    page.context.close()


def test_run_of_one_of_each_offers_what_there_is_to_choose(browser: "Browser", tmp_path: Path) -> None:
    """One layer, one component, two singular values, nothing finite."""
    run = make_run(tmp_path / "run", layers=1, samples=2, k=2, components=("attn",), missing=True)
    page, noise = open_page(browser, write_explorer([("only", run)]))
    assert controls(page) == ["explorer-view", "explorer-metric", "explorer-points", "explorer-scale"]
    assert "There are no finite values." in read(page).says
    assert noise == []
    page.context.close()


# Without the script


@pytest.mark.parametrize("lack", ["scripts", "DecompressionStream"])
def test_figures_stand_where_the_script_does_not_run(
    browser: "Browser", tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lack: str
) -> None:
    monkeypatch.setattr(figures, "DPI", 50)
    run = make_run(tmp_path / "run", layers=2, samples=4)
    write_report(run)
    file = run.folder / "report.html"
    context = browser.new_context(offline=True, java_script_enabled=lack != "scripts")
    context.add_init_script("delete window.DecompressionStream")
    page = context.new_page()
    page.goto(file.as_uri())
    words = "needs a browser with JavaScript" if lack == "scripts" else "could not start"
    page.wait_for_selector(f"#explorer-state:has-text('{words}')")
    assert page.locator("figure img").count() == 3
    page.get_by_text("The same as pictures").click()
    assert page.locator("figure img").first.is_visible()
    context.close()


# What the page holds


def count_singular_values(data: Any) -> int:
    def size(found: Any) -> int:
        return len(found or [])

    groups = [group for run in data["runs"] for group in run.get("groups", [])]
    rows = [row for run in data["runs"] for row in run.get("rows", [])]
    return (
        sum(size(group.get("median")) for group in groups)
        + sum(size(spectrum) for group in groups for spectrum in group.get("spectra", {}).values())
        + sum(size(row["sigma"]) for row in rows)
    )


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("limit", [0, 30, 150, 100_000])
def test_spectra_keep_to_their_room_and_metrics_are_all_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, limit: int
) -> None:
    runs = MAKERS[kind](tmp_path)
    monkeypatch.setattr(explorer, "SPECTRUM_VALUES", limit)
    page = explore(runs)
    data = embedded(page)
    whole = sum(int(np.isfinite(spectra_of(run)).sum()) for _, run in runs)
    assert count_singular_values(data) <= limit
    assert (count_singular_values(data) >= whole) is (limit == 100_000)
    assert ("holds a part only" in page) is (limit < 100_000)
    for (_, run), found in zip(runs, data["runs"], strict=True):
        cells = [row[name] for row in rows_of(run) for name in run.metric_names]
        lists = [group["values"] for group in found.get("groups", [])]
        values = [value for name in run.metric_names for group in lists for value in group[name]]
        values += [row["values"][name] for row in found.get("rows", []) for name in run.metric_names]
        assert sorted(value for value in values if value is not None) == np.sort(finite(cells)).tolist()


def test_samples_that_are_too_many_leave_their_boxes(
    browser: "Browser", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = sample_runs(tmp_path)
    monkeypatch.setattr(explorer, "METRIC_VALUES", 25 * 6 * 2 + 9 * 4 * 2 - 1)
    assert "boxes without their samples" in explore(runs)
    page, noise = open_page(browser, write_explorer(runs))
    page.select_option("#explorer-view", "boxes")
    open_table(page)
    shown = read(page)
    assert shown.choice["points"] == "none"
    summary = [row for row in runs[0][1].summary.to_dict("records") if row["metric"] == "spectral_radius"]
    names = ("n", "mean", "median", "q1", "q3", "whisker_low", "whisker_high")
    found = [[float(cell) for cell in line[2:]] for line in shown.table[1:]]
    np.testing.assert_allclose(found, [[row[name] for name in names] for row in summary], rtol=1e-6)
    assert not any(box["all"] for boxes in shown.boxes for box in boxes)
    assert noise == []
    page.context.close()


@pytest.mark.parametrize(("count", "wanted", "chosen"), [(5, 9, [0, 1, 2, 3, 4]), (10, 3, [0, 3, 6]), (4, 0, [])])
def test_spread(count: int, wanted: int, chosen: list[int]) -> None:
    assert budget.spread(count, wanted) == chosen


def test_page_of_the_paper_is_small(tmp_path: Path) -> None:
    """GPT-2 small with whole spectra: 600 samples, 12 layers, attention and MLP, the paper's metrics."""
    run = make_run(tmp_path / "run", layers=12, samples=600, k=768)
    write_report(run)
    file = run.folder / "report.html"
    assert file.stat().st_size < SIZE
    data = embedded(file.read_text(encoding="utf-8"))
    assert 0.9 * budget.SPECTRUM_VALUES < count_singular_values(data) <= budget.SPECTRUM_VALUES
    assert sum(len(group["values"]["decay_ratio"]) for group in data["runs"][0]["groups"]) == 600 * 12 * 2


def test_same_runs_give_the_same_page(tmp_path: Path) -> None:
    runs = sample_runs(tmp_path)
    assert explore(runs) == explore([(label, open_run(run.folder)) for label, run in runs])


def test_runs_of_several_tasks_are_refused(tmp_path: Path) -> None:
    runs = [*matrix_runs(tmp_path / "matrices"), *head_runs(tmp_path / "heads")]
    with pytest.raises(JacspecError, match=r"several tasks: heads, weights\. Give runs of one task"):
        explore(runs)


def test_page_opens_on_what_varies_and_on_task_vectors(tmp_path: Path) -> None:
    keys, metrics = ("layer", "role", "compared", "first", "second"), ("left_chance", "cosine")
    known = {"task": "merge", "metrics": list(metrics), "key_columns": list(keys)}
    writer = start_rows(tmp_path / "run", known, experiment_layout(keys, metrics, over="layer"))
    places = [(layer, "q", kind, "a", "b") for layer in range(2) for kind in ("weights", "tasks")]
    writer.add([Row(at, key, {"left_chance": 0.1, "cosine": float(at)}, {}) for at, key in enumerate(places)])
    writer.write_tables()
    writer.finish()
    (found,) = embedded(explore([("only", open_run(writer.folder))]))["runs"]
    assert found["metrics"] == ["cosine", "left_chance"]
    assert [row["pick"] for row in found["rows"]] == [*["task vectors · a · b"] * 2, *["weights · a · b"] * 2]
    assert [row["values"]["cosine"] for row in found["rows"]] == [1, 3, 0, 2]
    assert found["along"] == "layer"


def test_own_scripts_cannot_close_their_element() -> None:
    text = embedding._own_script()
    assert "</script" not in text.lower()
    assert "<!--" not in text


def test_experiments_are_drawn_as_means_over_seeds(browser: "Browser", tmp_path: Path) -> None:
    """A line an order, of the group that is chosen and of what nothing was removed from, with chance beside."""
    rng, keys = np.random.default_rng(0), ("scale", "order", "group", "seed")
    orders = [("none", 0), ("after", 1), ("after", 4)]
    places = [(scale, *order, seed) for scale in (0.1, 10.0) for order in orders for seed in range(3)]
    known = {"task": "lazy", "metrics": ["test_accuracy"], "key_columns": list(keys), "chance": 0.5}
    writer = start_rows(tmp_path / "run", known, experiment_layout(keys, ("test_accuracy",), over="seed"))
    values = {place: float(rng.uniform(0.5, 1)) for place in places}
    writer.add([Row(number, place, {"test_accuracy": values[place]}, {}) for number, place in enumerate(places)])
    writer.write_tables()
    writer.finish()
    page, noise = open_page(browser, write_explorer([("only", open_run(writer.folder))]))
    for group in (1, 4):
        page.select_option("#explorer-pick", f"group {group}")
        whole, after, chance = read(page).traces
        for trace, order in ((whole, ("none", 0)), (after, ("after", group))):
            own = np.array([[values[scale, *order, seed] for seed in range(3)] for scale in (0.1, 10.0)])
            assert trace["x"] == [0.1, 10.0]
            np.testing.assert_allclose(trace["y"], own.mean(axis=1), rtol=1e-14)
            np.testing.assert_allclose(trace["error_y"]["array"], own.std(axis=1, ddof=1), rtol=1e-12)
        assert (whole["name"], after["name"]) == ("nothing removed", "removed after training")
        assert chance["y"] == [0.5, 0.5]
    assert noise == []
    page.context.close()
