"""The run folder: atomic files, summaries, resuming after a kill, reading back without losing a bit."""

import csv
import errno
import os
from pathlib import Path
from typing import Any

import matplotlib.cbook
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jacspec.axes import LayerResult, Row
from jacspec.errors import JacspecError
from jacspec.runs import (
    SUMMARY_COLUMNS,
    Run,
    RunWriter,
    differing_keys,
    layers,
    open_run,
    resume_run,
    start_run,
    summarise,
    summary_rows,
    to_dataset,
    write_atomically,
)
from jacspec.runs.files import write_arrays
from jacspec.runs.rows import experiment_layout, resume_rows, start_rows

NAMES = ("spectral_radius", "decay_ratio")
COMPONENTS = ("attn", "mlp")
SAMPLES = [(0, 5, "Speak, speak."), (1, 12, 'He said "no",\nand left.'), (2, 7, "nan")]
N_TOKENS = [n for _, n, _ in SAMPLES]
PROVENANCE: dict[str, Any] = {
    "task": "jacobian",
    "metrics": list(NAMES),
    "identity": {"config": {"seed": 0, "data": {"name": "verse"}}, "files": {"model.safetensors": "ab"}},
}


def make_result(layer: int, dtype: str = "float32", samples: int = 3) -> LayerResult:
    rng = np.random.default_rng(layer)
    sigma = {name: np.sort(rng.lognormal(size=(samples, 4)))[:, ::-1].astype(dtype) for name in COMPONENTS}
    metrics = {
        name: {"spectral_radius": values[:, 0].copy(), "decay_ratio": values[:, 1] / values[:, 0]}
        for name, values in sigma.items()
    }
    metrics["mlp"]["decay_ratio"][1] = np.nan
    turned = {name: {"eigenvalues": values * np.exp(1j * values).astype(f"complex{16 * values.itemsize}")}
              for name, values in sigma.items()}  # fmt: skip
    return LayerResult(layer, layer, sigma, metrics, vectors=turned)


def start(folder: Path) -> RunWriter:
    return start_run(folder, PROVENANCE, metric_names=NAMES, samples=SAMPLES)


def resume(folder: Path, provenance: dict[str, Any] = PROVENANCE) -> RunWriter:
    return resume_run(folder, provenance, metric_names=NAMES, samples=SAMPLES)


def assert_same_bits(found: LayerResult, expected: LayerResult) -> None:
    assert found.layer == expected.layer
    assert list(found.singular_values) == list(expected.singular_values)
    for component, sigma in expected.singular_values.items():
        pairs = [(found.singular_values[component], sigma)]
        assert list(found.metrics[component]) == list(expected.metrics[component])
        pairs += [(found.metrics[component][name], values) for name, values in expected.metrics[component].items()]
        pairs += [(found.vectors[component][name], values) for name, values in expected.vectors[component].items()]
        for left, right in pairs:
            assert (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())


# Atomic files


def test_write_replaces_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    for content in (b"old and longer", b"new"):
        write_atomically(file, content)
        assert file.read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_failed_write_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    file = tmp_path / "a.txt"
    write_atomically(file, b"old")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        with pytest.raises(OSError, match="No space"):
            write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


# Summaries

FLOATS = st.floats(-1e6, 1e6, allow_subnormal=False)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.lists(FLOATS | st.sampled_from([1.0, 2.0]), min_size=1, max_size=40))
def test_summary_equals_numpy_and_matplotlib(given_values: list[float]) -> None:
    values = np.array(given_values)
    found = dict(zip(SUMMARY_COLUMNS[3:], summarise(values), strict=True))
    box = matplotlib.cbook.boxplot_stats(values)[0]
    q1, median, q3 = np.percentile(values, [25, 50, 75])
    expected = {"n": len(values), "mean": values.mean(), "median": median, "q1": q1, "q3": q3}
    expected |= {"whisker_low": box["whislo"], "whisker_high": box["whishi"]}
    error = found.pop("standard_error")
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-12)
    if len(values) > 1:
        deviation = (((values - values.mean()) ** 2).sum() / (len(values) - 1)) ** 0.5
        assert error == pytest.approx(deviation / len(values) ** 0.5, rel=1e-9, abs=1e-9)
    else:
        assert np.isnan(error)


SUMMARIES = {
    # 1 to 9 and an outlier: quartiles 3.25 and 7.75, the fence at 14.5.
    "outlier": ([*range(1, 10), 99.0], (10, 14.4, (8012.4 / 90) ** 0.5, 5.5, 3.25, 7.75, 1, 9)),
    "nan is left out": ([1.0, np.nan, 3.0, np.inf], (2, 2, 1, 2, 1.5, 2.5, 1, 3)),
    "one": ([2.0], (1, 2, np.nan, 2, 2, 2, 2, 2)),
    "all nan": ([np.nan, np.nan], (0, *[np.nan] * 7)),
}


@pytest.mark.parametrize(("values", "expected"), SUMMARIES.values(), ids=SUMMARIES)
def test_known_summaries(values: list[float], expected: tuple[float, ...]) -> None:
    assert summarise(np.array(values, float)) == pytest.approx(expected, rel=1e-9, nan_ok=True)


def test_summary_rows_name_what_they_summarise() -> None:
    results = [make_result(0), make_result(1)]
    rows = summary_rows(results, NAMES)
    keys = [(layer, component, name) for layer in (0, 1) for component in COMPONENTS for name in NAMES]
    assert [row[:3] for row in rows] == keys
    assert [row[3] for row in rows] == [3, 3, 3, 2] * 2
    for row in rows:
        values = results[row[0]].metrics[row[1]][row[2]].astype(float)
        assert row[4] == np.nanmean(values)


# Writing, resuming, reading


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_resumed_layers_have_the_same_bits(tmp_path: Path, dtype: str) -> None:
    writer = start(tmp_path)
    results = [make_result(layer, dtype) for layer in (0, 1)]
    for result in results:
        writer.add_layer(result)
    found = resume(tmp_path)
    assert list(found.done) == [0, 1]
    for result in results:
        assert_same_bits(found.done[result.layer], result)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tables_keep_every_bit(tmp_path: Path, dtype: str) -> None:
    many = 3000  # enough for pandas' default parser to be an ulp off somewhere in float64
    samples = [(number, 5, "x") for number in range(many)]
    writer = start_run(tmp_path, PROVENANCE, metric_names=NAMES, samples=samples)
    result = make_result(0, dtype, samples=many)
    writer.add_layer(result)
    writer.write_tables()
    writer.finish()
    run = open_run(tmp_path)
    with (tmp_path / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for component in COMPONENTS:
        table = run.metrics[run.metrics["component"] == component]
        for name in NAMES:
            expected = result.metrics[component][name]
            plain = np.array([float(row[name]) for row in rows if row["component"] == component])
            np.testing.assert_array_equal(plain.astype(dtype), expected)
            np.testing.assert_array_equal(table[name].to_numpy().astype(dtype), expected)


def test_finished_run_reads_back(tmp_path: Path) -> None:
    writer = start(tmp_path)
    for layer in (0, 1):
        writer.add_layer(make_result(layer))
    incremental = (tmp_path / "metrics.csv").read_bytes()
    writer.write_tables()
    assert (tmp_path / "metrics.csv").read_bytes() == incremental
    writer.finish()
    run = open_run(str(tmp_path))
    assert not (tmp_path / "layers").exists()
    assert run.metric_names == NAMES
    assert run.components == COMPONENTS
    assert list(run.metrics.columns) == ["layer", "component", "sample", "n_tokens", *NAMES, "reason"]
    assert run.metrics["n_tokens"].tolist() == N_TOKENS * 4
    assert list(run.samples.itertuples(index=False, name=None)) == SAMPLES
    assert list(run.summary.columns) == list(SUMMARY_COLUMNS)
    rows = summary_rows([make_result(0), make_result(1)], NAMES)
    for found, expected in zip(run.summary.itertuples(index=False, name=None), rows, strict=True):
        assert found[:4] == expected[:4]
        np.testing.assert_array_equal(found[4:], expected[4:])
    assert run.dataset.identical(to_dataset([make_result(0), make_result(1)], NAMES, N_TOKENS))
    assert run.dataset["eigenvalues"].dtype == np.complex64
    assert not list(tmp_path.glob(".*"))


def test_dataset_axes() -> None:
    results = [make_result(0), make_result(3)]
    dataset = to_dataset(results, NAMES, N_TOKENS)
    assert dataset["singular_values"].dims == ("layer", "component", "sample", "k")
    assert dict(dataset.sizes) == {"layer": 2, "component": 2, "sample": 3, "k": 4}
    assert dataset["k"].values.tolist() == [1, 2, 3, 4]
    assert dataset["n_tokens"].sel(sample=1) == 12
    one = dataset.sel(layer=3, component="mlp")
    np.testing.assert_array_equal(one["singular_values"], results[1].singular_values["mlp"])
    for name in NAMES:
        assert dataset[name].dims == ("layer", "component", "sample")
        np.testing.assert_array_equal(one[name], results[1].metrics["mlp"][name])


@pytest.mark.parametrize("lost", [1, 9, 25, 10**6])
def test_torn_table_is_mended(tmp_path: Path, lost: int) -> None:
    writer = start(tmp_path)
    for layer in (0, 1):
        writer.add_layer(make_result(layer))
    table = tmp_path / "metrics.csv"
    whole = table.read_bytes()
    table.write_bytes(whole[: max(len(whole) - lost, 0)])
    resume(tmp_path)
    assert table.read_bytes() == whole


def test_kill_between_layer_file_and_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = start(tmp_path)
    writer.add_layer(make_result(0))
    with monkeypatch.context() as patch:
        patch.setattr(layers, "csv_text", lambda rows: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            writer.add_layer(make_result(1))
    (tmp_path / "layers" / ".0002.npz.x7").write_bytes(b"half a layer")
    found = resume(tmp_path)
    assert list(found.done) == [0, 1]
    found.add_layer(make_result(1))  # done already: nothing is written twice
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 1 + 2 * 2 * 3


def test_damaged_layer_is_named_or_harmless(tmp_path: Path) -> None:
    start(tmp_path).add_layer(make_result(0))
    file = tmp_path / "layers" / "0000.npz"
    whole = file.read_bytes()
    flipped = [bytearray(whole) for _ in range(0, len(whole), 7)]
    for number, copy in enumerate(flipped):
        copy[7 * number] ^= 0xFF
    cut = [whole[:length] for length in (0, 1, 30, len(whole) // 2, len(whole) - 1)]
    refused = harmless = 0
    for content in (*cut, *map(bytes, flipped), b"not a zip file"):
        file.write_bytes(content)
        try:
            found = resume(tmp_path).done[0]
        except JacspecError as error:
            refused += f"{file} is damaged" in str(error) and "Delete it" in str(error)
        else:  # a byte that zip does not need, such as a date
            assert_same_bits(found, make_result(0))
            harmless += 1
    assert refused + harmless == len(cut) + len(flipped) + 1
    assert refused > len(flipped) / 2


ROWS = experiment_layout(("layer", "scale", "name"), ("loss",), over="name")


def test_rows_are_read_back_as_they_were(tmp_path: Path) -> None:
    keys = [(None, 0.1, "ünï\0"), (-1, 1e300, "None"), (3, 2, "")]
    rows = [Row(n, key, {"loss": n / 3}, {"a": np.arange(n)}, "why" * n) for n, key in enumerate(keys)]
    writer = start_rows(tmp_path, PROVENANCE, ROWS)
    writer.add(rows[:2])
    writer.add(rows)  # two are done already: no row is written twice
    found = resume_rows(tmp_path, PROVENANCE, ROWS).done
    assert list(found) == [0, 1, 2]
    for row, back in zip(rows, found.values(), strict=True):
        assert [*map(type, row.key)] == [*map(type, back.key)]
        assert row._replace(arrays={}) == back._replace(arrays={})
        np.testing.assert_array_equal(row.arrays["a"], back.arrays["a"], strict=True)


@pytest.mark.parametrize("names", [("number", "metrics", "sigma/0"), ("number", "values", "key/0", "reason")])
def test_rows_of_an_older_version_are_refused(names: tuple[str, ...], tmp_path: Path) -> None:
    start_rows(tmp_path, PROVENANCE, ROWS)
    write_arrays(tmp_path / "layers" / "000000.npz", dict.fromkeys(names, np.zeros(1)))
    with pytest.raises(JacspecError, match=r"begun by an older jacspec.*hydra.run.dir=OTHER"):
        resume_rows(tmp_path, PROVENANCE, ROWS)


def test_damaged_rows_are_named(tmp_path: Path) -> None:
    writer = start_rows(tmp_path, PROVENANCE, ROWS)
    writer.add([Row(0, (0, 1.0, "a"), {"loss": 1.0})])
    file = tmp_path / "layers" / "000000.npz"
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(JacspecError, match=r"000000.npz is damaged .* Delete it"):
        resume_rows(tmp_path, PROVENANCE, ROWS)


def test_differing_keys() -> None:
    stored = {"a": {"b": 1, "c": [1, 2]}, "d": "x", "e": 0}
    assert differing_keys(stored, {"a": {"b": 1, "c": [1, 2]}, "d": "x", "e": 0}) == []
    assert differing_keys(stored, {"a": {"b": 2, "c": [1]}, "e": 0, "f": True}) == [
        "a.b was 1, now 2",
        "a.c was [1, 2], now [1]",
        "d was 'x', now None",
        "f was None, now True",
    ]


def test_resume_refuses_another_configuration(tmp_path: Path) -> None:
    start(tmp_path)
    other = PROVENANCE | {"identity": {"config": {"seed": 1, "data": {"name": "verse"}}, "files": {}}}
    with pytest.raises(JacspecError, match=r"config.seed was 0, now 1; files.model.safetensors was 'ab', now None"):
        resume(tmp_path, other)


def test_resumed_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    writer = start(tmp_path)
    writer.add_layer(make_result(0))
    writer.write_tables()
    writer.finish()
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert resume(tmp_path).provenance["status"] == "finished"
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_folder_with_a_run_is_not_started_again(tmp_path: Path) -> None:
    start(tmp_path).add_layer(make_result(0))
    with pytest.raises(JacspecError, match=f"already holds a run. Type resume={tmp_path}"):
        start(tmp_path)
    assert list(resume(tmp_path).done) == [0]


def test_open_refuses(tmp_path: Path) -> None:
    with pytest.raises(JacspecError, match=r"is not a run folder: it has no run.json"):
        open_run(tmp_path)
    start(tmp_path)
    with pytest.raises(JacspecError, match=f"not finished. Type resume={tmp_path}"):
        open_run(tmp_path)
    assert Run(tmp_path).provenance["status"] == "unfinished"
    for content, message in (("{", "not readable JSON"), ("[]", "not written by jacspec"), ("{}", "not written")):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(JacspecError, match=message):
            open_run(tmp_path)
