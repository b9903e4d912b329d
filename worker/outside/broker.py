"""The broker as a worker sees it beside its consumer: permits that it holds, and whether it is still heard.

Keys are those of Celery's transport for Redis: a queue is a list, and what a worker was given and has not acknowledged
yet lies in one hash for all queues. A consumer can stay alive and connected and yet receive nothing any more, for
example after a reset of Redis: so the worker sends itself a message now and then, and expects it to arrive.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kombu.entity import Queue

from service.queue import BROKER_ERRORS, PermitSender

_TURN = "fedlas.watch.{}"
#: A queue of a worker that is gone goes by itself, with the pings that nobody has taken.
_OWN_QUEUE_S = 600.0
_LOG = logging.getLogger("fedlas.worker")
#: How often a message is sent, and after how long without an arrival the check has failed.
_EVERY_S = 10.0
_FAILED_AFTER_S = 45.0
_TICK_S = 1.0


def own_queue(worker: str) -> Queue:
    name = f"alive.{worker}"
    return Queue(name, routing_key=name, expires=_OWN_QUEUE_S)


class Broker(PermitSender):
    """Sends permits and pings, and counts what waits; every method raises one of `BROKER_ERRORS`."""

    def ping(self, queue: Queue) -> None:
        with self._celery.producer_or_acquire() as producer:
            producer.publish({}, exchange="", routing_key=queue.name, retry=False)

    def take_turns(self, queues: Sequence[str], *, seconds: float) -> list[str]:
        """Claim for so many seconds the queues that no other worker looks after; returns them."""
        with self._channel() as channel:
            pipeline = channel.client.pipeline(transaction=False)
            for queue in queues:
                pipeline.set(_TURN.format(queue), 1, nx=True, px=max(1, round(1000 * seconds)))
            return [queue for queue, taken in zip(queues, pipeline.execute(), strict=True) if taken]

    def held(self, queues: Sequence[str]) -> Mapping[str, int]:
        """How many permits of these queues wait, or are just being given to workers."""
        with self._channel() as channel:
            pipeline = channel.client.pipeline(transaction=False)
            for queue in queues:
                pipeline.llen(queue)
            *lengths, unacknowledged = pipeline.hvals(channel.unacked_key).execute()
        held = Counter(dict(zip(queues, lengths, strict=True)))
        held.update(json.loads(entry)[2] for entry in unacknowledged)
        return held

    def forget(self, queue: Queue) -> None:
        with suppress(*BROKER_ERRORS), self._channel() as channel:
            channel.queue_delete(queue.name)

    @contextmanager
    def _channel(self) -> Iterator[Any]:
        with self._celery.connection_or_acquire() as connection:
            yield connection.default_channel


class BrokerCheck:
    """Sends messages, notes arrivals, and touches a file for health checks while they arrive.

    Args:
        send: sends this worker a message; raises where the broker is away, which does not count as a failure.
        file: touched as long as the check has not failed.
        is_listening: whether messages are consumed just now: a worker without a free thread leaves them to others.
    """

    def __init__(
        self, send: Callable[[], None], file: Path, *, is_listening: Callable[[], bool] = lambda: True
    ) -> None:
        self._send = send
        self.file = file
        self._is_listening = is_listening
        self._sent_at = 0.0
        self._missing_since: float | None = None
        file.parent.mkdir(parents=True, exist_ok=True)

    def received(self) -> None:
        self._missing_since = None

    @property
    def failed(self) -> bool:
        """True where messages have been sent for long, and none has arrived."""
        return self._missing_since is not None and time.monotonic() - self._missing_since > _FAILED_AFTER_S

    def run(self, stopping: threading.Event, on_failure: Callable[[], None]) -> None:
        """Until the worker stops; in a thread of its own, for a call to the broker may hang."""
        while not stopping.wait(_TICK_S):
            self.check()
            if self.failed:
                on_failure()

    def check(self) -> None:
        """Send a message if it is time, and touch the file."""
        if not self._is_listening():
            self._missing_since = None
        elif time.monotonic() - self._sent_at >= _EVERY_S:
            self._sent_at = time.monotonic()
            try:
                self._send()
                self._missing_since = self._missing_since or self._sent_at
            except Exception as error:  # whatever the broker's client raises: nothing was sent, nothing is missing
                self._missing_since = None
                _LOG.warning("the broker is away: %s", type(error).__name__)
        if not self.failed:
            with suppress(OSError):  # a full disk is no failure of the broker
                self.file.touch()

    def close(self) -> None:
        self.file.unlink(missing_ok=True)
