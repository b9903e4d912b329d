"""Problems as pages: what a browser sees where a client gets `application/problem+json`."""

from __future__ import annotations

import re
from html import unescape

import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.testclient import TestClient

from fedlas.contract.error_codes import ERROR_CODES
from service.http.problems import problem
from service.web.pages import ProblemPagesMiddleware
from service.web.rendering import remedy_of
from tests.helpers.api import Api, MakeApi

BROWSER = {"Accept": "text/html,application/xhtml+xml"}


@pytest.fixture(scope="module")
def refusing() -> TestClient:
    """An application that refuses everything with the code in the path."""
    app = FastAPI()

    @app.get("/{code}")
    @app.get("/v1/{code}")
    def refuse(request: Request, code: str) -> object:
        headers = {"Retry-After": "7", "X-Request-Id": "req_1"}
        return problem(
            ERROR_CODES[code].status, code, "found <script>alert(1)</script>", path=request.url.path, headers=headers
        )

    app.add_middleware(ProblemPagesMiddleware)
    return TestClient(app, base_url="http://localhost")


@pytest.mark.parametrize("code", sorted(ERROR_CODES.keys() - {"method_not_allowed"}))
def test_every_code_has_a_page(refusing: TestClient, code: str) -> None:
    """Each code's page has what has happened and what to do, the code, the request's id, and nothing that runs."""
    answer = refusing.get(f"/{code}", headers=BROWSER)
    known = ERROR_CODES[code]
    assert (answer.status_code, answer.headers["retry-after"]) == (known.status, "7")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    text = answer.text
    assert "<script>alert" not in text
    assert "Found &lt;script&gt;alert(1)&lt;/script&gt;." in text
    plain = unescape(text.replace("<code>", "`").replace("</code>", "`"))
    assert known.meaning.rstrip(".") in plain
    assert (remedy_of(code) or "") in plain
    assert not re.search(r"`(GET|POST|HEAD) |`detail`|`errors`|Retry-After", remedy_of(code) or "")
    assert f"<code>{code}</code>" in text
    assert "req_1" in text


def test_clients_get_json(refusing: TestClient) -> None:
    """Where no page is asked for, and under `/v1` always."""
    for path, headers in (("/not_found", {}), ("/v1/not_found", BROWSER)):
        assert refusing.get(path, headers=headers).headers["content-type"] == "application/problem+json"


def test_a_part_of_a_page_is_refused_in_a_part(refusing: TestClient) -> None:
    """A part that a page loads later is replaced by the sentence alone."""
    text = refusing.get("/not_found", headers={**BROWSER, "HX-Request": "true"}).text
    assert 'role="alert"' in text
    assert "<html" not in text


def test_where_there_is_no_page(api: Api) -> None:
    """A form's address, reloaded or typed, leads to its page; a path that is none has a page with the way back."""
    headers = {**BROWSER, "Host": "localhost"}
    form = api.client.get("/jobs/job_x/cancel", headers=headers, follow_redirects=False)
    assert (form.status_code, form.headers["location"]) == (303, "/jobs/job_x")
    nothing = api.client.get("/nothing", headers=headers)
    assert nothing.status_code == 404
    assert 'href="/"' in nothing.text


def test_head_has_no_page_to_show(make_api: MakeApi) -> None:
    """A browser's `HEAD` is refused as its `GET` is, without a body."""
    client = make_api(api_keys=frozenset({"a-key-of-this-service-0123456789"})).client
    for path in ("/sign-out", "/static/x/y"):
        answer = client.head(path, headers=BROWSER)
        assert (answer.status_code, answer.content) == (client.get(path).status_code, b"")
