"""Permits: what they are good for in this worker, how many of each queue may be in use, and which are missing.

A permit is used once: it claims the next work of its queue, in the registry's fair order, and executes it. One worker
at a time compares what waits with what the broker holds, and sends the permits that are missing. That makes a lost
broker quick again, and nothing more: a worker with a free thread finds due work by itself (`worker.outside.recovery`).

The keys of the broker are those of Celery's transport for Redis: a queue is a list, and what a worker was given and has
not acknowledged yet lies in one hash for all queues.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.queue import BROKER_ERRORS, PermitSender
from service.registry.errors import RegistryError
from service.registry.queues import ANY_DEVICE, GPU_ONLY, PLAN, QUEUE_OF
from service.registry.registry import Registry
from service.registry.repositories import Claim, Permit
from worker.outside import metrics
from worker.outside.cards import CARD_TOO_SMALL, Cards, NoFreeCard
from worker.outside.supervisor import Supervisor

_TURN = "fedlas.watch.{}"
_LOG = logging.getLogger("fedlas.worker")


class Broker(PermitSender):
    """Sends permits, and counts what waits; every method raises one of `BROKER_ERRORS`."""

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

    @contextmanager
    def _channel(self) -> Iterator[Any]:
        with self._celery.connection_or_acquire() as connection:
            yield connection.default_channel


_PAUSE_S = 1.0  # before the registry is asked again, after it could not answer
#: Work is missed when it has been due for so long: until then its permit may be on its way.
_DUE_FOR_S = 1.0
_MAX_AT_ONCE = 10_000
_MAX_PAUSE_S = 30.0


@contextmanager
def surviving(failure: str) -> Iterator[None]:
    """Log as this failure what the block raises, and go on: a thread that ends would never be missed."""
    try:
        yield
    except RegistryError as error:
        _LOG.warning("%s: %s", failure, error)
    except Exception:
        _LOG.exception(failure)


#: Queues of one share: a training is one, on whichever device, and a worker has as many threads as cards.
_SHARED = {GPU_ONLY: ANY_DEVICE}
#: Queues whose work is short, and loads PyTorch for each piece.
_LOADING = (QUEUE_OF["inspect"], QUEUE_OF[PLAN])


class Places:
    """The threads of a worker, shared equally among its queues: no queue takes more, so none waits behind another.

    Attributes:
        most_loading: inspections and dry runs at a time, as many as fit into memory.

    >>> places = Places(["inspect", "deliver"], threads=4)
    >>> [places.take("deliver"), places.free("deliver"), places.take("deliver"), places.free("deliver")]
    [None, 1, None, 0]
    >>> places.free("inspect")
    2
    """

    def __init__(self, queues: Sequence[str], *, threads: int) -> None:
        self._threads = self.most_loading = threads
        self._share = max(1, threads // max(1, len({_SHARED.get(queue, queue) for queue in queues})))
        self._taken: Counter[str] = Counter()
        self._changed = threading.Condition()

    def take(self, queue: str) -> None:
        with self._changed:
            self._taken[_SHARED.get(queue, queue)] += 1

    def leave(self, queue: str) -> None:
        with self._changed:
            self._taken[_SHARED.get(queue, queue)] -= 1
            self._changed.notify_all()

    def free(self, queue: str) -> int:
        """How many more permits of this queue could be used now."""
        with self._changed:
            return max(0, min(self._left(queue), self._threads - self._taken.total()))

    def has_share(self, queue: str) -> bool:
        """True if this queue may have more; all threads may be taken nevertheless."""
        with self._changed:
            return self._left(queue) > 0

    def _left(self, queue: str) -> int:
        share = self._share - self._taken[_SHARED.get(queue, queue)]
        loading = sum(self._taken[one] for one in _LOADING)
        return min(share, self.most_loading - loading) if queue in _LOADING else share

    def await_idle(self, seconds: float) -> bool:
        """Wait until no thread is taken; returns whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: self._taken.total() == 0, seconds)


class Permits:
    """Uses permits of the queues that this worker serves; safe to be used by several threads at once.

    Attributes:
        cards: those of this worker, of which each calibration gets one.
        max_memory: by queue, what claimed work may need where larger workers live, as the reaper knows them.
        on_used: each is called with the queue of a permit that has been used.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        registry: Registry,
        *,
        queues: Sequence[str],
        threads: int,
        lease_seconds: float,
        cards: Cards | None = None,
    ) -> None:
        self.queues = tuple(queues)
        self.cards = cards or Cards(Path(), [])
        self.places = Places(queues, threads=threads)
        self.max_memory: Mapping[str, int] = {}
        self.on_used: list[Callable[[str], None]] = []
        self._supervisor = supervisor
        self._registry = registry
        self._lease_seconds = lease_seconds

    def redeem(self, queue: str, show: Callable[[Claim], None]) -> None:
        """Claim the next work of this queue, if there is any, show it, and do it."""
        try:
            with ExitStack() as held:
                if (claimed := self._claim(queue, held)) is not None:
                    claim, devices = claimed
                    metrics.CLAIMS.labels(claim.kind).inc()
                    show(claim)
                    self._supervisor.execute(claim, show=show, devices=devices)
        finally:
            self.places.leave(queue)
            for told in self.on_used:
                told(queue)

    def due(self, queue: str, *, skip: int = 0, limit: int, due_for: float = 0.0) -> list[Permit]:
        with self._registry.read() as unit:
            return unit.work.due(queue, self.max_memory.get(queue), skip=skip, limit=limit, due_for=due_for)

    def _claim(self, queue: str, held: ExitStack) -> tuple[Claim, str] | None:
        with surviving("no work can be claimed"), suppress(NoFreeCard):
            # A worker with a GPU does first what only it can do.
            first = (GPU_ONLY,) if queue == ANY_DEVICE and GPU_ONLY in self.queues else ()
            claims = (self._claim_from(each, held) for each in (*first, queue))
            return next((claimed for claimed in claims if claimed is not None), None)
        self._supervisor.stopping.wait(_PAUSE_S)
        return None

    def _claim_from(self, queue: str, held: ExitStack) -> tuple[Claim, str] | None:
        """Claim, with the devices of its child: a card that `held` gives back, or "" for the CPU.

        Raises NoFreeCard.
        """
        if self._supervisor.stopping.is_set():
            return None
        max_memory = self.max_memory.get(queue)
        with self._registry.read() as unit:  # a writer's turn is not taken in vain
            if unit.work.next_due(queue, max_memory) is None:
                return None
        trains = queue in (ANY_DEVICE, GPU_ONLY)
        devices = held.enter_context(self.cards.take()).uuid if trains and self.cards.known else ""
        with self._registry.write() as unit:
            claim = unit.work.claim_next(
                queue, worker=self._supervisor.name, lease_seconds=self._lease_seconds, max_memory=max_memory
            )
            if trains and claim and CARD_TOO_SMALL in (one["code"] for one in unit.jobs.get(claim.record_id).warnings):
                devices = ""
        if claim is None or not devices:
            held.close()
        return None if claim is None else (claim, devices)


@dataclass
class _Missing:
    """The work whose permit was sent last, and how long to leave it alone: its permit may be of no use to anybody."""

    record_id: str
    pause: float
    until: float


class PermitWatch:
    def __init__(self, broker: Broker, permits: Permits, *, every_seconds: float) -> None:
        self._broker = broker
        self._permits = permits
        self._every_seconds = every_seconds
        self._missing: dict[str, _Missing] = {}

    def run(self, stopping: threading.Event) -> None:
        """Until the worker stops; in a thread of its own, for the broker may hang."""
        while not stopping.wait(self._every_seconds):
            with surviving("missing permits were not looked for"), suppress(*BROKER_ERRORS):  # Celery says so
                self.check()

    def check(self) -> None:
        queues = self._broker.take_turns(self._permits.queues, seconds=self._every_seconds)
        if not queues:
            return
        held = self._broker.held(queues)  # first: what is claimed meanwhile then counts as held, and is not sent
        for queue in queues:
            self._send_missing(queue, held[queue])

    def _send_missing(self, queue: str, held: int) -> None:
        permits = self._permits.due(queue, skip=held, limit=_MAX_AT_ONCE, due_for=_DUE_FOR_S)
        if not permits:
            self._missing.pop(queue, None)
            return
        if self._is_left_alone(queue, permits[0].record_id):
            return
        self._broker.send(permits)
        metrics.PERMITS_RESENT.labels(queue).inc(len(permits))
        _LOG.info("%d permits were missing in queue %s", len(permits), queue)

    def _is_left_alone(self, queue: str, record_id: str) -> bool:
        """True where permits for this very work vanish: taken by workers that may not claim it, others being busy."""
        now, last = time.monotonic(), self._missing.get(queue)
        if last is None or last.record_id != record_id:
            self._missing[queue] = _Missing(record_id, self._every_seconds, now)
            return False
        if now < last.until:
            return True
        last.pause = min(2 * last.pause, _MAX_PAUSE_S)
        last.until = now + last.pause
        return False
