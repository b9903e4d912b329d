"""Programs that tests need: their first line names those that are missing, and a test that asks for one is skipped."""

from __future__ import annotations

import pytest

from tests.helpers.programs import PROMTOOL, Program, first_line


def test_the_first_line_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the path is empty it says what will be skipped and how to get it; a browser that is named is there."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("FEDLAS_CHROMIUM", raising=False)
    browser, rules = (
        "pages in a browser (Chromium: apt-get install chromium)",
        "alert rules (promtool: apt-get install prometheus)",
    )
    assert first_line().startswith(f"will skip: {browser}, {rules}")
    monkeypatch.setenv("FEDLAS_CHROMIUM", "/opt/a-browser")
    assert first_line().startswith(f"will skip: {rules}")


def test_the_first_line_says_that_nothing_is_missing() -> None:
    """A set of programs that are all there skips nothing, and the line says so."""
    there = Program("sh", "scripts", "dash", lambda: "/bin/sh")
    assert first_line([there]) == "nothing will be skipped for want of a program"


def test_who_asks_for_a_missing_program_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason says what is missing and how to get it."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(pytest.skip.Exception) as skipped:
        PROMTOOL.needed()
    assert str(skipped.value) == "promtool is not installed (Debian: apt-get install prometheus)"
