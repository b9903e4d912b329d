"""The report of a score as a picture and as a page: its figures are in them, and foreign words stay words."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

from fedlas.contract.scores import ScoreReport
from fedlas.scores.page import score_html, score_svg, thresholds

HOSTILE = "<script>alert('1')</script>\"&"
PROMISE = {
    "threshold": 7.5, "accepted_share": 0.6, "accepted_rows": 120, "errors": 2, "num_rows": 200, "max_error": 0.05,
    "sentence": f"Accept {HOSTILE}", "population": HOSTILE, "confidence": 0.95, "accepts": "higher", "slice": HOSTILE,
    "per_slice": [{"value": HOSTILE, "num_rows": 20, "reachable": 0.125, "more_labels": 1234}],
}  # fmt: skip


def report(**changes: Any) -> ScoreReport:
    """A report of 200 rows; all of its words are somebody's."""
    fields = {
        "promise": PROMISE, "verdict": "post_hoc", "summary": [HOSTILE, HOSTILE], "num_rows": 200, "num_right": 150,
        "outcomes": ["wrong", HOSTILE], "signals": [HOSTILE], "reference": "score", "valid_for": HOSTILE,
        "metrics": {"reference": {"nll": 0.5, "brier": 0.3}, "calibrated": {"nll": 0.4321, "brier": 0.2}},
        "curve": [{"score": s, "probability": s / 10, "low": s / 12, "high": 1.0} for s in (1.0, 9.0)],
        "level": 0.0375, "counts": [[9.0, 10, 0, 0.2589], [7.0, 140, 9, 0.1102], [1.0, 200, 50, 0.3051]], **changes,
    }  # fmt: skip
    return ScoreReport.model_validate(fields)


def test_a_page_has_the_figures_and_foreign_words_are_text() -> None:
    """Promise first, the promised threshold among the counted ones, slices, influence; one style, and nothing runs."""
    text = score_html(report(signals=["signal_a", HOSTILE], influence={"signal_a": 0.75, HOSTILE: 0.25}))
    for shown in (
        "96.25 %",
        "7.5 or above, promised",
        "60.0 %",
        "11.0 %",
        "do prove 12.5 %",
        "1,234 more",
        "0.7500",
        "0.4321",
    ):
        assert shown in text
    assert text.index("Accept &lt;script") < text.index("<svg") < text.index("A few thresholds")
    assert ("<script" in text, "style=" in text, text.count("<style>")) == (False, False, 1)


def test_a_threshold_is_drawn_to_scale() -> None:
    """The threshold lies where the axis has its score, with its share; without a promise none is drawn."""
    drawn = score_svg(report())
    at = f"{64 + 460 * (7.5 - 1) / 8:.1f}"
    assert [one.get("stroke-width") for one in ET.fromstring(drawn) if one.get("x1") == at == one.get("x2")] == ["1.8"]
    assert "7.5: 60.0 % accepted" in drawn
    none = {**PROMISE, **dict.fromkeys(("threshold", "accepted_share", "accepted_rows", "errors"))}
    bare = report(promise=none, curve=[{"score": 3.0, "probability": 0.5, "low": 0.0, "high": 1.0}])
    assert " accepted</text>" not in score_svg(bare) + score_html(bare.changed(counts=[]))
    assert not any(one["promised"] for one in thresholds(bare))
