"""The serving application: keys, ids, limits, deadlines and clients that leave, before everything else."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from service.api.document.prediction_operations import OPERATIONS
from service.predict import messages
from service.predict.app import ROUTES, ServingApp
from service.predict.call import InferenceCall
from tests.helpers.api import Api, Json, MakeApi
from tests.helpers.problems import problem
from tests.helpers.uploads import Uploads

JSON = (b"content-type", b"application/json")
ROW = [0.5] * 64


@pytest.fixture
def ready(make_api: MakeApi, uploads: Uploads) -> Callable[..., tuple[Api, str]]:
    """Make an API with settings of the test's choice and a model in it; returns the path to predict with it."""

    def make(**options: Any) -> tuple[Api, str]:
        api = make_api(**options)
        record = api.post("/v1/models", content=uploads["digits.onnx"])
        api.work(record["id"])
        return api, f"/v1/models/{record['id']}/predict"

    return make


def test_request_ids(served: tuple[Api, Json]) -> None:
    """The client's harmless id comes back; in place of a harmful one, or none, there is a new one."""
    api, model = served
    path = f"/v1/models/{model['id']}/predict"

    def answered(**headers: str) -> str:
        return str(api.client.post(path, json={"inputs": [ROW]}, headers=headers).headers["x-request-id"])

    assert answered(**{"X-Request-Id": "mine-1"}) == "mine-1"
    assert answered(**{"X-Request-Id": "a b"}).startswith("req_")
    assert answered() != answered()


def test_bodies_beyond_the_limit(ready: Callable[..., tuple[Api, str]]) -> None:
    """413 for a body that says so, and for one that does not but is."""
    api, path = ready(max_predict_bytes=2000, max_predict_json_bytes=2000)
    for kind, words in (("application/json", "application/x-npy"), ("application/x-npy", "2000 bytes")):
        answer = api.client.post(path, content=b" " * 2001, headers={"Content-Type": kind})
        assert words in problem(answer, 413, "too_large")["detail"]

    def pieces() -> Any:
        for _ in range(3):
            yield b" " * 1000

    problem(api.client.post(path, content=pieces(), headers={"Content-Type": "application/json"}), 413, "too_large")
    assert api.client.post(path, json={"inputs": [ROW]}).status_code == 200


@pytest.mark.parametrize("given", ["0", "-1", "soon", "nan", "1e9", ""])
def test_bad_timeouts(served: tuple[Api, Json], given: str) -> None:
    """`X-Request-Timeout` is a number of seconds."""
    api, model = served
    answer = api.client.post(
        f"/v1/models/{model['id']}/predict", json={"inputs": [ROW]}, headers={"X-Request-Timeout": given}
    )
    assert "seconds" in problem(answer, 422, "invalid_request")["detail"]


def stalled(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the engine take rows and never run them."""
    monkeypatch.setattr(api.scheduler, "_schedule_soon", lambda loop: None)


def test_a_deadline_is_kept(ready: Callable[..., tuple[Api, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """504 when the client's time is up, or the operator's, though the model never answers; the rows are given up."""
    api, path = ready(predict_timeout_seconds=3)
    assert api.client.post(path, json={"inputs": [ROW]}).status_code == 200
    stalled(api, monkeypatch)
    for headers in ({"X-Request-Timeout": "0.01"}, {"X-Request-Timeout": "60"}):
        problem(api.client.post(path, json={"inputs": [ROW]}, headers=headers), 504, "deadline_exceeded")
    monkeypatch.undo()
    assert api.client.post(path, json={"inputs": [ROW]}).status_code == 200
    assert api.scheduler.queued_rows == 0


def test_triton_s_timeout(ready: Callable[..., tuple[Api, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The parameter `timeout` is microseconds."""
    api, path = ready()
    v2 = path.replace("/v1/", "/v2/").replace("/predict", "/infer")
    body = {"inputs": [{"name": "x", "shape": [1, 64], "datatype": "FP32", "data": ROW}], "parameters": {}}
    assert api.client.post(v2, json=body).status_code == 200
    stalled(api, monkeypatch)
    answer = api.client.post(v2, json={**body, "parameters": {"timeout": 20_000}})
    assert (answer.status_code, set(answer.json())) == (504, {"error"})
    monkeypatch.undo()
    bad = api.client.post(v2, json={**body, "parameters": {"timeout": "soon"}})
    assert (bad.status_code, "microseconds" in bad.json()["error"]) == (400, True)
    both = {"json": {**body, "parameters": {"timeout": 20_000_000}}, "headers": {"X-Request-Timeout": "5"}}
    assert api.client.post(v2, **both).status_code == 200  # type: ignore[arg-type]


def test_a_client_that_leaves_takes_its_rows_along(
    ready: Callable[..., tuple[Api, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No answer is written, nothing is computed, and the outcome is counted as what it was."""
    api, path = ready()
    assert api.client.post(path, json={"inputs": [ROW]}).status_code == 200
    stalled(api, monkeypatch)
    app = api.client.app
    messages = [{"type": "http.request", "body": json.dumps({"inputs": [ROW]}).encode()}, {"type": "http.disconnect"}]
    sent: list[Any] = []

    async def ask() -> None:
        async def receive() -> Any:
            return messages.pop(0)

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": [JSON]}
        await app(scope, receive, send)  # type: ignore[arg-type]

    portal = api.client.portal
    assert portal is not None
    portal.call(ask)
    assert sent == []
    monkeypatch.undo()
    assert api.client.post(path, json={"inputs": [ROW]}).status_code == 200
    assert api.scheduler.queued_rows == 0
    text = api.client.get("/metrics").text
    (model,) = re.findall(r"mdl_\w+", path)
    (gone,) = re.findall(rf'fedlas_requests_total{{[^}}]*{model}[^}}]*outcome="gone"[^}}]*}} (\S+)', text)
    (rows,) = re.findall(rf"fedlas_rows_total{{[^}}]*{model}[^}}]*}} (\S+)", text)
    assert (float(gone), float(rows)) == (1, 2)


def test_a_full_queue(ready: Callable[..., tuple[Api, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """429 with Retry-After as soon as more rows wait than may."""
    api, path = ready(max_queued_rows=3, predict_timeout_seconds=8)
    assert api.client.post(path, json={"inputs": [ROW]}).status_code == 200
    stalled(api, monkeypatch)
    waiting = threading.Thread(target=lambda: api.client.post(path, json={"inputs": [ROW] * 3}))
    waiting.start()
    engine = api.scheduler
    while engine.queued_rows < 3:
        time.sleep(0.01)
    answer = api.client.post(path, json={"inputs": [ROW]})
    problem(answer, 429, "overloaded")
    assert int(answer.headers["retry-after"]) >= 1
    waiting.join()


OF_BROWSERS = ["", "text/plain", "application/x-www-form-urlencoded", "text/json", "application/xml"]
OF_JSON = ["application/json; charset=utf-8", "Application/JSON", "application/ld+json"]


@pytest.mark.parametrize("kind", OF_BROWSERS + OF_JSON)
def test_types_that_browsers_send(served: tuple[Api, Json], kind: str) -> None:
    """Any way to say that it is JSON is understood; what a page can have a browser send is 415, with the header."""
    api, model = served
    headers = {"Content-Type": kind} if kind else {}
    content = json.dumps({"inputs": [ROW]}).encode()
    answer = api.client.post(f"/v1/models/{model['id']}/predict", content=content, headers=headers)
    if kind in OF_BROWSERS:
        assert "'Content-Type: application/json'" in problem(answer, 415, "unsupported_media_type")["detail"]
    else:
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        *((kind, 200) for kind in ("", "application/json", "application/octet-stream")),
        *(
            (kind, 415)
            for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a")
        ),
    ],
)
def test_types_under_the_protocol(served: tuple[Api, Json], kind: str, status: int) -> None:
    """Triton's clients send no type, or bytes; what forms of browsers send is refused there too."""
    api, model = served
    content = json.dumps({"inputs": [{"name": "x", "shape": [1, 64], "datatype": "FP32", "data": ROW}]}).encode()
    headers = {"Content-Type": kind} if kind else {}
    answer = api.client.post(f"/v2/models/{model['id']}/infer", content=content, headers=headers)
    assert answer.status_code == status, answer.text


def test_options_beside_json(served: tuple[Api, Json]) -> None:
    """Options of a query string hold for JSON bodies too; one that is unknown, or there twice, is refused."""
    api, model = served
    path = f"/v1/models/{model['id']}/predict"
    (prediction,) = api.client.post(f"{path}?abstain_below=1&top_k=2", json={"inputs": [ROW]}).json()["predictions"]
    assert prediction["abstain"] is True
    assert len(prediction["top_k"]) == 2
    for query, body in (("unknown=1", {}), ("top_k=2", {"top_k": 3})):
        problem(api.client.post(f"{path}?{query}", json={"inputs": [ROW], **body}), 422, "invalid_request")


def test_compressed_bodies(served: tuple[Api, Json]) -> None:
    """gzip is read here as it is under `/v2`."""
    api, model = served
    path = f"/v1/models/{model['id']}/predict"
    content = json.dumps({"inputs": [ROW]}).encode()
    headers = {"Content-Type": "application/json"}
    packed = api.client.post(path, content=gzip.compress(content), headers={**headers, "Content-Encoding": "gzip"})
    assert packed.json() == api.client.post(path, content=content, headers=headers).json()
    answer = api.client.post(path, content=content, headers={**headers, "Content-Encoding": "gzip"})
    problem(answer, 422, "invalid_encoding")


def test_abstentions_are_counted_in_every_format(ready: Callable[..., tuple[Api, str]]) -> None:
    """Abstentions are counted whatever protocol is spoken, and whatever outputs are asked for."""
    api, path = ready()
    body = {"inputs": [ROW], "abstain_below": 1}
    tensors = {"inputs": [{"name": "x", "shape": [1, 64], "datatype": "FP32", "data": ROW}]}
    wished = {**tensors, "outputs": [{"name": "label"}], "parameters": {"abstain_below": 1}}
    v2 = path.replace("/v1/", "/v2/").replace("/predict", "/infer")
    assert api.client.post(path, json=body).status_code == 200
    assert api.client.post(v2, json=wished).status_code == 200
    (model,) = re.findall(r"mdl_\w+", path)
    text = api.client.get("/metrics").text
    (abstained,) = re.findall(rf"fedlas_abstentions_total{{[^}}]*{model}[^}}]*}} (\S+)", text)
    assert float(abstained) == 2


def test_defects_are_told_apart(served: tuple[Api, Json], monkeypatch: pytest.MonkeyPatch) -> None:
    """An unforeseen error is a 500 without a stack trace, under either protocol."""
    api, model = served

    async def broken(*args: Any) -> Any:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(InferenceCall, "find", broken)
    answer = api.client.post(f"/v1/models/{model['id']}/predict", json={"inputs": [ROW]})
    assert "secret" not in json.dumps(problem(answer, 500, "internal_error"))
    v2 = api.client.post(f"/v2/models/{model['id']}/infer", json={})
    assert (v2.status_code, set(v2.json())) == (500, {"error"})


def test_routes_are_declared_once(served: tuple[Api, Json]) -> None:
    """Routes answered in front of FastAPI stand in the OpenAPI document, and FastAPI has none for them."""
    api, _ = served
    app = api.client.app
    assert isinstance(app, ServingApp)
    paths = api.client.get("/openapi.json").json()["paths"] | api.client.get("/openapi-v2.json").json()["paths"]
    behind = {getattr(route, "path", None) for route in app.others.routes}
    assert [route.path for route in ROUTES] == [operation.path for operation in OPERATIONS]
    for operation in OPERATIONS:
        assert paths[operation.path]["post"]["operationId"] == operation.name
        assert operation.path not in behind


def test_a_silent_client_is_answered(served: tuple[Api, Json], monkeypatch: pytest.MonkeyPatch) -> None:
    """408 when the body stops arriving; what its request held is free again."""
    api, model = served
    monkeypatch.setattr(messages, "BODY_TIMEOUT_S", 0.1)
    sent: list[Any] = []

    async def ask() -> None:
        first = [{"type": "http.request", "body": b'{"inputs"', "more_body": True}]

        async def receive() -> Any:
            if first:
                return first.pop()
            return await asyncio.sleep(60)

        async def send(message: Any) -> None:
            sent.append(message)

        path = f"/v1/models/{model['id']}/predict"
        scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": [JSON]}
        await api.client.app(scope, receive, send)  # type: ignore[arg-type]

    portal = api.client.portal
    assert portal is not None
    portal.call(ask)
    assert (sent[0]["status"], json.loads(sent[1]["body"])["code"]) == (408, "body_stalled")
    assert isinstance(api.client.app, ServingApp)
    assert api.client.app.services.memory.held_bytes == 0
