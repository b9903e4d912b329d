"""Large files in pieces, over real sockets and through killed processes: nothing that was acknowledged is lost."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.helpers.service import Json, Service, serving, until
from tests.helpers.uploads import Uploads

pytestmark = pytest.mark.slow

MEBIBYTE = 1024**2
CONTENT = np.random.default_rng(0).bytes(8 * MEBIBYTE)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose API is killed again and again."""
    with serving(tmp_path_factory.mktemp("killed") / "data") as running:
        yield running


def announced(service: Service, size: int) -> str:
    """The path of a new upload."""
    answer = service.client.post("/v1/uploads", json={"bytes": size})
    assert answer.status_code == 201, answer.text
    return str(answer.headers["location"])


def offset(service: Service, path: str) -> int:
    """The offset that HEAD reports."""
    return int(service.client.head(path).headers["upload-offset"])


def send(service: Service, path: str, start: int, content: bytes) -> httpx.Response:
    """One piece."""
    return service.client.patch(path, content=content, headers={"Upload-Offset": str(start)})


def finished(service: Service, path: str, content: bytes) -> str:
    """Send what is missing, and return the upload's id."""
    start = offset(service, path)
    answer = send(service, path, start, content[start:])
    assert (answer.status_code, answer.headers["upload-offset"]) == (204, str(len(content))), answer.text
    return path.rpartition("/")[2]


@contextmanager
def half_sent(service: Service, path: str, content: bytes, declared: int) -> Iterator[socket.socket]:
    """A connection on which a piece of `declared` bytes has begun, and nothing comes after `content`."""
    url = service.client.base_url
    with closing(socket.create_connection((url.host, url.port), timeout=60)) as connection:
        head = f"PATCH {path} HTTP/1.1\r\nHost: localhost\r\nUpload-Offset: 0\r\nContent-Length: {declared}\r\n\r\n"
        connection.sendall(head.encode() + content)
        yield connection


def kill_api(service: Service) -> None:
    """SIGKILL, and wait for the next one."""
    api = service.pid("control")
    os.kill(api, signal.SIGKILL)
    until(lambda: service.pid("control") != api, what="a new API")
    until(service._is_ready, what="the new API answers")


def test_killed_between_pieces(killed: Service, uploads: Uploads) -> None:
    """A dataset in three pieces with a killed API between them, and a model: a job on them succeeds."""
    content = uploads["digits.npz"]
    path = announced(killed, len(content))
    for start, end in ((0, 1000), (1000, len(content) // 2)):
        assert send(killed, path, start, content[start:end]).status_code == 204
        kill_api(killed)
        assert offset(killed, path) == end
    dataset = created(killed, "datasets", finished(killed, path, content))
    path = announced(killed, len(uploads["digits.onnx"]))
    model = created(killed, "models", finished(killed, path, uploads["digits.onnx"]))
    assert dataset["sha256"] == hashlib.sha256(content).hexdigest()
    assert killed.calibrated(model, dataset, method="temperature")["calibrated_model_id"]
    assert list((killed.stored / "uploads").iterdir()) == []


def created(service: Service, kind: str, upload: str) -> Json:
    """The record that an upload became."""
    answer = service.client.post(f"/v1/{kind}", params={"upload_id": upload})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def test_killed_within_a_piece(killed: Service) -> None:
    """Bytes of a piece that HEAD has acknowledged outlive SIGKILL, and the upload goes on from there."""
    path = announced(killed, len(CONTENT))
    with half_sent(killed, path, CONTENT[: 5 * MEBIBYTE], len(CONTENT)):
        until(lambda: offset(killed, path) >= 4 * MEBIBYTE, what="a part is on the disk")
        acknowledged = offset(killed, path)
        kill_api(killed)
    assert acknowledged <= offset(killed, path) <= 5 * MEBIBYTE
    upload = finished(killed, path, CONTENT)
    record = created(killed, "models", upload)
    assert killed.client.get(f"/v1/models/{record['id']}/onnx").content == CONTENT


def test_waiting_for_bytes_holds_no_thread(service: Service) -> None:
    """With more silent pieces open than there are threads the service answers as ever."""
    paths = [announced(service, 2 * MEBIBYTE) for _ in range(50)]
    with ExitStack() as stack:
        for path in paths:
            stack.enter_context(half_sent(service, path, CONTENT[:MEBIBYTE], 2 * MEBIBYTE))
        for path in paths:
            until(lambda at=path: offset(service, at) == MEBIBYTE, what="it has begun")  # type: ignore[misc]
        assert service.client.get("/v1/models", timeout=10).status_code == 200
        assert {service.client.delete(path).status_code for path in paths} == {409}, "all of them still wait"
    for path in paths:
        until(lambda at=path: service.client.delete(at).status_code == 204, what="it is free")  # type: ignore[misc]


def test_memory_is_bounded(service: Service) -> None:
    """A piece of 192 MiB passes through the API without staying in its memory."""
    size = 192 * MEBIBYTE
    path = announced(service, size)
    before = peak_memory(service)
    body = (bytes(MEBIBYTE) for _ in range(192))
    answer = service.client.patch(path, content=body, headers={"Upload-Offset": "0"})
    assert (answer.status_code, answer.headers["upload-offset"]) == (204, str(size))
    assert peak_memory(service) - before < 64 * MEBIBYTE
    assert service.client.delete(path).status_code == 204


def peak_memory(service: Service) -> int:
    """The largest resident set that the API has had, in bytes."""
    status = Path(f"/proc/{service.pid('control')}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
