"""Joined Parquet files: the bytes of one, whole and in ranges; what cannot be joined is an error and never a file."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.inference.writers import table
from service.inference.writers.joined_parquet import JoinedParquet
from service.inference.writers.table import write_results
from service.inference.writers.thrift_compact import copied, skipped, unzigzag, varint, zigzag

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
    """Readers of Parquet find every row, group and statistic of the parts, and any range of its bytes is that range.

    Workers of two releases may have written them.
    """
    monkeypatch.setattr(table, "GROUP_ROWS", 7)
    paths = parts(tmp_path, 50, 1, 49)
    joined = JoinedParquet(paths)
    whole = b"".join(joined.read(0, joined.size))
    assert len(whole) == joined.size
    found = pq.ParquetFile(io.BytesIO(whole), page_checksum_verification=True)
    assert found.read().equals(answers(0, ROWS))
    files = [pq.ParquetFile(path) for path in paths]
    assert found.num_row_groups == sum(file.num_row_groups for file in files) == 16
    assert found.read_row_group(8).equals(files[1].read_row_group(0))
    assert found.metadata.row_group(8).column(0).statistics == files[1].metadata.row_group(0).column(0).statistics
    rng = np.random.default_rng(0)
    for start, stop in [(0, 4), (joined.size - 8, joined.size), *np.sort(rng.integers(0, joined.size + 1, (50, 2)))]:
        assert b"".join(joined.read(start, stop)) == whole[start:stop]
    newer = paths[2].read_bytes()
    assert newer.count(b"parquet-cpp-arrow") == 1
    paths[2].write_bytes(newer.replace(b"parquet-cpp-arrow", b"parquet-cpp-other"))
    joined = JoinedParquet(paths)
    assert b"".join(joined.read(0, joined.size)) == whole, "whoever has written a part"
    alone = JoinedParquet(paths[:1])
    assert pq.read_table(io.BytesIO(b"".join(alone.read(0, alone.size)))).equals(answers(0, 50))


def test_what_cannot_be_joined(tmp_path: Path) -> None:
    """Other columns, a file that is cut or none of Parquet, or a flipped bit of a footer end in ValueError at most."""
    paths = parts(tmp_path, 5, 5)
    pq.write_table(answers(5, 5).drop_columns("label"), paths[1])
    with pytest.raises(ValueError, match=r"1\.parquet has other columns than 0\.parquet"):
        JoinedParquet(paths)
    content = paths[0].read_bytes()
    for wrong in (b"", b"PAR1", content[:-1], content[-100:], b"x" * 100):
        paths[1].write_bytes(wrong)
        with pytest.raises(ValueError, match=r"1\.parquet"):
            JoinedParquet(paths)
    begin = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    for place in range(begin, len(content) - 8, 11):
        for bit in (1, 128):
            paths[1].write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
            with suppress(ValueError):  # and nothing else
                JoinedParquet(paths[1:])


def test_numbers_of_the_compact_protocol() -> None:
    """Every number is read as it was written, a struct is copied as it is, and lists of any length end."""
    for number in (0, 1, -1, 63, -64, 2**31, -(2**63)):
        assert unzigzag(zigzag(number)) == number
    struct = bytes([0x15, *varint(zigzag(300)), 0x18, 2, 65, 66, 0x19, 0x17, *bytes(8), 0])
    target = bytearray()
    assert copied(struct, 0, {1: 5}, target) == len(struct)
    assert target == bytes([0x15, *varint(zigzag(305))]) + struct[3:]
    assert skipped(bytes([0xF7, *varint(2**40)]), 0, 9) > 2**40
    with pytest.raises(ValueError, match="64 bits"):
        skipped(b"\xff" * 100, 0, 6)
