"""Columns of rows: arrays by name, and which of them has which role."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedlas.errors import ConversionError

Array: TypeAlias = NDArray[Any]

#: Words of the contract, which `fedlas.data` says too; that needs Arrow, and a client may have none.
SPLITS = ("train", "calibration", "guarantee", "test")
ROLES = ("label", "split", "group", "slices", "weight", "time", "id")
LABEL_NAMES = ("label", "labels", "y", "target")


@dataclass
class Rows:
    """Arrays by name, all of one length.

    Attributes:
        columns: inputs, and what has a role.
        roles: role -> name among `columns`.
        table: whether each column is one of a table, whose numeric ones form the single input together.
    """

    columns: dict[str, Array]
    roles: dict[str, Any] = field(default_factory=dict)
    table: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def label(self) -> str | None:
        """The name of the label's column."""
        return self.roles.get("label")

    def inputs(self) -> dict[str, Array]:
        """The columns without a role."""
        taken = self.taken()
        return {name: array for name, array in self.columns.items() if name not in taken}

    def taken(self) -> set[str]:
        """The names of the columns that have a role."""
        return {name for said in self.roles.values() for name in ([said] if isinstance(said, str) else said)}


def as_array(value: Any, name: str) -> Array:
    """An array of numbers or text; raises ConversionError for anything else."""
    if is_tensor(value):
        value = value.detach().cpu()
        value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    try:
        array = np.asarray(value)
        if array.dtype == object:
            array = np.array(array.tolist())
    except ValueError as error:
        raise ConversionError("ragged", f"'{name}' has rows of different lengths: pad them to one length") from error
    if array.dtype.kind not in "biufUSM":
        shown = next((type(item).__name__ for item in np.asarray(value, object).ravel()[:1]), "nothing")
        raise ConversionError("not_numbers", f"'{name}' holds Python objects ({shown}); numbers or text are needed")
    return array


def found_roles(columns: Iterable[str], roles: Mapping[str, Any]) -> dict[str, Any]:
    """Role -> name: what the caller says, else the well-known names."""
    names = list(columns)
    if unknown := [role for role in roles if role not in ROLES]:
        raise ConversionError("unknown_role", f"'{unknown[0]}' is no role; the roles are {', '.join(ROLES)}")
    for role, said in roles.items():
        for name in [said] if isinstance(said, str) else said:
            if name not in names:
                raise ConversionError(
                    "unknown_role_column", f"the role '{role}' names '{name}', but there are {', '.join(names[:50])}"
                )
    found = {role: [role] if role == "slices" else role for role in ROLES if role in names} | dict(roles)
    if "label" not in found and (label := next((name for name in LABEL_NAMES if name in names), None)):
        found["label"] = label
    return found


def class_name(value: Any) -> str:
    """The name of a class that an estimator holds as a value.

    >>> class_name(np.float64(3.0)), class_name(7), class_name("cat")
    ('3', '7', 'cat')
    """
    return str(int(value)) if isinstance(value, float) and value == int(value) else str(value)


def named_inputs(inputs: Sequence[Any]) -> dict[str, Array]:
    """Inputs without names: `x`, or `x0`, `x1`, … in their order, as the file of a module calls them."""
    names = ["x"] if len(inputs) == 1 else [f"x{i}" for i in range(len(inputs))]
    return {name: as_array(value, name) for name, value in zip(names, inputs, strict=True)}


def is_tensor(data: object) -> bool:
    """Whether it is a tensor of PyTorch, which is not loaded for the question."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(data, torch.Tensor)
