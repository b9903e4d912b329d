"""Interval plots: better is to the right, intervals stand where their numbers say.

The race as a picture: candidates in order, hollow where they were scored on some folds alone.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from fedlas.calibrators import softmax
from fedlas.metrics import Estimate
from fedlas.report.diagrams import common_extent, forest_svg, interval_cell, race_svg
from tests.helpers.drawn_rows import drawn_logits
from tests.helpers.reports import content, example, report

SVG = "{http://www.w3.org/2000/svg}"


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
    shown, open_ = Estimate(0.1, 0.05, 0.15), Estimate(0.1, -0.05, 0.25)
    assert 'fill="#178a96"' in interval_cell(shown, 0.3)
    assert 'fill="#178a96"' not in interval_cell(open_, 0.3)
    assert 'aria-hidden="true"' in interval_cell(shown, 0.3)
    assert interval_cell(None, 0.3) == ""


def test_the_common_scale_leaves_out_the_widest() -> None:
    """One row without any rows to speak of does not press the others together; no rows have a scale, too."""
    rows = [*(Estimate(0, -0.1, 0.1) for _ in range(19)), Estimate(0, -0.9, 0.9)]
    assert common_extent([*rows, None]) == 0.1
    assert common_extent([None]) == 1.0


def test_candidates_stand_in_the_order_of_their_nll() -> None:
    """The best first and furthest to the left; what was served is bold; names stay text and are cut where too long."""
    names = {"a <b>": 0.5, "x" * 90: 0.4, "stopped": 0.6}
    candidates = [
        {"name": name, "status": "finished" if name != "stopped" else "eliminated", "calibration": {"nll": nll}}
        for name, nll in names.items()
    ]
    made = replace(
        example()[0],
        candidates=(*candidates, {"name": "skipped", "status": "skipped", "calibration": None}),
        recipe={"winner": {"name": "a <b>"}},
    )
    root = ET.fromstring(race_svg(made) or "")
    told = [one.text for one in root.iter(f"{SVG}text")]
    assert [text for text in told if text in ("a <b>", "x" * 51 + "…", "stopped", "skipped")] == [
        "x" * 51 + "…",
        "a <b>",
        "stopped",
    ]
    bold = [one.text for one in root.iter(f"{SVG}text") if one.get("font-weight")]
    assert bold == ["The race", "a <b>"]
    marks = list(root.iter(f"{SVG}circle"))
    assert [float(one.get("cx", 0)) for one in marks] == sorted(float(one.get("cx", 0)) for one in marks)
    assert [one.get("fill") == "#ffffff" for one in marks] == [False, False, True]


def test_one_candidate_is_no_race() -> None:
    """Without two scores there is nothing to compare."""
    assert race_svg(replace(example()[0], candidates=())) is None
    assert race_svg(replace(example()[0], candidates=({"name": "a", "calibration": {"nll": 0.4}},))) is None
