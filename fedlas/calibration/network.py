"""The calibration of a network, step by step: a classifier and a dataset in, the judged finalist with its report out.

Read `calibrate` from top to bottom: it happens in that order.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from fedlas.calibration.evaluation import CalibrationOptions, few_rows, fit_guarantees
from fedlas.calibration.preparation import (
    Start,
    check_expected_accuracy,
    notices_of,
    prepare,
    rows_of,
    seconds_after_race,
)
from fedlas.calibration.serving import Served, WrittenFinalist, judge_and_write
from fedlas.calibrators import Calibrator, Identity
from fedlas.calibrators.feature_map import shown_parameters
from fedlas.contract.events import WarningEvent
from fedlas.contract.profiles import Notice
from fedlas.contract.report import GateVerdict, Report, Subject
from fedlas.data import Dataset, shared_rows
from fedlas.deployment import Deployment
from fedlas.export.graph import ExportReport
from fedlas.gate.gate import FINE_TUNED
from fedlas.guarantees import Guarantees
from fedlas.guarantees.typicality import Typicality
from fedlas.importers import GraphClassifier
from fedlas.observer import Observer
from fedlas.preconditions.examination import may_promise, require_accepted
from fedlas.progress import JobProgress
from fedlas.race.context import SplitOutputs
from fedlas.race.race import RaceOptions, RaceRows, run_race
from fedlas.race.record import Journal
from fedlas.race.results import Finalist, RaceResult, lone_temperature
from fedlas.report import Evidence
from fedlas.report.diagnostics import fedlas_diagnostics
from fedlas.report.parts import OutOfFold
from fedlas.training.computation import device_name


@dataclass(frozen=True)
class Calibration:
    """The result of a calibration.

    Attributes:
        written: what the verdict serves, with its file; None is the uploaded network as it came, of which nothing is
            promised. Where the job has class priors, that is a finalist without a calibrator.
        test_probs: what is served on the test rows (N, K), as the report judges it: at the shares of the calibration
            rows, whatever class priors the job has.
        guarantees: what the guarantee rows allow to promise of the finalist, if there are any.
        calibrated_on: how many rows of each split, as it was drawn or given, calibrate.
    """

    verdict: GateVerdict
    report: Report
    dataset: Dataset
    written: WrittenFinalist | None
    test_probs: NDArray[np.float64]
    guarantees: Guarantees | None = None
    calibrated_on: Mapping[str, int] = field(default_factory=dict)
    adjustments: tuple[Notice, ...] = ()

    @property
    def finalist(self) -> Finalist | None:
        """Served finalist, None where that is the uploaded network as it came."""
        return None if self.written is None else self.written.finalist

    @property
    def typicality(self) -> Typicality | None:
        """How typical calibration rows look to the finalist, as its file computes it."""
        return None if self.written is None else self.written.file.typicality

    @property
    def deployment(self) -> Deployment | None:
        """The class priors of the finalist, and the thresholds that keep the uploaded alarm rates."""
        return None if self.written is None else self.written.deployment

    def export(
        self, path: Path, *, outputs: Collection[str] | None = None, metadata: Mapping[str, str] | None = None
    ) -> ExportReport:
        """Write the file of the finalist; its metadata has the guarantees, the columns' names, and more properties.

        Args:
            outputs: more outputs of the file, `features` and `typicality`; None: both.

        Raises:
            ValueError: the uploaded network is served as it came.
        """
        if self.written is None:
            raise ValueError("the uploaded model is served as it came, so there is no file to write")
        columns = {} if self.dataset.columns is None else {"columns": json.dumps(self.dataset.columns)}
        properties = {**columns, **(metadata or {})}
        return self.written.file.save(path, outputs=outputs, guarantees=self.guarantees, metadata=properties)


@dataclass(frozen=True)
class ReportHeader:
    """The head of a report, which names what was requested and given; from it the calibration can be repeated."""

    request: Mapping[str, object] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    subject: Subject | None = None


def calibrate(
    classifier: GraphClassifier,
    dataset: Dataset,
    options: CalibrationOptions | None = None,
    *,
    header: ReportHeader = ReportHeader(),
    journal: Journal | None = None,
    progress: JobProgress | None = None,
    observer: Observer | None = None,
) -> Calibration:
    """Fine-tune and calibrate on train and calibration rows, judge on test rows, promise on guarantee rows.

    Args:
        dataset: in the classifier's inputs and classes (`fedlas.data.align`).
        journal: what an earlier attempt has saved, as `run_race` takes it.
        progress: of a job that has begun: the budget counts from there.
        observer: is called with what happens; everything that looks wrong comes before anything is trained.

    Raises:
        BadDataset: a split is too small, its test rows are of one group, or the network gives no finite answers.
        BaselineMismatch: the uploaded network's accuracy is far from what its owner expects.
        PreconditionFailed: network and dataset certainly do not belong together, and that was not accepted.
    """
    options = options or CalibrationOptions()
    progress = progress or JobProgress()
    observer = observer or Observer()
    progress.begin("evaluating")
    observer.on_stage("evaluating")
    start = prepare(classifier, dataset, options)
    notices = notices_of(start, journal)
    for notice in notices:
        observer.on_event(WarningEvent(type="warning", data=notice))
    check_expected_accuracy(start, notices)
    warnings = require_accepted(notices, options.accept_warnings)

    progress.begin("training")
    observer.on_stage("training")
    result = _race(start, journal, progress, observer)

    progress.begin("calibrating")
    observer.on_stage("calibrating")
    judged = judge_and_write(start, result, partial(_raced_again, dataset=dataset))
    finalist = judged.finalist
    guarantees = None
    if finalist is not None and len(judged.start.dataset.rows("guarantee")) and may_promise(warnings):
        promising = rows_of(judged.start.dataset, "guarantee")[0]
        outputs = SplitOutputs(finalist.classifier, promising, split="guarantee")
        guarantees = fit_guarantees(judged.start.dataset, outputs.probs(finalist))
    evidence = replace(
        _evidence(start, result, judged, dataset.profile()["splits"], header.request),
        guarantees=guarantees,
        digests=header.digests,
        warnings=warnings,
        subject=header.subject,
    )
    return Calibration(
        judged.verdict,
        judged.evaluation.report(evidence),
        judged.start.dataset,
        judged.written,
        judged.evaluation.probs[judged.verdict.finalist or "uploaded"],
        guarantees,
        judged.start.calibrated_on,
        start.adjustments,
    )


def _evidence(
    start: Start, result: RaceResult, judged: Served, splits: Mapping[str, int], request: Mapping[str, object]
) -> Evidence:
    # A second judgement, of the network as ONNX Runtime computes it, has candidates of its own.
    candidates = [*result.candidates, *(() if judged.result is result else judged.result.candidates)]
    dataset, finalist = judged.start.dataset, judged.finalist
    tuned = judged.verdict.finalist in FINE_TUNED
    fitted: Calibrator = Identity() if finalist is None else finalist.calibrator
    return replace(
        judged.evaluation.evidence(judged.verdict, judged.verdict.finalist or "uploaded"),
        diagnostics=None if result.diagnostics is None else fedlas_diagnostics(**vars(result.diagnostics)),
        out_of_fold=OutOfFold.of(
            judged.result.out_of_fold,
            judged.start.targets,
            by_method=judged.result.by_method,
            groups=dataset.groups_of("calibration"),
            weights=dataset.weights_of("calibration"),
            compared_rows=judged.result.compared_rows,
        ),
        trained_rows={split: len(dataset.rows(split)) for split in ("train", "calibration")} if tuned else None,
        deployment=judged.deployment,
        calibration_accuracy=judged.start.accuracy,
        duplicates=shared_rows(dataset),
        candidates=[candidate.as_dict() for candidate in candidates],
        recipe={
            "request": dict(request),
            "winner": None if finalist is None else finalist.result.as_dict(),
            "calibrator": {"name": fitted.name, "parameters": shown_parameters(fitted)},
            "learning_rate_edges": dict(judged.result.rates),
            "seen_by_model": dataset.seen_by_model,
            "splits": splits,
            "calibrated_on": judged.start.calibrated_on,
        },
        machine={"device": device_name()},
        notes=[*judged.notes, *result.notes, *_notes(start, judged.result.post_hoc.calibrator)],
        written_file=judged.written_file,
        adjustments=start.adjustments,
    )


def _race(
    start: Start,
    journal: Journal | None = None,
    progress: JobProgress | None = None,
    observer: Observer | None = None,
) -> RaceResult:
    options, dataset, candidates = start.options, start.dataset, start.candidates()
    # Fits multiply small matrices: on two cores a job without training takes 22 s with two BLAS threads, 5 s with one.
    with threadpool_limits(limits=1, user_api="blas"):
        return run_race(
            start.classifier,
            RaceRows(
                rows_of(dataset, "calibration"),
                start.training_rows() if start.trains else None,
                groups=dataset.groups_of("calibration"),
                weights=dataset.weights_of("calibration"),
            ),
            candidates,
            RaceOptions(
                budget_seconds=options.budget_seconds,
                seconds_after=seconds_after_race(start),
                max_accuracy_drop=options.gate.max_accuracy_drop,
                max_cost_factor=start.max_cost_factor() if candidates else 1.0,
                task=start.classifier.task,
                calibrators=lone_temperature(*start.outputs.logits.shape) if options.method == "temperature" else None,
                seed=options.seed,
            ),
            outputs=start.outputs,
            observer=observer,
            journal=journal if candidates else None,
            progress=progress,
        )


def _raced_again(
    classifier: GraphClassifier, options: CalibrationOptions, dataset: Dataset
) -> tuple[Start, RaceResult]:
    start = prepare(classifier, dataset, options)
    return start, _race(start)


def _notes(start: Start, fitted: Calibrator) -> list[str]:
    notes = [] if start.judged else ["Nothing was trained, since nothing could have been judged."]
    if not start.classifier.trainable:
        why = start.classifier.reason
        notes.append(
            f"The model has no weights that can be trained{f' ({why})' if why else ''}; "
            "only its confidences were calibrated."
        )
    return [*notes, *few_rows(len(start.targets), fitted), *start.dataset.warnings]
