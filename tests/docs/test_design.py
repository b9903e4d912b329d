"""The page of the visual language has every token, and names components that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_TOKEN = re.compile(r"(--[\w-]+): ")


def tokens() -> set[str]:
    """Names of all tokens."""
    return set(_TOKEN.findall((ROOT / "fedlas/report/templates/tokens.css").read_text()))


def test_the_page_of_the_design_has_every_token() -> None:
    """The table of the page has each token once, and no other."""
    rows = re.findall(r"^\| (`--[^|]+) \|", (ROOT / "docs/design.md").read_text(), re.MULTILINE)
    assert sorted(re.findall(r"`(--[\w-]+)`", "".join(rows))) == sorted(tokens())


def test_what_styles_name_is_a_token() -> None:
    """No style sheet uses a custom property that is not there."""
    folders = (ROOT / "fedlas/report/templates", ROOT / "service/web/static")
    for sheet in (path for folder in folders for path in folder.glob("*.css")):
        assert set(re.findall(r"var\((--[\w-]+)", sheet.read_text())) <= tokens(), sheet.name


def test_the_components_of_the_design_exist() -> None:
    """Macros and classes that the page names exist."""
    text = (ROOT / "docs/design.md").read_text()
    folders = (ROOT / "fedlas/report/templates", ROOT / "service/web")
    sources = "".join(
        path.read_text() for folder in folders for path in folder.rglob("*") if path.suffix in (".css", ".jinja")
    )
    for macro in re.findall(r"^\| `(\w+)\(", text, re.MULTILINE):
        assert f"macro {macro}(" in sources, macro
    for name in re.findall(r"^\| `\.([\w-]+)`", text, re.MULTILINE):
        assert f".{name}" in sources, name
