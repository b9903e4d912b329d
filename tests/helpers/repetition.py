"""A run of pytest that repeats what failed: `python -m tests.helpers.repetition [options of pytest]`.

After the run each failed test is repeated once, alone, in a new process. If it fails again, or more than three tests of
all runs are flaky, the exit status is 1. If it passes, it is flaky: a line `FLAKY name: error` is appended to the file
that `FEDLAS_FLAKY_FILE` names. A failed collection is not repeated.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

#: More flaky tests than these say that a change is at fault, or the machine.
MAX_FLAKY_TESTS = 3
#: A repeated test that holds the interpreter cannot be ended by pytest-timeout.
MAX_SECONDS_OF_REPETITION = 1800
_FLAKY_FILE = Path(os.environ.get("FEDLAS_FLAKY_FILE", "flaky.txt"))


class Failures:
    """A plugin of pytest that keeps the first line of each failed test's error.

    Tests of one file whose set-up fails with the same error share the fixture that fails: they are one failure.
    """

    def __init__(self) -> None:
        self._tests: dict[tuple[str, str], list[str]] = {}
        self.collection_failed = False

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.collection_failed |= report.failed

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and report.nodeid not in {name for names in self._tests.values() for name in names}:
            shared = report.nodeid.split("::")[0] if report.when == "setup" else report.nodeid
            self._tests.setdefault((shared, first_line(report)), []).append(report.nodeid)

    def found(self) -> list[tuple[list[str], str]]:
        """The names of each failure, and the first line of its error."""
        return [(names, error) for (_, error), names in self._tests.items()]


def first_line(report: pytest.TestReport) -> str:
    """The first line of the error: xdist has text alone about a process that has ended."""
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = (crash.message if crash else report.longreprtext).strip().splitlines()
    return lines[0] if lines else "no error was reported"


def passes_alone(names: Sequence[str]) -> bool:
    """Run these tests in a process in which no other test has run: true if they pass."""
    print(f"\nRepeated alone, after all others: {' '.join(names)}", flush=True)
    try:
        status = subprocess.run([sys.executable, "-m", "pytest", *names], timeout=MAX_SECONDS_OF_REPETITION).returncode
    except subprocess.TimeoutExpired:
        print(f"It was killed, since it had not ended after {MAX_SECONDS_OF_REPETITION} s: {names[0]}")
        return False
    if status < 0:
        print(f"It ended its process by {signal.Signals(-status).name}: {names[0]}")
    return status == 0


def repeated(failures: Sequence[tuple[list[str], str]], flaky_before: int) -> bool:
    """Repeat each failure, and write down what is flaky: true if all pass, and few are flaky."""
    if flaky_before + len(failures) > MAX_FLAKY_TESTS:
        print(
            f"\n{len(failures)} failures, and {flaky_before} flaky tests before: nothing is repeated, since no more "
            f"than {MAX_FLAKY_TESTS} tests of a run may be flaky"
        )
        return False
    for names, error in failures:
        if not passes_alone(names):
            print(f"FAILED TWICE {names[0]}: {error}")
            return False
        line = f"FLAKY {names[0]}: {error}"
        print(line)
        with _FLAKY_FILE.open("a") as file:
            file.write(f"{line}\n")
    return True


def main(arguments: Sequence[str]) -> int:
    failures = Failures()
    status = pytest.main([*arguments], plugins=[failures])
    if status != pytest.ExitCode.TESTS_FAILED:
        return int(status)
    if failures.collection_failed or not failures.found():  # xdist runs the other modules
        print("Nothing is repeated, since a module could not be collected, or pytest itself failed")
        return 1
    try:
        before = len(_FLAKY_FILE.read_text().splitlines()) if _FLAKY_FILE.exists() else 0
        return 0 if repeated(failures.found(), before) else 1
    except OSError as error:
        print(f"Flaky tests cannot be written down in {_FLAKY_FILE}: {error.strerror}. The run counts as failed.")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
