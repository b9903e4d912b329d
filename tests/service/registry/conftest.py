"""Fixtures of the stored files: the same tests run over a folder and over a bucket."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.registry.artifacts import ArtifactStore
from service.registry.settings import RegistrySettings
from tests.helpers.object_store import ObjectServer
from tests.helpers.stores import Behind, BehindBucket, BehindFolder


@pytest.fixture(scope="session")
def object_server() -> Iterator[ObjectServer]:
    """A server that speaks S3."""
    server = ObjectServer()
    yield server
    server.stop()


@pytest.fixture
def behind_bucket(tmp_path: Path, object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> BehindBucket:
    """An empty bucket, and an environment in which it is found."""
    for name, value in object_server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = object_server.new_bucket()
    settings = RegistrySettings(data_dir=tmp_path / "data", artifacts=f"s3://{bucket}/{BehindBucket.PREFIX}")
    return BehindBucket(settings, object_server, bucket)


@pytest.fixture(params=["folder", "bucket"])
def behind(request: pytest.FixtureRequest, tmp_path: Path) -> Behind:
    """An empty place of either kind."""
    if request.param == "folder":
        return BehindFolder(RegistrySettings(data_dir=tmp_path / "data", artifacts=None))
    bucket: BehindBucket = request.getfixturevalue("behind_bucket")
    return bucket


@pytest.fixture
def store(behind: Behind) -> Iterator[ArtifactStore]:
    """The store over it."""
    opened = behind.open()
    yield opened
    opened.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder in which a mebibyte fits; who may not mount one may write no larger file."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode == 0:
        yield folder
        subprocess.run(["umount", str(folder)], check=True)
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024**2, before[1]))
    yield folder
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
