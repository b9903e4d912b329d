"""The isolation of models: one that has ended its process runs in a process of its own from then on.

There are only a few such processes, taken by those models that are asked for. A model that none is free for is out of
service, and so is, for a while, one that ended even its own process. That a model has ended one is kept on disk.

Where it is not sure which of several models has ended a process, or whether one has, each is suspect, and goes on as
before. One that is suspect again within minutes runs alone, if a process is free, and comes back if it does no harm.
"""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from service.inference.quarantine import Quarantine
from service.ipc.documents import ALONE, Fault, in_path
from service.registry.errors import OutOfService

_LOG = logging.getLogger(__name__)
#: A process whose model was not asked for so long ends; it is another model's sooner, where none is free.
_IDLE_S = 600.0
_GIVES_WAY_S = 60.0
#: Between two faults that make a suspect run alone, and how long it does.
_AGAIN_S = 600.0
_SUSPECTED_S = 600.0
_MAX_MEANINGS = 10_000
_MAX_WARNINGS = 3


@dataclass(slots=True)
class _Place:
    process: str
    asked_at: float
    until: float


class Isolation:
    """The models that run alone, and the processes that run them; on one thread.

    Args:
        folder: of empty files, each named by the digest of a served copy that has ended a process.
        most: processes of single models; with none, what has ended one is only out of service for a while.

    Attributes:
        on_change: called when other models run alone, or are called otherwise.
    """

    def __init__(self, folder: Path, quarantine: Quarantine, *, most: int) -> None:
        self._folder = folder
        self._quarantine = quarantine
        self._processes = [f"{ALONE}{number}" for number in range(1, most + 1)]
        self.on_change: Callable[[], None] = lambda: None
        self._ended: set[str] = set()
        if most and folder.is_dir():
            self._ended = {file.name for file in folder.iterdir()}
        self._suspected_at: dict[str, float] = {}
        self._places: dict[str, _Place] = {}
        self._meanings: OrderedDict[str, str] = OrderedDict()

    @property
    def processes(self) -> frozenset[str]:
        return frozenset(place.process for place in self._places.values())

    def places(self) -> dict[str, str]:
        """The process of each model that runs alone, by all that it was called when it was last asked for."""
        placed = ((model, self._places.get(digest)) for model, digest in self._meanings.items())
        return {model: place.process for model, place in placed if place is not None}

    def fault(self, fault: Fault, process: str) -> None:
        """The process has ended by a fault, while these models ran, all of which it was given."""
        for digest in fault.models:
            if fault.certain:
                self.ended(digest, process, fault.how)
            else:
                self._suspect(digest, process, fault.how, only=len(fault.models) == 1)

    def ended(self, digest: str, process: str, how: str = "a run without end") -> None:
        self._remember(digest)
        if not self._processes or process in self._processes:  # an earlier control may have placed it there
            _LOG.critical("%s ended %s (%s) and is out of service for a while", self._told(digest), process, how)
            self._quarantine.add(digest)
            self._leave(digest)
            return
        taken = self._take(digest, process)
        where = "out of service: no process is free" if taken is None else f"alone in {taken.process} from now on"
        _LOG.critical("%s ended %s (%s) and is %s", self._told(digest), process, how, where)

    def admit(self, name: str, version: str | None, digest: str, process: str) -> None:
        """Let a process run the file that a name means; raises OutOfService where it may not."""
        self._note(in_path(name, version), digest)
        self._quarantine.check(digest)
        if digest not in self._ended and digest not in self._places:
            return
        if (place := self._take(digest, process)) is None:
            raise OutOfService(
                "model_suspended",
                "this model has ended a process, by a crash or a run without end, so that it may run in a process of "
                f"its own only; the {len(self._processes)} processes for such models are taken "
                "(FEDLAS_ISOLATED_MODELS)",
            )
        if place.process != process:
            raise OutOfService("unavailable", "this model is moving to a process of its own; come again in 1 s")
        place.asked_at = time.monotonic()

    def release(self) -> None:
        """End the processes whose models are not asked for, or were only suspect and have done no harm since."""
        now = time.monotonic()
        places = list(self._places.items())
        for digest in [digest for digest, place in places if place.asked_at < now - _IDLE_S or place.until < now]:
            self._leave(digest)

    def _suspect(self, digest: str, process: str, how: str, *, only: bool) -> None:
        now = time.monotonic()
        again = now - self._suspected_at.get(digest, -math.inf) < _AGAIN_S
        self._suspected_at = {model: at for model, at in self._suspected_at.items() if now - at < _AGAIN_S}
        self._suspected_at[digest] = now
        if again and (process in self._processes or (only and not self._processes)):
            self.ended(digest, process, how)
        elif again and self._take(digest, process, until=now + _SUSPECTED_S) is not None:
            _LOG.critical(
                "%s ran again when %s ended (%s): it runs alone for a while", self._told(digest), process, how
            )
        else:
            _LOG.warning("%s ran when %s ended (%s)", self._told(digest), process, how)

    def _told(self, digest: str) -> str:
        called = [model for model, meant in reversed(self._meanings.items()) if meant == digest]
        return f"the model {', '.join(called[:_MAX_WARNINGS]) or 'of this file'} ({digest})"

    def _remember(self, digest: str) -> None:
        if not self._processes:
            return
        with suppress(OSError):  # a full disk: it is remembered for as long as this process lives
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / digest).touch()
        self._ended.add(digest)
        if (place := self._places.get(digest)) is not None:
            place.until = math.inf

    def _note(self, model: str, digest: str) -> None:
        before = self._meanings.get(model)
        self._meanings[model] = digest
        self._meanings.move_to_end(model)
        if len(self._meanings) > _MAX_MEANINGS:
            self._meanings.popitem(last=False)
        if before != digest and not self._places.keys().isdisjoint((before, digest)):
            self.on_change()

    def _take(self, digest: str, process: str, *, until: float = math.inf) -> _Place | None:
        """The place of a file; that of this process, if it has none yet and that is free."""
        if (place := self._places.get(digest)) is None and (free := self._free(process, until)) is not None:
            place = self._places[digest] = _Place(free, time.monotonic(), until)
            self.on_change()
        return place

    def _free(self, preferred: str, until: float) -> str | None:
        """A process for a model; that of a suspect, or of one that is hardly asked for, where all are taken."""
        free = [process for process in self._processes if process not in self.processes]
        if free:
            return preferred if preferred in free else free[0]
        if not self._places:
            return None
        digest, place = min(self._places.items(), key=lambda item: (item[1].until, item[1].asked_at))
        outranks = place.until < until == math.inf
        if not outranks and time.monotonic() - place.asked_at < _GIVES_WAY_S:
            return None
        del self._places[digest]
        return place.process

    def _leave(self, digest: str) -> None:
        if self._places.pop(digest, None) is not None:
            self.on_change()
