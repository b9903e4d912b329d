"""Pages of other sites, names that lead here by a trick, bodies that are no JSON, wrong methods, the access log."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.http.access_log import GONE, Access, AccessLog
from service.processes.control import say_where
from service.registry.settings import ServiceSettings
from tests.helpers.api import Api, MakeApi
from tests.helpers.processes import until
from tests.helpers.publishing import publish
from tests.helpers.served import scaling

#: A request for each way through the service: FastAPI, the serving application's two, an upload, one without a body.
UNSAFE = [("POST", "/v1/jobs"), ("POST", "/v1/models?name=a"), ("POST", "/v1/models/m/predict")]
UNSAFE += [("POST", "/v2/models/m/infer"), ("POST", "/v2/repository/index"), ("POST", "/v1/jobs/job_1/cancel")]
UNSAFE += [("PATCH", "/v1/uploads/up_1"), ("PATCH", "/v1/names/a"), ("DELETE", "/v1/models/mdl_1")]
FOREIGN = [{"Origin": one} for one in ("https://evil.example", "null", "http://localhost:9999", "file://", "")]
FOREIGN += [
    {"Origin": "http://localhost.evil.example"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]
FOREIGN += [{"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"}]
FOREIGN += [{"Sec-Fetch-Site": "same-origin", "Origin": "https://evil.example"}]
FOREIGN_HOSTS = [
    "evil.example",
    "evil.example:8000",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "10.0.0.1",
    "",
]
OWN_HOSTS = ["localhost", "LOCALHOST:8000", "a.localhost", "127.0.0.1:80", "127.1.2.3", "[::1]:8000", "calib.example"]
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


@pytest.mark.parametrize(
    "keys", [frozenset(), frozenset({"a-key-of-the-tests-0123456789abc"})], ids=["keyless", "keys"]
)
def test_pages_of_other_sites_send_nothing(make_api: MakeApi, keys: frozenset[str]) -> None:
    """A foreign `Origin` or `Sec-Fetch-Site` is 403 on every unsafe method and road, key or not; our own is not."""
    client = at_home(make_api(api_keys=keys, allowed_hosts=frozenset({"calib.example"})))
    bearer = {"Authorization": "Bearer a-key-of-the-tests-0123456789abc"}
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
    assert client.get("/v1/jobs", headers=bearer).json()["data"] == []


def test_only_names_of_this_machine_without_keys(make_api: MakeApi) -> None:
    """Keyless, any other `Host` is 421 everywhere: a name that is made to lead here (DNS rebinding) reads nothing."""
    client = TestClient(make_api(allowed_hosts=frozenset({"calib.example"})).client.app)
    for host in FOREIGN_HOSTS:
        for method, path in [*UNSAFE, ("GET", "/v1/models"), ("GET", "/healthz"), ("OPTIONS", "/v1/models")]:
            answer = client.request(method, path, headers={"Host": host}, content=b"{}")
            assert answer.status_code == 421, (host, path)
            assert path.startswith("/v2") or told(answer) == (421, "unknown_host")
    for host in OWN_HOSTS:
        assert client.get("/v1/models", headers={"Host": host}).status_code == 200, host


def test_any_name_with_keys(make_api: MakeApi) -> None:
    """Where keys are needed a service may have any name: no page has a key."""
    client = make_api(api_keys=frozenset({"a-key-of-the-tests-0123456789abc"})).client
    headers = {"Host": "any.example", "Authorization": "Bearer a-key-of-the-tests-0123456789abc"}
    assert client.get("/v1/models", headers=headers).status_code == 200
    assert client.post("/v1/models/m/predict", json={"inputs": []}, headers=headers).status_code == 404


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a", "", "json"]
)
def test_json_says_that_it_is_json(shared_api: Api, kind: str) -> None:
    """Wherever JSON is read another type is 415, with the header to send; nothing is made of the body."""
    paths = ["/v1/batches", "/v1/names/a", "/v1/uploads", "/v2/repository/index"]
    paths += ["/v1/jobs"] if not kind.startswith("multipart") else []
    for path in paths:
        method = "PATCH" if "names" in path else "POST"
        answer = shared_api.client.request(method, path, content=b'{"bytes": 3}', headers={"Content-Type": kind})
        if path.startswith("/v2") and not kind:
            assert answer.status_code == 200
            continue
        assert answer.status_code == 415, path
        body = answer.json()
        assert "send the header 'Content-Type: application/json'" in (body.get("detail") or body["error"])
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
        ("/v1/names/a", "DELETE, GET, HEAD, PATCH"),
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
def test_all_methods_are_named(shared_api: Api, path: str, allowed: str) -> None:
    """`OPTIONS` and every 405 name all methods of the path, on both roads."""
    asked = shared_api.client.options(path)
    assert (asked.status_code, asked.headers["allow"], asked.content) == (204, allowed, b"")
    for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"} - set(allowed.split(", ")):
        answer = shared_api.client.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed), method


LOGGER = "fedlas.api.access"


class Lines(logging.Handler):
    """The lines that were written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.written.append(record.getMessage())


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """The lines that the access log writes, in a process that logs such lines."""
    logger, handler = logging.getLogger(LOGGER), Lines()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield handler.written
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture
def logged(lines: list[str], make_api: MakeApi) -> Api:
    """An API with a key whose requests are logged."""
    api = make_api(api_keys=("geheim-1234-5678-geheim-1234-5678",))
    api.client.headers["Authorization"] = "Bearer geheim-1234-5678-geheim-1234-5678"
    return api


def lines_of(lines: list[str], number: int) -> list[str]:
    """So many lines, once they are written, without their times."""
    until(lambda: len(lines) >= number, what=f"{number} lines are written: {lines}")
    assert len(lines) == number, lines
    assert all(re.search(r" \d+\.\d ms ", line) for line in lines), lines
    return [re.sub(r" \d+\.\d ms ", " … ", line) for line in lines]


def test_a_line_for_each_request(logged: Api, lines: list[str]) -> None:
    """Method, path, status, request id and the record that was made; refusals and unknown paths too."""
    made = logged.client.post("/v1/models?name=m", content=b"m", headers={"X-Request-Id": "mine-1"}).json()["id"]
    logged.client.get(f"/v1/models/{made}", headers={"X-Request-Id": "mine-2"})
    logged.client.get("/v1/nothing", headers={"X-Request-Id": "mine-3"})
    logged.client.get("/v1/models", headers={"X-Request-Id": "mine-4", "Authorization": "Bearer other"})
    logged.client.delete(f"/v1/models/{made}", headers={"X-Request-Id": "mine-5"})
    logged.client.head("/healthz", headers={"X-Request-Id": "mine-6"})
    assert lines_of(lines, 6) == [
        f"POST /v1/models 201 … mine-1 {made}",
        f"GET /v1/models/{made} 200 … mine-2",
        "GET /v1/nothing 404 … mine-3",
        "GET /v1/models 401 … mine-4",
        f"DELETE /v1/models/{made} 204 … mine-5",
        "HEAD /healthz 200 … mine-6",
    ]


def test_predictions_name_the_model(logged: Api, lines: list[str]) -> None:
    """The path in front of FastAPI has its lines, answered, refused and with another method."""
    model = publish(logged.registry, "digits", scaling(1))
    headers = {"X-Request-Id": "p"}
    for body in ({"inputs": [[1.0, 0.0]]}, {"inputs": []}):
        logged.client.post("/v1/models/digits/predict", json=body, headers=headers)
    logged.client.post("/v1/models/nobody/predict", json={}, headers=headers)
    logged.client.post("/v1/models/digits/predict", headers={**headers, "Authorization": "none"})
    logged.client.get("/v1/models/digits/predict", headers=headers)
    assert lines_of(lines, 5) == [
        f"POST /v1/models/digits/predict 200 … p {model}",
        f"POST /v1/models/digits/predict 422 … p {model}",
        "POST /v1/models/nobody/predict 404 … p",
        "POST /v1/models/digits/predict 401 … p",
        "GET /v1/models/digits/predict 405 … p",
    ]


def test_nothing_secret_is_written(logged: Api, lines: list[str]) -> None:
    """No key, no query value, no secret of a body; what a path smuggles in stays in one line."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    webhook = {"url": f"https://example.com/?token={secret}", "secret": secret}
    logged.client.post("/v1/jobs", json={"model_id": "mdl_1", "dataset_id": "ds_1", "webhook": webhook})
    logged.client.get("/v1/jobs", params={"metadata[key]": secret})
    logged.client.get("/v1/models/a\u2028INFO 200", headers={"X-Request-Id": "two words"})
    found = lines_of(lines, 3)
    assert not any(word in line for line in found for word in (secret, "geheim", "token", "metadata"))
    assert "\u2028" not in found[2]
    assert r"a\u2028INFO" in found[2]
    assert "two words" not in found[2]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_log_begins_with_where_everything_is(tmp_path: Path, host: str, caplog: pytest.LogCaptureFixture) -> None:
    """Data folder, database without its password, files, and that there are no keys, where there are none."""
    caplog.set_level(logging.INFO, "fedlas.api")
    url = "postgresql+psycopg://me:geheim@db.example/fedlas?password=geheim"
    say_where(ServiceSettings(data_dir=tmp_path, database_url=url, artifacts="s3://bucket/a", host=host))
    where, keys = (record.getMessage() for record in caplog.records)
    assert (str(tmp_path) in where, "db.example/fedlas" in where, "s3://bucket/a" in where) == (True, True, True)
    assert "geheim" not in where
    assert "FEDLAS_API_KEYS" in keys
    assert ("not on 0.0.0.0" in keys) == (host == "0.0.0.0")
    caplog.clear()
    say_where(ServiceSettings(data_dir=tmp_path, api_keys=("geheim" * 6,)))
    (where,) = (record.getMessage() for record in caplog.records)
    assert (str(tmp_path / "registry.sqlite") in where, "geheim" in where) == (True, False)


def test_many_predictions_are_counted(lines: list[str]) -> None:
    """Within a moment so many have lines of their own; the others are one line, and other requests have theirs."""
    log = AccessLog()
    log._thread = threading.current_thread()  # as if it ran
    for number in range(1000):
        log.note(Access("POST", "/v1/models/m/predict", 200, 0.001, f"req_{number}", "mdl_1", prediction=True))
    log.note(Access("GET", "/v1/jobs", GONE, 0.001, "req_last"))
    log._write()
    assert len(lines) == 27
    assert lines[24].startswith("POST /v1/models/m/predict 200 1.0 ms req_24 mdl_1")
    assert lines[25] == "GET /v1/jobs 499 1.0 ms req_last"
    assert lines[26].startswith("975 more predictions")


def test_a_reader_that_stands_still_delays_nobody() -> None:
    """While no line can be written, requests are noted up to a limit, and the others are counted."""
    log = AccessLog()
    log._thread = threading.current_thread()
    for _ in range(20_000):
        log.note(Access("GET", "/", 200, 0.0, "r"))
    assert (len(log._noted), log._dropped) == (10_000, 10_000)


def test_a_process_that_logs_no_such_lines_notes_none(api: Api) -> None:
    """Without a reader nothing is gathered."""
    api.client.get("/healthz")
    assert api.services.access_log._noted == []
