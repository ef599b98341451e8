"""The part of the page that says what was run, from `run.json`."""

import json
from collections.abc import Mapping
from typing import Any

from jacspec.report.labels import lookup
from jacspec.report.markup import Markup, element, section, together
from jacspec.runs import Run

SECONDS = "seconds until the tables"
FACTS = {
    "begun": ("created",),
    "task": ("task",),
    "runs left out": ("runs_left_out",),
    "model": ("identity.checkpoint.name", "identity.config.model.name"),
    "revision": ("identity.checkpoint.revision",),
    "noted of the model": ("identity.checkpoint.notes",),
    "corpus": ("corpus.source",),
    "corpus SHA-256": ("identity.corpus.sha256", "corpus.sha256"),
    "text scored": ("scored",),
    "splitter": ("identity.corpus.splitter", "corpus.splitter"),
    "components": ("components",),
    "metrics": ("metrics",),
    "engine": ("engine",),
    "audit": ("audit",),
    "matrices left out": ("left_out",),
    "merged checkpoint": ("merged",),
    "warning": ("warning",),
    "read by tensor name, because": ("read by name",),
    "not converged": ("not_converged",),
    "precision": ("precision", "identity.config.precision"),
    "device": ("identity.device",),
    "seed": ("seed", "identity.config.seed"),
    SECONDS: ("seconds",),
    "versions": ("identity.versions",),
    "git commit": ("git_commit",),
}
"""What the page says of a run, and where `run.json` has it; what is not there is left out."""

AFTER_THE_PAGE = {"draw", "other"}
"""Stages that end when the page is there: their seconds are in `run.json`, so that a page drawn again is the same."""


def what_was_run(run: Run) -> Markup:
    """Write the table of facts, and behind a click the whole configuration and the hashes of the files."""
    finished = lookup(run.provenance, "finished")
    facts: dict[str, Any] = {"status": f"finished {finished}" if finished else run.provenance.get("status")}
    for name, paths in FACTS.items():
        facts[name] = next((found for path in paths if (found := lookup(run.provenance, path)) is not None), None)
        if name == SECONDS and isinstance(facts[name], dict):
            facts[name] = {stage: seconds for stage, seconds in facts[name].items() if stage not in AFTER_THE_PAGE}
        if name == "splitter" and (run.folder / "samples.csv").is_file():
            facts["samples"] = _sample_words(run)
    rows = [
        element("tr", element("th", name, scope="row"), element("td", _say(value)))
        for name, value in facts.items()
        if value not in (None, "", [], {})
    ]
    config = run.provenance.get("config") or lookup(run.provenance, "identity.config")
    files = lookup(run.provenance, "identity.checkpoint.files")
    table = element("div", element("table", element("tbody", together(rows, "\n")), class_="facts"), class_="scroll")
    return section(
        "What was run",
        element("details", element("summary", "Model, text, device, seconds, versions"), table),
        _details("The whole configuration", config),
        _details("SHA-256 of the checkpoint's files", files),
    )


def _sample_words(run: Run) -> str:
    tokens, candidates = run.samples["n_tokens"], lookup(run.provenance, "corpus.candidates")
    of = f" of {candidates} candidates" if isinstance(candidates, int) else ""
    return f"{len(tokens)}{of}, {tokens.min()} to {tokens.max()} tokens (median {tokens.median():g})"


def _say(value: Any) -> str:
    """Write a value of `run.json` as a person would: lists with commas, mappings as `key value`."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_say(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_say, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _details(title: str, content: Any) -> Markup:
    if not content:
        return Markup("")
    text = json.dumps(content, indent=2, ensure_ascii=False, default=str)
    return element("details", element("summary", title), element("pre", text))
