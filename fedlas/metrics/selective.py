"""Selective classification: AURC, AUGRC and the risk-coverage curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlas.metrics.calibration_error import top_label
from fedlas.metrics.statistics import (
    Floats,
    Ints,
    check_count,
    check_groups,
    check_level,
    check_rows,
    effective_rows,
    wilson,
)


def aurc(probs: ArrayLike, targets: ArrayLike) -> float:
    """Mean over k = 1..N of the error rate among the k most confident rows (Geifman et al. 2019, arXiv 1805.08206).

    Rows of equal confidence count with the mean over all their orders, in closed form. Raises a ValueError as
    `accuracy` does.

    >>> aurc([[0.9, 0.1], [0.6, 0.4]], [0, 1])  # error rates 0 and 1/2
    0.25
    """
    rows, labels = check_rows(probs, targets)
    return float(RiskCoverage(rows, labels).areas(np.ones((1, len(rows)), dtype=np.int64))[0])


def augrc(probs: ArrayLike, targets: ArrayLike) -> float:
    """Area under the share of all rows that are answered *and* wrong, over coverage (Traub et al., arXiv 2407.01032).

    A row drawn at random sets the bar; AUGRC is the chance that another one clears it and is wrong: with accuracy a,
    `(1 − AUROC)·a·(1 − a) + (1 − a)²/2`, AUROC being that of the confidence for correctness. It lies in [0, 1/2] and,
    unlike AURC, is not ruled by the few most confident rows. Raises a ValueError as `accuracy` does.

    >>> augrc([[0.9, 0.1], [0.6, 0.4]], [0, 1])  # 0·1/4 + (1/2)²/2
    0.125
    """
    rows, labels = check_rows(probs, targets)
    return float(RiskCoverage(rows, labels).both(np.ones((1, len(rows)), dtype=np.int64))[0, 1])


@dataclass(frozen=True)
class RiskCoverageCurve:
    """The points of a risk-coverage diagram, (P,) each: answering down to `thresholds` answers `coverage` of the rows.

    `error_rate` of the answered rows is wrong; `low` and `high` bound it point by point, not all points together.
    """

    coverage: Floats
    thresholds: Floats
    error_rate: Floats
    low: Floats
    high: Floats


def risk_coverage_curve(
    probs: ArrayLike,
    targets: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    max_points: int = 200,
    confidence_level: float = 0.95,
) -> RiskCoverageCurve:
    """Error rate among the most confident rows, at up to `max_points` coverages of about equal steps, 1 the last.

    Rows of equal confidence are answered together or not at all. The band is Wilson's interval; rows of one group
    count as fewer (see `effective_rows`).

    Raises:
        ValueError: as `accuracy`, groups that are not (N,), or an option is out of range.

    >>> risk_coverage_curve([[0.9, 0.1], [0.6, 0.4]], [0, 1]).error_rate.tolist()
    [0.0, 0.5]
    """
    rows, labels = check_rows(probs, targets)
    ids, level = check_groups(groups, len(rows)), check_level(confidence_level)
    confidences, correct = top_label(rows, labels)
    order = np.argsort(-confidences, kind="stable")
    ordered = confidences[order]
    ends = np.append(np.flatnonzero(np.diff(ordered)), len(rows) - 1)
    # The tie at the end of which each wanted coverage is first reached.
    wanted = np.linspace(0, len(rows), min(check_count("max_points", max_points), len(ends)) + 1)[1:] - 1
    kept = ends[np.unique(np.searchsorted(ends, np.floor(wanted)))]
    answered, wrong = kept + 1, np.cumsum(1 - correct[order])[kept]
    counts = answered.astype(np.float64)
    if ids is not None:
        counts = np.array([effective_rows(1 - correct[order[:n]], ids[order[:n]]) for n in answered])
    low, high = wilson(wrong / answered, counts, level)
    return RiskCoverageCurve(answered / len(rows), ordered[kept], wrong / answered, low, high)


class RiskCoverage:
    """The order of N checked rows by confidence, ready to give AURC and AUGRC of many weighted resamples.

    An error at place k of n raises the error rates k..n, which adds (H(n) − H(k − 1))/n to their mean, H being the
    harmonic numbers. So only errors are summed. Rows of equal confidence share their places evenly. To AUGRC the same
    error adds (n − k + 1/2)/n².
    """

    def __init__(self, probs: Floats, targets: Ints) -> None:
        confidences, correct = top_label(probs, targets)
        self._order = np.argsort(-confidences, kind="stable")
        _, run = np.unique(-confidences[self._order], return_inverse=True)
        first = np.flatnonzero(np.diff(run, prepend=-1))
        last = np.append(first[1:], len(run)) - 1
        errors = np.flatnonzero(correct[self._order] == 0)
        runs, self._starts = np.unique(run[errors], return_index=True)
        self._errors, self._first, self._last = errors, first[runs], last[runs]

    def areas(self, counts: NDArray[np.int64]) -> Floats:
        """AURC (R,) of R resamples, given how often each holds every row (R, N)."""
        return self.both(counts)[:, 0]

    def both(self, counts: NDArray[np.int64]) -> Floats:
        """AURC and AUGRC (R, 2) of R resamples, given how often each holds every row (R, N)."""
        if len(self._errors) == 0:
            return np.zeros((len(counts), 2))
        ordered = counts[:, self._order]
        until = np.cumsum(ordered, axis=1)
        total = until[:, -1]
        wrong = np.add.reduceat(ordered[:, self._errors], self._starts, axis=1)
        high = until[:, self._last]
        places = high - (until[:, self._first] - ordered[:, self._first])
        # H(0..n), and the sums over k = 1..m of H(k − 1) for m = 0..n.
        harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, int(total.max()) + 1))])
        summed = np.concatenate([[0.0], np.cumsum(harmonic[:-1])])
        lost = places * harmonic[total][:, None] - (summed[high] - summed[high - places])
        share = wrong / np.maximum(places, 1)
        after = total[:, None] - high + places / 2
        return np.stack([(share * lost).sum(axis=1) / total, (wrong * after).sum(axis=1) / total**2], axis=1)
