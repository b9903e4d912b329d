"""The API over a real registry, without broker or worker; what is ready was inspected by the worker's own code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.registry.registry import Registry
from service.settings import ServiceSettings
from tests.helpers.backends import place
from tests.helpers.uploads import Uploads
from tests.helpers.work import execute
from worker.outside.supervisor import Supervisor
from worker.settings import WorkerSettings

Json = dict[str, Any]


@dataclass(frozen=True)
class Api:
    """A client, and a worker that acts in this process on demand."""

    client: TestClient
    registry: Registry
    settings: ServiceSettings
    work: Callable[[str], None]

    def post(self, path: str, **options: Any) -> Json:
        """POST that must create."""
        answer = self.client.post(path, **options)
        assert answer.status_code in (200, 201, 202), answer.text
        return dict(answer.json())


MakeApi = Callable[..., Api]


def _api(data_dir: Path, stack: ExitStack, **options: Any) -> Api:
    where = stack.enter_context(place(data_dir))
    settings = ServiceSettings(**{"allowed_hosts": frozenset({"test", "testserver"}), **where, **options})
    app = create_app(settings)
    client = stack.enter_context(TestClient(app, raise_server_exceptions=True))
    registry: Registry = app.services.registry
    supervisor = Supervisor(WorkerSettings(**where), registry, name="test")
    return Api(client, registry, settings, lambda record_id: execute(supervisor, registry, record_id))


@pytest.fixture
def make_api(tmp_path: Path) -> Iterator[MakeApi]:
    """Make an API with settings of the test's choice."""
    with ExitStack() as stack:
        yield lambda **options: _api(tmp_path / "data", stack, **options)


@pytest.fixture
def api(make_api: MakeApi) -> Api:
    """An API with nothing in it."""
    return make_api()


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, uploads: Uploads) -> Iterator[tuple[Api, Json]]:
    """An API with the digits model ready to predict; tests only ask it."""
    with ExitStack() as stack:
        api = _api(tmp_path_factory.mktemp("api") / "data", stack, max_predict_rows=1000)
        record = api.post("/v1/models?name=digits", content=uploads["digits.onnx"])
        api.work(record["id"])
        ready = api.client.get(f"/v1/models/{record['id']}").json()
        assert ready["status"] == "ready", ready
        yield api, ready
