"""A service that the tests of the client share, and clients of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedlas.client import Client, Job
from tests.helpers import backends
from tests.helpers.live_api import live
from tests.helpers.service import Service, serving
from tests.helpers.uploads import Uploads


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever the environment of the tests says."""
    for name in ("FEDLAS_URL", "FEDLAS_API_KEY", "FEDLAS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that tests share."""
    with serving(tmp_path_factory.mktemp("client") / "data", FEDLAS_SWEEP_SECONDS="5") as running:
        yield running


@pytest.fixture(scope="package")
def url(service: Service) -> str:
    """Where it is."""
    return str(service.client.base_url).rstrip("/")


@pytest.fixture(scope="package")
def client(url: str) -> Iterator[Client]:
    """A client of it."""
    with Client(url) as opened:
        yield opened


@pytest.fixture(scope="package")
def silent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of an API without a worker: its jobs wait."""
    folder = tmp_path_factory.mktemp("api") / "data"
    with backends.place(folder) as place, live(place) as apis, Client(apis[0].url) as opened:
        yield opened


@pytest.fixture(scope="package")
def files(tmp_path_factory: pytest.TempPathFactory, uploads: Uploads) -> Path:
    """A folder with `digits.onnx` and `digits.npz`."""
    folder = tmp_path_factory.mktemp("files")
    for name in ("digits.onnx", "digits.npz"):
        (folder / name).write_bytes(uploads[name])
    return folder


@pytest.fixture(scope="package")
def job(client: Client, files: Path) -> Job:
    """A job on the digits that has succeeded, published as `digits`."""
    how = {"method": "post_hoc", "budget": 1, "publish_as": "digits", "metadata": {"a": "b"}}
    return client.calibrate(files / "digits.onnx", files / "digits.npz", **how)
