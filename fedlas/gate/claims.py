"""The gate's verdict: what is served, what test rows show of it, and what they say against the others."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedlas.gate.non_inferiority import Guard
from fedlas.gate.vetoes import Veto

#: Where more rows than this would be needed, the report says "more than".
MOST_ROWS_NEEDED = 1_000_000

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

    @property
    def beaten(self) -> tuple[str, ...]:
        """What the finalist is shown to be better than."""
        return tuple(one.against for one in self.comparisons if one.p_value <= self.level)

    @property
    def not_beaten(self) -> tuple[str, ...]:
        """What it is not shown to be better than."""
        return tuple(one.against for one in self.comparisons if one.p_value > self.level)


@dataclass(frozen=True)
class GateVerdict:
    """The verdict says what is served (`trained`, `post_hoc`, `unchanged`, `undetermined`), `shown` what is proven.

    Attributes:
        claims, shown: what the test rows show, and whether they show the served finalist to be better.
        order: what may be served, in line, without what test rows veto; the uploaded model comes after all of them.
        finalist: the first in `order` (`average`, `trained`, `post_hoc`, `same_labels`), None for the uploaded model as
            it came.
        level: what this evaluation of the test split could spend, after `evaluations_before` earlier ones.
        promoted: whether something else than the uploaded model as it came is served.
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

    @property
    def served_claim(self) -> Claim | None:
        """The claim that was made for what is served, if there was one."""
        return next((claim for claim in self.claims if claim.finalist == self.finalist), None)

    def __post_init__(self) -> None:
        object.__setattr__(self, "promoted", self.verdict in ("trained", "post_hoc"))
        shown = any(claim.shown for claim in self.claims if claim.finalist == self.finalist)
        object.__setattr__(self, "shown", shown)
