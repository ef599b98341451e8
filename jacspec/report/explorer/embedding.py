"""Scripts, data and styles on the page: compressed, and fenced by a policy that lets nothing else run or be fetched."""

import base64
import functools
import gzip
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jacspec.report.markup import Markup, element

HERE = Path(__file__).parent
LEVEL = 6
"""Of gzip: the highest takes twice as long for a page that is half a per cent smaller."""

SCRIPTS = (
    *("views.js", "sample_views.js", "matrix_views.js", "head_views.js", "experiment_views.js"),
    *("scatter_views.js", "comparison.js", "explorer.js"),
)


def explorer_style() -> Markup:
    """Return the style sheet of the explorer."""
    return Markup((HERE / "explorer.css").read_text(encoding="utf-8"))


def embed(data: Mapping[str, Any]) -> Markup:
    """Put Plotly, data and the explorer's own scripts on the page.

    Plotly and the data are base64 of gzip, which holds no letter that HTML could read as markup, whatever a tensor or
    a sample is called.
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return element(
        "div",
        element("script", packed_plotly(), type="application/gzip", id="explorer-plotly"),
        "\n",
        element("script", _pack(text), type="application/gzip", id="explorer-data"),
        "\n",
        element("script", Markup(_own_script())),
    )


def script_policy() -> str:
    """Write the Content-Security-Policy: the two scripts by their hashes, images that lie in the page, nothing else."""
    hashes = " ".join(f"'sha256-{_hash(text)}'" for text in (_own_script(), _plotly()))
    # Plotly sets styles, and hands a saved picture over as a blob.
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


@functools.cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


@functools.cache
def _own_script() -> str:
    return "\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)


@functools.cache
def packed_plotly() -> Markup:
    """Return Plotly as it lies in a page; it is packed once a process, without holding the interpreter."""
    return _pack(_plotly())


def _pack(text: str) -> Markup:
    # Without a time the same run gives the same page.
    return Markup(base64.b64encode(gzip.compress(text.encode(), LEVEL, mtime=0)).decode())


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
