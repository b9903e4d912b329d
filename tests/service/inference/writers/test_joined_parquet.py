"""Joined Parquet files: several parts as the bytes of one."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.inference.writers import table
from service.inference.writers.rows import parquet
from service.inference.writers.table import write_results

ROWS = 100


def answers(first: int, count: int) -> pa.Table:
    """Rows as results have them: numbers, words that repeat, lists of structs, and none at all."""
    rows = np.arange(first, first + count)
    ranked = [[{"label": "a", "index": 0, "confidence": 0.5}] * (row % 3) for row in rows]
    columns = {"row": rows, "label": np.array(["a", "b"])[rows % 2], "confidence": rows / 7, "abstain": rows % 5 == 0}
    error = pa.array([{"code": "x"} if row % 9 == 0 else None for row in rows], pa.struct({"code": pa.string()}))
    return pa.table({**columns, "top_k": pa.array(ranked), "error": error})


def parts(folder: Path, *sizes: int) -> list[Path]:
    """Files of neighbouring rows, each of several groups."""
    paths, first = [], 0
    for number, size in enumerate(sizes):
        paths.append(folder / f"{number}.parquet")
        blocks = [answers(row, min(7, first + size - row)) for row in range(first, first + size, 7)]
        assert write_results(paths[-1], blocks) == size
        first += size
    return paths


def test_a_joined_file_is_the_rows_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers of Parquet find every row and group of the parts, and every page has its checksum."""
    monkeypatch.setattr(table, "GROUP_ROWS", 7)
    paths = parts(tmp_path, 50, 1, 49)
    pieces = list(parquet(map(pq.ParquetFile, paths)))
    whole = b"".join(pieces)
    found = pq.ParquetFile(io.BytesIO(whole), page_checksum_verification=True)
    assert found.read().equals(answers(0, ROWS))
    assert found.num_row_groups == sum(pq.ParquetFile(path).num_row_groups for path in paths) == len(pieces) - 1
    damaged = bytearray(whole)
    damaged[100] ^= 1
    with pytest.raises(OSError, match="checksum"):
        pq.ParquetFile(io.BytesIO(bytes(damaged)), page_checksum_verification=True).read()
