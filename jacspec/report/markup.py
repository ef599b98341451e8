"""HTML that cannot be broken from inside: text is escaped unless it is `Markup`, which only `element` makes."""

import re
from collections.abc import Iterable
from html import escape

VOID = {"img", "meta"}


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(name: str, *children: object, **attributes: str) -> Markup:
    """Write an element; a trailing underscore in an attribute's name keeps clear of Python's words (`class_`)."""
    pairs = "".join(f' {key.rstrip("_")}="{escape(value)}"' for key, value in attributes.items())
    if name in VOID:
        return Markup(f"<{name}{pairs}>")
    return Markup(f"<{name}{pairs}>{together(children)}</{name}>")


def together(children: Iterable[object], between: str = "") -> Markup:
    """Join what is markup as it is and everything else as escaped text."""
    return Markup(between.join(child if isinstance(child, Markup) else escape(str(child)) for child in children))


def section(title: str, *children: object) -> Markup:
    """Write a part of the page under its heading, which can be linked."""
    return element("section", element("h2", title), "\n", together(children, "\n"), id=anchor(title))


def anchor(title: str) -> str:
    """Make the name of a part in a link from its heading."""
    return "-".join(re.findall(r"\w+", title.lower()))


def fold(content: Markup, rows: int, what: str) -> Markup:
    """Put a long table behind a click that says how long it is."""
    if rows <= LONGEST_OPEN:
        return content
    return element("details", element("summary", f"{rows} {what}"), content)


LONGEST_OPEN = 12
"""Rows of a table that is shown at once."""


STYLE = Markup("""
:root { color-scheme: light; --line: #d8dbe0; --quiet: #59606b; }
body { font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: #1b1e23; background: #fff;
  max-width: 68rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0.5rem 0 0.25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 0.75rem; padding-bottom: 0.25rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 0.5rem; }
p, ul, ol, dl { max-width: 46rem; }
a { color: #005a8f; }
.quiet, figcaption { color: var(--quiet); font-size: 0.9rem; }
nav { margin: 0.75rem 0; }
nav a { margin-right: 1.1rem; white-space: nowrap; }
.scroll { overflow-x: auto; margin: 0.75rem 0; background: linear-gradient(to right, #fff 2rem, transparent) left,
  linear-gradient(to left, #fff 2rem, transparent) right, linear-gradient(to right, #0003, transparent) left,
  linear-gradient(to left, #0003, transparent) right;
  background-size: 4rem 100%, 4rem 100%, 0.7rem 100%, 0.7rem 100%; background-repeat: no-repeat;
  background-attachment: local, local, scroll, scroll; }
table { border-collapse: collapse; font-size: 0.9rem; }
th, td { padding: 0.2rem 0.8rem 0.2rem 0; border-bottom: 1px solid var(--line); vertical-align: top; text-align: left; }
.facts th { font-weight: 600; white-space: nowrap; padding-right: 1.5rem; }
.facts td { overflow-wrap: anywhere; }
.numbers th, .numbers td { text-align: right; white-space: nowrap; padding: 0.2rem 0.8rem;
  font-variant-numeric: tabular-nums; }
.numbers .first { border-left: 1px solid var(--line); }
.numbers thead tr:first-child th { text-align: center; }
.numbers tbody tr:hover { background: #f4f6f8; }
figure { margin: 1.5rem 0; }
img { max-width: 100%; height: auto; }
dt { font-weight: 600; margin-top: 0.6rem; }
code { overflow-wrap: anywhere; }
dt code { font-weight: 400; color: var(--quiet); margin-left: 0.5rem; }
dd { margin-left: 1.25rem; }
pre { background: #f6f7f9; padding: 0.75rem; font-size: 0.8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; }
blockquote { margin: 0.5rem 0; padding-left: 0.8rem; border-left: 3px solid var(--line); white-space: pre-line;
  overflow-wrap: anywhere; }
@media screen and (max-width: 40rem) {
  figure { overflow-x: auto; }
  figure img { max-width: max(100%, 40rem); }
  figcaption { position: sticky; left: 0; }
}
@page { margin: 14mm; }
@media print {
  body { font-size: 10pt; max-width: none; padding: 0; }
  h2, h3, figcaption { break-after: avoid; }
  figure, tr, blockquote { break-inside: avoid; }
  img { max-height: 9.5cm; width: auto; }
  thead { display: table-header-group; }
  .scroll { overflow-x: visible; background: none; }
  nav { display: none; }
  details:not(.again)::details-content { content-visibility: visible; }
  .again { display: none; }
  .numbers { font-size: 8pt; }
  .numbers th, .numbers td { padding: 0.1rem 0.35rem; white-space: normal; }
  .named tbody th:first-child { min-width: 3.2cm; }
  .wide { font-size: 5pt; }
  .wide.named tbody th:first-child { min-width: 2.2cm; }
  .wide th, .wide td { padding: 0.1rem 0.15rem; }
}
""")
