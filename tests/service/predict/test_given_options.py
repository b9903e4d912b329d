"""Options beside the rows: known names with JSON values, each once."""

from __future__ import annotations

from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_json

from fedlas.contract.options import AnswerOptions
from service.predict.formats.json_inputs import NAMES, from_query
from service.registry.errors import InvalidRequest

SHARES = st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False), max_size=3)
VALUES = {
    "top_k": st.integers(),
    "abstain_below": st.floats(allow_nan=False, allow_infinity=False),
    "max_error": SHARES | st.floats(0, 1),
    "coverage": SHARES | st.floats(0, 1),
    "decision": st.fixed_dictionaries({"threshold": st.floats(0, 1)}) | st.just({"costs": [[0, 1], [10, 0]]}),
    "class_priors": SHARES,
}


def test_names_are_those_of_json_requests() -> None:
    """Every option of a JSON request can be given otherwise."""
    assert tuple(NAMES) == tuple(AnswerOptions.model_fields)


@given(st.fixed_dictionaries({}, optional=VALUES))
def test_any_value_comes_through(options: dict[str, object]) -> None:
    """Values are JSON, whatever letters are in them."""
    texts = {name: to_json(value).decode() for name, value in options.items()}
    for quoted in (urlencode(texts), "&".join(f"{name}={quote(text)}" for name, text in texts.items())):
        assert from_query(quoted.encode()) == options


@pytest.mark.parametrize(
    ("query", "field", "words"),
    [
        (b"topk=3", "topk", "'topk' is no option; known are top_k, abstain_below, max_error, coverage, decision"),
        (b"inputs=[[1]]", "inputs", "is no option"),
        (b"options={}", "options", "is no option"),
        (b"top_k=3&top_k=3", "top_k", "more than once"),
        (b"top_k=3&top%5Fk=4", "top_k", "more than once"),
        (b"top_k=", "top_k", "'' is no JSON"),
        (b"top_k=three", "top_k", "'three' is no JSON"),
        (b"top_k=true", "top_k", "expected a number; found 'True'"),
        (b"top_k=null", "top_k", "expected a number"),
        (b"top_k=%223%22", "top_k", "expected a number; found '3'"),
        (b"abstain_below=NaN", "abstain_below", "is no JSON"),
        (b"abstain_below=Infinity", "abstain_below", "is no JSON"),
        (b"abstain_below=[1]", "abstain_below", "expected a number"),
        (b"coverage=[0.9]", "coverage", "expected a number or a JSON object"),
        (b"decision=0.5", "decision", "expected a JSON object"),
        (b"class_priors=[1]", "class_priors", "expected a JSON object"),
        (b"decision=" + b"[" * 5000, "decision", "is no JSON"),
        (b"decision={" + b"+" * 70000 + b"}", "decision", "it has 70002 characters; at most 65536"),
        (b"top_k", None, "the query string cannot be read"),
        (b"top_k=3&&", None, "the query string cannot be read"),
        (b"top_k=%FF", None, "the query string cannot be read"),
        (b"top_k=\xff", None, "the query string cannot be read"),
        (b"=3", "", "'' is no option"),
    ],
)
def test_bad_queries(query: bytes, field: str | None, words: str) -> None:
    """Queries that are unknown, double or no value are refused by name."""
    with pytest.raises(InvalidRequest) as caught:
        from_query(query)
    assert (caught.value.code, caught.value.field) == ("invalid_request", field)
    assert words in caught.value.message
