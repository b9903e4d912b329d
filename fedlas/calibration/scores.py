"""The calibration of scores whose network is not at hand: a calibration with the method `post_hoc` on the identity.

Calibration rows choose the calibrator, test rows judge it, guarantee rows promise; what is written is what was judged,
not a calibrator fitted again on all rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from fedlas.calibration.evaluation import (
    CalibrationOptions,
    Evaluation,
    check_test_groups,
    deployment_of,
    few_rows,
    fit_guarantees,
    ordered_priors,
)
from fedlas.calibrators import CALIBRATORS, Calibrator, Identity, TemperatureScaling, softmax
from fedlas.calibrators.feature_map import shown_parameters
from fedlas.contract.profiles import Notice
from fedlas.contract.report import GateVerdict, Report, Subject
from fedlas.data import Dataset
from fedlas.data.dataset import Floats, Integers
from fedlas.data.scores import Kind
from fedlas.deployment import Deployment
from fedlas.errors import BadDataset, FedLASError
from fedlas.export.scores_graph import as_logits, write
from fedlas.guarantees import Guarantees
from fedlas.preconditions.examination import Answers, examine, may_promise, require_accepted
from fedlas.race.calibrator_selection import CalibratorSelector
from fedlas.race.results import CrossFitted, post_hoc_names
from fedlas.report import SplitAccuracy
from fedlas.report.parts import OutOfFold

#: Few draws of wrong labels: a request waits for the report.
_NOISE_DRAWS = 3
#: Intervals rest on this many resamples, fewer where there are many rows, which need them less.
_MIN_RESAMPLES = 200
_RESAMPLES = 1000
_RESAMPLED_ROWS = 10_000_000
_UNSEEN = (
    "All this assumes that the model was not trained on any of these rows, which scores alone cannot show: on rows "
    "that it has learnt by heart every figure here is worthless."
)


@dataclass(frozen=True)
class ScoredRows:
    """A dataset whose only input are scores (N, K), and what they are."""

    dataset: Dataset
    kind: Kind
    sent: NDArray[np.float32]

    @classmethod
    def of(cls, dataset: Dataset) -> ScoredRows:
        """Check that there are rows enough to fit and to judge in a `dataset` from `fedlas.data.scores.read_scores`."""
        dataset.require("calibration", "test")
        check_test_groups(dataset)
        ((name, sent),) = dataset.inputs.items()
        return cls(dataset, cast(Kind, name), sent)

    def split(self, name: str) -> tuple[Floats, Integers]:
        chosen = self.dataset.rows(name)
        return as_logits(self.kind, self.sent[chosen]), self.dataset.targets[chosen]


@dataclass(frozen=True)
class ScoresCalibration:
    """The result of it: `calibrator` is returned whatever the verdict is."""

    verdict: GateVerdict
    report: Report
    rows: ScoredRows
    calibrator: Calibrator
    guarantees: Guarantees | None
    deployment: Deployment
    warnings: Sequence[Notice] = ()

    def export(self, path: Path, *, metadata: Mapping[str, str] | None = None) -> float:
        """Write the calibrator as an ONNX file, and return how far its probabilities are from ours.

        Raises:
            ExportError: `parity` where that is more than float32 explains.
        """
        promised = {} if self.guarantees is None else {"guarantees": json.dumps(self.guarantees.as_dict())}
        return write(
            path,
            self.calibrator,
            self.rows.kind,
            self.rows.dataset.class_names,
            deployment=self.deployment,
            metadata={**(metadata or {}), **promised},
            prove_with=self.rows.sent,
        )


def calibrate_scores(
    rows: ScoredRows,
    options: CalibrationOptions | None = None,
    *,
    digests: Mapping[str, str] | None = None,
    subject: Subject | None = None,
) -> ScoresCalibration:
    """Choose a calibrator on calibration rows, judge it on test rows, promise on guarantee rows.

    Of `options` `method` is `auto` or the name of a calibrator; what is about networks is not used.

    Raises:
        BadDataset: `unknown_method`, or `unsuitable_method` where it cannot be fitted on these scores.
        Mismatch: `class_priors_mismatch`.
        PreconditionFailed: scores and labels certainly do not belong together, as `examine` finds.
    """
    options = options or CalibrationOptions()
    ordered_priors(rows.dataset, options)
    logits, targets = rows.split("calibration")
    answers = Answers(dataset=rows.dataset, logits=logits, targets=targets, class_priors=options.class_priors)
    warnings = require_accepted(examine(answers), options.accept_warnings)
    options = replace(
        options,
        noise_draws=_NOISE_DRAWS,
        num_resamples=max(_MIN_RESAMPLES, min(_RESAMPLES, _RESAMPLED_ROWS // len(rows.dataset.rows("test")))),
    )
    selector = _selector(rows, options)
    with threadpool_limits(limits=1, user_api="blas"):  # as around the race of a network
        cross_fitted = _finalists(rows, selector)
    finalists = {name: one.calibrator for name, one in cross_fitted.items()}
    evaluation = Evaluation(rows.dataset, _probabilities(rows, finalists), options)
    verdict = evaluation.judge()
    # One is returned all the same: where nothing is better, the one that can do least harm.
    name = verdict.finalist or ("same_labels" if "same_labels" in finalists else "post_hoc")
    served = finalists[name]
    promising, _ = rows.split("guarantee")
    promises = len(promising) > 0 and may_promise(warnings)
    guarantees = fit_guarantees(rows.dataset, softmax(served(promising))) if promises else None

    deployment = deployment_of(cross_fitted[name].held_out, logits, rows.dataset, options)

    clusters = {"groups": selector.groups, "weights": selector.weights}
    methods = {"asked": options.method, "tried": list(selector.names), "fitted": served.name}
    evidence = replace(
        evaluation.evidence(verdict, name),
        guarantees=guarantees,
        deployment=deployment,
        calibration_accuracy=SplitAccuracy.of(logits.argmax(axis=1) == selector.targets, **clusters),
        out_of_fold=OutOfFold.of(
            {"uploaded": logits, **{name: one.held_out for name, one in cross_fitted.items()}},
            selector.targets,
            **clusters,
        ),
        candidates=[selector.post_hoc(cross_fitted["post_hoc"]).as_dict()],
        recipe={"methods": methods, "calibrator": {"name": served.name, "parameters": shown_parameters(served)}},
        digests=digests or {},
        notes=_notes(rows.dataset, verdict, served),
        warnings=warnings,
        subject=subject,
    )
    return ScoresCalibration(verdict, evaluation.report(evidence), rows, served, guarantees, deployment, warnings)


def _selector(rows: ScoredRows, options: CalibrationOptions) -> CalibratorSelector:
    logits, targets = rows.split("calibration")
    method = options.method
    if method != "auto" and method not in CALIBRATORS:
        known = ", ".join(["auto", *sorted(CALIBRATORS)])
        raise BadDataset("unknown_method", f"method {method!r} is none of {known}")
    return CalibratorSelector(
        targets,
        post_hoc_names(logits.shape[1], len(targets)) if method == "auto" else (method,),
        reads_features=False,
        groups=rows.dataset.groups_of("calibration"),
        weights=rows.dataset.weights_of("calibration"),
        seed=options.seed,
        base_correct=logits.argmax(axis=1) == targets,
        max_accuracy_drop=options.gate.max_accuracy_drop,
    )


def _finalists(rows: ScoredRows, selector: CalibratorSelector) -> dict[str, CrossFitted]:
    logits, _ = rows.split("calibration")
    try:
        return selector.finalists(selector.calibrate(logits), selector.temperature(logits))
    except FedLASError:
        raise
    except ValueError as error:  # the scores were checked, so it is the method that does not suit them
        method = ", ".join(selector.names)
        raise BadDataset("unsuitable_method", f"{method!r} cannot be fitted on these scores: {error}") from error


def _probabilities(rows: ScoredRows, finalists: Mapping[str, Calibrator]) -> dict[str, Floats]:
    """Test probabilities (N, K): as they were sent, with the plain temperature, and by every finalist."""
    logits, _ = rows.split("test")
    temperature = TemperatureScaling().fit(*rows.split("calibration"), weights=rows.dataset.weights_of("calibration"))
    answers = {"uploaded": Identity(), "temperature": temperature, **finalists}
    return {name: softmax(one(logits)) for name, one in answers.items()}


def _notes(dataset: Dataset, verdict: GateVerdict, fitted: Calibrator) -> list[str]:
    fitting, judging = len(dataset.rows("calibration")), len(dataset.rows("test"))
    how = (
        "in order of time" if "time" in dataset.roles else "drawn by chance: the same share of each class, whole groups"
    )
    if "split" in dataset.roles:
        how = "as the split column says"
    return [
        *(
            []
            if verdict.serves == "calibrated"
            else ["The calibrator is returned all the same; whether to use it is yours."]
        ),
        f"The calibrator was fitted on {fitting} rows and judged on {judging} others ({how}).",
        _UNSEEN,
        *few_rows(fitting, fitted),
        *dataset.warnings,
    ]
