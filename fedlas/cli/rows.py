"""Rows to be predicted, from a file or a pipe: JSON, lines of JSON, CSV, npy or images, known by their content."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlas.cli.failures import CommandError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_NPY = b"\x93NUMPY"
#: The path that stands for rows from a pipe.
PIPE = "-"
_FORMS = "JSON ([[…], …]), lines of JSON, csv, npy or image files"


@dataclass(frozen=True)
class Rows:
    """Rows as they were given: inputs, the header of a csv file, and options beside `inputs` in a whole request."""

    inputs: list[Any] | dict[str, list[Any]] | NDArray[np.generic]
    header: list[str] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        first = next(iter(self.inputs.values()), []) if isinstance(self.inputs, dict) else self.inputs
        return len(first)

    def part(self, begin: int, end: int) -> list[Any] | dict[str, list[Any]] | NDArray[np.generic]:
        if isinstance(self.inputs, dict):
            return {name: rows[begin:end] for name, rows in self.inputs.items()}
        return self.inputs[begin:end]

    def by_column(self) -> Rows:
        """Rows as objects by column name; unchanged without a header."""
        if self.header is None or not isinstance(self.inputs, list):
            return self
        return Rows([dict(zip(self.header, row, strict=True)) for row in self.inputs])


def read_rows(paths: Sequence[str]) -> Rows:
    """The rows of a file or of the pipe (`-`), or one row for each of several image files."""
    contents = [(path, _content(path)) for path in paths]
    if all(_is_image(content) for _, content in contents):
        return Rows([{"b64": base64.b64encode(content).decode()} for _, content in contents])
    if len(contents) > 1:
        raise CommandError(f"{len(contents)} files were given, and not all of them are images; rows come from one file")
    [(path, content)] = contents
    rows = _parsed(content, "the pipe" if path == PIPE else path)
    if len(rows) == 0:
        raise CommandError(f"{'the pipe' if path == PIPE else path} holds no rows; expected {_FORMS}")
    return rows


def _is_image(content: bytes) -> bool:
    """True where it begins as PNG, JPEG, WebP or BMP do; text may begin with their first letters."""
    if content.startswith(b"BM"):
        return int.from_bytes(content[2:6], "little") == len(content)
    return content.startswith((b"\x89PNG\r\n", b"\xff\xd8\xff")) or content[:4] + content[8:12] == b"RIFFWEBP"


def _content(path: str) -> bytes:
    if path != PIPE:
        return Path(path).read_bytes()
    if sys.stdin.isatty():
        raise CommandError(
            f"rows are awaited in a pipe, and stdin is the terminal: cat rows.json | fedlas predict … {PIPE}"
        )
    return sys.stdin.buffer.read()


def _parsed(content: bytes, where: str) -> Rows:
    if content.startswith(_NPY):
        return Rows(_array(content, where))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CommandError(f"{where} is no text and no npy file; expected rows as {_FORMS}") from None
    return _of_json(text, where) if text.lstrip()[:1] in ("[", "{") else _of_csv(text, where)


def _array(content: bytes, where: str) -> NDArray[np.generic]:
    import numpy as np

    try:
        array: NDArray[np.generic] = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise CommandError(f"{where}: the npy file cannot be read: {error}") from None
    return array if array.ndim else array.reshape(1)


def _of_json(text: str, where: str) -> Rows:
    with suppress(ValueError):
        return _of_value(json.loads(text))
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise CommandError(f"{where}: line {number} is no JSON: {error}") from None
    return Rows(_collated(rows))


def _of_value(value: Any) -> Rows:
    """A list of rows, a list for each input, one row by column, or a whole request with `inputs`."""
    if isinstance(value, list):
        return Rows(_collated(value))
    options = {name: option for name, option in value.items() if name != "inputs"}
    if isinstance(inputs := value.get("inputs"), list | dict):
        return Rows(inputs, options=options)
    return Rows(value if any(isinstance(part, list) for part in value.values()) else [value])


def _collated(rows: list[Any]) -> list[Any] | dict[str, list[Any]]:
    """Rows that name an array for each input, as an array of rows for each input."""
    if rows and all(isinstance(row, dict) and any(isinstance(v, list) for v in row.values()) for row in rows):
        names = list(rows[0])
        if all(list(row) == names for row in rows):
            return {name: [row[name] for row in rows] for name in names}
    return rows


def _of_csv(text: str, where: str) -> Rows:
    lines = [(number, line) for number, line in enumerate(csv.reader(io.StringIO(text)), start=1) if line]
    header = None
    if lines and any(cell.strip() and _number(cell) is None for cell in lines[0][1]):
        header = [cell.strip() for cell in lines.pop(0)[1]]
    width = len(header or (lines[0][1] if lines else ()))
    rows = []
    for number, line in lines:
        if len(line) != width:
            raise CommandError(f"{where}: line {number} has {len(line)} cells, the first one {width}")
        rows.append([_cell(cell, where, number) for cell in line])
    return Rows(rows, header)


def _cell(cell: str, where: str, number: int) -> float | None:
    """The number in a cell; an empty one and NaN are a missing value."""
    if not cell.strip():
        return None
    if (value := _number(cell)) is None or math.isinf(value):
        remedy = "leave out the label, and columns that are no inputs"
        raise CommandError(f"{where}: line {number} has {cell!r} where a number is needed: {remedy}")
    return None if math.isnan(value) else value


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
