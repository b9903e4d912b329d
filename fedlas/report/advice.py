"""Advice: what is served in a few words, what that says of itself and how often it is right, and the next step."""

from __future__ import annotations

from fedlas.gate.claims import MOST_ROWS_NEEDED
from fedlas.gate.sentences import FINALIST_NAMES
from fedlas.report.document import CalibrationReport
from fedlas.report.sentences import says_and_is_right
from fedlas.report.wording import direction

#: The verdict in a few words.
_TITLES = {
    "trained": "Fine-tuned model served",
    "post_hoc": "Calibrator served",
    "unchanged": "Nothing changed",
    "undetermined": "Undetermined",
}
#: Where chance explains a wider gap, more rows are the next step: 2 points are left by 1,500 rows that are right on
#: 90 % and as many calibration rows.
MAX_CHANCE = 0.02
#: Errors of the served and the uploaded model with a larger ratio are those of the calibration rows: few of them.
_MOSTLY_FITTED = 2.0


def headline(report: CalibrationReport) -> str:
    """The verdict, and what is proven of it, in a few words."""
    claim = report.gate.served_claim
    beaten = () if claim is None or not report.promoted else claim.beaten
    than = "" if report.shown else " than the upload"
    better = f", shown to be better{than}" if report.promoted and (report.shown or "uploaded" in beaten) else ""
    gap = report.confidence_gap["calibrated"].test
    off = report.promoted and gap.beyond_chance
    apart = f"; {100 * abs(gap.gap):.1f} points {direction(gap.gap)}" if off else ""
    warned = "; see the warnings" if report.notices else ""
    return f"{_TITLES.get(report.verdict, report.verdict)}{better}{apart}{warned}"


def served_sentence(report: CalibrationReport) -> str:
    """The first sentence of a report: the served model, its mean confidence, and how often it is right."""
    rows = f"of the {report.num_test_rows:,} test rows"
    gap = report.confidence_gap["calibrated" if report.promoted else "uploaded"].test
    if report.verdict == "undetermined":
        return (
            f"Nothing is decided about the uploaded model: it says {100 * gap.mean_confidence:.1f} % and is right on "
            f"{100 * gap.accuracy:.1f} % {rows}, which it may have been trained on."
        )
    name = FINALIST_NAMES.get(report.gate.finalist or "uploaded", "a calibrator")
    kept = {"post_hoc": f"the uploaded model with {name}", "unchanged": f"{name} as it is"}
    return f"Served is {kept.get(report.verdict, name)}: it {says_and_is_right(gap, rows)}."


def next_step(report: CalibrationReport, apart: str | None = None) -> str:
    """The second sentence of a report: the one action that would help most now.

    Args:
        apart: why calibration and test rows do not look alike (`fedlas.report.caveats.splits_apart`).
    """
    gap = report.confidence_gap["calibrated" if report.promoted else "uploaded"].test
    sure, claim = report.confident_answers["calibrated"], report.gate.served_claim
    needed, aside = None if claim is None else claim.rows_needed, report.risk_coverage["calibrated"].set_aside
    if report.verdict == "undetermined":
        return (
            "Next: upload the dataset again with seen_by_model=no if the model saw none of the rows, or with a split "
            "column that marks as train the rows it was trained on."
        )
    if report.notices:
        return f"Next: look at what seems wrong. {report.warnings[0]}"
    if apart is not None:
        return f"Next: look at what seems wrong. {apart}"
    if report.gate.vetoes and not report.promoted:
        return _after_vetoes(report.recipe.get("request", {}).get("method", "auto"))
    if gap.beyond_chance:
        return (
            "Next: calibrate again with more calibration rows, and check that they and the test rows were drawn alike "
            "(same time, same source)."
        )
    if not sure.hold and sure.excess is not None:
        which = "" if sure.worst_class is None else f" with “{sure.worst_class}”"
        return (
            f"Next: do not act on the confidence alone where answers{which} are at least {sure.threshold:.0%} sure: "
            f"those are too sure by {100 * sure.excess:.1f} points."
        ).replace("% sure", " % sure")
    if report.promoted and needed is not None and needed <= MOST_ROWS_NEEDED:
        return (
            f"Next: judge on more rows. About {needed:,} test rows, {report.num_test_rows:,} now, would decide whether "
            "it is better."
        )
    if gap.chance > MAX_CHANCE:
        of_test_rows = report.confidence_gap["uploaded"].test.standard_error
        few = gap.standard_error > _MOSTLY_FITTED * of_test_rows
        which = "calibration" if few else "calibration and test" if report.promoted else "test"
        return f"Next: four times as many {which} rows would halve the ±{100 * gap.chance:.1f} points of chance."
    fewer = f"; for fewer errors, abstain below {aside.threshold:.3f}" if aside.share >= 0.005 else ""
    return f"Nothing is left to do{fewer}."


def _after_vetoes(method: str) -> str:
    """The next step where the test rows have vetoed everything that a method made."""
    if method != "auto":
        return f"Next: take method=auto, which pools what it makes. The test rows veto what {method} makes alone."
    return (
        "Next: check the labels of the calibration rows, and that they and the test rows were drawn alike (same time, "
        "same source): the test rows veto everything that was made of them."
    )
