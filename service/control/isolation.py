"""The isolation of models: one of whose runs ended its process runs in a process of its own from then on.

There are only a few such processes, taken by those models that are asked for. A model that none is free for is out of
service, and so is, for a while, one whose run ended even its own process. That a model was ended is kept on disk.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from service.inference.quarantine import Quarantine
from service.ipc.placement import alone, in_path
from service.registry.errors import OutOfService

_LOG = logging.getLogger(__name__)
#: A process whose model was not asked for so long ends; it is another model's sooner, where none is free.
_IDLE_S, _GIVES_WAY_S = 600.0, 60.0
_MOST_MEANINGS = 10_000


@dataclass(slots=True)
class _Place:
    process: str
    asked_at: float


class Isolation:
    """Which models run alone, and in which processes; on one thread.

    Args:
        folder: of empty files, each named by the digest of a served copy that was ended.
        most: processes of single models; with none, what is ended is only out of service for a while.

    Attributes:
        on_change: called when other models run alone, or are called otherwise.
    """

    def __init__(self, folder: Path, quarantine: Quarantine, *, most: int) -> None:
        self._folder = folder
        self._quarantine = quarantine
        self._processes = [alone(number) for number in range(1, most + 1)]
        self.on_change = _nothing
        self._ended: set[str] = set()
        if most and folder.is_dir():
            self._ended = {file.name for file in folder.iterdir()}
        self._places: dict[str, _Place] = {}
        self._meanings: OrderedDict[str, str] = OrderedDict()

    @property
    def processes(self) -> frozenset[str]:
        """The processes that are to run."""
        return frozenset(place.process for place in self._places.values())

    def places(self) -> dict[str, str]:
        """The process of each model that runs alone, by all that it was called when it was last asked for."""
        found = ((model, self._places.get(digest)) for model, digest in self._meanings.items())
        return {model: place.process for model, place in found if place is not None}

    def ended(self, digest: str, process: str) -> None:
        """A run of this file has ended the process."""
        place = self._places.get(digest)
        if not self._processes or (place is not None and place.process == process):
            _LOG.critical("the model of %s ended %s and is out of service for a while", digest, process)
            self._quarantine.add(digest)
            self._leave(digest)
            return
        with suppress(OSError):  # a full disk: it is remembered for as long as this process lives
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / digest).touch()
        self._ended.add(digest)
        taken = self._take(digest, process)
        where = "out of service: no process is free" if taken is None else f"alone in {taken.process} from now on"
        _LOG.critical("the model of %s ended %s and is %s", digest, process, where)

    def admit(self, name: str, version: str | None, digest: str, process: str) -> None:
        """Let a process run the file that a name means; raises OutOfService where it may not."""
        self._note(in_path(name, version), digest)
        self._quarantine.check(digest)
        if digest not in self._ended:
            return
        place = self._take(digest, process)
        if place is None:
            raise OutOfService(
                "model_suspended",
                "a run of this model did not end when its time was up, so that it may run in a process of its own "
                f"only; the {len(self._processes)} processes for such models are taken (FEDLAS_ISOLATED_MODELS)",
            )
        if place.process != process:
            raise OutOfService("unavailable", "this model is moving to a process of its own; come again in 1 s")
        place.asked_at = time.monotonic()

    def release_idle(self) -> None:
        """End the processes whose models are not asked for."""
        since = time.monotonic() - _IDLE_S
        for digest in [digest for digest, place in self._places.items() if place.asked_at < since]:
            self._leave(digest)

    def _note(self, model: str, digest: str) -> None:
        before = self._meanings.get(model)
        self._meanings[model] = digest
        self._meanings.move_to_end(model)
        if len(self._meanings) > _MOST_MEANINGS:
            self._meanings.popitem(last=False)
        if before != digest and not self._places.keys().isdisjoint((before, digest)):
            self.on_change()

    def _take(self, digest: str, process: str) -> _Place | None:
        """The place of a file; that of this process, if it has none yet and that is free."""
        if (place := self._places.get(digest)) is None and (free := self._free(process)) is not None:
            place = self._places[digest] = _Place(free, time.monotonic())
            self.on_change()
        return place

    def _free(self, preferred: str) -> str | None:
        free = [process for process in self._processes if process not in self.processes]
        if free:
            return preferred if preferred in free else free[0]
        digest, oldest = min(self._places.items(), key=lambda item: item[1].asked_at)
        if time.monotonic() - oldest.asked_at < _GIVES_WAY_S:
            return None
        del self._places[digest]
        return oldest.process

    def _leave(self, digest: str) -> None:
        if self._places.pop(digest, None) is not None:
            self.on_change()


def _nothing() -> None:
    """`on_change` before there is anything to change."""
