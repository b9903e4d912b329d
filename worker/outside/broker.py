"""The broker as a worker sees it beside its consumer: how many permits it holds, and whose turn it is to look.

Keys are those of Celery's transport for Redis: a queue is a list, and what a worker was given and has not acknowledged
yet lies in one hash for all queues.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from kombu.entity import Queue

from service.queue import BROKER_ERRORS, PermitSender

_TURN = "fedlas.watch.{}"
#: A queue of a worker that is gone goes by itself, with the pings that nobody has taken.
_OWN_QUEUE_S = 600.0


def own_queue(worker: str) -> Queue:
    """The queue in which a worker sends itself pings."""
    name = f"alive.{worker}"
    return Queue(name, routing_key=name, expires=_OWN_QUEUE_S)


class Broker(PermitSender):
    """Sends permits and pings, and counts what waits; every method raises one of `BROKER_ERRORS`."""

    def ping(self, queue: Queue) -> None:
        """Put a message into a worker's own queue."""
        with self._celery.producer_or_acquire() as producer:
            producer.publish({}, exchange="", routing_key=queue.name, retry=False)

    def take_turns(self, queues: Sequence[str], *, seconds: float) -> list[str]:
        """Those queues that no other worker looks after for so long; this one does."""
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
        """Delete a worker's own queue: no other process reads it."""
        with suppress(*BROKER_ERRORS), self._channel() as channel:
            channel.queue_delete(queue.name)

    @contextmanager
    def _channel(self) -> Iterator[Any]:
        """A channel of the transport, with its client for Redis."""
        with self._celery.connection_or_acquire() as connection:
            yield connection.default_channel
