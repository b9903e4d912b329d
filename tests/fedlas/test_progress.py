"""Progress follows from the stage of a job and its trainings."""

from __future__ import annotations

from itertools import pairwise

from fedlas.progress import JobProgress


def test_trainings_fill_the_stage_between_the_others() -> None:
    """Each training moves the share by the same step, part of one by its part; nothing is left after the last."""
    progress = JobProgress()
    progress.begin("training")
    progress.expect(4)
    seen = [progress.position()]
    for seconds in (10.0, 30.0):
        progress.reached(0.5)
        seen.append(progress.position())
        progress.ended(seconds)
        seen.append(progress.position())
    assert [one.trained for one in seen] == [0, 0, 1, 1, 2]
    steps = [two.fraction - one.fraction for one, two in pairwise(seen)]
    assert min(steps) > 0
    assert max(steps) - min(steps) < 1e-12
    assert [one.eta_seconds for one in seen] == [None, None, 30.0, 25.0, 40.0]
    for _ in range(2):
        progress.ended(20.0)
    assert progress.position().eta_seconds == 0.0


def test_the_share_never_falls() -> None:
    """More trainings than were expected, and a stage that begins again, leave it where it was."""
    progress = JobProgress()
    progress.begin("training")
    progress.expect(2)
    progress.ended(1.0)
    before = progress.position()
    progress.expect(9)
    after = progress.position()
    assert (before.planned, after.planned) == (2, 10)
    assert after.fraction == before.fraction
    progress.begin("inspecting")
    assert progress.position().fraction == before.fraction


def test_a_job_that_trains_nothing_passes_through_its_stages() -> None:
    """The share of a job grows with each stage, and no time is reported that nothing has measured."""
    progress, seen = JobProgress(), []
    for stage in ("inspecting", "evaluating", "training", "calibrating", "exporting", "publishing"):
        progress.begin(stage)
        seen.append(progress.position())
    assert all(two.fraction > one.fraction for one, two in pairwise(seen))
    assert seen[0].fraction == 0.0
    assert seen[-1].fraction < 1.0
    assert {one.eta_seconds for one in seen} == {None}
