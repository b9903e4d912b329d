"""Publishing of a finalist: its probabilities, the verdict's choice, its guarantees, and its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fedlas.calibrators import softmax
from fedlas.classifier import Classifier
from fedlas.data import Dataset
from fedlas.errors import ExportError
from fedlas.export.graph import export_onnx
from fedlas.gate.claims import GateVerdict
from fedlas.guarantees import Guarantees
from fedlas.guarantees.typicality import Familiarity
from fedlas.importers import GraphClassifier
from fedlas.race import Finalist, RaceResult
from fedlas.race.ensemble import Ensemble
from fedlas.race.outputs import SplitOutputs
from fedlas.report.diagnostics import Diagnostics, fedlas_diagnostics
from worker.documents import JobOrder
from worker.inside.evaluation import fit_guarantees
from worker.inside.serving_cost import measured

Json = dict[str, Any]
Array = NDArray[Any]

_VERIFIED_ROWS = 256


@dataclass(frozen=True)
class Chosen:
    """What the verdict chose to serve; `finalist` None means the uploaded model as it is."""

    finalist: Finalist | None
    probs: Array


@dataclass(frozen=True)
class Promises:
    """What may be said about a served model beside its confidences."""

    guarantees: Guarantees | None
    familiarity: Familiarity | None


NO_PROMISES = Promises(None, None)


def finalists_probs(classifier: Classifier, result: RaceResult, inputs: Sequence[Array]) -> dict[str, Array]:
    """Probabilities (N, K) of all that is judged, on the test rows, which each network sees once."""
    outputs = SplitOutputs(classifier, inputs, split="test")
    probs: dict[str, Array] = {
        "uploaded": softmax(outputs.logits),
        "temperature": softmax(result.temperature(outputs.logits)),
        "post_hoc": outputs.probs(result.post_hoc),
    }
    if result.same_labels is not result.post_hoc:
        probs["same_labels"] = outputs.probs(result.same_labels)
    if result.trained is not None:
        probs["trained"] = outputs.probs(result.trained)
    return probs


def chosen(judgement: GateVerdict, result: RaceResult, probs: Mapping[str, Array]) -> Chosen:
    """The finalist that the judgement names, with its probabilities on the test rows."""
    name = judgement.finalist
    if name == "trained":
        return Chosen(result.trained, probs[name])
    if name == "post_hoc":
        return Chosen(result.post_hoc, probs[name])
    if name == "same_labels":
        return Chosen(result.same_labels, probs[name])
    return Chosen(None, probs["uploaded"])


def promises_of(finalist: Finalist, dataset: Dataset, seed: int) -> Promises:
    """What guarantee rows allow to promise, and how familiar calibration rows look to the served network."""
    familiarity = Familiarity.fit(finalist.features, dataset.select("calibration")[1], seed=seed)
    if len(dataset.rows("guarantee")) == 0:
        return Promises(None, familiarity)
    inputs, _ = dataset.select("guarantee")
    outputs = SplitOutputs(finalist.classifier, list(inputs.values()), split="guarantee")
    return Promises(fit_guarantees(dataset, outputs.probs(finalist)), familiarity)


def diagnostics_of(result: RaceResult) -> Diagnostics | None:
    """What FedLAS saw on the calibration rows, or None where it was not trained."""
    found = result.diagnostics
    if found is None:
        return None
    return fedlas_diagnostics(
        feature_norms=found.feature_norms,
        correct=found.correct,
        epsilon=found.epsilon,
        gate=found.gate,
        gate_before=found.gate_before,
    )


def export(
    finalist: Finalist,
    promises: Promises,
    folder: Path,
    inputs: Sequence[Array],
    class_names: list[str],
    order: JobOrder,
    profile: Json,
) -> Json:
    """Write the calibrated file, proven on real rows, and return the profile of its record."""
    classifier = finalist.classifier
    assert isinstance(classifier, GraphClassifier | Ensemble)
    options: Json = {
        "calibrator": finalist.calibrator,
        "class_names": class_names,
        "guarantees": promises.guarantees,
        "metadata": {"fedlas.job_id": order.job_id, "fedlas.parent_sha256": order.model.sha256},
        "verify_with": [array[:_VERIFIED_ROWS] for array in inputs],
    }
    familiarity, path = promises.familiarity, folder / "calibrated.onnx"
    try:
        report = export_onnx(classifier, path, familiarity=familiarity, **options)
    except ExportError as error:
        if error.code != "familiarity_parity":
            raise
        # Distances that float32 cannot tell are no reason to lose a calibrated model.
        familiarity = None
        report = export_onnx(classifier, path, **options)
    network = classifier.networks[0] if isinstance(classifier, Ensemble) else classifier
    assert isinstance(network, GraphClassifier)
    cost = measured(path, network.inputs, network.lengths, report.cost)
    return {
        **profile,
        "format": "onnx",
        "architecture": None,
        "warnings": [],
        "output": {"name": "probabilities", "kind": "probabilities"},
        "class_names": class_names,
        "class_names_given": profile["class_names_given"] or class_names != profile["class_names"],
        "guarantees": promises.guarantees.as_dict() if promises.guarantees else None,
        "familiarity": {"score": familiarity.score} if familiarity else None,
        "cost_factor": round(finalist.cost_factor, 3),
        "cost": cost.as_dict(),
    }
