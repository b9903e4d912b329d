"""A pandas index in a file: a column that numbers or names the rows, and is no feature of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence

from fedlas.notice import Notice, adjustment

#: How pandas calls an index without a name in parquet, and when it reads a csv file that it has written with one.
_NAMES = re.compile(r"__index_level_\d+__|Unnamed: 0(\.\d+)*")
#: What `reset_index` makes of one; it may also be somebody's own column.
_RESET = "index"


def index_columns(
    names: Sequence[str], counts_rows: Callable[[str], bool], *, described: Collection[str] = ()
) -> list[str]:
    """Those of a file's columns that are a pandas index.

    Args:
        names: of all columns in their order; `to_csv` (and R's write.csv) leaves the first one without a name.
        counts_rows: tells whether a column is 0, 1, 2, ... from the first row to the last.
        described: what the file itself says are columns of an index.
    """
    found = [name for name in names if _NAMES.fullmatch(name) or name in described]
    found += [name for name in names[:1] if name == ""]
    return found + [name for name in names if name == _RESET and name not in found and counts_rows(name)]


def described_index(metadata: bytes | None) -> list[str]:
    """The columns that pandas' own metadata of a parquet file calls an index; none where there is no such metadata."""
    try:
        columns = json.loads(metadata or b"{}").get("index_columns", [])
    except (ValueError, AttributeError, RecursionError):
        return []
    return [name for name in columns if isinstance(name, str)] if isinstance(columns, list) else []


def dropped(names: Sequence[str]) -> list[Notice]:
    """The notice of an index that is no input; none without names."""
    if not names:
        return []
    shown = ", ".join(f"'{name}'" if name else "the first column, which has no name," for name in names[:20])
    message = f"{shown} {'are a pandas index' if len(names) > 1 else 'is a pandas index'} and no feature: not an input"
    return [adjustment("index_dropped", message, columns=list(names))]
