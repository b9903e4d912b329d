"""The tasks, one per kind of work: each is a permit for one piece of work of the queue that it came by.

The record that its message names is a hint at what was put in. What is done is whatever the registry hands out as the
next of that queue, in fair order; the task then shows that record instead, a piece with its job or batch, in `celery
inspect active`, in Flower, and by the event `task-claimed`. So a message that is lost, doubled or out of order changes
nothing.
"""

from __future__ import annotations

from celery import Task
from celery.worker.request import Request

from service.registry.queues import QUEUE_OF, task_name
from service.registry.repositories import Claim
from worker.app import app
from worker.outside.permits import Permits


class PermitRequest(Request):  # type: ignore[misc]
    """A permit as Celery follows it: from the claim on under the name of what was claimed."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)
        self.request_dict["permit"] = self  # the task finds it in its context

    def show(self, claim: Claim) -> None:
        self.name, self._args, self._argsrepr = task_name(claim.kind), [claim.record_id], repr((claim.record_id,))
        self._kwargs = {} if claim.parent_id is None else {"parent_id": claim.parent_id}
        self._kwargsrepr = repr(self._kwargs)
        told = {"record_id": claim.record_id, "parent_id": claim.parent_id, "kind": claim.kind}
        self.send_event("task-claimed", name=self.name, args=self._argsrepr, kwargs=self._kwargsrepr, **told)


class PermitTask(Task):  # type: ignore[misc]
    Request = PermitRequest
    permits: Permits

    def run(self, record_id: str) -> None:
        self.permits.redeem(self.request.delivery_info["routing_key"], self.request.permit.show)


for kind in QUEUE_OF:
    app.register_task(type(kind, (PermitTask,), {"name": task_name(kind)})())
