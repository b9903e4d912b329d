"""Exit codes, which a pipeline reads without a word, and failures as people read them: one sentence on stderr.

| result                          | `any` | `calibrated` | `significant` | `beats-simpler` |
|---------------------------------|-------|--------------|---------------|-----------------|
| significant, nothing as simple  | 0     | 0            | 0             | 0               |
| significant, but not proven to beat what is simpler | 0 | 0 | 0       | 5               |
| calibrated, not significant     | 0     | 0            | 5             | 5               |
| unchanged                       | 0     | 3            | 3             | 3               |
| undetermined                    | 0     | 4            | 4             | 4               |
| failed by the input, cancelled  | 1     | 1            | 1             | 1               |
| failed by a defect of ours      | 70    | 70           | 70            | 70              |

The columns are `--require`; without it `any` holds. Calibrated: another model than the uploaded one is to be served.
Significant: the test rows show it to be better than the upload; beats simpler: also better than every simpler model,
unless it is one itself. `fedlas calibrate SCORES` ends as if `significant` were required, and with 0 if a promise was
made. 1 is also a file, key or URL that cannot be used, 2 a wrong command line, 130 Ctrl-C, and 141 a pipe that was
closed.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any

from fedlas.errors import FedLASError
from fedlas.file_kinds import named

#: The table above, for help texts; the mark before it keeps its lines as they are.
TABLE = """\b
  result               --require any  calibrated  significant  beats-simpler
  beats what is simpler, too       0           0            0              0
  calibrated, and significant      0           0            0              5
  calibrated, not significant      0           0            5              5
  unchanged                        0           3            3              3
  undetermined                     0           4            4              4
  failed, cancelled                1           1            1              1
  failed by a defect of ours      70          70           70             70
"""


class ExitCode(IntEnum):
    AS_REQUIRED = 0
    USER_ERROR = 1
    USAGE = 2
    UNCHANGED = 3
    UNDETERMINED = 4
    NOT_SIGNIFICANT = 5
    DEFECT = 70
    INTERRUPTED = 130
    PIPE_CLOSED = 141


class Require(StrEnum):
    """Result of a calibration that exit code 0 requires; `any` that has succeeded, unless more is asked for."""

    any = "any"
    calibrated = "calibrated"
    significant = "significant"
    beats_simpler = "beats-simpler"


def code_of_verdict(judged: Mapping[str, Any], require: Require) -> ExitCode:
    """The exit code for what a report, or a job that has succeeded, says of the served model."""
    if require is Require.any:
        return ExitCode.AS_REQUIRED
    if judged["verdict"] == "undetermined":
        return ExitCode.UNDETERMINED
    if judged["verdict"] == "unchanged":
        return ExitCode.UNCHANGED
    # A report of one score has no `significant`: it is better if it is no other.
    proven = judged.get("significant", True)
    proven = proven and not (require is Require.beats_simpler and judged.get("beats_simpler") is False)
    return ExitCode.AS_REQUIRED if proven or require is Require.calibrated else ExitCode.NOT_SIGNIFICANT


def code_of_scores(report: Mapping[str, Any]) -> ExitCode:
    """The exit code for the report of scores: 0 where a promise was made."""
    return ExitCode.UNDETERMINED if report["promise"]["threshold"] is None else ExitCode.AS_REQUIRED


def code_of_job(job: Mapping[str, Any], require: Require) -> ExitCode:
    """The exit code for a job's record, which has ended."""
    if job["status"] == "failed":
        return ExitCode.USER_ERROR if job["error"]["user_error"] else ExitCode.DEFECT
    if job["status"] == "cancelled":
        return ExitCode.USER_ERROR
    if job["dry_run"]:
        return ExitCode.USER_ERROR if job["plan"]["fails_with"] else ExitCode.AS_REQUIRED
    return code_of_verdict(job, require)


class CommandError(Exception):
    """An input that a command cannot use, with the exit code."""

    def __init__(self, message: str, code: ExitCode = ExitCode.USER_ERROR) -> None:
        super().__init__(message)
        self.code = code


class UsageError(CommandError):
    """An argument or option that cannot be followed, whatever the files and the service are."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ExitCode.USAGE)


@contextmanager
def about(file: Path, *kinds: type[FedLASError]) -> Iterator[None]:
    """Name the file in errors about its content: in these kinds, by default in those that a service finds."""
    try:
        yield
    except FedLASError as error:
        if not kinds:
            from fedlas.client.errors import InvalidRequestError, Rejected

            kinds = (InvalidRequestError, Rejected)
        if not isinstance(error, kinds):
            raise
        raise CommandError(f"{file}: {named(str(error), file)}", _code_of(error)) from error


def told(error: Exception, *, debug: bool = False) -> ExitCode:
    """Say on stderr what went wrong and return the exit code."""
    if debug:
        traceback.print_exception(error)
    sentence, code = _described(error)
    print(f"fedlas: {sentence}", file=sys.stderr)
    return code


def closed_pipe() -> ExitCode:
    """Nobody reads stdout any more: leave without a word, and let the interpreter find nothing to flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return ExitCode.PIPE_CLOSED


def _described(error: Exception) -> tuple[str, ExitCode]:
    if isinstance(error, CommandError):
        return str(error), error.code
    if getattr(error, "status", None) == 401:
        return (
            "the service was given no key, or none that it knows; set FEDLAS_API_KEY, or say --key",
            ExitCode.USER_ERROR,
        )
    if isinstance(error, FedLASError):
        return str(error), _code_of(error)
    if isinstance(error, ModuleNotFoundError):
        return str(error), ExitCode.USER_ERROR  # `fedlas.extras` has made a sentence of it
    if isinstance(error, OSError) and error.errno is not None:
        return _of_system(error), ExitCode.USER_ERROR
    if isinstance(error, MemoryError):
        return "the memory of this machine does not suffice for these files", ExitCode.USER_ERROR
    kind = f"{type(error).__module__}.{type(error).__name__}".removeprefix("builtins.")
    return f"a defect of ours: {kind}: {error}; the same with --debug shows where", ExitCode.DEFECT


def _code_of(error: FedLASError) -> ExitCode:
    return ExitCode.USER_ERROR if error.user_error else ExitCode.DEFECT


def _of_system(error: OSError) -> str:
    name = f"{os.fsdecode(error.filename)}: " if error.filename else "stdout: "
    if error.errno == errno.ENOENT:
        return f"{name}there is no such file"
    if error.errno == errno.EISDIR:
        return f"{name}is a folder; expected a file"
    if error.errno == errno.ENOSPC:
        return f"{name}no space is left on the disk, so the file could not be written"
    remedy = "; give this user the right, or name another place" if error.errno in (errno.EACCES, errno.EROFS) else ""
    return f"{name}{(error.strerror or str(error)).lower()}{remedy}"
