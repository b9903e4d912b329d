"""Conformal quantiles keep every level exactly."""

from __future__ import annotations

import math

import numpy as np

from fedlas.guarantees.quantiles import LEVELS, Quantiles


def test_every_kept_level_is_exact() -> None:
    """At the levels of the table the quantile is the ⌈(n+1)c⌉-th smallest score; between them the next higher one."""
    scores = np.random.default_rng(0).random(2500)
    table = Quantiles.fit(scores, 1, LEVELS)
    assert len(table.ranks) <= 200
    ordered = np.sort(scores)
    for level in LEVELS:
        rank = math.ceil(2501 * float(level) - 1e-9)
        if rank <= 2500:
            assert 0 < table.at(float(level)) - ordered[rank - 1] < 2.1e-6
    for level in np.random.default_rng(1).random(200) * 2500 / 2501:
        score = table.at(float(level))
        assert score is not None
        assert score > ordered[math.ceil(2501 * level) - 1]
