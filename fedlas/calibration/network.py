"""The calibration of a network, step by step: a classifier and a dataset in, the judged finalist with its report out.

Read `calibrate` from top to bottom: it happens in that order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from fedlas.calibration.class_priors import deployment_of, uploaded_at_priors
from fedlas.calibration.evaluation import CalibrationOptions, Evaluation, classes_not_met, few_rows, fit_guarantees
from fedlas.calibration.preparation import Start, prepare, rows_of
from fedlas.calibrators import Calibrator, Identity, softmax
from fedlas.calibrators.feature_map import shown_parameters
from fedlas.data import Dataset, shared_rows
from fedlas.deployment import Deployment
from fedlas.errors import ExportError
from fedlas.export.graph import ExportReport, export_onnx
from fedlas.gate.claims import GateVerdict
from fedlas.guarantees import Guarantees
from fedlas.guarantees.typicality import Familiarity
from fedlas.importers import GraphClassifier
from fedlas.race.ensemble import Ensemble
from fedlas.race.journal import Journal
from fedlas.race.outputs import SplitOutputs
from fedlas.race.race import run_race
from fedlas.race.results import CandidateResult, Finalist, RaceProgress, RaceResult
from fedlas.report import CalibrationReport
from fedlas.report.diagnostics import Diagnostics, fedlas_diagnostics
from fedlas.training.fit import device_name

#: Called with the stage that begins, and the share of the whole that is done.
OnStage = Callable[[Literal["evaluating", "training", "calibrating"], float], None]

#: Shares of the whole at which the race begins and ends.
_RACE_FROM, _RACE_TO = 0.05, 0.90
_VERIFIED_ROWS = 256


@dataclass(frozen=True)
class Calibration:
    """The result of a calibration.

    Attributes:
        finalist: what the verdict serves; None is the uploaded network as it came, of which nothing is promised. Where
            class priors were ordered, that is a finalist without a calibrator.
        guarantees: what the guarantee rows allow to promise of the finalist, if there are any.
        familiarity: how familiar calibration rows look to the finalist.
        calibrated_on: how many rows of each split, as it was drawn or given, calibrate.
        deployment: the class priors of the finalist, and the thresholds that keep the uploaded alarm rates.
    """

    verdict: GateVerdict
    report: CalibrationReport
    dataset: Dataset
    finalist: Finalist | None
    guarantees: Guarantees | None = None
    familiarity: Familiarity | None = None
    calibrated_on: Mapping[str, int] = field(default_factory=dict)
    deployment: Deployment | None = None

    def export(
        self, path: Path, *, metadata: Mapping[str, str] | None = None
    ) -> tuple[ExportReport, Familiarity | None]:
        """Write the finalist as an ONNX file that is proven on test rows; the familiarity is the one in the file.

        Raises:
            ExportError: the file does not compute what was judged.
        """
        assert self.finalist is not None
        classifier, familiarity = self.finalist.classifier, self.familiarity
        assert isinstance(classifier, GraphClassifier | Ensemble)
        write = partial(
            export_onnx,
            classifier,
            path,
            calibrator=self.finalist.calibrator,
            class_names=self.dataset.class_names,
            guarantees=self.guarantees,
            deployment=self.deployment,
            metadata=metadata,
            verify_with=[array[:_VERIFIED_ROWS] for array in rows_of(self.dataset, "test")[0]],
        )
        try:
            return write(familiarity=familiarity), familiarity
        except ExportError as error:
            if error.code != "familiarity_parity":
                raise
            # Distances that float32 cannot tell are no reason to lose a calibrated model.
            return write(), None


def calibrate(
    classifier: GraphClassifier,
    dataset: Dataset,
    options: CalibrationOptions | None = None,
    *,
    request: Mapping[str, object] | None = None,
    digests: Mapping[str, str] | None = None,
    journal: Journal | None = None,
    on_stage: OnStage = lambda stage, fraction: None,
    on_progress: Callable[[RaceProgress], None] | None = None,
    on_candidate: Callable[[CandidateResult], None] | None = None,
) -> Calibration:
    """Fine-tune and calibrate on train and calibration rows, judge on test rows, promise on guarantee rows.

    Args:
        dataset: in the classifier's inputs and classes (`fedlas.data.align`).
        request, digests: what was ordered and given; they are part of the report, from which it can be repeated.
        journal: what an earlier attempt has saved, as `run_race` takes it.
        on_progress: as `run_race` calls it, with the share of the whole calibration.

    Raises:
        BadDataset: a split is too small, its test rows are of one group, or the network gives no finite answers.
        BaselineMismatch: the uploaded network is clearly less accurate than its owner expects.
    """
    on_stage("evaluating", 0.01)
    start = prepare(classifier, dataset, options or CalibrationOptions())
    splits, dataset = dataset.profile()["splits"], start.dataset

    on_stage("training", _RACE_FROM)
    result = _race(start, journal, on_progress, on_candidate)

    on_stage("calibrating", _RACE_TO)
    finalists = result.finalists
    outputs = SplitOutputs(classifier, rows_of(dataset, "test")[0], split="test")
    probs = {
        "uploaded": softmax(outputs.logits),
        "temperature": softmax(result.temperature(outputs.logits)),
        **{name: outputs.probs(finalist) for name, finalist in finalists.items()},
    }
    evaluation = Evaluation(dataset, probs, start.options, result.order)
    verdict = evaluation.judge()
    served = verdict.finalist or "uploaded"
    finalist = finalists.get(served)
    guarantees, familiarity = (None, None) if finalist is None else _promises(finalist, dataset, start.options.seed)
    deployed = finalist or uploaded_at_priors(result.post_hoc, result.base_logits, start.options)
    deployment = (
        None if deployed is None else deployment_of(deployed.held_out, result.base_logits, dataset, start.options)
    )

    evidence = replace(
        evaluation.evidence(verdict, served),
        diagnostics=_diagnostics(result),
        guarantees=guarantees,
        deployment=deployment,
        calibration_accuracy=start.accuracy,
        duplicates=shared_rows(dataset),
        candidates=[candidate.as_dict() for candidate in result.candidates],
        recipe={
            "request": dict(request or {}),
            **_recipe(finalist, dataset, result),
            "splits": splits,
            "calibrated_on": start.calibrated_on,
        },
        digests=digests or {},
        machine={"device": device_name()},
        notes=[*result.notes, *_notes(start)],
    )
    return Calibration(
        verdict,
        evaluation.report(evidence),
        dataset,
        deployed,
        guarantees,
        familiarity,
        start.calibrated_on,
        deployment,
    )


def _race(
    start: Start,
    journal: Journal | None,
    on_progress: Callable[[RaceProgress], None] | None,
    on_candidate: Callable[[CandidateResult], None] | None,
) -> RaceResult:
    """Name the finalists on calibration rows, within the budget; go on where an earlier attempt was."""
    dataset, options, candidates = start.dataset, start.options, start.candidates()

    def in_whole(progress: RaceProgress) -> None:
        fraction = _RACE_FROM + (_RACE_TO - _RACE_FROM) * progress.fraction
        if on_progress is not None:
            on_progress(replace(progress, fraction=fraction))

    return run_race(
        start.classifier,
        train=rows_of(dataset, "train") if start.trains else None,
        calibration=rows_of(dataset, "calibration"),
        candidates=candidates,
        budget_seconds=options.budget_seconds,
        max_accuracy_drop=options.max_accuracy_drop,
        seed=options.seed,
        task=start.classifier.task,
        groups=dataset.groups_of("calibration"),
        calibrators=("temperature",) if options.method == "temperature" else None,
        combine=options.method == "auto",
        max_cost_factor=options.max_cost_factor,
        outputs=start.outputs,
        train_weights=dataset.weights_of("train"),
        calibration_weights=dataset.weights_of("calibration"),
        on_progress=in_whole,
        on_candidate=on_candidate,
        journal=journal if candidates else None,
    )


def _promises(finalist: Finalist, dataset: Dataset, seed: int) -> tuple[Guarantees | None, Familiarity]:
    """What guarantee rows allow to promise, and how familiar calibration rows look to the served network."""
    familiarity = Familiarity.fit(finalist.features, dataset.select("calibration")[1], seed=seed)
    if len(dataset.rows("guarantee")) == 0:
        return None, familiarity
    outputs = SplitOutputs(finalist.classifier, rows_of(dataset, "guarantee")[0], split="guarantee")
    return fit_guarantees(dataset, outputs.probs(finalist)), familiarity


def _diagnostics(result: RaceResult) -> Diagnostics | None:
    """What FedLAS saw on the calibration rows, or None where it was not trained."""
    return None if result.diagnostics is None else fedlas_diagnostics(**vars(result.diagnostics))


def _recipe(finalist: Finalist | None, dataset: Dataset, result: RaceResult) -> dict[str, object]:
    """How the served model was made; with the request it is enough to make it again."""
    calibrator: Calibrator = Identity() if finalist is None else finalist.calibrator
    return {
        "winner": None if finalist is None else finalist.result.as_dict(),
        "calibrator": {"name": calibrator.name, "parameters": shown_parameters(calibrator)},
        "learning_rate_edges": dict(result.rates),
        "cost_factor": 1.0 if finalist is None else finalist.cost_factor,
        "seen_by_model": dataset.seen_by_model,
    }


def _notes(start: Start) -> list[str]:
    """What a reader must know beside the verdict and the race."""
    notes = []
    if not start.judged:
        notes.append("Nothing was trained, since nothing could have been judged.")
    if not start.classifier.trainable:
        why = start.classifier.reason
        notes.append(
            f"The model has no weights that can be trained{f' ({why})' if why else ''}; "
            "only its confidences were calibrated."
        )
    if start.num_idle:
        notes.append(
            f"Nothing is trained, so {start.num_idle:,} rows that were drawn to train calibrate beside the "
            f"{start.calibrated_on['calibration']:,} calibration rows; the model has seen none of them. What judges is "
            "unchanged."
        )
    return [
        *notes,
        *few_rows(len(start.targets)),
        *classes_not_met(start.dataset),
        *start.dataset.warnings,
    ]
