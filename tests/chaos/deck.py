"""The deck of faults: every kind, and how often it is drawn."""

from __future__ import annotations

from tests.chaos import faults, work_faults
from tests.chaos.faults import Fault

#: Every kind of fault, and how many of each are in a deck of 39.
KINDS: dict[str, tuple[Fault, int]] = {
    "SIGKILL a worker": (faults.kill_worker, 2),
    "SIGKILL a child of a worker": (faults.kill_child, 3),
    "SIGKILL a child that races": (work_faults.kill_race, 5),
    "SIGKILL a child on a shard": (work_faults.kill_shard, 3),
    "SIGKILL the worker in a batch's fan-in": (work_faults.kill_batch_fan_in, 2),
    "all heavy workers gone for a while": (work_faults.end_heavy_workers, 1),
    "cancel a job that runs": (work_faults.cancel_running_job, 1),
    "SIGSTOP a worker beyond its lease": (faults.freeze_worker, 2),
    "SIGKILL the broker": (faults.kill_broker, 2),
    "FLUSHALL": (faults.flush_broker, 2),
    "restart PostgreSQL": (faults.restart_database, 2),
    "SIGKILL an API": (faults.kill_api, 2),
    "SIGKILL a process that answers predictions": (faults.kill_serving, 2),
    "SIGSTOP a process that answers predictions": (faults.freeze_serving, 1),
    "SIGKILL control": (faults.kill_control, 1),
    "SIGKILL an acceptor": (faults.kill_acceptor, 1),
    "fill the disk": (faults.fill_disk, 1),
    "double every message": (faults.double_messages, 1),
    "a worker's clock wrong by 10 min": (faults.skew_clock, 2),
    "SIGTERM a worker": (faults.end_worker, 2),
    "SIGTERM an API": (faults.end_api, 1),
}
