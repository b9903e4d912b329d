"""AURC, the risk of answering only where confident; it knows confidences and errors, and no calibration."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedlas.metrics._checks import Floats, Ints, check_rows
from fedlas.metrics.binning import top_label


def aurc(probs: ArrayLike, targets: ArrayLike) -> float:
    """Mean over k = 1..N of the error rate among the k most confident rows (Geifman et al. 2019, arXiv 1805.08206).

    Rows of equal confidence count with the mean over all their orders, in closed form. Raises a ValueError as
    `accuracy` does.

    >>> aurc([[0.9, 0.1], [0.6, 0.4]], [0, 1])  # error rates 0 and 1/2
    0.25
    """
    rows, labels = check_rows(probs, targets)
    return float(RiskCoverage(rows, labels).areas(np.ones((1, len(rows)), dtype=np.int64))[0])


class RiskCoverage:
    """The order of N checked rows by confidence, ready to give the AURC of many weighted resamples.

    An error at place k of n raises the error rates k..n, which adds (H(n) − H(k − 1))/n to their mean, H being the
    harmonic numbers. So only errors are summed. Rows of equal confidence share their places evenly.
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
        ordered = counts[:, self._order]
        until = np.cumsum(ordered, axis=1)
        total = until[:, -1]
        if len(self._errors) == 0:
            return np.zeros(len(counts))
        wrong = np.add.reduceat(ordered[:, self._errors], self._starts, axis=1)
        high = until[:, self._last]
        places = high - (until[:, self._first] - ordered[:, self._first])
        harmonic, summed = _harmonic(int(total.max()))
        lost = places * harmonic[total][:, None] - (summed[high] - summed[high - places])
        share = wrong / np.maximum(places, 1)
        areas: Floats = (share * lost).sum(axis=1) / total
        return areas


def _harmonic(n: int) -> tuple[Floats, Floats]:
    """H(0..n), and the sums over k = 1..m of H(k − 1) for m = 0..n."""
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, n + 1))])
    return harmonic, np.concatenate([[0.0], np.cumsum(harmonic[:-1])])
