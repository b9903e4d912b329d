"""The service as its users meet it: one for all tests that leave it whole, one of its own for tests that kill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.service import Json, Service, serving
from tests.helpers.uploads import Uploads


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that tests share and leave as they found it."""
    with serving(tmp_path_factory.mktemp("service") / "data", FEDLAS_SWEEP_SECONDS="5") as running:
        yield running


@pytest.fixture
def own_service(tmp_path: Path) -> Iterator[Service]:
    """A service of the test's own, to be killed."""
    with serving(tmp_path / "data", FEDLAS_HEARTBEAT_SECONDS="0.5", FEDLAS_SWEEP_SECONDS="2") as running:
        yield running.tried()


@pytest.fixture(scope="package")
def digits(service: Service, uploads: Uploads) -> tuple[Json, Json]:
    """The overconfident digits model and its dataset, both ready."""
    model = service.upload("models", uploads["digits.onnx"], name="digits")
    dataset = service.upload("datasets", uploads["digits.npz"], name="digits")
    ready = tuple(
        service.final(f"/v1/{kind}/{record['id']}") for kind, record in (("models", model), ("datasets", dataset))
    )
    assert [record["status"] for record in ready] == ["ready", "ready"], (ready, service.log)
    return ready[0], ready[1]


@pytest.fixture(scope="package")
def finished(service: Service, digits: tuple[Json, Json]) -> Json:
    """A job on the digits that has succeeded and trained."""
    return service.calibrated(*digits, publish_as="digits", budget={"minutes": 1, "candidates": 2}, metadata={"a": "b"})
