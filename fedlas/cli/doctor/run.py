"""The command: examines, writes the lines, and says by its exit code whether anything fails."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from itertools import groupby

from fedlas.cli.doctor.examination import TIME_LIMIT_S, examine
from fedlas.cli.doctor.finding import Finding, exit_code

_MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL", "skip": "-   "}
_COLOURS = {"ok": 32, "warn": 33, "fail": 31, "skip": 2}


def run(
    *,
    as_json: bool = False,
    quiet: bool = False,
    seconds: float = TIME_LIMIT_S,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Examine and write what was found; returns 0 where nothing fails, else 1.

    Args:
        quiet: only what fails, without headings.
        environment: variables that replace this process' own, such as `FEDLAS_URL`.
    """
    findings = examine(environment=environment, seconds=seconds)
    if as_json:
        print(
            json.dumps({"ok": not exit_code(findings), "checks": [finding.record() for finding in findings]}, indent=2)
        )
    elif quiet:
        print("".join(f"{_line(finding)}\n" for finding in findings if finding.status == "fail"), end="")
    else:
        print("\n".join(_page(findings)))
    return exit_code(findings)


def _page(findings: Sequence[Finding]) -> list[str]:
    lines = []
    for topic, group in groupby(findings, key=lambda finding: finding.topic):
        lines += [_styled(topic, 1), *(f"  {_line(finding)}" for finding in group), ""]
    counts = {status: sum(finding.status == status for finding in findings) for status in ("ok", "warn", "fail")}
    return [*lines, f"{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} failing"]


def _line(finding: Finding) -> str:
    mark = _styled(_MARKS[finding.status], _COLOURS[finding.status])
    line = f"{mark} {finding.name}: {finding.found}"
    return f"{line}\n{'':7}-> {finding.remedy}" if finding.remedy else line


def _styled(text: str, code: int) -> str:
    """Colours where a person looks at them and has not asked for none (https://no-color.org)."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not sys.stdout.isatty()
    return text if plain else f"\033[{code}m{text}\033[0m"
