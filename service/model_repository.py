"""The model repository: the ready model behind a name or id, remembered for a moment and open before it is used.

Requests do not wait for the database: an entry in use is read again beside them, and where the name means another model
by then, that one is opened and warmed up first. A process whose client makes or learns of a change calls `forget`, and
its next request sees the change.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from service.inference.profile import ServingProfile
from service.ipc.reader import BackgroundTasks
from service.registry.errors import ControlAway, NotFound, OutOfService, Overloaded, RegistryError, Unavailable

if TYPE_CHECKING:
    from service.inference.batching import ModelQueue
    from service.inference.scheduler import Scheduler

_MAX_PROFILES = 10_000
_LOG = logging.getLogger(__name__)
#: An older entry is read again, beside the requests that use it.
_FRESH_S = 0.1
#: For an older entry a request waits until it was read again,
_STALE_S = 0.5
#: and no longer than this, if the model that it last meant is open.
_MAX_WAIT_S = 1.0
_MAX_ENTRIES = 10_000
VERSION = re.compile(r"[1-9][0-9]{0,8}")
#: The name or id that a request gives, and the version if it gives one.
Key = tuple[str, str | None]


def version_number(version: str) -> int:
    """The version that a path gives; raises NotFound for what can be none."""
    if not VERSION.fullmatch(version):
        raise NotFound("unknown_version", f"versions are numbers, not {version!r:.40}")
    return int(version)


#: Profiles that were read, by model and class priors: a ready model's never changes.
Profiles = dict[tuple[str, object], ServingProfile]


@dataclass(frozen=True, eq=False)
class ResolvedModel:
    """The ready model that a name or id means.

    Attributes:
        called: the published name or id that was asked for; version: the one behind it.
        digest: of its served copy.
        served: the record `model` of an answer, as JSON.
        recorded: its profile as the record has it.
        priors: those of the name, by class; None where it has none of its own.
        profiles: what was read of this and other models.
    """

    called: str
    version: str
    model_id: str
    digest: str
    served: bytes
    recorded: Mapping[str, Any]
    priors: Mapping[str, float] | None
    profiles: Profiles

    @cached_property
    def profile(self) -> ServingProfile:
        """Profile of requests and answers; to read a hundred thousand class names takes milliseconds."""
        priors = self.priors
        key = (self.model_id, None if priors is None else tuple(priors.items()))
        profile = self.profiles.get(key)
        if profile is None:
            if len(self.profiles) >= _MAX_PROFILES:
                self.profiles.clear()
            plain = ServingProfile.of(self.recorded)
            profile = self.profiles[key] = plain if priors is None else replace(plain, shift=plain.shift_to(priors))
        return profile


class ServedModels(Protocol):
    """Served models: what a client has changed or seen counts for its next prediction, once the call has returned."""

    async def ready(self, called: str, version: str | None = None) -> None:
        """Open the model behind a name or id.

        Raises NotFound, or Conflict while it is not ready (`model_not_ready`) or taken out of service
        (`model_unloaded`), or Unavailable.
        """

    async def prepare(self, model_id: str) -> None:
        """Open a model ahead of its requests; where that fails, they raise."""

    async def renew(self, called: str) -> None:
        """Read one name again before its next use."""

    async def forget(self) -> None:
        """Read every name again before its next use."""

    async def drop(self, called: str) -> None:
        """Close the models of a name or id that is out of service."""

    async def count(self) -> None:
        """Have at hand what was counted until now."""

    def check(self) -> None:
        """Raises Unavailable while some predictions have no process that answers them."""

    def device(self) -> str | None:
        """Provider of ONNX Runtime that predictions run on; None before that is known."""

    def provider(self, digest: str) -> str | None:
        """Provider of the model of this file, which may be a lesser one; None where it is not open."""


#: Reads what a name or id means now.
LookUp = Callable[[str, str | None], Awaitable[ResolvedModel]]


@dataclass(slots=True)
class _Entry:
    resolved: ResolvedModel
    read_at: float
    reading: bool = False


class ModelRepository:
    """Names, ids and the models that they mean. It lives on the event loop."""

    def __init__(self, look_up: LookUp, scheduler: Scheduler) -> None:
        self._look_up = look_up
        self._models = scheduler.models
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._reading: dict[Key, tuple[float, asyncio.Task[ResolvedModel]]] = {}
        self._since = 0.0  # entries that were read before are not used any more
        self._tasks = BackgroundTasks()

    def known(self, called: str, version: str | None = None) -> tuple[ResolvedModel, ModelQueue] | None:
        """The open model that a name or id means now; None where it has to be read or opened first."""
        entry = self._entries.get((called, version))
        if entry is None or entry.read_at < self._since:
            return None
        age = time.monotonic() - entry.read_at
        # While it is being read again it is used, however long that takes: the database may hang, and a new version may
        # have to be opened. Behind the wall a question has an end.
        if (age > _STALE_S and not entry.reading) or (line := self._models.opened(entry.resolved.digest)) is None:
            return None
        if age > _FRESH_S and not entry.reading:
            entry.reading = True
            self._tasks.begin(self._read_again((called, version), entry), "a look at what a name means")
        return entry.resolved, line

    async def find(self, called: str, version: str | None = None) -> tuple[ResolvedModel, ModelQueue]:
        """Like `known`, but read and open it.

        Raises NotFound, or Conflict while it is not ready (`model_not_ready`) or taken out of service
        (`model_unloaded`), or Unavailable where the registry was never read and cannot be now.
        """
        key = (called, version)
        reading = self._reading.get(key)
        if reading is None or reading[0] < self._since:
            # Once for all requests of this moment.
            reading = self._reading[key] = (time.monotonic(), asyncio.ensure_future(self._read(key)))
            reading[1].add_done_callback(lambda task: self._read_done(key, task))
        entry = self._entries.get(key)
        if entry is not None and entry.read_at >= self._since:
            # A database that hangs must not delay requests whose model is known and open.
            await asyncio.wait([reading[1]], timeout=_MAX_WAIT_S)
            if not reading[1].done() and (line := self._models.opened(entry.resolved.digest)) is not None:
                return entry.resolved, line
        resolved = await asyncio.shield(reading[1])
        return resolved, await self._open(resolved)

    def _read_done(self, key: Key, task: asyncio.Task[ResolvedModel]) -> None:
        if (reading := self._reading.get(key)) is not None and reading[1] is task:
            del self._reading[key]
        if not task.cancelled():
            task.exception()  # raised by every request that waited

    async def ready(self, called: str, version: str | None = None) -> None:
        """Open the model behind a name or id; raises NotFound, Conflict, Unavailable."""
        await self.find(called, version)

    async def forget(self) -> None:
        """Read every entry again before its next use."""
        self._since = time.monotonic()

    async def renew(self, called: str) -> None:
        """Read one name again, before a client learns what it means now: its next request is answered by that."""
        if (called, None) in self._entries:
            with suppress(RegistryError):  # the next request for it raises
                await self._read((called, None))

    async def drop(self, called: str) -> None:
        """Forget a name or id that is out of service, and close its models that no other entry means."""
        gone = [self._entries.pop(key) for key in list(self._entries) if key[0] == called]
        for digest in {entry.resolved.digest for entry in gone}:
            self._close_unused(digest)

    async def prepare(self, model_id: str) -> None:
        """Open a model ahead of its requests; where that fails, they raise."""
        try:
            await self._open(await self._look_up(model_id, None))
        except RegistryError as error:
            _LOG.warning("a model could not be opened ahead of its requests: %s", error.message)

    async def count(self) -> None:
        """All is counted in this process."""

    def check(self) -> None:
        """A check that passes, since this process answers."""

    def device(self) -> str | None:
        from service.inference.session import providers

        return providers()[0]

    def provider(self, digest: str) -> str | None:
        queue = self._models.opened(digest)
        return None if queue is None else queue.model.provider

    async def _read(self, key: Key) -> ResolvedModel:
        asked_at = time.monotonic()
        known = self._entries.get(key)
        try:
            resolved = await self._look_up(*key)
        except OutOfService:
            self._remove(key)
            raise
        except Unavailable as error:
            # While control is away nothing is changed here, but for what it has told before.
            if known is None or (isinstance(error, ControlAway) and known.read_at < self._since):
                raise
            resolved = known.resolved  # its last meaning is better than no answer
            asked_at = time.monotonic() if asked_at >= self._since else asked_at  # not read every time
        except Overloaded:  # says nothing of the model
            raise
        except RegistryError:
            self._remove(key)
            raise
        if known is None or known.resolved.digest != resolved.digest:
            await self._open(resolved)
        newer = self._entries.get(key)
        if newer is not None and newer.read_at > asked_at:
            return resolved
        # The age is that of the read's beginning: a later change may not be in it.
        self._entries[key] = _Entry(resolved, asked_at)
        self._entries.move_to_end(key)
        if len(self._entries) > _MAX_ENTRIES:
            self._entries.popitem(last=False)
        return resolved

    async def _open(self, resolved: ResolvedModel) -> ModelQueue:
        try:
            return await self._models.open(resolved.digest, resolved.profile.limits)
        except NotFound as error:  # the model exists: the request is right
            raise Unavailable(error.code, f"{resolved.model_id} cannot be opened: {error.message}") from error

    async def _read_again(self, key: Key, entry: _Entry) -> None:
        try:
            await self._read(key)
        except RegistryError as error:  # the next request raises
            _LOG.info("%s: %s", key[0], error.message)
        finally:
            entry.reading = False

    def _remove(self, key: Key) -> None:
        if (gone := self._entries.pop(key, None)) is not None:
            self._close_unused(gone.resolved.digest)

    def _close_unused(self, digest: str) -> None:
        if all(entry.resolved.digest != digest for entry in self._entries.values()):
            self._models.close(digest)
