"""The message of a permit: a Celery task of a known kind with one argument, a record's id, and nothing else.

Celery's protocol could carry more: callbacks and chains that run other tasks, a time in the far future, code as a
pickle, a queue of its own choice. No producer of ours sends any of it, and Celery sees nothing of a message but what is
written anew from the permit that was read.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Annotated

from celery import Celery
from kombu.message import Message
from kombu.utils.uuid import uuid
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from service.registry.contract import PLAN, QUEUE_OF, WORK_KINDS, kind_of_record, task_name
from service.registry.repositories import Permit

_KINDS = {task_name(kind): kind for kind in QUEUE_OF}

_RecordId = Annotated[str, Field(pattern=f"^({'|'.join(WORK_KINDS)})_[0-9a-z]{{26}}$")]


class _Headers(BaseModel):
    """Those headers of Celery's protocol that say which permit it is; a time of its own is none that can be met."""

    model_config = ConfigDict(strict=True)

    task: str
    id: str = Field(pattern=r"^[0-9A-Za-z_.-]{1,64}$")
    eta: None = None
    expires: None = None


class _Embedded(BaseModel):
    """What may run before or after a task: nothing."""

    model_config = ConfigDict(extra="forbid", strict=True)

    callbacks: None = None
    errbacks: None = None
    chain: None = None
    chord: None = None


class _Nothing(BaseModel):
    model_config = ConfigDict(extra="forbid")


_Body = TypeAdapter(tuple[tuple[_RecordId], _Nothing, _Embedded])


class Fault(Exception):
    """Why a message is no permit, in few words."""


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
        """The broker may forget it."""
        if self.received is not None:
            self.received.ack(multiple=multiple)

    def reject(self, requeue: bool = False) -> None:
        """It is not wanted."""
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
