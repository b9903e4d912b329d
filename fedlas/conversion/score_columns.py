"""Scores that a program holds as the columns of a table: one score, or several signals, and what stands beside them.

NumPy is loaded where arrays are made, and Arrow not at all: a client has neither for sure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedlas.data.dataset import Array

#: Names of `fedlas.scores.table` and `fedlas.data.roles`, which need Arrow: columns that are no signals without one.
_KNOWN = {"score", "scores", "label", "labels", "y", "target"}
_ROLES = {*_KNOWN, "split", "group", "slices", "slice", "weight", "time", "id"}


def is_signal(name: str) -> bool:
    return name in ("score", "scores") or name.startswith("signal_")


def plain_names(names: Iterable[str], score: object = None) -> list[str]:
    """Names without blanks around them, those of a score or label in small letters; `score` names that of the score.

    >>> plain_names([" Judge", "Label", "Team "], score="judge")
    ['score', 'label', 'Team']
    """
    plain = [name.strip() for name in names]
    known = [name.lower() if name.lower() in _KNOWN else name for name in plain]
    if score is None:
        return known
    other = {"score": "other score"}
    return ["score" if name.lower() == str(score).strip().lower() else other.get(name, name) for name in known]


def named_columns(scores: Any) -> dict[str, Any]:
    """Columns of a mapping or a frame by name; anything else is the column `score`.

    Where none is called `score` or `signal_…`, all that have no role are signals and get the prefix.

    >>> named_columns({"length": [3, 1], "agreement": [0.2, 0.9], "label": [0, 1]}).keys()
    dict_keys(['signal_length', 'signal_agreement', 'label'])
    """
    if not (isinstance(scores, Mapping) or hasattr(scores, "columns")):
        return {"score": scores}
    keys = list(scores if isinstance(scores, Mapping) else scores.columns)
    names = dict(zip(plain_names(map(str, keys)), (scores[key] for key in keys), strict=True))
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
