"""Pages about the project name tests that exist, and pages and decision records are short."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Twelve minutes, at 230 words a minute.
MAX_PAGE_WORDS = 2760
_NAMED = re.compile(r"`(tests/[\w/.]+|)(?:::(\w+))?`")


def names_in(file: Path) -> set[str]:
    """Names of the test functions of a file."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    names = {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, functions)}
    return {name for name in names if name.startswith("test_")}


@pytest.mark.parametrize("page", ["promises.md", "threats.md"])
def test_the_names_in_the_page_exist(page: str) -> None:
    """The page's files and their functions exist; `::name` alone is in the file that was named last."""
    missing, file = [], ROOT
    named = _NAMED.findall((ROOT / "docs" / page).read_text())
    for path, test in named:
        file = ROOT / path if path else file
        if not file.exists() or (test and test not in names_in(file)):
            missing.append(f"{file.relative_to(ROOT)}::{test}")
    assert len(named) > 50
    assert missing == []


def test_no_page_takes_longer_to_read_than_twelve_minutes() -> None:
    """README and each page of docs have at most 2,760 words."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    words = {str(page.relative_to(ROOT)): len(page.read_text().split()) for page in pages}
    assert {page: count for page, count in words.items() if count > MAX_PAGE_WORDS} == {}


@pytest.mark.parametrize("record", sorted((ROOT / "docs" / "decisions").glob("0*.md")), ids=lambda path: path.name[:4])
def test_decision_records_are_short(record: Path) -> None:
    """A decision record has at most 40 lines."""
    assert len(record.read_text().splitlines()) <= 40
