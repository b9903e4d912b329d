"""The reference pages as they are read in the repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.reference import PAGES, filled


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lists_say_what_the_code_says(page: Path) -> None:
    """Each name stands on its page with a sentence; `python -m tests.helpers.reference` writes them anew."""
    text = page.read_text()
    assert filled(text) == text
    read = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    assert ":::" not in read, "a directive that is not in a comment is shown as it is"
    assert len(re.findall(r"^\| `", read, re.MULTILINE)) > 10
