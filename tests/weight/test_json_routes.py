"""The JSON resources: bodies, forms and query strings have no more keys and items than any request needs."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.api import Api
from tests.helpers.hostile_bodies import JSON, MEBIBYTE, keyed, ready_model

ROUTES = [("POST", "/v1/jobs"), ("POST", "/v1/batches"), ("PATCH", "/v1/names/x"), ("POST", "/v1/uploads")]
V2 = ("POST", "/v2/repository/index")


def refusal(answer: Any, status: int, code: str = "") -> str:
    """The text of an error, always short."""
    assert answer.status_code == status, answer.text[:500]
    assert len(answer.content) < 10_000
    body = answer.json()
    assert code in ("", body.get("code", ""))
    assert len(body.get("errors", [])) <= 20
    return str(body.get("detail") or body["error"])


@pytest.mark.parametrize(("method", "path"), [*ROUTES, V2])
@pytest.mark.parametrize(
    "body",
    [b'"' + b"x" * 300 * 1024 + b'"', keyed(2001, head=b"{"), b"[" + b"0," * 110_000 + b"0]", b" " * MEBIBYTE],
    ids=["bytes", "keys", "items", "spaces"],
)
def test_bodies_are_bounded(api: Api, method: str, path: str, body: bytes) -> None:
    """413 before anything is made of them, also where files may come by the same path."""
    refusal(api.client.request(method, path, content=body, headers=JSON), 413)


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_unknown_keys_are_counted(api: Api, method: str, path: str) -> None:
    """Twenty are named, and how many there are."""
    answer = api.client.request(method, path, content=keyed(1500, head=b"{"), headers=JSON)
    assert "150" in refusal(answer, 422, "invalid_request")
    assert len(answer.json()["errors"]) == 20


@pytest.mark.parametrize(("method", "path"), [*ROUTES, V2])
@pytest.mark.parametrize(
    "body",
    [
        b"[" * 200_000,
        b"9" * 200_000,
        b'{"a":' * 1900 + b"1" + b"}" * 1900,
        b'{"\\ud800":"\\udfff"}',
        b'{"model":"\\ud800"}',
    ],
    ids=["depth", "digits", "objects", "surrogates", "surrogate value"],
)
def test_odd_json_is_the_senders_mistake(api: Api, method: str, path: str, body: bytes) -> None:
    """Depth, digits without end and halves of characters are 4xx; `/v2` passes over unknown fields."""
    answer = api.client.request(method, path, content=body, headers=JSON)
    assert (200 if path == V2[1] else 400) <= answer.status_code < 500, answer.text
    assert len(answer.content) < 10_000
    answer.json()


def test_long_texts_in_errors(api: Api) -> None:
    """A key or value of 200 KB is not sent back."""
    text = "k" * 200_000
    ids = {"model_id": "m", "dataset_id": "d"}
    for body in ({text: 1}, {**ids, "method": text}, {**ids, "model_id": text}):
        refusal(api.client.post("/v1/jobs", json=body), 422)


def test_query_strings(api: Api) -> None:
    """So many parameters are in no request."""
    query = "&".join(f"a{i}=1" for i in range(5000))
    for path in ("/v1/jobs", "/v1/models", "/v1/batches/bat_x/results"):
        assert "5000 parameters" in refusal(api.client.get(f"{path}?{query}"), 422, "too_many_parameters")
    model = ready_model(api)
    refusal(api.client.post(f"/v1/models/{model}/predict?{query}", json={"inputs": [[1, 2]]}), 422, "invalid_request")
