"""Predict over HTTP: each bad request of the contract's table has its status, and good ones their values."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.api.conftest import Api
from tests.helpers.uploads import digits

Json = dict[str, Any]

ROW = [0.5] * 64


def predict(served: tuple[Api, Json], content: bytes | Json) -> Any:
    """POST a body, parsed or not."""
    api, model = served
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return api.client.post(f"/v1/models/{model['id']}/predict", content=raw)


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        ({"inputs": [[0.5] * 63]}, "wrong_shape", "[64]"),
        ({"inputs": [[ROW]]}, "wrong_shape", "[64]"),
        ({"inputs": ROW}, "wrong_shape", "[64]"),
        ({"inputs": [ROW, ROW[:10]]}, "wrong_shape", "row 1"),
        ({"inputs": [["a"] * 64]}, "wrong_dtype", "float32"),
        ({"inputs": [[None] * 64]}, "wrong_dtype", "float32"),
        ({"inputs": [[True] * 64]}, "wrong_dtype", "float32"),
        ({"inputs": [[*ROW[:63], float("nan")]]}, "non_finite", "row 0"),
        ({"inputs": [ROW, [*ROW[:63], float("-inf")]]}, "non_finite", "row 1"),
        ({"inputs": [[3e38] * 64]}, "non_finite_output", "row 0"),
        ({"inputs": []}, "empty_inputs", "at least one"),
        ({"inputs": {"y": [ROW]}}, "wrong_inputs", "[64]"),
        ({"inputs": None}, "wrong_inputs", "[64]"),
        ({"inputs": "7"}, "wrong_inputs", "[64]"),
        ({}, "invalid_request", "inputs"),
        ([ROW], "invalid_request", "inputs"),
        (b"", "invalid_json", "JSON"),
        (b"{", "invalid_json", "JSON"),
        (b"\xff\xfe", "invalid_json", "JSON"),
        (b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json", "JSON"),
    ],
)
def test_bad_inputs(served: tuple[Api, Json], content: Any, code: str, words: str) -> None:
    """422, with a code, the field, and what is needed."""
    answer = predict(served, content)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == code
    assert words in answer.json()["detail"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("top_k", 0),
        ("top_k", 1.5),
        ("top_k", "3"),
        ("top_k", True),
        ("abstain_below", 1.1),
        ("abstain_below", -0.1),
        ("abstain_below", "0.5"),
        ("abstain_below", float("nan")),
        ("topk", 3),
    ],
)
def test_bad_options(served: tuple[Api, Json], option: str, value: Any) -> None:
    """A bad or unknown option is 422 with its name."""
    answer = predict(served, {"inputs": [ROW], option: value})
    assert answer.status_code == 422, answer.text
    assert [error["field"] for error in answer.json()["errors"]] == [option]


def test_a_million_rows(served: tuple[Api, Json]) -> None:
    """More rows than allowed are 413, and the answer says what to do instead."""
    row = json.dumps([0] * 64, separators=(",", ":"))
    few = predict(served, f'{{"inputs":[{",".join([row] * 1001)}]}}'.encode())
    assert (few.status_code, few.json()["code"]) == (413, "too_many_rows")
    assert "/v1/predictions" in few.json()["detail"]
    many = predict(served, f'{{"inputs":[{",".join([row] * 1_000_000)}]}}'.encode())
    assert many.status_code == 413


def test_what_is_not_there_yet(served: tuple[Api, Json]) -> None:
    """Guarantees and decisions are refused by name until they exist."""
    for option in ({"max_error": 0.01}, {"coverage": 0.9}, {"decision": {"threshold": 0.5}}):
        answer = predict(served, {"inputs": [ROW], **option})
        assert (answer.status_code, answer.json()["code"]) == (501, "not_yet_available")


def test_rows_are_independent(served: tuple[Api, Json]) -> None:
    """A row's answer is the same alone and among others, up to the arithmetic of the last digits."""
    rows = digits()[0][:64].tolist()
    together = predict(served, {"inputs": rows, "top_k": 10}).json()["predictions"]
    for row, answer in list(zip(rows, together, strict=True))[:5]:
        (alone,) = predict(served, {"inputs": {"x": [row]}, "top_k": 10}).json()["predictions"]
        assert alone["label"] == answer["label"]
        assert alone["confidence"] == pytest.approx(answer["confidence"], abs=1e-6)
        assert sum(item["confidence"] for item in alone["top_k"]) == pytest.approx(1, abs=1e-5)
    assert set(together[0]) == {"label", "index", "confidence", "uncalibrated_confidence", "abstain", "top_k"}
