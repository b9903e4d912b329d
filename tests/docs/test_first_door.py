"""The first door of the documents: pages by symptom, a tutorial of few new words, and a glossary with pictures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.code_blocks import is_as_shown
from tests.helpers.metric_pictures import IMAGES, pictures

DOCS = Path(__file__).parents[2] / "docs"
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday")
MAX_NEW_WORDS = 8
MAX_WORDS_BEFORE_SUCCESS = 500
MAX_GLOSSARY_WORDS = 1_840
MAX_PICTURE_BYTES = 8_000
#: Blocks, comments, goals of links and code in a line.
_NO_PROSE = re.compile(r"```.*?```|<!--.*?-->|\]\([^)]*\)|`[^`\n]*`", re.DOTALL)


def words_of_the_glossary() -> list[str]:
    """All words that the glossary explains."""
    text = (DOCS / "glossary.md").read_text()
    listed = " ".join(re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE))
    return re.findall(r"\*+([^*]+)\*+", listed) + re.findall(r"^\*\*(\w+)", text, re.MULTILINE)


def in_prose(page: str) -> set[str]:
    """The words of the glossary that a page uses."""
    prose = _NO_PROSE.sub("", (DOCS / page).read_text())
    return {word for word in words_of_the_glossary() if re.search(rf"\b{word}(e?s)?\b", prose, re.IGNORECASE)}


def test_the_first_table_of_all_pages_is_of_symptoms() -> None:
    """A symptom leads to a page, and every page that the site lists by symptom is in the table."""
    part = (DOCS / "README.md").read_text().split("\n## ")[1]
    led_to = {goal.partition("#")[0] for goal in re.findall(r"\]\(([^)]+)\)", part)}
    listed = (DOCS.parent / "mkdocs.yml").read_text().partition("- By symptom:\n")[2].partition("\n      - ")[0]
    by_symptom = re.findall(r"how-to/[\w-]+\.md", listed)
    assert part.startswith("By symptom\n")
    assert all((DOCS / goal).is_file() for goal in led_to)
    assert len(by_symptom) > 10
    assert set(by_symptom) <= led_to


def test_a_day_of_the_tutorial_teaches_few_words() -> None:
    """No day uses more than eight words of the glossary that no day before has used."""
    known: set[str] = set()
    for day in DAYS:
        new = in_prose(f"tutorial/{day}.md") - known
        assert len(new) <= MAX_NEW_WORDS, f"{day}: {sorted(new)}"
        known |= new
    assert {"verdict", "significant", "NLL", "guarantee"} <= known


def test_the_first_success_is_near() -> None:
    """On the first page stand at most 500 words before the output of a calibration."""
    before, success, _ = (DOCS / "tutorial/monday.md").read_text().partition("\n```text\ntrained")
    assert success
    assert len(before.split()) <= MAX_WORDS_BEFORE_SUCCESS


def test_the_second_day_succeeds_first() -> None:
    """The first calibration of a reader's own model is significant, the second, of few rows, is not."""
    outputs = re.findall(r"^post_hoc (True|False)$", (DOCS / "tutorial/tuesday.md").read_text(), re.MULTILINE)
    assert outputs == ["True", "False"]


def test_the_glossary_is_short() -> None:
    """The glossary is read within eight minutes."""
    assert len((DOCS / "glossary.md").read_text().split()) <= MAX_GLOSSARY_WORDS


@pytest.mark.parametrize("name", ["ece", "nll", "brier"])
def test_a_picture_of_the_glossary_is_of_its_numbers(name: str) -> None:
    """The committed picture is what the classifier's probabilities give, small, and described in words."""
    committed = (IMAGES / f"{name}.svg").read_text()
    assert is_as_shown(pictures()[name], committed)
    assert len(committed.encode()) <= MAX_PICTURE_BYTES
    assert re.search(rf"!\[[^\]]{{40,}}\]\(images/{name}\.svg\)", (DOCS / "glossary.md").read_text())
