"""Sessions: what a cookie opens, what it does not, and when it ends; and where a browser says that it comes from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update
from starlette.requests import Request
from starlette.testclient import TestClient

from service.registry.tables import BrowserSession
from service.served.keys import Fingerprints
from service.web.sessions import COOKIE, _sealed, origin_of, session_id_of
from tests.helpers.api import Api, MakeApi, open_api

KEY, OTHER = "key-of-one-visitor-0123456789abc", "key-of-another-one-0123456789abc"
BROWSER = {"Accept": "text/html", "Origin": "http://localhost"}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A service with two keys, which tests leave as it was."""
    with ExitStack() as stack:
        yield open_api(tmp_path_factory.mktemp("keyed") / "data", stack, api_keys=frozenset({KEY, OTHER}))


@pytest.fixture
def own(make_api: MakeApi) -> Api:
    """A service with two keys for a test alone."""
    return make_api(api_keys=frozenset({KEY, OTHER}))


def browser(api: Api, key: str | None = KEY) -> TestClient:
    """A browser, signed in with a key."""
    client = TestClient(api.client.app, base_url="http://localhost", headers=BROWSER, follow_redirects=False)
    if key is not None:
        assert client.post("/sign-in", data={"key": key}).status_code == 303
    return client


def test_a_session_opens_pages_and_what_their_scripts_ask_for(api: Api) -> None:
    """The first page, the API under `/session` and its changes; the way back leads where the user came from."""
    visitor = browser(api, None)
    refused = visitor.get("/jobs?status=failed")
    assert (refused.status_code, refused.headers["location"]) == (303, "/sign-in?next=%2Fjobs%3Fstatus%3Dfailed")
    entered = visitor.post(refused.headers["location"], data={"key": f" {KEY} "})
    assert (entered.status_code, entered.headers["location"]) == (303, "/jobs?status=failed")
    assert visitor.get("/").status_code == 200
    assert visitor.get("/session/v1/jobs").json() == {"data": [], "has_more": False, "next": None}
    assert visitor.post("/session/v1/uploads", json={"bytes": 1}).status_code == 201


def test_the_cookie_counts_for_pages_only(api: Api) -> None:
    """Neither version of the API knows it; a key that is sent wins over it."""
    visitor = browser(api)
    for path in ("/v1/jobs", "/v2/repository/index", "/metrics", "/v1", "/v1/session/v1/jobs"):
        assert visitor.get(path).status_code == 401, path
    wrong = {"Authorization": "Bearer wrong"}
    assert visitor.get("/", headers=wrong).status_code == visitor.get("/session/v1/jobs", headers=wrong).status_code
    assert visitor.get("/session/v1/jobs", headers=wrong).status_code == 401


def test_the_cookie_is_the_browsers_own(api: Api) -> None:
    """No script reads it, other sites' forms do not send it, and behind TLS it never leaves it."""
    visitor = browser(api, None)
    plain = visitor.post("/sign-in", data={"key": KEY}).headers["set-cookie"]
    assert re.fullmatch(rf"{COOKIE}=[\w-]{{43}}; HttpOnly; Max-Age=43200; Path=/; SameSite=lax", plain)
    safe = visitor.post("/sign-in", data={"key": KEY}, headers={"Origin": "https://localhost"}).headers["set-cookie"]
    assert safe.endswith("; Secure")


@pytest.mark.parametrize("key", ["", "wrong", f"{KEY}x", KEY[:-1], "ключ", "x" * 1000])
def test_what_is_no_key_opens_nothing(api: Api, key: str) -> None:
    """The form comes again with a sentence, and without a cookie."""
    answer = browser(api, None).post("/sign-in?next=/jobs", data={"key": key})
    assert (answer.status_code, "set-cookie" in answer.headers) == (401, False)
    assert "This key is not known here" in answer.text
    assert "next=/jobs" in answer.text


def test_guesses_are_counted_and_lock_nobody_out(own: Api) -> None:
    """Ten wrong keys are answered with the form, the next ones 429; a right key opens a session all the same."""
    visitor = browser(own, None)
    statuses = [visitor.post("/sign-in", data={"key": f"guess {number}"}).status_code for number in range(12)]
    assert (statuses[:10], set(statuses[10:]) - {401}) == ([401] * 10, {429})
    assert visitor.post("/sign-in", data={"key": "guess"}).headers["retry-after"] == "1"
    assert visitor.post("/sign-in", data={"key": KEY}).status_code == 303


@pytest.mark.parametrize("path", ["/sign-in", "/sign-out", "/new/job", "/jobs/job_1/cancel"])
def test_pages_take_short_forms_and_nothing_else(api: Api, path: str) -> None:
    """Signing in 8 kB, others 64: declared or not, more is refused before it is parsed, and so is what is no form."""
    visitor = browser(api)
    limit = (8 if path == "/sign-in" else 64) * 1024
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert visitor.post(path, content=b"&" * limit, headers=form).status_code in (303, 401, 404, 422)
    assert visitor.post(path, content=b"&" * (limit + 1), headers=form).status_code == 413
    if path in ("/sign-in", "/new/job"):  # these read their body
        assert visitor.post(path, content=iter([b"&" * limit, b"&"]), headers=form).status_code == 413
    long_type = f"{form['Content-Type']}; a={'x' * 100}"
    for kind in ("multipart/form-data; boundary=b", "application/json", "text/plain", long_type):
        assert visitor.post(path, content=b"--b--", headers={"Content-Type": kind}).status_code == 415


@pytest.mark.parametrize("there", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)"])
def test_signing_in_leads_to_no_other_site(api: Api, there: str) -> None:
    """A sign-in stays on this site, whatever the link says."""
    assert browser(api, None).post("/sign-in", params={"next": there}, data={"key": KEY}).headers["location"] == "/"


def test_a_session_ends(own: Api) -> None:
    """A session ends by signing out, by its time, and with its key; a made-up id never was one."""
    for end in (_sign_out, _expire, _make_up, _withdraw_keys):
        visitor = browser(own)
        end(own, visitor)
        assert visitor.get("/").headers["location"] == "/sign-in?next=%2F", end
        script = {"Accept": "*/*"}
        for answer in (
            visitor.post("/session/v1/uploads", json={"bytes": 1}, headers=script),
            visitor.get("/session/v1/jobs", headers=script),
            visitor.get("/live", headers={"Accept": "text/event-stream"}),
        ):
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), end


def _sign_out(api: Api, visitor: TestClient) -> None:
    held = visitor.cookies[COOKIE]
    assert visitor.post("/sign-out").headers["location"] == "/sign-in"
    assert COOKIE not in visitor.cookies
    visitor.cookies.set(COOKIE, held, domain="localhost.local")


def _expire(api: Api, visitor: TestClient) -> None:
    with api.registry.write() as unit:
        unit.session.execute(update(BrowserSession).values(expires_at=datetime.now(UTC) - timedelta(seconds=1)))


def _withdraw_keys(api: Api, visitor: TestClient) -> None:
    object.__setattr__(api.services.keys, "_administrators", Fingerprints.of([OTHER]))


def _make_up(api: Api, visitor: TestClient) -> None:
    visitor.cookies.clear()
    visitor.cookies.set(COOKIE, "x" * 43)


def test_the_database_gives_away_neither_session_nor_key(own: Api) -> None:
    """A digest of the id, and the key under a pad of that id, which opens it and nothing else does."""
    held = browser(own).cookies[COOKIE]
    with own.registry.read() as unit:
        (row,) = unit.session.scalars(select(BrowserSession)).all()
    sealed = bytes.fromhex(row.sealed_key)
    assert not {held, KEY, KEY.encode().hex()} & {row.id_digest, row.sealed_key}
    assert (_sealed(sealed, held), _sealed(sealed, row.id_digest) == KEY.encode()) == (KEY.encode(), False)


def test_what_has_expired_is_forgotten(own: Api) -> None:
    """A session that has expired is forgotten, and nothing else."""
    gone, kept = browser(own), browser(own)
    _expire(own, gone)
    kept.post("/sign-in", data={"key": KEY})
    with own.registry.write() as unit:
        unit.browser_sessions.forget_expired()
    with own.registry.read() as unit:
        assert len(unit.session.scalars(select(BrowserSession)).all()) == 1
    assert kept.get("/").status_code == 200


def test_a_request_that_does_not_say_where_it_comes_from_changes_nothing(api: Api) -> None:
    """With a cookie `Origin` is needed for a change, and it must be ours."""
    visitor = browser(api)
    del visitor.headers["Origin"]
    for headers in (
        {},
        {"Origin": "http://127.0.0.1:9999", "Host": "127.0.0.1:8000"},
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "null"},
    ):
        answer = visitor.post("/session/v1/uploads", json={"bytes": 1}, headers={"Accept": "*/*", **headers})
        assert (answer.status_code, answer.json()["code"]) == (403, "foreign_origin"), headers
    assert visitor.get("/").status_code == 200


@pytest.mark.parametrize("other", ['json={"a":1}', "a b c", "foo[bar]=1", "a=; ; ;=; ", "path=/", f"x{COOKIE}=x"])
def test_cookies_of_others_do_not_matter(other: str) -> None:
    """A browser sends those of every port of a host, before ours or in a line of their own."""
    held = f"{COOKIE}=ours"
    alone = [(b"cookie", other.encode()), (b"cookie", held.encode())]
    for headers in ([(b"cookie", f"{other}; {held}".encode())], alone, alone[::-1]):
        assert session_id_of({"headers": headers}) == "ours"


def test_signing_out_twice_leads_to_the_form(api: Api) -> None:
    """A second sign-out leads to the form, also where the session has ended before."""
    visitor = browser(api)
    for _ in range(2):
        assert visitor.post("/sign-out").headers["location"] == "/sign-in"


def test_without_keys_pages_are_open_to_this_machine(make_api: MakeApi) -> None:
    """There is nothing to enter; other names than those of loopback are refused as everywhere."""
    visitor = browser(make_api(), None)
    assert visitor.get("/").status_code == 200
    assert visitor.get("/sign-in?next=/jobs").headers["location"] == "/jobs"
    assert visitor.get("/", headers={"Host": "evil.example"}).status_code == 421


def test_a_page_and_what_it_asks_for_have_one_id(api: Api) -> None:
    """The request's id stands in the answer of either."""
    answer = browser(api).get("/session/v1/jobs", headers={"X-Request-Id": "mine"})
    assert answer.headers.get_list("x-request-id") == ["mine"]


HOST = "calib.example:8443"


@pytest.mark.parametrize(
    ("headers", "origin"),
    [
        ({}, f"http://{HOST}"),
        ({"Origin": f"https://{HOST}"}, f"https://{HOST}"),
        ({"Referer": f"https://{HOST}/models"}, f"https://{HOST}"),
        ({"Referer": f"http://{HOST}/models"}, f"http://{HOST}"),
        ({"Referer": f"https://{HOST}.evil.example/"}, f"http://{HOST}"),
        ({"Origin": "https://calib.example"}, f"http://{HOST}"),
        ({"Origin": "null"}, f"http://{HOST}"),
        ({"Referer": "https://[broken"}, f"http://{HOST}"),
        ({"Referer": "https://front.example/models"}, "https://front.example"),
    ],
)
def test_a_browser_says_whether_it_speaks_tls(headers: dict[str, str], origin: str) -> None:
    """Behind a proxy the connection is plain; only a page of ours counts."""
    sent = [(name.lower().encode(), value.encode()) for name, value in {"Host": HOST, **headers}.items()]
    scope = {"type": "http", "scheme": "http", "path": "/", "query_string": b"", "headers": sent}
    assert origin_of(Request(scope), {"front.example"}) == origin
