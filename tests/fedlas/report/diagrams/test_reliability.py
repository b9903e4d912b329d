"""Reliability diagrams: self-contained SVG with the numbers of the report."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from fedlas.report import reliability_svg
from tests.helpers.reports import content, example


@pytest.mark.parametrize("panels", [("uploaded", "calibrated"), ("temperature", "calibrated")])
def test_the_picture_is_self_contained_svg(panels: tuple[str, str]) -> None:
    """It parses as XML, needs no other file, runs no script, and has one point per bin that holds rows."""
    svg = reliability_svg(example()[0], panels=panels)
    root = ET.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "href" not in svg
    assert "<script" not in svg
    assert "nan" not in svg.lower().replace("roboto", "")
    points = [c for c in root.iter("{http://www.w3.org/2000/svg}circle") if len(c)]
    filled = sum(count > 0 for name in panels for count in content()["reliability"][name]["counts"])
    assert len(points) == filled


def test_points_lie_where_the_numbers_say() -> None:
    """The first point of the first panel is at its bin's mean confidence and accuracy."""
    curve = content()["reliability"]["uploaded"]
    first = next(i for i, count in enumerate(curve["counts"]) if count)
    root = ET.fromstring(reliability_svg(example()[0]))
    point = next(c for c in root.iter("{http://www.w3.org/2000/svg}circle") if len(c))
    assert (float(point.get("cx", 0)) - 82) / 350 == pytest.approx(curve["mean_confidence"][first], abs=0.001)
    assert 1 - (float(point.get("cy", 0)) - 112) / 350 == pytest.approx(curve["accuracy"][first], abs=0.001)
