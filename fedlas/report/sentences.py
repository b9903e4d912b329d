"""The numbers of a report in plain words, for somebody who has never heard of ECE; it computes nothing."""

from __future__ import annotations

from fedlas.metrics import BinnedEstimate, CalibrationTest, SliceRow, SliceTable
from fedlas.report.document import (
    BinarySection,
    CalibrationReport,
    ClassTable,
    ConfidenceSummary,
    RiskCoverageSection,
    WorstParts,
)

#: A share smaller than this is printed as 0.0 %: two that differ by less look the same.
_UNSEEN = 5e-4


def percent(share: float | None, digits: int = 1) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def summary(report: CalibrationReport) -> list[str]:
    """The sentences between the verdict's and the notes: numbers first, then where not to trust them."""
    found = [
        *calibration_sentences(report),
        *report.advice[1:],
        positive_sentence(report.binary, report.confidence_level) if report.binary else None,
        report.worst.class_,
        report.worst.slice,
        # Where the rows have judged before, the gate's own sentences say so.
        None if report.ledger and report.ledger.before else ledger_sentence(report),
        *(report.label_noise.sentences if report.label_noise else ()),
        *(report.diagnostics.sentences if report.diagnostics else ()),
        *report.warnings,
    ]
    return [sentence for sentence in found if sentence]


def calibration_sentences(report: CalibrationReport) -> list[str]:
    before, after = report.metrics["uploaded"], report.metrics["calibrated"]
    ece = after["ece"]
    assert isinstance(ece, BinnedEstimate)
    inside = ece.value <= ece.floor_high + _UNSEEN
    return [
        f"On the test rows accuracy goes from {percent(before['accuracy'].value)} to "
        f"{percent(after['accuracy'].value)}, "
        f"NLL from {before['nll'].value:.3f} to {after['nll'].value:.3f}, "
        f"Brier from {before['brier'].value:.3f} to {after['brier'].value:.3f}, "
        f"ECE from {percent(before['ece'].value)} to {percent(after['ece'].value)}.",
        f"A perfectly calibrated model with the same confidences would score an ECE of {percent(ece.floor_low)} to "
        f"{percent(ece.floor_high)} on so many rows, so "
        + ("what is left is within the noise." if inside else "some miscalibration is left."),
    ]


def test_sentence(test: CalibrationTest, level: float, *, grouped: bool) -> str:
    """What the calibration test of the served model says; not shown is not the same as absent."""
    p = f"p = {test.p_value:.3f}" if test.p_value >= 0.001 else "p < 0.001"
    limits = " (rows of one group count as independent here, so p is too small)" if grouped else ""
    if test.p_value <= 1 - level:
        return f"That its confidences are exact is refuted on these rows ({p}{limits}): some error is left."
    return f"These rows do not contradict that its confidences are exact ({p}{limits}), which does not prove it."


def says_and_is(confidence: ConfidenceSummary) -> str:
    return (
        f"says {percent(confidence.mean_confidence)} on average and is right {percent(confidence.accuracy)} of the time"
    )


def abstaining(curve: RiskCoverageSection) -> str:
    aside, everything = curve.set_aside, curve.error_rate[-1]
    rest = aside.error_rate
    if aside.share < 0.005:
        return (
            "Its confidences are too much alike to set some rows aside: answering everything, "
            f"{percent(everything)} are wrong."
        )
    return (
        f"If the {percent(aside.share, 0)} least sure (confidence below {aside.threshold:.3f}) are handed to a "
        "person, "
        f"{percent(rest.value)} of the rest are wrong ({percent(rest.low)} to {percent(rest.high)}); "
        "answering "
        f"everything, {percent(everything)}."
    )


def worst_parts(classes: ClassTable, slices: SliceTable | None, level: float) -> WorstParts:
    return WorstParts(worst_class(classes, level), worst_slice(slices, level))


def worst_class(section: ClassTable, level: float) -> str:
    """The class that is shown to be the least believable where it is predicted, or that none is."""
    row = next((row for row in section.rows if row.p_adjusted is not None), None)
    if row is None or row.p_adjusted is None or row.precision is None or row.gap is None:
        return "No class is predicted often enough to be tested."
    if row.p_adjusted > 1 - level:
        return (
            "No class is shown to be miscalibrated where it is predicted (all classes tested together, Holm's "
            "correction)."
        )
    return (
        f"Worst class: where it answers “{row.name}” it says {percent(row.mean_confidence)} and is right "
        f"{percent(row.precision.value)} of the time ({row.num_predicted:,} rows, corrected "
        f"{_p(row.p_adjusted)}): {_direction(row.gap.value)} there."
    )


def worst_slice(section: SliceTable | None, level: float) -> str | None:
    if section is None:
        return None
    if not section.rows:
        return "No column has slices that could be tested."
    row = section.rows[0]
    smallest = min((p for p in (row.p_miscalibrated, row.p_worse) if p is not None), default=None)
    if smallest is None:
        return "No slice has enough rows to be tested."
    if smallest > 1 - level:
        return (
            f"Of {section.num_slices} slices none is shown to be miscalibrated or worse than the rest (all tested "
            "together, Holm's correction)."
        )
    return (
        f"Worst slice: {row.column} = “{row.value}” ({row.num_rows:,} rows) is right "
        f"{percent(row.accuracy.value)} of the time and says {percent(row.mean_confidence)} "
        f"({_failings(row, 1 - level)})."
    )


def _failings(row: SliceRow, alpha: float) -> str:
    parts = []
    if row.p_miscalibrated is not None and row.p_miscalibrated <= alpha:
        parts.append(f"{_direction(row.gap.value)}, corrected {_p(row.p_miscalibrated)}")
    if row.p_worse is not None and row.p_worse <= alpha:
        parts.append(f"right less often than the other rows, corrected {_p(row.p_worse)}")
    return "; ".join(parts)


def _p(value: float) -> str:
    return f"p = {value:.2g}" if value >= 1e-4 else "p < 0.0001"


def _direction(gap: float) -> str:
    return "overconfident" if gap > 0 else "underconfident"


def positive_sentence(section: BinarySection, level: float) -> str:
    """How the served model treats the positive class."""
    served, name = section.calibrated, section.positive_class
    if served.recall is None:
        return f"No test row is “{name}”, so nothing is known about finding it."
    found = f"Of the rows that are “{name}” ({percent(served.prevalence, 2)} of all) it finds {percent(served.recall)}"
    if served.recall == 0:
        return f"{found}: it never answers “{name}” rightly. Accuracy alone would hide that."
    slope = served.slope
    if slope is None:
        return f"{found}."
    if slope.low <= 1 <= slope.high:
        return (
            f"{found}; its probabilities are neither shown to be too extreme nor too timid (slope {slope.value:.2f})."
        )
    kind = "too extreme" if slope.value < 1 else "too timid"
    return f"{found}; its probabilities are {kind} (calibration slope {slope.value:.2f}, 1 is right)."


def ledger_sentence(report: CalibrationReport) -> str | None:
    """How often the test rows have judged; nothing where they did not judge now."""
    if report.ledger is None or report.verdict == "undetermined":
        return None
    before = report.ledger.before
    if before == 0:
        return "These test rows had not judged before."
    times = "once" if before == 1 else f"{before} times"
    return f"These test rows had judged {times} before, and the gate was made stricter for it."


def advice(report: CalibrationReport) -> tuple[str, ...]:
    """What the reader should do: what to serve, how far to believe it, when to abstain."""
    serve = {
        "trained": "Serve the calibrated model: fine-tuned, with a calibrator on top.",
        "post_hoc": "Serve the calibrated model: the network as it was, with a calibrator on top.",
        "unchanged": "Keep serving the model that you sent: nothing was shown to be better without doing harm.",
        "undetermined": "Decide nothing on this report yet: it is unknown which rows the model was trained on.",
    }
    level = report.confidence_level
    served = report.confidence["calibrated"]
    return (
        serve.get(report.verdict, f"Verdict: {report.verdict}."),
        f"{'What would be served' if report.promoted else 'The model'} {says_and_is(served)}. "
        + test_sentence(report.calibration_test["calibrated"], level, grouped=report.num_groups is not None),
        abstaining(report.risk_coverage["calibrated"]),
    )
