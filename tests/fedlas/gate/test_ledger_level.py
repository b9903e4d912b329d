"""The evaluation ledger: all evaluations together spend the level."""

from __future__ import annotations

import pytest

from fedlas.gate.ledger_level import ledger_level


def test_the_ledger_spends_no_more_than_the_level() -> None:
    """All looks together spend at most the level, the first one three quarters of it, and each one less than before."""
    levels = [ledger_level(look, 0.05) for look in range(10_000)]
    assert levels[0] == pytest.approx(0.0375)
    assert levels == sorted(levels, reverse=True)
    assert 0.0499 < sum(levels) <= 0.05
    for wrong in (-1, 1.5, True):
        with pytest.raises(ValueError, match="evaluations_before"):
            ledger_level(wrong, 0.05)  # type: ignore[arg-type]
