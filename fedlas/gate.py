"""The gate: finalists that were named beforehand are judged once on test rows; it knows no networks and no files.

Two claims are tested together: the post-hoc finalist beats the uploaded model, and the trained finalist beats both
(an intersection-union test: the larger of its two p-values counts). Both are one-sided tests of the mean paired
difference of one proper score, by the bootstrap of rows or of whole groups, and Holm's procedure keeps the chance of
any false claim under `1 - confidence_level`. Guards can only stop a promotion, never cause one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlas import metrics
from fedlas.errors import BadDataset
from fedlas.metrics.bootstrap import Units

Score: TypeAlias = Literal["brier", "nll"]
Floats: TypeAlias = NDArray[np.float64]

MIN_TEST_ROWS = 10
#: AURC of a promoted model may be worse by this much (a point estimate).
MAX_AURC_RISE = 0.005
#: No class with at least so many test rows may lose more recall than this, beyond chance (sign test at this level).
MIN_CLASS_ROWS, MAX_RECALL_DROP, RECALL_LEVEL = 50, 0.05, 0.01

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
class Guard:
    """One thing that a promoted finalist may not worsen beyond `limit`."""

    name: str
    finalist: str
    passed: bool
    value: float
    limit: float


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
    guards = [guard for name in list(probs)[1:] for guard in _guards(name, probs, labels, max_accuracy_drop)]
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
    draws = _bootstrap_means(differences, groups, seed, num_resamples)
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


def _bootstrap_means(differences: Floats, groups: ArrayLike | None, seed: int, num_resamples: int) -> Floats:
    """Means (R, M) of row differences (N, M) over R resamples, the same resamples for all M."""
    members = None if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    units = Units(members, len(differences))
    sums = units.sums(differences)
    return np.concatenate([units.means(counts, sums) for counts in units.resamples(num_resamples, seed)])


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


def _guards(
    finalist: str, probs: dict[str, Floats], targets: NDArray[np.int64], max_accuracy_drop: float
) -> list[Guard]:
    before, after = probs["uploaded"], probs[finalist]
    drop = metrics.accuracy(before, targets) - metrics.accuracy(after, targets)
    rise = metrics.aurc(after, targets) - metrics.aurc(before, targets)
    worst = _worst_recall_drop(before, after, targets)
    limits = (
        ("accuracy_drop", drop, max_accuracy_drop),
        ("aurc_rise", rise, MAX_AURC_RISE),
        ("worst_class_recall_drop", worst, MAX_RECALL_DROP),
    )
    # Shares of N rows are compared with a decimal limit: the tiny term keeps an exact tie on the right side.
    return [Guard(name, finalist, value <= limit + 1e-12, float(value), limit) for name, value, limit in limits]


def _worst_recall_drop(before: Floats, after: Floats, targets: NDArray[np.int64]) -> float:
    """The largest loss of recall among the classes with enough rows whose loss is more than chance, else 0.

    Without the test of chance the guard would stop every second harmless promotion: among ten classes of 100 rows
    some class loses five points by luck alone.
    """
    counts = np.bincount(targets, minlength=before.shape[1])
    was_right, is_right = (p.argmax(axis=1) == targets for p in (before, after))
    lost = np.bincount(targets[was_right & ~is_right], minlength=len(counts))
    won = np.bincount(targets[is_right & ~was_right], minlength=len(counts))
    drops = [
        float((lost[k] - won[k]) / counts[k])
        for k in np.flatnonzero((counts >= MIN_CLASS_ROWS) & (lost > won))
        if _chance_of_losing(int(lost[k]), int(won[k])) <= RECALL_LEVEL
    ]
    return max(drops, default=0.0)


def _chance_of_losing(lost: int, won: int) -> float:
    """One-sided exact sign test (McNemar): the chance of at least so many losses if both were equally likely.

    >>> _chance_of_losing(3, 0)
    0.125
    """
    changed = lost + won
    if changed > 2000:  # the normal limit, where exact sums would grow slow
        return 0.5 * math.erfc((lost - won - 1) / math.sqrt(2 * changed))
    return float(sum(math.comb(changed, k) for k in range(lost, changed + 1)) / 2**changed)


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
_GUARD_NAMES = {
    "accuracy_drop": "loses accuracy",
    "aurc_rise": "ranks its confidences worse (AURC)",
    "worst_class_recall_drop": "loses recall in one class",
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
                f"{_NAMES[guard.finalist].capitalize()} {_GUARD_NAMES[guard.name]}: "
                f"{guard.value:.4f}, more than the {guard.limit:g} that is allowed, so it is not promoted."
            )
    if len(claims) == 1:
        sentences.append("No fine-tuned model beat it on the calibration rows, so none was judged.")
    return tuple(sentences)
