"""Names: under which models are published, and which version answers."""

from __future__ import annotations

from collections.abc import Mapping

from fedlas.client._async.pages import AsyncPages
from fedlas.client._async.transport import AsyncTransport
from fedlas.client.queries import path_part
from fedlas.client.records.files import Model, Name
from fedlas.client.records.page import Page

_PATH = "/v1/names"


class AsyncNames:
    """`client.names`: published names."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def get(self, name: str) -> Name:
        """A name, its versions, and which of them answers."""
        return await self._transport.read(Name, "GET", _path(name))

    def list(self, *, limit: int | None = None) -> AsyncPages[Name]:
        """All names, in alphabetical order, at most `limit`; iterate over it."""
        return AsyncPages(self._transport, Page[Name], _PATH, {}, limit=limit, cursor=lambda item: item.name)

    async def promote(self, name: str, version: int) -> Name:
        """Let this version answer from now on: a newer one, or an older one to roll back."""
        return await self._transport.read(Name, "PUT", _path(name), json={"default_version": version})

    async def set_class_priors(self, name: str, class_priors: Mapping[str, float] | None) -> Name:
        """Say how often each class occurs where the name is asked; None takes it back."""
        priors = None if class_priors is None else dict(class_priors)
        return await self._transport.read(Name, "PUT", _path(name), json={"class_priors": priors})

    async def version(self, name: str, version: int) -> Model:
        """The model that is this version."""
        return await self._transport.read(Model, "GET", f"{_path(name)}/versions/{version}")

    async def delete(self, name: str, *, version: int | None = None) -> None:
        """Delete a name, or one version that does not answer; the models stay and answer under their ids."""
        await self._transport.request("DELETE", _path(name) if version is None else f"{_path(name)}/versions/{version}")


def _path(name: str) -> str:
    return f"{_PATH}/{path_part(name)}"
