"""The view of the operations page: one reading of queues, workers and failures, with their words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from service.api.error_codes import ERROR_CODES
from service.api.record_codes import RECORD_CODES
from service.registry import tables
from service.registry.contract import PLAN, QUEUES, WORK_KINDS
from service.registry.repositories.work_overview import Failures, HeldWork, ReturnedWork, WaitingWork
from service.registry.repositories.workers import SILENT_S
from service.registry.unit_of_work import UnitOfWork

#: Errors are counted over so long.
RECENT = timedelta(days=1)
_MOST_ROWS = 50
#: What each kind of work is called: one, and several.
KINDS = {
    WORK_KINDS["ds"]: ("inspection", "inspections"),
    WORK_KINDS["job"]: ("job", "jobs"),
    PLAN: ("dry run", "dry runs"),
    WORK_KINDS["cnd"]: ("training of a candidate", "trainings of candidates"),
    WORK_KINDS["bat"]: ("batch prediction", "batch predictions"),
    WORK_KINDS["shd"]: ("shard of a batch prediction", "shards of batch predictions"),
    WORK_KINDS["msg"]: ("webhook message", "webhook messages"),
}
#: The pages of records, by the prefix of their ids.
_PAGES = {"job": "jobs", "mdl": "models", "ds": "datasets"}
_REMEDIES = {
    "internal_error": "Look for its id in the worker's log.",
    "out_of_memory": "Give workers more memory, or send a smaller file.",
    "poisoned": "Look for its id in the worker's log; what ended its process stands there.",
    "storage_full": "Make room on the disk of the workers.",
    "timeout": "Give it more time, or fewer rows.",
}


@dataclass(frozen=True)
class Worker:
    """A worker that has registered itself, and how long ago it gave a sign of life."""

    row: tables.WorkerProcess
    silent_seconds: float

    @property
    def lives(self) -> bool:
        """Whether the sign of life is recent."""
        return self.silent_seconds <= SILENT_S


@dataclass(frozen=True)
class Suspended:
    """A model whose served copy is out of service for so many more seconds."""

    model_id: str
    name: str
    seconds: float


@dataclass(frozen=True)
class Operations:
    """What the registry knows, at one moment of its own clock.

    Attributes:
        obstacles: by queue, why nobody takes its work.
    """

    now: datetime
    waiting: Sequence[WaitingWork]
    held: Sequence[HeldWork]
    returned: Sequence[ReturnedWork]
    workers: Sequence[Worker]
    obstacles: Mapping[str, str | None]
    failures: Sequence[Failures]
    suspended: Sequence[Suspended]

    @classmethod
    def read(cls, unit: UnitOfWork, suspended: Mapping[str, float]) -> Operations:
        """Read it, with what is in quarantine: seconds left by the digest of the served copy."""
        now, overview = unit.now(), unit.work_overview
        return cls(
            now=now,
            waiting=overview.waiting(),
            held=overview.held(limit=_MOST_ROWS),
            returned=overview.returned(limit=_MOST_ROWS),
            workers=[Worker(row, (now - row.seen_at).total_seconds()) for row in unit.workers.known],
            obstacles={queue: unit.workers.obstacle(queue) for queue in QUEUES},
            failures=overview.failures(since=now - RECENT),
            suspended=[
                Suspended(model_id, name, suspended[digest])
                for digest, model_id, name in overview.served_as(list(suspended))
            ],
        )

    def seconds_since(self, moment: datetime) -> float:
        """How long ago that was; negative where it is to come."""
        return (self.now - moment).total_seconds()

    def queue_lines(self) -> list[QueueLine]:
        """A line for every queue, also where nothing waits: the table keeps its height."""
        found = []
        for queue in QUEUES:
            here = [one for one in self.waiting if one.queue == queue]
            since = min((one.due_since for one in here if one.due_since is not None), default=None)
            due, blocked = sum(one.due for one in here), sum(one.blocked for one in here)
            later = sum(one.count for one in here) - due - blocked
            words = ", ".join(counted(one.count, one.kind) for one in here)
            age = None if since is None else self.seconds_since(since)
            workers = sum(worker.lives and queue in worker.row.queues for worker in self.workers)
            found.append(QueueLine(queue, words, due, later, blocked, age, workers))
        return found


@dataclass(frozen=True)
class QueueLine:
    """A queue: what waits in it, in words and by when it may be taken, and how many living workers take from it."""

    queue: str
    words: str
    due: int
    later: int
    blocked: int
    oldest_seconds: float | None
    workers: int


def counted(number: int, kind: str) -> str:
    """So many pieces of work of a kind.

    >>> counted(1, "calibrate"), counted(2000, "inspect"), counted(2, "new kind")
    ('1 job', '2,000 inspections', '2 of new kind')
    """
    one, several = KINDS.get(kind, (f"of {kind}", f"of {kind}"))
    return f"{number:,} {one if number == 1 else several}"


def record_path(record_id: str) -> str | None:
    """The page of a record, where its kind has one.

    >>> record_path("job_1"), record_path("bat_1")
    ('/jobs/job_1', None)
    """
    pages = _PAGES.get(record_id.partition("_")[0])
    return f"/{pages}/{record_id}" if pages else None


def code_in_words(code: str) -> tuple[str, str]:
    """What a record's error code stands for, and what to do about it."""
    if code not in RECORD_CODES and code in ERROR_CODES:
        return ERROR_CODES[code].meaning, ERROR_CODES[code].remedy
    meaning = RECORD_CODES.get(code, "A code that this release does not know.")
    return meaning, _REMEDIES.get(code, "The record says what was found and what is needed.")
