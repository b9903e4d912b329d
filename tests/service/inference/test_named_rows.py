"""Rows by column name, with gaps and of several lengths: what the model's columns and its reading make of them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from service.inference.profile import ServingProfile
from service.inference.signature import parse_inputs
from service.registry.errors import InvalidRequest, TooLarge

Json = dict[str, Any]

TABLE: Json = {
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["N", 3]}],
    "columns": ["hour", "kWh: peak", "site"],
}
ROW = {"hour": 3, "kWh: peak": 0.5, "site": 7}
GAPS: Json = {**TABLE, "reading": {"padding": None, "missing": "nan"}}
TOKENS: Json = {
    "inputs": [
        {"name": "ids", "dtype": "int64", "shape": ["N", "T"]},
        {"name": "mask", "dtype": "int64", "shape": ["N", "T"]},
    ],
    "reading": {"padding": {"ids": 9, "mask": 0}, "missing": "reject"},
}


def parse(value: Any, profile: Json = TABLE, *, text: str | None = None) -> dict[str, np.ndarray]:
    """As a request with nothing but these inputs is read."""
    body = json.dumps({"inputs": value}) if text is None else text
    return parse_inputs(json.loads(body)["inputs"], ServingProfile.of(profile), max_rows=1000, text=body.encode())


def refused(value: Any, profile: Json = TABLE, **more: Any) -> tuple[str, str]:
    """Code and message."""
    with pytest.raises(InvalidRequest) as caught:
        parse(value, profile, **more)
    assert caught.value.field == "inputs"
    return caught.value.code, caught.value.message


def test_columns_come_in_any_order() -> None:
    """The same numbers as a list in the model's order."""
    rows = [ROW, dict(reversed({**ROW, "hour": 4}.items()))]
    found = parse(rows)["x"]
    np.testing.assert_array_equal(found, np.array([[3, 0.5, 7], [4, 0.5, 7]], np.float32))
    np.testing.assert_array_equal(parse({"x": rows})["x"], found)
    single = {"inputs": [{"name": "x", "dtype": "float32", "shape": ["N", 1]}], "columns": ["b64"]}
    assert parse([{"b64": 2}], single)["x"].tolist() == [[2]]


@pytest.mark.parametrize(
    ("row", "code", "words"),
    [
        ({**ROW, "day": 1}, "unknown_columns", "row 1: unknown: 'day'; the model's columns are 'hour'"),
        ({"hour": 3, "site": 7}, "missing_columns", "row 1: missing: 'kWh: peak'"),
        ({"hour": 3, "Site": 7, "kWh: peak": 1}, "unknown_columns", "unknown: 'Site'; missing: 'site'"),
        ({}, "missing_columns", "missing: 'hour', 'kWh: peak', 'site'"),
        ({**ROW, "site": "7"}, "wrong_dtype", "row 1, column 'site': found '7'"),
        ({**ROW, "site": True}, "wrong_dtype", "row 1, column 'site': found True"),
        ({**ROW, "site": [7]}, "wrong_dtype", "row 1, column 'site'"),
        ({**ROW, "site": None}, "wrong_dtype", "row 1, column 'site': null, and the model takes no missing values"),
        ([3, 0.5, 7], "wrong_inputs", "row 0 is an object and row 1 is not"),
    ],
)
def test_wrong_columns_are_named(row: Any, code: str, words: str) -> None:
    """With the row, and with what the model knows."""
    found, message = refused([ROW, row])
    assert (found, words in message) == (code, True), message


@pytest.mark.parametrize(
    "text",
    [
        '{"inputs":[{"hour":3,"kWh: peak":0.5,"site":7,"hour":4}]}',
        '{"inputs":[{"hour":3,"kWh: peak":0.5,"site":7},{"site":1,"hour":3,"kWh: peak":0.5,"s\\u0069te":7}],"top_k":1}',
    ],
)
def test_a_column_stands_once(text: str) -> None:
    """Readers of JSON keep the last of two, so the text is looked at where it can hold one, however it is escaped."""
    code, message = refused(None, text=text)
    assert (code, "stands more than once" in message) == ("doubled_columns", True)


def test_a_model_without_names_says_how_to_give_them() -> None:
    """And one with several inputs that it has none."""
    code, message = refused([ROW], {"inputs": TABLE["inputs"]})
    assert (code, "`columns`" in message) == ("no_column_names", True)
    assert refused({"ids": [ROW], "mask": [[1]]}, TOKENS)[0] == "no_column_names"


def test_missing_values_where_the_model_has_met_them() -> None:
    """Null and NaN are NaN, by name and in lists; infinity is refused."""
    for rows in ([{**ROW, "site": None}], [[3, 0.5, None]], [[3, 0.5, float("nan")]]):
        np.testing.assert_array_equal(parse(rows, GAPS)["x"], np.array([[3, 0.5, np.nan]], np.float32))
    assert refused([[3, 0.5, float("inf")]], GAPS)[0] == "non_finite"
    assert refused([[3, 0.5, "x"]], GAPS)[0] == "wrong_dtype"
    assert refused([[3, 0.5]], GAPS)[0] == "wrong_shape"
    code, message = refused([[3, 0.5, 7], [3, None, 7]])
    assert (code, "row 1: null, and the model takes no missing values" in message) == ("wrong_dtype", True)


def test_shorter_rows_are_padded_as_the_dataset_was() -> None:
    """Each input with its own number, to the longest row or to the model's length."""
    found = parse({"ids": [[1, 2, 3], [4]], "mask": [[1, 1, 1], [1]]}, TOKENS)
    assert found["ids"].tolist() == [[1, 2, 3], [4, 9, 9]]
    assert found["mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert found["ids"].dtype == np.int64
    boxes: Json = {
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["N", 3, 2]}],
        "reading": {"padding": {"x": 0.5}, "missing": "nan"},
    }
    found = parse([[[1, None]], [[1, 2], [3, 4]]], boxes)
    np.testing.assert_array_equal(
        found["x"], np.array([[[1, np.nan], [0.5, 0.5], [0.5, 0.5]], [[1, 2], [3, 4], [0.5, 0.5]]], np.float32)
    )
    assert refused([[[1, 2]] * 4], boxes)[0] == "wrong_shape"
    assert refused([[[1, 2, 3]]], boxes)[0] == "wrong_shape"
    assert refused({"ids": [[1, 2], ["4"]], "mask": [[1, 1], [1]]}, TOKENS)[0] == "wrong_dtype"


def test_one_long_row_makes_no_gigabytes() -> None:
    """Thousands of short rows beside a long one are refused before they are made."""
    rows = [[1]] * 999 + [[1] * 20_000]
    with pytest.raises(TooLarge) as caught:
        parse({"ids": rows, "mask": rows}, TOKENS)
    assert caught.value.code == "too_many_values"


@pytest.mark.parametrize("value", [[[0, True, 1]], [[0, 1, 2], [0, 1, False]], {"x": [[0, True, 1]]}])
def test_true_is_no_number(value: Any) -> None:
    """Wherever it stands among numbers; as a word elsewhere in the request it says nothing of them."""
    code, message = refused(value)
    assert (code, "true/false values in row" in message) == ("wrong_dtype", True)
    text = '{"inputs":[[0,1,2]],"coverage":{"true":0.9,"false":0.9}}'
    assert parse(None, text=text)["x"].tolist() == [[0, 1, 2]]
