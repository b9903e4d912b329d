"""Told events: what a job's child has told and no transaction has written yet, in order, bounded, each once."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable
from itertools import groupby
from typing import TypeAlias

from service.registry import tables
from service.registry.documents import JsonObject
from service.registry.registry import UnitOfWork
from worker.documents import CandidateEvent, EpochEvent, ScoreEvent, StageEvent, TrainingEvent, WarningEvent

ToldEvent: TypeAlias = StageEvent | WarningEvent | TrainingEvent | EpochEvent | ScoreEvent | CandidateEvent

#: What a job may tell in all its attempts; more is dropped. A race has at most a thousand candidates.
_MOST = {"stage": 100, "warning": 1100, "training": 5000, "epoch": 5000, "score": 5000, "candidate": 1100}
#: An attempt that goes on tells again what an earlier one had told and not saved; by these fields it is known.
_IDENTITY = {
    "training": ("number", "fold"),
    "epoch": ("number", "fold", "epoch"),
    "score": ("number", "fold"),
}
#: Types of which an earlier attempt may have told.
REPEATED = tuple(_IDENTITY)
#: Events that change the job's record, too.
_OF_RECORDS = (StageEvent, WarningEvent)
Identity: TypeAlias = "tuple[object, ...]"


class ToldEvents:
    """Queued by the thread that reads a child's events, written by those that renew its lease and keep its checkpoints.

    An event leaves the queue before it is written, and no lock outlives a call: a second transaction, which waits for
    the first one's row lock on the claim, finds only what came later.
    """

    def __init__(self) -> None:
        self._waiting: deque[ToldEvent] = deque()
        self._told: Counter[str] = Counter()
        self._known: set[Identity] = set()
        self._lock = threading.Lock()

    def know(self, written: Iterable[tables.Event]) -> None:
        """Events that earlier attempts, or others at the same race, have written."""
        with self._lock:
            for event in written:
                self._is_new(event.type, event.data)

    def take(self, event: ToldEvent) -> bool:
        """Queue an event; False where it is known or one too many."""
        with self._lock:
            if new := self._is_new(event.type, event.data.model_dump()):
                self._waiting.append(event)
        return new

    def _is_new(self, type: str, data: JsonObject) -> bool:
        if fields := _IDENTITY.get(type):
            identity = (type, *(data.get(name) for name in fields))
            if identity in self._known:
                return False
            self._known.add(identity)
        self._told[type] += 1
        return self._told[type] <= _MOST[type]

    def write(self, unit: UnitOfWork, job_id: str) -> None:
        """Write all that waits; where the transaction fails, the next one does."""
        with self._lock:
            taken, self._waiting = self._waiting, deque()
        for special, events in groupby(taken, lambda event: event if isinstance(event, _OF_RECORDS) else None):
            match special:
                case StageEvent():
                    unit.jobs.enter_stage(unit.jobs.get(job_id), special.data.stage)
                case WarningEvent():
                    unit.jobs.add_warning(unit.jobs.get(job_id), special.data.stored())
                case None:  # a fast race tells of hundreds a second
                    unit.events.extend(job_id, [(event.type, event.data.stored()) for event in events])
        unit.callbacks.append(lambda committed: None if committed else self._put_back(taken))

    def _put_back(self, events: Iterable[ToldEvent]) -> None:
        with self._lock:
            self._waiting = deque([*events, *self._waiting])
