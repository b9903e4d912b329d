"""The gate's verdict: what is served, what test rows show of it, and what they say against the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedlas.contract.report import GateGuard, GateVerdict
from fedlas.gate.guards import GUARD_NAMES

#: Where more rows than this would be needed, the report says "more than".
MAX_ROWS_NEEDED = 1_000_000
#: The line of finalists, each with the verdict that serves it; None, the uploaded model as it came, ends it.
VERDICTS: dict[str | None, str] = {
    "average": "trained",
    "trained": "trained",
    "post_hoc": "post_hoc",
    "same_labels": "post_hoc",
    None: "unchanged",
}
#: The finalists that rest on a fine-tuned network: one claim is made, for the first of them in line.
FINE_TUNED = ("average", "trained")


FINALIST_NAMES = {
    "uploaded": "the uploaded model",
    "same_labels": "a temperature",
    "post_hoc": "the post-hoc calibrator",
    "trained": "the fine-tuned model",
    "average": "the average with the fine-tuned model",
}
SCORE_NAMES = {"brier": "Brier score", "nll": "NLL"}

UNDETERMINED = (
    "Undetermined: it is unknown which rows the uploaded model was trained on, and rows it has seen can neither fit "
    "nor judge a calibrator. Upload the dataset again with seen_by_model=no if the model saw none of the rows, or with "
    "a split column that marks as train the rows it was trained on."
)


def sentences_of(verdict: GateVerdict, num_rows: int, class_names: Sequence[str] | None = None) -> tuple[str, ...]:
    """Sentences on the served model, every guard that failed or that chance excused, vetoes, and the ledger."""
    sentences = [_served(verdict, num_rows)]
    sentences += [text for guard in verdict.guards if (text := _guarded(guard, class_names))]
    sentences += [
        f"{_start(veto.finalist)} is shown to be worse than {FINALIST_NAMES[veto.against]}: "
        f"{SCORE_NAMES[veto.score or 'nll']} {veto.value:+.4f}, so it is not served."
        for veto in verdict.vetoes
        if veto.against is not None
    ]
    if all(claim.finalist not in FINE_TUNED for claim in verdict.claims):
        sentences.append(
            "No fine-tuned model was judged: none was trained, or none was good enough on calibration rows."
        )
    if verdict.looks_before > 0:
        times = "once" if verdict.looks_before == 1 else f"{verdict.looks_before} times"
        sentences.append(
            f"These test rows have judged {times} before. Each evaluation spends part of the permitted chance of a "
            "false claim, so that this one needs clearer differences than the first, or new test rows."
        )
    return tuple(sentences)


def without_files(verdict: GateVerdict, reasons: Mapping[str, str], num_rows: int) -> tuple[str, ...]:
    """The verdict's sentences where no file could be written of some finalists, so that another one is served."""
    return (
        _served(verdict, num_rows, written="It is the first in line that could be written. "),
        *(f"No file could be written of {FINALIST_NAMES[name]}: {why.rstrip('.')}." for name, why in reasons.items()),
        *verdict.sentences[1:],
    )


def _served(verdict: GateVerdict, num_rows: int, *, written: str = "") -> str:
    """The first sentence of a verdict: why something gave way, and what the test rows show of the served finalist."""
    if verdict.finalist is None:
        why = "no file could be written of what" if written else "the test rows veto everything that"
        return f"The uploaded model is served as it is: {why} was made of it."
    vetoed = "The test rows veto what comes before it in line. " if verdict.vetoes else ""
    return f"{written or vetoed}{_shown(verdict, num_rows)}"


def _shown(verdict: GateVerdict, num_rows: int) -> str:
    """Sentence on what the served model beats significantly, and how many rows would show the rest."""
    score, start = SCORE_NAMES[verdict.score], f"The {num_rows:,} test rows"
    claim, served = verdict.served_claim, FINALIST_NAMES[verdict.finalist or "uploaded"]
    if claim is None:
        return (
            f"{start} do not show {served} to be better ({score}): the one claim for fine-tuned models was made for "
            "the average that comes before it in line."
        )
    open_ = [one.against for one in claim.comparisons if one.against not in claim.beaten]
    beaten, others = (_all_of(names) for names in (claim.beaten, open_))
    if not others:
        return f"{start} show {served} to be better than {beaten} ({score})."
    found = f"show {served} to be better than {beaten} ({score}), but do" if beaten else "do"
    whom = "it" if beaten else served
    said = f"{start} {found} not show {whom} to be better than {others}{'' if beaten else f' ({score})'}"
    needed = claim.rows_needed
    if needed is None:
        worse = any(comparison.low > 0 for comparison in claim.comparisons)
        return f"{said}: they show it to be worse." if worse else f"{said}, nor to be worse."
    number = f"more than {MAX_ROWS_NEEDED:,}" if needed > MAX_ROWS_NEEDED else f"about {needed:,}"
    return f"{said}; if it is truly better by as much as they say, {number} test rows would show it with 80 % power."


def _all_of(finalists: Sequence[str]) -> str:
    *others, last = [FINALIST_NAMES[name] for name in finalists] or [""]
    return f"{', '.join(others)} and {last}" if others else last


def _guarded(guard: GateGuard, class_names: Sequence[str] | None) -> str:
    """Sentence on a guard that stopped a finalist, or let it pass beyond the limit by chance; else empty."""
    excused = guard.passed and guard.chance is not None and guard.value > guard.limit
    if guard.passed and not excused:
        return ""
    name = guard.class_index if class_names is None else f"“{class_names[guard.class_index or 0]}”"
    which = "" if guard.class_index is None else f" (class {name})"
    if guard.name == "rare_classes_recall_drop" and guard.chance is None:
        who = _start(guard.finalist)
        return f"{who} no longer finds a single row of a class that was found before{which}, so it is not served."
    found = f"{_start(guard.finalist)} {GUARD_NAMES[guard.name].replace(' (as a factor)', '')}{which}"
    beyond = f", by more than the {guard.limit:g} that is allowed" if guard.limit else ""
    return f"{found}{beyond}, but chance explains it." if excused else f"{found}{beyond}, so it is not served."


def _start(finalist: str) -> str:
    return FINALIST_NAMES[finalist].capitalize()
