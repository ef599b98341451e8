"""The words, symbols and digits that figures, page and console share."""

import functools
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jacspec.errors import printable
from jacspec.runs import Run
from jacspec.studies import study_of
from jacspec.studies.study import Quantity

COMPONENT_WORDS: Mapping[str, str] = {
    "path": "path",
    "encoder.path": "encoder path",
    "decoder.path": "decoder path",
    "attn": "attention",
    "mlp": "MLP",
    "block": "block",
    "encoder.attn": "encoder attention",
    "encoder.mlp": "encoder MLP",
    "encoder.block": "encoder block",
    "decoder.attn": "decoder attention",
    "decoder.cross": "decoder cross-attention",
    "decoder.mlp": "decoder MLP",
    "decoder.block": "decoder block",
}
COMPARED: Mapping[str, str] = {
    "tasks": "task vectors",
    "task-base": "task vectors beside the base",
    "weights": "weights",
}
"""What checkpoints are compared by, what comes first on a page first."""

MATHTEXT = {
    r"\rho": "ρ", r"\sigma": "σ", r"\delta": "δ", r"\lambda": "λ", r"\mu": "μ",
    r"\alpha": "α", r"\kappa": "κ", r"\Sigma": "Σ", r"\log": "log", r"\mathrm": "", r"\min": "min",
    r"\sqrt": "√", r"\hat{x}": "x̂", r"\max": "max", r"\cdot": "·", r"\|": "‖",
    r"\ln": "ln", r"\,": " ", r"\Delta": "Δ", r"\nabla": "∇", r"\beta": "β", r"\langle\tilde{r}\rangle": "⟨r̃⟩",
    r"\leq": "≤", r"\epsilon": "ε", "_-": "₋", "_+": "₊", "_1": "₁", "_2": "₂", "_i": "ᵢ", "_r": "ᵣ", "^2": "²",
    "^T": "ᵀ", "$": "", "{": "", "}": "",
}  # fmt: skip
"""The mathtext that the metrics' symbols use, in Unicode; what has no subscript there keeps its underscore."""

SPELLED = {"lambda": "λ", "sigma": "σ", "alpha": "α", "kappa": "κ", "sum": "σ", "square": "²"}
"""What letters are called in the names of columns."""

WRITTEN = {"lambda": "λ", "sigma": "σ", "frobenius": "Frobenius"}
"""How words in the names of columns are written where they stand for the column."""

SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
SUPERSCRIPTS = str.maketrans("0123456789-abcdefghijklmnoprstuvwxyzO", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻᴼ")
NO_VALUE = "–"
LONGEST_NAME = 48
LETTERS_AN_INCH = 11


def component_words(component: str) -> str:
    """Return the word for a component; one that has none is called as it is."""
    return COMPONENT_WORDS.get(component, component)


def upper_first(words: str) -> str:
    """Begin a sentence with words; symbols in them stay as they are."""
    return words[:1].upper() + words[1:]


def layer_words(components: Iterable[str]) -> str:
    """Return what an axis of layers is called: a path goes from the first layer up to each."""
    return "up to layer" if all(name.endswith("path") for name in components) else "layer"


def metric_words(metric: str) -> str:
    """Return a metric's name as words."""
    return " ".join(WRITTEN.get(word, word) for word in metric.split("_"))


def words_of(run: Run, column: str) -> Quantity | None:
    """Find what is said of a column of a run: in the tables of its own study, then of that which it looks at.

    **Returns:** `None` for a column that this version does not know.
    """
    looked_at = {"task": run.provenance["of"]} if "of" in run.provenance else {}
    studies = (study_of(run.provenance), *([study_of(looked_at)] if looked_at else ()))
    for study in studies:
        if column in study.columns:
            return study.columns[column]
        if "metrics" in study.reads and (found := words_of_metrics().get(column)):
            return found
    return None


@functools.cache
def words_of_metrics() -> Mapping[str, Quantity]:
    """Take what is said of metrics from `METRICS`, whose rows also compute them."""
    from jacspec.spectra.metrics import METRICS  # not above: JAX is slow to import

    return {
        name: Quantity(row.symbol, row.definition, row.source, scale=bool(row.scaling) and not row.signed)
        for name, row in METRICS.items()
    }


def metric_label(run: Run, metric: str) -> str:
    """Label an axis: the words, then the symbol in mathtext; a symbol that has the words in it stands alone."""
    found = words_of(run, metric)
    if found is None:
        return metric_words(metric)
    in_words = "$" not in found.symbol or re.match(r"[A-Za-z]", found.symbol)
    if in_words or (not found.words and _spells(found.symbol, metric)):
        return found.symbol
    return f"{found.words or metric_words(metric)} {found.symbol}"


def _spells(symbol: str, metric: str) -> bool:
    """Tell whether a metric's name only spells its symbol, as `x_min` does, and `lambda_sum`."""
    letters = _in_unicode(symbol).lower()
    return all(SPELLED.get(word, word) in letters for word in metric.split("_"))


def metric_title(run: Run, metric: str) -> str:
    """Return the label of a metric in Unicode, for where there is no mathtext."""
    return _in_unicode(metric_label(run, metric))


def metric_symbol(run: Run, metric: str) -> str:
    """Return the symbol of a metric alone, in Unicode; its words where it has none."""
    found = words_of(run, metric)
    _, dollar, symbol = (found.symbol if found else "").partition("$")
    return _in_unicode(dollar + symbol) if dollar else metric_words(metric)


def _in_unicode(label: str) -> str:
    label = re.sub(r"_\{(\d+)\}", lambda found: found[1].translate(SUBSCRIPTS), label)
    label = re.sub(r"\^\{(?:\\mathrm\{)?([a-pr-zO\d-]+)\}\}?", lambda found: found[1].translate(SUPERSCRIPTS), label)
    for mathtext, letters in MATHTEXT.items():
        label = label.replace(mathtext, letters)
    return " ".join(label.split())


def lookup(tree: Any, path: str) -> Any:
    """Follow a dotted path through nested mappings; `None` where it ends early, as in runs of other versions."""
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def model_name(run: Run) -> str:
    """Name the model of a run as its checkpoint does, else as the configuration did."""
    found = lookup(run.provenance, "identity.checkpoint.name") or lookup(run.provenance, "identity.config.model.name")
    return printable(found or "unnamed model")


def corpus_name(run: Run) -> str:
    """Name the corpus of a run by what was read: the ready-made choice, or the file of the user's own text."""
    if read := lookup(run.provenance, "corpus.name"):
        return printable(read)
    name = lookup(run.provenance, "identity.config.data.name")
    source = lookup(run.provenance, "corpus.source")
    return printable(Path(str(source)).name if source and name in (None, "text") else name or "unnamed corpus")


def run_title(run: Run) -> str:
    """Say in one line which model was measured, and on how much of which text; a long name loses its middle."""
    name, amount = model_name(run), _amount(run)
    name = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME // 2]} … {name[-LONGEST_NAME // 2 :]}"
    return f"{name}, {amount} of {corpus_name(run)}" if amount else name


def _amount(run: Run) -> str:
    """Say how much of a text was read: in samples, examples held out, or tokens; nothing of a run that reads none."""
    if (run.folder / "samples.csv").is_file():
        count = len(run.samples)
        return f"{count} sample{'s' * (count != 1)}"
    if held_out := lookup(run.provenance, "corpus.held_out"):
        return f"{held_out} examples held out"
    tokens = lookup(run.provenance, "scored.tokens") or lookup(run.provenance, "tokens")
    return f"{tokens} tokens" if tokens else ""


def title_lines(run: Run, width: float) -> str:
    """Break the title of a run into lines that fit a figure of `width` inches."""
    return "\n".join(textwrap.wrap(run_title(run), int(width * LETTERS_AN_INCH), max_lines=2, placeholder=" …"))


def number_format(values: Iterable[float], digits: Sequence[int] = (4, 3)) -> Callable[[float], str]:
    """Choose how the numbers of one table are written, so that their points align.

    **Arguments:** `digits`, how many significant digits of the smallest value to try for.

    **Returns:** a function that writes the first of `digits` that takes at most eight characters; where the values
    span too much for any, three digits in scientific notation.
    """
    sizes = [abs(value) for value in values if value and math.isfinite(value)]
    if not sizes:
        return lambda value: _write(value, "g")
    smallest, largest = (math.floor(math.log10(size)) for size in (min(sizes), max(sizes)))
    if all(size.is_integer() for size in sizes) and largest < 7:
        return lambda value: _write(value, ".0f")
    for wanted in digits:
        decimals = max(wanted - 1 - smallest, 0)
        if max(largest, 0) + 1 + decimals <= 7:
            return lambda value: _write(value, f".{decimals}f")
    return lambda value: _write(value, ".2e")


def _write(value: float, spec: str) -> str:
    return format(value, spec) if math.isfinite(value) else NO_VALUE
