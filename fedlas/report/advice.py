"""Advice: what is served in a few words, and the recommendations that follow from it."""

from __future__ import annotations

from fedlas.report.confident import ConfidentSection, confident_sentence
from fedlas.report.document import CalibrationReport
from fedlas.report.sentences import abstaining, calibration_test_sentence
from fedlas.report.wording import percent

#: The verdict in a few words.
_TITLES = {
    "trained": "Fine-tuned model served",
    "post_hoc": "Calibrator served",
    "unchanged": "Nothing changed",
    "undetermined": "Undetermined",
}


def headline(report: CalibrationReport) -> str:
    """What is served, and what is shown of it, in a few words."""
    title = _TITLES.get(report.verdict, report.verdict)
    if not report.promoted:
        return title
    claim = report.gate.served_claim
    if report.shown:
        shown = "shown to be better"
    elif claim is not None and "uploaded" in claim.beaten:
        shown = "shown to be better than the upload, not than a calibrator alone"
    else:
        shown = "not shown to be better"
    sure = "" if report.confident_answers["calibrated"].hold else "; confident answers too sure"
    warned = "; see the warnings" if report.notices else ""
    return f"{title}, {shown}{sure}{warned}"


def verdict_sentence(report: CalibrationReport) -> str:
    """The verdict in one sentence: what is served, whether that is shown to be better, and what being sure is worth."""
    average = report.gate.finalist == "average"
    served = {
        "trained": "an average with the fine-tuned network" if average else "the fine-tuned network with a calibrator",
        "post_hoc": "the uploaded network with a calibrator on top",
        "unchanged": "the uploaded model as it is",
        "undetermined": "the uploaded model, about which nothing is decided",
    }.get(report.verdict, "a model")
    return f"Served is {served}{_whether_shown(report)}; {_being_sure(report.confident_answers['calibrated'])}."


def _whether_shown(report: CalibrationReport) -> str:
    if not report.promoted:
        return ""
    if report.shown:
        return ", which the test rows show to be better"
    claim = report.gate.served_claim
    if claim is not None and "uploaded" in claim.beaten:
        return ", which the test rows show to be better than the upload, though not than a calibrator alone"
    return ", which the test rows do not show to be better"


def _being_sure(section: ConfidentSection) -> str:
    """Whether the confident answers are as true as they say, in half a sentence."""
    if section.accuracy is None or section.mean_confidence is None:
        return f"none of its answers is as sure as {percent(section.threshold, 0)}"
    judged = "" if section.hold else ": they are too sure"
    return (
        f"of its confident answers (at least {percent(section.threshold, 0)} sure, {percent(section.mean_confidence)} "
        f"in the mean) {percent(section.accuracy)} are right{judged}"
    )


def _proof(report: CalibrationReport) -> str:
    if report.shown:
        return "The test rows show it to be better."
    claim = report.gate.served_claim
    if claim is not None and "uploaded" in claim.beaten:
        return "It is shown to be better than the uploaded model, though not than everything else that was tried."
    return "It is the better choice on the calibration rows, which the test rows do not prove."


def advice(report: CalibrationReport) -> tuple[str, ...]:
    """Which model to serve, whether its confidences can be relied on, and what abstaining gains."""
    average = report.gate.finalist == "average"
    tuned = "an average with the fine-tuned network" if average else "fine-tuned, with a calibrator on top"
    serve = {
        "trained": f"Serve the calibrated model: {tuned}. {_proof(report)}",
        "post_hoc": f"Serve the calibrated model: the uploaded network with a calibrator on top. {_proof(report)}",
        "unchanged": "Keep serving the uploaded model: nothing was clearly better without doing harm.",
        "undetermined": "This report supports no decision yet: it is unknown which rows the model was trained on.",
    }
    sure = report.confident_answers["calibrated"]
    too_sure = None if sure.hold else confident_sentence(sure, report.num_test_rows)
    return (
        serve.get(report.verdict, f"Verdict: {report.verdict}."),
        calibration_test_sentence(report),
        *(() if too_sure is None else (too_sure,)),
        abstaining(report.risk_coverage["calibrated"]),
    )
