"""The service as it is run on several machines: APIs and workers as processes over one database, broker and disk."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg

from tests.chaos.clock import Clock
from tests.chaos.supervised import Supervised
from tests.helpers.processes import free_port, until
from tests.helpers.servers import PostgreSQL, Redis

LEASE_S = 6.0
#: Faults come so densely that a job may lose its process many times before it gets further; elsewhere it is five times.
MAX_ATTEMPTS = 50
SWEEP_GRACE_S = 30.0
#: Queues of the heavy workers, which do one thing at a time, and of the light ones.
_HEAVY, _LIGHT = "calibrate.cpu", "inspect,plan,predict,deliver"
_LIGHT_THREADS = 8
#: Every batch has about ten shards, more of them on a slow machine: of two, which 0.004 gave,
#: one worker did both.
SPREAD = {"FEDLAS_SHARD_SECONDS": "0.001"}
#: Nothing is spread: what one worker does alone is what many must give.
ALONE = {"FEDLAS_SHARD_SECONDS": "1000000"}

_SETTINGS = {
    "FEDLAS_LEASE_SECONDS": str(LEASE_S),
    "FEDLAS_API_PROCESSES": "1",  # two APIs share two cores
    "FEDLAS_HEARTBEAT_SECONDS": "2",
    "FEDLAS_MAX_ATTEMPTS": str(MAX_ATTEMPTS),
    "FEDLAS_SWEEP_SECONDS": "5",
    "FEDLAS_SWEEP_GRACE_SECONDS": str(SWEEP_GRACE_S),
    "FEDLAS_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True)
class Shared:
    """Records of all customers: a model, labelled rows, rows to predict, and undisturbed answers for the first."""

    model_id: str
    dataset_id: str
    rows_id: str
    predicted: Sequence[Mapping[str, Any]] = ()


@dataclass
class Site:
    """Everything that runs, in a folder of its own; some workers have clocks that can be put wrong."""

    folder: Path
    artifacts: Path
    postgresql: PostgreSQL
    redis: Redis
    database: str
    broker: int
    settings: Mapping[str, str]
    apis: list[Supervised] = field(default_factory=list)
    heavy: list[Supervised] = field(default_factory=list)
    light: list[Supervised] = field(default_factory=list)
    clocks: dict[str, Clock] = field(default_factory=dict)
    urls: list[str] = field(default_factory=list)

    @property
    def workers(self) -> list[Supervised]:
        """Heavy and light ones."""
        return [*self.heavy, *self.light]

    @property
    def parts(self) -> list[Supervised]:
        """All processes that are to run."""
        return [*self.apis, *self.workers]

    def tend(self) -> None:
        """Start again what has ended."""
        for part in self.parts:
            part.tend()

    def is_ready(self) -> bool:
        """True where every API says that it is ready."""
        return all(_is_ready(url) for url in self.urls)

    def add_api(self) -> None:
        """One more API, at a port that it keeps over restarts."""
        port = free_port()
        name = f"api-{len(self.apis) + 1}"
        self.urls.append(f"http://127.0.0.1:{port}")
        self.apis.append(self._part(name, ["service.cli", "api", "--port", str(port)]))

    def add_heavy(self, *, library: Path | None = None) -> None:
        """One more worker that calibrates."""
        self.heavy.append(self._worker(f"heavy-{len(self.heavy) + 1}", _HEAVY, 1, library))

    def add_light(self, *, library: Path | None = None) -> None:
        """One more worker of everything else."""
        self.light.append(self._worker(f"light-{len(self.light) + 1}", _LIGHT, _LIGHT_THREADS, library))

    def _worker(self, name: str, queues: str, threads: int, library: Path | None) -> Supervised:
        """A worker as if on a machine of its own, by Celery's plain command; libfaketime can put its clock wrong."""
        extra: Mapping[str, str] = {}
        if library is not None:
            self.clocks[name] = Clock(self.folder / f"{name}.clock", library)
            extra = self.clocks[name].environment
        command = ["celery", "-A", "worker.app", "worker", "-n", f"{name}@%h", "-Q", queues, "-c", str(threads)]
        return self._part(name, command, extra)

    def _part(self, name: str, module: list[str], extra: Mapping[str, str] | None = None) -> Supervised:
        (self.folder / name).mkdir()
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("FEDLAS_")},
            **_SETTINGS,
            **self.settings,
            "FEDLAS_DATA_DIR": str(self.folder / name),
            "FEDLAS_DATABASE_URL": self.postgresql.url(self.database),
            "FEDLAS_BROKER_URL": self.redis.url(self.broker),
            "FEDLAS_ARTIFACTS": str(self.artifacts),
            **(extra or {}),
        }
        command = [sys.executable, "-m", *module]
        log = self.folder / f"{name}.log"
        return Supervised(name, command, environment=environment, folder=self.folder / name, log_file=log)

    def connect(self) -> psycopg.Connection[Any]:
        """A connection to the database that only reads."""
        place = f"host=127.0.0.1 port={self.postgresql.port} user=fedlas dbname={self.database} connect_timeout=5"
        return psycopg.connect(place, autocommit=True, options="-c default_transaction_read_only=on")

    def stop(self) -> list[str]:
        """End all processes, workers first; returns those that had to be forced."""
        return [part.name for part in (*self.workers, *self.apis) if not part.stop()]


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def opened(
    folder: Path, *, artifacts: Path, postgresql: PostgreSQL, redis: Redis, number: int, apis: int, heavy: int,
    light: int, settings: Mapping[str, str], library: Path | None = None,
) -> Iterator[Site]:  # fmt: skip
    """A site that is ready, with a fresh database, for the block; the clocks of its first workers are right."""
    folder.mkdir()
    database = f"site_{number}"
    postgresql.execute(f"CREATE DATABASE {database}")
    site = Site(folder, artifacts, postgresql, redis, database, number, settings)
    with ExitStack() as stack:
        stack.callback(site.stop)
        for _ in range(apis):
            site.add_api()
        for place in range(heavy):
            site.add_heavy(library=library if place else None)
        for place in range(light):
            site.add_light(library=library if place else None)
        until(site.is_ready, what=f"{folder.name} is ready")
        yield site
