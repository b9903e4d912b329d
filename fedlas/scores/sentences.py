"""Sentences for people: a promise, and whether the curve is better than its reference."""

from __future__ import annotations

from fedlas.contract.scores import MadeThreshold, ScorePromise, ScoreVerdict, WantedPromise
from fedlas.report.number_words import exact

_SLICES_SHOWN = 5
_BETTER = {
    "score": "the score itself, taken for a probability",
    "share": "saying the same share of every row",
    "best_signal": "the best signal alone",
}


def promised(made: MadeThreshold, wanted: WantedPromise, *, higher: bool, what: str) -> str:
    """The promise in sentences, or why there is none."""
    if made.threshold is not None and made.accepted_rows is not None:
        rows, errors, beyond = made.accepted_rows, made.errors or 0, "above" if higher else "below"
        seldom = int(1 / (1 - wanted.confidence) + 1e-6)
        kept = (
            f"need no review. Of such rows at most {100 * wanted.error:.4g} % are wrong: {errors:,} of your {rows:,} "
            f"were ({100 * errors / rows:.3g} %)."
            if wanted.recall is None
            else f"hold at least {100 * wanted.recall:.4g} % of the right rows."
        )
        return (
            f"{what} of {exact(made.threshold)} and {beyond} {kept} "
            f"About {100 * (made.accepted_share or 0):.3g} % of all rows qualify. "
            f"How sure: a sample as unlucky as to make this false comes up less than once in {seldom:,}."
        )
    if made.num_rows == 0:
        return (
            "No threshold: several signals are fitted on some groups and promised on others, and fewer than five came."
        )
    if wanted.recall is not None:
        return f"These labels do not prove that any threshold holds {100 * wanted.recall:.4g} % of the right rows."
    parts = [f"These labels do not prove {100 * wanted.error:.4g} % for any threshold, so that every row needs review."]
    return " ".join([*parts, *(f"{one[:1].upper()}{one[1:]}." for one in made.remedies)])


def by_slice(promise: ScorePromise) -> str:
    """The thresholds of the slices in one sentence, those with one first."""
    made = [one for one in promise.per_slice if one.threshold is not None]
    shown = [
        f"{one.value} {exact(one.threshold or 0)} ({100 * (one.accepted_share or 0):.3g} %)"
        for one in made[:_SLICES_SHOWN]
    ]
    left = len(promise.per_slice) - len(shown)
    others = [f"{left} {'others' if shown else 'slices'} in the table below"] if len(made) > len(shown) else []
    none = len(promise.per_slice) - len(made)
    parts = [*shown, *others, *([f"none for {none} of {len(promise.per_slice)}"] if none else [])]
    return f"By {promise.slice} (these hold together; the one above is a promise of its own): {', '.join(parts)}."


def population(what: str, rows: str, *, time: bool) -> str:
    """The rows that a promise speaks of, and what would break it."""
    later = " Time goes on: rows of later times need not be such rows." if time else ""
    return (
        f"It holds for rows that come the same way, with the same {what}, one {rows} independent of the next"
        f"{' (else name the column of their group)' if rows == 'row' else ''}, with your labels taken as true, and if "
        "you had fixed the number of labels beforehand: adding labels until a promise appears breaks it." + later
    )


def looked(looks: int, level: float) -> str:
    """The price of earlier looks at the same rows."""
    times = "once" if looks == 1 else f"{looks} times"
    return (
        f"These rows were judged {times} before. All looks share the permitted chance of a false promise, so that "
        f"this one may spend {100 * level:.2g} %, and promises less than the first."
    )


def stands(wanted: WantedPromise) -> str:
    """An earlier promise of the same rows is the answer."""
    wish = f"{100 * wanted.error:.4g} % errors" if wanted.recall is None else f"{100 * wanted.recall:.4g} % recall"
    return f"This was promised of the same rows before, and answers the wish of {wish} too."


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
