"""The exact sign test (McNemar) of what the rows of a class lost, at a level that knows how many classes there are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedlas.gate.class_findings import Finding
from fedlas.metrics._checks import Floats, Ints
from fedlas.metrics.betting_intervals import BoundedMean

#: So many classes may be stopped by chance among all, and a class's level within these ends.
CHANCE_CLASSES, LEAST_LEVEL, MOST_LEVEL = 0.5, 0.01, 0.1


def sign_test_level(num_classes: int) -> float:
    """10 % for up to five classes, less for more, and 1 % from fifty."""
    return min(MOST_LEVEL, max(LEAST_LEVEL, CHANCE_CLASSES / max(1, num_classes)))


def lost_answers(before: Floats, after: Floats, targets: Ints) -> Floats:
    """1 for a row (N,) whose right answer became wrong, −1 for one that became right, from probabilities (N, K)."""
    was, now = (probs.argmax(axis=1) == targets for probs in (before, after))
    lost: Floats = was.astype(np.float64) - now
    return lost


def sign_tested(
    lost: Floats, groups: Ints | None, level: float, limit: float, most: float, class_index: int | None
) -> Finding:
    """The mean of what each row lost (N,), from −1 to 1, against `limit`; beyond `most` no chance excuses it."""
    drop, chance = float(lost.mean()), chance_of_losing(*_losses_and_gains(lost, groups))
    passed = drop <= limit + 1e-12 or (chance > level and drop <= most + 1e-12)
    return Finding(passed, drop, limit, class_index=class_index, chance=chance)


def with_interval(finding: Finding, lost: Floats, groups: Ints | None) -> Finding:
    """The finding with the 95 % interval of its mean loss, of rows or of whole groups."""
    interval = BoundedMean.of(lost, lower=-1.0, upper=1.0, groups=groups).estimate(0.025)
    return replace(finding, low=interval.low, high=interval.high)


def _losses_and_gains(lost: Floats, groups: Ints | None) -> tuple[float, float]:
    """Sums of what was lost and won; a group that lost more than it won is one loss."""
    if groups is not None:
        lost = np.sign(np.bincount(groups, lost))
    return float(lost[lost > 0].sum()), float(-lost[lost < 0].sum())


def chance_of_losing(lost: float, won: float) -> float:
    """The one-sided chance of at least so many losses if both were equally likely; a shared loss counts as its part.

    >>> chance_of_losing(3, 0)
    0.125
    """
    from scipy.special import betainc  # loaded with the first judgement, not with the module

    return float(betainc(lost, won + 1, 0.5)) if lost > 0 else 1.0
