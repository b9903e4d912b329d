"""The output layer: one record in every form."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest

from fedlas.cli.output import Column, Format, Output, count, percent, size, when

RECORD: dict[str, Any] = {"id": "x_1", "name": "a\tb", "progress": {"fraction": 0.25}, "bytes": 70290, "shown": None}
COLUMNS = (
    Column("id", "id"),
    Column("name", "name"),
    Column("done", "progress.fraction", percent),
    Column("size", "bytes", size),
    Column("shown", "shown"),
    Column("none", "not.there"),
)


class Terminal(io.StringIO):
    """A terminal that keeps what is written."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("format", "expected"),
    [(Format.auto, "x_1\ta b\t0.25\t70290\t\t\n"), (Format.quiet, "x_1\n"), (Format.json, json.dumps([RECORD]) + "\n")],
)
def test_a_list_in_a_pipe(format: Format, expected: str) -> None:
    """Cells between tabs as the API has them, ids alone, or the records unchanged."""
    written = io.StringIO()
    Output(format, stdout=written).records(iter([RECORD]), COLUMNS)
    assert written.getvalue() == expected


def test_one_record_in_a_pipe() -> None:
    """A line for each value that there is, and the record itself as JSON."""
    lines, document = io.StringIO(), io.StringIO()
    Output(stdout=lines).record(RECORD, COLUMNS)
    assert lines.getvalue() == "id\tx_1\nname\ta b\ndone\t0.25\nsize\t70290\n"
    Output(Format.json, stdout=document).record(RECORD, COLUMNS)
    assert json.loads(document.getvalue()) == RECORD


def test_no_cell_of_a_pipe_is_a_formula() -> None:
    """A text that a spreadsheet would run has an apostrophe in front; a negative number, a table and JSON have none."""
    columns = (Column("name", "name"), Column("gain", "gain"))
    for name, expected in (("=1+1", "'=1+1"), ("@SUM(A1)", "'@SUM(A1)"), ("\r=1", "' =1"), ("a=b\r=1", "a=b =1")):
        cells, lines, table = io.StringIO(), io.StringIO(), io.StringIO()
        record = {"name": name, "gain": -0.5}
        Output(stdout=cells).records([record], columns)
        Output(stdout=lines).record(record, columns)
        assert cells.getvalue() == f"{expected}\t-0.5\n"
        assert lines.getvalue() == f"name\t{expected}\ngain\t-0.5\n"
        Output(Format.table, stdout=table).records([record], columns)
        assert "'" not in table.getvalue()


def test_a_table_is_for_people() -> None:
    """A terminal, or whoever asks for a table, gets a heading and numbers in words; an empty list is nothing."""
    for written, format in ((Terminal(), Format.auto), (io.StringIO(), Format.table)):
        output = Output(format, stdout=written)
        output.records([], COLUMNS)
        assert written.getvalue() == ""
        output.records([RECORD], COLUMNS)
        heading, row = re.sub(r"\x1b\[\d+m", "", written.getvalue()).splitlines()
        assert heading.split() == ["ID", "NAME", "DONE", "SIZE", "SHOWN", "NONE"]
        assert row.split() == ["x_1", "a", "b", "25.0%", "70.3", "kB"]


def test_a_narrow_terminal_keeps_ids_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns that do not fit are left out, from the last; no line is folded."""
    record = {**RECORD, "id": "mdl_01m8d4ehwbbfvfd69janhsb01e", "name": 100 * "n"}
    for width, titles in ((40, ["ID"]), (75, ["ID", "NAME"]), (200, ["ID", "NAME", "DONE", "SIZE", "SHOWN", "NONE"])):
        monkeypatch.setenv("COLUMNS", str(width))
        written = Terminal()
        Output(stdout=written).records([record], COLUMNS)
        heading, row = re.sub(r"\x1b\[\d+m", "", written.getvalue()).splitlines()
        assert (heading.split(), row.split()[0]) == (titles, record["id"])
        assert len(titles) == 1 or row.split()[1] == 39 * "n" + "…"


def test_numbers_in_words() -> None:
    """Sizes are decimal, times are to the minute, rows have separators."""
    assert [size(12), size(1500), size(2_500_000_000)] == ["12 B", "1.5 kB", "2.5 GB"]
    assert (count(12000), len(when("2026-05-04T10:00:00Z")), when("soon")) == ("12,000", 16, "soon")
