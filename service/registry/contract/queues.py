"""Kinds of work and the queues that they wait in."""

from __future__ import annotations

#: The kind of work, by the prefix of the record's id.
WORK_KINDS = {
    "ds": "inspect",
    "mdl": "inspect",
    "cal": "inspect",
    "job": "calibrate",
    "bat": "predict",
    "msg": "deliver",
}
#: The kind of work of a dry run: it waits in the queue of jobs, but takes no place of those that train.
PLAN = "plan"
#: Where work that trains waits: for any worker, or for one with a GPU. All other work waits in the queue of its kind.
ANY_DEVICE, GPU_ONLY = "calibrate.cpu", "calibrate.gpu"
QUEUES = ("inspect", ANY_DEVICE, GPU_ONLY, "predict", "deliver")
#: The Celery task that wakes a worker up; its only argument is a record's id, and a lost or doubled one is harmless.
WAKE_UP = "fedlas.wake_up"
