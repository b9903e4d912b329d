"""A dry run, inside the sandbox: everything a job would find out before it trains, and what it would cost.

Nothing is trained for keeps and no test row is judged: a few steps of a copy tell the time, and the spread of the
calibration rows tells what the test rows could show.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlas.calibrators import TemperatureScaling, softmax
from fedlas.data import SPLITS, Dataset, shared_rows
from fedlas.gate.ledger_level import ledger_level
from fedlas.importers import GraphClassifier
from fedlas.metrics import accuracy, brier, nll
from fedlas.metrics.betting_intervals import detectable, paired_mean
from fedlas.race import make_candidates
from fedlas.race.candidate_training import default_epochs, keeps_features, train_config
from fedlas.race.outputs import SplitOutputs
from fedlas.race.time_budget import TimeBudget
from fedlas.training.fit import TrainConfig, device_name, predict_logits, steps_per_epoch
from worker.documents import JobOrder, PlanResult
from worker.inside.functions import Emit, Files
from worker.inside.model_loading import check_expected_accuracy, fitting_dataset, open_classifier, rows_of
from worker.inside.preconditions import check_rows, classes_not_met

Json = dict[str, Any]

#: The gate judges two claims, and the first to be shown has half of the level (Holm).
_CLAIMS = 2
#: Rows on which a step is measured; its time does not depend on the learning rate.
_MEASURED_ROWS, _ANY_RATE = 2000, 1e-3


def plan(order: JobOrder, files: Files, folder: Path, emit: Emit) -> PlanResult:
    """What the job of this request would do; raises what the job would raise before training."""
    request, profile = order.request.model_dump(), order.model.profile.stored()
    classifier = open_classifier(files["model"], order.model.options)
    dataset = fitting_dataset(files["dataset"], profile, folder)
    judged = dataset.seen_by_model != "unknown"
    trains = judged and classifier.trainable and request["method"] not in ("post_hoc", "temperature")
    dataset.require("calibration", "test", *(["train"] if trains else []))
    check_rows(classifier, dataset)
    calibration = rows_of(dataset, "calibration")
    outputs = SplitOutputs(classifier, calibration[0], split="calibration")
    logits = outputs.logits
    check_expected_accuracy(logits, calibration[1], request["expected_accuracy"])
    budget = TimeBudget(60 * request["budget"]["minutes"])
    budget.note_speed(outputs)
    return PlanResult(
        plan={
            "features": {"layer": classifier.feature_layer, "dim": classifier.feature_dim},
            "trainable": classifier.trainable,
            "trains": trains,
            "labels": _labels(dataset, profile),
            "leakage": _leakage(dataset),
            "splits": dataset.profile()["splits"],
            "uploaded": _uploaded(logits, calibration[1]),
            "estimate": _estimate(classifier, dataset, request, budget, trains=trains),
            "detectable_effect": _detectable(dataset, order, logits, calibration[1]) if judged else None,
            "warnings": [*classes_not_met(dataset), *dataset.warnings],
        }
    )


def _labels(dataset: Dataset, profile: Json) -> Json:
    """Which class of the model each label of the dataset is, and how many rows have it."""
    counts = np.bincount(dataset.targets, minlength=len(dataset.class_names))
    return {
        "classes": [
            {"index": i, "name": name, "rows": int(count)}
            for i, (name, count) in enumerate(zip(dataset.class_names, counts, strict=True))
        ],
        "matched_by": "name" if dataset.class_names_given and profile["class_names_given"] else "index",
    }


def _leakage(dataset: Dataset) -> Json:
    """Rows of the judging splits that occur elsewhere too, and what the model is said to have seen."""
    shared = {split: shared_rows(dataset, split) for split in ("test", "guarantee", "calibration")}
    return {
        "seen_by_model": dataset.seen_by_model,
        "shared_rows": {name: found for name, found in shared.items() if found},
    }


def _uploaded(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> Json:
    """The uploaded model on the calibration rows."""
    probs = softmax(logits)
    return {
        "split": "calibration",
        "accuracy": accuracy(probs, targets),
        "confidence": float(probs.max(axis=1).mean()),
        "nll": nll(probs, targets),
        "brier": brier(probs, targets),
    }


def _estimate(
    classifier: GraphClassifier, dataset: Dataset, request: Json, budget: TimeBudget, *, trains: bool
) -> Json:
    """Minutes that all candidates would take in full, and the memory that they take here, measured on a few steps."""
    rows = {split: len(dataset.rows(split)) for split in SPLITS}
    # The uploaded network sees every row once, a trained one those of the splits that name and judge it.
    passed = sum(rows.values()) if trains else sum(rows.values()) - rows["train"]
    seconds, candidates = budget.prediction_seconds(passed), 0
    if trains:
        seconds += budget.prediction_seconds(rows["test"])
        for config, step_seconds in _measured(classifier, dataset, request, budget):
            seconds += config.epochs * steps_per_epoch(rows["train"], config.batch_size) * step_seconds
            seconds += budget.prediction_seconds(rows["calibration"] if config.scope == "all" else 0)
            candidates += 1
    return {
        "minutes": round(min(seconds / 60, request["budget"]["minutes"]), 5),
        "minutes_in_full": round(seconds / 60, 3),
        "budget_minutes": request["budget"]["minutes"],
        "candidates": candidates,
        "memory_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "device": device_name(),
    }


def _measured(
    classifier: GraphClassifier, dataset: Dataset, request: Json, budget: TimeBudget
) -> Iterator[tuple[TrainConfig, float]]:
    """Every candidate as it would be trained, and the seconds of one of its steps."""
    train_inputs, train_targets = rows_of(dataset, "train")
    inputs, targets = [array[:_MEASURED_ROWS] for array in train_inputs], train_targets[:_MEASURED_ROWS]
    _, features = predict_logits(classifier, inputs)
    fits = keeps_features(len(train_targets), classifier.feature_dim) and bool(classifier.head_parameters())
    candidates = make_candidates(
        request["method"],
        request["hyperparameters"],
        max_candidates=request["budget"]["candidates"],
        fresh_rows=dataset.seen_by_model == "no",
    )
    for candidate in candidates:
        scope = "head" if candidate.scope == "head" else "all"
        if scope == "head" and not fits:
            continue
        epochs = candidate.epochs or default_epochs(len(train_targets), candidate.batch_size, scope=scope)
        config = train_config(replace(candidate, scope=scope, epochs=epochs, learning_rate=_ANY_RATE), request["seed"])
        yield config, budget.step_seconds(classifier, inputs, targets, config, features=features, device=None)


def _detectable(dataset: Dataset, order: JobOrder, logits: NDArray[np.float32], targets: NDArray[np.int64]) -> Json:
    """The smallest gain over the uploaded model that the test rows would show with 80 % power.

    The spread is that between the uploaded model and itself with a temperature, on calibration rows. Earlier looks at
    the test rows have spent some of the level.
    """
    gate = order.request.gate
    cooled = softmax(TemperatureScaling().fit(logits, targets)(logits))
    groups = dataset.groups_of("calibration")
    mean = paired_mean(cooled, softmax(logits), targets, score=gate.score, groups=groups)
    level = ledger_level(order.looks_before, 1 - gate.confidence_level)
    rows = len(dataset.rows("test"))
    return {
        "score": gate.score,
        "gain": detectable(mean, level / _CLAIMS, num_rows=rows),
        "power": 0.8,
        "test_rows": rows,
        "temperature_would_gain": -mean.value,
    }
