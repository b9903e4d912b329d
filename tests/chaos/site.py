"""The service as it is run on several machines: APIs and workers as processes over one database, broker and folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg

from tests.chaos.supervised import Supervised
from tests.helpers.processes import free_port, until
from tests.helpers.programs import libfaketime
from tests.helpers.servers import PostgreSQL, Redis

LEASE_S = 6.0
SWEEP_GRACE_S = 20.0
#: Queues of the heavy workers, which do one thing at a time, and of the light ones.
_HEAVY, _LIGHT = "calibrate.cpu", "inspect,plan,predict,deliver"
_LIGHT_THREADS = 8
_SETTINGS = {
    "FEDLAS_LEASE_SECONDS": str(LEASE_S),
    "FEDLAS_API_PROCESSES": "1",  # two APIs share two cores
    "FEDLAS_HEARTBEAT_SECONDS": "2",
    "FEDLAS_MAX_ATTEMPTS": "50",  # kills come so densely that a job may lose many processes before it gets further
    "FEDLAS_SWEEP_SECONDS": "5",
    "FEDLAS_SWEEP_GRACE_SECONDS": str(SWEEP_GRACE_S),
    "FEDLAS_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}


@dataclass
class Site:
    """Everything that runs, in a folder of its own."""

    folder: Path
    postgresql: PostgreSQL
    redis: Redis
    broker: int
    settings: Mapping[str, str]
    apis: list[Supervised] = field(default_factory=list)
    workers: list[Supervised] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)

    @property
    def artifacts(self) -> Path:
        """The folder of stored files, which all share."""
        return self.folder / "artifacts"

    @property
    def parts(self) -> list[Supervised]:
        """All processes that are to run."""
        return [*self.apis, *self.workers]

    def is_ready(self) -> bool:
        """True if every API says that it is ready; whatever has ended is started again."""
        for part in self.parts:
            part.tend()
        return all(_is_ready(url) for url in self.urls)

    def add_api(self) -> None:
        """One more API, at a port that it keeps over restarts."""
        port = free_port()
        self.urls.append(f"http://127.0.0.1:{port}")
        self.apis.append(self._part(f"api-{len(self.apis)}", ["service.cli", "api", "--port", str(port)]))

    def add_worker(self, queues: str, threads: int, *, minutes_ahead: int) -> None:
        """One more worker as if on a machine of its own, by Celery's plain command; its clock may be wrong."""
        name = f"worker-{len(self.workers)}"
        command = ["celery", "-A", "worker.app", "worker", "-n", f"{name}@%h", "-Q", queues, "-c", str(threads)]
        clock = {
            "LD_PRELOAD": str(libfaketime()),
            "FAKETIME": f"{minutes_ahead:+d}m",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # The file system has a clock of its own, as that of another host has: it is neither set nor read wrong.
            "FAKE_UTIME": "1",
            "NO_FAKE_STAT": "1",
        }
        self.workers.append(self._part(name, command, clock if minutes_ahead and libfaketime() else {}))

    def _part(self, name: str, module: list[str], extra: Mapping[str, str] | None = None) -> Supervised:
        (self.folder / name).mkdir()
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("FEDLAS_")},
            **_SETTINGS,
            **self.settings,
            "FEDLAS_DATA_DIR": str(self.folder / name),
            "FEDLAS_DATABASE_URL": self.postgresql.url(self.folder.name),
            "FEDLAS_BROKER_URL": self.redis.url(self.broker),
            "FEDLAS_ARTIFACTS": str(self.artifacts),
            **(extra or {}),
        }
        return Supervised(name, [sys.executable, "-m", *module], environment=environment, folder=self.folder / name)

    def rows(self, query: str) -> Sequence[tuple[Any, ...]]:
        """The rows that the database answers, or those that a change gives back."""
        place = f"host=127.0.0.1 port={self.postgresql.port} user=fedlas dbname={self.folder.name} connect_timeout=5"
        with psycopg.connect(place, autocommit=True) as connection:
            return connection.execute(query.encode()).fetchall()

    def stop(self) -> list[str]:
        """End all processes, workers first; returns the names of those that had to be forced."""
        return [part.name for part in (*self.workers, *self.apis) if not part.stop()]


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def opened(
    folder: Path, *, postgresql: PostgreSQL, redis: Redis, broker: int, each: int, shard_seconds: float
) -> Iterator[Site]:
    """A site that is ready, with so many APIs, heavy and light workers each; clocks of all but the first are wrong."""
    folder.mkdir()
    postgresql.execute(f"CREATE DATABASE {folder.name}")
    site = Site(folder, postgresql, redis, broker, {"FEDLAS_SHARD_SECONDS": str(shard_seconds)})
    try:
        for number in range(each):
            site.add_api()
            site.add_worker(_HEAVY, 1, minutes_ahead=10 * number)
            site.add_worker(_LIGHT, _LIGHT_THREADS, minutes_ahead=-10 * number)
        until(site.is_ready, what=f"{folder.name} is ready")
        yield site
    finally:
        site.stop()
