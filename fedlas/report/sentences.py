"""The sentences of a report about its numbers."""

from __future__ import annotations

from collections.abc import Mapping

from fedlas.gate.sentences import SCORE_NAMES
from fedlas.metrics import BinnedEstimate, CalibrationTest, Estimate, SliceRow, SliceTable
from fedlas.report.confident import confident_sentence
from fedlas.report.deployment import decision_sentence, priors_sentence
from fedlas.report.document import (
    BinarySection,
    CalibrationReport,
    ClassTable,
    RiskCoverageSection,
    WorstParts,
)

#: Shares that differ by less than this are printed alike.
_UNSEEN = 5e-4


def percent(share: float | None, digits: int = 1) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def summary(report: CalibrationReport) -> list[str]:
    """The sentences between the verdict's and the notes: numbers first, then where not to trust them."""
    found = [
        *calibration_sentences(report),
        other_score_sentence(report),
        *report.advice[1:],
        positive_sentence(report.binary, report.confidence_level) if report.binary else None,
        decision_sentence(report.decisions, report.num_test_rows),
        priors_sentence(report.class_priors),
        report.worst.class_,
        report.worst.slice,
        # Where the rows have judged before, the gate's own sentences say so.
        None if report.ledger and report.ledger.before else ledger_sentence(report),
        *(report.label_noise.sentences if report.label_noise else ()),
        report.parts.sentence if report.parts else None,
        report.loss_comparison.sentence if report.loss_comparison else None,
        *(report.diagnostics.sentences if report.diagnostics else ()),
        trained_rows_sentence(report.trained_rows),
        *report.warnings,
    ]
    return [sentence for sentence in found if sentence]


def calibration_sentences(report: CalibrationReport) -> list[str]:
    before, after = report.metrics["uploaded"], report.metrics["calibrated"]
    ece = after["ece"]
    assert isinstance(ece, BinnedEstimate)
    inside = ece.value <= ece.floor_high + _UNSEEN
    rest = "what remains is within the noise" if inside else "some miscalibration remains"
    return [
        f"On the test rows accuracy goes from {percent(before['accuracy'].value)} to "
        f"{percent(after['accuracy'].value)}, "
        f"NLL from {before['nll'].value:.3f} to {after['nll'].value:.3f}, "
        f"Brier from {before['brier'].value:.3f} to {after['brier'].value:.3f}, "
        f"ECE from {percent(before['ece'].value)} to {percent(after['ece'].value)}.",
        f"A perfectly calibrated model with the same confidences has an ECE of {percent(ece.floor_low)} to "
        f"{percent(ece.floor_high)} on as many rows: {rest}.",
    ]


def other_score_sentence(report: CalibrationReport) -> str | None:
    """The proper score in which nothing is claimed, of the served model against the uploaded one."""
    if not report.promoted:
        return None
    name = "nll" if report.gate.score == "brier" else "brier"
    found = report.differences["calibrated_minus_uploaded"][name]
    assert isinstance(found, Estimate)
    return (
        f"{SCORE_NAMES[name]}, which is reported and not claimed: {found.value:+.4f} against the uploaded model "
        f"({100 * report.confidence_level:g} % interval {found.low:+.4f} to {found.high:+.4f})."
    )


def calibration_test_sentence(test: CalibrationTest, level: float, *, grouped: bool) -> str:
    """The result of the calibration test of the served model; not shown is not the same as absent."""
    p = f"p = {test.p_value:.3f}" if test.p_value >= 0.001 else "p < 0.001"
    limits = "; rows of one group count as independent here, so p is too small" if grouped else ""
    if test.p_value <= 1 - level:
        return f"Exact calibration is refuted on these rows ({p}{limits}): some error remains."
    return f"Exact calibration is not refuted on these rows ({p}{limits}), which does not prove it."


def abstaining(curve: RiskCoverageSection) -> str:
    aside, everything = curve.set_aside, percent(float(curve.error_rate[-1]))
    rest = aside.error_rate
    if aside.share < 0.005:
        return f"The confidences are too much alike to set rows aside; {everything} of all answers are wrong."
    return (
        f"If the {percent(aside.share, 0)} of rows with the lowest confidence (below {aside.threshold:.3f}) are left "
        f"to a person, {percent(rest.value)} ({percent(rest.low)} to {percent(rest.high)}) of the other answers are "
        f"wrong, against {everything} of all answers."
    )


def worst_parts(classes: ClassTable, slices: SliceTable | None, level: float) -> WorstParts:
    return WorstParts(worst_class(classes, level), worst_slice(slices, level))


def worst_class(section: ClassTable, level: float) -> str:
    """The class that is shown to be miscalibrated most where it is predicted."""
    row = next((row for row in section.rows if row.p_adjusted is not None), None)
    if row is None or row.p_adjusted is None or row.precision is None or row.gap is None:
        return "No class is predicted often enough to be tested."
    if row.p_adjusted > 1 - level:
        return "No class is shown to be miscalibrated where it is predicted (all tested together, Holm's correction)."
    return (
        f"Worst class: predictions of “{row.name}” have a mean confidence of {percent(row.mean_confidence)} and a "
        f"precision of {percent(row.precision.value)} ({row.num_predicted:,} rows, corrected {_p(row.p_adjusted)}): "
        f"{_direction(row.gap.value)}."
    )


def worst_slice(section: SliceTable | None, level: float) -> str | None:
    """The slice that is shown to be miscalibrated, or worse than the rest, most."""
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
        f"Worst slice: {row.column} = “{row.value}” ({row.num_rows:,} rows) has an accuracy of "
        f"{percent(row.accuracy.value)} and a mean confidence of {percent(row.mean_confidence)} "
        f"({_failings(row, 1 - level)})."
    )


def _failings(row: SliceRow, alpha: float) -> str:
    parts = []
    if row.p_miscalibrated is not None and row.p_miscalibrated <= alpha:
        parts.append(f"{_direction(row.gap.value)}, corrected {_p(row.p_miscalibrated)}")
    if row.p_worse is not None and row.p_worse <= alpha:
        parts.append(f"less accurate than the other rows, corrected {_p(row.p_worse)}")
    return "; ".join(parts)


def _p(value: float) -> str:
    return f"p = {value:.2g}" if value >= 1e-4 else "p < 0.0001"


def _direction(gap: float) -> str:
    return "overconfident" if gap > 0 else "underconfident"


def positive_sentence(section: BinarySection, level: float) -> str:
    """Recall and calibration slope of the positive class in the served model."""
    served, name = section.calibrated, section.positive_class
    if served.recall is None:
        return f"No test row is “{name}”, so its recall is unknown."
    recall = f"The recall of “{name}” ({percent(served.prevalence, 2)} of the rows) is {percent(served.recall)}"
    if served.recall == 0:
        return f"{recall}: the model never answers “{name}” correctly, which accuracy alone hides."
    slope = served.slope
    if slope is None:
        return f"{recall}."
    if slope.low <= 1 <= slope.high:
        return f"{recall}; its probabilities are not shown to be too extreme or too timid (slope {slope.value:.2f})."
    kind = "too extreme" if slope.value < 1 else "too timid"
    return f"{recall}; its probabilities are {kind} (calibration slope {slope.value:.2f}, 1 is right)."


def ledger_sentence(report: CalibrationReport) -> str | None:
    """How often the test rows had judged; None where they do not judge now."""
    if report.ledger is None or report.verdict == "undetermined":
        return None
    before = report.ledger.before
    if before == 0:
        return "These test rows had not judged before."
    times = "once" if before == 1 else f"{before} times"
    return f"These test rows had judged {times} before, which lowers the level of this evaluation."


def trained_rows_sentence(trained_rows: Mapping[str, int] | None) -> str | None:
    """Which rows the served network has been trained on, and what they are worth to a later job."""
    if not trained_rows:
        return None
    rows = " and ".join(f"{count:,} {split}" for split, count in trained_rows.items() if count)
    return f"The served network has been trained on the {rows} rows; a later job cannot calibrate or judge on them."


def _proof(report: CalibrationReport) -> str:
    if report.shown:
        return "It is shown to be better."
    return "It is the better choice on the calibration rows, which the test rows do not prove."


def advice(report: CalibrationReport) -> tuple[str, ...]:
    """Which model to serve, how well it is calibrated where it is sure and in all, and what abstaining gains."""
    average = report.gate.finalist == "average"
    tuned = "an average with the fine-tuned network" if average else "fine-tuned, with a calibrator on top"
    serve = {
        "trained": f"Serve the calibrated model: {tuned}. {_proof(report)}",
        "post_hoc": f"Serve the calibrated model: the uploaded network with a calibrator on top. {_proof(report)}",
        "unchanged": "Keep serving the uploaded model: nothing was clearly better without doing harm.",
        "undetermined": "This report supports no decision yet: it is unknown which rows the model was trained on.",
    }
    confident = confident_sentence(report.confident_answers["calibrated"], report.num_test_rows)
    served, grouped = report.confidence["calibrated"], report.num_groups is not None
    return (
        serve.get(report.verdict, f"Verdict: {report.verdict}."),
        f"{'The model to be served' if report.promoted else 'The model'} has a mean confidence of "
        f"{percent(served.mean_confidence)} and an accuracy of {percent(served.accuracy)}. "
        + calibration_test_sentence(report.calibration_test["calibrated"], report.confidence_level, grouped=grouped),
        *(() if confident is None else (confident,)),
        abstaining(report.risk_coverage["calibrated"]),
    )
