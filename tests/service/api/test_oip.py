"""`/v2` as clients of KServe and Triton expect it, down to what they break on; the clients themselves are in `e2e`."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from tests.helpers.api import Api, Json, MakeApi
from tests.helpers.uploads import Uploads, digits

Served = tuple[Api, Json]


@pytest.fixture(scope="module", params=["in one process", "behind a wall"])
def served(request: pytest.FixtureRequest, served: tuple[Api, Json]) -> Any:
    """The API with the digits model, in both forms."""
    return served if request.param == "in one process" else request.getfixturevalue("served_behind_a_wall")


def infer(served: Served, body: Json | bytes, *, path: str = "infer", **headers: str) -> Any:
    """POST to the model; a dictionary is sent as JSON."""
    api, model = served
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return api.client.post(f"/v2/models/{model['id']}/{path}", content=content, headers=headers)


def tensor(rows: np.ndarray, **more: Any) -> Json:
    """An input in JSON."""
    return {"name": "x", "shape": list(rows.shape), "datatype": "FP32", "data": rows.tolist(), **more}


def binary(rows: np.ndarray, request: Json) -> tuple[bytes, dict[str, str]]:
    """A body with the input in binary, and its header."""
    described = {"name": "x", "shape": list(rows.shape), "datatype": "FP32"}
    head = json.dumps({**request, "inputs": [{**described, "parameters": {"binary_data_size": rows.nbytes}}]}).encode()
    return head + rows.tobytes(), {"Inference-Header-Content-Length": str(len(head))}


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """Three digits."""
    inputs, _, _ = digits()
    return np.ascontiguousarray(inputs[:3], dtype=np.float32)


@pytest.fixture(scope="module")
def alone(served: Served, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs that ONNX Runtime computes for them over the served file, with nothing around it."""
    api, model = served
    with api.registry.read() as unit:
        digest = unit.models.get(model["id"]).served_sha256
    assert digest is not None
    session = ort.InferenceSession(str(api.registry.artifacts.path(digest)), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"x": rows}), strict=True))


def values(answer: Any) -> dict[str, np.ndarray]:
    """The outputs of an answer in JSON, in their shapes."""
    assert answer.status_code == 200, answer.text
    return {item["name"]: np.array(item["data"]).reshape(item["shape"]) for item in answer.json()["outputs"]}


def test_json_flat_nested_and_default_outputs(served: Served, rows: np.ndarray, alone: dict[str, np.ndarray]) -> None:
    """Flat and nested data are the same rows; probabilities, confidence and label come back, and the id."""
    nested = infer(served, {"id": "mine", "inputs": [tensor(rows)]})
    flat = infer(served, {"id": "mine", "inputs": [tensor(rows, data=rows.ravel().tolist())]})
    assert nested.json() == flat.json()
    assert nested.headers["content-type"] == "application/json"
    assert "inference-header-content-length" not in nested.headers
    body, found = nested.json(), values(nested)
    assert (body["id"], body["model_name"], body["model_version"]) == ("mine", served[1]["id"], "1")
    assert list(found) == ["probabilities", "confidence", "label"]
    np.testing.assert_allclose(found["probabilities"], alone["probabilities"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found["confidence"], alone["confidence"], rtol=0, atol=1e-6)
    assert found["label"].tolist() == [str(index) for index in alone["probabilities"].argmax(1)]


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_both_ways(served: Served, rows: np.ndarray, encoding: str) -> None:
    """The length of the head counts what is inflated; the answer is compressed for who asks for just this."""
    body, headers = binary(rows, {})
    packed = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)
    plain = infer(served, body, **headers)
    answer = infer(served, packed, **headers, **{"Content-Encoding": encoding, "Accept-Encoding": encoding})
    assert answer.headers["content-encoding"] == encoding
    assert answer.json() == plain.json()
    assert "content-encoding" not in infer(served, body, **headers, **{"Accept-Encoding": "gzip, br"}).headers


def test_a_bomb_is_not_inflated(make_api: MakeApi, uploads: Uploads) -> None:
    """A small body that becomes large is refused as a large body is."""
    api = make_api(max_predict_bytes=100_000)
    record = api.post("/v1/models", content=uploads["digits.onnx"])
    api.work(record["id"])
    bomb = gzip.compress(b" " * 50_000_000)
    assert len(bomb) < 100_000
    answer = infer((api, record), bomb, **{"Content-Encoding": "gzip"})
    assert (answer.status_code, set(answer.json())) == (413, {"error"})


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "JSON"),
        ({"inputs": []}, 400, "'x' FP32"),
        ({"inputs": [{"name": "x", "shape": [1001, 64], "datatype": "FP32", "data": [0] * 64064}]}, 413, "1000"),
    ],
)
def test_bad_requests(served: Served, body: Any, status: int, words: str) -> None:
    """`{"error": …}` as exactly application/json, with what is needed."""
    answer = infer(served, body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()) == {"error"}
    assert words in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/nothing", 404),
        ("GET", "/v2/models/nothing/ready", 404),
        ("GET", "/v2/models/nothing/stats", 404),
        ("POST", "/v2/models/nothing/infer", 404),
        ("POST", "/v2/repository/models/nothing/load", 404),
        ("POST", "/v2/repository/models/nothing/unload", 404),
        ("GET", "/v2/logging", 404),
        ("GET", "/v2/repository/index", 405),
    ],
)
def test_unknown_things(served: Served, method: str, path: str, status: int) -> None:
    """Everything under /v2 answers errors in the protocol's way, routes that do not exist included."""
    answer = served[0].client.request(method, path)
    assert (answer.status_code, set(answer.json())) == (status, {"error"})
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]


def test_keys(make_api: MakeApi) -> None:
    """Health needs no key; everything else does, and says so in the protocol's way."""
    api = make_api(api_keys=frozenset({"a-key-of-the-tests-0123456789abc"}))
    assert api.client.get("/v2/health/live").json() == {"live": True}
    assert api.client.get("/v2/health/ready").json() == {"ready": True}
    for method, path in (("GET", "/v2"), ("POST", "/v2/models/x/infer"), ("POST", "/v2/repository/index")):
        answer = api.client.request(method, path)
        assert (answer.status_code, set(answer.json())) == (401, {"error"})
        assert answer.headers["www-authenticate"] == "Bearer"
        keyed = api.client.request(method, path, headers={"Authorization": "Bearer a-key-of-the-tests-0123456789abc"})
        assert keyed.status_code != 401


def test_configuration(served: Served) -> None:
    """A configuration names the backend that computes the models; for versions that do not exist there is none."""
    api, model = served
    assert infer(served, {"inputs": [tensor(np.zeros((1, 64), dtype=np.float32))]}).status_code == 200
    config = api.client.get(f"/v2/models/{model['id']}/config").json()
    inference = api.client.get("/readyz").json()["inference"]
    assert config["instance_group"] == [{"name": inference, "kind": "KIND_CPU", "count": 1}]
    for wrong in ("2", "x"):
        assert api.client.get(f"/v2/models/{model['id']}/versions/{wrong}").status_code == 404


def test_statistics_count(make_api: MakeApi, uploads: Uploads, rows: np.ndarray) -> None:
    """Two requests of three rows and a bad one: rows, successes and failures are what they were."""
    api = make_api()
    record = api.post("/v1/models", content=uploads["digits.onnx"])
    api.work(record["id"])
    for _ in range(2):
        values(infer((api, record), {"inputs": [tensor(rows)]}))
    assert infer((api, record), {"inputs": []}).status_code == 400
    (found,) = api.client.get(f"/v2/models/{record['id']}/stats").json()["model_stats"]
    assert (found["name"], found["version"], found["inference_count"]) == (record["id"], "1", 6)
    stats = found["inference_stats"]
    assert (stats["success"]["count"], stats["fail"]["count"]) == (2, 1)
    assert stats["success"]["ns"] > stats["compute_infer"]["ns"] > 0
    assert api.client.get("/v2/models/stats").json()["model_stats"] == [found]


def test_repository(make_api: MakeApi, uploads: Uploads, rows: np.ndarray) -> None:
    """An unloaded model answers no request, under either protocol, until it is loaded; the index says which it is."""
    api = make_api()
    ready, waiting = [api.post("/v1/models", content=uploads["digits.onnx"]) for _ in range(2)]
    api.work(ready["id"])
    path = f"/v2/repository/models/{ready['id']}"

    def states(**body: Any) -> dict[str, str]:
        return {item["name"]: item["state"] for item in api.client.post("/v2/repository/index", **body).json()}

    assert states() == {ready["id"]: "READY", waiting["id"]: "LOADING"}
    assert states(json={"ready": True}) == {ready["id"]: "READY"}
    assert api.client.get(f"/v2/models/{waiting['id']}/ready").status_code == 503
    values(infer((api, ready), {"inputs": [tensor(rows)]}))
    assert api.client.post(f"{path}/unload", json={"parameters": {"unload_dependents": False}}).status_code == 200
    assert states()[ready["id"]] == "UNAVAILABLE"
    assert infer((api, ready), {"inputs": [tensor(rows)]}).status_code == 503
    assert api.client.get(f"/v2/models/{ready['id']}/ready").json() == {"name": ready["id"], "ready": False}
    refused = api.client.post(f"/v1/models/{ready['id']}/predict", json={"inputs": rows.tolist()})
    assert (refused.status_code, refused.json()["code"]) == (409, "model_unloaded")
    configured = api.client.post(f"{path}/load", json={"parameters": {"config": "{}"}})
    assert (configured.status_code, set(configured.json())) == (400, {"error"})
    assert api.client.post(f"{path}/load", content=b"{}").status_code == 200
    assert api.client.get(f"/v2/models/{ready['id']}/ready").json() == {"name": ready["id"], "ready": True}
    values(infer((api, ready), {"inputs": [tensor(rows)]}))


def test_not_ready_without_its_database(make_api: MakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readiness is false, and 503, where models cannot be looked up; KServe's client reads the body."""
    api = make_api()

    def away() -> None:
        raise OSError("gone")

    monkeypatch.setattr(api.registry, "check", away)
    answer = api.client.get("/v2/health/ready")
    assert (answer.status_code, answer.json()) == (503, {"ready": False})
