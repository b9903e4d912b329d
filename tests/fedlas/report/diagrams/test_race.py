"""The race as a picture: candidates in order, hollow where they were scored on some folds alone."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

from fedlas.report.diagrams import race_svg
from tests.helpers.reports import example

SVG = "{http://www.w3.org/2000/svg}"


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
