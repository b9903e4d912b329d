"""The gate: finalists that were named beforehand are judged once on test rows; it knows no networks and no files.

Two claims are tested together: the post-hoc finalist beats the uploaded model, and the trained finalist beats both
(an intersection-union test: the larger of its two p-values counts). Both are one-sided tests of the mean paired
difference of one proper score, by the bootstrap of rows or of whole groups, and Holm's procedure keeps the chance of
any false claim under `1 - confidence_level`. Guards can only stop a promotion, never cause one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlas import metrics
from fedlas.errors import BadDataset
from fedlas.guards import GUARD_NAMES, Guard, Score, guard_finalist
from fedlas.metrics.bootstrap import resampled_means

Floats: TypeAlias = NDArray[np.float64]

MIN_TEST_ROWS = 10

_NAMES = {"uploaded": "the uploaded model", "post_hoc": "its post-hoc calibration", "trained": "the fine-tuned model"}


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
    """`finalist` beats everything in `comparisons`; `level` is what Holm's procedure allowed it."""

    finalist: str
    shown: bool
    p_value: float
    level: float
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True)
class Judgement:
    """The verdict (`trained`, `post_hoc`, `unchanged`, `undetermined`) and what it rests on."""

    verdict: str
    score: str
    claims: tuple[Claim, ...]
    guards: tuple[Guard, ...]
    sentences: tuple[str, ...]

    @property
    def promoted(self) -> bool:
        return self.verdict in ("trained", "post_hoc")

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**asdict(self), "promoted": self.promoted}


def judge(
    *,
    uploaded: ArrayLike,
    post_hoc: ArrayLike,
    trained: ArrayLike | None,
    targets: ArrayLike,
    groups: ArrayLike | None = None,
    provenance: str,
    score: Score = "brier",
    confidence_level: float = 0.95,
    max_accuracy_drop: float = 0.005,
    seed: int = 0,
    num_resamples: int = 2000,
) -> Judgement:
    """Judge the finalists' probabilities (N, K) on the test rows, targets (N,), once.

    Args:
        trained: None where no trained finalist was named; then there is one claim only.
        provenance: which rows the model has seen: `no`, `train_split`, or `unknown`, which makes all `undetermined`.
        max_accuracy_drop: how far a promoted model's accuracy may lie under the uploaded model's (point estimate).

    Raises:
        BadDataset: `split_too_small` with fewer than ten test rows.
        ValueError: shapes or options do not fit.
    """
    labels = np.asarray(targets)
    if provenance not in ("no", "train_split", "unknown"):
        raise ValueError(f"provenance must be 'no', 'train_split' or 'unknown', got {provenance!r}")
    if not 0.5 < confidence_level < 1:
        raise ValueError(f"confidence_level must lie in (0.5, 1), got {confidence_level!r}")
    if len(labels) < MIN_TEST_ROWS:
        raise BadDataset(
            "split_too_small", f"the split 'test' has {len(labels)} rows, at least {MIN_TEST_ROWS} are needed"
        )
    if provenance == "unknown":
        return Judgement("undetermined", score, (), (), (_UNDETERMINED,))
    probs = {"uploaded": np.asarray(uploaded, np.float64), "post_hoc": np.asarray(post_hoc, np.float64)}
    if trained is not None:
        probs["trained"] = np.asarray(trained, np.float64)
    claims = _claims(probs, labels, groups, score, 1 - confidence_level, seed, num_resamples)
    guards = [
        guard
        for finalist in list(probs)[1:]
        for guard in guard_finalist(
            finalist,
            probs,
            labels,
            groups,
            score=score,
            max_accuracy_drop=max_accuracy_drop,
            level=1 - confidence_level,
            seed=seed,
            num_resamples=num_resamples,
        )
    ]
    verdict = "unchanged"
    for claim in claims:  # post_hoc comes before trained, so the stronger claim has the last word
        if claim.shown and all(guard.passed for guard in guards if guard.finalist == claim.finalist):
            verdict = claim.finalist
    return Judgement(verdict, score, claims, tuple(guards), _sentences(verdict, claims, guards, score))


def _claims(
    probs: dict[str, Floats],
    targets: NDArray[np.int64],
    groups: ArrayLike | None,
    score: Score,
    level: float,
    seed: int,
    num_resamples: int,
) -> tuple[Claim, ...]:
    pairs = [("post_hoc", "uploaded")]
    if "trained" in probs:
        pairs += [("trained", "uploaded"), ("trained", "post_hoc")]
    rows = {name: metrics.row_scores(p, targets, score=score) for name, p in probs.items()}
    differences = np.stack([rows[name] - rows[against] for name, against in pairs], axis=1)
    draws = resampled_means(differences, groups=groups, num_resamples=num_resamples, seed=seed)
    # The draws count as one more that shows nothing, so that no p-value is ever 0.
    p_values = (1 + (draws >= 0).sum(axis=0)) / (1 + num_resamples)
    finalists = list(dict.fromkeys(name for name, _ in pairs))
    largest = [max(p for p, (name, _) in zip(p_values, pairs, strict=True) if name == f) for f in finalists]
    levels, shown = holm(largest, level)
    claims = []
    for i, finalist in enumerate(finalists):
        comparisons = tuple(
            _comparison(against, differences[:, j], draws[:, j], float(p_values[j]), levels[i])
            for j, (name, against) in enumerate(pairs)
            if name == finalist
        )
        claims.append(Claim(finalist, shown[i], float(largest[i]), levels[i], comparisons))
    return tuple(claims)


def _comparison(against: str, differences: Floats, draws: Floats, p_value: float, level: float) -> Comparison:
    low, high = np.quantile(draws, [level, 1 - level])
    return Comparison(against, float(differences.mean()), float(low), float(high), p_value)


def holm(p_values: Sequence[float], level: float) -> tuple[list[float], list[bool]]:
    """The level each claim is tested at and whether it is shown (Holm 1979): the smallest p first, at level / m.

    >>> holm([0.04, 0.01], 0.05)
    ([0.05, 0.025], [True, True])
    >>> holm([0.04, 0.03], 0.05)
    ([0.025, 0.025], [False, False])
    """
    levels, shown = [0.0] * len(p_values), [False] * len(p_values)
    open_still = True
    current = level / max(1, len(p_values))
    for rank, i in enumerate(np.argsort(p_values, kind="stable")):
        if open_still:
            current = level / (len(p_values) - rank)
            open_still = bool(p_values[i] <= current)
        levels[i], shown[i] = current, open_still
    return levels, shown


_UNDETERMINED = (
    "Undetermined: it is unknown which rows the uploaded model was trained on, and rows it has seen can neither fit "
    "nor judge a calibrator. Upload the dataset again with seen_by_model=no if the model saw none of the rows, or with "
    "a split column that marks as train the rows it was trained on."
)

_VERDICTS = {
    "trained": "The fine-tuned model is promoted: it beats the uploaded model and its post-hoc calibration.",
    "post_hoc": "The uploaded model is promoted with a post-hoc calibrator: that beats the model as it came.",
    "unchanged": "The uploaded model stays as it is: nothing was shown to be better without doing harm.",
}


def _sentences(verdict: str, claims: Sequence[Claim], guards: Sequence[Guard], score: str) -> tuple[str, ...]:
    sentences = [_VERDICTS[verdict]]
    for claim in claims:
        for c in claim.comparisons:
            sentences.append(
                f"{_NAMES[claim.finalist].capitalize()} against {_NAMES[c.against]}: {score} {c.value:+.4f} "
                f"({100 * (1 - 2 * claim.level):.4g} % interval {c.low:+.4f} to {c.high:+.4f}, p = {c.p_value:.4f}), "
                f"{'shown to be better' if c.p_value <= claim.level else 'not shown to be better'}."
            )
    for guard in guards:
        if not guard.passed:
            sentences.append(
                f"{_NAMES[guard.finalist].capitalize()} {GUARD_NAMES[guard.name]}: "
                f"{guard.value:.4f}, more than the {guard.limit:g} that is allowed, so it is not promoted."
            )
    if len(claims) == 1:
        sentences.append("No fine-tuned model beat it on the calibration rows, so none was judged.")
    return tuple(sentences)
