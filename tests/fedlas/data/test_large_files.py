"""Arrays that are built in files instead of in memory: the same numbers, and memory for a piece of them only."""

from __future__ import annotations

import csv
import json
import resource
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedlas.data import ReadingOptions, read_dataset
from fedlas.data import arrays as arrays_module
from fedlas.data.arrays import ArrayFactory
from fedlas.data.formats import csv as reading_csv
from fedlas.data.formats import npz, parquet
from fedlas.errors import BadDataset

N = 1000
LABELS = np.arange(N) % 4
PIXELS = np.random.default_rng(0).integers(0, 256, (N, 3, 5), dtype=np.uint8)
FLOATS = np.random.default_rng(1).normal(size=(N, 3, 5))


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything over a kilobyte is large, and read in pieces of a few hundred bytes."""
    for module in (arrays_module, npz):
        monkeypatch.setattr(module, "MEMORY_BYTES", 1000)
        monkeypatch.setattr(module, "PIECE_BYTES", 777)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def npz_file(path: Path, writer: Any = np.savez, **arrays: Any) -> Path:
    writer(path / "data.npz", label=LABELS, **arrays)
    return path / "data.npz"


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("writer", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "array",
    [PIXELS, FLOATS, np.asfortranarray(FLOATS), FLOATS.astype(">f4"), np.asfortranarray(FLOATS.astype(">f4"))],
    ids=["bytes", "floats", "Fortran", "big-endian", "both"],
)
def test_npz_arrays_in_files_hold_the_same_numbers(array: Any, writer: Any, tmp_path: Path, scratch: Path) -> None:
    """Whatever its order of axes and bytes, an array in a file is the one that was saved, mapped row by row."""
    found = read_dataset(npz_file(tmp_path, writer, x=array), scratch=scratch).inputs["x"]
    assert isinstance(found, np.memmap)
    assert not found.flags.writeable
    assert found.flags.c_contiguous
    assert found.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found, array)
    assert [path.name for path in scratch.iterdir()] == [Path(found.filename).name]  # type: ignore[arg-type]


@pytest.mark.usefixtures("small_pieces")
def test_small_arrays_and_roles_stay_in_memory(tmp_path: Path, scratch: Path) -> None:
    """Only inputs over the limit become files."""
    read = read_dataset(npz_file(tmp_path, x=np.zeros(N, np.int8), id=np.arange(N)), scratch=scratch)
    assert not isinstance(read.inputs["x"], np.memmap)
    assert not any(scratch.iterdir())


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("fault", ["nan", "text", "truncated"])
def test_a_fault_leaves_no_file(fault: str, tmp_path: Path, scratch: Path) -> None:
    """The row of a fault is counted over all pieces, and what was written before it is removed."""
    array = FLOATS.copy()
    array[907, 2, 1] = np.nan if fault == "nan" else 0
    path = npz_file(tmp_path, x=array, z=np.array(["a"] * N) if fault == "text" else FLOATS)
    if fault == "truncated":
        content = path.read_bytes()
        with zipfile.ZipFile(path) as archive:
            place = archive.getinfo("x.npy").header_offset + 5000
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    words = {"nan": r"'x' is empty or NaN in row 907, position \[2, 1\]", "text": "'z'", "truncated": "CRC"}[fault]
    with pytest.raises(BadDataset, match=words):
        read_dataset(path, scratch=scratch)
    left = [child.name for child in scratch.iterdir()]
    assert len(left) == (1 if fault == "text" else 0), "the array before the fault is whole"


@pytest.mark.parametrize("scratch_used", [True, False])
def test_a_growing_array_widens(scratch_used: bool, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes, then integers, then floats: every number is kept, in memory and in a file, in the widest type."""
    monkeypatch.setattr(arrays_module, "MEMORY_BYTES", 100)
    monkeypatch.setattr(arrays_module, "PIECE_BYTES", 64)
    parts = [np.arange(150).astype(np.uint8), np.arange(-90, 10), np.linspace(0, 1, 33), np.array([True])]
    with ArrayFactory(scratch if scratch_used else None).builder("x") as array:
        for part in parts:
            array.append(part)
        found = array.finish()
    assert isinstance(found, np.memmap) == scratch_used
    np.testing.assert_array_equal(found, np.concatenate(parts))
    assert len(list(scratch.iterdir())) == scratch_used


def test_an_array_may_not_be_larger_than_the_limit(monkeypatch: pytest.MonkeyPatch, scratch: Path) -> None:
    """Beyond the limit reading stops, whatever the file holds."""
    monkeypatch.setattr(arrays_module, "MAX_BYTES", 1000)
    with pytest.raises(BadDataset) as caught, ArrayFactory(scratch).builder("x") as array:
        for _ in range(3):
            array.append(np.zeros(500, np.int8))
    assert caught.value.code == "too_large"
    assert not any(scratch.iterdir())


BLOCKS = 20_000


def table(path: Path, format: str) -> Path:
    """Some 2 MB: integers that are floats from far down on, text labels, and a slice with commas in quotes."""
    rng = np.random.default_rng(0)
    columns = {f"f{i}": np.round(rng.normal(size=BLOCKS), 6) for i in range(8)}
    columns["late"] = np.where(np.arange(BLOCKS) < BLOCKS - 5, np.arange(BLOCKS), 0.5)
    labels = np.array(["ant", "bee"])[np.arange(BLOCKS) % 2]
    site = [f"{i}, or\n{i % 3}" for i in range(BLOCKS)]
    file = path / f"data.{format}"
    if format == "parquet":
        pq.write_table(pa.table({**columns, "label": labels, "site": site}), file, row_group_size=BLOCKS)
        return file
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow([*columns, "label", "site"])
        late = [str(int(v)) if v == int(v) else "0.5" for v in columns["late"]]
        writer.writerows(zip(*[columns[f"f{i}"].tolist() for i in range(8)], late, labels, site, strict=True))
    return file


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_tables_are_read_in_pieces(format: str, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over several blocks, a column whose last cells are of another type and cells with newlines come out whole."""
    monkeypatch.setattr(arrays_module, "MEMORY_BYTES", 1 << 18)
    monkeypatch.setattr(reading_csv, "MAX_LINE_BYTES", 1 << 16)
    monkeypatch.setattr(parquet, "PIECE_BYTES", 1 << 16)
    dataset = read_dataset(table(tmp_path, format), ReadingOptions(roles={"slices": ["site"]}), scratch=scratch)
    found = dataset.inputs["inputs"]
    assert isinstance(found, np.memmap)
    assert found.shape == (BLOCKS, 9)
    np.testing.assert_array_equal(found[:, 8], np.where(np.arange(BLOCKS) < BLOCKS - 5, np.arange(BLOCKS), 0.5))
    np.testing.assert_array_equal(found[:, 3], np.round(np.random.default_rng(0).normal(size=(8, BLOCKS)), 6)[3])
    assert dataset.slices["site"][[0, -1]].tolist() == ["0, or\n0", f"{BLOCKS - 1}, or\n{(BLOCKS - 1) % 3}"]
    np.testing.assert_array_equal(dataset.targets, np.arange(BLOCKS) % 2)


CHILD = """
import json, resource, sys
from pathlib import Path
from fedlas.data import read_dataset
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
dataset = read_dataset(sys.argv[1], scratch=Path(sys.argv[2]))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"more": (peak - before) * 1024, "rows": len(dataset), "bytes": dataset.inputs["x"].nbytes}))
"""


@pytest.mark.parametrize("format", ["npz", "parquet"])
def test_memory_holds_a_piece_of_a_large_file(format: str, tmp_path: Path, scratch: Path) -> None:
    """A dataset of 200 MB is read in far less memory than it has: what counts is a piece, not the file."""
    rows, path = 800, tmp_path / f"data.{format}"
    values = np.random.default_rng(0).random((rows, 1 << 16), np.float32)
    if format == "npz":
        np.savez(path, x=values, label=np.arange(rows) % 2)
    else:
        lists = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 1 << 16)
        pq.write_table(pa.table({"x": lists, "label": np.arange(rows) % 2}), path, compression="none")
    command = [sys.executable, "-c", CHILD, str(path), str(scratch)]
    child = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    told = json.loads(child.stdout)
    assert (told["rows"], told["bytes"]) == (rows, values.nbytes)
    assert told["more"] < values.nbytes / 2


def test_files_may_have_a_limit(tmp_path: Path, scratch: Path) -> None:
    """Where the system allows no larger file, the dataset is too large, which is not the same as damaged."""
    path = npz_file(tmp_path, x=np.zeros((N, 100_000), np.uint8))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 26, limits[1]))
    try:
        with pytest.raises(BadDataset) as caught:
            read_dataset(path, scratch=scratch)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.code == "too_large"
