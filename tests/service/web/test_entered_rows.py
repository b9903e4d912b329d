"""What is typed or pasted becomes the inputs that somebody who writes that means."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from service.inference.profile import ServingProfile
from service.inference.signature import parse_inputs
from service.registry.errors import InvalidRequest
from service.web.snippets import example_inputs, example_text
from service.web.try_it import inputs_of, row_of


def profile(*inputs: tuple[str, str, list[Any]], columns: list[str] | None = None) -> ServingProfile:
    specs = [{"name": name, "dtype": dtype, "shape": ["N", *row]} for name, dtype, row in inputs]
    return ServingProfile.of({"inputs": specs, "class_names": ["a", "b"], "columns": columns})


TABLE = profile(("x", "float32", [2]), columns=["age", "x, y"])
PLAIN = profile(("x", "float32", [2]))
IMAGE = profile(("x", "float32", [1, 2, 2]))
TEXT = profile(("input_ids", "int64", ["T"]), ("attention_mask", "int64", ["T"]))


@pytest.mark.parametrize(
    ("text", "takes", "inputs"),
    [
        ("1, 2.5", PLAIN, [[1, 2.5]]),
        ("1,2\n\n3,4\n", PLAIN, [[1, 2], [3, 4]]),
        ("[1, 2]", PLAIN, [[1, 2]]),
        ("[[1, 2], [3, 4]]", PLAIN, [[1, 2], [3, 4]]),
        ('{"inputs": [[1, 2]]}', PLAIN, [[1, 2]]),
        ('{"x": [1, 2]}', PLAIN, {"x": [[1, 2]]}),
        ('age,"x, y"\n1,2\n3,', TABLE, [{"age": 1, "x, y": 2}, {"age": 3, "x, y": None}]),
        ('"x, y",age\n1,2', TABLE, [{"x, y": 1, "age": 2}]),
        ("1,2", TABLE, [[1, 2]]),
        ('{"age": 1, "x, y": 2}', TABLE, [{"age": 1, "x, y": 2}]),
        ("1,2,3,4", IMAGE, [[[[1, 2], [3, 4]]]]),
        ("[[[1, 2], [3, 4]]]", IMAGE, [[[[1, 2], [3, 4]]]]),
        (
            '{"input_ids": [1, 2], "attention_mask": [[1, 1]]}',
            TEXT,
            {"input_ids": [[1, 2]], "attention_mask": [[1, 1]]},
        ),
    ],
)
def test_what_is_meant(text: str, takes: ServingProfile, inputs: Any) -> None:
    """One row or several, as CSV with or without a heading, as JSON, or as a request's whole body."""
    assert inputs_of(text, takes) == inputs


@pytest.mark.parametrize(
    ("text", "takes", "told"),
    [
        (" \n", PLAIN, "nothing was entered"),
        ("1,x", PLAIN, "line 1, value 2: 'x' is no number"),
        ("[1, 2", PLAIN, "begins like JSON and is none"),
        ("[" * 100_000, PLAIN, "nested too deeply"),
        ('"1,2', PLAIN, "neither JSON nor CSV"),
        ('age,"x, y"\n1', TABLE, "line 2 has 1 values, and the heading names 2 columns"),
        ("1,2", TEXT, "several inputs (input_ids, attention_mask)"),
        (f"1,{'y' * 10_000}", PLAIN, "…' is no number"),
    ],
)
def test_what_cannot_be_meant(text: str, takes: ServingProfile, told: str) -> None:
    """The sentence says what was found and where, however long that is."""
    with pytest.raises(InvalidRequest) as refused:
        inputs_of(text, takes)
    assert told in refused.value.message
    assert len(refused.value.message) < 300


def test_a_field_for_each_column_is_a_row() -> None:
    """Each field is read as a cell; an empty one is missing."""
    assert row_of(["age", "x, y"], ["1", ""]) == [{"age": 1, "x, y": None}]


@pytest.mark.parametrize("takes", [TABLE, PLAIN, IMAGE, TEXT])
def test_examples_fit_their_model(takes: ServingProfile) -> None:
    """The example, pasted as it is written, is one row that the model takes."""
    assert inputs_of(example_text(takes), takes) == example_inputs(takes) or takes is TABLE
    for given in (inputs_of(example_text(takes), takes), example_inputs(takes)):
        arrays = parse_inputs(given, takes, max_rows=1)
        assert {name: array.shape for name, array in arrays.items()} == {
            spec.name: np.zeros([1, *(size if isinstance(size, int) else 4 for size in spec.row)]).shape
            for spec in takes.inputs
        }


def test_an_example_of_a_million_numbers_is_not_written_out() -> None:
    """A page with it would be as long."""
    assert example_text(profile(("x", "float32", [3, 600, 600]))) == ""
