"""The origin of pages, from what a browser says of itself."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from service.web.sessions import origin_of

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
