"""Failed tests of a run are repeated once, alone; processes are started, since exit statuses and signals are tested."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PASSES = "def test_passes(): pass\n"
FAILS = "def test_fails(): assert 1 == 2\n"
#: Fails in every process in which it is the first to run.
EVERY_SECOND_TIME = """
from pathlib import Path

def test_at_times(name="{}"):
    mark = Path(name)
    if not mark.exists():
        mark.touch()
        raise ValueError("too early\\nby a second")
    mark.unlink()
"""
HANGS = """
import time, pytest

@pytest.mark.timeout(1)
def test_hangs(): time.sleep(60)
"""
KILLS = "import os\ndef test_kills(): os.kill(os.getpid(), 9)\n"
SHARED_SET_UP = """
from pathlib import Path
import pytest

@pytest.fixture(scope="module")
def started():
    mark = Path("shared")
    if not mark.exists():
        mark.touch()
        raise OSError("no port")

@pytest.mark.parametrize("number", range(9))
def test_started(started, number): pass
"""


def run(folder: Path, **modules: str) -> subprocess.CompletedProcess[str]:
    """A run of these modules by two processes, beside three flaky tests at most."""
    for name, source in modules.items():
        (folder / f"test_{name}.py").write_text(source)
    (folder / "pytest.ini").touch()
    return subprocess.run(
        [sys.executable, "-m", "tests.helpers.repetition", "-q", "-n", "2", "--dist", "loadfile", folder],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "FEDLAS_FLAKY_FILE": str(folder / "flaky.txt"),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # others' plugins take seconds to import
            "PYTEST_PLUGINS": "xdist.plugin,pytest_timeout",
        },
        capture_output=True,
        text=True,
    )


def assert_red(done: subprocess.CompletedProcess[str], said: str) -> None:
    """The run failed, and said so by this."""
    assert done.returncode == 1, done.stdout
    assert said in done.stdout


def flaky(folder: Path) -> list[str]:
    file = folder / "flaky.txt"
    return file.read_text().splitlines() if file.exists() else []


def test_a_flaky_test_is_written_down_and_does_not_fail_the_run(tmp_path: Path) -> None:
    """Green, with one line of name and error; tests that share a set-up that failed are one failure."""
    done = run(tmp_path, passes=PASSES, times=EVERY_SECOND_TIME.format("a"), shared=SHARED_SET_UP)
    assert done.returncode == 0, done.stdout
    assert sorted(flaky(tmp_path)) == [
        "FLAKY test_shared.py::test_started[0]: OSError: no port",
        "FLAKY test_times.py::test_at_times: ValueError: too early",
    ]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (FAILS, "FAILED TWICE test_it.py::test_fails: assert 1 == 2"),
        (HANGS, "FAILED TWICE test_it.py::test_hangs: Failed: Timeout"),
        (KILLS, "It ended its process by SIGKILL: test_it.py::test_kills"),
    ],
    ids=["fails", "hangs", "kills its process"],
)
def test_a_test_that_fails_twice_fails_the_run(source: str, said: str, tmp_path: Path) -> None:
    """Red, and its name and error are printed; nothing is called flaky."""
    done = run(tmp_path, passes=PASSES, it=source)
    assert_red(done, said)
    assert flaky(tmp_path) == []


def test_a_failed_collection_is_not_repeated(tmp_path: Path) -> None:
    """Red at once: nothing ran that could be flaky."""
    done = run(tmp_path, passes=PASSES, broken="import nothing_like_it\n")
    assert_red(done, "could not be collected")
    assert flaky(tmp_path) == []


def test_many_flaky_tests_fail_the_run(tmp_path: Path) -> None:
    """Three flaky tests of earlier runs and one of this are too many: red, and nothing is repeated."""
    (tmp_path / "flaky.txt").write_text("FLAKY a: b\n" * 3)
    done = run(tmp_path, times=EVERY_SECOND_TIME.format("a"))
    assert_red(done, "nothing is repeated")
    assert len(flaky(tmp_path)) == 3


def test_a_flaky_test_that_cannot_be_written_down_fails_the_run(tmp_path: Path) -> None:
    """Red with a sentence and the system's reason, as on a disk that is full."""
    (tmp_path / "flaky.txt").mkdir()
    done = run(tmp_path, times=EVERY_SECOND_TIME.format("a"))
    assert_red(done, "Is a directory. The run counts as failed.")
