"""The calibration job, step by step, inside the sandbox: files in, files out.

Read `calibrate` from top to bottom: it happens in that order.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from fedlas.calibrators import Calibrator, Identity
from fedlas.calibrators.feature_map import shown_parameters
from fedlas.data import Dataset, shared_rows
from fedlas.documents import as_json
from fedlas.importers import GraphClassifier
from fedlas.race import CandidateResult, Journal, RaceProgress, RaceResult, make_candidates, run_race
from fedlas.race.outputs import SplitOutputs
from fedlas.training.fit import device_name
from service.registry.documents import ModelProfile
from worker.documents import JobOrder, JobResult
from worker.inside.evaluation import Evaluation, write_report
from worker.inside.functions import Emit, Files
from worker.inside.model_loading import check_expected_accuracy, fitting_dataset, open_classifier, rows_of
from worker.inside.preconditions import check_rows, classes_not_met
from worker.inside.publishing import NO_PROMISES, Chosen, chosen, diagnostics_of, export, finalists_probs, promises_of
from worker.inside.reproducibility import asked, digests, journal_of, repeat_exactly

Json = dict[str, Any]

#: Shares of the whole job at which its stages begin, for the progress bar.
_TRAINING_FROM, _TRAINING_TO = 0.05, 0.90


def calibrate(order: JobOrder, files: Files, folder: Path, emit: Emit) -> JobResult:
    """Run one job and return what came of it; `calibrated.onnx`, `report.json` and the diagram are left in `folder`."""
    request, profile = order.request.model_dump(), order.model.profile.stored()
    repeat_exactly()
    emit(_at("inspecting", 0.0))
    classifier = open_classifier(files["model"], order.model.options)
    dataset = fitting_dataset(files["dataset"], profile, folder)

    emit(_at("evaluating", 0.01))
    judged = dataset.seen_by_model != "unknown"
    trains = judged and classifier.trainable and request["method"] not in ("post_hoc", "temperature")
    dataset.require("calibration", "test", *(["train"] if trains else []))
    check_rows(classifier, dataset)
    calibration = rows_of(dataset, "calibration")
    outputs = SplitOutputs(classifier, calibration[0], split="calibration")
    check_expected_accuracy(outputs.logits, calibration[1], request["expected_accuracy"])

    emit(_at("training", _TRAINING_FROM))
    journal = journal_of(order, files, folder, emit)
    result = _race(classifier, dataset, outputs, request, journal, trains=trains, emit=emit)

    emit(_at("calibrating", _TRAINING_TO))
    inputs, _ = rows_of(dataset, "test")
    probs = finalists_probs(classifier, result, inputs)
    evaluation = Evaluation(dataset, probs, request["gate"], order.looks_before, request["seed"])
    judgement = evaluation.judge()
    served = chosen(judgement, result, probs)
    promises = promises_of(served.finalist, dataset, request["seed"]) if served.finalist else NO_PROMISES

    emit(_at("exporting", 0.95))
    calibrated = None
    if served.finalist is not None:
        calibrated = export(served.finalist, promises, folder, inputs, dataset.class_names, order, profile)
    report = evaluation.report(
        judgement,
        served.probs,
        positive_class=profile["positive_class"],
        diagnostics=diagnostics_of(result),
        guarantees=promises.guarantees,
        calibration_accuracy=float((outputs.logits.argmax(1) == calibration[1]).mean()),
        num_calibration_rows=len(calibration[1]),
        duplicates=shared_rows(dataset),
        candidates=[candidate.as_dict() for candidate in result.candidates],
        recipe=_recipe(request, served, dataset, result),
        digests=digests(order),
        machine={"device": device_name()},
        notes=_notes(dataset, classifier, result, judged=judged),
    )
    emit(_at("publishing", 0.99))
    return JobResult(
        verdict=judgement.verdict,
        promoted=judgement.promoted,
        calibrated=None if calibrated is None else ModelProfile.model_validate(calibrated),
        model="calibrated.onnx",
        **write_report(report, folder),
    )


def _race(
    classifier: GraphClassifier,
    dataset: Dataset,
    outputs: SplitOutputs,
    request: Json,
    journal: Journal,
    *,
    trains: bool,
    emit: Emit,
) -> RaceResult:
    """Name the finalists on calibration rows, within the budget; go on where an earlier attempt of the job was."""
    fresh = dataset.seen_by_model == "no"
    candidates = make_candidates(
        request["method"] if trains else "post_hoc",
        request["hyperparameters"],
        max_candidates=request["budget"]["candidates"],
        fresh_rows=fresh,
    )

    def on_progress(progress: RaceProgress) -> None:
        fraction = _TRAINING_FROM + (_TRAINING_TO - _TRAINING_FROM) * progress.fraction
        emit(
            _at(
                "training",
                fraction,
                candidate=progress.name,
                epoch=progress.epoch,
                epochs=progress.epochs,
                eta_seconds=progress.eta_seconds,
            )
        )

    def on_candidate(result: CandidateResult) -> None:
        keys = ("name", "method", "scope", "status", "reason", "calibration")
        said = result.as_dict()
        data = {**{key: said[key] for key in keys}, "seconds": round(result.seconds, 3)}
        emit({"event": {"type": "candidate", "data": as_json(data)}, "important": True})

    return run_race(
        classifier,
        train=rows_of(dataset, "train") if trains else None,
        calibration=rows_of(dataset, "calibration"),
        candidates=candidates,
        budget_seconds=60 * request["budget"]["minutes"],
        max_accuracy_drop=request["gate"]["max_accuracy_drop"],
        seed=request["seed"],
        task=classifier.task,
        groups=dataset.groups_of("calibration"),
        calibrators=("temperature",) if request["method"] == "temperature" else None,
        combine=request["method"] == "auto",
        max_cost_factor=request["max_cost_factor"],
        outputs=outputs,
        train_weights=None if dataset.weights is None else dataset.weights[dataset.rows("train")],
        on_progress=on_progress,
        on_candidate=on_candidate,
        journal=journal if candidates else None,
    )


def _recipe(request: Json, served: Chosen, dataset: Dataset, result: RaceResult) -> Json:
    """How the served model was made, enough to make it again."""
    calibrator: Calibrator = served.finalist.calibrator if served.finalist else Identity()
    winner = served.finalist.result.as_dict() if served.finalist else None
    return {
        "request": asked(request),
        "winner": winner,
        "calibrator": {"name": calibrator.name, "parameters": shown_parameters(calibrator)},
        "learning_rate_edges": dict(result.rates),
        "cost_factor": served.finalist.cost_factor if served.finalist else 1.0,
        "seen_by_model": dataset.seen_by_model,
        "splits": dataset.profile()["splits"],
    }


def _notes(dataset: Dataset, classifier: GraphClassifier, result: RaceResult, *, judged: bool) -> list[str]:
    """What a reader must know beside the verdict."""
    notes = list(result.notes)
    if not judged:
        notes.append("Nothing was trained, since nothing could have been judged.")
    if not classifier.trainable:
        why = classifier.reason
        notes.append(
            f"The model has no weights that can be trained{f' ({why})' if why else ''}; "
            "only its confidences were calibrated."
        )
    return [*notes, *classes_not_met(dataset), *dataset.warnings]


def _at(stage: str, fraction: float, **details: Any) -> Json:
    progress = {"fraction": round(fraction, 4), **details}
    return {"stage": stage, "progress": progress, "important": not details, "at": time.time()}
