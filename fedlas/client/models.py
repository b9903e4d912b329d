"""Models: files that are uploaded, and what became of them."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any, Literal, Unpack

from fedlas.client.conversions import Sendable
from fedlas.client.downloads import OnDownload, download
from fedlas.client.events import until_final
from fedlas.client.orders import ModelOptions, RecordFilter
from fedlas.client.queries import given, id_of, names_of, path_part, query
from fedlas.client.records.files import Model
from fedlas.client.records.page import Page
from fedlas.client.sending import sending_model
from fedlas.client.transport import Pages, Transport
from fedlas.client.uploads import OnUpload, upload

_PATH = "/v1/models"


class Models:
    """`client.models`: classifiers, uploaded and calibrated."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def upload(
        self,
        model: str | PathLike[str] | Any,
        *,
        example: Any = None,
        wait: bool = True,
        on_upload: OnUpload | None = None,
        **options: Unpack[ModelOptions],
    ) -> Model:
        """Upload a model: an ONNX or safetensors file, or an object that is written as one first.

        Args:
            model: a path; or a `torch.nn.Module` or an estimator of scikit-learn (`pip install fedlas[sklearn]`).
            example: a batch of inputs, with which a module is exported.
            wait: until inspection has found it ready.
            on_upload: told of bytes sent and bytes in all.
            options: `name`, `class_names`, `preprocessing`, … (`fedlas.client.orders.ModelOptions`).

        Raises:
            Rejected: inspection says what is wrong with it.
            ClientError: FileProblem, InvalidRequest, DigestMismatch, or fedlas.conversion's ConversionError.
        """
        record, _ = self.send(model, example=example, on_upload=on_upload, **options)
        return self.wait(record) if wait else record

    def send(
        self, model: Any, *, example: Any = None, on_upload: OnUpload | None = None, **options: Unpack[ModelOptions]
    ) -> tuple[Model, Sendable]:
        """Upload without waiting for inspection; also returns what was sent."""
        names, features = names_of(options.get("class_names")), options.get("features")
        with sending_model(model, example=example, class_names=names, features=features) as file:
            known = {"name": file.name, "class_names": file.class_names, **file.options}
            params = query(**{**known, **given(options, class_names=names, columns=names_of(options.get("columns")))})
            record = upload(self._transport, Model, _PATH, file.path, params=params, on_upload=on_upload)
        return record, file

    def get(self, model: str | Model) -> Model:
        """The record of a model, by its id or a published name."""
        return self._transport.read(Model, "GET", f"{_PATH}/{path_part(model)}")

    def wait(self, model: str | Model, *, timeout: float | None = None) -> Model:
        """The record once inspection has ended; raises Rejected, WaitTimeout."""
        return until_final(self._transport, Model, f"{_PATH}/{path_part(model)}", timeout=timeout)

    def list(
        self,
        *,
        limit: int | None = None,
        **which: Unpack[RecordFilter],
    ) -> Pages[Model]:
        """All models, newest first, at most `limit`; iterate over it."""
        return Pages(self._transport, Page[Model], _PATH, query(**which), limit=limit, cursor=lambda item: item.id)

    def delete(self, model: str | Model) -> None:
        """Delete a model; raises Conflict while it is published or in use."""
        self._transport.request("DELETE", f"{_PATH}/{path_part(model)}")

    def download(
        self,
        model: str | Model,
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
            f"{_PATH}/{path_part(model)}/onnx",
            target,
            params=query(class_priors=class_priors),
            on_progress=on_progress,
        )
