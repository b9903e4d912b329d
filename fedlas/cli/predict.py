"""`fedlas predict`: calibrated answers to rows from a file or a pipe, by a service or by a local ONNX file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from fedlas.cli.command import Session, examples
from fedlas.cli.failures import CommandError
from fedlas.cli.options import file_of
from fedlas.cli.output import Column, Json, percent
from fedlas.cli.rows import PIPE, Rows, read_rows

_COLUMNS = (
    Column("row", "row"),
    Column("label", "label"),
    Column("confidence", "confidence", percent),
    Column("abstain", "abstain"),
)
#: Columns of answers that were asked for.
_ASKED = (
    Column("decision", "decision"),
    Column("set", lambda one: None if one.get("prediction_set") is None else ", ".join(one["prediction_set"])),
    Column("top", lambda one: ", ".join(f"{t['label']} {t['confidence']:.3f}" for t in one.get("top_k") or ()) or None),
    Column("typicality", "typicality", percent),
)
#: Rows of one request: 8 MiB of JSON is the most that the service takes.
_ROWS = 1000
HELP_END = examples(
    "fedlas predict digits rows.npy",
    "cat rows.json | fedlas predict digits -",
    "fedlas predict digits rows.csv --max-error 0.05 --json",
    "fedlas predict pets cat.png dog.jpg --top-k 3",
    "fedlas predict ./calibrated.onnx rows.npy -q",
)


def predict(
    session: Session,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A published name, an id, or a local ONNX file.")],
    rows: Annotated[
        list[str] | None, typer.Argument(metavar="[ROWS]…", help="A file of rows, images, or - for a pipe.")
    ] = None,
) -> None:
    """Predict rows from a file or a pipe.

    Each answer has the confidence that its label is right.
    Rows are JSON (a list of rows, objects by column name, or a whole request with "inputs"), lines of JSON, csv
    with or without a header, npy, or image files; their content tells which. -q prints the labels only.
    """
    given = read_rows(rows or [PIPE])
    options: dict[str, Any] = {**given.options, **session.answers}
    if not model.endswith(".onnx") and os.sep not in model:  # a file may be called as a published name is by chance
        _show(session, _asked(session, model, given, options))
        return
    from fedlas.cli import local

    if strange := sorted(set(options) - {"top_k", "abstain_below", "max_error", "coverage", "probabilities"}):
        raise CommandError(f"{strange[0]} is answered by a service only, not by a file on this machine")
    _show(session, local.predict(file_of(Path(model)), given, note=session.output.note, **options))


def _show(session: Session, answer: Json) -> None:
    output = session.output
    if output.json:
        output.record(answer, ())
        return
    rows = [{"row": number, **one} for number, one in enumerate(answer["predictions"])]
    asked = [column for column in _ASKED if any(column.value(row) is not None for row in rows[:1])]
    output.records(rows, [*_COLUMNS, *asked], key="label")


def _asked(session: Session, model: str, given: Rows, options: dict[str, Any]) -> Json:
    """The answer of the service; rows that are too many for one request go in several."""
    from fedlas.client import Predictions

    if given.header is not None:
        if session.client.models.get(model).columns:
            given = given.by_column()
        else:
            session.output.note("the model does not name its columns, so those of the csv file are used in their order")
    options = {"probabilities": False, **options}
    parts = (given.part(begin, begin + _ROWS) for begin in range(0, len(given), _ROWS))
    return Predictions.joined([session.client.predict(model, part, **options) for part in parts]).raw
