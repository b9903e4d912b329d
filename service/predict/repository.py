"""The model repository: the open model behind a name or id.

Where a name means another model than before, that one is opened while the old one still answers, for a second at most:
a process that makes a change has it opened first, so that its client never waits.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from service.predict.served_folder import NotHere, ResolvedModel
from service.registry.errors import NotFound, RegistryError, Unavailable
from service.repeated import repeat

if TYPE_CHECKING:
    from service.predict.engine.batching import ModelQueue
    from service.predict.engine.scheduler import Scheduler

_LOG = logging.getLogger(__name__)
#: A request waits so long for the model that a name means now, if the one that it meant before is open.
_MAX_WAIT_S = 1.0
#: A request waits so long for a served copy: one in a bucket takes time.
_MAX_FETCH_S = 5.0
_MAX_ENTRIES = 10_000
#: How often models are closed that nothing means any more.
_CLOSE_EVERY_S = 1.0
#: Names that are looked up in one turn of the event loop.
_AT_ONCE = 100
#: The name or id that a request gives, and the version if it gives one.
Key = tuple[str, str | None]
#: Asks for the served copy of an id, and returns when it is worth another look.
Fetch = Callable[[str], Awaitable[None]]


class Folder(Protocol):
    """Says what names and ids mean now."""

    def look_up(self, called: str, version: str | None = None) -> ResolvedModel:
        """Raises NotFound, Conflict, Unavailable, NotHere."""

    def check(self, digest: str) -> None:
        """Raises OutOfService where this served copy may not run now."""

    def has_word_of(self, model_id: str) -> bool:
        """True where it has the served copy, or knows why there is none."""

    def file(self, digest: str) -> AbstractContextManager[Path]:
        """The path of a served copy; raises NotFound."""


class Lookup:
    """Looks up names and ids in a folder, and has those served copies fetched that are not there; on the event loop."""

    def __init__(self, folder: Folder, fetch: Fetch) -> None:
        self.folder = folder
        self._fetch = fetch
        self._fetching: dict[str, asyncio.Task[None]] = {}

    async def __call__(self, called: str, version: str | None = None) -> ResolvedModel:
        """The model that a name or id means now; raises NotFound, Conflict, Overloaded, Unavailable."""
        try:
            return self.folder.look_up(called, version)
        except NotHere as missing:
            await self.fetch(missing.args[0])
        try:
            return self.folder.look_up(called, version)
        except NotHere:
            raise Unavailable("unavailable", "the model's file is being fetched; come again in 1 s") from None

    async def fetch(self, model_id: str) -> None:
        """Have a served copy put there, once for all who wait; returns after a few seconds at the latest."""
        task = self._fetching.get(model_id)
        if task is None:
            task = self._fetching[model_id] = asyncio.ensure_future(self._fetched(model_id))
            task.add_done_callback(lambda done: (self._fetching.pop(model_id), done.cancelled() or done.exception()))
        await asyncio.shield(task)

    async def _fetched(self, model_id: str) -> None:
        until = time.monotonic() + _MAX_FETCH_S
        await self._fetch(model_id)
        while not self.folder.has_word_of(model_id) and time.monotonic() < until:
            await self._fetch(model_id)


class ServedModels(Protocol):
    """The models of the processes that answer predictions, which is this one or others."""

    async def ready(self, called: str, version: str | None = None) -> None:
        """Open the model behind a name or id.

        Raises NotFound, or Conflict while it is not ready (`model_not_ready`) or taken out of service
        (`model_unloaded`), or Unavailable.
        """

    async def prepare(self, model_id: str) -> None:
        """Open a model ahead of its requests; where that fails, they raise."""

    async def count(self) -> None:
        """Have at hand what was counted until now."""

    def check(self) -> None:
        """Raises Unavailable while some predictions have no process that answers them."""

    def processes(self) -> Mapping[str, int]:
        """The processes that answer predictions, as far as is known, by the provider of ONNX Runtime that each has."""

    def provider(self, digest: str) -> str | None:
        """Provider of the model of this file, which may be a lesser one; None where it is not open."""


class ModelRepository:
    """`ServedModels` of this process. It lives on the event loop."""

    def __init__(self, look_up: Lookup, scheduler: Scheduler) -> None:
        self._look_up = look_up
        self._models = scheduler.models
        self._last: dict[Key, ResolvedModel] = {}

    def known(self, called: str, version: str | None = None) -> tuple[ResolvedModel, ModelQueue] | None:
        """The open model that a name or id means now; None where it has to be opened first; raises as `find` does."""
        try:
            resolved = self._look_up.folder.look_up(called, version)
        except NotHere:
            return None
        self._look_up.folder.check(resolved.digest)
        queue = self._models.opened(resolved.digest)
        if queue is None:
            return None
        self._remember(called, version, resolved)
        return resolved, queue

    async def find(self, called: str, version: str | None = None) -> tuple[ResolvedModel, ModelQueue]:
        """Like `known`, but opens it.

        Raises NotFound, or Conflict while it is not ready (`model_not_ready`) or taken out of service
        (`model_unloaded`), OutOfService where it is suspended, Overloaded, Unavailable.
        """
        finding = asyncio.ensure_future(self._found(called, version))
        finding.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may wait for it any more
        if (last := self._still_answering(called, version)) is not None:
            await asyncio.wait([finding], timeout=_MAX_WAIT_S)
            # Asked again: it may be deleted by now.
            if not finding.done() and self._still_answering(called, version) is not None:
                return last
        resolved, queue = await finding
        self._remember(called, version, resolved)
        return resolved, queue

    async def _found(self, called: str, version: str | None) -> tuple[ResolvedModel, ModelQueue]:
        resolved = await self._look_up(called, version)
        return resolved, await self._open(resolved)

    def _still_answering(self, called: str, version: str | None) -> tuple[ResolvedModel, ModelQueue] | None:
        """The model that a name meant last, where it is open and may still answer."""
        last = self._last.get((called, version))
        if last is None or not self._is_named(last) or (queue := self._models.opened(last.digest)) is None:
            return None
        return last, queue

    def _is_named(self, resolved: ResolvedModel) -> bool:
        """True while its version is one of the name's, and the name answers."""
        try:
            self._look_up.folder.check(resolved.digest)
            return self._look_up.folder.look_up(resolved.called, resolved.version).model_id == resolved.model_id
        except (RegistryError, NotHere):
            return False

    def _remember(self, called: str, version: str | None, resolved: ResolvedModel) -> None:
        if len(self._last) >= _MAX_ENTRIES and (called, version) not in self._last:
            del self._last[next(iter(self._last))]
        self._last[called, version] = resolved

    async def ready(self, called: str, version: str | None = None) -> None:
        """Open the model behind a name or id; raises NotFound, Conflict, Unavailable."""
        resolved = await self._look_up(called, version)
        await self._open(resolved)

    async def prepare(self, model_id: str) -> None:
        """Open a model ahead of its requests; where that fails, they raise."""
        try:
            await self.ready(model_id)
        except RegistryError as error:
            _LOG.warning("a model could not be opened ahead of its requests: %s", error.message)

    async def tend(self) -> None:
        """Close models that nothing means any more, again and again, until cancelled."""
        await repeat(_CLOSE_EVERY_S, self._close_unused)

    async def _close_unused(self) -> None:
        before = {resolved.digest for resolved in self._last.values()}
        for number, key in enumerate(list(self._last)):
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)  # requests are answered in between
            if (last := self._last.get(key)) is not None and not self._is_named(last):
                self._last.pop(key)
        for digest in before - {resolved.digest for resolved in self._last.values()}:
            self._models.close(digest)

    async def count(self) -> None:
        """All is counted in this process."""

    def check(self) -> None:
        """A check that passes, since this process answers."""

    def processes(self) -> Mapping[str, int]:
        from service.predict.engine.session import providers

        return {providers()[0]: 1}

    def provider(self, digest: str) -> str | None:
        queue = self._models.opened(digest)
        return None if queue is None else queue.model.provider

    async def _open(self, resolved: ResolvedModel) -> ModelQueue:
        self._look_up.folder.check(resolved.digest)
        limits = resolved.profile.limits
        try:
            try:
                return await self._models.open(resolved.digest, limits)
            except NotFound:  # it was taken away to make room for others
                await self._look_up.fetch(resolved.model_id)
                return await self._models.open(resolved.digest, limits)
        except NotFound as error:  # the model exists: the request is right
            raise Unavailable(error.code, f"{resolved.model_id} cannot be opened: {error.message}") from error
