"""JSON of predict requests: what it holds is counted before it is read, and its fault is reported briefly."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from service.http import problems
from service.predict import infer, predict
from service.predict.engine.profile import ServingProfile
from service.predict.formats import oip_requests as requests
from service.predict.messages import inflated
from service.registry.errors import InvalidRequest, RegistryError, TooLarge
from tests.helpers.hostile_bodies import MEBIBYTE, PAIR, Json, keyed, listed

MODEL = ServingProfile.of(PAIR)
LIMIT = 8 * MEBIBYTE
DEEP = b"[" * 900 + b"]" * 900


def refused(function: Any, *args: Any) -> RegistryError:
    """The reader's refusal; the answer made of it is short."""
    with pytest.raises((InvalidRequest, TooLarge)) as caught:
        function(*args)
    error: Any = caught.value
    assert len(error.message) < 2000
    assert len(problems.problem_of("/v1/x", error).body) < 5000
    return error  # type: ignore[no-any-return]


def tensor(data: bytes) -> bytes:
    """A request of the protocol with one input."""
    return b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":%b}]}' % data


#: Made when a test asks for them: ten bodies of 8 MiB.
HEAVY: dict[str, Callable[[], bytes]] = {
    "empty rows": lambda: listed(b"[]", LIMIT - 100),
    "empty objects": lambda: listed(b"{}", LIMIT - 100),
    "empty texts": lambda: listed(b'""', LIMIT - 100),
    "digits": lambda: listed(b"0", LIMIT - 100),
    "columns of one": lambda: listed(b"[1]", LIMIT - 100),
    "lists in lists": lambda: listed(DEEP, LIMIT - 2000),
    "brackets": lambda: b'{"inputs":' + b"[" * 4_000_000 + b"]" * 4_000_000 + b"}",
    "unknown keys": lambda: keyed(600_000),
    "names of inputs": lambda: keyed(600_000, head=b'{"inputs":{', tail=b"}}"),
    "one byte too many": lambda: listed(b"1.2345678901234567", LIMIT + 100),
}


@pytest.mark.parametrize("kind", HEAVY)
def test_what_is_too_heavy_is_not_read(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More values, lists, objects or keys than 50 ms can read are refused on the bytes alone, whatever they are."""
    for module in (predict, requests):
        monkeypatch.setattr(module, "orjson", None)
    body = HEAVY[kind]()
    for error in (
        refused(predict.parse_json, body, MODEL, 10_000),
        refused(infer.parse, body, None, MODEL, 10_000),
        refused(infer.parse, body + b"1234", len(body), MODEL, 10_000),
    ):
        assert error.code in ("too_many_values", "too_large")
        assert all(way in error.message for way in ("application/x-npy", "/v2", "/v1/batches"))


def test_what_legitimate_requests_hold_is_read() -> None:
    """8 MiB of numbers as they are usually written, in rows that models take, are within the limit."""
    wide = np.random.default_rng(0).random((950, 784), dtype=np.float32)
    body = orjson.dumps({"inputs": wide}, option=orjson.OPT_SERIALIZE_NUMPY)
    assert LIMIT - MEBIBYTE < len(body) < LIMIT
    profile = {**PAIR, "inputs": [{"name": "x", "dtype": "float32", "shape": ["N", 784]}]}
    (rows, _) = predict.parse_json(body, ServingProfile.of(profile), 10_000)
    np.testing.assert_array_equal(rows["x"], wide)
    long = np.random.default_rng(0).random((10_000, 20))
    profile = {**PAIR, "inputs": [{"name": "x", "dtype": "float64", "shape": ["N", 20]}]}
    (rows, _) = predict.parse_json(orjson.dumps({"inputs": long.tolist()}), ServingProfile.of(profile), 10_000)
    np.testing.assert_array_equal(rows["x"], long)


def test_a_lower_limit_allows_fewer_values() -> None:
    """Values are bounded with the bytes: an operator turns one setting."""
    body = listed(b"[1,2]", 60_000)
    assert len(predict.parse_json(body, MODEL, 10_000, b"", 1_000_000)[0]["x"]) == 10_000
    assert refused(predict.parse_json, body, MODEL, 10_000, b"", 100_000).code == "too_many_values"


def test_packed_bodies_become_no_larger() -> None:
    """15 million empty rows in 44 KB are given up where the limit is; so is what is 100 times as large as it was."""
    packed = gzip.compress(b'{"inputs":[' + b"[]," * 15_000_000 + b"[]]}", 9)
    assert len(packed) < 50_000
    assert refused(lambda: inflated(packed, "gzip", limit=LIMIT)).code == "too_large"
    zeros = gzip.compress(bytes(20 * MEBIBYTE), 9)
    assert refused(lambda: inflated(zeros, "gzip", limit=64 * MEBIBYTE)).code == "too_large"
    assert len(inflated(gzip.compress(bytes(7 * MEBIBYTE)), "gzip", limit=64 * MEBIBYTE)) == 7 * MEBIBYTE


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (keyed(100_000), "100000 unknown fields, 'k0', 'k1'"),
        (keyed(100_000, head=b'{"inputs":{', tail=b"}}"), "found an object with 'k0', 'k1'"),
        (keyed(100_000, head=b'{"inputs":[[1,2]],"max_error":{', tail=b"}}"), "100000 classes; at most 3"),
        (keyed(100_000, head=b'{"inputs":[[1,2]],"decision":{', tail=b"}}"), "found 'k0', 'k1'"),
        (b'{"inputs":[[1,2]],"max_error":{"' + b"k" * 4_000_000 + b'":0.1}}', ""),
        (b'{"' + b"k" * 4_000_000 + b'":[[1,2]]}', "inputs"),
        (b'{"inputs":{"' + b"k" * 4_000_000 + b'":[[1,2]]}}', "found an object with 'kkk"),
        (b'{"inputs":"' + b"k" * 4_000_000 + b'"}', "found a text"),
        (b'{"inputs":[[' + b"9" * 4_000_000 + b',1]]}', ""),
        (listed(b"[" + b"9" * 4000 + b",1]", 4_000_000), "too large"),
        (b'{"inputs":[[1e' + b"9" * 1_000_000 + b',1]]}', ""),
        (b'{"inputs":' + DEEP + b"}", "shape"),
        (b'{"inputs":[[1,2]],"decision":{"costs":' + DEEP + b"}}", ""),
        (listed(b"[1,2]", 50_000, tail=b',["a",2]]}'), "row 8333"),
        (listed(b"[1,2]", 50_000, tail=b",[1]]}"), "row 8333"),
        (listed(b"[1,2]", 50_000, tail=b",[NaN,2]]}"), "row 8333"),
        (b'{"inputs":[["\\ud800",1]]}', "JSON"),
        (b'{"inputs":[[1,2]],"\\udfff":1}', "JSON"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_few_words(body: bytes, words: str) -> None:
    """However much is wrong with a body of allowed size, the answer is short and names the first of it."""
    try:
        error: Any = refused(predict.parse_json, body, MODEL, 10_000)
        assert words in error.message
    except ValidationError as invalid:
        answer = problems.invalid("/v1/x", invalid)
        assert len(answer.body) < 5000
        assert answer.status_code == 422


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (tensor(b'["\\ud800",1]'), "JSON"),
        (tensor(b"[[" + b"0," * 500_000 + b"0],[0]]"), "ragged"),
        (tensor(b"[" + b"0," * 500_000 + b'"a"]'), "data holds 500001"),
        (tensor(b"[" * 900 + b"]" * 900), "data holds 0"),
        (b'{"inputs":[' + b",".join([b'{"name":"a"}'] * 70_000) + b"]}", "70000 inputs; at most 256"),
        (keyed(100_000, head=b'{"parameters":{', tail=b'},"inputs":[]}'), "100000 request: parameters; at most 256"),
        (b'{"inputs":[],"outputs":[' + b",".join([b'{"name":"a"}'] * 70_000) + b"]}", "70000 outputs; at most 256"),
        (b'{"inputs":[{"name":"x","datatype":"FP32","data":[1],"shape":[' + b"1," * 500_000 + b"1]}]}", "dimensions"),
        (b'{"inputs":[{"name":"' + b"x" * 4_000_000 + b'","shape":[1],"datatype":"FP32","data":[1]}]}', "found are 'x"),
        (b'{"inputs":[{"name":"x","datatype":"' + b"F" * 4_000_000 + b'"}]}', '"shape"'),
    ],
)  # fmt: skip
def test_the_protocol_is_told_in_few_words(body: bytes, words: str) -> None:
    """So it is under `/v2`: inputs, outputs, parameters and sizes are counted before each is looked at."""
    assert words in refused(infer.parse, body, None, MODEL, 10_000).message  # type: ignore[attr-defined]


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(
    ["inputs", "top_k", "abstain_below", "max_error", "coverage", "decision", "x", "id", "parameters", "outputs"]
)


@settings(deadline=None, max_examples=200)
@given(content=st.dictionaries(NAMES, JSONS, max_size=5) | JSONS, items=st.dictionaries(NAMES, JSONS, max_size=3))
def test_any_json_is_read_or_refused(content: Any, items: Json) -> None:
    """JSON of any kind is read or refused, also as a reader that lets NaN and half characters through writes it."""
    if isinstance(content, dict) and content.get("inputs") is None:
        content = {**content, "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", **items}]}
    for ascii_only in (True, False):
        body = json.dumps(content, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
        assert status(predict.parse_json, body, MODEL, 100) < 500
        assert status(infer.parse, body, None, MODEL, 100) < 500


def status(function: Any, *args: Any) -> int:
    """How a request is answered that is read so."""
    try:
        function(*args)
    except ValidationError as error:
        return problems.invalid("/v1/x", error).status_code
    except RegistryError as error:
        return problems.problem_of("/v1/x", error).status_code
    return 200
