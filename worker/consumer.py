"""The consumer of permits: Celery's, which takes in nothing but permits and says nothing to other workers.

A permit's message is a Celery task of a known kind with one argument, a record's id, and nothing else. Celery's
protocol could carry more: callbacks and chains that run other tasks, a time in the far future, code as a pickle, a
queue of its own choice. A message that is no permit is rejected with one line in the log, and Celery sees nothing of
one but what is written anew from the permit that was read. Permits are also taken in without a broker (`take`): the
reaper does so for work that no message has announced, and the way from there on is the same.

The tasks stand here as well, one per kind of work: each is a permit for one piece of work of the queue that it came by.
The record that its message names is a hint at what was put in. What is done is whatever the registry hands out as the
next of that queue, in fair order; the task then shows that record instead, a piece with its job or batch, in `celery
inspect active`, in Flower, and by the event `task-claimed`. So a message that is lost, doubled or out of order changes
nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection
from typing import Annotated

from celery import Celery, Task
from celery.worker.consumer import Consumer
from celery.worker.loops import asynloop
from celery.worker.request import Request
from kombu.message import Message
from kombu.utils.uuid import uuid
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from service.registry.queues import PLAN, QUEUE_OF, WORK_KINDS, kind_of_record, task_name
from service.registry.repositories import Claim, Permit
from worker.app import app
from worker.outside.permits import Permits

_KINDS = {task_name(kind): kind for kind in QUEUE_OF}

_RecordId = Annotated[str, Field(pattern=f"^({'|'.join(WORK_KINDS)})_[0-9a-z]{{26}}$")]
_LOG = logging.getLogger("fedlas.worker")


class _Headers(BaseModel):
    """Headers of Celery's protocol that say which permit it is; an `eta` or `expires` cannot be met."""

    model_config = ConfigDict(strict=True)

    task: str
    id: str = Field(pattern=r"^[0-9A-Za-z_.-]{1,64}$")
    eta: None = None
    expires: None = None


class _Embedded(BaseModel):
    """Calls before or after a task: none is allowed."""

    model_config = ConfigDict(extra="forbid", strict=True)

    callbacks: None = None
    errbacks: None = None
    chain: None = None
    chord: None = None


_Nothing = Annotated[dict[str, object], Field(max_length=0)]
_Body = TypeAdapter(tuple[tuple[_RecordId], _Nothing, _Embedded])


class Fault(Exception):
    """A message that is no permit; says why in few words."""


def permit_of(message: Message, queues: Collection[str]) -> Permit:
    """The permit in a message of one of these queues; raises Fault."""
    queue = message.delivery_info["routing_key"]
    if queue not in queues:
        raise Fault(f"it says that it came by {str(queue)[:40]!r}, which is not served here")
    if (message.content_type, message.content_encoding) != ("application/json", "utf-8"):
        raise Fault(f"it is {str(message.content_type)[:40]!r}, and not JSON in UTF-8")
    try:
        headers = _Headers.model_validate(message.headers)
        if (kind := _KINDS.get(headers.task)) is None:
            raise Fault(f"there is no task {headers.task[:80]!r}")
        ((record_id,), *_) = _Body.validate_json(message.body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise Fault(f"{'.'.join(map(str, first['loc']))[:80]}: {first['msg']}") from None
    if kind_of_record(record_id) != (kind if kind != PLAN else WORK_KINDS["job"]):
        raise Fault(f"{record_id} is no record for {headers.task}")
    return Permit(record_id, kind, queue)


class _PermitMessage(Message):
    """A message that stands for one of a broker, or for none.

    Attributes:
        received: what the broker holds.
    """

    received: Message | None = None

    def ack(self, multiple: bool = False) -> None:
        if self.received is not None:
            self.received.ack(multiple=multiple)

    def reject(self, requeue: bool = False) -> None:
        if self.received is not None:
            self.received.reject(requeue=requeue)


def message_of(app: Celery, permit: Permit, *, received: Message | None = None) -> Message:
    """The message of a permit, as a broker would deliver it, in place of the one that was received."""
    number = uuid() if received is None else received.headers["id"]
    task = app.amqp.as_task_v2(number, task_name(permit.kind), args=[permit.record_id], kwargs={})
    message = _PermitMessage(  # type: ignore[no-untyped-call]
        body=json.dumps(task.body),
        content_type="application/json",
        content_encoding="utf-8",
        headers=task.headers,
        properties=task.properties,
        delivery_info={"exchange": "", "routing_key": permit.queue},
    )
    message.received = received
    return message


class PermitConsumer(Consumer):  # type: ignore[misc]
    """Celery's consumer; `serve` comes before its start.

    Gossip and mingle are off: each worker would hear every other's heartbeat, which are 500,000 messages a second with
    a thousand workers, and would wait for a second at its start.
    """

    def __init__(self, *args: object, worker_options: dict[str, object] | None = None, **options: object) -> None:
        alone = {**(worker_options or {}), "without_gossip": True, "without_mingle": True}
        super().__init__(*args, worker_options=alone, **options)

    def serve(self, permits: Permits) -> None:
        """Take in permits for these."""
        self._permits = permits
        permits.on_used.append(self._balance_soon)
        self.update_strategies()  # permits are taken in before any connection
        self._take_in: Callable[[Message], None] = super().create_task_handler()

    def take(self, permit: Permit) -> None:
        """Take in a permit that came by no broker; safe in any thread."""
        self._take(permit, message_of(self.app, permit))

    def create_task_handler(self) -> Callable[[Message], None]:
        return self._receive

    def loop(self, *arguments: object) -> None:
        """Celery's loop; an item that is no message at all costs the connection, and not the worker."""
        try:
            asynloop(*arguments)
        except (*self.connection_errors, *self.channel_errors):
            raise
        except Exception as error:
            _LOG.warning("an item of a queue was thrown away: %s: %s", type(error).__name__, error)
            raise ConnectionResetError("connecting anew") from error

    def _receive(self, message: Message) -> None:
        try:
            permit = permit_of(message, self._permits.queues)
        except Fault as fault:
            _LOG.warning("a message in queue %.80s was rejected: %s", message.delivery_info["routing_key"], fault)
            message.reject_log_error(_LOG, self.connection_errors)
        else:
            self._take(permit, message_of(self.app, permit, received=message))

    def _take(self, permit: Permit, message: Message) -> None:
        self._permits.places.take(permit.queue)
        try:
            self._take_in(message)
        except BaseException:  # Celery has not begun: nobody else gives the place back
            self._permits.places.leave(permit.queue)
            raise
        self._balance_soon(permit.queue)

    def _balance_soon(self, queue: str) -> None:
        if len(self._permits.queues) > 1:
            self.call_soon(self._balance)

    def _balance(self) -> None:
        """Consume from each queue as long as it has less than its share of the threads; two have one together."""
        for queue in self._permits.queues:
            consuming, wanted = queue in self.app.amqp.queues.consume_from, self._permits.places.has_share(queue)
            if consuming and not wanted:
                self.cancel_task_queue(queue)
            elif wanted and not consuming:
                self.add_task_queue(queue)


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
