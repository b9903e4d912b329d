"""The finalist that is served: the best of those that may be whose file is proven.

Nothing that stops one file is a reason to lose what was won: a finalist that cannot be written gives way to the next.
Where not even a calibrator on the uploaded network can be written, since PyTorch computes that network otherwise than
ONNX Runtime does, the calibrators are fitted and judged again on what ONNX Runtime computes, which is what its file
computes too. After that the uploaded model stays as it came.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np

from fedlas.calibration.evaluation import CalibrationOptions, Evaluation, deployment_of, uploaded_at_priors
from fedlas.calibration.preparation import Start, rows_of
from fedlas.calibrators import softmax
from fedlas.contract.report import GateVerdict, GaveWay, WrittenFile
from fedlas.data import Dataset
from fedlas.deployment import Deployment
from fedlas.errors import BadDataset, ExportError, FedLASError
from fedlas.export.graph import WrittenGraph, write_graph
from fedlas.gate.gate import FINALIST_NAMES, VERDICTS, without_files
from fedlas.guarantees.typicality import Typicality
from fedlas.importers import GraphClassifier
from fedlas.importers.onnx.train.classifier import RuntimeComputedClassifier
from fedlas.race.averaging import Ensemble
from fedlas.race.context import SplitOutputs, require_numbers
from fedlas.race.results import Finalist, RaceResult

T = TypeVar("T")

_LOG = logging.getLogger("fedlas.calibration")
#: The uploaded network without a calibrator, which is written where the job has class priors for its answers.
_UPLOADED = "uploaded"
#: Test rows on which a file is proven, evenly spread; each costs a pass of ONNX Runtime and one of PyTorch.
_PROVEN_ROWS = 256
_COMPUTED_AGAIN = "Its confidences were calibrated, and judged once more, as ONNX Runtime computes them."
Race = Callable[[GraphClassifier, CalibrationOptions], tuple[Start, RaceResult]]


@dataclass(frozen=True)
class WrittenFinalist:
    """A finalist with its name, the class priors and thresholds of its answers, and its file that is proven."""

    name: str
    finalist: Finalist
    deployment: Deployment
    file: WrittenGraph


@dataclass(frozen=True)
class Served:
    """The verdict on what is really served, and its file.

    Attributes:
        start, result: the classifier that was judged, as PyTorch or ONNX Runtime computes it, and its finalists.
        written: None is the uploaded network as it came; `uploaded` is that network at the class priors of the job.
    """

    start: Start
    result: RaceResult
    evaluation: Evaluation
    verdict: GateVerdict
    written: WrittenFinalist | None
    gave_way: tuple[GaveWay, ...]
    notes: tuple[str, ...] = ()

    @property
    def finalist(self) -> Finalist | None:
        return None if self.written is None or self.written.name == _UPLOADED else self.written.finalist

    @property
    def deployment(self) -> Deployment | None:
        return None if self.written is None else self.written.deployment

    @property
    def written_file(self) -> WrittenFile | None:
        """For the report; None where nothing was to be written."""
        if self.written is None and not self.gave_way:
            return None
        return WrittenFile(
            parity=None if self.written is None else self.written.file.report.parity, gave_way=self.gave_way
        )


def judge_and_write(start: Start, result: RaceResult, race: Race) -> Served:
    """Judge the finalists on test rows once, and write the best that may be served and can be written."""
    served = _judge_and_write(start, result)
    # Where the file of the uploaded network with a calibrator differs, nothing of ours changed the weights.
    differs = any(
        gone.code == "parity"
        and (gone.finalist == _UPLOADED or result.finalists[gone.finalist].classifier is start.classifier)
        for gone in served.gave_way
    )
    if served.written is not None or not differs:
        return served
    options = replace(start.options, evaluations_before=start.options.evaluations_before + 1)
    try:
        again = _judge_and_write(*race(RuntimeComputedClassifier(start.classifier), options))
    except FedLASError as error:
        _LOG.warning("the network could not be judged as ONNX Runtime computes it: %s", error)
        return served
    return replace(again, gave_way=(*served.gave_way, *again.gave_way), notes=(*served.notes, _COMPUTED_AGAIN))


def _judge_and_write(start: Start, result: RaceResult) -> Served:
    dataset, options, finalists = start.dataset, start.options, dict(result.finalists)
    evaluation, lost = _evaluate(start, result)
    verdict, at_priors = evaluation.judge(), uploaded_at_priors(result.post_hoc, result.base_logits, options)
    if at_priors is not None:
        finalists[_UPLOADED] = at_priors

    def write(name: str) -> WrittenFinalist:
        deployment = deployment_of(finalists[name].held_out, result.base_logits, dataset, options)
        return WrittenFinalist(
            name, finalists[name], deployment, write_finalist(finalists[name], deployment, dataset, seed=options.seed)
        )

    written, gave_way = first_written([*verdict.order, *([] if at_priors is None else [_UPLOADED])], write)
    served = None if written is None or written.name == _UPLOADED else written.name
    verdict = _without(verdict, served, gave_way, len(evaluation.targets))
    notes = tuple(f"{FINALIST_NAMES[gone.finalist].capitalize()} was not judged: {gone.reason}." for gone in lost)
    return Served(start, result, evaluation, verdict, written, (*lost, *gave_way), notes)


def _evaluate(start: Start, result: RaceResult) -> tuple[Evaluation, list[GaveWay]]:
    """The finalists' probabilities of the test rows, and the finalists that answer them with no numbers."""
    outputs = SplitOutputs(start.classifier, rows_of(start.dataset, "test")[0], split="test")
    probs = {"uploaded": softmax(outputs.logits), "temperature": softmax(result.temperature(outputs.logits))}
    lost: list[GaveWay] = []
    for name, finalist in result.finalists.items():
        try:
            logits, features = outputs.of(finalist)
            require_numbers(logits, features, split="test")
            probs[name] = softmax(finalist.calibrator(logits, features))
        except BadDataset as error:  # the upload answers these rows, so the training did this
            lost.append(GaveWay(finalist=name, code=error.code, reason=error.message))
    return Evaluation(start.dataset, probs, start.options), lost


def _without(verdict: GateVerdict, name: str | None, gave_way: Sequence[GaveWay], num_rows: int) -> GateVerdict:
    reasons: dict[str, str] = {gone.finalist: gone.reason for gone in gave_way if gone.finalist in verdict.order}
    if not reasons:
        return verdict
    changed = verdict.changed(
        verdict=VERDICTS[name], finalist=name, order=tuple(one for one in verdict.order if one not in reasons)
    )
    return changed.changed(sentences=without_files(changed, reasons, num_rows))


def first_written(order: Sequence[str], write: Callable[[str], T]) -> tuple[T | None, tuple[GaveWay, ...]]:
    """Write the first finalist in `order` that can be written; returns its result, and those before it with the reason.

    >>> def write(name):
    ...     raise ExportError("parity", "the written file differs from the network")
    >>> written, (gone,) = first_written(["trained"], write)
    >>> written, gone.code
    (None, 'parity')
    """
    gave_way: list[GaveWay] = []
    for name in order:
        try:
            return write(name), tuple(gave_way)
        except FedLASError as error:
            gave_way.append(GaveWay(finalist=name, code=error.code, reason=error.message))
        except Exception as error:  # a defect of ours, which must not cost the hours of a training
            _LOG.exception("finalist %r could not be written", name)
            gave_way.append(
                GaveWay(
                    finalist=name, code="internal_error", reason=f"an unexpected {type(error).__name__} on our side"
                )
            )
    return None, tuple(gave_way)


def write_finalist(finalist: Finalist, deployment: Deployment, dataset: Dataset, *, seed: int) -> WrittenGraph:
    """The finalist as an ONNX file that is proven on test rows, with how typical rows look where float32 can tell.

    Raises:
        ExportError, UnsupportedModel: as `fedlas.export.graph.write_graph`.
    """
    assert isinstance(finalist.classifier, GraphClassifier | Ensemble)
    inputs, targets = rows_of(dataset, "test")
    chosen = np.unique(np.linspace(0, len(targets) - 1, _PROVEN_ROWS).round().astype(np.int64))
    write = partial(
        write_graph,
        finalist.classifier,
        calibrator=finalist.calibrator,
        class_names=dataset.class_names,
        deployment=deployment,
        verify_with=[array[chosen] for array in inputs],
        targets=targets[chosen],
    )
    try:
        return write(typicality=Typicality.fit(finalist.features, dataset.select("calibration")[1], seed=seed))
    except ExportError as error:
        if error.code != "typicality_parity":
            raise
        # Distances that float32 cannot tell are no reason to lose a calibrated model.
        return write()
