"""Child processes are started again at a bounded rate; a graph that ends its process costs others a moment."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from service.heartbeat import HUNG, Pulse
from service.processes import child_process
from service.processes.child_process import ChildProcess
from service.processes.supervision import tend
from tests.helpers import ROOT
from tests.helpers.processes import until
from tests.helpers.publishing import publish
from tests.helpers.served import crashing, scaling, toiling
from tests.helpers.visitor import LOST, Visitor
from tests.helpers.walled import WalledApi, walled

pytestmark = [pytest.mark.embedded, pytest.mark.slow]
DEADLY = -1e20


@contextmanager
def service(data_dir: Path, *, hung_seconds: int = 30) -> Iterator[WalledApi]:
    """One process for two models."""
    with walled(data_dir, hung_seconds=hung_seconds) as found:
        publish(found.registry, "crashing", crashing())
        publish(found.registry, "ordinary", scaling(2))
        yield found


def ask(api: WalledApi, name: str, value: float) -> int | str:
    """The status of an answer, or its code, over a connection of its own."""
    with httpx.Client(base_url=api.client.base_url, timeout=60) as client:
        try:
            answer = client.post(f"/v1/models/{name}/predict", json={"inputs": [[value, 0.0]]})
        except httpx.TransportError:
            return LOST
        return 200 if answer.status_code == 200 else str(answer.json()["code"])


def accuse(api: WalledApi, digest: str) -> None:
    """Mark as a process may that was taken over: its event loop runs a served copy, whatever it does."""
    mailbox = api.child("serving-1")._mailbox
    assert mailbox is not None
    assert mailbox.record is not None
    marks = mailbox.record.fileno()
    os.pwrite(marks, os.pread(marks, 8, 0) + bytes.fromhex(digest), 8 + 40 * 40)
    assert digest in mailbox.record.read().models


def test_a_graph_that_crashes_its_process(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A crash costs the process twice, then the model, and others what was under way; only own graphs are accused."""
    data_dir = tmp_path / "data"
    with service(data_dir) as api:
        assert [ask(api, name, 1) for name in ("crashing", "ordinary")] == [200, 200]
        with closing(Visitor(api)) as visitor:
            for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV):
                accuse(api, "ab" * 32)
                api.follows("serving-1", api.kill("serving-1", number))
            for _ in range(2):
                until(lambda: ask(api, "crashing", 1) == 200, seconds=60, what="it is opened again")
                before = api.pid("serving-1")
                assert ask(api, "crashing", DEADLY) == LOST
                api.follows("serving-1", before)
            until(lambda: ask(api, "crashing", 1) == "model_suspended", seconds=60, what="it is out of service")
        assert visitor.answers.keys() <= {200, LOST}
        assert visitor.answers[LOST] <= 5, visitor.answers
    log = capfd.readouterr().out
    told = r"the model mdl_\w{26} \(\w{64}\) ran when serving-1 ended \(SIGFPE\), the 2. time: it is suspended"
    assert re.search(told, log)
    fatal = "Floating[- ]point exception"  # with the hyphen since Python 3.13
    ended = [line.partition("| ")[2] for line in log.splitlines() if re.search(fatal, line)]
    assert len(ended) == 2
    assert all(re.match(f"ended: Fatal Python error: {fatal}, in ", line) for line in ended)
    assert "most recent call first" not in log
    assert "most recent call first" in (data_dir / "run" / "serving-1.stacks").read_text()
    with service(data_dir) as api:
        assert (ask(api, "ordinary", 1), ask(api, "crashing", 1)) == (200, "model_suspended")
        assert api.client.post("/v2/repository/models/crashing/load").status_code == 200
        assert ask(api, "crashing", 1) == 200  # lifted by hand


def test_a_graph_whose_opening_crashes(tmp_path: Path) -> None:
    """A crash on opening ends processes twice, and no more; others are answered."""
    with walled(tmp_path / "data", hung_seconds=30, api_processes=2) as api:
        publish(api.registry, "ordinary", scaling(2))
        before = [api.pid(name) for name in ("serving-1", "serving-2")]
        publish(api.registry, "crashing", crashing(DEADLY))  # which is opened ahead of its requests
        until(lambda: ask(api, "crashing", 1) == "model_suspended", seconds=60, what="it is out of service")
        until(lambda: {ask(api, "ordinary", 1) for _ in range(4)} == {200}, what="both answer others")
        followers = [api.pid(name) for name in ("serving-1", "serving-2")]
        assert followers != before
        assert ask(api, "crashing", 1) == "model_suspended"
        assert [api.pid(name) for name in ("serving-1", "serving-2")] == followers


def test_a_graph_that_keeps_the_event_loop(tmp_path: Path) -> None:
    """The second time within minutes it is out of service."""
    with service(tmp_path / "data", hung_seconds=6) as api:
        publish(api.registry, "toiling", toiling(8), cost={"sizes": "shapes"})  # which is a lie
        for _ in range(2):
            until(lambda: ask(api, "toiling", 1) == 200, seconds=60, what="it is answered")
            before = api.child("serving-1").process
            assert before is not None
            assert ask(api, "toiling", 6000) == LOST
            assert before.wait(60) == -HUNG
        until(lambda: ask(api, "toiling", 1) == "model_suspended", seconds=60, what="it is out of service")
        assert ask(api, "ordinary", 1) == 200


def test_a_process_that_cannot_be_started_ends_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A process that cannot start is tried again a second later; a full disk, with no room for its id, stops none."""
    child = ChildProcess("worker", [sys.executable, "-c", ""], dict(os.environ), tmp_path / "none" / "worker.pid")
    tend([child])
    assert child.process is not None
    assert child.process.wait(60) == 0
    with monkeypatch.context() as patched:
        patched.setattr(child, "started_at", 0.0)
        patched.setattr(child, "_begin", lambda *_: os.open(tmp_path / "nothing", os.O_RDONLY))
        tend([child])
    log = capsys.readouterr().out
    assert "its id" in log
    assert "cannot be started now, and is tried again" in log
    ended = child.process
    until(lambda: tend([child]) or child.process is not ended, seconds=60, what="it is started again")
    child.process.wait(60)


def test_a_process_that_gives_up_at_once_is_tried_less_and_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that gives up is tried after a second, at last after ten; a killed or older one at once."""
    clock = [100.0]
    monkeypatch.setattr(child_process.time, "monotonic", lambda: clock[0])
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    child = ChildProcess("worker", command, dict(os.environ), tmp_path / "worker.pid")
    pauses = []
    child.start()
    for _ in range(6):
        assert child.process is not None
        before, began = child.process, clock[0]
        before.wait(60)
        while child.process is before:
            clock[0] += 0.25
            tend([child])
        pauses.append(clock[0] - began)
    assert pauses == [1, 2, 4, 8, 10, 10]
    assert child.process is not None
    child.process.wait(60)
    clock[0] += 60
    before = child.process
    tend([child])
    assert child.process is not before
    child.process.wait(60)
    clock[0] += 1
    tend([child])
    child.process.wait(60)
    assert child.started_at == clock[0]


_HANGING = """
import ctypes, os, sys
from service.heartbeat import Heartbeat
def stand():
    ctypes.PyDLL(None).sleep(600)  # a PyDLL call keeps the interpreter's lock
Heartbeat(int(sys.argv[1])).beat()
assert len(os.listdir("/proc/self/task")) == 1
stand()
"""


def test_a_process_that_hangs_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A process that holds the interpreter tells where it stood, and has no thread for that."""
    with closing(Pulse(None, hung_seconds=1)) as pulse:
        child = ChildProcess(
            "api", [sys.executable, "-c", _HANGING, str(pulse.write)], {**os.environ, "PYTHONPATH": str(ROOT)},
            tmp_path / "api.pid", passed_on=[pulse.write], pulse=pulse,
        )  # fmt: skip
        child.start()
        log = ""

        def has_told(what: str) -> bool:
            nonlocal log
            child.ensure_running()
            log += capsys.readouterr().out
            return what in log

        until(lambda: has_told("starting it again"), what="it has ended")
        until(lambda: has_told("where all threads stood"), what="its log is passed on")
        assert child.process is not None
        child.process.kill()
        child.process.wait()
    told = (line.partition("| ")[2] for line in log.splitlines())
    assert set(told) >= {
        "hangs: its event loop has stood still for 1 s",
        "ended: its event loop stood still, in stand (<string>, line 5); "
        f"where all threads stood: {tmp_path / 'api.stacks'}",
        "died (signal SIGALRM), starting it again",
    }
    assert "most recent call first" in (tmp_path / "api.stacks").read_text()
