"""The API over a real registry, without broker or worker; what is ready was inspected by the worker's own code."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.helpers.api import Api, Json, MakeApi, open_api
from tests.helpers.documented import check_documented
from tests.helpers.inspections import remembered
from tests.helpers.uploads import Uploads
from tests.helpers.walled import WalledApi, walled
from tests.helpers.work import execute, hurried
from worker.outside.supervisor import Supervisor


@pytest.fixture(scope="module", autouse=True)
def _inspections_are_remembered() -> Iterator[None]:
    with remembered():
        yield


@pytest.fixture
def make_api(tmp_path: Path) -> Iterator[MakeApi]:
    """Make an API with settings of the test's choice."""
    with ExitStack() as stack:
        yield lambda **options: open_api(tmp_path / "data", stack, **options)


@pytest.fixture
def api(make_api: MakeApi) -> Api:
    """An API with nothing in it."""
    return make_api()


@pytest.fixture
def working(api: Api) -> Iterator[Api]:
    """An API whose bell a worker hears: it does the work in a thread beside the request that waits."""
    with ThreadPoolExecutor(2) as pool:
        api.registry.notify = lambda permits: [pool.submit(api.work, one.record_id) for one in permits] and None
        yield api


@pytest.fixture(scope="module")
def shared_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One API for the tests of a module that leave each other alone: to start one takes a tenth of a second."""
    with ExitStack() as stack:
        yield open_api(tmp_path_factory.mktemp("api") / "data", stack)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, uploads: Uploads) -> Iterator[tuple[Api, Json]]:
    """An API with the digits model ready to predict; tests only ask it."""
    with ExitStack() as stack:
        api = open_api(tmp_path_factory.mktemp("api") / "data", stack, max_predict_rows=1000)
        yield api, _digits(api, uploads)


@pytest.fixture(scope="session")
def served_behind_a_wall(
    tmp_path_factory: pytest.TempPathFactory, uploads: Uploads
) -> Iterator[tuple[WalledApi, Json]]:
    """A served model in processes of its own: all that a module asks of `served` it may ask of this one, too."""
    with walled(tmp_path_factory.mktemp("walled") / "data", max_predict_rows=1000) as api:
        api.client.event_hooks = {"response": [check_documented]}
        yield api, _digits(api, uploads)


def _digits(api: Api | WalledApi, uploads: Uploads) -> Json:
    """The digits model, ready."""
    record = api.client.post("/v1/models?name=digits", content=uploads["digits.onnx"]).json()
    with remembered():
        execute(Supervisor(hurried(api.settings), api.registry, name="test"), api.registry, record["id"])
    ready: Json = api.client.get(f"/v1/models/{record['id']}").json()
    assert ready["status"] == "ready", ready
    return ready
