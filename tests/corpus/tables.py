"""Bad npz, csv and parquet files, and some that only look bad; each is made in well under two seconds."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.corpus.case import BadFile
from tests.helpers.archives import encrypted

N = 100
LABELS = np.arange(N) % 2
CLAIMED = 50 * 10**9
Content = bytes | Callable[[Path], None]


def _case(name: str, ending: str, content: Content, *codes: str, **options: str) -> BadFile:
    def make(folder: Path) -> Path:
        path = folder / f"upload.{ending}"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content(path)
        return path

    return BadFile(f"{ending}: {name}", make, frozenset(codes), "datasets", options)


# npz


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _lying(descr: str, shape: tuple[int, ...], data: bytes = bytes(400), *, header: bytes | None = None) -> bytes:
    """The bytes of an npy file with any header."""
    raw = header or repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    raw += b" " * (63 - (len(raw) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw + data


def _zip(members: Mapping[str, bytes], *, method: int = zipfile.ZIP_DEFLATED, label: bool = True) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        if label:
            archive.writestr("label.npy", _npy(LABELS))
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _twice() -> bytes:
    return _zip({"x.npy": _npy(np.ones(N)), "y.npy": _npy(np.zeros(N))}).replace(b"y.npy", b"x.npy")


def _encrypted() -> bytes:
    return encrypted(_zip({"x.npy": _npy(np.ones(N))}))


def _claims(size: int) -> bytes:
    """A member that says in the directory that it becomes `size` bytes: in a zip64 field where that needs one."""
    raw = bytearray(_zip({"x.npy": _npy(np.ones(N))}))
    place = raw.rfind(b"PK\x01\x02")
    raw[place + 24 : place + 28] = struct.pack("<I", min(size, 0xFFFFFFFF))
    if size < 0xFFFFFFFF:
        return bytes(raw)
    extra = struct.pack("<HHQ", 1, 8, size)
    name = struct.unpack_from("<H", raw, place + 28)[0]
    raw[place + 30 : place + 32] = struct.pack("<H", len(extra))
    raw[place + 46 + name : place + 46 + name] = extra
    end = raw.rfind(b"PK\x05\x06")
    raw[end + 12 : end + 16] = struct.pack("<I", struct.unpack_from("<I", raw, end + 12)[0] + len(extra))
    return bytes(raw)


def _bomb(path: Path, *, claimed: int = 2 << 30) -> None:
    """Two megabytes that become two gigabytes of zeros: a piece of the stream, written again and again."""
    header = _lying("|u1", (claimed - 128,), b"")
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = compressor.compress(header) + compressor.flush(zlib.Z_FULL_FLUSH)
    compressor.compress(bytes(1 << 20))
    compressor.flush(zlib.Z_FULL_FLUSH)
    piece = compressor.compress(bytes(1 << 20)) + compressor.flush(zlib.Z_FULL_FLUSH)
    _write_member(path, "label.npy", start + piece * 2048 + compressor.flush(), claimed, 0)


def _write_member(path: Path, name: str, stream: bytes, size: int, checksum: int) -> None:
    """A zip of one deflated member, written by hand."""
    raw = name.encode()
    sizes = struct.pack("<III", checksum, len(stream), size)
    local = b"PK\x03\x04" + struct.pack("<HHHHH", 20, 0, 8, 0, 0x21) + sizes + struct.pack("<HH", len(raw), 0) + raw
    central = b"PK\x01\x02" + struct.pack("<HHHHHH", 20, 20, 0, 8, 0, 0x21) + sizes
    central += struct.pack("<HHHHHII", len(raw), 0, 0, 0, 0, 0, 0) + raw
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local) + len(stream), 0)
    path.write_bytes(local + stream + central + end)


def _many(path: Path) -> None:
    empty = _npy(np.zeros(0, np.int8))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for i in range(100_000):
            archive.writestr(zipfile.ZipInfo(f"{i}.npy"), empty)


def _link() -> bytes:
    member = zipfile.ZipInfo("x.npy")
    member.external_attr = 0o120777 << 16
    buffer = io.BytesIO(_zip({}))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(member, "/etc/passwd")
    return buffer.getvalue()


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('a pickle was opened')",))


FLOATS = _npy(np.ones((N, 2)))
OBJECTS = io.BytesIO()
np.save(OBJECTS, np.array([_Bomb()] * N, dtype=object), allow_pickle=True)
NESTED = b"{" + b"(" * 9000 + b")" * 9000 + b"}"
NPZ = [
    _case("pickled objects", "npz", _zip({"x.npy": OBJECTS.getvalue()}), "object_array"),
    _case("a pickle called npz", "npz", pickle.dumps({"x": _Bomb()}), "unsafe_format"),
    _case("a pickle of protocol 0 called npz", "npz", pickle.dumps({"x": _Bomb()}, protocol=0), "unsafe_format"),
    _case("a pickle inside", "npz", _zip({"data.pkl": pickle.dumps(_Bomb())}), "unsafe_format"),
    _case("a header that claims 50 GB", "npz", _zip({"x.npy": _lying("<f4", (CLAIMED // 4,))}), "corrupt"),
    _case(
        "a header that claims more than there is", "npz", _zip({"x.npy": _lying("<f4", (10**18, 10**18))}), "corrupt"
    ),
    _case("a negative shape", "npz", _zip({"x.npy": _lying("<f4", (-1, -100))}), "corrupt"),
    _case("a deeply nested header", "npz", _zip({"x.npy": _lying("", (), header=NESTED)}), "corrupt"),
    _case("code as header", "npz", _zip({"x.npy": _lying("", (), header=b"__import__('os').abort()")}), "corrupt"),
    _case("a header of 4 GB", "npz", _zip({"x.npy": b"\x93NUMPY\x02\x00" + b"\xff" * 4 + bytes(5000)}), "corrupt"),
    _case(
        "text that is no text",
        "npz",
        _zip({"label.npy": _lying("<U1", (N,), b"\xff" * 400), "x.npy": FLOATS}, label=False),
        "corrupt",
    ),
    _case(
        "one label of 2 GB",
        "npz",
        _zip({"label.npy": _lying("<U500000000", (1,)), "x.npy": FLOATS}, label=False),
        "corrupt",
    ),
    _case("Fortran order", "npz", _zip({"x.npy": _npy(np.asfortranarray(np.arange(3.0 * N).reshape(N, 3)))}), "ready"),
    _case("big-endian", "npz", _zip({"x.npy": _npy(np.arange(N).astype(">f8"))}), "ready"),
    _case("structured", "npz", _zip({"x.npy": _npy(np.zeros(N, [("a", "f4")]))}), "unsupported_dtype"),
    _case("complex", "npz", _zip({"x.npy": _npy(np.zeros(N, complex))}), "unsupported_dtype"),
    _case("2 MB to 2 GB", "npz", _bomb, "archive_bomb"),
    _case("2 GB that claim to be 100 MB", "npz", partial(_bomb, claimed=100 << 20), "corrupt"),
    _case("nested", "npz", _zip({"inner.zip": _zip({"x.npy": FLOATS}), "x.npy": FLOATS}), "unsupported_format"),
    _case("100,000 entries", "npz", _many, "archive_too_large"),
    _case("a name that leads out", "npz", _zip({"../../x.npy": FLOATS}), "unsafe_archive"),
    _case("an absolute name", "npz", _zip({"/tmp/x.npy": FLOATS}), "unsafe_archive"),
    _case("a name of 10,000 characters", "npz", _zip({"x" * 10_000 + ".npy": FLOATS}), "unsafe_archive"),
    _case("a name with control characters", "npz", _zip({"x\x1b[31m.npy": FLOATS}), "unsafe_archive"),
    _case("a symbolic link", "npz", _link(), "unsafe_archive"),
    _case("a name twice", "npz", _twice(), "unsafe_archive"),
    _case("encrypted", "npz", _encrypted(), "encrypted"),
    _case("a size that lies", "npz", _claims(10**9), "archive_bomb"),
    _case("a zip64 size that lies", "npz", _claims(1 << 62), "archive_bomb", "corrupt"),
    _case("bzip2 inside", "npz", _zip({"x.npy": FLOATS}, method=zipfile.ZIP_BZIP2), "unsupported_compression"),
    _case("cut in half", "npz", _zip({"x.npy": FLOATS})[:-300], "corrupt"),
    _case("nothing inside", "npz", _zip({}, label=False), "empty"),
]

# csv

ROWS = [f"{i},{'ab'[i % 2]}" for i in range(N)]


def _csv(*lines: str, header: str = "x,label", end: str = "\n") -> bytes:
    return ("\n".join([header, *ROWS, *lines]) + end).encode()


def _one_line(path: Path) -> None:
    """A line of a gigabyte, most of it a hole in the file."""
    with path.open("wb") as file:
        file.write(b"1," * 4096)
        file.truncate(1 << 30)


def _one_full_line(path: Path) -> None:
    """A line of a gigabyte of numbers."""
    piece = b"1," * (1 << 19)
    with path.open("wb") as file:
        for _ in range(1 << 10):
            file.write(piece)


def _late_line(path: Path) -> None:
    """A good table whose last line is a hundred megabytes long."""
    with path.open("wb") as file:
        file.write(_csv())
        for _ in range(100):
            file.write(b"7" * (1 << 20))


def _wide(columns: int) -> bytes:
    header = ",".join([*(f"f{i}" for i in range(columns)), "label"])
    return "\n".join([header, *(",".join(["1"] * columns + ["ab"[row % 2]]) for row in range(N)), ""]).encode()


FORMULAS = [f"{i},{'ab'[i % 2]},=cmd|'/c calc'!A{i}" for i in range(N)]
FORMULA = "\n".join(["x,label,note", *FORMULAS, ""]).encode()
UTF_16 = _csv().decode().encode("utf-16")
CSV = [
    _case("10,000 columns", "csv", _wide(10_000), "ready"),
    _case("more columns than a table has", "csv", _wide(70_000), "too_large"),
    _case("a row too long", "csv", _csv("1,a,2"), "corrupt"),
    _case("a row too short", "csv", _csv("1"), "corrupt"),
    _case("an unclosed quote", "csv", _csv('1,"a', "2,b", "3,a"), "corrupt"),
    _case("an unclosed quote in the first row", "csv", _csv(header='x,label\n1,"a'), "corrupt"),
    _case("a byte-order mark", "csv", b"\xef\xbb\xbf" + _csv(), "ready"),
    _case("UTF-16", "csv", UTF_16, "corrupt"),
    _case("UTF-16 without its mark", "csv", UTF_16[2:], "unsupported_format"),
    _case("Latin-1", "csv", _csv("1,\u00e9t\u00e9").decode().encode("latin-1"), "corrupt"),
    _case("Latin-1 far down", "csv", _csv(*ROWS * 20).replace(b"99,b", b"99,\xe9"), "corrupt"),
    _case("NUL bytes", "csv", _csv().replace(b"5", b"\0"), "unsupported_format"),
    _case("a NUL byte far down", "csv", _csv(*ROWS * 20, "1,a\0"), "corrupt"),
    _case("formula cells", "csv", FORMULA, "non_numeric_column"),
    _case("formula cells as a slice", "csv", FORMULA, "ready", roles='{"slices": ["note"]}'),
    _case("one line of a gigabyte, mostly a hole", "csv", _one_line, "corrupt"),
    _case("one line of a gigabyte", "csv", _one_full_line, "corrupt"),
    _case("a last line of 100 MB", "csv", _late_line, "corrupt"),
    _case("a column twice", "csv", _csv(header="x,x"), "duplicate_column"),
    _case("a class name of 10,000 characters", "csv", _csv("1," + "c" * 10_000), "bad_labels"),
    _case("nothing but lines", "csv", b"\n" * 10_000, "empty"),
    _case("a web page", "csv", b"<!DOCTYPE html><html><body>not found</body></html>", "unsupported_format"),
    _case("JSON", "csv", b'[{"x": 1, "label": "a"}]', "unsupported_format"),
    _case("gzip", "csv", zlib.compress(_csv(), wbits=31), "unsupported_format"),
]

# parquet


def _parquet(table: pa.Table | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    good = pa.table({"x": np.arange(N, dtype=np.float32), "label": [*"ab"] * (N // 2)})
    pq.write_table(good if table is None else table, buffer, **options)
    return buffer.getvalue()


def _column(values: Any, kind: Any = None) -> bytes:
    return _parquet(pa.table({"x": pa.array(values, kind), "label": [*"ab"] * (N // 2)}))


def _footer(claimed: int) -> bytes:
    return _parquet()[:-8] + struct.pack("<I", claimed) + b"PAR1"


def _rows(claimed: int) -> bytes:
    """Every place in the footer where the number of rows stands says something else (thrift: zigzag varints)."""

    def varint(number: int) -> bytes:
        number, out = number << 1, bytearray()
        while number >= 0x80:
            out.append(number & 0x7F | 0x80)
            number >>= 7
        return bytes([*out, number])

    raw = _parquet(compression="none", use_dictionary=False)
    length = struct.unpack("<I", raw[-8:-4])[0]
    data, footer = raw[: -8 - length], raw[-8 - length : -8]
    footer = footer.replace(b"\x16" + varint(N), b"\x16" + varint(claimed))
    return data + footer + struct.pack("<I", len(footer)) + b"PAR1"


def _flipped() -> bytes:
    raw = bytearray(_parquet())
    start = len(raw) - 8 - struct.unpack("<I", raw[-8:-4])[0]
    for place in range(start, len(raw) - 8, 7):
        raw[place] ^= 0x55
    return bytes(raw)


def _repeated(path: Path) -> None:
    """Lists of the same number, a million to a row: a few kilobytes that become gigabytes."""
    row = pa.ListArray.from_arrays([0, 1 << 20], pa.array(np.zeros(1 << 20, np.int64)))
    table = pa.table({"x": row, "label": pa.array(["a"])})
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
        for _ in range(8):
            writer.write_table(table)


def _many_groups(path: Path) -> None:
    table = pa.table({"x": np.arange(N, dtype=np.float32), "label": [*"ab"] * (N // 2)})
    with pq.ParquetWriter(path, table.schema) as writer:
        for row in range(N):
            writer.write_table(table.slice(row, 1))


def _with_python_type() -> bytes:
    """The metadata by which old versions of pyarrow opened a pickle that the file brings along (CVE-2023-47248)."""
    pickled = pickle.dumps(_Bomb())
    metadata = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickled}
    field = pa.field("x", pa.float32(), metadata=metadata)
    schema = pa.schema([field, pa.field("label", pa.string())])
    return _parquet(pa.table([pa.array(np.arange(N, dtype=np.float32)), [*"ab"] * (N // 2)], schema=schema))


RAGGED = [[1] * (1 + i % 3) for i in range(N)]
PARQUET = [
    _case("a footer that claims 4 GB", "parquet", _footer(0xFFFFFFF0), "corrupt"),
    _case("a footer of nothing", "parquet", _footer(0), "corrupt"),
    _case("a damaged footer", "parquet", _flipped(), "corrupt"),
    _case("50 billion rows claimed", "parquet", _rows(50 * 10**9), "corrupt", "too_large"),
    _case("fewer rows claimed than there are", "parquet", _rows(60), "ready"),
    _case(
        "no rows",
        "parquet",
        _parquet(pa.table({"x": pa.array([], pa.float32()), "label": pa.array([], pa.string())})),
        "empty",
    ),
    _case("truncated", "parquet", _parquet()[:-20], "corrupt"),
    _case("only its magic words", "parquet", b"PAR1" + bytes(100) + b"PAR1", "corrupt"),
    _case("encrypted", "parquet", b"PARE" + _parquet()[4:-4] + b"PARE", "encrypted"),
    _case(
        "damaged pages",
        "parquet",
        _parquet(compression="zstd").replace(b"\x28\xb5\x2f\xfd", b"\x28\xb5\x2f\xfe"),
        "corrupt",
    ),
    _case("a row group for every row", "parquet", _many_groups, "ready"),
    _case("ragged lists", "parquet", _column(RAGGED), "ragged"),
    _case("ragged lists, filled", "parquet", _column(RAGGED), "ready", padding='{"x": 0}'),
    _case("padding for a column that is none", "parquet", _column(RAGGED), "bad_padding", padding='{"y": 0}'),
    _case("padding that the numbers cannot be", "parquet", _column(RAGGED), "bad_padding", padding='{"x": 0.5}'),
    _case("lists that shrink to nothing", "parquet", _repeated, "one_class"),
    _case("bytes", "parquet", _column([b"x"] * N), "unsupported_dtype"),
    _case("structs", "parquet", _column([{"a": 1}] * N), "unsupported_dtype"),
    _case("maps", "parquet", _column([[("a", 1)]] * N, pa.map_(pa.string(), pa.int8())), "unsupported_dtype"),
    _case("lists of text", "parquet", _column([["a"]] * N), "unsupported_dtype"),
    _case("text without a role", "parquet", _column(["a"] * N), "non_numeric_column"),
    _case("an empty cell", "parquet", _column([None, *range(N - 1)]), "non_finite"),
    _case("an empty cell, let through", "parquet", _column([None, *range(N - 1)]), "ready", missing="nan"),
    _case("a row without its list", "parquet", _column([None, *([[1]] * (N - 1))]), "non_finite"),
    _case("an infinite number", "parquet", _column([float("inf"), *([1.0] * (N - 1))]), "non_finite"),
    _case("a pickled column type", "parquet", _with_python_type(), "ready", "unsupported_dtype", "non_numeric_column"),
    _case("Arrow IPC", "parquet", b"ARROW1\0\0" + bytes(100), "unsupported_format"),
    _case("ORC", "parquet", b"ORC" + bytes(100), "unsupported_format"),
]
CASES: list[BadFile] = [*NPZ, *CSV, *PARQUET]
