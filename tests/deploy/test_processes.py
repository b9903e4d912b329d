"""The commands of the Compose file, started as processes with its variables, against a real database."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
import redis
import yaml

from service.registry.queues import GPU_ONLY, QUEUES
from tests.helpers import compose
from tests.helpers.compose import Json, Placed
from tests.helpers.dockerfile import ROOT, stages
from tests.helpers.modes import open_to_others
from tests.helpers.monitoring import unknown
from tests.helpers.processes import free_port, until
from tests.helpers.programs import POSTGRESQL, PROMETHEUS
from tests.helpers.servers import PostgreSQL, Valkey, running

BIN = Path(sys.executable).parent


@contextmanager
def process(command: list[str], folder: Path, log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command with only these FEDLAS_ variables; it must end well when it is asked to."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("FEDLAS_")}
    path = f"{BIN}{os.pathsep}{clean['PATH']}"  # `fedlas` and `python` are those of this environment, as in the image
    with log.open("wb") as file:
        child = subprocess.Popen(
            command, cwd=folder, env={**clean, **environment, "PATH": path}, stdout=file, stderr=file
        )
    try:
        yield child
        child.send_signal(signal.SIGTERM)
        # uvicorn stops in order and then lets the signal end the process, so that its caller sees why.
        assert child.wait(30) in (0, -signal.SIGTERM), log.read_text()
    finally:
        child.kill()
        child.wait()


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables of an `.env` file, with a value for everything that is demanded."""
    return {name: f"given-for-{name.lower().replace('_', '-')}-0123456789abcdef" for name in compose.demanded()}


@contextmanager
def valkey(folder: Path, placed: Placed, port: int) -> Iterator[None]:
    """The broker of the Compose file; its command runs the Valkey that is here."""
    _, *options = placed.command(compose.read("docker-compose.yml")["services"]["valkey"])
    with process([Valkey(folder).binary(), *options, "--port", str(port)], folder, folder / "valkey.log"):
        yield


@contextmanager
def prometheus(folder: Path, key: str, targets: dict[str, int]) -> Iterator[str]:
    """Prometheus with the scrape configuration of Compose, which knows it by names: they are replaced by ports here."""
    config: Json = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s"}
    config["rule_files"] = [str(ROOT / "deploy" / "prometheus" / "alerts.yml")]
    (folder / "metrics_key").write_text(key)
    for job in config["scrape_configs"]:
        found = [name for one in job.pop("dns_sd_configs") for name in one["names"]]
        job["static_configs"] = [{"targets": [f"127.0.0.1:{targets[name]}" for name in found]}]
        if "authorization" in job:
            assert job["authorization"] == {"credentials_file": "/run/secrets/metrics_key"}
            job["authorization"] = {"credentials_file": str(folder / "metrics_key")}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [PROMETHEUS.needed(), f"--config.file={folder / 'prometheus.yml'}"]
    command += [f"--storage.tsdb.path={folder / 'series'}", f"--web.listen-address=127.0.0.1:{port}"]
    with process(command, folder, folder / "prometheus.log"):
        yield f"http://127.0.0.1:{port}/api/v1/targets"


@pytest.mark.slow
def test_the_services_work_together(tmp_path: Path, variables: dict[str, str]) -> None:
    """Compose's processes find each other, end well, report all metrics, admit by key, and keep their files closed."""
    POSTGRESQL.needed(), PROMETHEUS.needed()
    services = compose.read("docker-compose.yml")["services"]
    broker, ports = free_port(), {name: free_port() for name in ("api", *compose.WORKERS)}
    with ExitStack() as stack:
        database = stack.enter_context(running(PostgreSQL))
        database.execute("CREATE DATABASE fedlas")

        def placed(name: str) -> Placed:
            data = "api" if name == "api" else name  # containers tell workers on one volume apart by their host names
            places = {"/var/lib/fedlas/data": str(tmp_path / data), "/var/lib/fedlas": str(tmp_path)}
            hosts = {"@postgres:5432": f"@127.0.0.1:{database.port}", "@valkey:6379": f"@127.0.0.1:{broker}"}
            return Placed(variables, {**places, **hosts, "0.0.0.0": "127.0.0.1"})

        stack.enter_context(valkey(tmp_path, placed("valkey"), broker))
        environments: dict[str, dict[str, str]] = {}
        for name in (*compose.WORKERS, "api"):  # the workers have to wait until the API has made the tables
            one = placed(name)
            environments[name] = one.environment(services[name])
            command = [str(ports["api"]) if word == "8000" else word for word in one.command(services[name])]
            if name != "api":
                environments[name]["FEDLAS_WORKER_METRICS_PORT"] = str(ports[name])
            stack.enter_context(process(command, tmp_path, tmp_path / f"{name}.log", **environments[name]))
        key = variables["FEDLAS_METRICS_KEY"]
        watching = stack.enter_context(prometheus(tmp_path, key, ports))
        api = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{ports['api']}"))
        until(lambda: queues(api) == set(QUEUES) - {GPU_ONLY}, what="somebody takes from every queue")
        until(lambda: set(watched(watching)) == {"up"}, what="Prometheus reads everything")
        api_health = {**environments["api"], "PORT": str(ports["api"])}
        until(lambda: health("api", tmp_path, api_health), what="the API is healthy")
        for name in compose.WORKERS:
            until(partial(health, "worker", tmp_path, environments[name]), what=f"{name} is healthy")
        assert api.get("/v1/models").status_code == 401
        api.headers["Authorization"] = f"Bearer {variables['FEDLAS_API_KEY']}"
        assert api.get("/v1/models").status_code == 200
        answer = api.get("/readyz")
        texts = [api.get("/metrics").text]
        texts += [httpx.get(f"http://127.0.0.1:{ports[name]}/metrics").text for name in compose.WORKERS]
        with pytest.raises(redis.AuthenticationError):
            redis.Redis("127.0.0.1", broker).ping()
        written = ["artifacts", *ports]
        assert [open_to_others(tmp_path / name) for name in written] == [[] for _ in written]
        assert answer.json()["checks"] == dict.fromkeys(("database", "broker", "storage", "serving"), "ok")
        assert unknown(texts) == []


def queues(api: httpx.Client) -> set[str]:
    """The queues that living workers take from."""
    try:
        return {name for name, living in (api.get("/readyz").json()["workers"] or {}).items() if living}
    except httpx.TransportError:
        return set()


def watched(url: str) -> list[str]:
    """How each target of Prometheus is."""
    try:
        return [target["health"] for target in httpx.get(url).json()["data"]["activeTargets"]]
    except httpx.TransportError:
        return []


def health(stage: str, folder: Path, environment: dict[str, str]) -> bool:
    """Run the health check of the image, at the port of the test."""
    text = next(rest for word, rest in stages()[stage] if word == "HEALTHCHECK").partition("CMD")[2]
    command = [word.replace(":8000/", f":{environment.get('PORT')}/") for word in json.loads(text)]
    command = [
        str(ROOT / "deploy" / "worker_health.py") if word == "/app/worker_health.py" else word for word in command
    ]
    done = subprocess.run(
        [sys.executable, *command[1:]], cwd=folder, env={**os.environ, **environment}, capture_output=True
    )
    return done.returncode == 0


#: Modules that a process has no use for, by the module that it is started from: memory, and less to attack.
NEVER_LOADED = {
    "service.processes.api": {"torch", "onnx", "fedlas.losses"},
    "service.cli": {"torch", "onnx", "onnxruntime", "numpy", "fastapi", "sqlalchemy", "celery"},
    "service.processes.control": {
        *("alembic", "scipy", "torch", "onnx", "onnxruntime", "fedlas.losses", "service.predict.engine.scheduler")
    },
    "worker.app": {"alembic", "scipy", "torch", "onnx", "onnxruntime", "fedlas.losses"},
    "service.processes.serving": {
        *("torch", "onnx", "fedlas.losses", "fedlas.report", "jinja2", "pyarrow", "fastapi", "prometheus_client"),
        *("sqlalchemy", "alembic", "celery", "kombu", "redis", "h11", "service.web", "service.registry.documents"),
    },
    "service.acceptor.acceptor": {"asyncio", "numpy", "onnxruntime", "starlette", "uvicorn", "pydantic_settings"},
}


@pytest.mark.parametrize("module", NEVER_LOADED)
def test_processes_load_what_they_need(module: str) -> None:
    """A process is free of what others need: images lack torch and onnx, and where graphs run there is no database."""
    code = f"import {module}, sys; print(sorted({NEVER_LOADED[module]!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
