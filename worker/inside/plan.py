"""A dry run, inside the sandbox: everything a job would find out before it trains, and what it would cost.

Nothing is trained for keeps and no test row is judged: a few steps of a copy tell the time, and the spread of the
calibration rows tells what the test rows could show.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedlas.calibration.preparation import Start, check_expected_accuracy, prepare, rows_of, seconds_after_race
from fedlas.calibrators import TemperatureScaling, softmax
from fedlas.contract.events import WarningEvent
from fedlas.contract.plan import (
    DetectableEffect,
    Leakage,
    Plan,
    PlanEstimate,
    PlannedClass,
    PlannedLabels,
    UploadedScores,
)
from fedlas.contract.profiles import FeatureSpec, Notice, SplitCounts
from fedlas.data import Dataset, shared_rows
from fedlas.errors import PreconditionFailed
from fedlas.gate.gate import ledger_level
from fedlas.metrics import row_scores
from fedlas.metrics.betting_intervals import detectable, paired_mean
from fedlas.preconditions.examination import NOT_GIVEN, require_accepted
from fedlas.progress import JobProgress
from fedlas.race.calibrator_selection import CalibratorSelector
from fedlas.race.candidates import Candidate
from fedlas.race.context import ProgressReporter, RaceContext
from fedlas.race.cross_fitting import TrainingCosts, head_obstacle, training_obstacle
from fedlas.race.race import number_of_refits, seconds_for_features
from fedlas.race.record import Record
from fedlas.race.results import post_hoc_names
from fedlas.race.schedule import Plan as Schedule
from fedlas.race.schedule import TimeBudget
from fedlas.race.schedule import plan as schedule
from fedlas.race.trainer import Trainer
from fedlas.training.computation import device_name
from worker.documents import JobOrder, PlanResult
from worker.inside.channel import Emit, Files
from worker.inside.job_events import JobEvents, notice_documents
from worker.inside.model_loading import open_job

_TOO_SHORT = "The budget is too short for a single candidate on the whole network: {instead}."
#: The gate judges two claims, and the first to be shown has half of the level (Holm).
_CLAIMS = 2
#: So many of the best candidates get the pool of calibrators.
_POOLS = 3


@dataclass(frozen=True)
class RaceCosts:
    """Candidates that fit the budget and their seconds, and those of all in full; `notes` say why there are none."""

    candidates: int = 0
    seconds: float = 0.0
    seconds_in_full: float = 0.0
    notes: tuple[str, ...] = ()


def race_costs(start: Start, seconds: float) -> RaceCosts:
    """Costs of the trainings of a job that has so many seconds for them, from a few steps of a copy."""
    if not start.trains:
        return RaceCosts()
    rows, groups, record = start.training_rows(), start.dataset.groups_of("calibration"), Record()
    budget = TimeBudget(seconds, record)
    budget.note_speed(start.outputs.seconds_per_row)
    context = RaceContext(
        start.classifier,
        rows,
        rows_of(start.dataset, "calibration"),
        start.outputs,
        CalibratorSelector(
            start.targets, ("temperature",), reads_features=False, groups=groups, seed=start.options.seed
        ),
        budget,
        record,
        ProgressReporter(JobProgress(), record),
        start.options.seed,
    )
    if obstacle := training_obstacle(context):
        return RaceCosts(notes=(f"Nothing would be trained: {obstacle}.",))
    return _costs(start, context, Trainer(context, rows))


def _costs(start: Start, context: RaceContext, trainer: Trainer) -> RaceCosts:
    candidates, without_heads = start.candidates(), head_obstacle(start.classifier, trainer)
    whole = [one for one in candidates if one.scope != "head"]
    heads = [] if without_heads else [one for one in candidates if one.scope == "head"]
    planned = _Planned(start, context, trainer)
    fits, full = planned.of("all", whole) if whole else (Schedule(), Schedule())
    if whole and not fits.candidates and not without_heads:
        heads += [one for one in whole if one.scope == "auto"]
    fit_heads, full_heads = planned.of("head", heads) if heads else (Schedule(), Schedule())
    notes: tuple[str, ...] = ()
    if whole and not fits.candidates:
        instead = "its head would be trained" if fit_heads.candidates else "nothing would be trained"
        notes = (_TOO_SHORT.format(instead=instead),)
    return RaceCosts(
        len(fits.candidates) + len(fit_heads.candidates),
        fits.seconds + fit_heads.seconds + planned.measuring,
        (full if whole else full_heads).seconds + planned.measuring,
        notes,
    )


class _Planned:
    """Plans of one scope after the other, within what is left."""

    def __init__(self, start: Start, context: RaceContext, trainer: Trainer) -> None:
        self._context, self._trainer = context, trainer
        self._costs, self._refits = TrainingCosts(context, trainer), number_of_refits(start.max_cost_factor())
        self._spent = self.measuring = 0.0

    def of(self, scope: str, candidates: Sequence[Candidate]) -> tuple[Schedule, Schedule]:
        sized = [self._trainer.sized(candidate, scope) for candidate in candidates]
        line = [
            self._costs.planned(place, one, may_shorten=candidate.epochs is None)
            for place, (one, candidate) in enumerate(zip(sized, candidates, strict=True))
        ]
        line = [one for one in line if math.isfinite(one.epoch_seconds)]
        rates, folds = self._costs.range_test(sized) if line else 0.0, len(self._context.folds())
        self.measuring += rates
        left = self._context.budget.remaining() - self._spent - rates
        fits, full = (schedule(line, most, num_folds=folds, refits=self._refits) for most in (left, math.inf))
        self._spent += fits.seconds
        return fits, full


def plan(order: JobOrder, files: Files, folder: Path, emit: Emit) -> PlanResult:
    """Plan the job of this request; raises what the job would raise before training."""
    progress = JobProgress()
    with JobEvents(emit, progress) as tell:
        return _planned(order, files, folder, tell, progress)


def _planned(order: JobOrder, files: Files, folder: Path, tell: JobEvents, progress: JobProgress) -> PlanResult:
    tell.on_stage("inspecting")
    classifier, dataset, options = open_job(order, files, folder)
    tell.on_stage("evaluating")
    start = prepare(classifier, dataset, options)
    for notice in start.notices:
        tell.on_event(WarningEvent(type="warning", data=notice))
    check_expected_accuracy(start, start.notices)
    around = time.perf_counter() - progress.began + _seconds_around(start)
    race = race_costs(start, options.budget_seconds - around)
    shared = {split: shared_rows(dataset, split) for split in ("test", "guarantee", "calibration")}
    job_plan = Plan(
        features=FeatureSpec(layer=classifier.feature_layer, dim=classifier.feature_dim),
        trainable=classifier.trainable,
        trains=race.candidates > 0,
        labels=_labels(dataset),
        leakage=Leakage(seen_by_model=dataset.seen_by_model, shared_rows={s: n for s, n in shared.items() if n}),
        splits=SplitCounts(**dataset.profile()["splits"]),
        uploaded=_uploaded(start),
        estimate=PlanEstimate(
            minutes=round((around + race.seconds) / 60, 5),
            minutes_in_full=round((around + race.seconds_in_full) / 60, 5),
            budget_minutes=order.request.budget.minutes,
            candidates=race.candidates,
            memory_bytes=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            device=device_name(),
        ),
        detectable_effect=_detectable(start) if start.judged else None,
        calibrated_on=start.calibrated_on,
        warnings=[
            *notice_documents(start.notices),
            *(Notice(code="budget", message=message) for message in race.notes),
            *(Notice(code="dataset", message=message) for message in dataset.warnings),
        ],
        fails_with=_fails_with(start),
        adjustments=notice_documents(start.adjustments),
    )
    return PlanResult(plan=job_plan)


def _fails_with(start: Start) -> str | None:
    """The code of the notice that would end the job; raises PreconditionFailed where too much is accepted."""
    try:
        require_accepted(start.notices, start.options.accept_warnings)
    except PreconditionFailed as error:
        if error.code == NOT_GIVEN:
            raise
        return error.code
    return None


def _labels(dataset: Dataset) -> PlannedLabels:
    counts = np.bincount(dataset.targets, minlength=len(dataset.class_names)).tolist()
    classes = [
        PlannedClass(index=i, name=name, rows=count)
        for i, (name, count) in enumerate(zip(dataset.class_names, counts, strict=True))
    ]
    return PlannedLabels(classes=classes, matched_by=dataset.matched_by)


def _uploaded(start: Start) -> UploadedScores:
    probs, targets, weights = softmax(start.outputs.logits), start.targets, start.dataset.weights_of("calibration")
    return UploadedScores(
        split="calibration",
        accuracy=start.accuracy.value,
        confidence=float(np.average(probs.max(axis=1), weights=weights)),
        nll=float(np.average(row_scores(probs, targets, score="nll"), weights=weights)),
        brier=float(np.average(row_scores(probs, targets, score="brier"), weights=weights)),
    )


def _seconds_around(start: Start) -> float:
    """Seconds of a job beside its trainings once it has read its files: calibrators, judging, writing, reporting."""
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
    return selector.expected_seconds(logits, start.outputs.features) + pools + seconds_after_race(start)


def _detectable(start: Start) -> DetectableEffect:
    """The smallest gain over the uploaded model that the test rows would show with 80 % power.

    The spread is that between the uploaded model and itself with a temperature, on calibration rows. Earlier looks at
    the test rows have spent some of the level.
    """
    options, logits, targets = start.options, start.outputs.logits, start.targets
    weights = start.dataset.weights_of("calibration")
    tempered = softmax(TemperatureScaling().fit(logits, targets, weights=weights)(logits))
    before, after = (row_scores(probs, targets, score=options.gate.score) for probs in (softmax(logits), tempered))
    groups = start.dataset.groups_of("calibration")
    mean = paired_mean(tempered, softmax(logits), targets, score=options.gate.score, groups=groups)
    level = ledger_level(options.evaluations_before, 1 - options.gate.confidence_level)
    rows = len(start.dataset.rows("test"))
    return DetectableEffect(
        score=options.gate.score,
        gain=detectable(mean, level / _CLAIMS, num_rows=rows),
        power=0.8,
        test_rows=rows,
        temperature_would_gain=float(np.average(before - after, weights=weights)),
    )
