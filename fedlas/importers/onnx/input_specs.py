"""Input specifications of a graph, and made-up rows that fit them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from onnx import ValueInfoProto, helper
from torch import Tensor

from fedlas.errors import Mismatch, UnsupportedModel
from fedlas.importers.onnx.evaluator import shapes_of
from fedlas.importers.onnx.graph import Graph

#: Lengths tried for axes that the exporter left open, the likeliest first.
LENGTHS = (16, 64, 224, 32, 8, 4, 128, 3, 2, 1, 256, 299, 512)


@dataclass(frozen=True)
class InputSpec:
    """One input of a classifier: numpy's name of its type, and its shape with `"N"` for the rows."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


def input_spec(info: ValueInfoProto) -> InputSpec:
    """The specification of a graph's input.

    Raises:
        UnsupportedModel: `unsupported_input` where it is not a tensor of numbers with rows first.
    """
    tensor = info.type.tensor_type
    if not info.type.HasField("tensor_type") or not tensor.elem_type or tensor.elem_type == 8:
        raise UnsupportedModel("unsupported_input", f"input {info.name!r} is not a tensor of numbers")
    dims = [
        dim.dim_value if dim.dim_value > 0 else dim.dim_param or f"dim_{i}" for i, dim in enumerate(tensor.shape.dim)
    ]
    if not dims:
        raise UnsupportedModel("unsupported_input", f"input {info.name!r} has no shape whose first axis are the rows")
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return InputSpec(info.name, dtype, ("N", *dims[1:]))


def fixed_batch(inputs: list[ValueInfoProto]) -> int | None:
    """The number of rows that the exporter wrote into the inputs, None where it is open.

    Raises:
        UnsupportedModel: `no_classifier_output` where the inputs do not agree (recurrent states have other axes first).
    """
    sizes = {info.name: max(0, info.type.tensor_type.shape.dim[0].dim_value) for info in inputs}
    if len(set(sizes.values())) > 1:
        shown = ", ".join(f"{name}: {size or 'open'}" for name, size in sizes.items())
        raise UnsupportedModel(
            "no_classifier_output",
            f"every input must have the rows as its first axis, but these differ ({shown}); inputs of one row among "
            "others are recurrent states, which a classifier of independent rows does not have, or constants whose "
            "values the exporter left out (tf2onnx does so for Keras' Normalization): export with their values inside",
        )
    return next(iter(sizes.values())) or None


def set_batch(graph: Graph) -> None:
    """Name the first axis of every input N."""
    renamed = []
    for info in graph.inputs:
        copy = ValueInfoProto()
        copy.CopyFrom(info)
        copy.type.tensor_type.shape.dim[0].dim_param = "N"
        renamed.append(copy)
    graph.inputs = renamed


def example_inputs(specs: list[InputSpec], rows: int, lengths: Mapping[str, int], seed: int = 0) -> dict[str, Tensor]:
    """Random rows: normal floats; integers are zeros and ones (valid as token ids and masks), starting with a one."""
    generator = np.random.default_rng(seed)
    made = {}
    for spec in specs:
        shape = [rows, *(size if isinstance(size, int) else lengths[size] for size in spec.shape[1:])]
        if spec.dtype.startswith(("float", "bfloat")):
            values = torch.from_numpy(generator.standard_normal(shape, np.float32))
        else:
            values = torch.from_numpy(generator.integers(0, 2, shape))
            if values.ndim > 1:
                values[..., :1] = 1
        made[spec.name] = values.to(getattr(torch, spec.dtype))
    return made


def _sizes_in(graph: Graph) -> list[int]:
    """Sizes that the exporter may have written into the graph although it declared the axis open."""
    sizes = {size for value in graph.constants.values() for size in value.shape}
    for value in graph.constants.values():
        if value.dtype == np.int64 and value.size <= 8:
            sizes.update(value.ravel().tolist())
    return sorted(size for size in sizes if 1 < size <= 1024)[:100]


def find_lengths(graph: Graph, specs: list[InputSpec], rows: int) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Lengths of the open axes with which the graph runs, and the shapes of all tensors when it does.

    Raises:
        UnsupportedModel: whatever the first attempt ran into, where none works.
    """
    names = {size: axis for spec in specs for axis, size in enumerate(spec.shape[1:]) if isinstance(size, str)}
    channels = {s for spec in specs if len(spec.shape) >= 4 for s in spec.shape[1:2] if isinstance(s, str)}
    failure: UnsupportedModel | Mismatch | None = None
    for length in dict.fromkeys((*LENGTHS, *_sizes_in(graph))):
        for depth in (3, 1) if channels else (1,):
            lengths = {name: depth if name in channels else length for name in names}
            try:
                return lengths, shapes_of(graph, example_inputs(specs, rows, lengths))
            except (UnsupportedModel, Mismatch) as error:  # a length beyond a table of positions is a mismatch
                failure = failure or error
        if not names:
            break
    assert failure is not None
    if isinstance(failure, Mismatch):
        raise UnsupportedModel("invalid_graph", f"no made-up row can be run: {failure}") from failure
    raise failure
