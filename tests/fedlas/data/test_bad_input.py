"""Bad datasets: each fault has its own code and a message that names array, row and value."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch

from fedlas.data import ReadingOptions, read_dataset
from fedlas.errors import BadDataset
from tests.helpers.archives import encrypted
from tests.helpers.refusals import refusal

N = 100
GOOD: dict[str, Any] = {"x": np.ones((N, 2), np.float32), "label": np.arange(N) % 2}


def npz(**changes: Any) -> bytes:
    """A good npz with some arrays changed or, where None, left out."""
    buffer = io.BytesIO()
    np.savez(buffer, **{name: array for name, array in {**GOOD, **changes}.items() if array is not None})
    return buffer.getvalue()


def changed(name: str, place: Any, value: Any, dtype: str = "float64") -> dict[str, Any]:
    array = GOOD[name].astype(dtype)
    array[place] = value
    return {name: array}


def csv(*lines: str, header: str = "x,label", good_rows: int = N) -> bytes:
    return "\n".join([header, *(f"{i},{'ab'[i % 2]}" for i in range(good_rows)), *lines, ""]).encode()


def member(header: dict[str, Any] | bytes, data: bytes) -> bytes:
    """An npz whose array `x` has this header, true or not."""
    raw = header if isinstance(header, bytes) else repr(header).encode()
    raw += b" " * (63 - (len(raw) + 10) % 64) + b"\n"
    buffer = io.BytesIO(npz(x=None))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw + data)
    return buffer.getvalue()


def damaged(content: bytes) -> bytes:
    """One bit of the array `x` is turned; the archive's checksum knows."""
    place = content.index(b"\x93NUMPY") + 130
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def written(write: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    return buffer.getvalue()


FLOATS = {"descr": "<f4", "fortran_order": False, "shape": (N, 2)}
OBJECTS = np.array([{"a": 1}, None] * (N // 2), dtype=object)
SPLITS = np.array(["train"] * 50 + ["calibration"] * 25 + ["test"] * 25)
ARRAYS = {"x": np.ones((3, 2)), "label": np.arange(3)}
CASES: dict[str, tuple[bytes, str, str]] = {
    # pickles, whatever they are called
    "pickle": (pickle.dumps(ARRAYS), "unsafe_format", "numpy.savez"),
    "pickle, protocol 0": (pickle.dumps({"a": 1}, protocol=0), "unsafe_format", "pickle"),
    "pickle, protocol 1": (pickle.dumps([1, 2], protocol=1), "unsafe_format", "pickle"),
    "joblib": (written(lambda file: joblib.dump(ARRAYS, file)), "unsafe_format", "pickle"),
    "joblib, zlib": (written(lambda file: joblib.dump(ARRAYS, file, compress=3)), "unsafe_format", "pickle"),
    "joblib, gzip": (gzip.compress(pickle.dumps(ARRAYS)), "unsafe_format", "pickle"),
    "torch.save": (written(lambda file: torch.save({"x": torch.ones(2)}, file)), "unsafe_format", "torch.save"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "unsupported_format", "HDF5"),
    # formats that are not read
    "excel": (zipped("[Content_Types].xml", "xl/workbook.xml"), "unsupported_format", "save the sheet as csv"),
    "zipped csv": (zipped("data.csv"), "unsupported_format", "send that file itself"),
    "feather": (b"ARROW1\0\0" + bytes(100), "unsupported_format", "Feather.*parquet"),
    "a model": (b"\x08\x0a\x12\x07pytorch" + bytes(100), "unsupported_format", "ONNX model.*exchanged"),
    "json": (b'{"x": [1], "label": [0]}', "unsupported_format", "JSON"),
    "tar": (b"x.csv".ljust(257, b" ") + b"ustar" + bytes(100), "unsupported_format", "tar"),
    "single image": (b"\xff\xd8\xff\xe0" + bytes(100), "unsupported_format", "single image.*zip"),
    "other zip": (zipped("notes.txt"), "unsupported_format", "notes.txt"),
    "single npy": (written(lambda file: np.save(file, np.ones(3))), "unsupported_format", "numpy.savez"),
    "compressed csv": (gzip.compress(csv()), "unsupported_format", "compressed"),
    "binary": (bytes(range(256)), "unsupported_format", "neither"),
    # damaged files
    "nothing": (b"", "empty", "empty"),
    "empty zip": (zipped(), "empty", "empty"),
    "truncated zip": (npz()[:-200], "corrupt", "zip"),
    "turned bit": (damaged(npz()), "corrupt", "damaged"),
    "encrypted zip": (encrypted(npz()), "encrypted", "password"),
    "header claims more": (member(FLOATS, bytes(40)), "corrupt", "40 bytes follow"),
    "header claims the moon": (member({**FLOATS, "shape": (10**15, 10**15)}, bytes(40)), "corrupt", "claims shape"),
    "header claims less": (member(FLOATS, bytes(1600)), "corrupt", "1600 bytes follow"),
    "negative shape": (member({**FLOATS, "shape": (-1, 2)}, b""), "corrupt", "claims shape"),
    "header is no header": (member(b"__import__('os')", b""), "corrupt", "header of the array 'x'"),
    # arrays
    "object array": (npz(x=OBJECTS), "object_array", "'x' holds Python objects"),
    "object labels": (npz(label=OBJECTS), "object_array", "'label'"),
    "complex": (npz(x=np.ones(N, complex)), "unsupported_dtype", "complex128"),
    "records": (npz(x=np.zeros(N, [("a", "f4")])), "unsupported_dtype", "'x'"),
    "lengths": (npz(x=np.ones((N - 1, 2))), "length_mismatch", "'x' has 99 rows, but 'label' has 100"),
    "scalar": (npz(extra=np.float32(1)), "length_mismatch", "'extra' has a single value"),
    "nan": (npz(**changed("x", (17, 1), np.nan)), "non_finite", r"'x' is empty or NaN in row 17, position \[1\]"),
    "inf": (npz(**changed("x", (3, 0), -np.inf)), "non_finite", "'x' is -inf in row 3"),
    "text input": (npz(note=np.array(["hi"] * N)), "non_numeric_column", "'note'"),
    "no inputs": (npz(x=None), "no_inputs", "model input"),
    "no label": (npz(label=None), "no_label", "label, labels, y, target"),
    "no rows": (npz(x=np.ones((0, 2)), label=np.arange(0)), "empty", "no rows"),
    # labels
    "negative label": (npz(**changed("label", 5, -1, "int64")), "labels_out_of_range", "'label' is -1 in row 5"),
    "huge label": (npz(**changed("label", 5, 10**12, "int64")), "labels_out_of_range", "row 5"),
    "label beyond the names": (
        npz(class_names=np.array(["a", "b"]), **changed("label", 9, 2, "int64")),
        "labels_out_of_range",
        "'label' is 2 in row 9.*from 0 to 1",
    ),
    "half a label": (npz(**changed("label", 8, 0.5)), "bad_labels", "'label' is 0.5 in row 8"),
    "nan label": (npz(**changed("label", 8, np.nan)), "bad_labels", "'label' is empty in row 8"),
    "one-hot": (npz(label=np.eye(2)[np.arange(N) % 2]), "bad_labels", r"shape \(100, 2\)"),
    "label outside class_names": (
        npz(label=np.array(["a", "b"] * 50), class_names=np.array(["a", "c"])),
        "bad_labels",
        "'b' in row 1.*a, c",
    ),
    "one class": (npz(label=np.full(N, 1)), "one_class", "'1'"),
    "a class name twice": (npz(class_names=np.array(["a", "a"])), "bad_class_names", "twice"),
    # splits and groups
    "too few rows": (npz(x=np.ones((30, 2)), label=np.arange(30) % 2), "split_too_small", "'calibration' has 6 rows"),
    "small test split": (
        npz(split=["train"] * 50 + ["calibration"] * 45 + ["test"] * 5),
        "split_too_small",
        "'test' has 5 rows",
    ),
    "unknown split": (npz(split=np.where(np.arange(N) == 4, "val", SPLITS)), "unknown_split", "'val'.*row 4"),
    "divided group": (
        npz(split=SPLITS, group=np.arange(N) % 60),
        "group_crosses_splits",
        "the group '0' has row 0 in 'train' and row 60 in 'calibration'",
    ),
    "matrix of groups": (npz(group=np.ones((N, 2))), "bad_role", "group"),
    "group missing": (npz(group=np.where(np.arange(N) == 7, np.nan, 1)), "bad_groups", "row 7"),
    # csv
    "text group missing": (npz(group=np.array(["a", "", *["b"] * (N - 2)])), "bad_groups", "'group' is empty in row 1"),
    "negative weight": (npz(weight=np.where(np.arange(N) == 9, -0.5, 1)), "bad_weights", "'weight' is -0.5 in row 9"),
    "weight missing": (npz(weight=np.where(np.arange(N) == 9, np.nan, 1)), "bad_weights", "nan in row 9"),
    "endless weight": (npz(weight=np.where(np.arange(N) == 9, np.inf, 1)), "bad_weights", "inf in row 9"),
    "no weight at all": (npz(weight=np.zeros(N)), "bad_weights", "all weights"),
    "weights in words": (npz(weight=np.array(["much"] * N)), "bad_weights", "not numbers.*much"),
    "matrix of weights": (npz(weight=np.ones((N, 2))), "bad_role", "weight"),
    "time missing": (npz(time=np.where(np.arange(N) == 6, np.nan, 1)), "bad_time", "'time' is empty in row 6"),
    "no time": (npz(time=np.where(np.arange(N) == 6, "soon", "2024-01-01")), "bad_time", "'soon' in row 6"),
    "two kinds of time": (
        npz(time=np.where(np.arange(N) == 6, "2024-01-01T00:00:00Z", "2024-01-01")),
        "bad_time",
        "some times have a zone and some have none",
    ),
    "a moment that is none": (
        npz(time=np.array(["2024-01-01"] * 99 + ["NaT"], "datetime64[s]")),
        "bad_time",
        "empty in row 99",
    ),
    "every row a class": (
        npz(x=np.ones(70_000), label=np.arange(70_000).astype("U6") + np.array("x")),
        "too_many_classes",
        "more than 65536",
    ),
    "csv without rows": (b"x,label\n", "empty", "no rows"),
    "csv of blank lines": (b"\n\n", "empty", "header"),
    "ragged csv": (csv("1,2,3"), "corrupt", "parsed"),
    "csv, one column twice": (csv(header="x,x"), "duplicate_column", "x"),
    "csv, text column": (csv("oops,a"), "non_numeric_column", r"'x'.*'oops' in row 100.*slices"),
    "csv, empty cell": (csv(",a"), "non_finite", "'x' is empty or NaN in row 100"),
    "csv, infinite": (csv("inf,a"), "non_finite", "row 100"),
    "csv, empty label": (csv("1,"), "bad_labels", "'label' is empty in row 100"),
    "csv, no label": (csv(header="x,z"), "no_label", "x, z"),
    "csv, only a label": (b"label\n" + b"a\nb\n" * 50, "no_inputs", "numeric column"),
    "csv, not UTF-8": (csv(header="x,label").replace(b"1,b", b"1,\xff\xfe", 1), "corrupt", "UTF-8"),
    "csv, not UTF-8 far down": (csv(good_rows=2000) + b"1,\xff\xfe\n", "corrupt", "UTF-8"),
    "prose": (b"These are not the rows you are looking for.\n", "empty", "no rows"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_fault_has_its_code_and_names_the_place(case: str, tmp_path: Path) -> None:
    """The file is refused with the code of its fault, in a sentence that shows what was found."""
    content, code, words = CASES[case]
    (tmp_path / "upload").write_bytes(content)
    with refusal(BadDataset, code, words) as caught:
        read_dataset(tmp_path / "upload", ReadingOptions(purpose="fit"))
    assert str(tmp_path) not in caught.value.message


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    """A pickle that would write a file when opened writes nothing, alone, compressed or inside an npz."""
    witness = tmp_path / "opened"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (witness,))

    raw = pickle.dumps(Bomb())
    inside = npz(x=np.array([Bomb()] * N, dtype=object))
    for content in (raw, pickle.dumps(Bomb(), protocol=0), gzip.compress(raw), inside):
        (tmp_path / "upload").write_bytes(content)
        with pytest.raises(BadDataset):
            read_dataset(tmp_path / "upload", ReadingOptions(purpose="fit"))
    assert not witness.exists()


@pytest.mark.parametrize(
    ("roles", "code", "words"),
    [
        ({"label": "diagnosis"}, "unknown_role_column", "'diagnosis', but the columns are x, label"),
        ({"colour": "x"}, "unknown_role", "colour"),
        ({"label": ["x", "label"]}, "unknown_role", "one column"),
        ({"label": 3}, "unknown_role", "3"),
    ],
)
def test_roles_must_name_columns(roles: dict[str, Any], code: str, words: str, tmp_path: Path) -> None:
    """A role that does not exist or names an absent column is refused, with the columns listed."""
    (tmp_path / "upload").write_bytes(npz())
    with refusal(BadDataset, code, words):
        read_dataset(tmp_path / "upload", ReadingOptions(roles=roles))


@pytest.mark.parametrize(
    ("format", "code"), [("csv", "format_mismatch"), ("parquet", "format_mismatch"), ("xml", "unsupported_format")]
)
def test_the_stated_format_must_be_true(format: str, code: str, tmp_path: Path) -> None:
    """An npz sent as something else is refused."""
    (tmp_path / "upload").write_bytes(npz())
    with refusal(BadDataset, code, format):
        read_dataset(tmp_path / "upload", ReadingOptions(format=format))


@pytest.mark.parametrize("options", [{"seen_by_model": "perhaps"}, {"missing": "drop"}])
def test_unknown_options_are_value_errors(options: dict[str, Any], tmp_path: Path) -> None:
    """Options outside their values are the caller's mistake, not the file's."""
    (tmp_path / "upload").write_bytes(npz())
    with pytest.raises(ValueError, match=next(iter(options))):
        read_dataset(tmp_path / "upload", ReadingOptions(**options))
