"""Faults in the work itself: they look for what a process works on, and strike there."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path

from tests.chaos.faults import Storm, kill_and_watch, kill_one_child
from tests.chaos.orders import COMPARED, Order

#: A worker that lives learns of a cancellation with its next heartbeat.
CANCELLED_WITHIN_S = 10.0
#: How long a fault lies in wait for a moment that is soon over.
_AMBUSH_S = 3.0


def kill_race(storm: Storm) -> str | None:
    """SIGKILL the child that trains and judges the candidates of a job."""
    return _kill_child_on(storm, "calibrate")


def kill_shard(storm: Storm) -> str | None:
    """SIGKILL a child that predicts some rows of a batch."""
    return _kill_child_on(storm, "predict_shard")


def kill_batch_fan_in(storm: Storm) -> str | None:
    """SIGKILL the worker that writes the manifest of a batch."""
    found = storm.watch.await_fan_in(seconds=_AMBUSH_S)
    if found is None:
        return None
    kill_and_watch(storm, found.worker)
    return f"{found.worker.name} (process {found.worker.pid}) on {found.record_id}"


def end_heavy_workers(storm: Storm) -> str | None:
    """All workers that calibrate are gone for a while, killed or in order: nobody holds a race any more."""
    workers = [worker for worker in storm.site.heavy if worker.is_running and not worker.ordered]
    if len(workers) < len(storm.site.heavy):
        return None
    seconds = storm.rng.uniform(3, 8)
    killed = storm.rng.random() < 0.5
    for worker in workers:
        if killed:
            kill_and_watch(storm, worker, pause=seconds)
        else:
            worker.end(pause=seconds)
    return f"{'killed' if killed else 'asked to end'}, back after {seconds:.1f} s"


def cancel_running_job(storm: Storm) -> str | None:
    """Cancel a job that a worker trains: where all workers live, it has ended soon."""
    if not _is_well(storm):
        return None
    running = storm.watch.running_jobs()
    orders = [one for one in storm.orders if one.record_id in running and one.number >= COMPARED and not one.cancelling]
    if not orders:
        return None
    order = storm.rng.choice(orders)
    return f"{order.record_id}, {_awaited_end(storm, order)}" if storm.cancel(order) else None


def _awaited_end(storm: Storm, order: Order) -> str:
    pids, began = [worker.pid for worker in storm.site.workers], time.monotonic()
    if storm.wait(CANCELLED_WITHIN_S, or_until=lambda: storm.watch.has_ended(order.record_id)):
        return f"which has ended after {time.monotonic() - began:.1f} s"
    if not _is_well(storm) or pids != [worker.pid for worker in storm.site.workers]:
        return "while something else was away"
    storm.violated(f"{order.record_id} was cancelled {CANCELLED_WITHIN_S:.0f} s ago and has not ended")
    return "which goes on"


def _is_well(storm: Storm) -> bool:
    """True where everything is there that a cancellation needs."""
    workers = all(worker.is_running and not worker.frozen and not worker.ordered for worker in storm.site.workers)
    return workers and storm.site.postgresql.is_running


def _kill_child_on(storm: Storm, kind: str) -> str | None:
    return kill_one_child(storm, lambda pid: _kind_of(pid) == kind)


def _kind_of(pid: int) -> str | None:
    """The kind of work of a child, by the request in its folder, which its command names."""
    with suppress(OSError, ValueError, KeyError, IndexError):
        folder = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[-2]
        return str(json.loads((Path(os.fsdecode(folder)) / "request.json").read_bytes())["order"]["kind"])
    return None
