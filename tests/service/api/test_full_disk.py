"""A disk that has been filled: what was sent is refused in words, and what is deleted gives its room back."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from service.registry.repositories.keys import IdempotencyKeys
from service.registry.settings import WorkerSettings
from tests.helpers.api import Api, open_api
from tests.helpers.disk import Disk, mounted
from tests.helpers.problems import problem
from worker.outside.recovery import run_cleanup

MEBIBYTE = 1024**2
SIZE_MB = 16
LONG_AGO_S = 25 * 3600


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of 16 MiB, a sixteenth of which is kept free."""
    with mounted(tmp_path / "disk", size_mb=SIZE_MB) as found:
        if found is None:
            pytest.skip("needs the right to mount a disk")
        yield found


@pytest.fixture
def api(disk: Disk) -> Iterator[Api]:
    """An API whose whole data folder lies on that disk."""
    with ExitStack() as stack:
        yield open_api(disk.folder / "data", stack)


def uploaded(api: Api, mebibytes: int) -> tuple[str, int]:
    """The path of an upload to which so much was sent, in pieces, until one was refused, and what it has."""
    path = f"/v1/uploads/{api.post('/v1/uploads', json={'bytes': 2 * SIZE_MB * MEBIBYTE})['id']}"
    for number in range(mebibytes):
        headers = {"Upload-Offset": str(number * MEBIBYTE)}
        answer = api.client.patch(path, content=bytes(MEBIBYTE), headers=headers)
        if answer.status_code != 204:
            assert (
                "the disk has no room for 1048576 more bytes; delete"
                in problem(answer, 503, "storage_unavailable")["detail"]
            )
            break
    return path, api.client.get(path).json()["offset"]


def test_uploads_leave_the_database_its_room(api: Api) -> None:
    """Uploads that no longer fit are refused and leave nothing; records are made, and deleted to give room back."""
    small = api.post("/v1/datasets", content=b"a,b\n1,2\n")
    path, size = uploaded(api, SIZE_MB)
    assert 12 * MEBIBYTE < size < 15 * MEBIBYTE
    problem(api.client.post("/v1/datasets", content=bytes(4 * MEBIBYTE)), 503, "storage_unavailable")
    assert list(api.registry.artifacts.incoming.iterdir()) == []
    assert api.client.delete(f"/v1/datasets/{small['id']}").status_code == 204
    assert api.client.delete(path).status_code == 204
    assert api.client.get(path).status_code == 404
    assert api.post("/v1/datasets", content=bytes(12 * MEBIBYTE))["bytes"] == 12 * MEBIBYTE


def test_an_upload_on_a_full_disk_is_deleted(api: Api, disk: Disk) -> None:
    """Where others have taken the last byte, the bytes of an upload make the room in which its deletion is noted."""
    path, _ = uploaded(api, 4)
    disk.fill()
    assert api.client.delete(path).status_code == 204
    assert api.client.get(path).status_code == 404
    assert api.post("/v1/datasets", content=bytes(2 * MEBIBYTE))["bytes"] == 2 * MEBIBYTE


def test_an_upload_on_a_full_disk_is_forgotten(api: Api, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker frees what nobody has sent to for a day before its cleanup writes anything."""
    path, _ = uploaded(api, 4)
    file = api.registry.resumable_uploads.folder / path.rpartition("/")[2]
    os.utime(file, (time.time() - LONG_AGO_S,) * 2)
    disk.fill()
    stopping = threading.Event()
    monkeypatch.setattr(IdempotencyKeys, "forget_old", lambda _: stopping.set())
    settings = WorkerSettings(data_dir=api.settings.data_dir, sweep_seconds=1e-3)
    run_cleanup(api.registry, settings, stopping)
    assert not file.exists()
    assert api.client.get(path).status_code == 404
    assert api.post("/v1/datasets", content=bytes(2 * MEBIBYTE))["bytes"] == 2 * MEBIBYTE
