"""numpy's own files: whatever numpy writes is read as numpy reads it, and a header cannot lie."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from service.inference.formats.npy import array
from service.registry.errors import InvalidRequest
from tests.helpers.predict_bodies import NPY, TOKENS, npy, raw_npy, rows

HEADER = "{'descr': '%s', 'fortran_order': False, 'shape': %s, }"


@settings(deadline=None, max_examples=150)
@given(
    arrays.arrays(
        st.one_of(arrays.boolean_dtypes(), *(kind(endianness="?") for kind in (
            arrays.integer_dtypes, arrays.unsigned_integer_dtypes, arrays.floating_dtypes))
        ).filter(lambda dtype: dtype.itemsize <= 8),
        arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4),
    ),
    st.booleans(),
    st.sampled_from([(1, 0), (2, 0)]),
)  # fmt: skip
def test_what_numpy_writes(given_array: Any, turned: bool, version: tuple[int, int]) -> None:
    """Arrays of any number type, byte order, memory order and shape come back to the last bit."""
    written = np.asarray(given_array, order="F" if turned else "C")
    found = array(npy(written, version=version), "it")
    assert found.dtype == given_array.dtype
    assert found.shape == given_array.shape
    assert found.tobytes() == given_array.tobytes()


@pytest.mark.parametrize(
    "header",
    [
        "{'descr':'<f4','fortran_order':False,'shape':(2,4)}",
        "{'shape': (2, 4), 'fortran_order': False, 'descr': '<f4'}   \n",
        "{\n 'descr': '<f4',\n 'fortran_order': False,\n 'shape': (2, 4,),\n}\n",
    ],
)
def test_other_writers(header: str) -> None:
    """Headers need not be laid out as numpy does, and numbers that are not aligned are copied to where they are."""
    values = np.arange(8, dtype="f4")
    found = rows(NPY, raw_npy(header, values.tobytes()))["x"]
    assert found.tolist() == values.reshape(2, 4).tolist()
    assert found.flags.aligned


def structured() -> np.ndarray:
    """Four fields side by side."""
    return np.zeros(2, dtype=[(name, "f4") for name in "abcd"])


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (npy(np.array([[1, "a", None, {}]], dtype=object)), "object_array", "pickle"),
        (pickle.dumps([[1, 2, 3, 4]]), "invalid_npy", "begins with"),
        (npy(structured()), "wrong_dtype", "side by side"),
        (raw_npy(HEADER % ("f4,f4", "(1,)"), bytes(8)), "wrong_dtype", "numbers of at most 64 bits"),
        (npy(np.zeros((1, 4), "U3")), "wrong_dtype", "<U3"),
        (npy(np.zeros((1, 4), "S3")), "wrong_dtype", "S3"),
        (npy(np.zeros((1, 4), "M8[ns]")), "wrong_dtype", "datetime64[ns]"),
        (npy(np.zeros((1, 4), "c8")), "wrong_dtype", "complex64"),
        (npy(np.zeros((1, 4), np.longdouble)), "wrong_dtype", "at most 64 bits"),
        (raw_npy(HEADER % ("V4", "(1, 4)"), bytes(16)), "wrong_dtype", "numbers"),
        (npy(np.ones((1, 4), bool)), "wrong_dtype", "true/false"),
        (raw_npy(HEADER % ("|b1", "(1, 4)"), b"\1\0\2\1"), "invalid_npy", "neither true nor false"),
        (raw_npy(HEADER % ("<f4", "(2, 4)"), bytes(31)), "invalid_npy", "32 bytes), but 31"),
        (raw_npy(HEADER % ("<f4", "(2, 4)"), bytes(33)), "invalid_npy", "but 33 bytes follow"),
        (raw_npy(HEADER % ("<f4", "(2, 4000000000)"), bytes(32)), "invalid_npy", "32000000000 bytes"),
        (raw_npy(HEADER % ("<f4", "(-2, -4)"), bytes(32)), "invalid_npy", "no array has the shape"),
        (raw_npy(HEADER % ("<f4", f"({'1,' * 40})"), bytes(4)), "invalid_npy", "no array has the shape"),
        (raw_npy(HEADER % ("<f4", f"(0, {10**30}, {10**30})")), "invalid_npy", "no array has the shape"),
        (raw_npy(HEADER % ("<f4", "(2L, 4L)"), bytes(32)), "invalid_npy", "not written as numpy"),
        (raw_npy(HEADER % ("<f4", "(2, 2 + 2)"), bytes(32)), "invalid_npy", "not written as numpy"),
        (raw_npy(HEADER % ("<f4", "__import__('os')"), bytes(32)), "invalid_npy", "not written as numpy"),
        (raw_npy(HEADER % ("<f\\x34", "(2, 4)"), bytes(32)), "invalid_npy", "not written as numpy"),
        (raw_npy("(" * 900 + ")" * 900, bytes(32)), "invalid_npy", "header cannot be read"),
        (raw_npy("{'descr': '<f4', 'shape': (2, 4)}", bytes(32)), "invalid_npy", "header cannot be read"),
        (raw_npy(HEADER % ("nonsense", "(2, 4)"), bytes(32)), "invalid_npy", "header cannot be read"),
        (raw_npy(b"\xff" * 40, bytes(32)), "invalid_npy", "not written as numpy"),
        (raw_npy("", bytes(32)), "invalid_npy", "header cannot be read"),
        (raw_npy(HEADER % ("<f4", "(2, 4)"), claims=2000), "invalid_npy", "are there"),
        (raw_npy(" " * 5000, bytes(8000)), "invalid_npy", "at most 4096"),
        (raw_npy("{}", version=b"\x02\x00", claims=1 << 31), "invalid_npy", "at most 4096"),
        (raw_npy("{}", version=b"\x03\x00", claims=2), "invalid_npy", "3.0"),
        (raw_npy("{}", version=b"\x00\x00"), "invalid_npy", "0.0"),
        (b"\x93NUMPY\x01", "invalid_npy", "begins with"),
        (b"[[1, 2, 3, 4]]", "invalid_npy", "begins with"),
    ],
)
def test_bad_files(body: bytes, code: str, words: str) -> None:
    """Pickles, structures, text and headers that lie are refused in words; nothing is made of what they claim."""
    with pytest.raises(InvalidRequest) as caught:
        rows(NPY, body)
    assert (caught.value.code, caught.value.field) == (code, "inputs")
    assert words in caught.value.message


def test_npy_is_for_one_input() -> None:
    """Several inputs do not fit into one array; the answer says what they fit into."""
    with pytest.raises(InvalidRequest, match="'ids', 'mask': send binary tensors by name") as caught:
        rows(NPY, npy(np.zeros((1, 2), int)), TOKENS)
    assert caught.value.code == "wrong_inputs"


def test_rows_of_no_values() -> None:
    """Where the model leaves a size open it may be zero, for integers too."""
    found = rows(NPY, npy(np.zeros((2, 0), "i2")), {"inputs": TOKENS["inputs"][:1]})["ids"]
    assert (found.shape, found.dtype) == ((2, 0), np.int64)
