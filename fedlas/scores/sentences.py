"""Sentences for people: a promise, and whether the curve is better than its reference."""

from __future__ import annotations

from fedlas.contract.scores import MadeThreshold, ScorePromise, ScoreVerdict, WantedPromise

_SLICES_SHOWN = 5
_BETTER = {
    "score": "the score itself, taken for a probability",
    "share": "saying the same share of every row",
    "best_signal": "the best signal alone",
}


def promised(made: MadeThreshold, wanted: WantedPromise, *, higher: bool, what: str) -> str:
    """The promise in one sentence, or why there is none."""
    sure = f"({100 * wanted.confidence:.4g} % confidence)"
    if made.threshold is not None and made.accepted_share is not None:
        at = f"where {what} is {made.threshold:.9g} {'or above' if higher else 'or below'}"
        share = f"that is {100 * made.accepted_share:.3g} % of rows like these"
        if wanted.recall is not None:
            return (
                f"Accept by itself {at}: at least {100 * wanted.recall:.4g} % of the right rows are among these "
                f"{sure}; {share}."
            )
        return f"Accept by itself {at}: at most {100 * wanted.error:.4g} % of these are wrong {sure}; {share}."
    if made.num_rows == 0:
        return (
            "No threshold: several signals are fitted on some groups and promised on others, and fewer than five came."
        )
    if wanted.recall is not None:
        return (
            f"No threshold holds {100 * wanted.recall:.4g} % of the right rows {sure}: too few of these rows are right."
        )
    parts = [f"No threshold keeps {100 * wanted.error:.4g} % {sure}: accept none of the rows by itself"]
    if made.reachable is not None:
        parts.append(f"{100 * made.reachable:.3g} % would be possible")
    if made.more_labels is not None:
        parts.append(f"about {made.more_labels:,} more labels would do")
    else:
        parts.append("these rows do not show that more labels would do, since as many of the best may be wrong")
    return "; ".join(parts) + "."


def by_slice(promise: ScorePromise) -> str:
    """The thresholds of the slices in one sentence, those with one first."""
    made = [one for one in promise.per_slice if one.threshold is not None]
    shown = [
        f"{one.value} {one.threshold:.9g} ({100 * (one.accepted_share or 0):.3g} %)" for one in made[:_SLICES_SHOWN]
    ]
    left = len(promise.per_slice) - len(shown)
    others = [f"{left} {'others' if shown else 'slices'} in the table below"] if len(made) > len(shown) else []
    none = len(promise.per_slice) - len(made)
    parts = [*shown, *others, *([f"none for {none} of {len(promise.per_slice)}"] if none else [])]
    return f"By {promise.slice}, all of them together: {', '.join(parts)}."


def looked(looks: int) -> str:
    """The price of earlier looks at the same rows."""
    times = "once" if looks == 1 else f"{looks} times"
    return f"These rows were judged {times} before, which is paid for: less is promised than at the first look."


def judged(verdict: ScoreVerdict, reference: str, needed_labels: int | None) -> str:
    """The sentence that says whether the probabilities are better than their reference."""
    than = _BETTER[reference]
    if verdict == "post_hoc":
        return f"The probabilities are better than {than}, as rows show that did not fit them."
    if verdict == "unchanged":
        return f"The probabilities are as good as {than}: nothing is to be gained."
    if needed_labels is None:
        return f"The probabilities are not seen to be better than {than}: undetermined."
    return (
        f"Too few rows to say whether the probabilities are better than {than}: undetermined; "
        f"about {needed_labels:,} more labels would do."
    )
