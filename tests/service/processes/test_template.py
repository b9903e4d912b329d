"""Templates: what is forked from them is a process like any other, and there is one without them, too."""

from __future__ import annotations

import json
import os
import signal
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.processes.child_process import ChildProcess
from service.processes.template import ForkedProcess, Template
from tests.helpers import Json
from tests.helpers.processes import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere processes are started as a whole")

#: A module that says what it is over an inherited pipe, and stays.
_MODULE = """
    import ctypes, json, os, random, signal, sys
    LOADED_BY = os.getpid()

    def main():
        at_end = ctypes.c_int()
        ctypes.CDLL(None).prctl(2, ctypes.byref(at_end))
        told = {
            "arguments": sys.argv[1:], "environment": dict(os.environ), "random": random.random(),
            "loaded by": LOADED_BY, "pid": os.getpid(), "parent": os.getppid(), "session": os.getsid(0),
            "at the parent's end": at_end.value, "files": len(os.listdir("/proc/self/fd")),
        }
        print("a line of the log", flush=True)
        os.write(int(sys.argv[1]), json.dumps(told).encode() + b"\\n")
        signal.pause()

    if __name__ == "__main__":
        main()
"""


class Site:
    """A template, and processes that may be forked from it."""

    def __init__(self, folder: Path) -> None:
        (folder / "told.py").write_text(textwrap.dedent(_MODULE))
        self._folder = folder
        self._read, self._write = os.pipe()
        self.environment = {"PYTHONPATH": f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        self.template = Template.of("told", ["told"], self.environment, folder)
        self.children: list[ChildProcess] = []

    def child(self, number: int) -> ChildProcess:
        """A process that runs."""
        made = ChildProcess(
            f"worker-{number}",
            [sys.executable, "-m", "told", str(self._write), str(number)],
            {**self.environment, f"OF_{number}": "secret"},
            self._folder / f"{number}.pid",
            passed_on=[self._write],
            forked_by=self.template.fork,
        )
        self.children.append(made)
        made.start()
        return made

    def told(self) -> Json:
        """The next report of a process."""
        line = b""
        while not line.endswith(b"\n"):
            line += os.read(self._read, 1)
        return dict(json.loads(line))

    def close(self) -> None:
        for child in (*self.children, self.template):
            child.stop()
        os.close(self._read)
        os.close(self._write)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site whose processes end with the test."""
    made = Site(tmp_path)
    made.template.start()
    yield made
    made.close()


def follows(child: ChildProcess, pid: int) -> None:
    """Tend it until another process has taken the place of this one."""

    def is_another() -> bool:
        child.ensure_running()
        return child.process is not None and child.process.pid != pid

    until(is_another, what=f"{child.name} is started again")


def test_forks_are_children_that_share_nothing_but_what_was_loaded(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each has its own arguments, environment, files, session and randomness; it ends and is followed like others."""
    first, second = site.child(1), site.child(2)
    told = [site.told(), site.told()]
    assert site.template.process is not None
    for number, (child, one) in enumerate(zip((first, second), told, strict=True), start=1):
        assert isinstance(child.process, ForkedProcess)
        assert (one["loaded by"], one["parent"]) == (site.template.process.pid, os.getpid())
        assert one["pid"] == one["session"] == child.process.pid
        assert one["arguments"][1:] == [str(number)]
        assert {name for name in one["environment"] if name.startswith("OF_")} == {f"OF_{number}"}
        assert one["files"] == 5  # the standard three, what it inherits, and the folder that is listed
        assert one["at the parent's end"] == signal.SIGTERM
    assert told[0]["random"] != told[1]["random"]
    os.kill(told[0]["pid"], signal.SIGSEGV)
    follows(first, told[0]["pid"])
    assert site.told()["loaded by"] == site.template.process.pid
    until(lambda: "a line of the log" in capsys.readouterr().out, what="its log is passed on")


def test_without_a_template_processes_are_started_as_a_whole(site: Site) -> None:
    """One that stands still is ended, and when another is there they are forked again."""
    site.child(1)
    before = site.template.process
    assert before is not None
    assert site.told()["loaded by"] == before.pid
    os.kill(before.pid, signal.SIGSTOP)
    site.child(2)
    told = site.told()
    assert told["loaded by"] == told["pid"]
    follows(site.template, before.pid)
    site.child(3)
    assert site.template.process is not None
    assert site.told()["loaded by"] == site.template.process.pid
