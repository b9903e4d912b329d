"""Batches: predictions over a stored dataset, by a worker."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any, Unpack

from fedlas.client.downloads import OnDownload, download
from fedlas.client.errors import InvalidInput
from fedlas.client.events import until_final
from fedlas.client.orders import AnswerOptions, RecordFilter
from fedlas.client.predictions import frame_of
from fedlas.client.queries import HasId, given, id_of, path_part, query
from fedlas.client.records.answers import Prediction, RowFailure
from fedlas.client.records.page import Page
from fedlas.client.records.runs import BatchManifest, BatchRecord
from fedlas.client.transport import Pages, Transport

_PATH = "/v1/predictions"
_FORMATS = {".parquet": "parquet", ".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson"}

Row = Prediction | RowFailure


class Batches:
    """`client.batches`: predictions over stored datasets."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

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
        record = self._transport.read(BatchRecord, "POST", _PATH, json=body, creates=True)
        return self.wait(record) if wait else record

    def get(self, batch: str | HasId) -> BatchRecord:
        """The batch as it stands now."""
        return self._transport.read(BatchRecord, "GET", f"{_PATH}/{path_part(batch)}")

    def wait(self, batch: str | HasId, *, timeout: float | None = None) -> BatchRecord:
        """The batch when it has ended; raises JobFailed, WaitTimeout."""
        return until_final(self._transport, BatchRecord, f"{_PATH}/{path_part(batch)}", timeout=timeout)

    def list(
        self,
        *,
        limit: int | None = None,
        **which: Unpack[RecordFilter],
    ) -> Pages[BatchRecord]:
        """All batches, newest first, at most `limit`; iterate over it."""
        return Pages(
            self._transport, Page[BatchRecord], _PATH, query(**which), limit=limit, cursor=lambda item: item.id
        )

    def delete(self, batch: str | HasId) -> None:
        """Delete a batch that has ended, with its results."""
        self._transport.request("DELETE", f"{_PATH}/{path_part(batch)}")

    def results(self, batch: str | HasId, *, limit: int | None = None, after: int | None = None) -> Pages[Row]:
        """The answers, row by row in the dataset's order; a row without an answer is a `RowFailure`."""
        return Pages(
            self._transport,
            Page[Row],
            f"{_PATH}/{path_part(batch)}/results",
            query(after=after),
            limit=limit,
            cursor=_row_of,
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
        route = f"{_PATH}/{path_part(batch)}/results"
        return download(
            self._transport, route, target, params={"format": format_name}, on_progress=on_progress, stored=False
        )

    def manifest(self, batch: str | HasId) -> BatchManifest:
        """Which parts the answers are stored in, to read them in parallel."""
        return self._transport.read(BatchManifest, "GET", f"{_PATH}/{path_part(batch)}/results/manifest")

    def download_part(
        self,
        batch: str | HasId,
        number: int,
        path: str | PathLike[str],
        *,
        on_progress: OnDownload | None = None,
    ) -> Path:
        """Write one part of the answers to a Parquet file, and check its digest."""
        route = f"{_PATH}/{path_part(batch)}/results/parts/{number}"
        return download(self._transport, route, Path(path), on_progress=on_progress)

    def to_frame(self, batch: str | HasId) -> Any:
        """All answers as a pandas data frame."""
        return frame_of([row.raw for row in self.results(batch)])


def _row_of(item: Row) -> int:
    return item.row or 0
