"""The message of a permit: a Celery task of a known kind with one argument, a record's id, and nothing else.

Celery's protocol could carry more: callbacks and chains that run other tasks, a time in the far future, code as a
pickle. No producer of ours sends any of it.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal

from celery import Celery
from kombu.message import Message
from kombu.utils.uuid import uuid
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from service.registry.contract import PLAN, QUEUE_OF, WORK_KINDS, kind_of_record, task_name
from service.registry.repositories import Permit

_KINDS = {task_name(kind): kind for kind in QUEUE_OF}

_RecordId = Annotated[str, Field(pattern=f"^({'|'.join(WORK_KINDS)})_[0-9a-z]{{26}}$")]


class _Headers(BaseModel):
    """Those headers of Celery's protocol that would change what is done, and when."""

    model_config = ConfigDict(strict=True)

    task: str
    id: str = Field(min_length=1, max_length=64)
    eta: None = None
    expires: None = None
    shadow: None = None
    retries: Literal[0] = 0
    timelimit: list[None] = Field(default_factory=list, max_length=2)


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


def fault_of(message: Message) -> str | None:
    """Why this is no permit, in few words; None for a permit."""
    if (message.content_type, message.content_encoding) != ("application/json", "utf-8"):
        return f"it is {str(message.content_type)[:40]!r}, and not JSON in UTF-8"
    try:
        headers = _Headers.model_validate(message.headers)
        if (kind := _KINDS.get(headers.task)) is None:
            return f"there is no task {headers.task[:80]!r}"
        ((record_id,), *_) = _Body.validate_json(message.body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))[:80]}: {first['msg']}"
    if kind_of_record(record_id) != (kind if kind != PLAN else WORK_KINDS["job"]):
        return f"{record_id} is no record for {headers.task}"
    return None


class _LocalMessage(Message):
    """A message that no broker holds."""

    def ack(self, multiple: bool = False) -> None:
        """Nobody waits for it."""

    def reject(self, requeue: bool = False) -> None:
        """It is gone."""


def message_of(app: Celery, permit: Permit) -> Message:
    """The message of a permit, as a broker would deliver it."""
    task = app.amqp.as_task_v2(uuid(), task_name(permit.kind), args=[permit.record_id], kwargs={})
    return _LocalMessage(  # type: ignore[no-untyped-call]
        body=json.dumps(task.body),
        content_type="application/json",
        content_encoding="utf-8",
        headers=task.headers,
        properties=task.properties,
        delivery_info={"exchange": "", "routing_key": permit.queue},
    )
