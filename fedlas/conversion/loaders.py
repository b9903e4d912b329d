"""Datasets and loaders of PyTorch, read batch by batch."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fedlas.conversion.columns import Array, Rows, as_array, found_roles, named_inputs
from fedlas.errors import ConversionError


def is_loaded(data: object) -> bool:
    """Whether it is a dataset or a loader of PyTorch, which is not loaded for the question."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(data, torch.utils.data.Dataset | torch.utils.data.DataLoader)


def batches(data: Any, size: int) -> Iterator[Any]:
    """The batches of a loader as they come, of a dataset by a loader of ours."""
    from torch.utils.data import DataLoader

    loader = data if isinstance(data, DataLoader) else DataLoader(data, batch_size=size)
    try:
        yield from loader
    except TypeError as error:
        raise ConversionError(
            "not_numbers", f"the dataset's items are no tensors or numbers ({error}): give it a transform to tensors"
        ) from error
    except RuntimeError as error:
        if "equal size" in str(error):
            raise ConversionError("ragged", "the dataset's items differ in shape: pad or resize them") from error
        raise


def collected(given: Iterator[Any], roles: Mapping[str, Any] | None = None) -> Rows:
    """All batches of a loader as arrays: `(x, y)`, `(x0, x1, …, y)`, or mappings."""
    taken: dict[str, list[Array]] = {}
    mapping = False
    for batch in given:
        mapping = isinstance(batch, Mapping)
        for name, array in _named(batch).items():
            taken.setdefault(name, []).append(array)
    if not taken:
        raise ConversionError("empty", "the loader gives no batch, so there are no rows")
    try:
        columns = {name: np.concatenate(arrays) for name, arrays in taken.items()}
    except ValueError as error:
        raise ConversionError("ragged", f"batches differ in shape ({error}): pad all rows to one length") from error
    return Rows(columns, found_roles(columns, roles or {} if mapping else {}))


def _named(batch: Any) -> dict[str, Array]:
    if isinstance(batch, Mapping):
        return {str(name): as_array(value, str(name)) for name, value in batch.items()}
    if not isinstance(batch, tuple | list):
        return {"x": as_array(batch, "x")}
    if len(batch) < 2:
        return named_inputs(batch)
    *inputs, label = batch
    if len(inputs) == 1 and isinstance(inputs[0], Mapping):
        named = {str(name): as_array(value, str(name)) for name, value in inputs[0].items()}
    else:
        named = named_inputs(inputs[0] if len(inputs) == 1 and isinstance(inputs[0], tuple | list) else inputs)
    return {**named, "label": np.atleast_1d(as_array(label, "label"))}
