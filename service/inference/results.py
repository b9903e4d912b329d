"""The results of a batch prediction as a Parquet file: written in blocks, read by pages; both in constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_RANKED = pa.struct([("label", pa.string()), ("index", pa.int32()), ("confidence", pa.float64())])
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("label", pa.string()),
        ("index", pa.int32()),
        ("confidence", pa.float64()),
        ("uncalibrated_confidence", pa.float64()),
        ("abstain", pa.bool_()),
        ("probability", pa.float64()),
        ("familiarity", pa.float64()),
        ("top_k", pa.list_(_RANKED)),
        ("prediction_set", pa.list_(pa.string())),
        ("decision", pa.string()),
    ]
)


def write_results(path: Path, blocks: Iterable[list[dict[str, Any]]]) -> int:
    """Write blocks of predictions, each a row group, and return the number of rows."""
    count = 0
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for block in blocks:
            rows = [{"row": count + offset, **prediction} for offset, prediction in enumerate(block)]
            writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
            count += len(rows)
    return count


def read_page(path: Path, *, start: int, limit: int) -> tuple[list[Mapping[str, Any]], bool]:
    """Return at most `limit` rows from row `start` on, and whether more follow; reads only the groups it needs."""
    with pq.ParquetFile(path) as file:
        rows: list[Mapping[str, Any]] = []
        first = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if first + size > start and len(rows) < limit:
                table = file.read_row_group(group)
                rows += table.slice(max(0, start - first), limit - len(rows)).to_pylist()
            first += size
        return rows, start + len(rows) < file.metadata.num_rows
