"""What lies beyond Marchenko and Pastur's law: said and drawn where it is planted, and not of independent entries."""

from pathlib import Path

import numpy as np
import pandas
import pytest
import scipy.stats
import xarray
from matplotlib.figure import Figure

from jacspec.report.beyond import overlaps_beyond, say_overlaps_beyond, say_spectra_beyond
from jacspec.report.overlaps import Spectra, add_spectra, frame_overlap
from jacspec.runs import Run
from jacspec.runs.files import SPECTRA
from jacspec.studies.compare.findings import compare_findings

ROWS, COLS, MATRICES, ABOVE, BELOW = 60, 90, 6, 5, 3
LOW, HIGH = ROWS**-0.5 * (COLS**0.5 - ROWS**0.5), ROWS**-0.5 * (COLS**0.5 + ROWS**0.5)


def profiles(*, planted: bool, shift: int = 0) -> tuple[np.ndarray, ...]:
    """σ with values beyond both edges, and O_k that are higher there if planted (`shift` indices away)."""
    rng = np.random.default_rng(3)
    sigma = -np.sort(-rng.uniform(LOW, HIGH, (MATRICES, ROWS)))
    sigma[:, :ABOVE], sigma[:, -BELOW:] = 1.5 * HIGH, 0.5 * LOW
    overlap = rng.uniform(0.1, 0.2, sigma.shape)
    if planted:
        overlap[:, shift : ABOVE + shift] += 0.3
    return sigma, overlap, np.full(MATRICES, LOW), np.full(MATRICES, HIGH)


ROLES = ["q", "q", "q", "up", "up", "up"]


def test_overlaps_beyond_the_edges_are_found_and_none_by_chance() -> None:
    found = overlaps_beyond(*profiles(planted=True))
    assert len(found) == 2 * MATRICES
    sigma, overlap, *_ = profiles(planted=True)
    p_values = [scipy.stats.ranksums(own[:ABOVE], own[ABOVE:-BELOW]).pvalue for own in overlap]
    above = found[found["side"] == "above"]
    assert (above["q_value"] < 0.05).all()
    assert (np.array(p_values) < 0.05).all()
    expected = [own[:ABOVE].mean() - own[ABOVE:-BELOW].mean() for own in overlap]
    np.testing.assert_allclose(above["difference"], expected)
    assert (found[found["side"] == "below"]["q_value"] > 0.05).all()
    (said,) = say_overlaps_beyond(found, ROLES)
    assert "above the upper edge in 6 of 6 matrices with values there (q 3 of 3, by 0.3; up 3 of 3, by 0.32)" in said
    assert "below the lower edge in none of 6" in said
    # Twins: nothing planted, and high overlaps that are not where the values lie beyond.
    for twin in (profiles(planted=False), profiles(planted=True, shift=2 * ABOVE)):
        assert (overlaps_beyond(*twin)["q_value"] > 0.05).all()
    assert overlaps_beyond(sigma, overlap, np.full(MATRICES, np.nan), np.full(MATRICES, np.nan)).empty


@pytest.mark.parametrize("planted", [True, False])
def test_role_that_lies_further_beyond_is_named(planted: bool) -> None:
    rng = np.random.default_rng(4)
    table = pandas.DataFrame([(role, layer) for layer in range(12) for role in ("o", "q")], columns=["role", "layer"])
    table["ratio"] = 1 + 0.9 * planted * (table["role"] == "q") + rng.uniform(0, 0.1, len(table))
    table["beyond"] = 2.0
    far, pairs = say_spectra_beyond(table)
    assert "2 values beyond its own norms" in far
    if planted:
        assert "medians over layers: q 1.9" in far
        assert "in q than in o in 12 of 12 layers (sign test, p = 0.0005)" in pairs
    else:
        assert float(pairs.partition("p = ")[2].partition(")")[0]) > 0.05


@pytest.mark.parametrize("profile", ["overlap", "singular_values"])
def test_page_of_runs_side_by_side_says_what_lies_beyond(profile: str, tmp_path: Path) -> None:
    """The page of `small_overlaps` and `small_spectra`, of a run without units to test."""
    sigma, overlap, low, high = profiles(planted=True)
    kept = {"singular_values": (("row", "k"), sigma), "mp_low": ("row", low), "mp_high": ("row", high)}
    kept |= {"overlap": (("row", "k"), overlap)} if profile == "overlap" else {}
    where = {"run": ("row", [0] * MATRICES), "role": ("row", ROLES), "layer": ("row", [0, 1, 2] * 2)}
    (tmp_path / SPECTRA).write_bytes(bytes(xarray.Dataset(kept, where).to_netcdf(engine="scipy")))
    pandas.DataFrame([{"run": 0, "label": "big", "group": "big"}]).to_csv(tmp_path / "runs.csv", index=False)
    pandas.DataFrame({"q_value": [np.nan], "difference": [1.0]}).to_csv(tmp_path / "differences.csv", index=False)
    run = Run(tmp_path)
    vars(run)["provenance"] = {"task": "compare", "of": "overlap", "metrics": []}
    said = list(compare_findings(run))
    words = "O_k is higher beyond" if profile == "overlap" else "upper edge, medians over layers: q 1.5; up 1.5."
    assert said[0].startswith("big: ")
    assert words in said[0]
    assert said[-1].startswith("No layer has enough units")


def test_upright_lines_stand_where_sigma_crosses_the_edges() -> None:
    sigma, overlap, low, high = profiles(planted=True)
    spectra = Spectra(sigma, low, high)
    panel = Figure().add_subplot()
    inset = frame_overlap(panel, "q", overlap, {"overlap_null": 0.1}, spectra)
    across = [np.asarray(line.get_xdata()) for line in panel.lines]
    upright = [x[0] for x in across if len(set(x)) == 1]
    assert upright == [ABOVE + 0.5, ROWS - BELOW + 0.5]
    # The law of the matrix's own sides: its mass is one, and its ends are s(√N ∓ √M) over s√N.
    x, density = np.asarray(inset.lines[0].get_xydata()).T
    assert np.trapezoid(density, x) == pytest.approx(1, abs=1e-2)
    np.testing.assert_allclose(x[[0, -1]], [1 - (ROWS / COLS) ** 0.5, 1 + (ROWS / COLS) ** 0.5])
    add_spectra(inset, spectra, "blue")
    (bars,) = inset.patches
    assert np.asarray(bars.get_path().vertices)[:, 0].max() > x[-1]  # what lies beyond is in the last bar
    # Twins: within the edges there is no line, nor where none is known.
    inside = Spectra(np.clip(sigma, LOW, HIGH), low, high)
    for other in (inside, Spectra(sigma, np.nan * low, np.nan * high)):
        empty = Figure().add_subplot()
        frame_overlap(empty, "q", overlap, {}, other)
        assert not empty.lines
