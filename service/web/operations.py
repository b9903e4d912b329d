"""`/operations`: what waits, what runs and where, what is stuck and why, and what the service rests on."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path

from fastapi import APIRouter, Request, Response
from markupsafe import Markup
from starlette.concurrency import run_in_threadpool

from fedlas.contract.error_codes import ERROR_CODES
from fedlas.contract.record_codes import RECORD_CODES
from fedlas.extras import cuda_remedy, has_gpu
from service.api.plumbing.services import Services, ServicesDep
from service.api.resources.operations import Outcome, outcomes
from service.registry import tables
from service.registry.errors import Unavailable
from service.registry.queues import ANY_DEVICE, GPU_ONLY, PLAN, QUEUES, WORK_KINDS
from service.registry.registry import UnitOfWork
from service.registry.repositories.workers import SILENT_S, Failures, HeldWork, OpenWork, ReturnedWork
from service.web.rendering import duration, page, size

router = APIRouter(include_in_schema=False)

#: Less than both is little: a job writes models and checkpoints, and an upload may have gigabytes.
_LITTLE_BYTES = 5_000_000_000
_LITTLE_SHARE = 0.1
#: Errors are counted over so long.
RECENT = timedelta(days=1)
_MAX_ROWS = 50
#: Names of each kind of work: one, and several.
KINDS = {
    WORK_KINDS["ds"]: ("inspection", "inspections"),
    WORK_KINDS["job"]: ("job", "jobs"),
    PLAN: ("dry run", "dry runs"),
    WORK_KINDS["bat"]: ("batch prediction", "batch predictions"),
    WORK_KINDS["shd"]: ("shard of a batch prediction", "shards of batch predictions"),
    WORK_KINDS["msg"]: ("webhook message", "webhook messages"),
}
#: The pages of records, by the prefix of their ids.
_PAGES = {"job": "jobs", "mdl": "models", "ds": "datasets", "bat": "batches", "cal": "calibrators"}
_REMEDIES = {
    "card_too_small": "Serve `calibrate.cpu` by a worker as well, or give it a larger card.",
    "internal_error": "Look for its id in the worker's log.",
    "out_of_memory": "Give workers more memory, or send a smaller file.",
    "poisoned": "Look for its id in the worker's log; what ended its process stands there.",
    "storage_full": "Make room on the disk of the workers.",
    "timeout": "Give it more time, or fewer rows.",
    "worker_unfit": "Run `fedlas doctor` on the worker's machine; its log has the library's own words.",
}
#: Due work that nobody takes for so long, although a worker for it lives and has nothing of its queue, is stuck.
_PATIENCE_S = 30.0
_DEPENDENCIES = {
    "database": (
        "The database does not answer",
        "Every request that reads records is refused until it does; work that runs goes on for a while.",
    ),
    "broker": (
        "The broker does not answer",
        "Nothing is lost: workers find open work by themselves, within a second, though no message tells them.",
    ),
    "storage": (
        "Stored files cannot be reached",
        "Uploads and new models fail until they can; models that are open go on predicting.",
    ),
    "serving": (
        "Predictions have no process that answers them",
        "It is started again by itself, within a second; the log says why it has ended.",
    ),
}


@router.get("/operations")
async def show_operations(request: Request, services: ServicesDep) -> Response:
    """The page, or for a script that reads it again what changes in it."""
    health, disk, state = await asyncio.gather(
        outcomes(services), run_in_threadpool(Disk.of, services.settings.data_dir), _read(services)
    )
    processes = services.served_models.processes()
    return page(
        request,
        "operations/now.html.jinja" if "hx-request" in request.headers else "operations/page.html.jinja",
        health=health,
        disk=disk,
        state=state,
        troubles=troubles(state, health, disk, processes),
        processes=processes,
        counted=counted,
        record_path=record_path,
        code_in_words=code_in_words,
    )


async def _read(services: Services) -> Operations | None:
    def read() -> Operations:
        suspended = services.quarantine.suspended()
        with services.registry.read() as unit:
            return Operations.read(unit, suspended)

    try:
        return await services.probes.run("operations", read)
    except (Unavailable, TimeoutError):
        return None


@dataclass(frozen=True)
class Disk:
    """The bytes of a disk; 0 of 0 where it cannot be looked at."""

    free: int = 0
    total: int = 0

    @classmethod
    def of(cls, folder: Path) -> Disk:
        try:
            usage = shutil.disk_usage(folder)
        except OSError:
            return cls()
        return cls(usage.free, usage.total)

    @property
    def is_short(self) -> bool:
        """True where an operator should make room.

        >>> Disk(10**9, 10**12).is_short, Disk(10**9, 10**9).is_short, Disk(20 * 10**9, 10**12).is_short
        (True, False, False)
        """
        return self.free < min(_LITTLE_BYTES, _LITTLE_SHARE * self.total)


@dataclass(frozen=True)
class Worker:
    """A worker that has registered itself, and how long ago it gave a sign of life."""

    row: tables.WorkerProcess
    silent_seconds: float

    @property
    def lives(self) -> bool:
        return self.silent_seconds <= SILENT_S


@dataclass(frozen=True)
class Operations:
    """State of the registry, at one moment of its own clock.

    Attributes:
        work: open work by queue and kind.
        obstacles: by queue, why nobody takes its work.
        suspended: id and name of the models whose served copy is out of service, and for how many more seconds.
    """

    now: datetime
    work: Mapping[tuple[str, str], OpenWork]
    held: Sequence[HeldWork]
    returned: Sequence[ReturnedWork]
    workers: Sequence[Worker]
    obstacles: Mapping[str, str | None]
    failures: Sequence[Failures]
    suspended: Sequence[tuple[str, str, float]]

    @classmethod
    def read(cls, unit: UnitOfWork, suspended: Mapping[str, float]) -> Operations:
        """Read it, with what is in quarantine: seconds left by the digest of the served copy."""
        now, overview = unit.now(), unit.work_overview
        return cls(
            now=now,
            work=overview.open_work(),
            held=overview.held(limit=_MAX_ROWS),
            returned=overview.returned(limit=_MAX_ROWS),
            workers=[Worker(row, (now - row.seen_at).total_seconds()) for row in unit.workers.known],
            obstacles={queue: unit.workers.obstacle(queue) for queue in QUEUES},
            failures=overview.failures(since=now - RECENT),
            suspended=[
                (model_id, name, suspended[digest]) for digest, model_id, name in overview.served_as(list(suspended))
            ],
        )

    def seconds_since(self, moment: datetime) -> float:
        """How long ago that was; negative where it is to come."""
        return (self.now - moment).total_seconds()

    def queue_lines(self) -> list[QueueLine]:
        """A line for every queue, also where nothing waits: the table keeps its height."""
        lines = []
        for queue in QUEUES:
            here = {kind: one for (place, kind), one in sorted(self.work.items()) if place == queue and one.waiting}
            lines.append(
                QueueLine(
                    queue,
                    ", ".join(counted(one.waiting, kind) for kind, one in here.items()),
                    due=sum(one.due for one in here.values()),
                    later=sum(one.later for one in here.values()),
                    blocked=sum(one.blocked for one in here.values()),
                    oldest_seconds=max((one.oldest_seconds for one in here.values() if one.due), default=None),
                    workers=sum(worker.lives and queue in worker.row.queues for worker in self.workers),
                )
            )
        return lines


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

    >>> record_path("job_1"), record_path("msg_1")
    ('/jobs/job_1', None)
    """
    pages = _PAGES.get(record_id.partition("_")[0])
    return f"/{pages}/{record_id}" if pages else None


def code_in_words(code: str) -> tuple[str, str]:
    if code not in RECORD_CODES and code in ERROR_CODES:
        return ERROR_CODES[code].meaning, ERROR_CODES[code].remedy
    meaning = RECORD_CODES.get(code, "A code that this release does not know.")
    return meaning, _REMEDIES.get(code, "The record says what was found and what is needed.")


@dataclass(frozen=True)
class Trouble:
    """One thing that is wrong: a sentence, what to do or to expect, and the records it is about.

    Attributes:
        severe: it keeps work from being done; else it mends itself, or only takes longer.
    """

    sentence: str | Markup
    remedy: str
    severe: bool = True
    records: Sequence[str] = field(default=())


def troubles(
    state: Operations | None, health: Sequence[Outcome], disk: Disk, processes: Mapping[str, int]
) -> list[Trouble]:
    """All that is wrong, the severe first; `processes` answer predictions, by their execution provider."""
    everything = [*_of_health(health)]
    if disk.is_short:
        sentence = f"The disk of the data folder has {size(disk.free)} left of {size(disk.total)}."
        everything.append(Trouble(sentence, "Make room: uploads, jobs and the database need it."))
    if has_gpu() and (slower := [provider for provider in processes if provider != "CUDAExecutionProvider"]):
        sentence = f"Predictions run on {', '.join(slower)}, although this machine has a GPU."
        everything.append(Trouble(sentence, f"ONNX Runtime: {cuda_remedy()}", severe=False))
    if state is not None:
        everything += [*_of_queues(state), *_of_leases(state), *_of_returned(state), *_of_models(state)]
        everything += _of_releases(state)
    return sorted(everything, key=lambda one: not one.severe)


def _of_health(health: Sequence[Outcome]) -> Iterator[Trouble]:
    for one in health:
        if one.error is not None:
            sentence, remedy = _DEPENDENCIES[one.name]
            yield Trouble(f"{sentence} ({one.error}).", remedy, severe=one.name != "broker")


def _of_queues(state: Operations) -> Iterator[Trouble]:
    busy = {one.queue for one in state.held}
    if GPU_ONLY in busy:  # perhaps by a worker that takes other work only after that
        busy.add(ANY_DEVICE)
    for line in state.queue_lines():
        if (line.due or line.workers) and (obstacle := state.obstacles[line.queue]):
            yield Trouble(
                f"{line.words or line.queue}: {obstacle}.",
                "Start one (`python -m worker`), or look why the last one has ended, stands still or opens nothing: "
                "`fedlas doctor` on its machine.",
            )
        for (queue, kind), one in state.work.items() if line.workers and line.queue not in busy else ():
            if queue == line.queue and one.oldest_seconds > _PATIENCE_S:
                waited = duration(one.oldest_seconds)
                yield Trouble(
                    f"{counted(one.due, kind)} could have been taken for {waited}, and nobody does.",
                    "A worker lives that takes such work: look into its log, and whether all its threads are busy.",
                )


def _of_leases(state: Operations) -> Iterator[Trouble]:
    for one in state.held:
        if (late := state.seconds_since(one.lease_expires_at or state.now)) > 0:
            yield Trouble(
                f"{counted(1, one.kind)} is held by a worker whose lease ended {duration(late)} ago.",
                "Any living worker takes it over and goes on from its last checkpoint.",
                severe=not any(worker.lives for worker in state.workers),
                records=[one.record_id],
            )


def _of_returned(state: Operations) -> Iterator[Trouble]:
    for one in state.returned:
        lost = f"lost its process {one.losses} times in a row" if one.losses > 1 else "was given back"
        wait = -state.seconds_since(one.not_before)
        yield Trouble(
            f"{counted(1, one.kind)} {lost}{f': {one.reason}' if one.reason else ''}.",
            f"It is tried again in {duration(wait)}." if wait > 0 else "It is tried again by the next free worker.",
            severe=False,
            records=[one.record_id],
        )


def _of_models(state: Operations) -> Iterator[Trouble]:
    for model_id, name, seconds in state.suspended:
        yield Trouble(
            _naming("The model “{}” is out of service for another {}.", name, duration(seconds)),
            "A run of it has ended its process: it crashed, took too much memory or did not come back in its time. "
            "Requests are answered 503 `model_suspended`; look at the rows that were sent.",
            records=[model_id],
        )


def _of_releases(state: Operations) -> Iterator[Trouble]:
    ours = version("fedlas")
    for worker in state.workers:
        if worker.lives and worker.row.release not in (None, ours):
            yield Trouble(
                _naming("The worker “{}” is release {}, this service {}.", worker.row.name, worker.row.release, ours),
                "Expected while a new release is rolled out; update it otherwise.",
                severe=False,
            )


def _naming(sentence: str, name: str, *others: object) -> Markup:
    """A sentence with a name that others chose: it turns nothing around that stands beside it."""
    return Markup(sentence).format(Markup("<bdi>{}</bdi>").format(name), *others)
