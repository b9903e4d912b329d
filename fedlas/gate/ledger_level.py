"""The level of one evaluation of a test split: all that there will ever be spend the level once (alpha spending)."""

from __future__ import annotations

import numpy as np

#: Of the level, the first evaluation of a test split may spend this share, and all later ones together the rest.
FIRST_SHARE = 0.75


def ledger_level(evaluations_before: int, level: float) -> float:
    """What evaluation k = evaluations_before + 1 of one test split may spend, so that all together spend `level`.

    Three quarters for the first, `level / (4·k·(k − 1))` for each later one, whose sum is the last quarter. Most
    splits are evaluated once, and the first evaluation then needs 11 % more rows than without a ledger (19 % if it
    spent 6/π², the first share of the usual 1/k²); the second needs 1.8 times and the fifth 2.7 times as many.

    Raises:
        ValueError: evaluations_before is no integer of at least 0.

    >>> [round(ledger_level(k, 0.05), 5) for k in range(4)]
    [0.0375, 0.00625, 0.00208, 0.00104]
    """
    whole = isinstance(evaluations_before, int | np.integer) and not isinstance(evaluations_before, bool)
    if not whole or evaluations_before < 0:
        raise ValueError(f"evaluations_before must be an integer of at least 0, got {evaluations_before!r}")
    k = int(evaluations_before) + 1
    return level * (FIRST_SHARE if k == 1 else (1 - FIRST_SHARE) / (k * (k - 1)))
