"""A calibration of what a program holds: a model and rows with labels in, a judged model with its report out.

No server takes part. Objects are written as the files that a client would upload (`fedlas.conversion`), these are read
as a worker reads them, and `fedlas.calibration.calibrate` or `calibrate_scores` does the rest.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlas.calibration.evaluation import CalibrationOptions
from fedlas.calibration.opening import OpenedModel, opened
from fedlas.calibration.result import CalibrationResult
from fedlas.calibration.scores import ScoredRows, calibrate_scores
from fedlas.calibration.steps import begun
from fedlas.conversion import ConversionError, DatasetFile, ModelFile, dataset_file, example_of, model_file
from fedlas.data import Dataset, read_dataset
from fedlas.data.scores import read_scores
from fedlas.errors import UnsupportedModel
from fedlas.report import Named, Subject

if TYPE_CHECKING:
    from fedlas.race.results import RaceProgress

#: An hour is for a server; a cell of a notebook is waited for.
_BUDGET_SECONDS = 300.0
#: What cannot be a file can still have its scores calibrated.
_NO_FILE = ("not_exportable", "parity", "not_runnable", "text_column", "bad_example")


@dataclass(frozen=True)
class Progress:
    """How far a calibration is; as text it is a line.

    >>> print(Progress("training", 0.25, 90.0, "fedlas, epoch 2 of 8"))
    training (fedlas, epoch 2 of 8): 25 %, 90 s left
    """

    stage: str
    fraction: float
    eta_seconds: float
    detail: str = ""

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.stage}{detail}: {self.fraction:.0%}, {self.eta_seconds:.0f} s left".replace("%", " %")


def calibrate(
    model: Any = None,
    train: Any = None,
    calibration: Any = None,
    test: Any = None,
    *,
    guarantee: Any = None,
    data: Any = None,
    logits: Any = None,
    probabilities: Any = None,
    labels: Any = None,
    method: str | None = None,
    budget_seconds: float | None = None,
    features: str | None = None,
    class_names: Sequence[str] | None = None,
    roles: Mapping[str, Any] | None = None,
    seen_by_model: str | None = None,
    split_shares: Mapping[str, float] | None = None,
    missing: str = "reject",
    output: str | None = None,
    task: str | None = None,
    architecture: str | None = None,
    seed: int | None = None,
    options: CalibrationOptions | None = None,
    on_progress: Callable[[Progress], object] | None = None,
) -> CalibrationResult:
    """Calibrate a classifier, and judge on test rows what came of it; nothing of the model that is given changes.

    Args:
        model: a `torch.nn.Module`, which is fine-tuned and calibrated; a fitted classifier of scikit-learn; or the path
            of an ONNX file (safetensors with `architecture`). What cannot be written as ONNX has its scores calibrated.
        train, calibration, test, guarantee: rows with labels for each purpose, each of any kind that
            `fedlas.conversion.dataset_file` takes: `(X, y)`, a loader, a dataset, a frame, a mapping of arrays.
            `train` may be None: then calibration rows train.
        data: all rows at once instead, or a path, with a column `split`; without one, splits are drawn.
        logits, probabilities, labels: scores (N, K) and labels (N,) instead of a model and rows, or a mapping of them
            by split. Drawn half and half where they are not.
        method: `auto` (default), `post_hoc` or `temperature`, which train nothing, or a loss (`fedlas.race.METHODS`);
            of scores the name of a calibrator.
        budget_seconds: the most that a calibration takes, 300 by default.
        features: the submodule whose output is the features that FedLAS reads; by default the input of the last linear
            layer. Of a file, the tensor.
        class_names: in the order of the outputs.
        roles: role -> column, where the label is not called `label`, `labels`, `y` or `target`.
        seen_by_model: `no` where the model was trained on none of these rows, `train_split` (default where splits are
            given) where it may know train rows, `unknown` (default where they are drawn), with which nothing is shown.
        split_shares: shares of the splits where they are drawn.
        missing: `nan` lets NaN through to the model.
        output, task: which output of a file holds scores, and `binary` where a single one is a logit.
        seed: of everything that is drawn, 0 by default.
        options: everything else, such as guards, class priors and accepted warnings; the arguments above go before it.
        on_progress: called with `Progress`; `print` shows it.

    Returns:
        The result: `verdict`, `summary` and `report`, which a notebook shows inline; `model`, `save`, `save_report`.

    Raises:
        FedLASError: model or rows cannot be used; the message says what was found and what to do.

    Examples:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> truth = 2 * rng.normal(size=(400, 3))
        >>> labels = (truth + rng.gumbel(size=truth.shape)).argmax(axis=1)
        >>> result = calibrate(logits=3 * truth, labels=labels)
        >>> result.verdict, result.promoted
        ('post_hoc', True)
        >>> result.model.predict_proba(3 * truth).shape
        (400, 3)
    """
    chosen = _options(options, method=method, budget_seconds=budget_seconds, seed=seed)
    folder = Path(tempfile.mkdtemp(prefix="fedlas-"))
    try:
        scores = {"logits": logits, "probabilities": probabilities}
        if logits is not None or probabilities is not None:
            if model is not None or data is not None or train is not None:
                raise ConversionError("model_and_scores", "give a model with rows, or scores with labels, not both")
            result = _of_scores(scores, labels, folder, chosen, class_names, split_shares)
        else:
            rows = _rows(model, data, train, calibration, guarantee, test)
            reading = {"roles": roles, "seen_by_model": seen_by_model, "split_shares": split_shares, "missing": missing}
            opening = {"features": features, "output": output, "task": task, "architecture": architecture}
            job = _Job(model, rows, folder, chosen, class_names, reading, opening, on_progress)
            result = job.calibrated()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(result, shutil.rmtree, folder, ignore_errors=True)
    return result


def _options(given: CalibrationOptions | None, **changed: Any) -> CalibrationOptions:
    base = given or CalibrationOptions(budget_seconds=_BUDGET_SECONDS)
    return replace(base, **{name: value for name, value in changed.items() if value is not None})


def _rows(model: Any, data: Any, train: Any, calibration: Any, guarantee: Any, test: Any) -> Any:
    """The rows of all splits in one."""
    if model is None:
        raise ConversionError("no_model", "give a model with rows, or logits= (or probabilities=) with labels=")
    parts = {"train": train, "calibration": calibration, "guarantee": guarantee, "test": test}
    given = {split: part for split, part in parts.items() if part is not None}
    if data is not None:
        if given:
            raise ConversionError("data_and_parts", f"give data=, or its parts ({', '.join(given)}), not both")
        return data
    if "calibration" not in given or "test" not in given:
        raise ConversionError(
            "parts_missing",
            "calibration and test rows are needed: fedlas.calibrate(model, train, calibration, test), or data= with "
            f"all rows, whose splits are drawn; given were {', '.join(given) or 'none'}",
        )
    if paths := [split for split, part in given.items() if isinstance(part, str | Path)]:
        raise ConversionError("part_is_path", f"{paths[0]} is a path: give data= one file with a column 'split'")
    return given


@dataclass(frozen=True)
class _Job:
    """One calibration of a model with rows."""

    model: Any
    rows: Any
    folder: Path
    options: CalibrationOptions
    class_names: Sequence[str] | None
    reading: Mapping[str, Any]
    opening: Mapping[str, Any]
    on_progress: Callable[[Progress], object] | None

    def calibrated(self) -> CalibrationResult:
        try:
            file = self._model_file()
            model = opened(file, **{name: self.opening[name] for name in ("output", "task", "architecture")})
            rows = self._dataset_file(file.class_names)
        except (ConversionError, UnsupportedModel) as error:
            if isinstance(self.model, str | Path) or not self._scores_will_do(error):
                raise
            return self._by_scores(error)
        dataset = model.aligned(self._read(rows))
        return self._by_network(file, model, rows, dataset)

    def _model_file(self) -> ModelFile:
        return model_file(
            self.model,
            folder=self.folder,
            example=example_of(self.rows),
            class_names=self.class_names,
            features=self.opening["features"],
        )

    def _dataset_file(self, class_names: Sequence[str] | None) -> DatasetFile:
        return dataset_file(
            self.rows,
            folder=self.folder,
            roles=self.reading["roles"],
            seen_by_model=self.reading["seen_by_model"],
            class_names=class_names,
        )

    def _read(self, file: DatasetFile) -> Dataset:
        return read_dataset(
            file.path,
            roles=file.roles or None,  # type: ignore[arg-type]
            seen_by_model=file.seen_by_model,
            split_seed=self.options.seed,
            split_shares=self.reading["split_shares"],
            missing=self.reading["missing"],
        )

    def _scores_will_do(self, error: ConversionError | UnsupportedModel) -> bool:
        return isinstance(error, UnsupportedModel) or error.code in _NO_FILE

    def _by_network(
        self, file: ModelFile, model: OpenedModel, rows: DatasetFile, dataset: Dataset
    ) -> CalibrationResult:
        from fedlas.calibration.network import calibrate as calibrate_network

        progress, stage = begun(self.options), "reading"

        def tell(detail: str = "") -> None:
            if self.on_progress is not None:
                where = progress.position()
                self.on_progress(Progress(stage, where.fraction, where.eta_seconds, detail))

        def begin(name: str) -> None:
            nonlocal stage
            stage = name
            tell()

        def trained(one: RaceProgress) -> None:
            tell(f"{one.name}, epoch {one.epoch} of {one.epochs}" if one.epoch else one.name)

        digests = {"model_sha256": _sha256(file.path), "dataset_sha256": _sha256(rows.path)}
        found = calibrate_network(
            model.classifier,
            dataset,
            self.options,
            request={"method": self.options.method, "budget_seconds": self.options.budget_seconds},
            digests=digests,
            subject=Subject(Named(_name(self.model), sha256=digests["model_sha256"])),
            progress=progress,
            on_stage=begin,
            on_progress=trained,
        )
        return CalibrationResult.of_network(found, model, file.path, notes=[*file.notes, *rows.notes])

    def _by_scores(self, error: Exception) -> CalibrationResult:
        """The scores of a model that cannot be a file, calibrated; the result wraps the model."""
        from fedlas.calibration.model_scores import scored_file

        path, answering, names = scored_file(self.model, self.rows, self.folder, self.reading, self.class_names)
        dataset = read_scores(path, class_names=names, split_shares=self.reading["split_shares"])
        told = f"{_name(self.model)} was not written as a file, so nothing was trained and its scores were calibrated"
        found = calibrate_scores(
            ScoredRows.of(dataset),
            _for_scores(self.options),
            digests={"scores_sha256": _sha256(path)},
            subject=Subject(Named(_name(self.model))),
        )
        return CalibrationResult.of_scores(found, self.folder, answering=answering, notes=[f"{told} ({error})."])


def _of_scores(
    scores: Mapping[str, Any],
    labels: Any,
    folder: Path,
    options: CalibrationOptions,
    class_names: Sequence[str] | None,
    split_shares: Mapping[str, float] | None,
) -> CalibrationResult:
    from fedlas.calibration.model_scores import score_rows

    given = {kind: values for kind, values in scores.items() if values is not None}
    if len(given) > 1 or labels is None:
        raise ConversionError("scores_and_labels", "give logits= or probabilities=, one of them, with labels=")
    ((kind, values),) = given.items()
    file = dataset_file(score_rows(kind, values, labels), folder=folder, class_names=class_names)
    dataset = read_scores(file.path, class_names=class_names, split_shares=split_shares)
    found = calibrate_scores(ScoredRows.of(dataset), options, digests={"scores_sha256": _sha256(file.path)})
    return CalibrationResult.of_scores(found, folder, notes=file.notes)


def _for_scores(options: CalibrationOptions) -> CalibrationOptions:
    """Of a model: everything that is no name of a calibrator is `auto`."""
    return options if options.method == "temperature" else replace(options, method="auto")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _name(model: Any) -> str:
    return Path(model).name if isinstance(model, str | Path) else type(model).__name__
