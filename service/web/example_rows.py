"""Example rows: a row in the shape of a model's inputs, to begin with."""

from __future__ import annotations

import csv
import io
import json
from math import prod

from pydantic import JsonValue

from service.inference.profile import ServingProfile, TensorSpec

#: What a dimension that the model leaves open has in an example.
_FREE = 4
#: More numbers are not written out.
MOST_NUMBERS = 2000


def example_inputs(profile: ServingProfile) -> JsonValue:
    """The `inputs` of a request for one row: by column, by input, or plain."""
    if len(profile.inputs) > 1:
        return {spec.name: [example_row(spec)] for spec in profile.inputs}
    if profile.columns is not None:
        return [dict.fromkeys(profile.columns, 0.0)]
    return [example_row(profile.inputs[0])]


def example_text(profile: ServingProfile) -> str:
    """The same as somebody would paste it: CSV where rows are lists of numbers, else JSON; empty where it is long."""
    if sum(prod(row_shape(spec)) for spec in profile.inputs) > MOST_NUMBERS:
        return ""
    if len(profile.inputs) > 1 or len(profile.inputs[0].row) != 1:
        return json.dumps(example_inputs(profile))
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    if profile.columns is not None:
        writer.writerow(profile.columns)
    writer.writerow([0] * row_shape(profile.inputs[0])[0])
    return lines.getvalue()


def row_shape(spec: TensorSpec) -> list[int]:
    """The shape of the example's row."""
    return [size if isinstance(size, int) else _FREE for size in spec.row]


def example_row(spec: TensorSpec) -> JsonValue:
    """Zeros, and ones where whole numbers stand for tokens and masks: 0 is what is left out."""
    value: JsonValue = True if spec.dtype == "bool" else 0.0 if "float" in spec.dtype else 1
    for size in reversed(row_shape(spec)):
        value = [value] * size
    return value
