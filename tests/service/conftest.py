"""The API over a real registry, without broker or worker; what is ready was inspected by the worker's own code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.api import Api, MakeApi, open_api
from tests.helpers.inspections import remembered
from tests.helpers.uploads import Uploads

Json = dict[str, Any]


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


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, uploads: Uploads) -> Iterator[tuple[Api, Json]]:
    """An API with the digits model ready to predict; tests only ask it."""
    with ExitStack() as stack:
        api = open_api(tmp_path_factory.mktemp("api") / "data", stack, max_predict_rows=1000)
        record = api.post("/v1/models?name=digits", content=uploads["digits.onnx"])
        with remembered():
            api.work(record["id"])
        ready = api.client.get(f"/v1/models/{record['id']}").json()
        assert ready["status"] == "ready", ready
        yield api, ready
