"""The sentences of a verdict: what is served, what test rows show of it, and what they say against the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedlas.gate.claims import FINE_TUNED, MOST_ROWS_NEEDED, Claim, Comparison, GateVerdict
from fedlas.gate.non_inferiority import GUARD_NAMES, Guard
from fedlas.gate.vetoes import Veto

#: The uploaded model and the finalists, as a sentence names them.
FINALIST_NAMES = {
    "uploaded": "the uploaded model",
    "same_labels": "the calibrator that keeps every label",
    "parametric": "the calibrator of the log-odds",
    "post_hoc": "the best post-hoc calibrator",
    "trained": "the fine-tuned model",
    "average": "the average with the fine-tuned model",
}
#: The proper scores, as a sentence names them.
SCORE_NAMES = {"brier": "Brier score", "nll": "NLL"}

UNDETERMINED = (
    "Undetermined: it is unknown which rows the uploaded model was trained on, and rows it has seen can neither fit "
    "nor judge a calibrator. Upload the dataset again with seen_by_model=no if the model saw none of the rows, or with "
    "a split column that marks as train the rows it was trained on."
)
_NO_GAIN = "on the calibration rows nothing was clearly better than it"
_ALL_STOPPED = "the test rows speak against everything that the calibration rows preferred to it"
_NOT_WRITTEN = "no file could be written of what the calibration rows preferred to it"


def sentences_of(verdict: GateVerdict, num_rows: int, class_names: Sequence[str] | None = None) -> tuple[str, ...]:
    """What is served and shown, every claim, every guard that failed or that chance excused, vetoes, and the ledger."""
    sentences = [_served(verdict, num_rows)]
    for claim in verdict.claims:
        sentences += [_compared(claim, comparison, verdict.score) for comparison in claim.comparisons]
    sentences += [text for guard in verdict.guards if (text := _guarded(guard, class_names))]
    sentences += [_worse(veto) for veto in verdict.vetoes if veto.against is not None]
    if all(claim.finalist not in FINE_TUNED for claim in verdict.claims):
        sentences.append(
            "No fine-tuned model was judged: none was trained, or none was good enough on calibration rows."
        )
    if verdict.evaluations_before > 0:
        sentences.append(_ledger(verdict))
    return tuple(sentences)


def without_files(verdict: GateVerdict, reasons: Mapping[str, str], num_rows: int) -> tuple[str, ...]:
    """The verdict's sentences where no file could be written of some finalists, so that another one is served.

    Args:
        reasons: why, by the names of those finalists.
    """
    gone = (
        f"No file could be written of {FINALIST_NAMES[name]}: {reason.rstrip('.')}." for name, reason in reasons.items()
    )
    return (_served(verdict, num_rows, written="of what could be written, "), *gone, *verdict.sentences[1:])


def _served(verdict: GateVerdict, num_rows: int, *, written: str = "") -> str:
    """What is served and why, and whether the test rows show it to be better."""
    if verdict.finalist is None:
        reason = _NOT_WRITTEN if written else _ALL_STOPPED if verdict.vetoes else _NO_GAIN
        if reason == _NO_GAIN and any(claim.shown for claim in verdict.claims):
            reason += ", whatever the test rows show: with more calibration rows it might be served"
        return f"The uploaded model is served as it is: {reason}."
    name = FINALIST_NAMES[verdict.finalist]
    served = name if verdict.finalist in FINE_TUNED else f"the uploaded model with {name}"
    among = written or ("of what the test rows do not speak against, " if verdict.vetoes else "")
    return f"Served is {served}: {among}the calibration rows prefer it. {_shown(verdict, num_rows)}"


def _shown(verdict: GateVerdict, num_rows: int) -> str:
    """Whether the test rows show what is served to be better, or how many would."""
    score = SCORE_NAMES[verdict.score]
    if verdict.shown:
        return f"The {num_rows:,} test rows show it to be better ({score})."
    start = f"The {num_rows:,} test rows do not show it to be better ({score})"
    claim = next((claim for claim in verdict.claims if claim.finalist == verdict.finalist), None)
    if claim is None:
        return f"{start}: the one claim for fine-tuned models was made for what the calibration rows prefer to it."
    needed = claim.rows_needed
    if needed is None:
        worse = any(comparison.low > 0 for comparison in claim.comparisons)
        return f"{start}: they show it to be worse." if worse else f"{start}, nor to be worse."
    number = f"more than {MOST_ROWS_NEEDED:,}" if needed > MOST_ROWS_NEEDED else f"about {needed:,}"
    return f"{start}; if it is truly better by as much as they say, {number} test rows would show it with 80 % power."


def _worse(veto: Veto) -> str:
    return (
        f"{_start(veto.finalist)} is shown to be worse than {FINALIST_NAMES[veto.against or 'uploaded']}: "
        f"{SCORE_NAMES[veto.score or 'nll']} {veto.value:+.4f} ({_p(veto.p_value or 0.0)}), so it is not served."
    )


def _compared(claim: Claim, c: Comparison, score: str) -> str:
    return (
        f"{_start(claim.finalist)} against {FINALIST_NAMES[c.against]}: {SCORE_NAMES[score]} {c.value:+z.4f} "
        f"({100 * (1 - 2 * claim.level):.4g} % interval {c.low:+z.4f} to {c.high:+z.4f}, {_p(c.p_value)}), "
        f"{'shown to be better' if c.p_value <= claim.level else 'not shown to be better'}."
    )


def _guarded(guard: Guard, class_names: Sequence[str] | None) -> str:
    """Why a guard stopped a finalist, or what it let pass although the figure is beyond the limit; else nothing."""
    chance = guard.chance if guard.value > guard.limit else None
    if guard.passed and chance is None:
        return ""
    which = "" if guard.class_index is None else f" (class {_class(guard.class_index, class_names)})"
    if guard.name == "rare_classes_recall_drop" and guard.chance is None:
        who = _start(guard.finalist)
        return f"{who} no longer finds a single row of a class that was found before{which}, so it is not served."
    range_ = "" if guard.low is None else f" (interval {guard.low:+z.4f} to {guard.high:+z.4f})"
    figure = f"{_start(guard.finalist)} {GUARD_NAMES[guard.name]}{which}: {guard.value:.4f}{range_}"
    if guard.passed and chance is not None:
        return f"{figure}, more than the {guard.limit:g} that is allowed, but chance explains it ({_p(chance)})."
    return f"{figure}, more than the {guard.limit:g} that is allowed, so it is not served."


def _class(index: int, class_names: Sequence[str] | None) -> str:
    return str(index) if class_names is None else f"“{class_names[index]}”"


def _ledger(verdict: GateVerdict) -> str:
    times = "once" if verdict.evaluations_before == 1 else f"{verdict.evaluations_before} times"
    return (
        f"These test rows have judged {times} before, and each evaluation spends part of the permitted chance of a "
        f"false claim: {100 * (verdict.level or 0):.3g} % is left for this one, which needs clearer differences or "
        "new test rows."
    )


def _p(value: float) -> str:
    return f"p = {value:.4f}" if value >= 1e-4 else "p < 0.0001"


def _start(finalist: str) -> str:
    """The name at the start of a sentence."""
    return FINALIST_NAMES[finalist].capitalize()
