"""The API over a real registry, without broker or worker; a supervisor acts in this process on demand."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from service.api.plumbing.services import Services
from service.predict.app import ServingApp
from service.predict.engine.scheduler import Scheduler
from service.processes.api import create_app
from service.registry.registry import Registry
from service.registry.settings import ServiceSettings, WorkerSettings
from tests.helpers import Json
from tests.helpers.backends import place
from tests.helpers.documented import check_documented
from tests.helpers.work import execute
from worker.outside.supervisor import Supervisor


@dataclass(frozen=True)
class Api:
    """A client, and a worker that acts in this process on demand."""

    client: TestClient
    registry: Registry
    settings: ServiceSettings
    work: Callable[[str], None]
    services: Services

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler that runs the models, in this process."""
        assert isinstance(self.client.app, ServingApp)
        return self.client.app.services.scheduler

    def post(self, path: str, **options: Any) -> Json:
        """POST that must create."""
        answer = self.client.post(path, **options)
        assert answer.status_code in (200, 201, 202), answer.text
        return dict(answer.json())

    def uploaded(self) -> tuple[str, str]:
        """Ids of a model and a dataset that are still inspecting."""
        return self.post("/v1/models", content=b"m")["id"], self.post("/v1/datasets", content=b"d")["id"]

    def order(self) -> Json:
        """The body of a job on records that are still inspecting."""
        return dict(zip(("model_id", "dataset_id"), self.uploaded(), strict=True))

    def ordered(self, **options: Any) -> str:
        """The id of a job on records that are still inspecting."""
        return str(self.post("/v1/jobs", json={**self.order(), **options})["id"])


MakeApi = Callable[..., Api]


def open_api(data_dir: Path, stack: ExitStack, **options: Any) -> Api:
    where = stack.enter_context(place(data_dir))
    settings = ServiceSettings(**{"allowed_hosts": frozenset({"test", "testserver"}), **where, **options})
    app = create_app(settings)
    client = stack.enter_context(TestClient(app.front, raise_server_exceptions=True))
    client.event_hooks = {"response": [check_documented]}
    registry: Registry = app.services.registry
    supervisor = Supervisor(WorkerSettings(**where), registry, name="test")
    return Api(client, registry, settings, lambda record_id: execute(supervisor, registry, record_id), app.services)
