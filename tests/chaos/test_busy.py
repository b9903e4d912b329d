"""The run on a busy machine, alone: what breaks a promise of it, and the processes that compute without end."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.chaos.busy import lines
from tests.chaos.crowd import Crowd
from tests.chaos.orders import order
from tests.chaos.site import Shared
from tests.helpers.processes import descendants_of, is_alive, until

PIDS = {"control": 10, "worker": 11}
QUIET = ["12:00:00 control | INFO GET /healthz 200 0.3 ms", "12:00:01 worker | INFO job_1 done in 6.8 s"]


def crowd(*, complaint: str | None = None, trouble: str | None = None, status: str = "succeeded") -> Crowd:
    """Customers who have had a job calibrated."""
    shared = Shared("mdl_1", "ds_1", rows_id="")
    found = Crowd("http://127.0.0.1", 0.0, shared, shared)
    found.orders.append(order(3, seed=0))
    found.orders[0].record = {"id": "job_1", "status": status}
    found.complaints += [] if complaint is None else [complaint]
    found.troubles.update([] if trouble is None else [trouble])
    return found


def broken(found: Crowd, *, after: dict[str, int] = PIDS, log: str = "", again: tuple[str, ...] = ()) -> list[str]:
    """All that breaks a promise."""
    return [text for line in lines(found, PIDS, after, [*QUIET, log], again) for text in line.broken]


def test_nothing_is_broken() -> None:
    """Processes that run on, and customers who were served at last, keep every promise; so does a 503 to come again."""
    assert broken(crowd(trouble="503 unavailable")) == []
    assert broken(crowd(trouble="429 overloaded")) == []


@pytest.mark.parametrize(
    ("after", "text"),
    [
        ({"control": 12, "worker": 11}, "control was 10, is 12"),
        ({"control": 10}, "worker was 11, is None"),
        ({**PIDS, "serving-1": 12}, "serving-1 was None, is 12"),
    ],
)
def test_other_processes(after: dict[str, int], text: str) -> None:
    """A process that was followed, that is gone, or that a model needs for itself is named."""
    assert broken(crowd(), after=after) == [text]


@pytest.mark.parametrize(
    "text",
    [
        "control | hangs: its event loop has stood still for 5 s",
        "serving-1 | died (signal SIGKILL), starting it again",
        "serving-1 | is ended: it sends what no process of this release sends",
        "control | CRITICAL serving-1 sends what no process of this release sends: it is ended, and started again",
        "serving-1 | CRITICAL a run of the served copy 0a does not end: the process ends",
        "acceptor | does not stop, ending it by force",
        "worker | WARNING job_1 was lost (its process ended: signal 9)",
        "worker | WARNING job_1: another worker owns it now; nothing was written",
        "worker | WARNING job_1 waits again: its worker was lost",
    ],
)
def test_log_lines(text: str) -> None:
    """A line of the log that tells of an end, of the service's or of work, is named."""
    assert broken(crowd(), log=text) == [text]


def test_work_and_customers() -> None:
    """Work begun twice, a lost request, a refusal without Retry-After, a complaint and a failed job are named."""
    assert broken(crowd(), again=("job_1, 2 attempts",)) == ["begun again: job_1, 2 attempts"]
    for trouble in ("ReadTimeout", "500 internal_error", "503 unavailable without Retry-After"):
        assert broken(crowd(trouble=trouble)) == [f"1 times {trouble}"]
    assert broken(crowd(complaint="jobs, number 3: a stream broke")) == ["jobs, number 3: a stream broke"]
    assert broken(crowd(status="failed")) == ["order 3: job_1 is failed: None"]


def test_loops_end_with_their_parent() -> None:
    """Processes that compute without end are as many as asked for, and gone as soon as who started them was killed."""
    code = "import time\nfrom tests.chaos.loops import computing\nwith computing(3): time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        try:
            until(lambda: len(descendants_of(parent.pid)) == 3, what="three processes compute")
            loops = descendants_of(parent.pid)
        finally:
            parent.kill()
    until(lambda: not any(map(is_alive, loops)), what="they have ended")
