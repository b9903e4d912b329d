"""The service as it is run on several machines: APIs and workers as processes over one database, broker and disk."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.chaos.clock import Clock
from tests.chaos.supervised import Supervised
from tests.helpers.processes import free_port, until
from tests.helpers.servers import PostgreSQL, Redis

LEASE_S = 6.0
#: Faults come so densely that a job may lose its process many times before it gets further; elsewhere it is five times.
MAX_ATTEMPTS = 50
SWEEP_GRACE_S = 30.0

_SETTINGS = {
    "FEDLAS_LEASE_SECONDS": str(LEASE_S),
    "FEDLAS_HEARTBEAT_SECONDS": "2",
    "FEDLAS_MAX_ATTEMPTS": str(MAX_ATTEMPTS),
    "FEDLAS_SWEEP_SECONDS": "5",
    "FEDLAS_SWEEP_GRACE_SECONDS": str(SWEEP_GRACE_S),
    "FEDLAS_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}


@dataclass
class Site:
    """Everything that runs, in a folder of its own.

    Attributes:
        clocks: of the workers whose clock can be put wrong, by name.
    """

    folder: Path
    artifacts: Path
    postgresql: PostgreSQL
    redis: Redis
    database: str
    broker: int
    apis: list[Supervised] = field(default_factory=list)
    workers: list[Supervised] = field(default_factory=list)
    clocks: dict[str, Clock] = field(default_factory=dict)
    urls: list[str] = field(default_factory=list)

    @property
    def parts(self) -> list[Supervised]:
        """All processes that are to run."""
        return [*self.apis, *self.workers]

    def tend(self) -> None:
        """Start again what has ended."""
        for part in self.parts:
            part.tend()

    def is_ready(self) -> bool:
        """Whether every API says so."""
        return all(_is_ready(url) for url in self.urls)

    def add_api(self) -> None:
        """One more API, at a port that it keeps over restarts."""
        port = free_port()
        name = f"api-{len(self.apis) + 1}"
        self.urls.append(f"http://127.0.0.1:{port}")
        self.apis.append(self._part(name, ["service.cli", "api", "--port", str(port)]))

    def add_worker(self, *, library: Path | None = None) -> None:
        """One more worker, as if on a machine of its own; with libfaketime its clock can be put wrong."""
        name = f"worker-{len(self.workers) + 1}"
        extra: Mapping[str, str] = {}
        if library is not None:
            self.clocks[name] = Clock(self.folder / f"{name}.clock", library)
            extra = self.clocks[name].environment
        self.workers.append(self._part(name, ["worker"], extra))

    def _part(self, name: str, module: list[str], extra: Mapping[str, str] | None = None) -> Supervised:
        (self.folder / name).mkdir()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("FEDLAS_")}
        environment = {
            **inherited,
            **_SETTINGS,
            "FEDLAS_DATA_DIR": str(self.folder / name),
            "FEDLAS_DATABASE_URL": self.postgresql.url(self.database),
            "FEDLAS_BROKER_URL": self.redis.url(self.broker),
            "FEDLAS_ARTIFACTS": str(self.artifacts),
            **(extra or {}),
        }
        command = [sys.executable, "-m", *module]
        log = self.folder / f"{name}.log"
        return Supervised(name, command, environment=environment, folder=self.folder / name, log_file=log)

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
    folder: Path, *, artifacts: Path, postgresql: PostgreSQL, redis: Redis, number: int, apis: int, workers: int,
    library: Path | None = None,
) -> Iterator[Site]:  # fmt: skip
    """A site that is ready, with a fresh database, for the block; its first worker's clock is right."""
    folder.mkdir()
    database = f"site_{number}"
    postgresql.execute(f"CREATE DATABASE {database}")
    site = Site(folder, artifacts, postgresql, redis, database, number)
    with ExitStack() as stack:
        stack.callback(site.stop)
        for _ in range(apis):
            site.add_api()
        for place in range(workers):
            site.add_worker(library=library if place else None)
        until(site.is_ready, seconds=90, what=f"{folder.name} is ready")
        yield site
