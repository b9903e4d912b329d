"""A job in this process: objects become files as a client sends them, which are read as a worker reads them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlas.calibration.evaluation import CalibrationOptions
from fedlas.calibration.result import CalibrationResult
from fedlas.calibration.scores import ScoredRows, calibrate_scores
from fedlas.contract.profiles import Notice
from fedlas.contract.report import Named, Subject
from fedlas.conversion import DatasetFile, ModelFile, dataset_file, example_of, model_file
from fedlas.conversion.rows import seen_by
from fedlas.data import Dataset, align, read_dataset
from fedlas.data.alignment import InputSpec
from fedlas.data.scores import read_scores
from fedlas.errors import BadDataset, ConversionError, UnsupportedModel
from fedlas.progress import JobProgress

if TYPE_CHECKING:
    from fedlas.importers import GraphClassifier
    from fedlas.race.results import RaceProgress

#: What cannot be a file can still have its scores calibrated.
_NO_FILE = ("not_exportable", "parity", "not_runnable", "text_column", "bad_example")


@dataclass(frozen=True)
class OpenedModel:
    """A classifier with the names of its classes and columns, where they are known."""

    classifier: GraphClassifier
    class_names: list[str] | None
    columns: list[str] | None

    def aligned(self, dataset: Dataset) -> Dataset:
        """The dataset in the model's inputs and classes; raises as `fedlas.data.align` does."""
        count = self.classifier.num_classes
        return align(
            dataset,
            model_inputs=[InputSpec(name=s.name, dtype=s.dtype, shape=list(s.shape)) for s in self.classifier.inputs],
            num_classes=count,
            class_names=self.class_names or [str(i) for i in range(count)],
            class_names_given=self.class_names is not None,
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
class Progress:
    """How far a calibration is; as text it is a line.

    >>> print(Progress("training", 0.25, 90.0, "fedlas, epoch 2 of 8"))
    training (fedlas, epoch 2 of 8): 25 %, 90 s left

    Attributes:
        eta_seconds: of the trainings to come, None before the first has ended.
    """

    stage: str
    fraction: float
    eta_seconds: float | None
    detail: str = ""

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        left = "" if self.eta_seconds is None else f", {self.eta_seconds:.0f} s left"
        return f"{self.stage}{detail}: {100 * self.fraction:.0f} %{left}"


@dataclass(frozen=True)
class InMemoryJob:
    """One calibration of a model with rows."""

    model: Any
    rows: Any
    folder: Path
    options: CalibrationOptions
    class_names: Sequence[str] | None
    reading: Mapping[str, Any]
    opening: Mapping[str, Any]
    on_progress: Callable[[Progress], object] | None
    on_notice: Callable[[Notice], object] | None

    def calibrated(self) -> CalibrationResult:
        """Calibrate the model as a network, or by its scores where it cannot be a file."""
        try:
            file = model_file(
                self.model,
                folder=self.folder,
                example=example_of(self.rows, roles=self.reading["roles"]),
                class_names=self.class_names,
                features=self.opening["features"],
                architecture=self.opening["architecture"],
            )
            model = opened(file, **{name: self.opening[name] for name in ("output", "task")})
            rows = dataset_file(
                self.rows,
                folder=self.folder,
                roles=self.reading["roles"],
                seen_by_model=self.reading["seen_by_model"],
                class_names=file.class_names,
            )
        except (ConversionError, UnsupportedModel) as error:
            if isinstance(self.model, str | Path) or not (
                isinstance(error, UnsupportedModel) or error.code in _NO_FILE
            ):
                raise
            return self._by_scores(error)
        dataset = read_dataset(
            rows.path,
            roles=rows.roles or None,  # type: ignore[arg-type]
            seen_by_model=rows.seen_by_model,
            split_seed=self.options.seed,
            split_shares=self.reading["split_shares"],
            missing=self.reading["missing"],
        )
        _require_provenance(dataset, rows.seen_by_model)
        return self._by_network(file, model, rows, model.aligned(dataset))

    def _by_network(
        self, file: ModelFile, model: OpenedModel, rows: DatasetFile, dataset: Dataset
    ) -> CalibrationResult:
        from fedlas.calibration.network import calibrate as calibrate_network

        progress, stage = JobProgress(), "reading"

        def tell(detail: str = "") -> None:
            if self.on_progress is not None:
                where = progress.position()
                self.on_progress(Progress(stage, where.fraction, where.eta_seconds, detail))

        def begin(name: str) -> None:
            nonlocal stage
            stage = name
            tell()

        def trained(one: RaceProgress) -> None:
            tell(f"{one.name}, epoch {one.epoch} of {one.epochs}" if one.epoch else f"{one.name}; {progress}")

        digests = {"model_sha256": sha256_of(file.path), "dataset_sha256": sha256_of(rows.path)}
        found = calibrate_network(
            model.classifier,
            dataset,
            self.options,
            request={"method": self.options.method, "budget_seconds": self.options.budget_seconds},
            digests=digests,
            subject=Subject(model=Named(name=_name(self.model), sha256=digests["model_sha256"])),
            progress=progress,
            on_stage=begin,
            on_progress=trained,
            on_notice=self.on_notice or (lambda notice: None),
        )
        return CalibrationResult.of_network(found, model.classifier, file.path, notes=[*file.notes, *rows.notes])

    def _by_scores(self, error: Exception) -> CalibrationResult:
        """The scores of a model that cannot be a file, calibrated; the result wraps the model."""
        from fedlas.calibration.model_scores import scored_file

        path, answering, names = scored_file(self.model, self.rows, self.folder, self.reading, self.class_names)
        dataset = read_scores(path, class_names=names, split_shares=self.reading["split_shares"])
        said = self.reading["seen_by_model"] or seen_by(self.rows) or "train_split"
        # Of splits that are drawn here no part is what the model was trained on.
        dataset = replace(dataset, seen_by_model="unknown" if dataset.drawn and said == "train_split" else said)
        _require_provenance(dataset, self.reading["seen_by_model"])
        told = f"{_name(self.model)} was not written as a file, so nothing was trained and its scores were calibrated"
        # A temperature that is asked for is `mixture`, as in a job.
        found = calibrate_scores(
            ScoredRows.of(dataset),
            replace(self.options, method="mixture" if self.options.method == "temperature" else "auto"),
            digests={"scores_sha256": sha256_of(path)},
            subject=Subject(model=Named(name=_name(self.model))),
        )
        return CalibrationResult.of_scores(found, self.folder, answering=answering, notes=[f"{told} ({error})."])


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
