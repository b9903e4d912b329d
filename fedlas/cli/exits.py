"""Exit codes: what a pipeline learns from a command without reading a word.

| what came of it                 | `any` | `promoted` | `shown` |
|---------------------------------|-------|------------|---------|
| promoted, and shown             | 0     | 0          | 0       |
| promoted, not shown             | 0     | 0          | 5       |
| unchanged                       | 0     | 3          | 3       |
| undetermined                    | 0     | 4          | 4       |
| failed by the input, cancelled  | 1     | 1          | 1       |
| failed by a defect of ours      | 2     | 2          | 2       |

The columns are `--require`. Promoted: something else than the uploaded model is to be served. Shown: the test rows show
it to be better. 1 is also a wrong command line, file, key or URL; 130 is Ctrl-C, and 141 a pipe that was closed.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import Any

#: The table above, for help texts; the mark before it keeps its lines as they are.
TABLE = """\b
  what came of it        --require any  promoted  shown
  promoted, and shown                0         0      0
  promoted, not shown                0         0      5
  unchanged                          0         3      3
  undetermined                       0         4      4
  failed, cancelled                  1         1      1
  failed by a defect of ours         2         2      2
"""


class ExitCode(IntEnum):
    """The codes that `fedlas` exits with."""

    AS_REQUIRED = 0
    USER_ERROR = 1
    DEFECT = 2
    UNCHANGED = 3
    UNDETERMINED = 4
    NOT_SHOWN = 5
    INTERRUPTED = 130
    PIPE_CLOSED = 141


class Require(StrEnum):
    """What must have come of a calibration for exit code 0."""

    any = "any"
    promoted = "promoted"
    shown = "shown"


def code_of_verdict(found: Mapping[str, Any], require: Require) -> ExitCode:
    """The exit code for `verdict` and `shown` of a report or a job that has succeeded."""
    if require is Require.any:
        return ExitCode.AS_REQUIRED
    if found["verdict"] == "undetermined":
        return ExitCode.UNDETERMINED
    if found["verdict"] == "unchanged":
        return ExitCode.UNCHANGED
    return ExitCode.AS_REQUIRED if found["shown"] or require is Require.promoted else ExitCode.NOT_SHOWN


def code_of_job(job: Mapping[str, Any], require: Require) -> ExitCode:
    """The exit code for a job's record, which has ended."""
    if job["status"] == "failed":
        return ExitCode.USER_ERROR if job["error"]["user_error"] else ExitCode.DEFECT
    if job["status"] == "cancelled":
        return ExitCode.USER_ERROR
    if job["dry_run"]:
        return ExitCode.USER_ERROR if job["plan"]["fails_with"] else ExitCode.AS_REQUIRED
    return code_of_verdict(job, require)
