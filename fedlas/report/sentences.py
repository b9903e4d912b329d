"""The sentences of a report about its numbers."""

from __future__ import annotations

from collections.abc import Mapping

from fedlas.gate.sentences import SCORE_NAMES
from fedlas.metrics import BinnedEstimate, Estimate
from fedlas.report.confident import confident_sentence
from fedlas.report.deployment import decision_sentence, priors_sentence
from fedlas.report.document import BinarySection, CalibrationReport, RiskCoverageSection
from fedlas.report.wording import as_sentence, percent

#: So many warnings stand at the front of the summary.
_FIRST = 3


def summary(report: CalibrationReport) -> list[str]:
    """The summary: what is served, what to check first, numbers, the rest."""
    confident = confident_sentence(report.confident_answers["calibrated"], report.num_test_rows)
    found = [
        *report.gate.sentences[:1],
        *report.warnings[:_FIRST],
        *report.gate.sentences[1:],
        *calibration_sentences(report),
        other_score_sentence(report),
        calibration_test_sentence(report),
        confident,
        abstaining(report.risk_coverage["calibrated"]),
        positive_sentence(report.binary) if report.binary else None,
        decision_sentence(report.decisions, report.num_test_rows),
        priors_sentence(report.class_priors),
        report.worst.class_,
        report.worst.slice,
        ledger_sentence(report),
        *(report.label_noise.sentences if report.label_noise else ()),
        report.parts.sentence if report.parts else None,
        report.loss_comparison.sentence if report.loss_comparison else None,
        *(report.diagnostics.sentences if report.diagnostics else ()),
        trained_rows_sentence(report.trained_rows),
        *report.warnings[_FIRST:],
        *(as_sentence(notice.message) for notice in report.adjustments),
        *report.notes,
    ]
    return [sentence for sentence in found if sentence]


def calibration_sentences(report: CalibrationReport) -> list[str]:
    """Scores of the uploaded and the served model, and how large an ECE chance alone makes."""
    before, after = report.metrics["uploaded"], report.metrics["calibrated"]
    ece = after["ece"]
    assert isinstance(ece, BinnedEstimate)
    if report.promoted:
        told = (
            f"On the test rows accuracy goes from {percent(before['accuracy'].value)} to "
            f"{percent(after['accuracy'].value)}, "
            f"NLL from {before['nll'].value:.3f} to {after['nll'].value:.3f}, "
            f"Brier from {before['brier'].value:.3f} to {after['brier'].value:.3f}, "
            f"ECE from {percent(before['ece'].value)} to {percent(ece.value)}."
        )
    else:
        told = (
            f"On the test rows the uploaded model has an accuracy of {percent(before['accuracy'].value)}, an NLL of "
            f"{before['nll'].value:.3f}, a Brier score of {before['brier'].value:.3f} and an ECE of "
            f"{percent(before['ece'].value)}."
        )
    return [
        told,
        "By chance alone, a perfectly calibrated model with the same confidences has an ECE of "
        f"{percent(ece.floor_low)} to {percent(ece.floor_high)} on as many rows.",
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


def calibration_test_sentence(report: CalibrationReport) -> str:
    """The result of the calibration test of the served model; not shown is not the same as absent."""
    whose = "uploaded" if report.verdict == "undetermined" else "served"
    limits = (
        ""
        if report.num_groups is None
        else " Rows of one group count as independent here, which overstates what is shown."
    )
    if report.calibration_test["calibrated"].p_value <= 1 - report.confidence_level:
        return f"Over all test rows the {whose} model's confidences are shown to be miscalibrated.{limits}"
    return (
        f"Over all test rows the {whose} model's confidences are not shown to be miscalibrated, which does not prove "
        f"them exact.{limits}"
    )


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


def positive_sentence(section: BinarySection) -> str:
    """Recall and calibration slope of the positive class in the served model."""
    served, name = section.calibrated, section.positive_class
    if served.recall is None:
        return f"No test row is “{name}”, so its recall is unknown."
    recall = f"The recall of “{name}” ({percent(served.prevalence, 2)} of the rows) is {percent(served.recall)}"
    if served.recall == 0:
        return f"{recall}: the model never answers “{name}” correctly, which accuracy alone hides."
    found = slope_finding(section)
    return f"{recall}; {found}." if found else f"{recall}."


def slope_finding(section: BinarySection) -> str | None:
    """What the calibration slope shows, without its figure; None where there is no slope."""
    slope = section.calibrated.slope
    if slope is None:
        return None
    if slope.low <= 1 <= slope.high:
        return "its probabilities are not shown to be too extreme or too cautious"
    kind = "too extreme (too near to 0 and 1)" if slope.value < 1 else "too cautious (not near enough to 0 and 1)"
    return f"its probabilities are {kind}"


def ledger_sentence(report: CalibrationReport) -> str | None:
    """That the test rows judge for the first time; where they do not, the gate's own sentences say so."""
    if report.ledger is None or report.ledger.before or report.verdict == "undetermined":
        return None
    return "These test rows judge for the first time."


def trained_rows_sentence(trained_rows: Mapping[str, int] | None) -> str | None:
    """Which rows the served network has been trained on, and what they are worth to a later job."""
    if not trained_rows:
        return None
    rows = " and ".join(f"{count:,} {split}" for split, count in trained_rows.items() if count)
    return f"The served network has been trained on the {rows} rows; a later job cannot calibrate or judge on them."
