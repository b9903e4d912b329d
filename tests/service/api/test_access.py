"""Pages of other sites, names that lead here by a trick, bodies that are no JSON, and methods a path does not have."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.helpers.api import Api, MakeApi

#: Of each way through the service: FastAPI, the two of the serving application, an upload, and one without a body.
UNSAFE = [
    ("POST", "/v1/jobs"),
    ("POST", "/v1/models?name=a"),
    ("POST", "/v1/models/m/predict"),
    ("POST", "/v2/models/m/infer"),
    ("POST", "/v2/repository/index"),
    ("PATCH", "/v1/uploads/up_1"),
    ("PUT", "/v1/names/a"),
    ("DELETE", "/v1/models/mdl_1"),
    ("POST", "/v1/jobs/job_1/cancel"),
]
FOREIGN = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:9999"},
    {"Origin": "http://localhost.evil.example"},
    {"Origin": "file://"},
    {"Origin": ""},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "https://evil.example"},
]
OWN = [
    {},
    {"Origin": "http://localhost"},
    {"Origin": "https://LOCALHOST:443", "Host": "localhost"},
    {"Origin": "http://localhost:8000", "Host": "localhost:8000"},
    {"Origin": "https://calib.example", "Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "none"},
    {"Sec-Fetch-Site": "same-origin"},
]


def at_home(api: Api) -> TestClient:
    """A client that says `Host: localhost`."""
    return TestClient(api.client.app, base_url="http://localhost")


def told(answer: Any) -> tuple[int, str]:
    """Status, and code or the protocol's text."""
    body = answer.json()
    return answer.status_code, body.get("code") or body["error"]


@pytest.mark.parametrize("keys", [frozenset(), frozenset({"a-key-of-the-tests"})], ids=["keyless", "keys"])
def test_pages_of_other_sites_send_nothing(make_api: MakeApi, keys: frozenset[str]) -> None:
    """A foreign `Origin` or `Sec-Fetch-Site` is 403 on every unsafe method and road, key or not; our own is not."""
    api = make_api(api_keys=keys, allowed_hosts=frozenset({"calib.example"}))
    client = at_home(api)
    bearer = {"Authorization": "Bearer a-key-of-the-tests"}
    for method, path in UNSAFE:
        for headers in FOREIGN:
            answer = client.request(method, path, headers={**bearer, **headers}, content=b"{}")
            assert answer.status_code == 403, (path, headers)
            if path.startswith("/v1"):
                assert told(answer) == (403, "foreign_origin")
            else:
                assert "FEDLAS_ALLOWED_HOSTS" in answer.json()["error"]
            assert answer.headers["x-request-id"]
        for headers in OWN:
            answer = client.request(method, path, headers={**bearer, **headers}, content=b"{}")
            assert answer.status_code not in (401, 403, 421), (path, headers)
    for headers in FOREIGN:
        assert client.get("/v1/models", headers={**bearer, **headers}).status_code == 200
    listed = client.get("/v1/jobs", headers=bearer).json()["data"]
    assert listed == []


def test_only_names_of_this_machine_without_keys(make_api: MakeApi) -> None:
    """Keyless, any other `Host` is 421 everywhere: a name that is made to lead here (DNS rebinding) reads nothing."""
    client = TestClient(make_api(allowed_hosts=frozenset({"calib.example"})).client.app)
    for host in (
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "10.0.0.1",
        "",
    ):
        for method, path in [*UNSAFE, ("GET", "/v1/models"), ("GET", "/healthz"), ("OPTIONS", "/v1/models")]:
            answer = client.request(method, path, headers={"Host": host}, content=b"{}")
            assert answer.status_code == 421, (host, path)
            assert path.startswith("/v2") or told(answer) == (421, "unknown_host")
    for host in (
        "localhost",
        "LOCALHOST:8000",
        "a.localhost",
        "127.0.0.1:80",
        "127.1.2.3",
        "[::1]:8000",
        "calib.example",
    ):
        assert client.get("/v1/models", headers={"Host": host}).status_code == 200, host


def test_any_name_with_keys(make_api: MakeApi) -> None:
    """Where keys are needed a service may have any name: no page has a key."""
    client = make_api(api_keys=frozenset({"a-key-of-the-tests"})).client
    headers = {"Host": "any.example", "Authorization": "Bearer a-key-of-the-tests"}
    assert client.get("/v1/models", headers=headers).status_code == 200
    assert client.post("/v1/models/m/predict", json={"inputs": []}, headers=headers).status_code == 404


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a", "", "json"]
)
def test_json_says_that_it_is_json(api: Api, kind: str) -> None:
    """Wherever JSON is read another type is 415, with the header to send; nothing is made of the body."""
    paths = [
        ("POST", "/v1/predictions"),
        ("PUT", "/v1/names/a"),
        ("POST", "/v1/uploads"),
        ("POST", "/v2/repository/index"),
    ]
    paths += [("POST", "/v1/jobs")] if not kind.startswith("multipart") else []
    for method, path in paths:
        answer = api.client.request(method, path, content=b'{"bytes": 3}', headers={"Content-Type": kind})
        if path.startswith("/v2") and not kind:
            assert answer.status_code == 200
            continue
        assert answer.status_code == 415, path
        body = answer.json()
        detail = body.get("detail") or body["error"]
        assert "send the header 'Content-Type: application/json'" in detail
        assert path.startswith("/v2") or body["code"] == "unsupported_media_type"


def test_what_json_may_be_called(api: Api) -> None:
    """JSON by its name, with parameters, and JSON of a kind; a request without a body needs no type."""
    for kind in ("application/json", "Application/JSON; charset=utf-8", "application/vnd.mine+json"):
        answer = api.client.post("/v1/uploads", content=b'{"bytes": 3}', headers={"Content-Type": kind})
        assert answer.status_code == 201, answer.text
    assert api.client.post("/v1/jobs/job_1/cancel").status_code == 404
    assert api.client.post("/v1/models", content=b"abc", headers={"Content-Type": "text/plain"}).status_code == 201


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/models", "GET, HEAD, POST"),
        ("/v1/models/mdl_1", "DELETE, GET, HEAD"),
        ("/v1/names/a", "DELETE, GET, HEAD, PUT"),
        ("/v1/uploads/up_1", "DELETE, GET, HEAD, PATCH"),
        ("/v1/models/m/predict", "POST"),
        ("/v2/models/m/infer", "POST"),
        ("/v2/models/m/versions/1/infer", "POST"),
        ("/v1/jobs/job_1/cancel", "POST"),
        ("/healthz", "GET, HEAD"),
        ("/docs", "GET, HEAD"),
        ("/static-offline-docs/redoc.standalone.js", "GET, HEAD"),
    ],
)
def test_all_methods_are_named(api: Api, path: str, allowed: str) -> None:
    """`OPTIONS` and every 405 name all methods of the path, on both roads."""
    asked = api.client.options(path)
    assert (asked.status_code, asked.headers["allow"], asked.content) == (204, allowed, b"")
    for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"} - set(allowed.split(", ")):
        answer = api.client.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed), method


def test_no_methods_of_no_path(api: Api) -> None:
    """A path that there is not is 404 for `OPTIONS`, too."""
    assert api.client.options("/v1/nothing").status_code == 404
