"""Events that a job's child reports while it works."""

from __future__ import annotations

import json
import time

import pytest

from fedlas.contract.events import EpochEvent, Progress
from fedlas.progress import JobProgress
from fedlas.race.candidates import Candidate
from fedlas.race.training_runs import PlannedTraining
from fedlas.training.loop import EpochResult
from tests.helpers.processes import until
from worker.documents import ChildEvent, SavedCheckpoint
from worker.inside import child, job_events
from worker.inside.job_events import JobEvents


def test_a_long_computation_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing else is reported a thread reports progress until the job ends."""
    monkeypatch.setattr(job_events, "_TELL_EVERY_S", 0.02)
    told: list[ChildEvent] = []
    progress = JobProgress()
    progress.begin("training")
    progress.expect(2)
    progress.ended(40.0)
    with JobEvents(told.append, progress):
        until(lambda: len(told) >= 5, what="it has told")
    seen = [event.progress for event in told if event.progress is not None]
    assert {(one.fraction, one.eta_seconds) for one in seen} == {(0.475, 40.0)}
    count = len(told)
    time.sleep(0.1)
    assert len(told) == count, "no thread outlives the job"


def test_the_candidate_that_trains_is_named() -> None:
    """Progress names the candidate and its epoch until another stage begins."""
    told: list[ChildEvent] = []
    events = JobEvents(told.append, JobProgress())
    events.on_stage("training")
    events.on_progress(Progress(candidate="fedlas, fold 1 of 3", epoch=4, epochs=10))
    events.on_stage("calibrating")
    assert [one.progress.candidate for one in told if one.progress is not None] == [None, "fedlas, fold 1 of 3", None]
    assert [one.stage for one in told] == ["training", None, "calibrating"]


def test_a_long_training_is_told_of_a_hundred_times() -> None:
    """Every epoch of a training with a hundred or fewer is reported, and of a longer one a hundred with the last."""
    told: list[ChildEvent] = []
    events = JobEvents(told.append, JobProgress())
    for epochs in (100, 730):
        training = PlannedTraining(Candidate("focal", 0.1, epochs=epochs, scope="all"), 0, 2, 2, 3)
        for number in range(1, epochs + 1):
            events.on_event(training.epoch_ended(EpochResult(number, epochs, 0.5, 0.25, 0.1)))
    events.on_event(training.begun())
    events.on_event(training.scored(0.7))
    heard = [one.event for one in told]
    epochs_told = [one.data.epoch for one in heard if isinstance(one, EpochEvent)]
    assert epochs_told[:100] == list(range(1, 101))
    assert (len(epochs_told), epochs_told[-1]) == (200, 730)
    assert [one.type for one in heard if one is not None][-2:] == ["training", "score"]
    assert all(one.event is not None for one in told)
    ended = json.loads(told[0].model_dump_json(exclude_unset=True))
    where = {"candidate": "focal lr=0.1 100 epochs", "number": 1, "fold": 3, "folds": 3}
    figures = {"epoch": 1, "epochs": 100, "loss": 0.5, "learning_rate": 0.1, "seconds": 0.25}
    assert ended == {"event": {"type": "epoch", "data": {**where, **figures}}}


def test_progress_after_a_checkpoint_is_told() -> None:
    """A checkpoint is written with every epoch, beside its progress: what is thinned out is progress alone."""
    written: list[object] = []
    emit = child._thinned(written.append)
    saved = ChildEvent(checkpoint=SavedCheckpoint(name="running", file="running-1.pt"))
    for fraction in (0.1, 0.2):
        emit(saved)
        emit(ChildEvent.model_validate({"progress": {"fraction": fraction}}))
        emit(ChildEvent.model_validate({"progress": {"fraction": fraction}}))
        time.sleep(0.25)
    kinds = [event.model_fields_set == {"progress"} for event in written if isinstance(event, ChildEvent)]
    assert kinds == [False, True, False, True]
