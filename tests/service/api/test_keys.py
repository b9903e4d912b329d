"""Keys with scopes: what each may do on every road, how they are issued, and that they end."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text, update
from starlette.testclient import TestClient

from fedlas.contract.keys import new_key
from service.registry.tables import ApiKey
from service.served import folder, keys
from tests.helpers import Json
from tests.helpers.api import Api, MakeApi, open_api
from tests.helpers.processes import until
from tests.helpers.publishing import publish
from tests.helpers.served import scaling

ADMIN, SCRAPER = "key-of-an-administrator-0123456789abcdef", "key-of-a-prometheus-0123456789abcdef"
ROWS: Json = {"inputs": [[1.0, 0.0]]}
#: A request for each right, and those of the protocol; what it needs.
REQUESTS = [
    ("POST", "/v1/models/digits/predict", "predict"),
    ("POST", "/v2/models/digits/infer", "predict"),
    ("GET", "/v2/models/digits", "predict"),
    ("GET", "/v2", "predict"),
    ("GET", "/v1/models", "read"),
    ("HEAD", "/v1/jobs", "read"),
    ("POST", "/v2/repository/index", "read"),
    ("POST", "/v1/uploads", "write"),
    ("PATCH", "/v1/names/digits", "write"),
    ("DELETE", "/v1/models/mdl_1", "write"),
    ("POST", "/v2/repository/models/digits/load", "write"),
    ("GET", "/metrics", "metrics"),
    ("GET", "/v1/keys", "admin"),
    ("DELETE", "/v1/keys/key_1", "admin"),
]


def bearer(key: str) -> dict[str, str]:
    """The header of a key."""
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A service with an administrator, and two names that answer."""
    with ExitStack() as stack:
        options = {"api_keys": frozenset({ADMIN}), "metrics_keys": frozenset({SCRAPER})}
        opened = open_api(tmp_path_factory.mktemp("keys") / "data", stack, **options)
        publish(opened.registry, "digits", scaling(1))
        publish(opened.registry, "others", scaling(1))
        yield opened


def issued(api: Api, *scopes: str, **options: object) -> Json:
    """A new key with these scopes."""
    body = {"name": "a test", "scopes": list(scopes), **options}
    answer = api.client.post("/v1/keys", json=body, headers=bearer(ADMIN))
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def status(api: Api, method: str, path: str, key: str) -> int:
    """The status of a request that is right but for its key."""
    body = {"json": ROWS} if path.endswith("predict") else {"json": {}} if method in ("POST", "PATCH") else {}
    return int(api.client.request(method, path, headers=bearer(key), **body).status_code)


@pytest.mark.parametrize("scope", ["predict", "read", "write", "metrics"])
def test_a_key_may_do_what_its_scopes_name(api: Api, scope: str) -> None:
    """On each road the scope it needs is let through and every other is 403; an administrator may do everything."""
    key = issued(api, scope)["key"]
    for method, path, needed in REQUESTS:
        readable = scope == "read" and (method, needed) == ("GET", "predict")
        refused = status(api, method, path, key) == 403
        assert refused == (scope != needed and not readable), (method, path)
        assert status(api, method, path, ADMIN) not in (401, 403), (method, path)


def test_a_refusal_names_what_is_held_and_what_is_needed(api: Api) -> None:
    """A sentence with the key's name and both scopes, as problem and as the protocol's error."""
    key = issued(api, "predict", "read")["key"]
    problem = api.client.post("/v1/uploads", json={"bytes": 1}, headers=bearer(key)).json()
    assert problem["code"] == "forbidden"
    said = "the key 'a test' has the scopes predict, read; this needs write: an administrator issues such a key"
    assert problem["detail"] == said
    assert api.client.post("/v2/repository/models/digits/load", headers=bearer(key)).json() == {"error": said}


def test_a_key_of_some_models_asks_no_other(api: Api) -> None:
    """Predictions and metadata of its names alone, also where a version is named, on pages, and no list of all."""
    key = issued(api, "predict", models=["digits"])["key"]
    assert status(api, "POST", "/v1/models/digits/predict", key) == 200
    assert status(api, "GET", "/v2/models/digits/versions/1", key) == 200
    for method, path in (
        ("POST", "/v1/models/others/predict"),
        ("POST", "/v2/models/others/versions/1/infer"),
        ("GET", "/v2/models/others"),
        ("GET", "/v2/models"),
        ("GET", "/models/others/try"),
        ("POST", "/models/others/try"),
        ("GET", "/settings"),
        ("GET", "/operations"),
    ):
        assert status(api, method, path, key) == 403, path
    refused = api.client.post("/v1/models/others/predict", json=ROWS, headers=bearer(key)).json()
    assert refused["detail"] == "the key 'a test' may ask digits, and not 'others'"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "a", "scopes": []}, "scopes"),
        ({"name": "a", "scopes": ["predict", "everything"]}, "scopes.1"),
        ({"name": "", "scopes": ["read"]}, "name"),
        ({"name": "a", "scopes": ["read"], "models": ["digits"]}, "body"),
        ({"name": "a", "scopes": ["predict"], "models": []}, "models"),
        ({"name": "a", "scopes": ["read"], "expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
        ({"name": "a", "scopes": ["read"], "expires_at": "tomorrow"}, "expires_at"),
        ({"name": "a", "scopes": ["read"], "expires_at": "2099-01-01T00:00:00"}, "expires_at"),
        ({"name": "a", "scopes": ["read"], "expires_at": "9999-12-31T23:59:59-23:59"}, "expires_at"),
        ({"name": "a", "scopes": ["read"], "expires_at": 9999999999}, "expires_at"),
        ({"name": "two\nlines", "scopes": ["read"]}, "name"),
        ({"name": "a", "scopes": ["read"], "days": 3}, "days"),
    ],
)
def test_what_is_no_key_to_issue(api: Api, body: Json, field: str) -> None:
    """422 with the field; nothing is issued."""
    before = api.client.get("/v1/keys?limit=1000", headers=bearer(ADMIN)).json()["data"]
    answer = api.client.post("/v1/keys", json=body, headers=bearer(ADMIN))
    assert (answer.status_code, [error["field"] for error in answer.json()["errors"]]) == (422, [field])
    assert api.client.get("/v1/keys?limit=1000", headers=bearer(ADMIN)).json()["data"] == before


def test_a_key_is_shown_once_and_kept_nowhere(api: Api) -> None:
    """The list has what it may do, in pages; neither the database nor the file of keys holds more than its SHA-256."""
    made = [issued(api, "read"), issued(api, "predict", models=["digits"])]
    listed = api.client.get("/v1/keys?limit=1", headers=bearer(ADMIN)).json()
    assert listed["data"] == [{name: value for name, value in made[1].items() if name != "key"}]
    following = api.client.get(f"/v1/keys?limit=1&after={listed['next']}", headers=bearer(ADMIN)).json()["data"]
    assert [key["id"] for key in following] == [made[0]["id"]]
    with api.registry.read() as unit:
        rows = unit.session.execute(text("SELECT * FROM api_keys")).all()
        assert unit.session.get_one(ApiKey, made[0]["id"]).sha256 == hashlib.sha256(made[0]["key"].encode()).hexdigest()
    written = (api.services.served.layout.root / "keys" / "keys.json").read_text()
    assert not any(secret in f"{rows}{written}" for secret in (made[0]["key"], made[1]["key"], ADMIN, SCRAPER))


def test_a_key_ends(api: Api) -> None:
    """Revoked it is refused by the next request; expired too; each with the way out, and a cut key with another."""
    key = issued(api, "read", expires_at=(datetime.now(UTC) + timedelta(hours=1)).isoformat())
    assert status(api, "GET", "/v1/jobs", key["key"]) == 200
    assert api.client.delete(f"/v1/keys/{key['id']}", headers=bearer(ADMIN)).status_code == 204
    for gone in (key["key"], new_key()):
        answer = api.client.get("/v1/jobs", headers=bearer(gone))
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
        assert "this key was revoked, has expired, or is another service's" in answer.json()["detail"]
    cut = api.client.get("/v1/jobs", headers=bearer(key["key"][:-1])).json()["detail"]
    assert "this key is cut off or misspelt" in cut
    again = api.client.delete(f"/v1/keys/{key['id']}", headers=bearer(ADMIN))
    assert (again.status_code, again.json()["code"]) == (404, "unknown_key")


def test_an_expired_key_is_refused(api: Api) -> None:
    """A key ends by its time alone."""
    key = issued(api, "read", expires_at=(datetime.now(UTC) + timedelta(hours=1)).isoformat())
    with api.registry.write() as unit:
        over = datetime.now(UTC) - timedelta(seconds=1)
        unit.session.execute(update(ApiKey).where(ApiKey.id == key["id"]).values(expires_at=over))
    with api.registry.read() as unit:
        api.services.keys.write(unit.api_keys.all)
    assert status(api, "GET", "/v1/jobs", key["key"]) == 401


def test_a_revoked_key_is_refused_although_the_disk_is_full(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file cannot be written it goes, and with it all issued keys until it can; administrators stay."""
    gone, kept = issued(api, "read"), issued(api, "read")

    def full(fresh: Path, place: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(folder.os, "replace", full)
        told = api.client.delete(f"/v1/keys/{gone['id']}", headers=bearer(ADMIN))
        assert (told.status_code, told.json()["code"]) == (503, "storage_unavailable")
        refused = api.client.post("/v1/keys", json={"name": "lost", "scopes": ["read"]}, headers=bearer(ADMIN))
        assert refused.status_code == 503
        until(lambda: status(api, "GET", "/v1/jobs", gone["key"]) == 401, what="it is refused")
        assert status(api, "GET", "/v1/jobs", ADMIN) == 200
    until(lambda: status(api, "GET", "/v1/jobs", kept["key"]) == 200, what="the file is written again")
    assert status(api, "GET", "/v1/jobs", gone["key"]) == 401
    names = [key["name"] for key in api.client.get("/v1/keys", headers=bearer(ADMIN)).json()["data"]]
    assert "lost" not in names


def test_a_file_that_cannot_be_read_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The last grants stay, administrators are known without it, and the log says so once."""
    known = keys.Keys.of_settings([ADMIN], [], tmp_path)
    key, row = new_key(), ApiKey(id="key_1", name="a", scopes=["read"], models=None, created_at=datetime.now(UTC))
    row.sha256 = hashlib.sha256(key.encode()).hexdigest()
    known.write(lambda: [row])
    (tmp_path / "keys.json").write_text('{"cut off')
    for _ in range(2):
        known.refresh()
        assert known.grant(f"Bearer {key}".encode()) == keys.Grant("a", frozenset({"read"}))
        assert known.grant(f"bearer {ADMIN}".encode()) == keys.ADMINISTRATOR
    assert caplog.text.count("the file of keys cannot be read") == 1


def test_prometheus_reads_metrics_and_nothing_else(api: Api) -> None:
    """A key of `FEDLAS_METRICS_KEYS` is no administrator's."""
    statuses = {path: status(api, "GET", path, SCRAPER) for path in ("/metrics", "/v1/models", "/v1/keys", "/")}
    assert statuses == {"/metrics": 200, "/v1/models": 403, "/v1/keys": 403, "/": 403}


def test_without_an_administrator_nothing_is_issued(make_api: MakeApi) -> None:
    """A service without keys says that it needs one of its own first; it lists none."""
    client = make_api().client
    answer = client.post("/v1/keys", json={"name": "a", "scopes": ["read"]})
    assert (answer.status_code, answer.json()["code"]) == (409, "no_administrator")
    assert "FEDLAS_API_KEYS" in answer.json()["detail"]
    assert client.get("/v1/keys").json()["data"] == []


def test_pages_show_what_a_key_may_do(api: Api) -> None:
    """Whoever signs in with a key sees its name and scopes; what it may not do is a page that says so."""
    browser = TestClient(
        api.client.app, base_url="http://localhost", headers={"Accept": "text/html", "Origin": "http://localhost"}
    )
    key = issued(api, "read", "predict")
    assert browser.post("/sign-in", data={"key": key["key"]}).status_code == 200
    page = browser.get("/models").text
    assert "<bdi>a test</bdi>: predict, read" in page
    refused = browser.post("/names/digits", data={"version": "1"})
    assert (refused.status_code, "this needs write" in refused.text) == (403, True)
    assert api.client.delete(f"/v1/keys/{key['id']}", headers=bearer(ADMIN)).status_code == 204
    assert browser.get("/models", follow_redirects=False).status_code == 303
