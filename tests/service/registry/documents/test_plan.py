"""Plans as records hold them."""

from __future__ import annotations

import json
from pathlib import Path

from service.registry.documents import Plan

DOCUMENTS = Path(__file__).parents[3] / "data" / "demo_documents.json"


def test_a_plan_of_an_earlier_release_is_read() -> None:
    """Warnings were sentences before they had evidence, and a list of jobs still shows such plans."""
    stored = json.loads(DOCUMENTS.read_text())["plan"]
    plan = Plan.read({**stored, "warnings": ["there are no train rows"]})
    assert [(warning.code, warning.message) for warning in plan.warnings] == [("dataset", "there are no train rows")]
