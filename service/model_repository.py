"""Which model a name means now: read from the registry, remembered for a moment, and open before anybody is sent to it.

Requests do not wait for the database: an entry that is in use is read again beside them, and where the name means
another model by then, that one is opened and warmed up first. A process whose client changed something, or was told of
a change, calls `forget`: its next request sees the change.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from anyio import CapacityLimiter, to_thread

from service.inference.metrics import ServingMetrics
from service.inference.model_queue import ModelQueue
from service.inference.profile import ServingProfile
from service.inference.run_limits import RunLimits
from service.inference.scheduler import Scheduler
from service.registry.contract import ServedModel
from service.registry.errors import Conflict, NotFound, RegistryError, Unavailable
from service.registry.unit_of_work import Registry, UnitOfWork

_LOG = logging.getLogger(__name__)
#: After so long an entry is read again, beside the requests that use it.
_FRESH_S = 0.1
#: After so long a request waits until it has been read again.
_STALE_S = 0.5
#: And then no longer than this, if the model that it meant last is open.
_LONGEST_S = 1.0
_MOST_ENTRIES = 10_000
_THREADS = 4

_VERSION = re.compile(r"[1-9][0-9]{0,8}")

#: A name or id as it was called, and the version if one was named.
Key = tuple[str, str | None]


@dataclass(frozen=True, slots=True, eq=False)
class ResolvedModel:
    """What a name means: a ready model.

    Attributes:
        called: the published name or id by which it was asked for, and the version behind it.
        digest: of its served copy.
        served: who answers, as JSON.
    """

    called: str
    version: str
    model_id: str
    digest: str
    profile: ServingProfile
    served: bytes


@dataclass(slots=True)
class _Entry:
    target: ResolvedModel
    read_at: float
    reading: bool = False


class ModelRepository:
    """Lives on the event loop."""

    def __init__(self, registry: Registry, engine: Scheduler, metrics: ServingMetrics) -> None:
        self._registry = registry
        self._engine = engine
        self.metrics = metrics
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._reading: dict[Key, tuple[float, asyncio.Task[ResolvedModel]]] = {}
        self._threads = CapacityLimiter(_THREADS)  # of its own: answers wait for nothing else that asks the database
        self._profiles: dict[str, ServingProfile] = {}
        self._since = 0.0  # what was asked before says nothing any more
        self._tasks: set[asyncio.Task[None]] = set()

    def known(self, called: str, version: str | None = None) -> tuple[ResolvedModel, ModelQueue] | None:
        """The model that a name, or an id, means now, open; None where somebody has to be asked, or it is not open."""
        entry = self._entries.get((called, version))
        if entry is None or entry.read_at < self._since:
            return None
        age = time.monotonic() - entry.read_at
        # While it is being read again it answers, however long that takes: a new version may have to be opened.
        if (age > _STALE_S and not entry.reading) or (line := self._engine.opened(entry.target.digest)) is None:
            return None
        if age > _FRESH_S and not entry.reading:
            entry.reading = True
            self._beside(self._read_again((called, version), entry))
        return entry.target, line

    async def find(self, called: str, version: str | None = None) -> tuple[ResolvedModel, ModelQueue]:
        """Like `known`, but ask and open.

        Raises NotFound, or Conflict while it is not ready (`model_not_ready`) or taken out of service
        (`model_unloaded`), or Unavailable where the registry was never asked and cannot be now.
        """
        key = (called, version)
        reading = self._reading.get(key)
        if reading is None or reading[0] < self._since:
            # Once for all who ask now.
            reading = self._reading[key] = (time.monotonic(), asyncio.ensure_future(self._read(key)))
            reading[1].add_done_callback(lambda task: self._read_done(key, task))
        entry = self._entries.get(key)
        if entry is not None and entry.read_at >= self._since:
            # A database that is silent, and not just away, must not keep those waiting whose model is known and open.
            await asyncio.wait([reading[1]], timeout=_LONGEST_S)
            if not reading[1].done() and (line := self._engine.opened(entry.target.digest)) is not None:
                return entry.target, line
        target = await asyncio.shield(reading[1])
        return target, await self._open(target)

    def _read_done(self, key: Key, task: asyncio.Task[ResolvedModel]) -> None:
        if (reading := self._reading.get(key)) is not None and reading[1] is task:
            del self._reading[key]
        if not task.cancelled():
            task.exception()  # whoever waited was told

    def forget(self) -> None:
        """Something has changed: what is remembered is read again before it is used. May be called in any thread."""
        self._since = time.monotonic()

    async def renew(self, called: str) -> None:
        """Somebody is about to be told what this name means: his next request is answered by it, and others go on."""
        if (called, None) in self._entries:
            with suppress(RegistryError):  # whoever asks for it is told
                await self._read((called, None))

    def drop(self, called: str) -> None:
        """A name or id is out of service: what nobody else means by now is closed."""
        gone = [self._entries.pop(key) for key in list(self._entries) if key[0] == called]
        for digest in {entry.target.digest for entry in gone}:
            self._close_unused(digest)

    async def prepare(self, digest: str | None, profile: Mapping[str, Any] | None) -> None:
        """Open a served copy that is about to be sent requests; where that fails they will be told."""
        if digest is not None:
            try:
                await self._engine.open(digest, RunLimits.of(profile or {}))
            except RegistryError as error:
                _LOG.warning("a model could not be opened ahead of its requests: %s", error.message)

    async def _read(self, key: Key) -> ResolvedModel:
        asked_at = time.monotonic()
        known = self._entries.get(key)
        try:
            target = await to_thread.run_sync(self.look_up, *key, limiter=self._threads)
        except Unavailable:
            if known is None:
                raise
            target = known.target  # what it meant last is better than no answer at all
            asked_at = time.monotonic() if asked_at >= self._since else asked_at  # and it is not asked for every time
        except RegistryError:
            if (gone := self._entries.pop(key, None)) is not None:
                self._close_unused(gone.target.digest)
            raise
        if known is None or known.target.digest != target.digest:
            await self._open(target)
        newer = self._entries.get(key)
        if newer is not None and newer.read_at > asked_at:
            return target
        # As old as the question: what was changed while the answer was on its way is not in it.
        self._entries[key] = _Entry(target, asked_at)
        self._entries.move_to_end(key)
        if len(self._entries) > _MOST_ENTRIES:
            self._entries.popitem(last=False)
        return target

    async def _open(self, target: ResolvedModel) -> ModelQueue:
        try:
            return await self._engine.open(target.digest, target.profile.limits)
        except NotFound as error:  # the model is there: it is not the client who is mistaken
            raise Unavailable(error.code, f"{target.model_id} cannot be opened: {error.message}") from error

    async def _read_again(self, key: Key, entry: _Entry) -> None:
        try:
            await self._read(key)
        except RegistryError as error:  # whoever asks next is told
            _LOG.info("%s: %s", key[0], error.message)
        finally:
            entry.reading = False

    def _close_unused(self, digest: str) -> None:
        if all(entry.target.digest != digest for entry in self._entries.values()):
            self._engine.close_model(digest)

    def _beside(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)  # the loop itself would let it be collected
        task.add_done_callback(self._tasks.discard)

    def look_up(self, called: str, version: str | None = None) -> ResolvedModel:
        """Ask the registry, in any thread; raises as `find`."""
        with self._registry.read() as unit:
            return self._target(unit, called, version)

    def _target(self, unit: UnitOfWork, called: str, version: str | None) -> ResolvedModel:
        model_id, number = _resolved(unit, called, version)
        row = unit.models.get(model_id)
        if number is None:
            number = row.version
            if version not in (None, str(number)):
                raise NotFound("unknown_version", f"{called!r} is version {number}, not {version}")
        if unit.names.is_unloaded(called):
            raise Conflict("model_unloaded", f"{called!r} was unloaded; POST /v2/repository/models/{called}/load first")
        if row.status != "ready" or row.profile is None or row.served_sha256 is None:
            message = f"{row.id} is {row.status}; only ready models predict"
            raise Conflict("model_not_ready", message, passing=row.status == "inspecting")
        # A name is answered with itself: behind it may be an upload, whose record is older than its publication.
        name = row.name if called.startswith("mdl_") else called
        served = ServedModel(id=row.id, name=name, version=number, calibrated=row.calibrated)
        return ResolvedModel(
            called=called,
            version=str(number),
            model_id=row.id,
            digest=row.served_sha256,
            profile=self._profile_of(row.id, row.profile),
            served=served.model_dump_json().encode(),
        )

    def _profile_of(self, model_id: str, profile: Mapping[str, Any]) -> ServingProfile:
        """Read once: a hundred thousand names take milliseconds, and a ready model's profile never changes."""
        found = self._profiles.get(model_id)
        if found is None:
            if len(self._profiles) >= _MOST_ENTRIES:
                self._profiles.clear()
            found = self._profiles[model_id] = ServingProfile.of(profile)
        return found


def _resolved(unit: UnitOfWork, called: str, version: str | None) -> tuple[str, int | None]:
    """Model id and version of what was asked for; the version of an id is its record's."""
    if called.startswith("mdl_"):
        return called, None
    if version is not None and not _VERSION.fullmatch(version):
        raise NotFound("unknown_version", f"versions are numbers, not {version!r:.40}")
    try:
        return unit.names.version(called, None if version is None else int(version))
    except NotFound as error:
        if error.code == "unknown_version":
            raise
        message = f"there is no model with the id or published name {called!r}"
        raise NotFound("unknown_model", message) from None
