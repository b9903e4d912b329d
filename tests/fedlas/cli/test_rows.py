"""Rows: every form of a file gives the same rows, and what is none says where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlas.cli.failures import CommandError
from fedlas.cli.rows import Rows, read_rows

ROWS = [[0.5, 1.0], [2.0, -3.0]]


def rows_of(tmp_path: Path, content: bytes | str) -> Rows:
    """The rows read from a file with this content."""
    (tmp_path / "rows").write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_rows([str(tmp_path / "rows")])


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROWS),
        json.dumps({"inputs": ROWS}),
        "[0.5, 1]\n[2, -3]\n\n",
        "0.5,1\n2,-3\n",
        "hour,load\n0.5,1\n2,-3\n",
        "\ufeffhour,load\r\n0.5,1\r\n2,-3\r\n",
    ],
)
def test_all_forms_of_text_give_the_same_rows(tmp_path: Path, content: str) -> None:
    """JSON, lines of JSON, and csv with and without a header."""
    assert rows_of(tmp_path, content).inputs == ROWS


def test_npy_stays_an_array(tmp_path: Path) -> None:
    """An array in a npy file keeps its type, so that it is sent as it is."""
    np.save(tmp_path / "rows.npy", np.array(ROWS, np.float32))
    found = read_rows([str(tmp_path / "rows.npy")]).inputs
    assert isinstance(found, np.ndarray)
    assert (found.dtype, found.tolist()) == (np.float32, ROWS)


def test_a_csv_file_with_a_header_names_its_columns(tmp_path: Path) -> None:
    """Rows become objects where the model's columns have names; an empty cell is a missing value."""
    assert rows_of(tmp_path, "hour,load\n3,\n").by_column().inputs == [{"hour": 3.0, "load": None}]


def test_nan_is_no_heading(tmp_path: Path) -> None:
    """A first row with NaN stays a row, and NaN is a missing value."""
    found = rows_of(tmp_path, "1.0,nan\n2.0,3.0\n")
    assert (found.header, found.inputs) == (None, [[1.0, None], [2.0, 3.0]])


def test_text_that_begins_as_an_image_does_is_text(tmp_path: Path) -> None:
    """`BM` and `RIFF` begin headings, too."""
    for heading in ("BMI", "RIFF"):
        assert rows_of(tmp_path, f"{heading},age\n21,50\n").header == [heading, "age"]


def test_options_of_a_whole_request_are_kept(tmp_path: Path) -> None:
    """Options that stand beside the rows in a request go with them."""
    found = rows_of(tmp_path, json.dumps({"inputs": ROWS, "top_k": 2}))
    assert (found.inputs, found.options) == (ROWS, {"top_k": 2})


def test_several_inputs_are_collated(tmp_path: Path) -> None:
    """Lines that name an array for each input are the same as one array of rows for each."""
    lines = '{"ids": [1, 2], "mask": [1, 0]}\n{"ids": [3, 4], "mask": [1, 1]}'
    whole: dict[str, Any] = {"ids": [[1, 2], [3, 4]], "mask": [[1, 0], [1, 1]]}
    for content in (lines, json.dumps(whole)):
        found = rows_of(tmp_path, content)
        assert (found.inputs, len(found), found.part(1, 2)) == (whole, 2, {"ids": [[3, 4]], "mask": [[1, 1]]})


def test_images_are_sent_in_base64(tmp_path: Path) -> None:
    """Several image files are one row each; beside a file of rows they are refused."""
    image, rows = tmp_path / "a.png", tmp_path / "rows.json"
    image.write_bytes(b"\x89PNG\r\n\x1a\n")
    rows.write_text("[[1]]")
    assert read_rows([str(image), str(image)]).inputs == 2 * [{"b64": "iVBORw0KGgo="}]
    with pytest.raises(CommandError, match="2 files were given, and not all of them are images"):
        read_rows([str(image), str(rows)])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no rows"),
        ("a,b\n", "holds no rows"),
        ("[1,\n", "line 1 is no JSON"),
        ("[1]\n{\n", "line 2 is no JSON"),
        ("1,2\n3\n", "line 2 has 1 cells, the first one 2"),
        ("a,b\n1,x\n", "line 2 has 'x' where a number is needed"),
        ("1,2\n3,inf\n", "line 2 has 'inf' where a number is needed"),
        (b"\xff\xfe\x00", "no text and no npy file"),
        (b"\x93NUMPY\x01", "the npy file cannot be read"),
    ],
)
def test_what_is_no_rows_says_where(tmp_path: Path, content: bytes | str, said: str) -> None:
    """One sentence names the file, the line, and what is needed."""
    with pytest.raises(CommandError, match=said):
        rows_of(tmp_path, content)
