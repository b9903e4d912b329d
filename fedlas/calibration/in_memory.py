"""A calibration of what a program holds: a model and rows with labels in, a judged model with its report out.

No server takes part; `InMemoryJob` does what a worker does.

A job in this process: objects become files as a client sends them, which are read as a worker reads them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from fedlas.calibration.evaluation import CalibrationOptions
from fedlas.calibration.model_scores import (
    LabelledRows,
    LabelledScores,
    ModelSource,
    score_names,
    score_rows,
    scored_file,
)
from fedlas.calibration.result import CalibrationResult
from fedlas.calibration.scores import ScoredRows, calibrate_scores
from fedlas.contract.report import Named, Subject
from fedlas.contract.requests import parse_budget
from fedlas.contract.scores import WantedPromise
from fedlas.conversion import DatasetFile, ModelFile, dataset_file, example_of, model_file
from fedlas.conversion.rows import seen_by
from fedlas.data import Dataset, align, read_dataset
from fedlas.data.scores import read_scores
from fedlas.errors import BadDataset, ConversionError, UnsupportedModel
from fedlas.observer import Observer

if TYPE_CHECKING:
    from fedlas.importers import GraphClassifier
    from fedlas.scores.result import ScoreResult


#: Codes of a network that cannot be a file; its scores can still be calibrated.
_NO_FILE = ("not_exportable", "parity", "not_runnable", "text_column", "bad_example")


@dataclass(frozen=True)
class OpenedModel:
    """A classifier with the names of its classes and columns, where they are known."""

    classifier: GraphClassifier
    class_names: list[str] | None
    columns: list[str] | None

    def aligned(self, dataset: Dataset) -> Dataset:
        """The dataset in the model's inputs and classes; raises as `fedlas.data.align` does."""
        return align(
            dataset,
            model_inputs=self.classifier.inputs,
            num_classes=self.classifier.num_classes,
            class_names=self.class_names,
            columns=self.columns,
        )


def opened(file: ModelFile, *, output: str | None, task: str | None) -> OpenedModel:
    """The classifier in a model's file; raises UnsupportedModel as the importers do."""
    from fedlas.importers import load_onnx

    features, task = file.options.get("features"), task or file.options.get("task")
    classifier = load_onnx(file.path, output=output, features=features, task=task)
    columns = json.loads(file.options["columns"]) if "columns" in file.options else None
    return OpenedModel(classifier, _class_names(classifier, file.class_names), columns)


def _class_names(classifier: GraphClassifier, given: list[str] | None) -> list[str] | None:
    """The owner's names, else those in the file, unless they are the numbers 0, 1, … of an encoder."""
    if given is not None and len(given) != classifier.num_classes:
        raise UnsupportedModel(
            "class_names_mismatch", f"{len(given)} class names for a model of {classifier.num_classes} classes"
        )
    labels = classifier.class_labels
    numbered = tuple(map(str, range(classifier.num_classes)))
    return given or (None if labels in (None, numbered) else list(labels or ()))


@dataclass(frozen=True)
class InMemoryJob:
    """One calibration of a model with rows."""

    source: ModelSource
    rows: LabelledRows
    folder: Path
    options: CalibrationOptions
    observer: Observer | None

    def calibrated(self) -> CalibrationResult:
        """Calibrate the model as a network, or by its scores where it cannot be a file."""
        try:
            file = model_file(
                self.source.model,
                folder=self.folder,
                example=example_of(self.rows.data, roles=self.rows.roles),
                class_names=self.source.class_names,
                features=self.source.features,
                architecture=self.source.architecture,
            )
            model = opened(file, output=self.source.output, task=self.source.task)
            rows = dataset_file(
                self.rows.data,
                folder=self.folder,
                roles=self.rows.roles,
                seen_by_model=self.rows.seen_by_model,
                class_names=file.class_names,
            )
        except (ConversionError, UnsupportedModel) as error:
            if isinstance(self.source.model, str | Path) or not (
                isinstance(error, UnsupportedModel) or error.code in _NO_FILE
            ):
                raise
            return self._by_scores(error)
        roles: Any = rows.roles or None
        seed, seen = self.options.seed, rows.seen_by_model
        reading = replace(self.rows, roles=roles, seen_by_model=seen, split_seed=seed, purpose="fit")
        dataset = read_dataset(rows.path, reading)
        _require_provenance(dataset, seen)
        return self._by_network(file, model, rows, model.aligned(dataset))

    def _by_network(
        self, file: ModelFile, model: OpenedModel, rows: DatasetFile, dataset: Dataset
    ) -> CalibrationResult:
        from fedlas.calibration.network import ReportHeader
        from fedlas.calibration.network import calibrate as calibrate_network

        digests = {"model_sha256": sha256_of(file.path), "dataset_sha256": sha256_of(rows.path)}
        calibration = calibrate_network(
            model.classifier,
            dataset,
            self.options,
            header=ReportHeader(
                {
                    "method": self.options.method,
                    "budget": {
                        "minutes": parse_budget(self.options.budget),
                        "candidates": self.options.max_candidates,
                    },
                },
                digests,
                Subject(model=Named(name=_name(self.source.model), sha256=digests["model_sha256"])),
            ),
            observer=self.observer,
        )
        return CalibrationResult.of_network(calibration, model.classifier, file.path, notes=[*file.notes, *rows.notes])

    def _by_scores(self, error: Exception) -> CalibrationResult:
        """The scores of a model that cannot be a file, calibrated; the result wraps the model."""
        path, answering, names = scored_file(self.source, self.rows, self.folder)
        dataset = read_scores(path, class_names=names, split_shares=self.rows.split_shares)
        said = self.rows.seen_by_model or seen_by(self.rows.data) or "train_split"
        # No part of splits that are drawn here trained the model.
        dataset = replace(dataset, seen_by_model="unknown" if dataset.drawn and said == "train_split" else said)
        _require_provenance(dataset, self.rows.seen_by_model)
        name = _name(self.source.model)
        told = f"{name} was not written as a file, so nothing was trained and its scores were calibrated"
        # A temperature that is asked for is `mixture`, as in a job.
        calibration = calibrate_scores(
            ScoredRows.of(dataset),
            replace(self.options, method="mixture" if self.options.method == "temperature" else "auto"),
            digests={"scores_sha256": sha256_of(path)},
            subject=Subject(model=Named(name=name)),
        )
        return CalibrationResult.of_scores(calibration, self.folder, answering=answering, notes=[f"{told} ({error})."])


def _require_provenance(dataset: Dataset, said: str | None) -> None:
    """Raise BadDataset `provenance_needed` where there are no splits, and nobody has said what the model has seen."""
    if dataset.seen_by_model == "unknown" and said != "unknown":
        raise BadDataset(
            "provenance_needed",
            "nobody has said which of the rows the model was trained on, and rows that it has seen cannot judge it: "
            "say seen_by_model=no (on the command line --seen-by-model no) if it saw none of them, or send a column "
            "split whose train rows are those it saw",
        )


def _name(model: Any) -> str:
    return Path(model).name if isinstance(model, str | Path) else type(model).__name__


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


#: Half an hour is for a server; a cell of a notebook is waited for.
_BUDGET_MINUTES = 5


@overload
def calibrate(
    model: str | PathLike[str] | None = None,
    *,
    scores: Any = None,
    labels: Any = None,
    promise: WantedPromise | Mapping[str, float] | None = None,
    groups: Any = None,
    weights: Any = None,
    slices: Any = None,
    class_names: Sequence[str] | None = None,
    valid_for: str | None = None,
) -> ScoreResult: ...
@overload
def calibrate(
    model: Any,
    train: Any = None,
    calibration: Any = None,
    test: Any = None,
    *,
    method: str | None = None,
    budget: str | float | timedelta | None = None,
    options: CalibrationOptions | None = None,
    observer: Observer | None = None,
) -> CalibrationResult: ...
def calibrate(
    model: Any = None,
    train: Any = None,
    calibration: Any = None,
    test: Any = None,
    *,
    method: str | None = None,
    budget: str | float | timedelta | None = None,
    options: CalibrationOptions | None = None,
    observer: Observer | None = None,
    scores: Any = None,
    labels: Any = None,
    promise: WantedPromise | Mapping[str, float] | None = None,
    groups: Any = None,
    weights: Any = None,
    slices: Any = None,
    class_names: Sequence[str] | None = None,
    valid_for: str | None = None,
) -> CalibrationResult | ScoreResult:
    """Calibrate a classifier, and judge on test rows what came of it; nothing of the model that is given changes.

    With `scores` in place of a model, or the path of a file of scores alone: calibrate one score, or several signals,
    of rows that somebody has called right or wrong, and set a threshold with a promise.

    Args:
        model: a `torch.nn.Module`, which is fine-tuned and calibrated; a fitted classifier of scikit-learn; or the path
            of an ONNX file. What cannot be written as ONNX has its scores calibrated. `fedlas.ModelSource` says more
            about it, such as `class_names`; `fedlas.LabelledScores` are scores with labels in place of a model and
            rows.
        train, calibration, test: rows with labels for each purpose, each of any kind that
            `fedlas.conversion.dataset_file` takes: `(X, y)`, a loader, a dataset, a frame, a mapping of arrays.
            `train` may be None: then calibration rows train. Where it is given alone it is all rows, or a path, with a
            column `split`; without one, splits are drawn, and `fedlas.LabelledRows` says which rows the model has seen
            (`seen_by_model`), and what the columns are.
        method: `auto` (default), `post_hoc` or `temperature`, which train nothing, or a loss (`fedlas.race.METHODS`);
            of scores the name of a calibrator.
        budget: the most that a calibration takes, 5 minutes by default: minutes, a text such as `90s`, `2m` or `1h`, or
            a timedelta.
        options: everything else, such as seed, gate, class priors and accepted warnings; the arguments above go before
            it.
        observer: is called while the calibration runs; `fedlas.PrintingObserver()` prints how far it is.
        scores: one score (N,), where None and NaN are missing; a mapping or frame of several signals; or a csv, ndjson,
            JSON, Parquet or npz file with a column `score`, or `signal_…`, and one `label`.
        labels: (N,) 1 and 0, or words for right and wrong.
        promise: that of the threshold, `{"max_error": 0.05}`, `{"precision": 0.95}` or `{"recall": 0.9}`, with a
            `confidence` of 0.95 unless it is given.
        groups, weights: (N,) rows that belong together, and how many rows each stands for.
        slices: (N,) the part of the rows that each belongs to, or the column that says so; each gets its threshold.
        class_names: the words for wrong and right, in this order, where labels are others than the usual ones.
        valid_for: the version of score, judge or prompt that it holds for.

    Returns:
        The result: `verdict`, `summary` and `report`, which a notebook shows inline; `model`, `save`, `save_report`. Of
        scores `promise`, `predict` and `accept` in place of `model`.

    Raises:
        FedLASError: model or rows cannot be used; the message says what was found and what to do.

    Examples:
        >>> import numpy as np
        >>> from fedlas import LabelledScores
        >>> rng = np.random.default_rng(0)
        >>> truth = 2 * rng.normal(size=(400, 3))
        >>> labels = (truth + rng.gumbel(size=truth.shape)).argmax(axis=1)
        >>> result = calibrate(LabelledScores(logits=3 * truth, labels=labels))
        >>> result.verdict, result.serves
        ('post_hoc', 'calibrated')
        >>> result.model.predict_proba(3 * truth).shape
        (400, 3)
        >>> judge, right = truth[:, 0], rng.random(400) < 1 / (1 + np.exp(-4 - truth[:, 0]))
        >>> result = calibrate(scores=judge, labels=right, promise={"max_error": 0.05})
        >>> result.promise.accepts, result.accept([5.0, None]).tolist()
        ('higher', [True, False])
    """
    of_scores: dict[str, Any] = {"labels": labels, "promise": promise, "groups": groups, "weights": weights}
    of_scores = _given({**of_scores, "slices": slices, "class_names": class_names, "valid_for": valid_for})
    parts = _given({"train": train, "calibration": calibration, "test": test})
    of_model = _given({**parts, "method": method, "budget": budget, "options": options, "observer": observer})
    if scores is None and not of_model and isinstance(model, str | PathLike):
        from fedlas.scores.result import columns_in

        if columns_in(model) is not None:
            model, scores = None, model
    if scores is not None:
        from fedlas.scores.result import fit_scores

        if model is not None or of_model:
            raise ConversionError("model_and_scores", "give a model with rows, or scores with labels, not both")
        return fit_scores(scores, **of_scores)
    if of_scores:
        raise ConversionError("scores_missing", f"{', '.join(of_scores)} go with scores=, and none are given")
    chosen = options or CalibrationOptions(budget=_BUDGET_MINUTES)
    chosen = replace(chosen, method=method or chosen.method, budget=chosen.budget if budget is None else budget)
    folder = Path(tempfile.mkdtemp(prefix="fedlas-"))
    try:
        if isinstance(model, LabelledScores):
            if parts:
                raise ConversionError("model_and_scores", "give a model with rows, or scores with labels, not both")
            kind = "probabilities" if model.logits is None else "logits"
            values = getattr(model, kind)
            names = score_names(values, model.labels, model.class_names)
            file = dataset_file(score_rows(kind, values, model.labels), folder=folder, class_names=names)
            rows = ScoredRows.of(read_scores(file.path, class_names=names, split_shares=model.split_shares))
            calibrated = calibrate_scores(rows, chosen, digests={"scores_sha256": sha256_of(file.path)})
            result = CalibrationResult.of_scores(calibrated, folder, notes=file.notes)
        else:
            source = model if isinstance(model, ModelSource) else ModelSource(model)
            result = InMemoryJob(source, _rows(parts), folder, chosen, observer).calibrated()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(result, shutil.rmtree, folder, ignore_errors=True)
    return result


def _given(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}


def _rows(parts: dict[str, Any]) -> LabelledRows:
    if list(parts) == ["train"]:
        return parts["train"] if isinstance(parts["train"], LabelledRows) else LabelledRows(parts["train"])
    if "calibration" not in parts or "test" not in parts:
        raise ConversionError(
            "parts_missing",
            "calibration and test rows are needed: fedlas.calibrate(model, train, calibration, test), or "
            "fedlas.calibrate(model, rows) with all rows, whose splits are drawn; given were "
            f"{', '.join(parts) or 'none'}",
        )
    for split, part in parts.items():
        if isinstance(part, str | Path | LabelledRows):
            raise ConversionError(
                "part_is_all", f"{split} is a path, or LabelledRows, which are all rows: give one alone, with splits"
            )
    return LabelledRows(parts)
