"""The gate's verdict: claims, guards, and sentences about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fedlas.gate.non_inferiority import GUARD_NAMES, Guard
from fedlas.gate.vetoes import Veto

#: Where more rows than this would be needed, the report says "more than".
MOST_ROWS_NEEDED = 1_000_000

_NAMES = {
    "uploaded": "the uploaded model",
    "same_labels": "its calibration that keeps every label",
    "parametric": "its calibration of the log-odds",
    "post_hoc": "its post-hoc calibration",
    "trained": "the fine-tuned model",
}

#: The verdict that serves a finalist; None is the uploaded model as it came.
VERDICTS: dict[str | None, str] = {
    None: "unchanged",
    "same_labels": "post_hoc",
    "parametric": "post_hoc",
    "post_hoc": "post_hoc",
    "trained": "trained",
}


@dataclass(frozen=True)
class Comparison:
    """Mean score difference (negative is better) with the interval that matches the one-sided test."""

    against: str
    value: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class Claim:
    """`finalist` beats everything in `comparisons`; `level` is what Holm's procedure allowed it.

    `rows_needed`: test rows that would show the differences seen here at this level with 80 % power, capped at
    1,000,001 for "more than a million"; None where the claim is shown, or where a difference has the wrong sign.
    """

    finalist: str
    shown: bool
    p_value: float
    level: float
    comparisons: tuple[Comparison, ...]
    rows_needed: int | None = None


@dataclass(frozen=True)
class GateVerdict:
    """The verdict says what is served (`trained`, `post_hoc`, `unchanged`, `undetermined`), `shown` what is proven.

    Attributes:
        claims, shown: what the test rows show, and whether they show the served finalist to be better.
        order: what may be served, best first by calibration rows, without what test rows veto; the uploaded model
            comes after all of them.
        finalist: the first in `order` (`same_labels`, `parametric`, `post_hoc`, `trained`), None for the uploaded
            model as it came.
        level: what this evaluation of the test split could spend, after `evaluations_before` earlier ones.
        promoted: whether something else than the uploaded model as it came is served.

    `shown` is None in what release 0.1 wrote, which promoted only what was shown.
    """

    verdict: str
    score: str
    claims: tuple[Claim, ...]
    guards: tuple[Guard, ...]
    sentences: tuple[str, ...]
    evaluations_before: int = field(default=0, metadata={"key": "looks_before"})
    level: float | None = None
    order: tuple[str, ...] = ()
    vetoes: tuple[Veto, ...] = ()
    finalist: str | None = None
    shown: bool | None = field(init=False, default=None)
    promoted: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "promoted", self.verdict in ("trained", "post_hoc"))
        shown = any(claim.shown for claim in self.claims if claim.finalist == self.finalist)
        object.__setattr__(self, "shown", shown)


UNDETERMINED = (
    "Undetermined: it is unknown which rows the uploaded model was trained on, and rows it has seen can neither fit "
    "nor judge a calibrator. Upload the dataset again with seen_by_model=no if the model saw none of the rows, or with "
    "a split column that marks as train the rows it was trained on."
)

_SERVED = {
    "trained": "The fine-tuned model is served",
    "post_hoc": "The uploaded model is served with a post-hoc calibrator",
    "parametric": "The uploaded model is served with a calibrator of its log-odds",
    "same_labels": "The uploaded model is served with a calibrator that keeps every label",
}
_NO_GAIN = "on the calibration rows nothing was better than it by more than a standard error"
_ALL_STOPPED = "the test rows speak against everything that the calibration rows preferred"


def sentences_of(verdict: GateVerdict, num_rows: int, class_names: Sequence[str] | None = None) -> tuple[str, ...]:
    """The verdict, every claim, every guard that failed or that chance excused, and the evaluation ledger."""
    sentences = [_served(verdict, num_rows)]
    for claim in verdict.claims:
        sentences += [_compared(claim, comparison, verdict.score) for comparison in claim.comparisons]
        if claim.rows_needed is not None:
            sentences.append(_needed(claim, claim.rows_needed, num_rows))
    sentences += [text for guard in verdict.guards if (text := _guarded(guard, class_names))]
    sentences += [_worse(veto) for veto in verdict.vetoes if veto.against is not None]
    if all(claim.finalist != "trained" for claim in verdict.claims):
        sentences.append("No fine-tuned model beat it on the calibration rows, so none was judged.")
    if verdict.evaluations_before > 0:
        sentences.append(_ledger(verdict))
    return tuple(sentences)


def _served(verdict: GateVerdict, num_rows: int) -> str:
    """What is served and why, and whether the test rows show it to be better."""
    if verdict.finalist is None:
        return f"The uploaded model is served as it is: {_ALL_STOPPED if verdict.vetoes else _NO_GAIN}."
    shown = "show it to be better" if verdict.shown else "do not show it to be better, and nothing against it"
    return (
        f"{_SERVED[verdict.finalist]}: the calibration rows say that it is best, and the {num_rows:,} test rows "
        f"{shown} ({verdict.score})."
    )


def _worse(veto: Veto) -> str:
    return (
        f"{_NAMES[veto.finalist].capitalize()} is shown to be worse than {_NAMES[veto.against or 'uploaded']}: "
        f"nll {veto.value:+.4f} ({_p(veto.p_value or 0.0)}), so it is not served."
    )


def _compared(claim: Claim, c: Comparison, score: str) -> str:
    return (
        f"{_NAMES[claim.finalist].capitalize()} against {_NAMES[c.against]}: {score} {c.value:+.4f} "
        f"({100 * (1 - 2 * claim.level):.4g} % interval {c.low:+.4f} to {c.high:+.4f}, {_p(c.p_value)}), "
        f"{'shown to be better' if c.p_value <= claim.level else 'not shown to be better'}."
    )


def _needed(claim: Claim, rows: int, num_rows: int) -> str:
    number = f"more than {MOST_ROWS_NEEDED:,}" if rows > MOST_ROWS_NEEDED else f"about {rows:,}"
    return (
        f"If {_NAMES[claim.finalist]} is truly better by as much as these {num_rows:,} test rows say, "
        f"{number} test rows would be needed to show it with 80 % power."
    )


def _guarded(guard: Guard, class_names: Sequence[str] | None) -> str:
    """Why a guard stopped a finalist, or what it let pass although the figure is beyond the limit; else nothing."""
    chance = guard.chance if guard.value > guard.limit else None
    if guard.passed and chance is None:
        return ""
    which = "" if guard.class_index is None else f" (class {_class(guard.class_index, class_names)})"
    if guard.name == "rare_classes_recall_drop" and guard.chance is None:
        who = _NAMES[guard.finalist].capitalize()
        return f"{who} no longer finds a single row of a class that was found before{which}, so it is not served."
    range_ = "" if guard.low is None else f" (interval {guard.low:+.4f} to {guard.high:+.4f})"
    figure = f"{_NAMES[guard.finalist].capitalize()} {GUARD_NAMES[guard.name]}{which}: {guard.value:.4f}{range_}"
    if guard.passed and chance is not None:
        return f"{figure}, more than the {guard.limit:g} that is allowed, but chance explains it ({_p(chance)})."
    return f"{figure}, more than the {guard.limit:g} that is allowed, so it is not served."


def _class(index: int, class_names: Sequence[str] | None) -> str:
    return str(index) if class_names is None else f"“{class_names[index]}”"


def _ledger(verdict: GateVerdict) -> str:
    times = "once" if verdict.evaluations_before == 1 else f"{verdict.evaluations_before} times"
    return (
        f"These test rows have judged {times} before, and each evaluation spends part of the permitted chance of a "
        f"false promotion: {100 * (verdict.level or 0):.3g} % is left for this one, which needs clearer differences or "
        "new test rows."
    )


def _p(value: float) -> str:
    return f"p = {value:.4f}" if value >= 1e-4 else "p < 0.0001"
