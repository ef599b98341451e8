"""What MkDocs needs beyond GitHub to show these pages: links out of `docs/` and notebooks.

Pages link as GitHub takes it. A file outside `docs/` that one links to becomes part of the site, under `repository/`,
and its own links are followed too; a notebook is also a page.
"""

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
LINK = re.compile(r"\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files that pages link to, and a page a notebook."""
    waiting = [Path(str(file.abs_src_path)) for file in files.documentation_pages()]
    waiting += [ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "outputs/README.md")]
    known = {DOCS / file.src_uri for file in files}
    while waiting:
        file = waiting.pop()
        if file not in known:
            known.add(file)
            added = File.generated(config, place(file), abs_src_path=str(file), inclusion=InclusionLevel.INCLUDED)
            files.append(added)
        if file.suffix == ".md":
            waiting += [target for target in targets(file) if target not in known and target not in waiting]
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        text = as_markdown(Path(str(notebook.abs_src_path)))
        files.append(File.generated(config, place(DOCS / notebook.src_uri), content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links into what they are in the site."""
    if page.file.generated_by and not page.file.abs_src_path:
        return markdown
    source = Path(str(page.file.abs_src_path))

    def linked(found: re.Match[str]) -> str:
        target = (source.parent / found[1]).resolve()
        if not target.is_file():
            return found[0]
        return f"]({posixpath.relpath(place(target), posixpath.dirname(page.file.src_uri) or '.')}{found[2] or ''})"

    return LINK.sub(linked, markdown)


def place(file: Path) -> str:
    """Say where a file of the repository lies in the site."""
    if file.suffix == ".ipynb":
        file = file.with_suffix(".md")
    inside = file.is_relative_to(DOCS)
    return file.relative_to(DOCS).as_posix() if inside else f"repository/{file.relative_to(ROOT).as_posix()}"


def targets(page: Path) -> list[Path]:
    """List the files outside `docs/` that a page links to."""
    found = ((page.parent / link[1]).resolve() for link in LINK.finditer(page.read_text(encoding="utf-8")))
    return [file for file in found if file.is_file() and not file.is_relative_to(DOCS)]


def as_markdown(notebook: Path) -> str:
    """Write the cells of a notebook as a page."""
    cells: list[dict[str, Any]] = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    parts = [
        "".join(cell["source"]) if cell["cell_type"] == "markdown" else f"```python\n{''.join(cell['source'])}\n```"
        for cell in cells
    ]
    return "\n\n".join([*parts, f"As a notebook: [{notebook.name}]({notebook.name})"])
