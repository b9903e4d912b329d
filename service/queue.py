"""The producer of the queues: sends a permit for every piece of work that a transaction has opened, after its commit.

A thread of its own sends, so that a commit never waits for the broker; what gathers meanwhile is sent together, in one
pipeline. A permit that is lost is harmless: workers look for work themselves.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence

from celery import Celery
from kombu.exceptions import KombuError
from kombu.messaging import Producer
from kombu.utils.uuid import uuid
from redis.exceptions import RedisError

from service.registry.queues import task_name
from service.registry.repositories import Permit

_LOG = logging.getLogger(__name__)
_TIMEOUT_S = 2.0  # probes must not wait long for a broker that is away
_PIPELINE = 1000
#: How long `close` waits for the broker.
_CLOSING_S = 2.0
#: The messages that wait for a silent broker.
_MAX_PENDING = 10_000

#: Errors that the client of the broker raises where that is away.
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
        self._pending: deque[Permit] = deque(maxlen=_MAX_PENDING)
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="notifier", daemon=True)
        self._thread.start()

    def notify(self, permits: Sequence[Permit]) -> None:
        """Hand the permits to the thread; returns at once."""
        with self._changed:
            self._pending.extend(permits)
            self._changed.notify()

    def send(self, permits: Sequence[Permit]) -> None:
        """Send these now; raises one of `BROKER_ERRORS`."""
        with self._celery.producer_or_acquire() as producer, producer.batch(max_size=_PIPELINE):
            for permit in permits:
                self._publish(producer, permit)

    def check(self) -> None:
        with self._celery.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=_TIMEOUT_S)

    def close(self) -> None:
        """Send what is pending, if the broker takes it soon, and close all connections."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(_CLOSING_S)
        self._celery.close()

    def _publish(self, producer: Producer, permit: Permit) -> None:
        """Publish as `send_task`, without its routers, signals and results, of which there are none: half its time."""
        task = self._celery.amqp.as_task_v2(
            uuid(),
            task_name(permit.kind),
            [permit.record_id],
            {},
            ignore_result=True,
            argsrepr=f"[{permit.record_id!r}]",
            kwargsrepr="{}",
        )
        producer.publish(task.body, exchange="", routing_key=permit.queue, headers=task.headers, **task.properties)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closed)
                permits = list(self._pending)
                self._pending.clear()
            if not permits:
                return
            try:
                self.send(permits)
            except BROKER_ERRORS as error:
                _LOG.warning(
                    "the broker is away; workers find %d pieces of work when they look: %s", len(permits), error
                )
