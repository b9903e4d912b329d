"""The output layer: every record and list of records that a command prints goes through here.

Results go to stdout and nothing else does; sentences and progress go to stderr. `auto` is a table on a terminal and
lines of tab-separated cells in a pipe; `json` is the record of the API as it came; `quiet` is one id a line.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

Json = Mapping[str, Any]
#: A cell of a list is cut at so many columns of a terminal.
_MAX_CELL_WIDTH = 40
#: How a text begins that spreadsheets would run: https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


class Format(StrEnum):
    auto = "auto"
    table = "table"
    json = "json"
    quiet = "quiet"


@dataclass(frozen=True)
class Column:
    """A column of a list, or a line of a record: a title, and where the value stands.

    Attributes:
        path: keys into the record, with dots between them; or a function of the record.
        people: how a value is written on a terminal, where that differs from what a pipe gets.
    """

    title: str
    path: str | Callable[[Json], object]
    people: Callable[[Any], str] | None = None

    def value(self, record: Json) -> object:
        """The value in a record; None where it or what holds it is missing."""
        if callable(self.path):
            return self.path(record)
        node: Any = record
        for key in self.path.split("."):
            node = node.get(key) if isinstance(node, Mapping) else None
        return node

    def cell(self, record: Json, *, people: bool) -> str:
        """The value as text; in a pipe, one that is a formula for a spreadsheet has an apostrophe in front."""
        if (value := self.value(record)) is None:
            return ""
        if people and self.people:
            return self.people(value)
        if isinstance(value, str):
            return f"'{value}" if not people and value.startswith(_FORMULA) else value
        if isinstance(value, bool):
            return "yes" if value else "no"
        return json.dumps(value, ensure_ascii=False)


class Output:
    """Where a command writes its results and what it says beside them."""

    def __init__(self, format: Format = Format.auto, *, stdout: TextIO | None = None) -> None:
        self.format = format
        self.stdout = stdout or sys.stdout
        self._terminal = self.stdout.isatty()

    @property
    def tables(self) -> bool:
        return self.format is Format.table or (self.format is Format.auto and self._terminal)

    @property
    def json(self) -> bool:
        return self.format is Format.json

    @property
    def quiet(self) -> bool:
        return self.format is Format.quiet

    def records(self, records: Iterable[Json], columns: Sequence[Column], *, key: str = "id") -> None:
        """Write a list; in a pipe each line as soon as it is known."""
        if self.json:
            self._write_json(list(records))
        elif self.quiet:
            self.lines(str(record[key]) for record in records)
        elif self.tables:
            rows = ([column.cell(record, people=True) for column in columns] for record in records)
            self.table([column.title for column in columns], rows)
        else:
            self.lines("\t".join(_one_line(c.cell(r, people=False)) for c in columns) for r in records)

    def record(self, record: Json, columns: Sequence[Column], *, key: str = "id") -> None:
        """Write one record, a line for each column that has a value."""
        if self.json:
            self._write_json(record)
        elif self.quiet:
            self.lines([str(record[key])])
        else:
            shown = ((c.title, c.cell(record, people=self.tables)) for c in columns)
            pairs = [(title, text) for title, text in shown if text]
            if self.tables:
                self.table([], pairs)
            else:
                self.lines(f"{title}\t{_one_line(text)}" for title, text in pairs)

    def lines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.stdout.write(f"{line}\n")
        self.stdout.flush()

    def note(self, sentence: str) -> None:
        if not self.quiet:
            print(sentence, file=sys.stderr, flush=True)

    def _write_json(self, value: object) -> None:
        self.lines([json.dumps(value, indent=2 if self._terminal else None, ensure_ascii=False)])

    def table(self, titles: Sequence[str], rows: Iterable[Sequence[str]], *, whole: bool = False) -> None:
        """Write cells in columns for people; the last go where they do not fit, unless the `whole` is wanted.

        Without titles there are two columns, and the first is the heading of its line.
        """
        from rich.table import Table

        cells = [[cell.replace("\t", " ") for cell in row] for row in rows]
        console = self.console()
        if titles and not whole:
            titles, cells = _fitting([title.upper() for title in titles], cells, console.width)
        table = Table(box=None, pad_edge=False, header_style="bold", show_header=bool(titles), padding=(0, 2, 0, 0))
        for title in titles or ("", ""):
            heading = not titles and not table.columns
            table.add_column(title.upper(), style="bold" if heading else None, overflow="fold", no_wrap=heading)
        for row in cells:
            table.add_row(*row)
        if table.row_count:
            console.print(table)

    def console(self, *, stderr: bool = False) -> Console:
        """A rich console; in a pipe it is so wide that nothing is broken."""
        from rich.console import Console

        file = sys.stderr if stderr else self.stdout
        width = None if file.isatty() else 10_000
        return Console(file=file, width=width, highlight=False, markup=False, emoji=False)


def shows_progress() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def when(value: str) -> str:
    """A time of a record as people of this place read it."""
    with suppress(ValueError):
        return datetime.fromisoformat(value).astimezone().strftime("%Y-%m-%d %H:%M")
    return value


def size(value: int) -> str:
    amount = float(value)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"


percent: Callable[[float], str] = "{:.1%}".format
count: Callable[[int], str] = "{:,}".format


def _fitting(titles: list[str], rows: list[list[str]], width: int) -> tuple[list[str], list[list[str]]]:
    """Columns that fit side by side on a line: the first one, an id, whole, and the others cut if need be."""
    from rich.cells import cell_len, set_cell_size

    def cut(cell: str) -> str:
        cell = _one_line(cell)
        return cell if cell_len(cell) <= _MAX_CELL_WIDTH else set_cell_size(cell, _MAX_CELL_WIDTH - 1).rstrip() + "…"

    rows = [[row[0], *map(cut, row[1:])] for row in rows]
    needed, count = -2, 0
    for title, *cells in zip(titles, *rows, strict=True):
        needed += 2 + max(map(cell_len, (title, *cells)))
        if count and needed > width:
            break
        count += 1
    return titles[:count], [row[:count] for row in rows]


def _one_line(text: str) -> str:
    return text.replace("\t", " ").replace("\n", " ").replace("\r", " ")


@contextmanager
def transfer(output: Output, what: str, *, then: str | None = None) -> Iterator[Callable[[int, int | None], None]]:
    """A bar of bytes, called with those that have moved and all that are to; and what happens when they are there."""
    if output.quiet or not shows_progress():
        yield lambda moved, total: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(30), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=output.console(stderr=True), transient=True) as progress:
        bar = progress.add_task(what, total=None)

        def moved(bytes_moved: int, total: int | None) -> None:
            progress.update(bar, completed=bytes_moved, total=total, description=then if bytes_moved == total else what)

        yield moved


@contextmanager
def share(output: Output) -> Iterator[Callable[[str, float | None], None]]:
    """A bar from 0 to 1 with what happens; without a terminal a line for each new thing that happens."""
    if output.quiet or not shows_progress():
        last = ""

        def say(what: str, fraction: float | None) -> None:
            nonlocal last
            if what != last:
                output.note(what)
            last = what

        yield say
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<44}"), BarColumn(30), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeElapsedColumn(), console=output.console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=1.0)
        yield lambda what, fraction: progress.update(task, description=what, completed=fraction)
