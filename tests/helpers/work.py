"""Work as tests put it into a registry, and the worker's parts over it in this process."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from fedlas.contract.requests import JobRequest
from service.registry import tables
from service.registry.queues import QUEUES
from service.registry.registry import Registry
from service.registry.settings import ServiceSettings, WorkerSettings
from service.registry.tables import new_id
from tests.helpers import Json
from tests.helpers.staging import stage_bytes
from worker.outside.permits import Permits
from worker.outside.recovery import Reaper
from worker.outside.supervisor import Supervisor

_LEASE_S = 6
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


def hurried(settings: ServiceSettings, **options: Any) -> WorkerSettings:
    """A worker's settings on the same registry, for a worker in a hurry."""
    place = settings.model_dump(include={"data_dir", "database_url", "broker_url", "artifacts"})
    return WorkerSettings(**{**place, "poll_seconds": 0.05, "heartbeat_seconds": 0.05, "lease_seconds": 2, **options})


def execute(supervisor: Supervisor, registry: Registry, record_id: str) -> None:
    """Claim the work of this record and execute it; nothing happens where it is not open or another worker has it."""
    with registry.write() as unit:
        claim = unit.work.claim(record_id, worker=supervisor.name, lease_seconds=_LEASE_S)
    if claim is not None:
        supervisor.execute(claim)


def permits_of(
    supervisor: Supervisor, registry: Registry, *, queues: tuple[str, ...] = QUEUES, threads: int = 4
) -> Permits:
    """Permits of a worker of these queues."""
    return Permits(supervisor, registry, queues=queues, threads=threads, lease_seconds=_LEASE_S)


@contextmanager
def permits_for_all(permits: Permits, queue: str, *, threads: int) -> Iterator[None]:
    """So many threads use one permit of the queue after the other, as if the broker held permits without end."""
    stopping = permits._supervisor.stopping

    def use() -> None:
        while not stopping.wait(0.01):
            permits.places.take(queue)
            permits.redeem(queue, lambda claim: None)

    with ThreadPoolExecutor(threads) as pool:
        for _ in range(threads):
            pool.submit(use)
        try:
            yield
        finally:
            stopping.set()


def reaper_of(registry: Registry, settings: WorkerSettings, name: str = "reaper") -> Reaper:
    """A reaper that sweeps on demand, and takes no work."""
    supervisor = Supervisor(settings, registry, name=name)
    reaper = Reaper(registry, settings, supervisor, permits_of(supervisor, registry), take=lambda permit: None)
    reaper._judges_from = 0.0  # it has been at it for long
    return reaper


def add_dataset(registry: Registry, content: bytes = b"x,label\n1,0\n") -> str:
    """An upload that waits for its inspection."""
    with stage_bytes(registry.artifacts, content) as staged:
        digest = staged.keep()
    row = tables.Dataset(
        id=new_id("ds"), name="d", bytes=len(content), sha256=digest, status="inspecting",
        options=dict.fromkeys(("format", "roles", "padding", "seen_by_model")) | {"split_seed": 0, "missing": "reject"},
        created_at=moment(registry),
    )  # fmt: skip
    with registry.write() as unit:
        unit.datasets.add(row)
        unit.work.open(row.id)
    return row.id


def add_job(registry: Registry, *, status: str = "queued", webhook: Json | None = None, **work: Any) -> str:
    """A job whose model and dataset do not matter."""
    request = JobRequest(model_id="mdl_x", dataset_id="ds_x").model_dump() | {"webhook": webhook}
    row = tables.Job(
        id=new_id("job"), model_id="mdl_x", dataset_id="ds_x", status=status, request=request, progress={},
        history=[], created_at=moment(registry),
    )  # fmt: skip
    with registry.write() as unit:
        unit.jobs.add(row)
        unit.work.open(row.id, **work)
    return row.id


def add_message(registry: Registry, url: str) -> str:
    """The message of a job that has just failed and tells this webhook."""
    request = JobRequest(model_id="mdl_x", dataset_id="ds_x", webhook={"url": url, "secret": SECRET}).model_dump()
    row = tables.Job(
        id=new_id("job"), model_id="mdl_x", dataset_id="ds_x", status="queued", request=request, progress={},
        history=[], created_at=moment(registry),
    )  # fmt: skip
    with registry.write() as unit:
        unit.jobs.open(row)
        unit.jobs.fail(row, {"code": "x", "message": "x", "user_error": True})
        return next(unit.deliveries.of_job(row.id, limit=1, after=None)).id


def add_worker(registry: Registry, name: str, *queues: str, silent_seconds: float = 0.0, gpu: bool = False) -> None:
    """A worker that gave its last sign of life so long ago."""
    with registry.write() as unit:
        unit.workers.heartbeat(name, machine="box", process="1", queues=queues, gpu=gpu, memory_bytes=8 * 10**9)
        row = unit.session.get_one(tables.WorkerProcess, name)
        row.seen_at = unit.now() - timedelta(seconds=silent_seconds)


def moment(registry: Registry) -> Any:
    """The present."""
    with registry.read() as unit:
        return unit.now()


def state_of(registry: Registry, record_id: str) -> str:
    """Where the work stands."""
    with registry.read() as unit:
        return unit.work.of(record_id).state
