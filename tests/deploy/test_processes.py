"""The commands of the Compose file and the Dockerfile, started as processes against a real broker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.helpers.dockerfile import ROOT, command_of, stages
from tests.helpers.modes import open_to_others
from tests.helpers.monitoring import unknown
from tests.helpers.processes import free_port, until
from tests.helpers.servers import Valkey, running

BIN = Path(sys.executable).parent
KEY = "a-key-for-the-tests"


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


def test_the_images_commands_work_together(tmp_path: Path) -> None:
    """API and worker, started by their images' commands, find each other, report good health, and end well.

    What alerts, dashboard and scalers ask for is what they tell. What they write is their owner's alone.
    """
    api_port, metrics_port = free_port(), free_port()
    api = [str(api_port) if word == "8000" else word for word in command_of("api")]
    with ExitStack() as stack:
        environment = {
            "FEDLAS_DATA_DIR": str(tmp_path / "data"),
            "FEDLAS_ARTIFACTS": str(tmp_path / "artifacts"),
            "FEDLAS_BROKER_URL": stack.enter_context(running(Valkey)).url(),
            "FEDLAS_API_KEYS": KEY,
        }
        # The worker first: it has to wait until the API has made the tables.
        watched = {**environment, "FEDLAS_WORKER_METRICS_PORT": str(metrics_port)}
        stack.enter_context(process(command_of("worker"), tmp_path, tmp_path / "worker.log", **watched))
        stack.enter_context(process(api, tmp_path, tmp_path / "api.log", **environment))

        def healthy(name: str) -> bool:
            return health(name, tmp_path, {**environment, "PORT": str(api_port)})

        until(lambda: healthy("api"), what="the API is healthy")
        until(lambda: healthy("worker"), what="the worker is healthy")
        with httpx.Client(base_url=f"http://127.0.0.1:{api_port}") as client:
            assert client.get("/v1/models").status_code == 401
            client.headers["Authorization"] = f"Bearer {KEY}"
            answer = client.get("/readyz")
            texts = [client.get("/metrics").text, httpx.get(f"http://127.0.0.1:{metrics_port}/metrics").text]
        assert [open_to_others(tmp_path / name) for name in ("data", "artifacts")] == [[], []]
        assert answer.json()["checks"] == dict.fromkeys(("database", "broker", "storage", "serving"), "ok")
        assert unknown(texts) == []


def health(stage: str, folder: Path, environment: dict[str, str]) -> bool:
    """Run the health check of the image, at the port of the test."""
    text = next(rest for word, rest in stages()[stage] if word == "HEALTHCHECK").partition("CMD")[2]
    command = [word.replace(":8000/", f":{environment['PORT']}/") for word in json.loads(text)]
    command = [
        str(ROOT / "deploy" / "worker_health.py") if word == "/app/worker_health.py" else word for word in command
    ]
    done = subprocess.run(
        [sys.executable, *command[1:]], cwd=folder, env={**os.environ, **environment}, capture_output=True
    )
    return done.returncode == 0


#: What each process has no use for, by the module that it is started from: memory, and less to attack.
NEVER_LOADED = {
    "service.processes.api": {"torch", "onnx", "fedlas.losses"},
    "service.cli": {"torch", "onnx", "onnxruntime", "numpy", "fastapi", "sqlalchemy", "celery"},
    "service.processes.control": {
        "alembic",
        "torch",
        "onnx",
        "onnxruntime",
        "fedlas.losses",
        "service.inference.scheduler",
    },
    "service.processes.serving": {
        *("torch", "onnx", "fedlas.losses", "fedlas.report", "jinja2", "pyarrow", "fastapi", "prometheus_client"),
        *("sqlalchemy", "alembic", "celery", "kombu", "redis", "h11", "service.web", "service.registry.documents"),
    },
    "service.processes.template": {"asyncio", "numpy", "onnxruntime", "starlette", "uvicorn", "pydantic_settings"},
    "service.processes.acceptor": {"asyncio", "numpy", "onnxruntime", "starlette", "uvicorn", "pydantic_settings"},
}


@pytest.mark.parametrize("module", NEVER_LOADED)
def test_processes_load_what_they_need(module: str) -> None:
    """A process is free of what others need: images lack torch and onnx, and where graphs run there is no database."""
    code = f"import {module}, sys; print(sorted({NEVER_LOADED[module]!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
