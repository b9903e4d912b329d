"""The permit watch: it compares what waits with what the broker holds, and sends the permits that are missing.

One worker at a time does this for a queue. It makes a lost broker quick again, and nothing more: a worker with a free
thread finds due work by itself (`worker.outside.recovery`), so what the watch must never do is to make a long queue
longer.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

from service.queue import BROKER_ERRORS
from service.registry.errors import RegistryError
from worker.outside import metrics
from worker.outside.broker import Broker
from worker.outside.permits import Permits

_LOG = logging.getLogger("fedlas.worker")

#: Work is missed when it has been due for so long: until then its permit may be on its way.
_DUE_FOR_S = 1.0
_MOST_AT_ONCE, _LONGEST_PAUSE_S = 10_000, 30.0


@dataclass
class _Missing:
    """The work whose permit was sent last, and how long to leave it alone: its permit may be of no use to anybody."""

    record_id: str
    pause: float
    until: float


class PermitWatch:
    """The permit watch of one worker."""

    def __init__(self, broker: Broker, permits: Permits, *, every_seconds: float) -> None:
        self._broker = broker
        self._permits = permits
        self._every_seconds = every_seconds
        self._missing: dict[str, _Missing] = {}

    def run(self, stopping: threading.Event) -> None:
        """Until the worker stops; in a thread of its own, for the broker may hang."""
        while not stopping.wait(self._every_seconds):
            try:
                self.check()
            except BROKER_ERRORS:
                continue  # the broker check says so
            except RegistryError as error:
                _LOG.warning("missing permits were not looked for: %s", error)
            except Exception:  # a watch that ends would never be missed
                _LOG.exception("missing permits were not looked for")

    def check(self) -> None:
        """Send what is missing in the queues whose turn this worker takes."""
        queues = self._broker.take_turns(self._permits.queues, seconds=self._every_seconds)
        if not queues:
            return
        held = self._broker.held(queues)  # first: what is claimed meanwhile then counts as held, and is not sent
        for queue in queues:
            self._send_missing(queue, held[queue])

    def _send_missing(self, queue: str, held: int) -> None:
        permits = self._permits.due(queue, skip=held, limit=_MOST_AT_ONCE, due_for=_DUE_FOR_S)
        if not permits:
            self._missing.pop(queue, None)
            return
        if self._is_left_alone(queue, permits[0].record_id):
            return
        self._broker.send(permits)
        metrics.PERMITS_RESENT.labels(queue).inc(len(permits))
        _LOG.info("%d permits were missing in queue %s", len(permits), queue)

    def _is_left_alone(self, queue: str, record_id: str) -> bool:
        """Whether permits for this very work vanish: taken by workers that may not claim it, while others are busy."""
        now, last = time.monotonic(), self._missing.get(queue)
        if last is None or last.record_id != record_id:
            self._missing[queue] = _Missing(record_id, self._every_seconds, now)
            return False
        if now < last.until:
            return True
        last.pause = min(2 * last.pause, _LONGEST_PAUSE_S)
        last.until = now + last.pause
        return False
