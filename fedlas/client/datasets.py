"""Datasets, and batches: files of rows, what inspection found in them, and predictions over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

from fedlas.client.conversions import Sendable, dataset_file, sending
from fedlas.client.errors import InvalidInput
from fedlas.client.orders import AnswerOptions, DatasetOptions, HasId, given, id_of, query
from fedlas.client.predictions import frame_of
from fedlas.client.records.files import Dataset, Prediction, RowFailure
from fedlas.client.records.parts import Page
from fedlas.client.records.runs import BatchManifest, BatchRecord
from fedlas.client.stored import Stored
from fedlas.client.transfers import OnDownload, OnUpload, download, upload
from fedlas.client.transport import Pages


class Datasets(Stored[Dataset]):
    """`client.datasets`: rows with labels and splits, or rows that are only to be predicted."""

    _path = "/v1/datasets"
    _kind = Dataset

    def upload(
        self,
        data: str | PathLike[str] | Any,
        *,
        wait: bool = True,
        on_upload: OnUpload | None = None,
        **options: Unpack[DatasetOptions],
    ) -> Dataset:
        """Upload a dataset: an npz, csv, parquet or zipped image folder, or an object that is written as one first.

        Args:
            data: a path; or `(X, y)`, a mapping of arrays, a data frame, a `Dataset` or `DataLoader`, or one of these
                for each split, `{"train": …, "calibration": …, "test": …}`.
            wait: until inspection has found it ready.
            on_upload: told of bytes sent and bytes in all.
            options: `name`, `roles`, `seen_by_model`, … (`fedlas.client.orders.DatasetOptions`).

        Raises:
            Rejected: inspection says what is wrong with it.
            ClientError: FileProblem, InvalidRequest, DigestMismatch, or fedlas.conversion's ConversionError.
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
    ) -> tuple[Dataset, Sendable]:
        """Upload without waiting for inspection; also returns what was sent.

        Args:
            class_names: of the model, whose indices the labels of an object become.
        """
        roles, seen = options.get("roles"), options.get("seen_by_model")
        with sending(dataset_file, data, roles=roles, seen_by_model=seen, class_names=class_names) as file:
            params = query(**{"name": file.name, **file.options, **given(options)})
            record = upload(self._transport, Dataset, self._path, file.path, params=params, on_upload=on_upload)
        return record, file


_FORMATS = {".parquet": "parquet", ".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson"}

Row = Prediction | RowFailure


class Batches(Stored[BatchRecord]):
    """`client.batches`: predictions over stored datasets."""

    _path = "/v1/predictions"
    _kind = BatchRecord

    def create(
        self,
        model: str | HasId,
        dataset: str | HasId,
        *,
        errors: str | None = None,
        wait: bool = False,
        **options: Unpack[AnswerOptions],
    ) -> BatchRecord:
        """Order predictions of a model, by id or name, for all rows of a dataset.

        Args:
            errors: `fail`: a row without an answer ends the batch; `column`: it has an error in its place.
            wait: until it has ended; raises JobFailed.
            options: those of `predict` (`fedlas.client.orders.AnswerOptions`).
        """
        body = given(options, model=id_of(model), dataset_id=id_of(dataset), errors=errors)
        record = self._transport.read(BatchRecord, "POST", self._path, json=body, creates=True)
        return self.wait(record) if wait else record

    def results(self, batch: str | HasId, *, limit: int | None = None, after: int | None = None) -> Pages[Row]:
        """The answers, row by row in the dataset's order; a row without an answer is a `RowFailure`."""
        return Pages(
            self._transport,
            Page[Row],
            f"{self._at(batch)}/results",
            query(after=after),
            limit=limit,
            cursor=lambda item: item.row or 0,
        )

    def download(
        self,
        batch: str | HasId,
        path: str | PathLike[str],
        *,
        on_progress: OnDownload | None = None,
    ) -> Path:
        """Write all answers to a `.parquet`, `.csv` or `.ndjson` file."""
        target = Path(path)
        format_name = _FORMATS.get(target.suffix.lower())
        if format_name is None:
            message = f"results are written as {', '.join(_FORMATS)}; found {target.name!r}"
            raise InvalidInput("unknown_suffix", message)
        route = f"{self._at(batch)}/results"
        return download(
            self._transport, route, target, params={"format": format_name}, on_progress=on_progress, stored=False
        )

    def manifest(self, batch: str | HasId) -> BatchManifest:
        """Which parts the answers are stored in, to read them in parallel."""
        return self._transport.read(BatchManifest, "GET", f"{self._at(batch)}/results/manifest")

    def download_part(
        self,
        batch: str | HasId,
        number: int,
        path: str | PathLike[str],
        *,
        on_progress: OnDownload | None = None,
    ) -> Path:
        """Write one part of the answers to a Parquet file, and check its digest."""
        route = f"{self._at(batch)}/results/parts/{number}"
        return download(self._transport, route, Path(path), on_progress=on_progress)

    def to_frame(self, batch: str | HasId) -> Any:
        """All answers as a pandas data frame."""
        return frame_of([row.raw for row in self.results(batch)])
