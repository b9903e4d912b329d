"""Risk-coverage diagrams: the numbers of the report."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from fedlas.calibrators import softmax
from fedlas.report import risk_coverage_svg
from tests.helpers.drawn_rows import drawn_logits
from tests.helpers.reports import report


def test_the_risk_coverage_picture_draws_the_numbers() -> None:
    """Its last point stands at full coverage and at the error rate of everything."""
    logits, targets = drawn_logits(300, 3)
    made = report(softmax(logits), targets)
    svg = "{http://www.w3.org/2000/svg}"
    root = ET.fromstring(risk_coverage_svg(made, curves=("calibrated",)))
    dot = list(root.iter(f"{svg}circle"))[-1]
    top = max(float((t.text or "0").split()[0]) for t in root.iter(f"{svg}text") if (t.get("text-anchor") == "end"))
    error = made.as_dict()["risk_coverage"]["calibrated"]["error_rate"][-1]
    assert float(dot.get("cx", 0)) == pytest.approx(72 + 340)
    assert (62 + 280 - float(dot.get("cy", 0))) / 280 * top / 100 == pytest.approx(error, abs=0.001)
