"""Progress moves with the seconds that are left, which follow from estimates, then from measured speeds."""

from __future__ import annotations

import numpy as np
import pytest

from fedlas.progress import TRAINING, JobProgress


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def job(**seconds: float) -> tuple[JobProgress, Clock]:
    """A job of these steps, the first of which runs."""
    clock = Clock()
    progress = JobProgress(clock)
    for name, expected in seconds.items():
        progress.expect(name, expected, kind=TRAINING if name.startswith("fold") else "")
    progress.begin(next(iter(seconds)))
    return progress, clock


def where(progress: JobProgress) -> tuple[float, float]:
    found = progress.position()
    return found.fraction, found.eta_seconds


def test_a_step_moves_with_the_clock() -> None:
    """Three of ten seconds of one of two steps are 15 % of twenty, and seventeen are left."""
    progress, clock = job(reading=10.0, judging=10.0)
    assert where(progress) == (0.0, 20.0)
    clock.now += 3
    assert where(progress) == pytest.approx((0.15, 17.0))


def test_a_step_never_goes_beyond_its_end() -> None:
    """A step of ten seconds that takes a thousand keeps two to come: its share creeps on and does not arrive."""
    progress, clock = job(reading=10.0, judging=30.0)
    seen = []
    for _ in range(1000):
        clock.now += 1
        fraction, eta = where(progress)
        assert eta >= 30.0 + 2.0 - 1e-9
        assert fraction < 1
        seen.append(fraction)
    assert np.diff(seen).min() > 0, "it moves all the same"


def test_a_step_that_is_quick_leaves_less_to_come() -> None:
    """A step that ends early takes with it what was still expected of it."""
    progress, clock = job(reading=100.0, judging=4.0)
    clock.now += 1
    progress.begin("judging")
    assert where(progress) == pytest.approx((0.2, 4.0))


def test_its_own_speed_replaces_the_estimate() -> None:
    """A step of ten seconds that needs twenty for its first half has twenty more; a tenth of it says little yet."""
    progress, clock = job(fold=10.0)
    clock.now += 4
    progress.reached(0.1)
    assert where(progress)[1] == pytest.approx(0.9 * (0.6 * 10 + 0.4 * 40))
    clock.now += 16
    progress.reached(0.5)
    assert where(progress)[1] == pytest.approx(20.0)


def test_what_trained_slowly_will_train_slowly() -> None:
    """A fold that took twice its estimate doubles the folds to come, and nothing else."""
    progress, clock = job(fold1=10.0, fold2=10.0, fold3=10.0, judging=10.0)
    clock.now += 20
    progress.begin("fold2")
    assert where(progress)[1] == pytest.approx(20 + 20 + 10)
    clock.now += 10
    progress.reached(0.5)
    assert where(progress) == pytest.approx((30 / 70, 40.0))


def test_trainings_end_with_the_budget() -> None:
    """What trains longer than the budget lasts is ended, so that the time left is the budget's and what follows."""
    progress, clock = job(fold1=10.0, fold2=80.0, judging=10.0)
    progress.deadline = clock.now + 60
    assert where(progress)[1] == pytest.approx(60.0)


def test_what_does_not_come_is_dropped() -> None:
    """A candidate that is eliminated takes its folds with it."""
    progress, clock = job(fold1=10.0, fold2=30.0)
    clock.now += 5
    progress.drop("fold2", "unknown")
    assert where(progress) == pytest.approx((0.5, 5.0))


def test_what_an_earlier_attempt_trained_is_done() -> None:
    """A fold that is restored counts with the seconds that it took, one that goes on from half its epochs with half."""
    progress, clock = job(fold1=10.0, fold2=10.0)
    progress.end(12.0)
    assert where(progress) == pytest.approx((0.5, 12.0)), "and is slower than estimated"
    progress.begin("fold2")
    progress.reached(0.5)
    assert where(progress)[0] == pytest.approx(18 / 24)
    clock.now += 3
    progress.reached(0.75)
    assert where(progress) == pytest.approx((21 / 24, 3.0))


def test_other_estimates_change_the_speed_and_not_the_share() -> None:
    """Where 1,000 s become 90 the share does not jump, and arrives with the job; where 90 become 900 it creeps on."""
    progress, clock = job(reading=10.0, training=990.0)
    clock.now += 5
    assert where(progress) == pytest.approx((0.005, 995.0))
    progress.expect("training", 80.0)
    progress.begin("training")
    assert where(progress) == pytest.approx((0.005, 80.0))
    clock.now += 40
    assert where(progress) == pytest.approx((1 - 0.995 / 2, 40.0))
    before = where(progress)[0]
    progress.expect("more", 810.0)
    clock.now += 10
    assert before < where(progress)[0] < before + 0.01


def test_the_share_never_falls() -> None:
    """Whatever is expected, dropped, slower or quicker, the share only grows and stays under one until the end."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        progress, clock = job(reading=float(rng.uniform(0, 20)))
        last = 0.0
        for step in range(30):
            progress.expect(f"step {step}", float(rng.uniform(0, 50)), kind=str(rng.choice(["", TRAINING])))
            if rng.random() < 0.3:
                progress.drop(f"step {rng.integers(30)}")
            progress.begin(f"step {rng.integers(30)}")
            for share in np.sort(rng.random(5)):
                clock.now += float(rng.exponential(5))
                if rng.random() < 0.5:
                    progress.reached(float(share))
                fraction, eta = where(progress)
                assert last <= fraction <= 1.0
                assert eta >= 0
                last = fraction


def test_an_eta_at_half_time_is_right_where_speeds_are() -> None:
    """Trainings 1.6 times as slow as measured: at half time the ETA is within a tenth."""
    progress, clock = job(**{f"fold{i}": 10.0 for i in range(8)}, judging=10.0)
    whole, half = 8 * 16 + 10, None
    for i in range(8):
        if i:
            progress.begin(f"fold{i}")
        for batch in range(1, 65):
            clock.now += 0.25
            progress.reached(batch / 64)
            if half is None and clock.now - 100 >= whole / 2:
                half = where(progress)[1]
    assert half == pytest.approx(whole / 2, rel=0.1)
