"""The summary: sentences about the numbers of a report, its headline, the next step, and what was not shown."""

from __future__ import annotations

from collections.abc import Mapping

from fedlas.contract.figures import ConfidenceGap, Estimate, RiskCoverage
from fedlas.contract.profiles import ModelPromise
from fedlas.contract.report import Report
from fedlas.contract.sections import BinarySection
from fedlas.gate.gate import FINALIST_NAMES, MAX_ROWS_NEEDED, SCORE_NAMES
from fedlas.report.deployment import decision_sentence, priors_sentence
from fedlas.report.number_words import as_sentence, direction, letter, percent, signed
from fedlas.report.sections import confident_sentence

_FIRST = 3
#: The error rate of the promise that a report opens with.
_PROMISED = 0.05


def summary(report: Report) -> list[str]:
    """The summary: what is served and the next step, the promise, what to check first, numbers, the rest."""
    sentences = (
        *report.advice,
        report.promise.sentence if report.promise else None,
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
        *(report.signs.sentences if report.signs else ()),
        trained_rows_sentence(report.trained_rows),
        *report.warnings[_FIRST:],
        *(as_sentence(notice.message) for notice in report.adjustments),
        *report.notes,
    )
    return list(filter(None, sentences))


def says_and_is_right(gap: ConfidenceGap, rows: str) -> str:
    """Mean confidence and accuracy of a model in words; it is "too sure" only beyond chance.

    >>> gap = {"mean_confidence": 0.886, "accuracy": 0.927, "gap": -0.041, "standard_error": 0.008, "num_rows": 2000}
    >>> says_and_is_right(ConfidenceGap(**gap), "of the rows")
    'says 88.6 % and is right on 92.7 % of the rows: 4.1 points too cautious, more than the ±1.6 that chance explains'
    >>> says_and_is_right(ConfidenceGap(**gap | {"mean_confidence": 0.923, "gap": -0.004}), "of the rows")
    'says 92.3 % and is right on 92.7 % of the rows, within the ±1.6 points that chance explains'
    """
    told = f"{_says(gap)} {rows}"
    if not gap.beyond_chance:
        return f"{told}, within the ±{100 * gap.chance:.1f} points that chance explains"
    return (
        f"{told}: {100 * abs(gap.gap):.1f} points {direction(gap.gap)}, more than the ±{100 * gap.chance:.1f} that "
        "chance explains"
    )


def _says(gap: ConfidenceGap) -> str:
    return f"says {percent(gap.mean_confidence)} and is right on {percent(gap.accuracy)}"


def scores_sentence(report: Report) -> str:
    before, after = report.metrics["uploaded"], report.metrics["calibrated"]
    if report.serves == "calibrated":
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


def other_score_sentence(report: Report) -> str | None:
    """The proper score in which nothing is claimed, of the served model against the uploaded one."""
    if report.serves != "calibrated":
        return None
    name = "nll" if report.gate.score == "brier" else "brier"
    difference = report.differences.calibrated_minus_uploaded[name]
    assert isinstance(difference, Estimate)
    return (
        f"{SCORE_NAMES[name]} changed by {difference.value:+.4f} ({100 * report.confidence_level:g} % interval "
        f"{difference.low:+.4f} to {difference.high:+.4f}); the verdict rests on the {SCORE_NAMES[report.gate.score]}."
    )


def abstaining(curve: RiskCoverage) -> str:
    aside, everything = curve.set_aside, percent(float(curve.error_rate[-1]))
    rest = aside.error_rate
    if aside.share < 0.005:
        return f"The confidences are too similar to set rows aside; {everything} of all answers are wrong."
    return (
        f"If the {percent(aside.share, 0)} of rows with the lowest confidence (below {aside.threshold:.3f}) are left "
        f"to a person, {percent(rest.value)} ({percent(rest.low)} to {percent(rest.high)}) of the other answers are "
        f"wrong, against {everything} of all answers."
    )


def positive_sentence(section: BinarySection) -> str:
    served, name = section.calibrated, section.positive_class
    if served.recall is None:
        return f"No test row is “{name}”, so its recall is unknown."
    recall = f"The recall of “{name}” ({percent(served.prevalence, 2)} of the rows) is {percent(served.recall)}"
    if served.recall == 0:
        return f"{recall}: the model never answers “{name}” correctly, which accuracy alone hides."
    finding = slope_finding(section)
    return f"{recall}; {finding}." if finding else f"{recall}."


def slope_finding(section: BinarySection) -> str | None:
    """Finding of the calibration slope, without its figure; None where there is no slope."""
    slope = section.calibrated.slope
    if slope is None:
        return None
    if slope.low <= 1 <= slope.high:
        return "its probabilities are neither clearly too extreme nor clearly too cautious"
    kind = "too extreme (too near to 0 and 1)" if slope.value < 1 else "too cautious (not near enough to 0 and 1)"
    return f"its probabilities are {kind}"


def trained_rows_sentence(trained_rows: Mapping[str, int] | None) -> str | None:
    """The rows that the served network has been trained on, and their worth to a later job, in a sentence."""
    if not trained_rows:
        return None
    rows = " and ".join(f"{count:,} {split}" for split, count in trained_rows.items() if count)
    return f"The served network was trained on the {rows} rows; a later job cannot calibrate or judge on them."


#: Verdicts in a few words, on pages as in reports.
VERDICT_TITLES = {
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


def headline(report: Report) -> str:
    better = ", significantly better than the upload" if report.serves == "calibrated" and report.significant else ""
    gap = report.confidence_gap["calibrated"].test
    apart = (
        f"; {100 * abs(gap.gap):.1f} points {direction(gap.gap)}"
        if report.serves == "calibrated" and gap.beyond_chance
        else ""
    )
    warned = "; see the warnings" if report.notices else ""
    title = (
        "Calibrated already" if _is_calibrated_already(report) else VERDICT_TITLES.get(report.verdict, report.verdict)
    )
    return f"{title}{better}{apart}{warned}"


def served_sentence(report: Report) -> str:
    """The first sentence of a report: the served model, its mean confidence, and how often it is right."""
    rows = f"of the {report.num_test_rows:,} test rows"
    gap = report.confidence_gap["calibrated" if report.serves == "calibrated" else "uploaded"].test
    if report.verdict == "undetermined":
        return (
            f"Nothing is decided about the uploaded model: it {_says(gap)} {rows}, which it may have been trained on."
        )
    return f"Served: {_served(report)}. It {says_and_is_right(gap, rows)}."


def _is_calibrated_already(report: Report) -> bool:
    """True if the calibration rows prefer the upload's own probabilities to every calibrator."""
    return report.gate.finalist == "post_hoc" and (report.recipe.get("calibrator") or {}).get("name") == "identity"


def _served(report: Report) -> str:
    if _is_calibrated_already(report):
        return "the uploaded model with its own probabilities"
    name = FINALIST_NAMES.get(report.gate.finalist or "uploaded", "a calibrator")
    kept = {"post_hoc": f"the uploaded model with {name}", "unchanged": f"{name} as it is"}
    return kept.get(report.verdict, name)


def verdict_sentence(report: Report) -> str:
    """The verdict for somebody who reads nothing else: what is served, whether it is better, and how sure that is."""
    if report.verdict == "undetermined":
        return (
            "Nothing is decided: the uploaded model may have been trained on the test rows, which then say nothing "
            "about new ones."
        )
    if report.serves != "calibrated":
        return next(iter(report.gate.sentences), f"Served is {_served(report)}.")
    if _is_calibrated_already(report):
        return f"Served is {_served(report)}: no calibrator is better on the calibration rows."
    rows = f"{report.num_test_rows:,} test rows"
    if not report.significant:
        return (
            f"Served is {_served(report)}: the calibration rows prefer it, but {rows} do not decide whether it is "
            "better than the uploaded model."
        )
    score = report.gate.score
    before, after = report.metrics["uploaded"][score].value, report.metrics["calibrated"][score].value
    rest = {
        None: "",
        True: " It is better than every simpler calibrator, too.",
        False: " Whether it is better than every simpler calibrator, too, they leave open.",
    }
    return (
        f"Served is {_served(report)}: on {rows} it is significantly better than the uploaded model "
        f"({SCORE_NAMES[score]} {before:.3f} → {after:.3f}, lower is better).{rest[report.beats_simpler]}"
    )


def promise_sentence(report: Report) -> str:
    """The promise that answers may be accepted by, or the reason why there is none."""
    if report.promise is not None:
        return report.promise.sentence
    if report.serves != "calibrated":
        return "None: the uploaded model is served unchanged, and thresholds are made for calibrated models only."
    table = report.guarantees
    if table is None:
        return "None: a threshold needs guarantee rows, and the dataset has none."
    row = next((row for row in table.max_error if row.level == _PROMISED), None)
    if row is not None and row.threshold is not None:  # a report from before promises were written into it
        kept = ModelPromise(max_error=_PROMISED, confidence=1 - table.delta, threshold=row.threshold)
        return kept.sentence
    least = None if row is None else row.reachable
    reach = "" if least is None else f"; the lowest share that they allow is {percent(least)}"
    return f"None of at most {percent(_PROMISED, 0)} wrong: {table.num_rows:,} guarantee rows are too few{reach}."


def trust_sentence(report: Report) -> str:
    """The sentence that says whether the confidences of the served model may be trusted."""
    rows, sure = f"of the {report.num_test_rows:,} test rows", report.confident_answers["calibrated"]
    gap = report.confidence_gap["calibrated" if report.serves == "calibrated" else "uploaded"].test
    if report.verdict == "undetermined":
        return f"Unknown: the model {_says(gap)} {rows}, which it may have been trained on."
    said = says_and_is_right(gap, rows)
    if gap.beyond_chance:
        return f"Do not trust them as they are: on average the served model {said}."
    if not sure.hold and sure.excess is not None:
        which = "answers" if sure.worst_class is None else f"answers with “{sure.worst_class}”"
        return (
            f"Trust them on average only: the served model {said}, but {which} that are at least "
            f"{percent(sure.threshold, 0)} sure are too sure by {100 * sure.excess:.1f} points."
        )
    if gap.chance > MAX_CHANCE:
        return f"No fault was found, but the rows are few: on average the served model {said}."
    return f"Trust them on rows like the test rows: on average the served model {said}."


def gap_words(gap: ConfidenceGap, verdict: str) -> str:
    """The gap of a model in a cell of a table.

    >>> gap = {"mean_confidence": 0.886, "accuracy": 0.927, "gap": -0.041, "standard_error": 0.008, "num_rows": 2000}
    >>> gap_words(ConfidenceGap(**gap), "post_hoc")
    '4.1 points too cautious (chance: ±1.6)'
    >>> gap_words(ConfidenceGap(**gap | {"gap": -0.004}), "post_hoc")
    '0.4 points, within chance (±1.6)'
    """
    points = f"{100 * abs(gap.gap):.1f} points"
    if verdict == "undetermined":
        return points
    chance = f"±{100 * gap.chance:.1f}"
    if gap.beyond_chance:
        return f"{points} {direction(gap.gap)} (chance: {chance})"
    return f"{points}, within chance ({chance})"


def served_words(report: Report) -> dict[str, str]:
    """The candidates that are served, by name: alone, or as members of an average."""
    winner = report.recipe.get("winner")
    name = winner.get("name") if isinstance(winner, Mapping) else None
    for place, one in enumerate(report.candidates):
        if one.name == name:
            members = one.hyperparameters.get("members")
            inside = members if isinstance(members, list) else []
            return {**{str(member): f"served, in {letter(place)}" for member in inside}, one.name: "served"}
    return {}


def next_step(report: Report, apart: str | None = None) -> str:
    """The second sentence of a report: the one action that would help most now."""
    gap = report.confidence_gap["calibrated" if report.serves == "calibrated" else "uploaded"].test
    sure, aside = report.confident_answers["calibrated"], report.risk_coverage["calibrated"].set_aside
    needed = next((claim.rows_needed for claim in report.gate.served_claims), None)
    if report.verdict == "undetermined":
        return (
            "Next: upload the dataset again with seen_by_model=no if the model saw none of the rows, or with a split "
            "column that marks as train the rows it was trained on."
        )
    if report.notices:
        return f"Next: check this warning. {report.warnings[0]}"
    if apart is not None:
        return f"Next: check this warning. {apart}"
    if report.gate.vetoes and report.serves != "calibrated":
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
    if report.serves == "calibrated" and needed is not None and needed <= MAX_ROWS_NEEDED:
        return (
            f"Next: judge on more rows. About {needed:,} test rows, {report.num_test_rows:,} now, would decide whether "
            "it is better than the uploaded model."
        )
    if gap.chance > MAX_CHANCE:
        few = gap.standard_error > _MOSTLY_FITTED * report.confidence_gap["uploaded"].test.standard_error
        which = "calibration" if few else "calibration and test" if report.serves == "calibrated" else "test"
        return f"Next: four times as many {which} rows would halve the ±{100 * gap.chance:.1f} points."
    left = f"Nothing more to do{'' if report.significant else f', but no gain is proven: {_unproven(report)}'}."
    if aside.share < 0.005:
        return left
    return (
        f"{left} For fewer errors, leave the {percent(aside.share, 0)} of rows below "
        f"{aside.threshold:.3f} to a person: {percent(aside.error_rate.value)} of the other test rows are wrong."
    )


def _unproven(report: Report) -> str:
    """The reason why test rows prove no gain, if more of them are no remedy."""
    if report.serves != "calibrated":
        return "the uploaded model is served as it is"
    if not report.gate.served_claims:
        return "the average was judged in the place of this model, and is not served"
    if report.gate.served_claims[0].rows_needed is None:
        return "on these test rows the uploaded model is no worse"
    return f"it is so small that more than {MAX_ROWS_NEEDED:,} test rows would be needed"


def _after_vetoes(method: str) -> str:
    if method != "auto":
        return f"Next: use method=auto, which averages several calibrators. What {method} made alone failed the checks."
    return (
        "Next: check the labels of the calibration rows, and that they and the test rows were drawn alike (same time, "
        "same source): whatever was fitted on them failed the checks on the test rows."
    )


def not_shown(report: Report) -> list[str]:
    """Sentences, each about one thing that is neither proven nor refuted; the last one holds for every report."""
    rows = "those of the dataset's test split" if report.subject and report.subject.dataset else "the test rows"
    exact = "That the confidences are exact: that chance explains their gap to the accuracy is less."
    return [
        *_claims(report),
        *_accuracy(report),
        *([] if report.confidence_gap["calibrated"].test.beyond_chance else [exact]),
        *_parts(report),
        f"That any figure holds for rows of another kind than {rows}: in another place, later, or chosen otherwise.",
    ]


def _claims(report: Report) -> list[str]:
    score = SCORE_NAMES[report.gate.score]
    return [
        f"That {FINALIST_NAMES[claim.finalist]} beats {FINALIST_NAMES[one.against]}: the difference in {score} lies "
        f"between {signed(one.low)} and {signed(one.high)}."
        for claim in report.gate.claims
        for one in claim.comparisons
        if one.p_value > claim.level
    ]


def _accuracy(report: Report) -> list[str]:
    difference = report.differences.calibrated_minus_uploaded["accuracy"]
    assert isinstance(difference, Estimate)
    if report.serves != "calibrated" or not difference.low <= 0 <= difference.high or difference.low == difference.high:
        return []
    between = f"{signed(100 * difference.low, 1)} and {signed(100 * difference.high, 1)} points"
    return [f"That accuracy changed, up or down: its difference to the uploaded model lies between {between}."]


def _parts(report: Report) -> list[str]:
    untested = [row for row in report.classes.rows if row.p_adjusted is None]
    few = sum(row.p_miscalibrated is None for row in report.slices.rows) if report.slices else 0
    told = (
        (len(untested), "classes in the table, which are predicted too seldom to be tested"),
        (few, "slices in the table, which have too few rows"),
    )
    return [f"Anything about {count:,} of the {parts}." for count, parts in told if count]
