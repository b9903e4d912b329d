"""The storm: orders go in, faults strike in bursts with calms between them, and then everything is left to heal."""

from __future__ import annotations

import heapq
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import httpx

from tests.chaos.customers import Caller, begin, look_in, predict, serve
from tests.chaos.deck import KINDS
from tests.chaos.disk import Disk
from tests.chaos.doubling import Doubler
from tests.chaos.orders import Batch, Errand, Order, batch, order, visit
from tests.chaos.receiver import Receiver
from tests.chaos.site import Shared, Site
from tests.chaos.watch import Watch
from tests.helpers.processes import until

_TICK_S = 0.05
_BURST = 12
_GAP_S = (0.2, 1.6)
_CALM_S = (2.0, 4.0)
#: A calm goes on until some jobs or pieces have ended, so that there is progress whatever the faults, and on machines
#: of any speed; but not for ever.
_PROGRESS, _MAX_CALM_S = 3, 40.0
#: One of so many bursts meets a new batch.
_BATCH_EVERY = 2
_MIN_IN_FLIGHT = 6
#: After the last fault every order has so long to come to its end.
_QUIET_S = 1200.0  # two batches of 60 shards took 605 s with a CUDA build of PyTorch on two busy cores
_MAX_ORDERS = 5  # times as many as asked for


@dataclass
class Plan:
    """How much of everything, and for how long at most."""

    seed: int
    jobs: int
    faults: int
    storm_seconds: float


@dataclass
class Run:
    """One run: what stands, what was ordered, what was done to it or could not be, and what must not have happened."""

    site: Site
    disk: Disk | None
    receiver: Receiver
    watch: Watch
    plan: Plan
    shared: Shared
    say: Callable[[str], None]
    rng: random.Random = field(init=False)
    orders: list[Order] = field(default_factory=list)
    visits: list[Errand] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    left_out: dict[str, str] = field(default_factory=dict)
    troubles: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    doublers: list[Doubler] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.plan.seed)
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._entries = itertools.count()
        self._deck: list[str] = []
        self._start = time.monotonic()
        self.left_out = self._impossible()

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do this after so many seconds."""
        heapq.heappush(self._agenda, (time.monotonic() + seconds, next(self._entries), action))

    def violated(self, text: str) -> None:
        """Something must never happen, and has."""
        self.say(f"VIOLATED: {text}")
        self.violations.append(text)

    @property
    def customers(self) -> list[Errand]:
        """All that came."""
        return [*self.orders, *self.visits, *self.batches]

    @property
    def in_flight(self) -> int:
        """Customers whose errands have not ended."""
        return sum(not one.has_ended for one in self.customers)

    def cancel(self, order: Order) -> bool:
        """Cancel a job in its customer's stead; returns whether that was acknowledged."""
        for url in self.site.urls:
            with suppress(httpx.TransportError):
                order.cancelling = True  # whatever comes of the answer
                answer = httpx.post(f"{url}/v1/jobs/{order.record_id}/cancel", timeout=5)
                if answer.status_code == 200:
                    return True
        return False

    def tend(self) -> None:
        """Do the chores that never end."""
        self.site.tend()
        while self._agenda and self._agenda[0][0] <= time.monotonic():
            heapq.heappop(self._agenda)[2]()

    def wait(self, seconds: float, *, or_until: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass; returns whether the condition came true."""
        deadline = time.monotonic() + seconds
        while not or_until():
            if time.monotonic() > deadline:
                return False
            self.tend()
            time.sleep(_TICK_S)
        return True

    def strike(self) -> None:
        """Faults in bursts, until there were enough of them and every order has ended all the same."""
        end = time.monotonic() + self.plan.storm_seconds
        for _ in range(self.plan.jobs):
            self._order()
        while time.monotonic() < end and not (self._is_enough() and self.in_flight == 0):
            self._invite()
            for _ in range(_BURST):
                self._inject()
                self.wait(self.rng.uniform(*_GAP_S))
            self._order_more()
            self.wait(self.rng.uniform(*_CALM_S))
            aim = self._ended() + _PROGRESS
            self.wait(_MAX_CALM_S, or_until=lambda aim=aim: self.in_flight == 0 or self._ended() >= aim)  # type: ignore[misc]

    def heal(self) -> None:
        """No more faults: what was broken is whole again, and every order may come to its end."""
        self.say(f"quiet: {self.counts.total()} faults, {self.in_flight} errands in flight")
        until(self._undo_all, what="all faults are over")
        for clock in self.site.clocks.values():
            clock.set(0)
        self.wait(60, or_until=self.site.is_ready)
        if not self.wait(_QUIET_S, or_until=lambda: self.in_flight == 0):
            late = [one.number for one in self.customers if not one.has_ended]
            self.violated(f"customers {late} had not ended {_QUIET_S:.0f} s after the last fault")

    def _impossible(self) -> dict[str, str]:
        found = {}
        if self.disk is None:
            found["fill the disk"] = "no disk can be mounted here (it takes root)"
        if not self.site.clocks:
            found["a worker's clock wrong by 10 min"] = "libfaketime is not installed"
        return found

    def _undo_all(self) -> bool:
        """Do what is still to be done at once; True when nothing is left."""
        while self._agenda:
            self.wait(max(0.0, self._agenda[0][0] - time.monotonic()) + _TICK_S)
        return all(doubler.is_over for doubler in self.doublers)

    def _is_enough(self) -> bool:
        return self.counts.total() >= self.plan.faults

    def _ended(self) -> int:
        """Jobs, and shards of batches."""
        return sum(one.has_ended for one in self.orders) + sum(map(len, list(self.watch.seen.workers_of.values())))

    def _order_more(self) -> None:
        fewest = min(_MIN_IN_FLIGHT, self.plan.jobs)
        while self.in_flight < fewest and len(self.orders) < _MAX_ORDERS * self.plan.jobs:
            if self._is_enough():
                return
            self._order()

    def _order(self) -> None:
        number = len(self.orders)
        one = order(number, seed=self.plan.seed)
        self.receiver.secrets[number] = one.secret
        if one.unwilling:
            self.receiver.unwilling.add(number)
        self.orders.append(one)
        caller = self._caller(number)
        shared, hook = self.shared, self.receiver.url(number)
        begin(serve, one, caller, model_id=shared.model_id, dataset_id=shared.dataset_id, hook=hook)

    def _invite(self) -> None:
        """Somebody uploads a file and somebody has rows predicted, just when the next faults strike."""
        visitor = visit(len(self.visits))
        self.visits.append(visitor)
        begin(look_in, visitor, self._caller(visitor.number), shared=self.shared)
        if len(self.visits) % _BATCH_EVERY == 0:
            return
        reader = batch(len(self.batches))
        self.batches.append(reader)
        begin(predict, reader, self._caller(reader.number), model_id=self.shared.model_id, rows_id=self.shared.rows_id)

    def _caller(self, number: int) -> Caller:
        until = self._start + self.plan.storm_seconds + 2 * _QUIET_S
        return Caller(self.site.urls, self.troubles, until=until, seed=number)

    def _inject(self) -> None:
        """The next fault of the deck that is possible now; those before it keep their place."""
        if not self._draw(self._deck):
            fresh = [kind for kind, (_, often) in KINDS.items() for _ in range(often) if kind not in self.left_out]
            self.rng.shuffle(fresh)
            self._draw(fresh)
            self._deck += fresh

    def _draw(self, deck: list[str]) -> bool:
        """Do, and take out, the first that is possible; each kind is tried once."""
        for kind in dict.fromkeys(deck):
            done = KINDS[kind][0](self)
            if done is not None:
                deck.remove(kind)
                self.counts[kind] += 1
                self.say(f"fault {self.counts.total():3d}  {kind}: {done}")
                return True
        return False
