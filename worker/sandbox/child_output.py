"""The output of a child: its answer, its log and its files, none of which is trusted."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent

from worker.sandbox.protocol import ANSWER, ChildAnswer, ChildError, JsonObject

_LOG_TAIL = 4000
_LARGEST_ANSWER = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class ChildOutcome:
    """The end of a child: with a result, with an error it explains, without an answer, or before it began."""

    result: JsonObject | None = None
    error: ChildError | None = None
    died: str | None = None  # "signal 9", "exit code 1", "timeout"
    unprotected: str | None = None  # which protections it lacked: nothing was opened
    log: str = ""


def read_outcome(folder: Path, died: str | None) -> ChildOutcome:
    """What the child has left in its folder; `died` says how it ended, where it did not end well."""
    _keep_only_files(folder)
    log = log_tail(folder)
    file = folder / ANSWER
    if died is not None or not file.is_file() or file.stat().st_size > _LARGEST_ANSWER:
        return ChildOutcome(died=died or "no answer", log=log)
    try:
        answer = ChildAnswer.model_validate(json.loads(file.read_text()))
        # Raises for text that no answer to a client carries.
        json.dumps(answer.model_dump(), ensure_ascii=False).encode()
    except (ValueError, TypeError, RecursionError):
        return ChildOutcome(died="an invalid answer", log=log)
    if answer.result is not None and not _stays_inside(answer.result):
        return ChildOutcome(died="an answer that names files outside its folder", log=log)
    if answer.result is None and answer.error is None:
        return ChildOutcome(died="an answer without content", log=log)
    return ChildOutcome(result=answer.result, error=answer.error, log=log)


def _keep_only_files(folder: Path) -> None:
    """Remove links, pipes and devices that a child left: reading its files must not lead elsewhere."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            found = os.lstat(path)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                os.unlink(path)
    for place, names, _ in os.walk(folder):
        for name in [name for name in names if os.path.islink(os.path.join(place, name))]:
            os.unlink(os.path.join(place, name))


def _stays_inside(result: JsonObject) -> bool:
    """The strings of a result are words or names of files in the folder, never paths that lead out of it."""
    words = [value for value in result.values() if isinstance(value, str)]
    return all("/" not in word and word not in ("", ".", "..") for word in words)


def log_tail(folder: Path) -> str:
    """The end of the child's log: nothing in it commands the operator's terminal or passes for a line of the worker."""
    file = folder / "log.txt"
    if not file.is_file():
        return ""
    with file.open("rb") as log:
        log.seek(max(0, file.stat().st_size - _LOG_TAIL))
        text = log.read().decode(errors="replace")
    printable = "".join(character if character.isprintable() or character in "\n\t" else "?" for character in text)
    return indent(printable, "| ")
