"""Diagrams: self-contained SVG with the numbers of the report, better to the right, unfinished candidates hollow."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import fedlas.report
from fedlas.calibrators import softmax
from fedlas.contract.figures import Estimate
from fedlas.report import reliability_svg, risk_coverage_svg
from fedlas.report.diagrams import binned_svg, common_extent, corp_svg, forest_svg, interval_cell, race_svg
from fedlas.report.drawing import COLOURS
from fedlas.report.summary import says_and_is_right
from tests.helpers.drawn_rows import drawn_logits
from tests.helpers.reports import candidate, content, example, report
from tests.helpers.service import ROOT

SVG = "{http://www.w3.org/2000/svg}"


def marks(svg: str, shape: str) -> list[ET.Element]:
    """Marks that tell what they are of."""
    return [one for one in ET.fromstring(svg).iter(f"{SVG}{shape}") if len(one)]


@pytest.mark.parametrize("models", [("uploaded", "calibrated"), ("temperature", "uploaded")])
def test_the_picture_is_self_contained_svg(models: tuple[str, str]) -> None:
    """A picture parses as XML, says what is in it, needs no other file or script, and has a mark per bin with rows."""
    svg = reliability_svg(example()[0], models=models)
    root = ET.fromstring(svg)
    assert (root.tag, root.get("role")) == (f"{SVG}svg", "img")
    assert [child.tag for child in root[:2]] == [f"{SVG}title", f"{SVG}desc"]
    assert says_and_is_right(example()[0].confidence_gap[models[0]].test, "of 400 test rows") in (root[1].text or "")
    for unwanted in ("href", "<script", "style=", "<style"):
        assert unwanted not in svg
    assert "nan" not in svg.lower().replace("roboto", "")
    for name, shape in {"uploaded": "path", "calibrated": "circle"}.items():
        if name in models:
            assert len(marks(svg, shape)) == sum(count > 0 for count in content()["reliability"][name]["counts"])


def test_marks_lie_where_the_numbers_say() -> None:
    """The first bin of the served model is at its mean confidence and accuracy."""
    curve = content()["reliability"]["calibrated"]
    first = next(i for i, count in enumerate(curve["counts"]) if count)
    point = marks(binned_svg(example()[0]), "circle")[0]
    assert (float(point.get("cx", 0)) - 72) / 340 == pytest.approx(curve["mean_confidence"][first], abs=0.001)
    assert 1 - (float(point.get("cy", 0)) - 62) / 340 == pytest.approx(curve["accuracy"][first], abs=0.001)


def test_the_line_without_bins_has_the_steps_of_the_report() -> None:
    """The line has both ends of every step of both models, at its accuracy."""
    lines = list(ET.fromstring(corp_svg(example()[0])).iter(f"{SVG}polyline"))[-2:]
    for name, drawn in zip(("uploaded", "calibrated"), lines, strict=True):
        corp = content()["reliability"][name]["corp"]
        points = [tuple(map(float, pair.split(","))) for pair in drawn.get("points", "").split()]
        assert len(points) == 2 * len(corp["accuracy"])
        assert (points[-1][0] - 72) / 340 == pytest.approx(corp["ends"][-1], abs=0.001)
        assert [1 - (y - 62) / 340 for _, y in points[::2]] == pytest.approx(corp["accuracy"], abs=0.001)


def test_a_model_that_was_not_changed_is_drawn_once() -> None:
    """Where the upload is served, before and after are one line."""
    made = example()[0]
    same = made.changed(
        metrics=made.metrics.changed(calibrated=made.metrics.uploaded),
        reliability=made.reliability.changed(calibrated=made.reliability.uploaded),
    )
    svg = corp_svg(same)
    assert "As uploaded" in svg
    assert "To be served" not in svg


def test_the_picture_in_readme_is_of_a_model_that_holds_what_it_says() -> None:
    """The committed diagram's own description puts the served model within its error, and the upload beyond."""
    description = ET.parse(ROOT / "docs" / "images" / "reliability.svg").find(f"{SVG}desc")
    assert description is not None
    uploaded, served = (description.text or "").split("To be served: ")
    assert "points too sure, more than the ±" in uploaded
    assert "within the ±" in served


def test_the_risk_coverage_picture_draws_the_numbers() -> None:
    """The last point stands at full coverage and at the error rate of everything."""
    logits, targets = drawn_logits(300, 3)
    made = report(softmax(logits), targets)
    svg = "{http://www.w3.org/2000/svg}"
    root = ET.fromstring(risk_coverage_svg(made, curves=("calibrated",)))
    dot = list(root.iter(f"{svg}circle"))[-1]
    top = max(float((t.text or "0").split()[0]) for t in root.iter(f"{svg}text") if (t.get("text-anchor") == "end"))
    error = made.as_dict()["risk_coverage"]["calibrated"]["error_rate"][-1]
    assert float(dot.get("cx", 0)) == pytest.approx(72 + 340)
    assert (62 + 280 - float(dot.get("cy", 0))) / 280 * top / 100 == pytest.approx(error, abs=0.001)


def hinted(svg: str, shape: str) -> dict[str, ET.Element]:
    """The marks of a picture by what they tell."""
    return {one[0].text or "": one for one in ET.fromstring(svg).iter(f"{SVG}{shape}") if len(one)}


def middle_of(diamond: ET.Element) -> float:
    return float(diamond.get("d", "").split()[0].removeprefix("M"))


def test_better_is_to_the_right() -> None:
    """An NLL that falls is drawn to the right of the middle, as far as its share of the row's scale."""
    found = content()["differences"]["calibrated_minus_uploaded"]["nll"]
    others = content()["differences"]["calibrated_minus_temperature"]["nll"]
    assert found["high"] < 0
    extent = max(abs(end) for one in (found, others) for end in one.values())
    marks = hinted(forest_svg(example()[0]), "path")
    nll = next(mark for hint, mark in marks.items() if hint.startswith("NLL"))
    assert middle_of(nll) - 215 == pytest.approx(-found["value"] / extent * 199, abs=0.1)
    assert len(marks) == 6


def test_a_model_that_was_not_changed_stands_in_the_middle() -> None:
    """Where nothing differs, no interval has a width, and all marks are on the line."""
    logits, targets = drawn_logits(100, 3)
    marks = hinted(forest_svg(report(softmax(logits), targets)), "path")
    assert {middle_of(mark) for mark in marks.values()} == {215.0}


def test_a_cell_is_filled_where_the_interval_leaves_out_zero() -> None:
    """A cell has no words, for the row has them; nothing to draw is an empty cell."""
    shown, open_ = Estimate(value=0.1, low=0.05, high=0.15), Estimate(value=0.1, low=-0.05, high=0.25)
    assert 'fill="#178a96"' in interval_cell(shown, 0.3)
    assert 'fill="#178a96"' not in interval_cell(open_, 0.3)
    assert 'aria-hidden="true"' in interval_cell(shown, 0.3)
    assert interval_cell(None, 0.3) == ""


def test_the_common_scale_leaves_out_the_widest() -> None:
    """One row without any rows to speak of does not press the others together; no rows have a scale, too."""
    assert (
        common_extent(
            [*(Estimate(value=0, low=-0.1, high=0.1) for _ in range(19)), Estimate(value=0, low=-0.9, high=0.9), None]
        )
        == 0.1
    )
    assert common_extent([None]) == 1.0


def test_candidates_stand_in_the_order_of_their_nll() -> None:
    """The best first and furthest to the left, by the letters of the table; what is served is bold, names stay text."""
    candidates = [
        candidate(name, nll, status="finished" if name != "stopped" else "eliminated")
        for name, nll in {"a <b>": 0.5, "x" * 90: 0.4, "stopped": 0.6}.items()
    ]
    made = example()[0].changed(
        candidates=(*candidates, candidate("skipped", None, status="skipped")), recipe={"winner": {"name": "a <b>"}}
    )
    root = ET.fromstring(race_svg(made) or "")
    told = [one.text for one in root.iter(f"{SVG}text")]
    assert [text for text in told if len(text or "") == 1] == ["B", "A", "C"]
    assert [one.text for one in root.iter(f"{SVG}text") if one.get("font-weight")] == ["Candidates", "A"]
    marks = list(root.iter(f"{SVG}circle"))
    assert [title.text for one in marks for title in one] == [f"{'x' * 90}: 0.4000", "a <b>: 0.5000", "stopped: 0.6000"]
    assert [float(one.get("cx", 0)) for one in marks] == sorted(float(one.get("cx", 0)) for one in marks)
    assert [one.get("fill") == "#ffffff" for one in marks] == [False, False, True]


def test_one_candidate_is_no_race() -> None:
    """Without two scores there is nothing to compare."""
    assert race_svg(example()[0].changed(candidates=())) is None
    assert race_svg(example()[0].changed(candidates=(candidate("a", 0.4),))) is None


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
