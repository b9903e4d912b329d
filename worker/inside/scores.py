"""The calibration of scores that are sent without their network: files in, files out.

A job with the method `post_hoc` on the identity: what other jobs ask of a network stands in the file. Calibration rows
choose the calibrator, test rows judge it, guarantee rows promise; what is written is what was judged, not a calibrator
fitted again on all rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fedlas.calibrators import CALIBRATORS, Calibrator, TemperatureScaling, softmax
from fedlas.calibrators.feature_map import shown_parameters
from fedlas.data import Dataset
from fedlas.data.scores import Kind, read_scores
from fedlas.errors import BadDataset, FedLASError
from fedlas.gate.claims import GateVerdict
from fedlas.race.results import CandidateResult
from fedlas.race.scoring import post_hoc_names
from fedlas.race.selection import CalibratorSelector
from worker.documents import ScoresOptions, ScoresOrder, ScoresProfile, ScoresResult
from worker.inside.evaluation import Evaluation, fit_guarantees, write_report
from worker.inside.functions import Emit, Files
from worker.inside.preconditions import check_test_groups, classes_not_met
from worker.inside.scores_graph import as_logits, write

Json = dict[str, Any]
Floats = NDArray[np.float64]

_SEED = 0
#: A request waits for the report: few draws of wrong labels.
_NOISE_DRAWS = 3
_GATE: Json = {"score": "brier", "confidence_level": 0.95, "max_accuracy_drop": 0.005}
#: Intervals rest on this many resamples, fewer where there are many rows, which need them less.
_RESAMPLES, _RESAMPLED_ROWS = 1000, 10_000_000
#: What a record shows of the report, which is long.
_SHOWN = (
    *("verdict", "promoted", "summary", "metrics", "differences", "num_test_rows", "confidence_level", "gate"),
    *("looks", "guarantees", "seed", "digests", "versions"),
)
_UNSEEN = (
    "All this assumes that the model was not trained on any of these rows, which scores alone cannot show: on rows "
    "that it has learnt by heart every figure here is worthless."
)


@dataclass(frozen=True)
class _Scores:
    """Scores (N, K) that are sent, and what they are."""

    dataset: Dataset
    kind: Kind
    sent: NDArray[np.float32]

    def rows(self, split: str) -> tuple[Floats, NDArray[np.int64]]:
        """Logits and targets of one split."""
        chosen = self.dataset.rows(split)
        return as_logits(self.kind, self.sent[chosen]), self.dataset.targets[chosen]


def fit_scores(order: ScoresOrder, files: Files, folder: Path, emit: Emit) -> ScoresResult:
    """Calibrate, judge and write; `calibrator.onnx`, the report, its page and the diagram are left in `folder`."""
    scores = _read(files["scores"], order.options)
    selector = _selector(scores, order.options.method)
    finalists, candidate = _finalists(scores, selector)
    probs = _probabilities(scores, finalists)
    evaluation = Evaluation(
        scores.dataset,
        probs,
        _GATE,
        order.looks_before,
        _SEED,
        noise_draws=_NOISE_DRAWS,
        num_resamples=max(200, min(_RESAMPLES, _RESAMPLED_ROWS // len(probs["uploaded"]))),
    )
    judgement = evaluation.judge()
    name = judgement.finalist or "post_hoc"  # returned all the same where it is not shown to be better
    served = finalists[name]
    promising, _ = scores.rows("guarantee")
    guarantees = fit_guarantees(scores.dataset, softmax(served(promising))) if len(promising) else None

    methods = {"asked": order.options.method, "tried": list(selector.names), "fitted": served.name}
    report = evaluation.report(
        judgement,
        probs[name],
        guarantees=guarantees,
        calibration_accuracy=selector.base_accuracy,
        num_calibration_rows=len(selector.targets),
        candidates=[candidate.as_dict()],
        recipe={"methods": methods, "calibrator": {"name": served.name, "parameters": shown_parameters(served)}},
        digests={"scores_sha256": order.sha256},
        notes=_notes(scores.dataset, judgement),
    )
    metadata = {"fedlas.scores_sha256": order.sha256}
    if guarantees is not None:
        metadata["guarantees"] = json.dumps(guarantees.as_dict())
    names = scores.dataset.class_names
    path = folder / "calibrator.onnx"
    error = write(path, served, scores.kind, names, metadata=metadata, prove_with=scores.sent)
    content = report.as_dict()
    shown = {"num_calibration_rows": len(selector.targets), "methods": methods, "max_probability_error": error}
    profile = ScoresProfile(
        input=scores.kind, num_samples=len(scores.dataset), num_classes=len(names), class_names=list(names)
    )
    return ScoresResult(
        method=served.name,
        parameters=served.parameters(),
        excerpt={**{name: content[name] for name in _SHOWN}, **shown},
        profile=profile,
        onnx=path.name,
        **write_report(report, folder),
    )


def _read(file: Path, options: ScoresOptions) -> _Scores:
    """The scores of a file, with rows enough to fit and to judge."""
    dataset = read_scores(file, class_names=options.class_names, roles=options.roles)
    dataset.require("calibration", "test")
    check_test_groups(dataset)
    ((kind, sent),) = dataset.inputs.items()
    return _Scores(dataset, cast(Kind, kind), sent)


def _selector(scores: _Scores, method: str) -> CalibratorSelector:
    """The calibration rows, and the calibrators that may compete on them."""
    logits, targets = scores.rows("calibration")
    if method != "auto" and method not in CALIBRATORS:
        known = ", ".join(["auto", *sorted(CALIBRATORS)])
        raise BadDataset("unknown_method", f"method {method!r} is none of {known}")
    names = post_hoc_names(logits.shape[1], len(targets)) if method == "auto" else (method,)
    accuracy = float((logits.argmax(axis=1) == targets).mean())
    return CalibratorSelector(
        targets, names, False, scores.dataset.groups_of("calibration"), _SEED, accuracy, _GATE["max_accuracy_drop"]
    )


def _finalists(scores: _Scores, selector: CalibratorSelector) -> tuple[dict[str, Calibrator], CandidateResult]:
    """The plain temperature, the best calibrator, and the best that keeps every label where that one does not.

    Beside them the best one's figures; the logits that gave them are not kept.
    """
    logits, targets = scores.rows("calibration")
    temperature = TemperatureScaling().fit(logits, targets)
    try:
        best = selector.calibrate(logits)
        found: dict[str, Calibrator] = {"temperature": temperature, "post_hoc": best.calibrator}
        keeping = selector.keeping_labels()
        if keeping is not None and not best.calibrator.keeps_order:
            found["same_labels"] = keeping.calibrate(logits).calibrator
    except FedLASError:
        raise
    except ValueError as error:  # the scores were checked, so it is the method that does not suit them
        method = ", ".join(selector.names)
        raise BadDataset("unsuitable_method", f"{method!r} cannot be fitted on these scores: {error}") from error
    return found, selector.post_hoc(best)


def _probabilities(scores: _Scores, finalists: Mapping[str, Calibrator]) -> dict[str, Floats]:
    """Of the test rows (N, K): as they were sent, and by every finalist."""
    logits, _ = scores.rows("test")
    return {"uploaded": softmax(logits), **{name: softmax(one(logits)) for name, one in finalists.items()}}


def _notes(dataset: Dataset, judgement: GateVerdict) -> list[str]:
    """What a reader must know beside the verdict."""
    fitting, judging = len(dataset.rows("calibration")), len(dataset.rows("test"))
    drawn = "split" not in dataset.roles
    how = "drawn by chance: half of each class, whole groups" if drawn else "as the split column says"
    notes = [
        f"The calibrator was fitted on {fitting} rows and judged on {judging} others ({how}).",
        _UNSEEN,
        *classes_not_met(dataset),
        *dataset.warnings,
    ]
    if not judgement.promoted:
        notes.insert(0, "The calibrator is returned all the same; whether to use it is yours.")
    return notes
