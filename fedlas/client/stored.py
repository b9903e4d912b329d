"""Stored records: models with their names, datasets, batches and calibrators, and what can be asked of all alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, Unpack

from fedlas.client.errors import APIError, InvalidInput
from fedlas.client.events import LongPoll, until_final
from fedlas.client.inputs import (
    MAX_ROWS,
    Sendable,
    dataset_file,
    model_file,
    score_file,
    score_rows,
    scores_file,
    sending,
)
from fedlas.client.options import (
    AnswerOptions,
    DatasetOptions,
    HasId,
    ModelOptions,
    RecordFilter,
    ScoresOptions,
    check_options,
    given,
    id_of,
    list_query,
    names_of,
    query,
)
from fedlas.client.predictions import frame_of
from fedlas.client.transfers import OnDownload, OnUpload, download, upload
from fedlas.client.transport import Pages, Route
from fedlas.contract.base import Page
from fedlas.contract.predictions import BatchManifest, Prediction, RowFailure, ScoreAnswer
from fedlas.contract.records import BatchRecord, CalibratorRecord, DatasetRecord, ModelRecord, NameRecord, Record
from fedlas.contract.requests import BatchErrors
from fedlas.contract.scores import ScoreReport

if TYPE_CHECKING:
    from fedlas.client.reports import Report

R = TypeVar("R", bound=Record)


class Stored(Route, Generic[R]):
    """Records of one kind: what `client.models`, `.datasets`, `.calibrators` and `.batches` have in common."""

    _kind: type[R]

    def get(self, record: str | HasId) -> R:
        """The record as it stands now, by its id, or a model's published name."""
        return self._bound(self._transport.read(self._kind, "GET", self._at(record)))

    def wait(self, record: str | HasId, *, wait_timeout: float | None = None) -> R:
        """The record once work on it has ended; raises Rejected, JobFailed, or WaitTimeout after so many seconds."""
        return until_final(self._transport, self._kind, self._at(record), LongPoll(wait_timeout))

    def list(self, *, limit: int | None = None, **which: Unpack[RecordFilter]) -> Pages[R]:
        """All records, newest first, at most `limit`; iterate over it."""
        check_options(self.list, RecordFilter, which)
        pages: type[Page[R]] = Page[self._kind]  # type: ignore[name-defined]  # a class that is only known here
        params, at = list_query(**which), self._path
        return Pages(self._transport, pages, at, params, limit=limit, prepare=self._bound)

    def delete(self, record: str | HasId) -> None:
        """Delete a record, with what was kept of it; raises ConflictError while it is published or needed."""
        self._transport.request("DELETE", self._at(record))

    def _bound(self, record: R) -> R:
        """The record, as it is handed out."""
        return record


class Models(Stored[ModelRecord]):
    """`client.models`: classifiers, uploaded and calibrated."""

    _path = "/v1/models"
    _kind = ModelRecord

    def upload(
        self,
        model: str | PathLike[str] | Any,
        *,
        example: Any = None,
        wait: bool = True,
        on_upload: OnUpload | None = None,
        **options: Unpack[ModelOptions],
    ) -> ModelRecord:
        """Upload a model: an ONNX or safetensors file, or an object that is written as one first.

        Args:
            model: a path; or a `torch.nn.Module` or an estimator of scikit-learn (`pip install fedlas[sklearn]`).
            example: a batch of inputs, with which a module is exported.
            wait: until inspection has found it ready.
            on_upload: called with bytes sent and bytes in all.
            options: `name`, `class_names`, `preprocessing`, … (`fedlas.client.options.ModelOptions`).

        Raises:
            Rejected: inspection says what is wrong with it.
            ClientError: FileError, InvalidRequestError, DigestMismatch, or fedlas.conversion's ConversionError.
        """
        record, _ = self.send(model, example=example, on_upload=on_upload, **options)
        return self.wait(record) if wait else record

    def send(
        self, model: Any, *, example: Any = None, on_upload: OnUpload | None = None, **options: Unpack[ModelOptions]
    ) -> tuple[ModelRecord, Sendable]:
        """Upload without waiting for inspection; also returns what was sent."""
        check_options(self.upload, ModelOptions, options)
        names = names_of(options.get("class_names"))
        local: dict[str, Any] = {"features": options.get("features"), "preprocessing": options.get("preprocessing")}
        local |= {"architecture": options.pop("architecture", None), "num_classes": options.pop("num_classes", None)}
        with sending(model_file, model, example=example, class_names=names, **local) as file:
            known = {"name": file.name, "class_names": file.class_names, **file.options}
            params = query(**{**known, **given(options, class_names=names, columns=names_of(options.get("columns")))})
            record = upload(self._transport, ModelRecord, self._path, file.path, params=params, on_upload=on_upload)
        return record, file

    def download(
        self,
        model: str | ModelRecord,
        path: str | PathLike[str] | None = None,
        *,
        class_priors: Literal["input"] | None = None,
        on_progress: OnDownload | None = None,
    ) -> Path:
        """Write a model's file to `path` (a file, or a folder to put it into) and return where it is.

        An uploaded model comes as it was sent, a calibrated one with its standard outputs. The digest is checked, and
        nothing stands at `path` before the whole is there.

        Args:
            class_priors: `input`: a calibrated model with one more input, the class priors (K,) of its answers.
        """
        target = Path(path) if path is not None else Path()
        if target.is_dir():
            target = target / f"{id_of(model)}.onnx"
        return download(
            self._transport,
            f"{self._at(model)}/onnx",
            target,
            params=query(class_priors=class_priors),
            on_progress=on_progress,
        )


class Names(Route):
    """`client.names`: published names."""

    _path = "/v1/names"

    def get(self, name: str) -> NameRecord:
        """A name, its versions, and which of them answers."""
        return self._transport.read(NameRecord, "GET", self._at(name))

    def list(self, *, limit: int | None = None) -> Pages[NameRecord]:
        """All names, in alphabetical order, at most `limit`; iterate over it."""
        return Pages(self._transport, Page[NameRecord], self._path, {}, limit=limit)

    def promote(self, name: str, version: int) -> NameRecord:
        """Let this version answer from now on: a newer one, or an older one to roll back."""
        return self._transport.read(NameRecord, "PATCH", self._at(name), json={"default_version": version})

    def set_class_priors(self, name: str, class_priors: Mapping[str, float] | None) -> NameRecord:
        """Say how often each class occurs where the name is asked; None takes it back."""
        priors = None if class_priors is None else dict(class_priors)
        return self._transport.read(NameRecord, "PATCH", self._at(name), json={"class_priors": priors})

    def version(self, name: str, version: int) -> ModelRecord:
        """The model that is this version."""
        return self._transport.read(ModelRecord, "GET", f"{self._at(name)}/versions/{version}")

    def delete(self, name: str, *, version: int | None = None) -> None:
        """Delete a name, or one version that does not answer; the models stay and answer under their ids."""
        self._transport.request("DELETE", self._at(name) if version is None else f"{self._at(name)}/versions/{version}")


class Datasets(Stored[DatasetRecord]):
    """`client.datasets`: rows with labels and splits, or rows that are only to be predicted."""

    _path = "/v1/datasets"
    _kind = DatasetRecord

    def upload(
        self,
        data: str | PathLike[str] | Any,
        *,
        wait: bool = True,
        on_upload: OnUpload | None = None,
        **options: Unpack[DatasetOptions],
    ) -> DatasetRecord:
        """Upload a dataset: an npz, csv, parquet or zipped image folder, or an object that is written as one first.

        Args:
            data: a path; or `(X, y)`, a mapping of arrays, a data frame, a `Dataset` or `DataLoader`, or one of these
                for each split, `{"train": …, "calibration": …, "test": …}`.
            wait: until inspection has found it ready.
            on_upload: called with bytes sent and bytes in all.
            options: `name`, `roles`, `seen_by_model`, … (`fedlas.client.options.DatasetOptions`).

        Raises:
            Rejected: inspection says what is wrong with it.
            ClientError: FileError, InvalidRequestError, DigestMismatch, or fedlas.conversion's ConversionError.
        """
        record, _ = self.send(data, on_upload=on_upload, **options)
        return self.wait(record) if wait else record

    def send(
        self,
        data: Any,
        *,
        class_names: Sequence[str] | None = None,
        on_upload: OnUpload | None = None,
        **options: Unpack[DatasetOptions],
    ) -> tuple[DatasetRecord, Sendable]:
        """Upload without waiting for inspection; also returns what was sent.

        Args:
            class_names: of the model, whose indices the labels of an object become.
        """
        check_options(self.upload, DatasetOptions, options)
        roles, seen = options.get("roles"), options.get("seen_by_model")
        with sending(dataset_file, data, roles=roles, seen_by_model=seen, class_names=class_names) as file:
            params = query(**{"name": file.name, **file.options, **given(options)})
            record = upload(self._transport, DatasetRecord, self._path, file.path, params=params, on_upload=on_upload)
        return record, file


_FORMATS = {".parquet": "parquet", ".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson"}

Row = Prediction | RowFailure


class Batches(Stored[BatchRecord]):
    """`client.batches`: predictions over stored datasets."""

    _path = "/v1/batches"
    _kind = BatchRecord

    def create(
        self,
        model: str | HasId,
        dataset: str | HasId,
        *,
        errors: BatchErrors | None = None,
        **options: Unpack[AnswerOptions],
    ) -> BatchRecord:
        """Begin predictions of a model, by id or name, for all rows of a dataset; `client.batches.wait` waits for them.

        Args:
            errors: `fail`: a row without an answer ends the batch; `column`: it has an error in its place.
            options: those of `predict` (`fedlas.client.options.AnswerOptions`).
        """
        check_options(self.create, AnswerOptions, options)
        body = given(options, model=id_of(model), dataset_id=id_of(dataset), errors=errors)
        return self._transport.read(BatchRecord, "POST", self._path, json=body, creates=True)

    def results(self, batch: str | HasId, *, limit: int | None = None, after: int | None = None) -> Pages[Row]:
        """The answers, row by row in the dataset's order; a row without an answer is a `RowFailure`."""
        return Pages(
            self._transport,
            Page[Row],
            f"{self._at(batch)}/results",
            query(after=after),
            limit=limit,
        )

    def download(self, batch: str | HasId, path: str | PathLike[str], *, on_progress: OnDownload | None = None) -> Path:
        """Write all answers to a `.parquet`, `.csv` or `.ndjson` file."""
        target = Path(path)
        if (format_name := _FORMATS.get(target.suffix.lower())) is None:
            raise InvalidInput("unknown_suffix", f"results are written as {', '.join(_FORMATS)}; found {target.name!r}")
        route = f"{self._at(batch)}/results"
        return download(
            self._transport, route, target, params={"format": format_name}, on_progress=on_progress, stored=False
        )

    def manifest(self, batch: str | HasId) -> BatchManifest:
        """The parts that the answers are stored in, to read them in parallel."""
        return self._transport.read(BatchManifest, "GET", f"{self._at(batch)}/results/manifest")

    def download_part(
        self, batch: str | HasId, number: int, path: str | PathLike[str], *, on_progress: OnDownload | None = None
    ) -> Path:
        """Write one part of the answers to a Parquet file, and check its digest."""
        return download(
            self._transport, f"{self._at(batch)}/results/parts/{number}", Path(path), on_progress=on_progress
        )

    def to_frame(self, batch: str | HasId) -> Any:
        """All answers as a pandas data frame."""
        return frame_of([row.raw for row in self.results(batch)])


class Calibrators(Stored[CalibratorRecord]):
    """`client.calibrators`: maps from scores to calibrated probabilities, of one score with a promise."""

    _path = "/v1/calibrators"
    _kind = CalibratorRecord

    def create(
        self,
        scores: str | PathLike[str] | None = None,
        *,
        logits: Any = None,
        probabilities: Any = None,
        labels: Any = None,
        columns: Mapping[str, Any] | None = None,
        on_upload: OnUpload | None = None,
        **options: Unpack[ScoresOptions],
    ) -> CalibratorRecord:
        """Begin to fit a calibrator; `client.calibrators.wait` waits for it.

        Args:
            scores: an npz or csv file; or else arrays are given, which needs NumPy.
            logits: (N, K); or `probabilities`.
            labels: (N,) class indices or names.
            columns: arrays of length N with another role, such as `split` or `group`.
            options: `method`, `class_names`, … (`fedlas.client.options.ScoresOptions`).

        Raises:
            InvalidRequestError: the scores cannot be used.
        """
        check_options(self.create, ScoresOptions, options)
        arrays = {"logits": logits, "probabilities": probabilities, "labels": labels, **(columns or {})}
        with sending(scores_file, scores, arrays=arrays) as file:
            return self._send(file, options, on_upload, wait=0)

    def fit(
        self,
        scores: Any,
        labels: Any = None,
        *,
        groups: Any = None,
        weights: Any = None,
        slices: Any = None,
        on_upload: OnUpload | None = None,
        **options: Unpack[ScoresOptions],
    ) -> CalibratorRecord:
        """Calibrate one score or several signals, wait for it, and return the record with its `promise`.

        Args:
            scores: (N,), where None and NaN are missing; a mapping or frame of several signals; or a csv, ndjson, JSON,
                Parquet or npz file, in which all else stands, too.
            labels: (N,) 1 and 0, or words for right and wrong.
            groups, weights: (N,) rows that belong together, and how many rows each stands for.
            slices: (N,) the part of the rows that each belongs to, or the column that says so.
            options: `promise`, `valid_for`, `publish_as`, … (`fedlas.client.options.ScoresOptions`).

        Raises:
            InvalidRequestError: the scores cannot be used; `code` and `message` say why.
            ClientError: FileError, JobFailed, or fedlas.conversion's ConversionError.
        """
        check_options(self.fit, ScoresOptions, options)
        if isinstance(slices, str):
            options["slice"], slices = slices, None
        beside = {"label": labels, "group": groups, "weight": weights, "slice": slices}
        with sending(score_file, scores, beside=beside) as file:
            return self.wait(self._send(file, options, on_upload, wait=60))

    def _send(
        self, file: Sendable, options: ScoresOptions, on_upload: OnUpload | None, *, wait: int
    ) -> CalibratorRecord:
        """The record after so many seconds at most; of scores that are refused within them nothing stays behind."""
        names = names_of(options.get("class_names"))
        params = query(**{"name": file.name, **given(options, class_names=names), "wait": wait})
        return upload(self._transport, CalibratorRecord, self._path, file.path, params=params, on_upload=on_upload)

    def predict(
        self,
        calibrator: str | HasId,
        scores: Any,
        *,
        slices: Sequence[str] | None = None,
        valid_for: str | None = None,
    ) -> ScoreAnswer:
        """The probability that each row is right, with its band, and whether the promise accepts it.

        Args:
            calibrator: a published name, an id, or a record; of one score or several signals.
            scores: (N,), where None and NaN are missing; or a mapping or frame of the signals.
            slices: (N,) the slice of each row: it is accepted by the threshold of that slice, if it has one.
            valid_for: the version that the scores come from; of another one than the promise's answers are `stale`.
        """
        rows, answers = score_rows(scores), list[ScoreAnswer]()
        for begin in range(0, len(rows), MAX_ROWS):
            part = slice(begin, begin + MAX_ROWS)
            of_slices = None if slices is None else list(map(str, slices[part]))
            body = given({"scores": rows[part], "slices": of_slices, "valid_for": valid_for})
            answers.append(self._transport.read(ScoreAnswer, "POST", f"{self._at(calibrator)}/predict", json=body))
        if any(answer.model != answers[0].model for answer in answers):
            raise APIError("model_changed", "another version took over meanwhile; ask again")
        predictions = [prediction for answer in answers for prediction in answer.predictions]
        return answers[0].model_copy(update={"predictions": predictions})

    def download(
        self,
        calibrator: str | HasId,
        path: str | PathLike[str] | None = None,
        *,
        class_priors: Literal["input"] | None = None,
        on_progress: OnDownload | None = None,
    ) -> Path:
        """Write its ONNX file (scores in, `probabilities` and `confidence` out) to `path`; the digest is checked.

        Args:
            class_priors: `input`: with one more input, the class priors (K,) of its answers.
        """
        return download(
            self._transport,
            f"{self._at(calibrator)}/onnx",
            Path(path or f"{id_of(calibrator)}.onnx"),
            params=query(class_priors=class_priors),
            on_progress=on_progress,
        )

    def report(self, calibrator: str | HasId) -> Report:
        """The report of a calibrator of logits or probabilities: what the test rows say about it."""
        from fedlas.client.reports import report_at  # its sixty classes take longer than all the rest of the client

        return report_at(self._transport, f"{self._at(calibrator)}/report")

    def score_report(self, calibrator: str | HasId) -> ScoreReport:
        """The report of a calibrator of one score or several signals, with its curve and its promise."""
        return self._transport.read(ScoreReport, "GET", f"{self._at(calibrator)}/report")

    def save_report(self, calibrator: str | HasId, path: str | PathLike[str]) -> Path:
        """Write the report of any calibrator to a `.html` or `.json` file, as the suffix says; raises FileError."""
        from fedlas.client.reports import write_report

        at = f"{self._at(calibrator)}/report"
        page = self._transport.request("GET", f"{at}.html", headers={"Accept": "text/html"})
        return write_report(Path(path), self._transport.request("GET", at).content, page.content)
