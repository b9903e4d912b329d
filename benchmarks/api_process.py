"""One real `fedlas api` process over real servers, as the benchmarks of the HTTP side meet it; it measures nothing."""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.registry.registry import Registry
from service.registry.settings import RegistrySettings
from tests.helpers.processes import die_with_parent, free_port, until
from tests.helpers.servers import PostgreSQL, Redis, Valkey, running

Json = dict[str, Any]

#: `sqlite`: an SQLite file and the Valkey of `fedlas serve`; `postgresql`: PostgreSQL and Redis, installed by Debian.
BACKENDS = ("sqlite", "postgresql")
_ROOT = Path(__file__).parents[1]


class DurablePostgreSQL(PostgreSQL):
    """What tests do without: a commit that is acknowledged is on the disk."""

    def command(self) -> Sequence[str]:
        """Options that come later win."""
        return [*super().command(), "-c", "fsync=on", "-c", "synchronous_commit=on"]


@dataclass(frozen=True)
class Api:
    """A running API: where it is, which process it is, the registry that it serves, and what its workers are told."""

    port: int
    pid: int
    registry: Registry
    environment: Mapping[str, str]

    def post(self, path: str, content: bytes) -> Json:
        """POST that must create."""
        headers = {"Content-Type": "application/json"}  # of a file it does not matter
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", content, headers, method="POST")
        with urllib.request.urlopen(request) as answer:
            created: Json = json.load(answer)
        return created

    def memory_peak_mb(self) -> float:
        """`VmHWM`: the most memory that the process has ever held, in 2^20 bytes."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

    def cpu_seconds(self) -> float:
        """What the process has computed so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def ready_records(self) -> tuple[str, str]:
        """Ids of a model and a dataset as inspection leaves them; there is no worker that would inspect."""
        model, dataset = self.post("/v1/models", b"model")["id"], self.post("/v1/datasets", b"dataset")["id"]
        with self.registry.write() as unit:
            unit.models.ready(model, profile={}, served_sha256=unit.models.get(model).sha256)
            unit.datasets.ready(dataset, profile={}, prepared_sha256=unit.datasets.get(dataset).sha256)
        return model, dataset


@contextmanager
def running_api(backend: str) -> Iterator[Api]:
    """Start broker, database and API, each a process of its own, and end them after the block."""
    with tempfile.TemporaryDirectory(prefix="fedlas-benchmark-") as name:
        folder = Path(name)
        if backend == "sqlite":
            with running(Valkey) as broker, _api(folder, RegistrySettings(data_dir=folder), broker.url()) as api:
                yield api
            return
        with running(Redis) as broker, running(DurablePostgreSQL) as database:
            database.execute("CREATE DATABASE fedlas_benchmark")
            settings = RegistrySettings(data_dir=folder, database_url=database.url("fedlas_benchmark"))
            with _api(folder, settings, broker.url()) as api:
                yield api


@contextmanager
def _api(folder: Path, settings: RegistrySettings, broker_url: str) -> Iterator[Api]:
    port = free_port()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FEDLAS_")}
    given = {"FEDLAS_DATABASE_URL": settings.resolved_database_url, "FEDLAS_BROKER_URL": broker_url}
    given["FEDLAS_WALL"] = "off"  # one process, whose memory and time are measured
    environment = {**clean, **given, "FEDLAS_DATA_DIR": str(folder)}
    command = [sys.executable, "-m", "service.cli", "api", "--port", str(port)]
    child = subprocess.Popen(
        command, cwd=_ROOT, env=environment, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent()
    )
    try:
        until(lambda: _answers(port), seconds=60, what="the API answers")
        registry = Registry.open(settings)
        yield Api(port, child.pid, registry, environment)
        registry.close()
    finally:
        child.terminate()
        child.wait()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5):
            return True
    except OSError:
        return False


def allow_many_files() -> None:
    """Every connection is a file; children inherit the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that all of these have."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    made.add_argument("--out", type=Path, help="also write the results here, as JSON")
    return made


def tell(results: Json, out: Path | None) -> None:
    """Print the results, and keep them where that was asked for."""
    text = json.dumps(results, indent=1)
    print(text)
    if out is not None:
        out.write_text(text + "\n")


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that this share of the ordered values does not exceed."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
