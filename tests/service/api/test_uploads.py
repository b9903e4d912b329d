"""Large files in pieces: every answer of the resumable upload, and what its id may stand for."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.api.resources import uploads as resource
from service.registry.errors import KeyInFlight
from service.registry.repositories.keys import IdempotencyKeys
from tests.helpers.api import Api, MakeApi
from tests.helpers.problems import fields, problem

CONTENT = b"twenty bytes of data"


def announced(api: Api, size: int = len(CONTENT)) -> str:
    """The path of a new upload."""
    return f"/v1/uploads/{api.post('/v1/uploads', json={'bytes': size})['id']}"


def send(api: Api, path: str, offset: int, content: Any, **headers: str) -> Any:
    """One piece."""
    return api.client.patch(path, content=content, headers={"Upload-Offset": str(offset), **headers})


def offset(api: Api, path: str) -> int:
    """The offset that HEAD reports."""
    answer = api.client.head(path)
    assert answer.status_code == 200
    return int(answer.headers["upload-offset"])


def finished(api: Api, content: bytes = CONTENT) -> str:
    """The id of an upload that is wholly here."""
    path = announced(api, len(content))
    assert send(api, path, 0, content).status_code == 204
    return path.rpartition("/")[2]


def left_over(api: Api) -> list[Path]:
    """Files of uploads."""
    return list(api.registry.resumable_uploads.folder.iterdir())


def test_announcing(api: Api) -> None:
    """The answer has the record, its place, and the offset at which to begin; it expires a day later."""
    answer = api.client.post("/v1/uploads", json={"bytes": 10})
    record = answer.json()
    assert (answer.status_code, record["bytes"], record["offset"]) == (201, 10, 0)
    assert answer.headers["location"] == f"/v1/uploads/{record['id']}"
    assert record["id"].startswith("upl_")
    assert (answer.headers["upload-offset"], answer.headers["upload-length"]) == ("0", "10")
    life = datetime.fromisoformat(record["expires_at"]) - datetime.fromisoformat(record["created_at"])
    assert life == timedelta(hours=24)
    for ask in (api.client.head, api.client.get):
        found = ask(answer.headers["location"])
        names = ("upload-offset", "upload-length", "upload-complete", "cache-control")
        assert [found.headers[name] for name in names] == ["0", "10", "?0", "no-store"]
    assert api.client.get(answer.headers["location"]).json()["offset"] == 0


def test_pieces(api: Api) -> None:
    """Each piece is answered with the next offset, which HEAD and the record tell as well; the bytes are in order."""
    path = announced(api)
    for start, end in ((0, 7), (7, 7), (7, 19), (19, 20)):
        answer = send(api, path, start, CONTENT[start:end], **{"Content-Type": "application/offset+octet-stream"})
        assert (answer.status_code, answer.headers["upload-offset"], answer.content) == (204, str(end), b"")
        assert (offset(api, path), api.client.get(path).json()["offset"]) == (end, end)
    assert api.client.head(path).headers["upload-complete"] == "?1"
    assert left_over(api)[0].read_bytes() == CONTENT


@pytest.mark.parametrize("wrong", [0, 6, 8, 20, 10**15])
def test_wrong_offset(shared_api: Api, wrong: int) -> None:
    """A piece that begins elsewhere is 409, with the right offset in header and text, and changes nothing."""
    path = announced(shared_api)
    send(shared_api, path, 0, CONTENT[:7])
    answer = send(shared_api, path, wrong, b"x")
    detail = problem(answer, 409, "offset_mismatch")["detail"]
    assert (answer.headers["upload-offset"], "begins at 7" in detail) == ("7", True)
    assert offset(shared_api, path) == 7


def chunks(*pieces: bytes) -> Iterator[bytes]:
    """A body whose length is not declared."""
    yield from pieces


def test_more_than_announced(api: Api) -> None:
    """Too long a piece, declared or not, is 413 and leaves the upload as it was, also beyond what is buffered."""
    size = 3 * 1024**2
    path = announced(api, size)
    send(api, path, 0, b"a" * 10)
    for content in (bytes(size), chunks(bytes(2 * 1024**2), bytes(1024**2))):
        problem(send(api, path, 10, content), 413, "upload_too_long")
        assert offset(api, path) == 10
    assert left_over(api)[0].read_bytes() == b"a" * 10
    assert send(api, path, 10, chunks(bytes(2 * 1024**2), bytes(1024**2 - 10))).status_code == 204


def test_over_the_limit_is_refused_before_a_byte_is_sent(make_api: MakeApi) -> None:
    """An upload that could never be stored is 413 when it is announced."""
    api = make_api(max_upload_bytes=1000)
    body = problem(api.client.post("/v1/uploads", json={"bytes": 1001}), 413, "too_large")
    assert body["errors"][0]["field"] == "bytes"
    assert send(api, announced(api, 1000), 0, bytes(1000)).status_code == 204
    assert len(left_over(api)) == 1


def test_bad_announcement(api: Api) -> None:
    """A size that is none is 422 with its field."""
    for body in ({}, {"bytes": 0}, {"bytes": -1}, {"bytes": "5"}, {"bytes": 1.5}, {"bytes": True}):
        assert fields(api.client.post("/v1/uploads", json=body)) == {"bytes"}, body
    assert left_over(api) == []


def test_bad_pieces(api: Api) -> None:
    """Without a usable offset, as a form, or of an upload that does not exist, a piece is refused by name."""
    path = announced(api)
    assert fields(api.client.patch(path, content=b"x")) == {"Upload-Offset"}
    for text in ("-1", "a", ""):
        assert fields(send(api, path, 0, b"x", **{"Upload-Offset": text})) == {"Upload-Offset"}
    assert fields(api.client.patch(path, files={"file": ("f", b"x")}, headers={"Upload-Offset": "0"})) == {"body"}
    problem(send(api, "/v1/uploads/upl_x", 0, b"x"), 404, "unknown_upload")
    assert offset(api, path) == 0


def test_checksums(api: Api) -> None:
    """A piece with its checksum is kept if that is right, else refused without a trace; nonsense is refused as well."""
    path = announced(api)
    digest = base64.b64encode(hashlib.sha256(CONTENT[:7]).digest()).decode()
    problem(send(api, path, 0, b"damaged", **{"Upload-Checksum": f"sha256 {digest}"}), 422, "checksum_mismatch")
    assert offset(api, path) == 0
    for nonsense in ("sha256", "sha256 !", "md5 " + digest, "sha256 " + digest[:8]):
        answer = send(api, path, 0, CONTENT[:7], **{"Upload-Checksum": nonsense})
        assert problem(answer, 422, "invalid_checksum")["errors"][0]["field"] == "Upload-Checksum"
    assert send(api, path, 0, CONTENT[:7], **{"Upload-Checksum": f"sha256 {digest}"}).status_code == 204
    assert offset(api, path) == 7


@pytest.mark.parametrize("how", ["query", "form"])
@pytest.mark.parametrize("kind", ["models", "datasets"])
def test_an_upload_takes_the_place_of_the_body(api: Api, kind: str, how: str) -> None:
    """The record is that of the same bytes sent as a body; the upload is used up and leaves nothing behind."""
    upload = finished(api)
    query = {"params": {"upload_id": upload}} if how == "query" else {"files": {"upload_id": (None, upload)}}
    answer = api.client.post(f"/v1/{kind}", **query)
    assert answer.status_code == 201, answer.text
    record, sent = answer.json(), api.post(f"/v1/{kind}", content=CONTENT)
    assert (record["sha256"], record["bytes"], record["status"]) == (sent["sha256"], sent["bytes"], "inspecting")
    assert api.registry.artifacts.path(record["sha256"]).read_bytes() == CONTENT
    assert left_over(api) == []
    with api.registry.read() as unit:
        assert unit.uploads.find(upload) is None
    assert api.client.head(f"/v1/uploads/{upload}").status_code == 404
    assert fields(api.client.post(f"/v1/{kind}", params={"upload_id": upload})) == {"upload_id"}


def test_a_job_in_one_call_takes_uploads(api: Api) -> None:
    """Uploads may stand for either part of a job that brings its files along."""
    for named in (("model", "dataset"), ("dataset",), ("model",)):
        options = {f"{name}_options": (None, json.dumps({"upload_id": finished(api)})) for name in named}
        files = {name: (name, b"x") for name in ("model", "dataset") if name not in named}
        job = api.post("/v1/jobs", files={**files, **options})
        sizes = [api.client.get(f"/v1/{name}s/{job[f'{name}_id']}").json()["bytes"] for name in ("model", "dataset")]
        assert sizes == [20 if name in named else 1 for name in ("model", "dataset")]
    assert left_over(api) == []


def test_uploads_that_cannot_be_used(api: Api) -> None:
    """Unknown is 422, incomplete 409 with both numbers, a body beside it 422; a refused upload can still be used."""
    path = announced(api)
    send(api, path, 0, CONTENT[:7])
    upload = path.rpartition("/")[2]
    assert fields(api.client.post("/v1/datasets?upload_id=upl_x")) == {"upload_id"}
    detail = problem(api.client.post(f"/v1/datasets?upload_id={upload}"), 409, "upload_incomplete")["detail"]
    assert "7 of 20 bytes" in detail
    send(api, path, 7, CONTENT[7:])
    problem(api.client.post(f"/v1/datasets?upload_id={upload}", content=b"x"), 422, "file_and_upload")
    form = {"files": {"file": ("f", b"x")}, "data": {"upload_id": upload}}
    problem(api.client.post("/v1/datasets", **form), 422, "file_and_upload")
    assert fields(api.client.post(f"/v1/models?upload_id={upload}&class_names=a")) == {"class_names"}
    assert api.client.post(f"/v1/datasets?upload_id={upload}").status_code == 201


def test_a_failed_creation_does_not_use_the_upload_up(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the transaction fails after the file was kept, the upload is as it was."""
    upload = finished(api)

    def refuse(*_: object) -> None:
        raise KeyInFlight("idempotency_key_in_flight", "a request with this key is still running")

    with monkeypatch.context() as patched:
        patched.setattr(IdempotencyKeys, "keep", refuse)
        answer = api.client.post(f"/v1/datasets?upload_id={upload}", headers={"Idempotency-Key": "k"})
        problem(answer, 409, "idempotency_key_in_flight")
    assert offset(api, f"/v1/uploads/{upload}") == 20
    record = api.client.post(f"/v1/datasets?upload_id={upload}", headers={"Idempotency-Key": "k"}).json()
    assert api.registry.artifacts.path(record["sha256"]).read_bytes() == CONTENT


def test_idempotent(api: Api) -> None:
    """One key gives its record again although the upload is used; another upload is 422."""
    query = {"params": {"upload_id": finished(api)}, "headers": {"Idempotency-Key": "d"}}
    records = [api.post("/v1/datasets", **query) for _ in range(2)]
    assert records[0] == records[1]
    query["params"] = {"upload_id": finished(api)}
    problem(api.client.post("/v1/datasets", **query), 422, "idempotency_key_reused")


def test_while_a_piece_arrives(api: Api) -> None:
    """No other request may append to an upload, use or delete it until the piece has ended; HEAD always answers."""
    upload = finished(api)
    path = f"/v1/uploads/{upload}"
    with api.registry.resumable_uploads.open(upload):
        problem(send(api, path, 20, b""), 409, "upload_busy")
        problem(api.client.post(f"/v1/datasets?upload_id={upload}"), 409, "upload_busy")
        problem(api.client.delete(path), 409, "upload_busy")
        assert offset(api, path) == 20
    assert api.client.delete(path).status_code == 204
    assert (api.client.head(path).status_code, left_over(api)) == (404, [])


def test_a_client_that_falls_silent(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence in the middle of a piece ends it with 408: what came is kept, and the next connection goes on."""
    monkeypatch.setattr(resource, "_TIMEOUT_S", 0.2)
    path = announced(api)

    async def body() -> AsyncIterator[bytes]:
        yield CONTENT[:7]
        await asyncio.sleep(60)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(api.client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.patch(path, content=body(), headers={"Upload-Offset": "0"})

    problem(asyncio.run(ask()), 408, "upload_stalled")
    assert offset(api, path) == 7
    assert send(api, path, 7, CONTENT[7:]).status_code == 204
    assert left_over(api)[0].read_bytes() == CONTENT


def test_lost_storage(api: Api) -> None:
    """Where the file is gone an upload is 404 for every request, and using it says so; nothing is a defect."""
    upload = finished(api)
    left_over(api)[0].unlink()
    assert api.client.head(f"/v1/uploads/{upload}").status_code == 404
    problem(send(api, f"/v1/uploads/{upload}", 20, b""), 404, "unknown_upload")
    assert fields(api.client.post(f"/v1/datasets?upload_id={upload}")) == {"upload_id"}
