"""Lost connections: nothing is made twice, and nothing that has arrived is sent again."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fedlas.client import Client, errors
from tests.helpers import backends
from tests.helpers.cut_cable import Cable, cable_to
from tests.helpers.live_api import live
from tests.helpers.plain_http import ask
from tests.helpers.processes import until

pytestmark = pytest.mark.slow

#: More than goes out in one request.
LARGE = 20 * 1024**2


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """An API without a worker: nothing is inspected or run."""
    with backends.place(tmp_path_factory.mktemp("api") / "data") as place, live(place) as apis:
        yield apis[0].port


@pytest.fixture
def cable(port: int) -> Iterator[Cable]:
    """A cable to it."""
    with cable_to(port) as laid:
        yield laid


@pytest.fixture
def client(cable: Cable) -> Iterator[Client]:
    """A client at the end of the cable."""
    with Client(cable.url) as opened:
        yield opened


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of noise."""
    path = tmp_path_factory.mktemp("large") / "noise.npz"
    path.write_bytes(np.random.default_rng(0).bytes(LARGE))
    return path


def test_an_upload_goes_on_where_it_was(client: Client, cable: Cable, port: int, large: Path) -> None:
    """Cut twice in the middle, the file arrives whole as one record, and nothing that has arrived is sent again."""
    reached: list[int] = []

    def settle() -> None:
        """The service has kept all that arrived: it refuses an empty piece for where this begins, not as one more."""
        path = cable.requests[-1].split()[1]
        empty = f"PATCH {path} HTTP/1.0\r\nUpload-Offset: {LARGE}\r\n\r\n".encode()
        (answer,) = until(lambda: [one for one in ask(port, empty) if one.told != (409, "upload_busy")], what="free")
        assert answer.told == (409, "offset_mismatch")
        reached.append(int(answer.headers["upload-offset"]))

    for sent in (7_000_000, 5_000_000):
        cable.cut("PATCH", sent=sent, then=settle)
    told: list[tuple[int, int]] = []
    record = client.datasets.upload(large, name="cut-upload", wait=False, on_upload=lambda *one: told.append(one))
    assert cable.done == 2
    assert record.sha256 == hashlib.sha256(large.read_bytes()).hexdigest()
    assert record.bytes == LARGE
    assert (told[0], told[-1]) == ((0, LARGE), (LARGE, LARGE))
    begins = [re.search(r"(?i)\r\nupload-offset: (\d+)", head) for head in cable.requests if head.startswith("PATCH")]
    assert [int(found.group(1)) for found in begins if found] == [0, *reached]
    # A cut loses what the kernel (128 KiB) and uvicorn (64 KiB, and 256 KiB that it has just read) hold.
    assert cable.sent < LARGE + 2 * 0.5 * 1024**2
    assert [found.id for found in client.datasets.list(name="cut-upload")] == [record.id]


def test_a_lost_announcement_is_made_once(client: Client, cable: Cable, large: Path) -> None:
    """Cut in the answers of both POSTs of a large upload: both are answered again under their key."""
    cable.cut("POST /v1/uploads", received=0)
    cable.cut("POST /v1/models", received=0)
    record = client.models.upload(large, name="cut-announcement", wait=False)
    assert cable.done == 2
    for path in ("POST /v1/uploads", "POST /v1/models"):
        keys = cable.keys(path)
        assert (len(keys), len(set(keys))) == (2, 1)
    assert [found.id for found in client.models.list(name="cut-announcement")] == [record.id]


def test_a_download_from_nowhere_is_soon_said(cable: Cable, tmp_path: Path) -> None:
    """Where no connection was ever made there is no long patience, and no file."""
    cable.cut("GET", received=0, times=100)
    with Client(cable.url, max_retries=1) as client, pytest.raises(errors.APIConnectionError):
        client.models.download("mdl_1", tmp_path / "m.onnx")
    assert len(cable.requests) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_message_is_not_sent_twice(client: Client, cable: Cable) -> None:
    """A resend has no key: after a lost connection it is for its owner to say whether it is to be tried again."""
    cable.cut("POST", received=0)
    with pytest.raises(errors.APIConnectionError):
        client.jobs.deliveries.resend("job_1", "dlv_1")
    assert len(cable.requests) == 1


def test_a_small_file_is_kept_once(client: Client, cable: Cable, tmp_path: Path) -> None:
    """Cut in the middle of the body, and in the answer: one record, under one key, with the right digest."""
    path = tmp_path / "small.csv"
    path.write_bytes(np.random.default_rng(1).bytes(3_000_000))
    cable.cut("POST", sent=1_000_000)
    cable.cut("POST", received=0)
    record = client.datasets.upload(path, wait=False)
    assert cable.done == 2
    assert (record.name, record.sha256) == ("small", hashlib.sha256(path.read_bytes()).hexdigest())
    assert [found.id for found in client.datasets.list(name="small")] == [record.id]
    assert len(set(cable.keys("POST"))) == 1


def test_a_job_and_a_batch_are_ordered_once(client: Client, cable: Cable, tmp_path: Path) -> None:
    """Cut three times in the answer of a creation, there is one job, one batch, and a cancellation that took place."""
    (tmp_path / "x.bin").write_bytes(b"x")
    model = client.models.upload(tmp_path / "x.bin", wait=False)
    dataset = client.datasets.upload(tmp_path / "x.bin", wait=False)
    cable.cut("POST /v1/jobs", received=0, times=3)
    job = client.jobs.create(model, dataset, metadata={"of": "cut-jobs"})
    assert [found.id for found in client.jobs.list(metadata={"of": "cut-jobs"})] == [job.id]
    assert len(cable.keys("POST /v1/jobs")) == 4
    assert len(set(cable.keys("POST /v1/jobs"))) == 1
    cable.cut("POST /v1/jobs/.*/cancel", received=0)
    assert job.cancel().status == "cancelled"
    cable.cut("DELETE /v1/jobs", received=0)
    job.delete()
    assert list(client.jobs.list(metadata={"of": "cut-jobs"})) == []
    cable.cut("POST /v1/batches", received=0)
    batch = client.batches.create(model, dataset)
    assert [found.id for found in client.batches.list()] == [batch.id]


def test_two_orders_are_two(client: Client, cable: Cable, tmp_path: Path) -> None:
    """Two calls have two keys: one request given twice is two jobs."""
    (tmp_path / "x.bin").write_bytes(b"y")
    model = client.models.upload(tmp_path / "x.bin", wait=False)
    dataset = client.datasets.upload(tmp_path / "x.bin", wait=False)
    assert client.jobs.create(model, dataset).id != client.jobs.create(model, dataset).id
    assert len(set(cable.keys("POST /v1/jobs"))) == 2


def test_a_cable_that_stays_cut_is_said_in_a_sentence(cable: Cable) -> None:
    """After the retries the error names the server, and nothing else is shown of the connection."""
    with Client(cable.url, max_retries=2) as client:
        assert client.server().name == "fedlas"
        cable.cut("GET /v1/jobs", received=0, times=100)
        with pytest.raises(errors.APIConnectionError, match=f"^the connection to {cable.url} was lost: ") as caught:
            list(client.jobs.list())
    assert len([head for head in cable.requests if head.startswith("GET /v1/jobs")]) == 3
    assert caught.value.request_id
    assert caught.value.__cause__ is None
