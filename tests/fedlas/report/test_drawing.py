"""Colours of drawings: those of the tokens, which a page's style sheet can replace."""

from __future__ import annotations

import re
from pathlib import Path

import fedlas.report
from fedlas.report.drawing import COLOURS

TEMPLATES = Path(fedlas.report.__file__).parent / "templates"


def test_colours_are_the_tokens_in_the_light() -> None:
    """A drawing that stands alone has the colours of a light page."""
    light = (TEMPLATES / "tokens.css").read_text().split("@media")[0]
    assert dict(re.findall(r"--([\w-]+): (#\w+)", light)).items() >= COLOURS.items()


def test_a_page_replaces_every_colour() -> None:
    """Each colour has its class for areas and for lines."""
    rules = (TEMPLATES / "diagrams.css").read_text()
    for name in COLOURS:
        assert f".fill-{name} {{ fill: var(--{name}); }}" in rules
        assert f".stroke-{name} {{ stroke: var(--{name}); }}" in rules
