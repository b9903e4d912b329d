"""A dry run, inside the sandbox: everything a job would find out before it trains, and what it would cost.

Nothing is trained for keeps and no test row is judged: a few steps of a copy tell the time, and the spread of the
calibration rows tells what the test rows could show.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fedlas.calibration.judging_costs import judging_costs
from fedlas.calibration.preparation import Start, check_expected_accuracy, prepare
from fedlas.calibrators import TemperatureScaling, softmax
from fedlas.data import Dataset, shared_rows
from fedlas.errors import PreconditionFailed
from fedlas.gate.gate import ledger_level
from fedlas.metrics import row_scores
from fedlas.metrics.betting_intervals import detectable, paired_mean
from fedlas.preconditions.examination import NOT_GIVEN, require_accepted
from fedlas.progress import JobProgress
from fedlas.race.scoring import post_hoc_names
from fedlas.race.selection import CalibratorSelector
from fedlas.race.setup import seconds_for_features
from fedlas.training.fit import device_name
from service.registry.documents import FeatureSpec, Notice, Plan, SplitCounts
from service.registry.documents.runs import (
    DetectableEffect,
    Leakage,
    PlanEstimate,
    PlannedClass,
    PlannedLabels,
    UploadedScores,
)
from worker.documents import JobOrder, PlanResult
from worker.inside.job_events import JobEvents
from worker.inside.model_loading import open_job
from worker.inside.notices import notice_documents
from worker.inside.race_costs import RaceCosts, race_costs
from worker.inside.work_function import Emit, Files

#: The gate judges two claims, and the first to be shown has half of the level (Holm).
_CLAIMS = 2
#: Seconds of the steps of a dry run, as far as they can be known beforehand.
_GUESSED = {"reading": 3.0, "evaluating": 3.0, "measuring": 3.0}
#: So many of the best candidates get the pool of calibrators.
_POOLS = 3


def plan(order: JobOrder, files: Files, folder: Path, emit: Emit) -> PlanResult:
    """What the job of this request would do; raises what the job would raise before training."""
    progress = JobProgress()
    for step, seconds in _GUESSED.items():
        progress.expect(step, seconds)
    with JobEvents(emit, progress) as tell:
        return _planned(order, files, folder, tell, progress)


def _planned(order: JobOrder, files: Files, folder: Path, tell: JobEvents, progress: JobProgress) -> PlanResult:
    progress.begin("reading")
    tell.stage("inspecting")
    classifier, dataset, options = open_job(order, files, folder)
    progress.begin("evaluating")
    tell.stage("evaluating")
    start = prepare(classifier, dataset, options)
    for notice in start.notices:
        tell.notice(notice)
    check_expected_accuracy(start, start.notices)
    around = progress.clock() - progress.began + _seconds_around(start)
    progress.begin("measuring")
    race = race_costs(start, options.budget_seconds - around)
    found = Plan(
        features=FeatureSpec(layer=classifier.feature_layer, dim=classifier.feature_dim),
        trainable=classifier.trainable,
        trains=race.candidates > 0,
        labels=_labels(dataset),
        leakage=_leakage(dataset),
        splits=SplitCounts(**dataset.profile()["splits"]),
        uploaded=_uploaded(start),
        estimate=_estimate(around, race, order.request.budget.minutes),
        detectable_effect=_detectable(start) if start.judged else None,
        calibrated_on=start.calibrated_on,
        warnings=[
            *notice_documents(start.notices),
            *(Notice(code=code, message=message) for code, message in _sentences(start, race, dataset)),
        ],
        fails_with=_fails_with(start),
        adjustments=notice_documents(start.adjustments),
    )
    return PlanResult(plan=found)


def _fails_with(start: Start) -> str | None:
    """The code of the notice that would end the job; raises PreconditionFailed where too much is accepted."""
    try:
        require_accepted(start.notices, start.options.accept_warnings)
    except PreconditionFailed as error:
        if error.code == NOT_GIVEN:
            raise
        return error.code
    return None


def _sentences(start: Start, race: RaceCosts, dataset: Dataset) -> Iterator[tuple[str, str]]:
    """Codes and sentences of what limits the job."""
    for code, messages in (
        ("budget", race.notes),
        ("dataset", dataset.warnings),
    ):
        yield from ((code, message) for message in messages)


def _labels(dataset: Dataset) -> PlannedLabels:
    """Which class of the model each label of the dataset is, and how many rows have it."""
    counts = np.bincount(dataset.targets, minlength=len(dataset.class_names)).tolist()
    classes = [
        PlannedClass(index=i, name=name, rows=count)
        for i, (name, count) in enumerate(zip(dataset.class_names, counts, strict=True))
    ]
    return PlannedLabels(classes=classes, matched_by=dataset.matched_by)


def _leakage(dataset: Dataset) -> Leakage:
    """Rows of the judging splits that occur elsewhere too, and what the model is said to have seen."""
    shared = {split: shared_rows(dataset, split) for split in ("test", "guarantee", "calibration")}
    return Leakage(
        seen_by_model=dataset.seen_by_model, shared_rows={name: found for name, found in shared.items() if found}
    )


def _uploaded(start: Start) -> UploadedScores:
    """The uploaded model on the calibration rows."""
    probs, targets, weights = softmax(start.outputs.logits), start.targets, start.dataset.weights_of("calibration")
    return UploadedScores(
        split="calibration",
        accuracy=start.accuracy.value,
        confidence=float(np.average(probs.max(axis=1), weights=weights)),
        nll=float(np.average(row_scores(probs, targets, score="nll"), weights=weights)),
        brier=float(np.average(row_scores(probs, targets, score="brier"), weights=weights)),
    )


def _seconds_around(start: Start) -> float:
    """What a job takes beside its trainings once it has read its files: calibrators, judging, writing, reporting."""
    options, logits = start.options, start.outputs.logits
    names = post_hoc_names(logits.shape[1], len(start.targets), start.classifier.task)
    alone = options.method == "temperature"
    selector = CalibratorSelector(
        start.targets,
        names[:1] if alone else names,
        reads_features=not alone,
        seconds=seconds_for_features(options.budget_seconds),
    )
    pools = _POOLS * selector.expected_seconds(logits) if start.trains else 0.0
    return selector.expected_seconds(logits, start.outputs.features) + pools + judging_costs(start).seconds


def _estimate(around: float, race: RaceCosts, budget_minutes: float) -> PlanEstimate:
    """Minutes of the job, with all that happens before and after its trainings, and the memory that they take here."""
    return PlanEstimate(
        minutes=round((around + race.seconds) / 60, 5),
        minutes_in_full=round((around + race.seconds_in_full) / 60, 5),
        budget_minutes=budget_minutes,
        candidates=race.candidates,
        memory_bytes=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        device=device_name(),
    )


def _detectable(start: Start) -> DetectableEffect:
    """The smallest gain over the uploaded model that the test rows would show with 80 % power.

    The spread is that between the uploaded model and itself with a temperature, on calibration rows. Earlier looks at
    the test rows have spent some of the level.
    """
    options, logits, targets = start.options, start.outputs.logits, start.targets
    weights = start.dataset.weights_of("calibration")
    cooled = softmax(TemperatureScaling().fit(logits, targets, weights=weights)(logits))
    before, after = (row_scores(probs, targets, score=options.score) for probs in (softmax(logits), cooled))
    groups = start.dataset.groups_of("calibration")
    mean = paired_mean(cooled, softmax(logits), targets, score=options.score, groups=groups)
    level = ledger_level(options.evaluations_before, 1 - options.confidence_level)
    rows = len(start.dataset.rows("test"))
    return DetectableEffect(
        score=options.score,
        gain=detectable(mean, level / _CLAIMS, num_rows=rows),
        power=0.8,
        test_rows=rows,
        temperature_would_gain=float(np.average(before - after, weights=weights)),
    )
