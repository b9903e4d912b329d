"""The page of the visual language has the tokens as they are, and names components that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_TOKEN = re.compile(r"(--[\w-]+): ([^;]+);")


def tokens() -> dict[str, list[str]]:
    """Each token's values: in the light, and in the dark where it has another."""
    found: dict[str, list[str]] = {}
    for name, value in _TOKEN.findall((ROOT / "fedlas/report/templates/tokens.css").read_text()):
        found.setdefault(name, []).append(value)
    return found


def test_the_page_of_the_design_has_every_token() -> None:
    """With its value in light and dark, and none that is not there."""
    text = (ROOT / "docs/design.md").read_text()
    told = dict(re.findall(r"^\| `(--[\w-]+)` \| (`[^|]+`) \|", text, re.MULTILINE))
    assert told == {name: ", ".join(f"`{value}`" for value in values) for name, values in tokens().items()}


def test_what_styles_name_is_a_token() -> None:
    """No style sheet uses a custom property that is not there."""
    folders = (ROOT / "fedlas/report/templates", ROOT / "service/web/static")
    for sheet in (path for folder in folders for path in folder.glob("*.css")):
        assert set(re.findall(r"var\((--[\w-]+)", sheet.read_text())) <= tokens().keys(), sheet.name


def test_the_components_of_the_design_exist() -> None:
    """Each macro and each class that the page names."""
    text = (ROOT / "docs/design.md").read_text()
    folders = (ROOT / "fedlas/report/templates", ROOT / "service/web")
    sources = "".join(
        path.read_text() for folder in folders for path in folder.rglob("*") if path.suffix in (".css", ".jinja")
    )
    for macro in re.findall(r"^\| `(\w+)\(", text, re.MULTILINE):
        assert f"macro {macro}(" in sources, macro
    for name in re.findall(r"^\| `\.([\w-]+)`", text, re.MULTILINE):
        assert f".{name}" in sources, name
