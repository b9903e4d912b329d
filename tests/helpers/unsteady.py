"""A second look at the tests that failed last: `python -m tests.helpers.unsteady`, of `.ci/run` after a stage of tests.

Thousands of tests start real processes, and where a machine stands still for seconds one of them may fail for no fault
of the code. At most two that failed are looked at, and each has to pass three times in a row, alone; they are named in
any case, since an unsteady test is a defect, too. More than two, or one that fails again, end with 1.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

#: Where the cache of pytest keeps how the last run ended.
EXIT_STATUS = "fedlas/exit-status"
#: More failures than this are not looked at again.
_MOST = 2
_TIMES = 3


def failed(cache: Path = Path(".pytest_cache/v")) -> list[str]:
    """The ids of what failed in the last run of pytest here; none where that did not come to its end."""
    if json.loads((cache / EXIT_STATUS).read_text()) != pytest.ExitCode.TESTS_FAILED:
        return []
    return sorted(json.loads((cache / "cache" / "lastfailed").read_text()))


def passes(test: str) -> bool:
    """Whether the test passes each time of three, alone on the machine."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", test]
    return all(subprocess.run(command, check=False).returncode == 0 for _ in range(_TIMES))


def main() -> int:
    """Look again; 0 where all that failed was unsteady."""
    tests = failed()
    for test in tests:
        print(f"FAILED, looked at again: {test}" if len(tests) <= _MOST else f"FAILED: {test}", flush=True)
    if not 1 <= len(tests) <= _MOST or not all(passes(test) for test in tests):
        return 1
    print(f"UNSTEADY: each of these passed {_TIMES} times alone and has to be mended: {', '.join(tests)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
