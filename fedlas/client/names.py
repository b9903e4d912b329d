"""Names: under which models are published, and which version answers."""

from __future__ import annotations

from collections.abc import Mapping

from fedlas.client.queries import path_part
from fedlas.client.records.files import Model, Name
from fedlas.client.records.page import Page
from fedlas.client.transport import Pages, Transport

_PATH = "/v1/names"


class Names:
    """`client.names`: published names."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(self, name: str) -> Name:
        """A name, its versions, and which of them answers."""
        return self._transport.read(Name, "GET", _path(name))

    def list(self, *, limit: int | None = None) -> Pages[Name]:
        """All names, in alphabetical order, at most `limit`; iterate over it."""
        return Pages(self._transport, Page[Name], _PATH, {}, limit=limit, cursor=lambda item: item.name)

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
    return f"{_PATH}/{path_part(name)}"
