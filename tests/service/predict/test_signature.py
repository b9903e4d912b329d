"""Rows of a request: what fits becomes arrays, what does not is refused with what was found and what is needed."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest

from service.predict.engine.profile import ServingProfile
from service.predict.formats.signature import parse_inputs
from service.registry.errors import InvalidRequest, TooLarge

PIXELS = [{"name": "x", "dtype": "float32", "shape": ["N", 2, 3]}]
TOKENS = [
    {"name": "ids", "dtype": "int64", "shape": ["N", "T"]},
    {"name": "mask", "dtype": "int64", "shape": ["N", "T"]},
]
GOOD_ROW = [[1, 2.5, 3], [4, 5, 6]]
Json = dict[str, Any]
TABLE: Json = {
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["N", 3]}],
    "columns": ["hour", "kWh: peak", "site"],
}
ROW = {"hour": 3, "kWh: peak": 0.5, "site": 7}
GAPS: Json = {**TABLE, "reading": {"padding": None, "missing": "nan"}}
TWO_INPUTS: Json = {
    "inputs": [
        {"name": "ids", "dtype": "int64", "shape": ["N", "T"]},
        {"name": "mask", "dtype": "int64", "shape": ["N", "T"]},
    ],
    "reading": {"padding": {"ids": 9, "mask": 0}, "missing": "reject"},
}


def parse(value: Any, specs: list[dict[str, Any]] = PIXELS) -> dict[str, np.ndarray]:
    """With room for four rows."""
    return parse_inputs(value, ServingProfile.of({"inputs": specs}), max_rows=4)


@pytest.mark.parametrize("value", [[GOOD_ROW] * 2, {"x": [GOOD_ROW] * 2}], ids=["rows", "by name"])
def test_good_rows(value: Any) -> None:
    """Rows alone or by name become one array of the model's type."""
    found = parse(value)
    assert list(found) == ["x"]
    assert found["x"].dtype == np.float32
    np.testing.assert_array_equal(found["x"], np.array([GOOD_ROW] * 2, dtype=np.float32))


def test_two_inputs_come_in_the_models_order() -> None:
    """Several inputs come by name; sizes that the model leaves open may be any."""
    found = parse({"mask": [[1, 1]], "ids": [[5, 6]]}, TOKENS)
    assert list(found) == ["ids", "mask"]
    assert [array.tolist() for array in found.values()] == [[[5, 6]], [[1, 1]]]
    assert {array.dtype for array in found.values()} == {np.dtype("int64")}


@pytest.mark.parametrize(
    ("value", "code", "words"),
    [
        ([[[1, 2], [3, 4]]], "wrong_shape", "[2, 2]"),
        ([[1, 2, 3]], "wrong_shape", "[3]"),
        ([1, 2], "wrong_shape", "[]"),
        ([[[1, 2, 3], [4, 5]]], "wrong_shape", "row 0"),
        ([GOOD_ROW, [[1, 2], [3, 4]]], "wrong_shape", "row 1"),
        ([GOOD_ROW, 7], "wrong_shape", "row 1"),
        ([GOOD_ROW, None], "wrong_shape", "row 1"),
        ([[[]]], "wrong_shape", "[1, 0]"),
        ([GOOD_ROW, [["a", "b", "c"], ["d", "e", "f"]]], "wrong_dtype", "row 1"),
        ([[["1", "2", "3"], ["4", "5", "6"]]], "wrong_dtype", "row 0"),
        ([[[1, 2, None], [3, 4, 5]]], "wrong_dtype", "row 0"),
        ([[[True, False, True], [True, True, True]]], "wrong_dtype", "true/false"),
        ([GOOD_ROW, [[1, 2, float("nan")], [4, 5, 6]]], "non_finite", "row 1"),
        ([[[1, 2, float("inf")], [4, 5, 6]]], "non_finite", "row 0"),
        ([[[1e39, 2, 3], [4, 5, 6]]], "non_finite", "float32"),
        ([], "empty_inputs", "at least one"),
        ({"x": []}, "empty_inputs", "at least one"),
        ({}, "wrong_inputs", "[2, 3]"),
        ({"y": [GOOD_ROW]}, "wrong_inputs", "'y'"),
        ({"x": 3}, "wrong_inputs", "a number"),
        (None, "wrong_inputs", "null"),
        ("text", "wrong_inputs", "a text"),
        (True, "wrong_inputs", "true or false"),
    ],
)
def test_bad_rows(value: Any, code: str, words: str) -> None:
    """Each kind of bad row has a code, names the field, and says what was found."""
    with pytest.raises(InvalidRequest) as caught:
        parse(value)
    assert (caught.value.code, caught.value.field) == (code, "inputs")
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({"ids": [[1]], "mask": [[1], [1]]}, "wrong_inputs"),
        ({"ids": [[1]]}, "wrong_inputs"),
        ({"ids": [[1]], "mask": [[1]], "more": [[1]]}, "wrong_inputs"),
        ([[1]], "wrong_inputs"),
        ({"ids": [[1.5]], "mask": [[1]]}, "wrong_dtype"),
        ({"ids": [[2**63]], "mask": [[1]]}, "wrong_dtype"),
        ({"ids": [[2**80]], "mask": [[1]]}, "wrong_dtype"),
        ({"ids": [[1, 2], [1]], "mask": [[1, 2], [1, 2]]}, "wrong_shape"),
    ],
)
def test_bad_rows_of_two_inputs(value: Any, code: str) -> None:
    """Missing, surplus and unequal inputs, decimals for integers and integers too large are refused."""
    with pytest.raises(InvalidRequest) as caught:
        parse(value, TOKENS)
    assert caught.value.code == code


def test_too_many_rows() -> None:
    """More rows than allowed are distinguished from bad ones, before anything is converted."""
    assert len(parse([GOOD_ROW] * 4)["x"]) == 4
    with pytest.raises(TooLarge) as caught:
        parse([GOOD_ROW] * 5)
    assert (caught.value.code, caught.value.field) == ("too_many_rows", "inputs")


def test_whole_numbers_for_floats_and_small_integers() -> None:
    """Integers serve a float input; an integer input of a narrow type takes what fits it and nothing else."""
    spec = [{"name": "pixels", "dtype": "uint8", "shape": ["N", 1]}]
    assert parse([[255]], spec)["pixels"].tolist() == [[255]]
    for value in (256, -1):
        with pytest.raises(InvalidRequest, match="does not fit uint8"):
            parse([[value]], spec)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int64", "uint8"])
def test_the_quick_way_and_the_careful_one_agree(dtype: str) -> None:
    """The quick reader takes a value as NumPy would, in every type."""
    rows = [[[1, 2], [3, 4]], [[5, 6], [7, 100]]]
    spec = {"name": "x", "dtype": dtype, "shape": ["N", 2, "L"]}
    found = parse_inputs(rows, ServingProfile.of({"inputs": [spec]}), max_rows=10)["x"]
    assert (found.dtype, found.tolist()) == (np.dtype(dtype), rows)


def test_a_long_text_among_numbers_costs_no_memory() -> None:
    """One long text is found before anybody makes an array of texts, each as long as it."""
    row: list[Any] = [0.5] * 1000
    row[700] = "x" * 1_000_000  # as an array of texts: 4 GB
    profile = ServingProfile.of({"inputs": [{"name": "x", "dtype": "float32", "shape": ["N", 1000]}]})
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest) as caught:
            parse_inputs([[0.5] * 1000, row], profile, max_rows=10)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (caught.value.code, "row 1" in caught.value.message) == ("wrong_dtype", True)
    assert peak < 10_000_000


def parse_rows(value: Any, profile: Json = TABLE, *, text: str | None = None) -> dict[str, np.ndarray]:
    """The arrays of a request with nothing but these inputs."""
    body = json.dumps({"inputs": value}) if text is None else text
    return parse_inputs(json.loads(body)["inputs"], ServingProfile.of(profile), max_rows=1000, text=body.encode())


def refused(value: Any, profile: Json = TABLE, **more: Any) -> tuple[str, str]:
    """Code and message."""
    with pytest.raises(InvalidRequest) as caught:
        parse_rows(value, profile, **more)
    assert caught.value.field == "inputs"
    return caught.value.code, caught.value.message


def test_columns_come_in_any_order() -> None:
    """Columns in any order give the numbers of a list in the model's order."""
    rows = [ROW, dict(reversed({**ROW, "hour": 4}.items()))]
    found = parse_rows(rows)["x"]
    np.testing.assert_array_equal(found, np.array([[3, 0.5, 7], [4, 0.5, 7]], np.float32))
    np.testing.assert_array_equal(parse_rows({"x": rows})["x"], found)
    single = {"inputs": [{"name": "x", "dtype": "float32", "shape": ["N", 1]}], "columns": ["b64"]}
    assert parse_rows([{"b64": 2}], single)["x"].tolist() == [[2]]


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
    """The error has the row, and the columns that the model knows."""
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
    """The answer says how to name columns, and for several inputs that there are none."""
    code, message = refused([ROW], {"inputs": TABLE["inputs"]})
    assert (code, "`columns`" in message) == ("no_column_names", True)
    assert refused({"ids": [ROW], "mask": [[1]]}, TWO_INPUTS)[0] == "no_column_names"


def test_missing_values_where_the_model_has_met_them() -> None:
    """Null and NaN are NaN, by name and in lists; infinity is refused."""
    for rows in ([{**ROW, "site": None}], [[3, 0.5, None]], [[3, 0.5, float("nan")]]):
        np.testing.assert_array_equal(parse_rows(rows, GAPS)["x"], np.array([[3, 0.5, np.nan]], np.float32))
    assert refused([[3, 0.5, float("inf")]], GAPS)[0] == "non_finite"
    assert refused([[3, 0.5, "x"]], GAPS)[0] == "wrong_dtype"
    assert refused([[3, 0.5]], GAPS)[0] == "wrong_shape"
    code, message = refused([[3, 0.5, 7], [3, None, 7]])
    assert (code, "row 1: null, and the model takes no missing values" in message) == ("wrong_dtype", True)


def test_shorter_rows_are_padded_as_the_dataset_was() -> None:
    """Inputs have a number each for padding, to the longest row or to the model's length."""
    found = parse_rows({"ids": [[1, 2, 3], [4]], "mask": [[1, 1, 1], [1]]}, TWO_INPUTS)
    assert found["ids"].tolist() == [[1, 2, 3], [4, 9, 9]]
    assert found["mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert found["ids"].dtype == np.int64
    boxes: Json = {
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["N", 3, 2]}],
        "reading": {"padding": {"x": 0.5}, "missing": "nan"},
    }
    found = parse_rows([[[1, None]], [[1, 2], [3, 4]]], boxes)
    np.testing.assert_array_equal(
        found["x"], np.array([[[1, np.nan], [0.5, 0.5], [0.5, 0.5]], [[1, 2], [3, 4], [0.5, 0.5]]], np.float32)
    )
    assert refused([[[1, 2]] * 4], boxes)[0] == "wrong_shape"
    assert refused([[[1, 2, 3]]], boxes)[0] == "wrong_shape"
    assert refused({"ids": [[1, 2], ["4"]], "mask": [[1, 1], [1]]}, TWO_INPUTS)[0] == "wrong_dtype"


def test_one_long_row_makes_no_gigabytes() -> None:
    """Thousands of short rows beside a long one are refused before they are made."""
    rows = [[1]] * 999 + [[1] * 20_000]
    with pytest.raises(TooLarge) as caught:
        parse_rows({"ids": rows, "mask": rows}, TWO_INPUTS)
    assert caught.value.code == "too_many_values"


@pytest.mark.parametrize("value", [[[0, True, 1]], [[0, 1, 2], [0, 1, False]], {"x": [[0, True, 1]]}])
def test_true_is_no_number(value: Any) -> None:
    """A boolean among numbers is refused anywhere; as a word elsewhere in the request it says nothing of them."""
    code, message = refused(value)
    assert (code, "true/false values in row" in message) == ("wrong_dtype", True)
    text = '{"inputs":[[0,1,2]],"coverage":{"true":0.9,"false":0.9}}'
    assert parse_rows(None, text=text)["x"].tolist() == [[0, 1, 2]]
