"""What a child leaves behind, and how much of it is believed: no links, no paths, nothing without bounds."""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from typing import Any

_LOG_TAIL = 4000
_LARGEST_ANSWER = 64 * 1024**2
_CODE, _LONGEST_MESSAGE = re.compile(r"[a-z][a-z0-9_]{0,63}"), 10_000


@dataclass(frozen=True, slots=True)
class ChildOutcome:
    """How the child ended: with a result, with an error it explains, without a word, or before it began."""

    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    died: str | None = None  # "signal 9", "exit code 1", "timeout"
    unprotected: str | None = None  # which protections it lacked: nothing was opened
    log: str = ""


def read_outcome(folder: Path, died: str | None) -> ChildOutcome:
    """What the child has left in its folder; `died` says how it ended, where it did not end well."""
    _keep_only_files(folder)
    log = log_tail(folder)
    answer = folder / "answer.json"
    if died is not None or not answer.is_file() or answer.stat().st_size > _LARGEST_ANSWER:
        return ChildOutcome(died=died or "no answer", log=log)
    try:
        content = json.loads(answer.read_text())
        json.dumps(content, ensure_ascii=False).encode()  # raises for text that no answer to a client could carry
        result, error = content.get("result"), content.get("error")
        if result is not None and not _stays_inside(result):
            return ChildOutcome(died="an answer that names files outside its folder", log=log)
        return ChildOutcome(result=result, error=error and _plain_error(error), log=log)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return ChildOutcome(died="an answer that is none", log=log)


def _keep_only_files(folder: Path) -> None:
    """Remove links, pipes and devices that a child left: who publishes its files must not be led elsewhere."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            found = os.lstat(path)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                os.unlink(path)
    for place, names, _ in os.walk(folder):
        for name in [name for name in names if os.path.islink(os.path.join(place, name))]:
            os.unlink(os.path.join(place, name))


def _stays_inside(result: dict[str, Any]) -> bool:
    """The strings of a result are words or names of files in the folder, never paths that lead out of it."""
    words = [value for value in result.values() if isinstance(value, str)]
    return all("/" not in word and word not in ("", ".", "..") for word in words)


def _plain_error(error: dict[str, Any]) -> dict[str, Any]:
    """An error as it may stand in records and logs; raises ValueError for a code that is none."""
    code, message = str(error["code"]), str(error["message"])
    if not _CODE.fullmatch(code):
        raise ValueError("no code of an error")
    return {"code": code, "message": message[:_LONGEST_MESSAGE], "user_error": bool(error["user_error"])}


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
