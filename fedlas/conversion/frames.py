"""Frames of pandas: columns of numbers stay columns; text is taken where it has a role."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped, unused-ignore]

from fedlas.conversion.columns import ROLES, Array, Rows, found_roles
from fedlas.errors import ConversionError


def frame_rows(frame: pd.DataFrame, roles: Mapping[str, Any]) -> Rows:
    """The columns of a frame as arrays.

    Raises:
        ConversionError: an empty frame, a column name twice, or a column that is neither numbers nor a role.
    """
    if frame.shape[1] == 0 or len(frame) == 0:
        raise ConversionError(
            "empty", f"the frame has {len(frame)} rows and {frame.shape[1]} columns: nothing to write"
        )
    names = [str(name) for name in frame.columns]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConversionError("duplicate_column", f"these columns appear more than once: {', '.join(twice[:20])}")
    found = found_roles(names, roles)
    taken = {name for value in found.values() for name in ([value] if isinstance(value, str) else value)}
    columns = {
        name: _role(name, frame.iloc[:, i]) if name in taken else _input(name, frame.iloc[:, i])
        for i, name in enumerate(names)
    }
    inputs = [name for name in names if name not in taken]
    notes = [f"{len(inputs)} numeric columns form one input, a row of {len(inputs)} numbers."] if inputs else []
    if missing := [name for name in inputs if columns[name].dtype.kind == "f" and np.isnan(columns[name]).any()]:
        notes.append(f"Values are missing in {', '.join(missing[:10])}: they are taken only with missing='nan'.")
    return Rows(columns, found, table=True, notes=notes)


def _input(name: str, column: pd.Series[Any]) -> Array:
    """A column of numbers; nullable types have NaN where nothing is."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(column):
        if column.isna().any() or str(column.dtype) == "Float64":
            return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))
        return np.asarray(column.to_numpy(dtype=np.dtype(str(column.dtype).lower().replace("boolean", "bool"))))
    row = int(np.argmax(~column.isna().to_numpy()))
    kind = "categories" if isinstance(column.dtype, pd.CategoricalDtype) else f"{column.dtype}"
    raise ConversionError(
        "text_column",
        f"the column '{name}' holds {kind} ({str(column.iloc[row])[:60]!r} in row {row}) and no numbers: encode it, "
        f"for example by pandas.get_dummies, leave it out, or give it a role ({', '.join(ROLES)}), for example "
        f'roles={{"slices": ["{name}"]}}',
    )


def _role(name: str, column: pd.Series[Any]) -> Array:
    """A column with a role: numbers as they are, everything else as text."""
    if column.isna().any():
        row = int(np.argmax(column.isna().to_numpy()))
        raise ConversionError("missing_value", f"the column '{name}' has no value in row {row} (counted from 0)")
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if pd.api.types.is_numeric_dtype(column):
        return _input(name, column)
    if pd.api.types.is_datetime64_any_dtype(column):
        return np.asarray(column.to_numpy(), "datetime64[us]")
    return np.asarray(column.astype(str).to_numpy(), np.str_)
