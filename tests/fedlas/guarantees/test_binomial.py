"""The binomial bound is Clopper and Pearson's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta, binom

from fedlas.guarantees.binomial import upper_bound


def test_bound_is_clopper_and_pearsons() -> None:
    """The bound equals scipy's beta quantile to 1e-9 and is never below it, for few and for many rows."""
    rng = np.random.default_rng(0)
    trials = (10 ** rng.uniform(0, 5.3, 600)).astype(int)
    errors = (trials * rng.random(600) ** 3).astype(int)
    for level in (0.5, 0.05, 0.0025, 1e-6):
        expected = np.where(errors < trials, beta.ppf(1 - level, errors + 1, trials - errors), 1)
        excess = upper_bound(errors, trials, level) - expected
        assert excess.min() > -1e-12
        assert excess.max() < 1e-9
    assert upper_bound([0, 3], [0, 3], 0.05).tolist() == [1, 1]


def test_so_few_errors_have_the_level_at_the_bound() -> None:
    """The binomial distribution at the bound gives so few errors exactly the probability asked for."""
    rng = np.random.default_rng(1)
    trials = rng.integers(1, 5000, 300)
    errors = (trials * rng.random(300) ** 2).astype(int)
    found = binom.cdf(errors, trials, upper_bound(errors, trials, 0.0025))
    np.testing.assert_allclose(found[errors < trials], 0.0025, rtol=1e-6)


@pytest.mark.parametrize(("errors", "trials", "level"), [(-1, 5, 0.1), (6, 5, 0.1), (1, 5, 0.0), (1, 5, 1.0)])
def test_bound_refuses(errors: int, trials: int, level: float) -> None:
    """Counts and levels that mean nothing are errors."""
    with pytest.raises(ValueError, match=r"successes|level"):
        upper_bound(errors, trials, level)
