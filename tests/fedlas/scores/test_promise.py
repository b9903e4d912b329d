"""Thresholds with a promise: exact, in a fixed sequence, and honest where none can be made."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from fedlas.scores.promise import (
    Rows,
    accepted_with_recall,
    accepted_within,
    effective_counts,
    first_rank,
    more_labels,
    planned_labels,
    reachable_error,
)


def rows(count: int, wrong: list[int], *, step: float = 1.0) -> Rows:
    """Scores count, count - 1, …, of which those at these places, from the best, are wrong."""
    bad = np.zeros(count, bool)
    bad[wrong] = True
    return Rows.of(np.floor(np.arange(count, 0, -1) / step), bad)


@pytest.mark.parametrize(("max_error", "level"), [(0.05, 0.05), (0.1, 0.05), (0.02, 0.1)])
def test_the_bound_is_exact(max_error: float, level: float) -> None:
    """The first rank is the fewest rows for which SciPy's exact test rejects a larger share of errors."""
    for errors in (0, 1, 3):
        rank = first_rank(max_error, level, errors=errors)
        assert binomtest(errors, rank, max_error, alternative="less").pvalue <= level
        assert binomtest(errors, rank - 1, max_error, alternative="less").pvalue > level


def test_the_sequence_ends_at_its_first_failure() -> None:
    """Rows far down are not accepted though a bound would hold there, once a rank before them has failed."""
    assert accepted_within(rows(1000, []), 0.05, 0.05).share == 1.0
    found = accepted_within(rows(1000, list(range(300, 330))), 0.05, 0.05)
    assert found is not None
    assert 300 <= found.rows < 330
    assert found.threshold == 1000 - found.rows + 1
    assert accepted_within(rows(1000, list(range(20))), 0.05, 0.05) is None


def test_equal_scores_are_accepted_together() -> None:
    """The threshold of a judge of ten numbers is one of them, and all rows of that number are accepted."""
    found = accepted_within(rows(1000, list(range(350, 500)), step=100), 0.05, 0.05)
    assert (found.rows, found.errors, found.threshold) == (301, 0, 7.0)


def test_rows_without_a_score_are_never_accepted() -> None:
    """A missing score counts in the share, and lies below every threshold."""
    scores = np.append(np.arange(200.0), np.full(50, np.nan))
    found = accepted_within(Rows.of(scores, np.zeros(250, bool)), 0.05, 0.05)
    assert (found.rows, found.share, found.threshold) == (200, 0.8, 0.0)


def test_groups_and_weights_count_as_fewer_rows() -> None:
    """Rows that repeat one another ten times are worth a tenth, as many equal weights are worth all."""
    hits = np.repeat(np.arange(40) % 4 == 0, 10)
    assert effective_counts(hits, np.repeat(np.arange(40), 10), None) == pytest.approx((10, 40))
    assert effective_counts(hits, None, np.full(400, 3.0)) == pytest.approx((100, 400))
    repeated = Rows.of(np.arange(400.0), np.zeros(400, bool), clusters=np.repeat(np.arange(40), 10))
    assert accepted_within(repeated, 0.05, 0.05) is None


def test_a_promise_is_kept_as_often_as_it_says() -> None:
    """Over 2,000 samples of a judge at the edge of the promise, it is broken in at most 5 % (and two errors)."""
    rng = np.random.default_rng(0)
    broken = 0
    for _ in range(2000):
        scores = rng.random(300)
        chance = 0.02 + 0.10 * (1 - scores)  # exactly 5 % errors among scores above 0.4
        found = accepted_within(Rows.of(scores, rng.random(300) < chance), 0.05, 0.05)
        broken += found is not None and 0.02 + 0.10 * (1 - found.threshold) / 2 > 0.05
    assert broken / 2000 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 2000)


def test_recall_is_a_tolerance_bound() -> None:
    """Above the threshold lie at least 90 % of the right rows but for the level, by the binomial distribution."""
    found = accepted_with_recall(rows(1000, list(range(500, 1000))), 0.9, 0.05)
    spare = 500 - found.rows
    assert binom.cdf(spare, 500, 0.1) <= 0.05 < binom.cdf(spare + 1, 500, 0.1)
    assert accepted_with_recall(rows(20, []), 0.9, 0.05) is None


def test_without_a_promise_it_is_said_what_would_do() -> None:
    """The reachable share is one that the same rows are promised; no number of labels mends too many errors."""
    noisy = rows(1000, list(range(0, 1000, 9)))
    reachable = reachable_error(noisy, 0.05, 0.05)
    assert accepted_within(noisy, reachable, 0.05) is not None
    assert accepted_within(noisy, reachable - 0.01, 0.05) is None
    assert more_labels(noisy, np.full(1000, 0.11), 0.05, 0.05) is None
    more = more_labels(rows(50, []), np.full(50, 0.01), 0.05, 0.05)
    assert accepted_within(rows(50 + more, []), 0.05, 0.05) is not None
    assert 15 <= more < 400


def test_more_labels_are_not_asked_for_where_the_best_rows_are_wrong() -> None:
    """No number of labels mends a judge whose best 30 of 1,000 rows are the wrong ones."""
    top = rows(1000, list(range(30)))
    assert accepted_within(top, 0.05, 0.05) is None
    assert more_labels(top, np.full(1000, 0.03), 0.05, 0.05) is None


def grades(*counted: tuple[int, int]) -> Rows:
    """A judge of whole grades, the best first: how many rows each has, and how many of them are wrong."""
    scores = np.repeat(np.arange(len(counted), 0.0, -1), [count for count, _ in counted])
    return Rows.of(scores, np.concatenate([np.arange(count) < bad for count, bad in counted]))


@pytest.mark.parametrize("count", [299, 300, 399])
def test_one_row_more_loses_no_promise(count: int) -> None:
    """70 right rows of the two best grades are promised of 299, 300 and 399 rows, six of the next 55 being wrong."""
    found = accepted_within(grades((20, 0), (50, 0), (55, 6), (count - 125, count // 3)), 0.05, 0.0375)
    assert (found.rows, found.errors, found.threshold) == (70, 0, 3.0)


def test_a_run_of_equal_scores_across_the_start_shares_the_level() -> None:
    """If the end before the run fails, those from its end on have half of the level; if it passes, all of it."""
    least = next(
        bad for bad in range(99) if accepted_within(grades((90, 1), (143, bad), (767, 400)), 0.05, 0.0375) is None
    )
    assert binom.cdf(least, 233, 0.05) <= 0.0375 / 2 < binom.cdf(least + 1, 233, 0.05)


def test_planned_labels_are_enough_in_four_of_five_samples() -> None:
    """The planned number of labels promises nearly the wanted share as often as was planned, on draws of its own."""
    planned = planned_labels(0.1, 0.5, 0.05, error_there=0.04)
    rng, passed = np.random.default_rng(1), 0
    for _ in range(200):
        place = np.sort(rng.random(planned))
        found = accepted_within(Rows(-place, rng.random(planned) < 2 * 0.04 * place / 0.5), 0.1, 0.05)
        passed += found is not None and found.share >= 0.95 * 0.5
    assert 0.7 <= passed / 200 <= 0.92
    with pytest.raises(ValueError, match=r"must lie in 0\.\.0\.1"):
        planned_labels(0.1, 0.5, 0.05, error_there=0.1)


def test_rare_heavy_groups_break_no_promise() -> None:
    """Where all errors are in a few large groups the promise is broken in at most 5 % of 500 samples."""
    rng, broken, made = np.random.default_rng(0), 0, 0
    for _ in range(500):
        heavy = rng.random(300) < 0.01
        sizes = np.where(heavy, 10, 1)
        clusters, wrong = np.repeat(np.arange(300), sizes), np.repeat(heavy, sizes)
        rows = Rows.of(rng.random(len(wrong)), wrong, clusters=clusters)
        broken += accepted_within(rows, 0.05, 0.05) is not None  # 9.2 % of all rows are wrong, whatever their score
        alone = Rows.of(np.repeat(rng.random(300), 10), np.zeros(3000, bool), clusters=np.repeat(np.arange(300), 10))
        made += accepted_within(alone, 0.05, 0.05) is not None
    assert broken / 500 <= 0.05
    assert made == 500  # groups of one size that are all right
