"""Datasets: files of rows, and what inspection found in them."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any, Unpack

from fedlas.client.conversions import Sendable
from fedlas.client.events import until_final
from fedlas.client.orders import DatasetOptions, RecordFilter
from fedlas.client.queries import given, path_part, query
from fedlas.client.records.files import Dataset
from fedlas.client.records.page import Page
from fedlas.client.sending import sending_dataset
from fedlas.client.transport import Pages, Transport
from fedlas.client.uploads import OnUpload, upload

_PATH = "/v1/datasets"


class Datasets:
    """`client.datasets`: rows with labels and splits, or rows that are only to be predicted."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

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
        with sending_dataset(data, roles=roles, seen_by_model=seen, class_names=class_names) as file:
            params = query(**{"name": file.name, **file.options, **given(options)})
            record = upload(self._transport, Dataset, _PATH, file.path, params=params, on_upload=on_upload)
        return record, file

    def get(self, dataset: str | Dataset) -> Dataset:
        """The record of a dataset."""
        return self._transport.read(Dataset, "GET", f"{_PATH}/{path_part(dataset)}")

    def wait(self, dataset: str | Dataset, *, timeout: float | None = None) -> Dataset:
        """The record once inspection has ended; raises Rejected, WaitTimeout."""
        return until_final(self._transport, Dataset, f"{_PATH}/{path_part(dataset)}", timeout=timeout)

    def list(
        self,
        *,
        limit: int | None = None,
        **which: Unpack[RecordFilter],
    ) -> Pages[Dataset]:
        """All datasets, newest first, at most `limit`; iterate over it."""
        return Pages(self._transport, Page[Dataset], _PATH, query(**which), limit=limit, cursor=lambda item: item.id)

    def delete(self, dataset: str | Dataset) -> None:
        """Delete a dataset, and what was kept of it; raises Conflict while an open job or batch needs it."""
        self._transport.request("DELETE", f"{_PATH}/{path_part(dataset)}")
