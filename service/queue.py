"""The producer of the queues: sends a permit for every piece of work that a transaction has opened, after its commit.

What waits is sent together, in one pipeline. A broker that is away delays nobody: workers look for work themselves.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from celery import Celery
from kombu.exceptions import KombuError
from kombu.messaging import Producer
from kombu.utils.uuid import uuid
from redis.exceptions import RedisError

from service.registry.contract import task_name
from service.registry.notifier import Notifier
from service.registry.repositories import Permit

_LOG = logging.getLogger(__name__)
_TIMEOUT_S = 2.0  # probes must not wait long for a broker that is away
_PIPELINE = 1000

#: What the client of the broker raises where that is away.
BROKER_ERRORS = (KombuError, RedisError, OSError)


class PermitSender:
    """Sends permits; `notify` hands them to a thread and returns at once."""

    def __init__(self, broker_url: str) -> None:
        self._celery = Celery("fedlas", broker=broker_url, set_as_current=False)
        timeouts = {"socket_timeout": _TIMEOUT_S, "socket_connect_timeout": _TIMEOUT_S}
        self._celery.conf.update(
            broker_transport_options={**timeouts, "max_retries": 0},
            broker_connection_timeout=_TIMEOUT_S,
            task_ignore_result=True,
        )
        self._notifier = Notifier(self._try_to_send)
        self.notify = self._notifier.notify

    def send(self, permits: Sequence[Permit]) -> None:
        """Send these now; raises one of `BROKER_ERRORS`."""
        with self._celery.producer_or_acquire() as producer, producer.batch(max_size=_PIPELINE):
            for permit in permits:
                self._publish(producer, permit)

    def check(self) -> None:
        """Raise an error unless the broker answers now."""
        with self._celery.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=_TIMEOUT_S)

    def close(self) -> None:
        """Send what is pending, if the broker takes it soon, and close all connections."""
        self._notifier.close()
        self._celery.close()

    def _publish(self, producer: Producer, permit: Permit) -> None:
        """What `send_task` does, without its routers, signals and results, of which there are none: half its time."""
        task = self._celery.amqp.as_task_v2(
            uuid(), task_name(permit.kind), [permit.record_id], {}, ignore_result=True,
            argsrepr=f"[{permit.record_id!r}]", kwargsrepr="{}",
        )  # fmt: skip
        producer.publish(task.body, exchange="", routing_key=permit.queue, headers=task.headers, **task.properties)

    def _try_to_send(self, permits: Sequence[Permit]) -> None:
        try:
            self.send(permits)
        except BROKER_ERRORS as error:
            _LOG.warning("the broker is away; workers find %d pieces of work when they look: %s", len(permits), error)
