"""Every error of the contract: status, code, fields, and the form that all of them share."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.api import Api, Json, MakeApi
from tests.helpers.problems import fields, problem
from tests.helpers.publishing import publish
from tests.helpers.served import scaling

SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture(scope="module")
def api(shared_api: Api) -> Api:
    """One API for all of these; a test that needs an empty one makes its own."""
    return shared_api


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/models/mdl_x", None),
        ("GET", "/v1/models/mdl_x/onnx", None),
        ("GET", "/v1/datasets/ds_x", None),
        ("GET", "/v1/jobs/job_x", None),
        ("GET", "/v1/jobs/job_x/report", None),
        ("GET", "/v1/jobs/job_x/reliability.svg", None),
        ("GET", "/v1/jobs/job_x/events", None),
        ("GET", "/v1/jobs/job_x/deliveries", None),
        ("GET", "/v1/names/nobody", None),
        ("GET", "/v1/batches/bat_x", None),
        ("GET", "/v1/batches/bat_x/results", None),
        ("GET", "/v1/uploads/upl_x", None),
        ("GET", "/v1/nothing", None),
        ("GET", "/nothing", None),
        ("DELETE", "/v1/models/mdl_x", None),
        ("DELETE", "/v1/datasets/ds_x", None),
        ("DELETE", "/v1/uploads/upl_x", None),
        ("DELETE", "/v1/calibrators/cal_x", None),
        ("DELETE", "/v1/batches/bat_x", None),
        ("OPTIONS", "/v1/nothing", None),
        ("POST", "/v1/jobs/job_x/cancel", None),
        ("POST", "/v1/jobs/job_x/deliveries/msg_x/resend", None),
        ("POST", "/v1/models/mdl_x/predict", {"inputs": [[1]]}),
        ("POST", "/v1/models/nobody/predict", {"inputs": [[1]]}),
        ("PATCH", "/v1/names/nobody", {"default_version": 1}),
    ],
)
def test_unknown_id_in_the_path_is_404(api: Api, method: str, path: str, body: Json | None) -> None:
    """An unknown id or route in the path is 404, whatever the method."""
    problem(api.client.request(method, path, json=body), 404)


def test_unknown_id_in_the_body_is_422(api: Api) -> None:
    """An unknown id in a body is 422 with its field."""
    model, dataset = api.uploaded()
    client = api.client
    assert fields(client.post("/v1/jobs", json={"model_id": "mdl_x", "dataset_id": dataset})) == {"model_id"}
    assert fields(client.post("/v1/jobs", json={"model_id": model, "dataset_id": "ds_x"})) == {"dataset_id"}
    assert fields(client.post("/v1/batches", json={"model": "nobody", "dataset_id": dataset})) == {"model"}
    assert fields(client.post("/v1/batches", json={"model": model, "dataset_id": "ds_x"})) == {"dataset_id"}


HYPERPARAMETERS = {"alpha": [0.51, 0, "much", "0.1"], "epochs": [0, 1.5], "learning_rate": [-1], "scope": ["some"]}
HYPERPARAMETERS |= {"gamma": [3], "optimizer": ["adam"], "weight_decay": [-0.01]}
JOB_FIELDS = {
    "method": ["magic", 3],
    "max_cost_factor": [0.5, "cheap"],
    "hyperparameters": [[]],
    "seed": [-1, True, 2**63],
    "expected_accuracy": [87],
    "publish_as": ["a b", ""],
    "publish_when": ["never"],
    "class_priors": [{"a": 0.5, "b": 0.4}],
    "metadata": ["a"],
    "model_id": [5],
    "modell": ["x"],
}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        *(({name: value}, name) for name, values in JOB_FIELDS.items() for value in values),
        *(
            ({"hyperparameters": {n: v}}, f"hyperparameters.{n}")
            for n, values in HYPERPARAMETERS.items()
            for v in values
        ),
        ({"budget": {"minutes": 0}}, "budget.minutes"),
        ({"budget": {"minutes": "1"}}, "budget.minutes"),
        ({"budget": {"candidates": 0}}, "budget.candidates"),
        ({"gate": {"score": "ece"}}, "gate.score"),
        ({"gate": {"confidence_level": 1}}, "gate.confidence_level"),
        ({"class_priors": {"a": 0.5, "b": "0.5"}}, "class_priors.b"),
        *(({"metadata": {name: value}}, f"metadata.{name}") for name, value in (("a", 1), ("", "a"))),
        ({"webhook": {"url": "ftp://example.org", "secret": SECRET}}, "webhook.url"),
        ({"webhook": {"url": "https://user:pw@example.org", "secret": SECRET}}, "webhook.url"),
        ({"webhook": {"url": "https://example.org", "secret": "whsec_c2hvcnQ="}}, "webhook.secret"),
        ({"webhook": {"url": "https://example.org", "secret": SECRET[6:]}}, "webhook.secret"),
        ({"webhook": {"url": "https://example.org"}}, "webhook.secret"),
    ],
)
def test_bad_job_field_is_422(api: Api, change: Json, field: str) -> None:
    """Each bad field of a job is named, with its place."""
    assert fields(api.client.post("/v1/jobs", json={"model_id": "mdl_x", "dataset_id": "ds_x", **change})) == {field}


def test_job_needs_both_ids(api: Api) -> None:
    """Missing fields are all named at once, also where there is no body."""
    for body in ({"json": {}}, {}):
        assert fields(api.client.post("/v1/jobs", **body)) == {"model_id", "dataset_id"}


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]", b"null", b'"text"', b"NaN"])
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/batches", "/v1/models/mdl_x/predict"])
def test_bodies_that_are_no_json_object(api: Api, path: str, body: bytes) -> None:
    """A body that is no JSON object is 422 (or 404 where the path is already unknown), never a defect."""
    answer = api.client.post(path, content=body, headers={"Content-Type": "application/json"})
    problem(answer, 404 if "mdl_x" in path else 422)


def stored(api: Api) -> list[Path]:
    """All files of the store, named or on their way."""
    return sorted(path for path in api.registry.artifacts.root.rglob("*") if path.is_file())


DATASET_OPTIONS = {
    "nmae": ["x"],
    "format": ["xls"],
    "roles": ["{", "[]", '{"colour":"x"}', '{"label":3}'],
    "seen_by_model": ["maybe"],
    "split_seed": ["-1", "a"],
    "missing": ["ignore"],
    "name": ["x" * 201],
    "padding": ["{", "[0]", '{"ids":"0"}', '{"ids":true}', '{"ids":NaN}'],
    "split_shares": [
        "[0.5]",
        '{"calibration":0.5,"test":0.5,"dev":0}',
        '{"calibration":0.5,"test":0.4}',
        '{"calibration":1.5,"test":-0.5}',
        '{"calibration":1}',
        '{"calibration":true,"test":"0"}',
    ],
    "upload_id": ["x" * 101],
}
MODEL_OPTIONS = {
    "class_names": ["a", "a,a", "a,,b"],
    "task": ["regression"],
    "positive_class": ["c", "c&class_names=a,b"],
    "colour": ["red"],
    "architecture": ["torchvision/resnet18"],
    "preprocessing": ["{", "224", '{"colour":"red"}', '{"crop":-1}'],
}


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        *(("datasets", name, value) for name, values in DATASET_OPTIONS.items() for value in values),
        *(("models", name, value) for name, values in MODEL_OPTIONS.items() for value in values),
    ],
)
def test_bad_upload_option_is_422(api: Api, kind: str, field: str, value: str) -> None:
    """Each bad or unknown query parameter of an upload is named, and nothing is kept."""
    listed, files = api.client.get(f"/v1/{kind}").json(), stored(api)
    assert fields(api.client.post(f"/v1/{kind}?{field}={value}", content=b"abc")) == {field}
    assert (api.client.get(f"/v1/{kind}").json(), stored(api)) == (listed, files)


@pytest.mark.parametrize("value", ["-1", "60.1", "61", "a", "nan", "inf", ""])
@pytest.mark.parametrize("kind", ["datasets", "models", "jobs", "batches"])
def test_wait_is_between_0_and_60(api: Api, kind: str, value: str) -> None:
    """`wait` outside 0 to 60 seconds is 422 on every record."""
    assert fields(api.client.get(f"/v1/{kind}/some?wait={value}")) == {"wait"}


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=a", "limit=-1"])
@pytest.mark.parametrize("kind", ["datasets", "models", "jobs", "batches"])
def test_limit_is_between_1_and_1000(api: Api, kind: str, query: str) -> None:
    """A page holds 1 to 1,000 records."""
    assert fields(api.client.get(f"/v1/{kind}?{query}")) == {"limit"}


def test_empty_upload_is_422(api: Api) -> None:
    """An upload without a byte is refused, raw and in parts, and so is a form without the file."""
    for kind in ("models", "datasets"):
        problem(api.client.post(f"/v1/{kind}", content=b""), 422, "empty_upload")
        problem(api.client.post(f"/v1/{kind}", files={"file": ("f", b"")}), 422, "empty_upload")
        problem(api.client.post(f"/v1/{kind}", files={"data": ("f", b"x")}), 422, "missing_part")
    problem(api.client.post("/v1/jobs", files={"model": ("f", b"x")}), 422, "missing_part")


def chunks(size: int, count: int) -> Iterator[bytes]:
    """A body whose length is not declared."""
    for _ in range(count):
        yield bytes(size)


MEBIBYTE = 1024**2


def test_body_over_the_limit_is_413(make_api: MakeApi) -> None:
    """Declared or chunked, raw or in parts: too large an upload is 413, and nothing of it is kept."""
    api = make_api(max_upload_bytes=2 * MEBIBYTE)
    for kind in ("models", "datasets"):
        assert api.client.post(f"/v1/{kind}", content=chunks(MEBIBYTE, 2)).status_code == 201
        problem(api.client.post(f"/v1/{kind}", content=bytes(2 * MEBIBYTE + 1)), 413, "too_large")
        problem(api.client.post(f"/v1/{kind}", content=bytes(8 * MEBIBYTE)), 413, "too_large")
        problem(api.client.post(f"/v1/{kind}", content=chunks(MEBIBYTE, 8)), 413, "too_large")
        problem(api.client.post(f"/v1/{kind}", files={"file": ("f", bytes(2 * MEBIBYTE + 1))}), 413, "too_large")
    both = {"model": ("m", b"m"), "dataset": ("d", bytes(2 * MEBIBYTE + 1))}
    problem(api.client.post("/v1/jobs", files=both), 413, "too_large")
    assert len(api.client.get("/v1/models").json()["data"]) == 1
    assert list(api.registry.artifacts.incoming.iterdir()) == []


def test_json_over_the_limit_is_413(make_api: MakeApi) -> None:
    """Bodies that are parsed in memory have limits of their own, declared or not."""
    api = make_api(max_predict_json_bytes=MEBIBYTE)
    headers = {"Content-Type": "application/json"}
    for path in ("/v1/batches", "/v1/names/x", "/v1/models/mdl_x/predict"):
        method = "PATCH" if "names" in path else "POST"
        for content in (bytes(6 * MEBIBYTE), chunks(MEBIBYTE, 6)):
            problem(api.client.request(method, path, content=content, headers=headers), 413, "too_large")


@pytest.mark.parametrize("given", ["abc-123", "x" * 100, "", "x" * 101, "a b", "a\tb", "ä".encode()])
def test_request_ids(api: Api, given: str | bytes) -> None:
    """A harmless request id comes back as it was sent; anything else is replaced by an id of ours."""
    found = api.client.get("/healthz", headers={"X-Request-Id": given}).headers["x-request-id"]
    assert found == given if given in ("abc-123", "x" * 100) else found.startswith("req_")


def test_lost_storage_is_unavailable(make_api: MakeApi) -> None:
    """Where nothing can be stored an upload is 503 `storage_unavailable`, and no path of ours is named."""
    api = make_api()
    shutil.rmtree(api.registry.artifacts.incoming)
    body = problem(api.client.post("/v1/datasets", content=b"x"), 503, "storage_unavailable")
    assert str(api.settings.data_dir) not in json.dumps(body)


def test_a_profile_that_says_nothing_of_use(api: Api) -> None:
    """Only its own model is 503: a worker that was taken over may have written it."""
    broken, other = publish(api.registry, "a", scaling(1), positive_class="z"), publish(api.registry, "b", scaling(2))
    problem(api.client.post(f"/v1/models/{broken}/predict", json={"inputs": [[1, 0]]}), 503, "model_cannot_be_opened")
    assert api.client.post(f"/v1/models/{other}/predict", json={"inputs": [[1, 0]]}).status_code == 200


def test_a_model_whose_file_is_lost(api: Api) -> None:
    """503: the model is there, and only the operator can mend it."""
    model = api.client.post("/v1/models", content=b"x").json()
    with api.registry.write() as unit:
        unit.models.ready(model["id"], profile={}, served_sha256="0" * 64)
    problem(api.client.post(f"/v1/models/{model['id']}/predict", json={"inputs": [[1.0]]}), 503, "artifact_missing")


def test_conflicts_say_when_to_come_again_where_that_helps(api: Api) -> None:
    """`Retry-After` stands on a 409 that passes by itself, and on no other."""
    model, dataset = api.uploaded()
    job = api.post("/v1/jobs", json={"model_id": model, "dataset_id": dataset})["id"]
    batch = api.post("/v1/batches", json={"model": model, "dataset_id": dataset})["id"]
    for method, path, code in [
        ("GET", f"/v1/jobs/{job}/report", "no_report"),
        ("GET", f"/v1/jobs/{job}/reliability.svg", "no_report"),
        ("GET", f"/v1/jobs/{job}/predictions", "no_report"),
        ("GET", f"/v1/batches/{batch}/results", "no_results"),
        ("DELETE", f"/v1/batches/{batch}", "not_finished"),
        ("DELETE", f"/v1/models/{model}", "in_use"),
        ("DELETE", f"/v1/datasets/{dataset}", "in_use"),
        ("POST", f"/v1/models/{model}/predict", "model_not_ready"),
    ]:
        answer = api.client.request(method, path, json={"inputs": [[0]]} if method == "POST" else None)
        problem(answer, 409, code)
        assert int(answer.headers["retry-after"]) > 0, path
    api.client.post(f"/v1/jobs/{job}/cancel")
    api.work(model)
    upload = api.post("/v1/uploads", json={"bytes": 9})["id"]
    for method, path, code in [
        ("GET", f"/v1/jobs/{job}/report", "no_report"),
        ("POST", f"/v1/jobs/{job}/cancel", "already_finished"),
        ("POST", f"/v1/models/{model}/predict", "model_not_ready"),
        ("POST", f"/v1/datasets?upload_id={upload}", "upload_incomplete"),
    ]:
        answer = api.client.request(method, path, json={"inputs": [[0]]} if path.endswith("predict") else None)
        problem(answer, 409, code)
        assert "retry-after" not in answer.headers, path


@pytest.mark.parametrize("kind", ["jobs", "models", "datasets", "calibrators", "batches"])
def test_cursors(api: Api, kind: str) -> None:
    """After an id of which there is no record a page is empty; what is no id of this list is 422."""
    prefix = {"jobs": "job", "models": "mdl", "datasets": "ds", "calibrators": "cal", "batches": "bat"}[kind]
    gone = f"{prefix}_{'0' * 26}"  # older than any
    assert api.client.get(f"/v1/{kind}?after={gone}").json() == {"data": [], "has_more": False, "next": None}
    wrongs = ["", "x", gone + "0", gone[:-1], gone.upper(), f"upl_{'0' * 26}", f"{gone}%0a", f"{gone}%00", "7" * 60_000]
    for wrong in wrongs:
        assert fields(api.client.get(f"/v1/{kind}?after={wrong}")) == {"after"}, wrong[:99]


def test_a_body_is_read_where_it_has_a_reader(api: Api) -> None:
    """Where there is no path or no such method, that is the answer, whatever the body is called or how long it says."""
    for headers in ({"Content-Type": "text/plain"}, {"Content-Length": str(10**12)}):
        problem(api.client.post("/v1/nothing", content=b"x", headers=headers), 404, "not_found")
        answer = api.client.put("/v1/jobs", content=b"x", headers=headers)
        problem(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == "GET, HEAD, POST"
    wrong = {"Content-Type": "text/plain"}
    problem(api.client.request("DELETE", "/v1/models/mdl_x", content=b"x", headers=wrong), 415)
    problem(api.client.post("/v1/jobs/job_x/cancel", content=b"x", headers=wrong), 415, "unsupported_media_type")
    problem(api.client.post("/v1/models", content=b"x", headers={"Content-Length": str(10**12)}), 413, "too_large")
