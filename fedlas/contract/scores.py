"""The shapes of one score or several signals: the promise that is wanted, the one that is made, and the report."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedlas.contract.base import OPEN, Document, Strict

ScoreVerdict = Literal["post_hoc", "unchanged", "undetermined"]


class WantedPromise(Strict):
    """The promise that a threshold is to keep: one of `max_error`, `precision` and `recall`."""

    max_error: float | None = Field(
        None, ge=1e-4, le=0.9999, description="At most this share of the accepted rows is wrong."
    )
    precision: float | None = Field(
        None, ge=1e-4, le=0.9999, description="At least this share of the accepted rows is right."
    )
    recall: float | None = Field(
        None, ge=1e-4, le=0.9999, description="At least this share of the right rows is accepted."
    )
    confidence: float = Field(0.95, ge=0.5, le=0.9999, description="The probability with which the promise is kept.")

    @model_validator(mode="after")
    def _one_is_wanted(self) -> Self:
        given = [name for name in ("max_error", "precision", "recall") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"one of max_error, precision and recall, found {', '.join(given)}")
        return self

    @property
    def error(self) -> float:
        """The share of accepted rows that may be wrong; 5 % where nothing is said."""
        if self.precision is not None:
            return 1 - self.precision
        return 0.05 if self.max_error is None else self.max_error


class MadeThreshold(Document):
    """The rows at or beyond a threshold; all null where none keeps the promise."""

    threshold: float | None = Field(None, description="The score from which on rows are accepted, itself included.")
    accepted_share: float | None = Field(None, description="The share of rows like these that is accepted.")
    accepted_rows: int | None = Field(None, description="The number of judged rows that it accepts.")
    errors: int | None = Field(None, description="The number of wrong ones among them.")
    num_rows: int = Field(description="The number of judged rows.")
    reachable: float | None = Field(
        None, description="Where there is no threshold: the smallest share of errors that could be promised."
    )
    more_labels: int | None = Field(
        None,
        description="If there is no threshold: about how many more labels would be enough; null if no number is known.",
    )

    @property
    def remedies(self) -> list[str]:
        """Ways out if there is no threshold: the share to ask for, and how many labels to add."""
        asked = "" if self.reachable is None else f"they do prove {100 * self.reachable:.3g} %: ask for that"
        labels = (
            ""
            if self.more_labels is None
            else f"about {self.more_labels:,} more labels would be enough four times in five"
        )
        return [one for one in (asked, labels) if one]


class SliceThreshold(MadeThreshold):
    value: str = Field(description="The value that the slice has here.")


class ScorePromise(MadeThreshold):
    """A threshold with a promise, or why there is none."""

    sentence: str = Field(description="The promise, or why there is none, in words.")
    population: str = Field(description="The rows that it speaks of.")
    max_error: float | None = Field(None, description="The share of accepted rows that may be wrong; null: a recall.")
    recall: float | None = Field(None, description="The share of right rows that is accepted.")
    confidence: float = Field(description="The probability with which it is kept.")
    accepts: Annotated[Literal["higher", "lower"], OPEN] = Field(
        description="`higher`: scores at or above the threshold are accepted; `lower`: those at or below it."
    )
    slice: str | None = Field(None, description="The column whose values have thresholds of their own.")
    per_slice: list[SliceThreshold] = Field(
        default_factory=list, description="A threshold for each value of the slice; all hold together."
    )

    def answers(self, *, max_error: float | None, recall: float | None, confidence: float) -> bool:
        """True if a promise is made that implies this one: no more errors, no less recall, as surely."""
        return (
            self.threshold is not None
            and (max_error is None or (self.max_error is not None and self.max_error <= max_error))
            and (recall is None or (self.recall is not None and self.recall >= recall))
            and self.confidence >= confidence
        )


class CurvePoint(Document):
    """The probability of being right at one score, with its band."""

    score: float = Field(description="The score, of several signals their probability.")
    probability: float = Field(description="The probability that such a row is right.")
    low: float = Field(description="The lower end of the band there.")
    high: float = Field(description="The upper end of the band there.")


class ScoreReport(Document):
    """The report of one score or several signals."""

    promise: ScorePromise = Field(description="The threshold, or why there is none.")
    verdict: Annotated[ScoreVerdict, OPEN] = Field(
        description="`post_hoc`: shown to be better than the reference; `unchanged`: nothing is to be gained; "
        "`undetermined`: too few rows to say."
    )
    summary: list[str] = Field(description="Sentences for people, the promise first.")
    needed_labels: int | None = Field(
        None, description="About how many more labels would settle an undetermined verdict."
    )
    num_rows: int = Field(description="The number of rows that were sent.")
    num_right: int = Field(description="The number of rows that are right.")
    outcomes: list[str] = Field(description="The words for wrong and right, in this order.")
    signals: list[str] = Field(description="The columns that were read.")
    influence: dict[str, float] | None = Field(
        None, description="Signal → by how much it moves the log-odds: the standard deviation of its part in the sum."
    )
    reference: Annotated[Literal["score", "share", "best_signal"], OPEN] = Field(
        description="`score`: the score itself as a probability; `share`: the share of right rows; `best_signal`."
    )
    metrics: dict[str, dict[str, float]] = Field(
        description="`reference` and `calibrated` → `nll` and `brier`, by cross-fitting."
    )
    curve: list[CurvePoint] = Field(description="The curve at its knots; of several signals over their pool.")
    band: float = Field(0.9, description="The confidence of the band.")
    counts: list[list[float]] = Field(
        default_factory=list,
        description="Score, accepted rows, errors and their bound at or beyond it, for a picture.",
    )
    valid_for: str | None = Field(None, description="The version of score, judge or prompt that it holds for.")
    looks: int = Field(0, description="How often these rows were judged before.")
    level: float = Field(0.05, description="The chance of a false promise that this look may spend; bounds have it.")
    seed: int = Field(0, description="The seed with which folds are drawn.")
    digests: dict[str, str] = Field(default_factory=dict, description="SHA-256 of what was sent, by name.")
    versions: dict[str, str] = Field(default_factory=dict, description="Versions of libraries, by their names.")


class ScoreServing(Document):
    """The part of a report that answers to new rows are made of."""

    signals: list[str] = Field(description="The inputs, in this order.")
    promise: ScorePromise
    knots: list[float] = Field(description="Scores (J,), of several signals their pool, ascending.")
    low: list[float] = Field(description="The lower ends (J,) of the band.")
    high: list[float] = Field(description="The upper ends (J,) of the band.")
    rising: bool = Field(True, description="False where the probability falls as the score grows.")
    valid_for: str | None = None
