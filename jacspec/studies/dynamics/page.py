"""What the page says first of training dynamics."""

from collections.abc import Iterator

from jacspec.report.markup import Markup, element, section, together
from jacspec.report.tables import list_runs
from jacspec.runs import Run
from jacspec.studies.dynamics.figures import onset_sentences


def dynamics_findings(run: Run) -> Iterator[Markup]:
    """List the runs, and what appears first."""
    yield list_runs(run)
    items = (element("li", sentence) for sentence in onset_sentences(run))
    yield section("What appears first", element("ul", together(items, "\n")))
