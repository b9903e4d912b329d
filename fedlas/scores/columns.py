"""Scores that a program holds as the columns of a table: one score, or several signals, and what stands beside them.

NumPy is loaded where arrays are made, and Arrow not at all: a client has neither for sure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedlas.data.dataset import Array

#: Names of `fedlas.scores.table` and `fedlas.data.roles`, which need Arrow: columns that are no signals without one.
_ROLES = {"label", "labels", "y", "target", "split", "group", "slices", "slice", "weight", "time", "id"}


def is_signal(name: str) -> bool:
    return name in ("score", "scores") or name.startswith("signal_")


def named_columns(scores: Any) -> dict[str, Any]:
    """Columns of a mapping or a frame by name; anything else is the column `score`.

    Where none is called `score` or `signal_…`, all that have no role are signals and get the prefix.

    >>> named_columns({"length": [3, 1], "agreement": [0.2, 0.9], "label": [0, 1]}).keys()
    dict_keys(['signal_length', 'signal_agreement', 'label'])
    """
    if not (isinstance(scores, Mapping) or hasattr(scores, "columns")):
        return {"score": scores}
    names = {str(name): scores[name] for name in (scores if isinstance(scores, Mapping) else scores.columns)}
    if any(map(is_signal, names)):
        return names
    return {name if name in _ROLES else f"signal_{name}": values for name, values in names.items()}


def score_columns(scores: Any, **beside: Any) -> dict[str, Array]:
    """Arrays (N,) of scores and of the columns `beside` them that are given; None among numbers is NaN.

    Raises:
        ConversionError: a column holds neither numbers nor text.
    """
    columns = {**named_columns(scores), **{name: values for name, values in beside.items() if values is not None}}
    return {name: _array(values, name) for name, values in columns.items()}


def _array(values: Any, name: str) -> Array:
    import numpy as np

    from fedlas.conversion.columns import as_array, is_tensor

    if not is_tensor(values) and (array := np.asarray(values)).dtype == object and array.ndim == 1:
        values = [np.nan if type(value).__name__ in ("NoneType", "NAType") else value for value in array]
    return as_array(values, name)
