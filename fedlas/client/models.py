"""Models, and names: files that are uploaded, what became of them, and under which name which version answers."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Unpack

from fedlas.client.conversions import Sendable, model_file, sending
from fedlas.client.orders import ModelOptions, given, id_of, names_of, path_part, query
from fedlas.client.records.files import Model, Name
from fedlas.client.records.parts import Page
from fedlas.client.stored import Stored
from fedlas.client.transfers import OnDownload, OnUpload, download, upload
from fedlas.client.transport import Pages, Transport


class Models(Stored[Model]):
    """`client.models`: classifiers, uploaded and calibrated."""

    _path = "/v1/models"
    _kind = Model

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
        names = names_of(options.get("class_names"))
        local: dict[str, Any] = {"features": options.get("features"), "preprocessing": options.get("preprocessing")}
        local |= {"architecture": options.pop("architecture", None), "num_classes": options.pop("num_classes", None)}
        with sending(model_file, model, example=example, class_names=names, **local) as file:
            known = {"name": file.name, "class_names": file.class_names, **file.options}
            params = query(**{**known, **given(options, class_names=names, columns=names_of(options.get("columns")))})
            record = upload(self._transport, Model, self._path, file.path, params=params, on_upload=on_upload)
        return record, file

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
            f"{self._at(model)}/onnx",
            target,
            params=query(class_priors=class_priors),
            on_progress=on_progress,
        )


_NAMES = "/v1/names"


class Names:
    """`client.names`: published names."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(self, name: str) -> Name:
        """A name, its versions, and which of them answers."""
        return self._transport.read(Name, "GET", _path(name))

    def list(self, *, limit: int | None = None) -> Pages[Name]:
        """All names, in alphabetical order, at most `limit`; iterate over it."""
        return Pages(self._transport, Page[Name], _NAMES, {}, limit=limit, cursor=lambda item: item.name)

    def promote(self, name: str, version: int) -> Name:
        """Let this version answer from now on: a newer one, or an older one to roll back."""
        return self._transport.read(Name, "PUT", _path(name), json={"default_version": version})

    def set_class_priors(self, name: str, class_priors: Mapping[str, float] | None) -> Name:
        """Say how often each class occurs where the name is asked; None takes it back."""
        priors = None if class_priors is None else dict(class_priors)
        return self._transport.read(Name, "PUT", _path(name), json={"class_priors": priors})

    def version(self, name: str, version: int) -> Model:
        """The model that is this version."""
        return self._transport.read(Model, "GET", f"{_path(name)}/versions/{version}")

    def delete(self, name: str, *, version: int | None = None) -> None:
        """Delete a name, or one version that does not answer; the models stay and answer under their ids."""
        self._transport.request("DELETE", _path(name) if version is None else f"{_path(name)}/versions/{version}")


def _path(name: str) -> str:
    return f"{_NAMES}/{path_part(name)}"
