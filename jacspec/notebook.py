"""What a notebook shows of an object."""

import html
from collections.abc import Mapping
from typing import Any


def facts_table(title: str, facts: Mapping[str, Any]) -> str:
    """Lay facts out as a small HTML table under a title, text escaped."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{html.escape(key)}</th>"
        f"<td style='text-align:left'>{html.escape(str(value))}</td></tr>"
        for key, value in facts.items()
    )
    return f"<b>{html.escape(title)}</b><table>{rows}</table>"
