"""The sentences of a report about its numbers."""

from __future__ import annotations

from collections.abc import Mapping

from fedlas.gate.sentences import SCORE_NAMES
from fedlas.metrics import ConfidenceGap, Estimate
from fedlas.report.confident import confident_sentence
from fedlas.report.deployment import decision_sentence, priors_sentence
from fedlas.report.document import BinarySection, CalibrationReport, RiskCoverageSection
from fedlas.report.wording import as_sentence, direction, percent

#: So many warnings stand at the front of the summary.
_FIRST = 3


def summary(report: CalibrationReport) -> list[str]:
    """The summary: what is served and the next step, what to check first, numbers, the rest."""
    found = [
        *report.advice,
        *report.warnings[:_FIRST],
        *report.gate.sentences,
        scores_sentence(report),
        other_score_sentence(report),
        confident_sentence(report.confident_answers["calibrated"], report.num_test_rows),
        abstaining(report.risk_coverage["calibrated"]),
        positive_sentence(report.binary) if report.binary else None,
        decision_sentence(report.decisions, report.num_test_rows),
        priors_sentence(report.class_priors),
        report.worst.class_,
        report.worst.slice,
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


def says_and_is_right(gap: ConfidenceGap, rows: str) -> str:
    """What a model says in the mean and how often it is right; "too sure" is said only beyond chance.

    >>> says_and_is_right(ConfidenceGap(0.886, 0.927, -0.041, 0.008, 2000), "of the rows")
    'says 88.6 % and is right on 92.7 % of the rows: 4.1 points too cautious, more than the ±1.6 that chance explains'
    >>> says_and_is_right(ConfidenceGap(0.923, 0.927, -0.004, 0.008, 2000), "of the rows")
    'says 92.3 % and is right on 92.7 % of the rows, within the ±1.6 points of chance'
    """
    told = f"says {percent(gap.mean_confidence)} and is right on {percent(gap.accuracy)} {rows}"
    if not gap.beyond_chance:
        return f"{told}, within the ±{100 * gap.chance:.1f} points of chance"
    return (
        f"{told}: {100 * abs(gap.gap):.1f} points {direction(gap.gap)}, more than the ±{100 * gap.chance:.1f} that "
        "chance explains"
    )


def scores_sentence(report: CalibrationReport) -> str:
    """Accuracy and proper scores of the uploaded and the served model."""
    before, after = report.metrics["uploaded"], report.metrics["calibrated"]
    if report.promoted:
        was, now = percent(before["accuracy"].value), percent(after["accuracy"].value)
        return (
            f"On the test rows accuracy {f'stays at {now}' if was == now else f'goes from {was} to {now}'}, "
            f"NLL from {before['nll'].value:.3f} to {after['nll'].value:.3f}, "
            f"Brier from {before['brier'].value:.3f} to {after['brier'].value:.3f}."
        )
    return (
        f"On the test rows the uploaded model has an accuracy of {percent(before['accuracy'].value)}, an NLL of "
        f"{before['nll'].value:.3f} and a Brier score of {before['brier'].value:.3f}."
    )


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


def trained_rows_sentence(trained_rows: Mapping[str, int] | None) -> str | None:
    """Which rows the served network has been trained on, and what they are worth to a later job."""
    if not trained_rows:
        return None
    rows = " and ".join(f"{count:,} {split}" for split, count in trained_rows.items() if count)
    return f"The served network has been trained on the {rows} rows; a later job cannot calibrate or judge on them."
