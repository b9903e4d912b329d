"""Upper bounds of the error rate among confident rows, all valid together (Learn then Test)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedlas.guarantees.binomial import upper_bound
from fedlas.guarantees.quantiles import MARGIN
from fedlas.metrics._checks import Floats, Ints

Bools = NDArray[np.bool_]

#: More would allow a finer choice of threshold and make every bound wider (they share δ).
NUM_THRESHOLDS = 20


def rank_thresholds(confidences: Floats) -> Floats:
    """Just above the confidences at evenly spaced ranks, and 0, which answers everything."""
    ordered = np.sort(confidences)[::-1]
    ranks = len(ordered) * np.arange(1, NUM_THRESHOLDS) // NUM_THRESHOLDS
    return np.unique(np.append(np.round(ordered[ranks] + MARGIN, 9), 0.0))


def error_bounds(
    blocks: Ints, num_blocks: int, answered: Bools, wrong: Bools, groups: Ints | None, level: float
) -> Floats:
    """Upper bounds (num_blocks, M) of the error rate among the answered rows of each block, rounded up."""
    counts = [_counts(blocks, num_blocks, kept, wrong, groups) for kept in answered]
    errors, trials = (np.stack(part, axis=1) for part in zip(*counts, strict=True))
    bounds: Floats = np.minimum(1, np.ceil(1e6 * upper_bound(errors, trials, level)) / 1e6)
    return bounds


def _counts(blocks: Ints, num_blocks: int, kept: Bools, wrong: Bools, groups: Ints | None) -> tuple[Floats, Floats]:
    """Errors and rows of each block; effective numbers where rows have groups."""
    n = np.bincount(blocks[kept], minlength=num_blocks).astype(np.float64)
    e = np.bincount(blocks[kept & wrong], minlength=num_blocks).astype(np.float64)
    if groups is None:
        return e, n
    cells, cell = np.unique(np.stack([blocks[kept], groups[kept]]), axis=1, return_inverse=True)
    size = np.bincount(cell.ravel(), minlength=cells.shape[1]).astype(np.float64)
    bad = np.bincount(cell.ravel(), weights=wrong[kept], minlength=cells.shape[1])

    def total(values: Floats) -> Floats:
        sums: Floats = np.bincount(cells[0], weights=values, minlength=num_blocks).astype(np.float64)
        return sums

    rate = e / np.maximum(n, 1)
    effective = n**2 / np.maximum(total(size**2), 1)  # Kish
    scatter = total((bad - rate[cells[0]] * size) ** 2)  # (n · standard error of the rate)²
    seen = np.divide(rate * (1 - rate) * n**2, scatter, out=np.full(num_blocks, np.inf), where=scatter > 0)
    effective = np.minimum(effective, np.where(e > 0, seen, np.inf))
    return rate * effective, effective
