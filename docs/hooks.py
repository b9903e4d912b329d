"""The hooks of mkdocs: documents from outside of `docs/` become pages, links to them pages' links, and what the code
knows is written by the code.

Where a list would only repeat the code, a page of the repository has a short one between a mark and
`<!-- /generated -->`, which `python -m tests.helpers.reference` writes; the site has everything in its place. The mark
is `<!-- generated: NAME -->`, or a comment that holds a directive of mkdocstrings.
"""

from __future__ import annotations

import posixpath
import re
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
#: Documents of the repository that are pages of the site, too, and where.
PAGES = {
    "README.md": "project/readme.md",
    "benchmarks/README.md": "project/benchmarks.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
}
_SOURCES = {page: source for source, page in PAGES.items()}
_LINK = re.compile(r"\[([^\]]+)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")
END = "<!-- /generated -->"
#: A mark, the list and its end.
GENERATED_PART = re.compile(
    rf"(?P<mark><!-- (?:generated: (?P<name>\w+)|(?P<directive>::: [^>]+?))\s*-->)\n(?:.*?\n)??{END}", re.DOTALL
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents from outside of `docs/`."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in what is generated, and let links lead to pages."""
    filled = GENERATED_PART.sub(lambda found: found["directive"] or GENERATED[found["name"]](), markdown)
    return _LINK.sub(lambda found: _link(found, page.file.src_uri, files), filled)


def _link(found: re.Match[str], page: str, files: Files) -> str:
    """A link as the site has it; one to a file that is no page is its text alone."""
    words, target, anchor = found[1], found[2], found[3] or ""
    source = _SOURCES.get(page, f"docs/{page}")
    goal = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    there = (ROOT / goal).exists()
    if (ROOT / goal).is_dir():
        goal = posixpath.join(goal, "README.md")
    uri = PAGES.get(goal, goal.removeprefix("docs/"))
    if files.get_file_from_path(uri) is None or not (goal.startswith("docs/") or goal in PAGES):
        return words if there else found[0]
    return f"[{words}]({posixpath.relpath(uri, posixpath.dirname(page) or '.')}{anchor})"


def _commands() -> str:
    """Every command with its arguments and options, from the Typer application."""
    import typer.cli
    import typer.main

    from fedlas.cli.app import app

    command = typer.main.get_command(app)
    context = command.make_context("fedlas", [], resilient_parsing=True)
    text = typer.cli.get_docs_for_click(obj=command, ctx=context, name="fedlas").replace("\b", "")
    text = text[text.index("**Usage**") :]  # what stands before is said by the page
    text = re.sub(r"^Examples:\n", "**Examples**:\n\n", text, flags=re.MULTILINE)
    return re.sub(r"(?:^  .+\n)+", lambda lines: f"```text\n{textwrap.dedent(lines[0])}```\n", text, flags=re.MULTILINE)


def _errors(*, of_predictions: bool) -> str:
    """Codes of answers: those of predictions and the inference protocol, or all others."""
    from fedlas.contract.error_codes import ERROR_CODES

    codes = list(ERROR_CODES)  # in the order of the table, where predictions stand together
    predictions = codes[codes.index("model_not_ready") : codes.index("internal_error")]
    rows = [
        _row(f"`{code}`", ", ".join(map(str, (one.status, *one.also))), one.meaning, one.remedy)
        for code, one in ERROR_CODES.items()
        if (code in predictions) is of_predictions
    ]
    return "\n".join(["", _row("code", "status", "meaning", "what to do"), "|---|---|---|---|", *sorted(rows), ""])


def _record_errors() -> str:
    """Codes of rejected files and failed work, under a heading for each kind."""
    from fedlas.contract import record_codes as tables

    kinds = {
        "Models": tables.MODEL_CODES,
        "Datasets and scores": tables.DATASET_CODES,
        "Any file": tables.FILE_CODES,
        "Jobs and batches": tables.JOB_CODES,
        "Any work": tables.WORK_CODES,
    }
    parts = []
    for kind, codes in kinds.items():
        rows = [_row(f"`{code}`", meaning) for code, meaning in sorted(codes.items())]
        parts += ["", f"## {kind}", "", _row("code", "meaning, and what to do"), "|---|---|", *rows]
    return "\n".join([*parts, ""])


def _row(*cells: object) -> str:
    return f"| {' | '.join(str(cell).replace('|', '&#124;') for cell in cells)} |"


GENERATED: dict[str, Callable[[], str]] = {
    "commands": _commands,
    "errors": partial(_errors, of_predictions=False),
    "errors_of_predictions": partial(_errors, of_predictions=True),
    "errors_of_records": _record_errors,
}
