"""A run: undisturbed first, then kills in bursts with calms between them, then each invariant is asked, and broken."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

from tests.chaos.customers import COMPARED, Caller, Customer, Shared, come, same_answer
from tests.chaos.invariants import INVARIANTS, Run, processes_of
from tests.chaos.kills import KILLS
from tests.chaos.receiver import Receiver
from tests.chaos.sabotage import SABOTAGE
from tests.chaos.site import Site, opened
from tests.helpers.processes import until
from tests.helpers.servers import PostgreSQL, Redis, running

Say = Callable[[str], None]

_TICK_S = 0.05
_IN_FLIGHT = 5
_BURST, _GAP_S = 8, (0.2, 1.6)
#: A calm lasts until an order has ended: jobs advance on machines of any speed.
_MAX_CALM_S = 30.0
_MAX_QUIET_S = 900.0
#: The third attempt of a message comes five minutes after the second.
_SETTLED_S = 400.0
#: A child notices that its worker is gone, and an import that is under way ends first.
_ORPHAN_S = 15.0
_FIRST_BATCH = 4
#: One process and its forks, each until it has lost its parent.
_LOOPS = """
import os, sys
count, parent, first = int(sys.argv[1]), int(sys.argv[2]), os.getpid()
for _ in range(count - 1):
    if os.fork() == 0:
        parent = first
        break
while os.getppid() == parent:
    sum(range(100_000))
"""


class Storm:
    """The kills that strike a site, and the customers who come meanwhile."""

    def __init__(self, site: Site, shared: Shared, receiver: Receiver, say: Say) -> None:
        self.customers: list[Customer] = []
        self.counts: Counter[str] = Counter()
        self.troubles: Counter[str] = Counter()
        self._site, self._shared, self._receiver, self._say = site, shared, receiver, say
        self._agenda: list[tuple[float, Callable[[], None]]] = []

    def strike(self, seconds: float, *, calm: bool) -> None:
        """Customers come, and kills in bursts."""
        end, deck = time.monotonic() + seconds, [name for name, (_, times) in KILLS.items() for _ in range(times)]
        while time.monotonic() < end:
            while self._in_flight() < _IN_FLIGHT:
                caller = Caller(self._site.urls, self.troubles, seconds=seconds + _MAX_QUIET_S)
                self.customers.append(come(len(self.customers), caller, self._shared, self._receiver))
            for name in () if calm else random.sample(deck, _BURST):
                if (told := KILLS[name][0](self._site, self._later)) is not None:
                    self.counts[name] += 1
                    self._say(f"{name}: {told}")
                    self.wait(random.uniform(*_GAP_S))
            flying = self._in_flight()
            self.wait(_MAX_CALM_S, or_until=lambda flying=flying: self._in_flight() < flying)  # type: ignore[misc]

    def heal(self) -> None:
        """No more kills: every customer comes to an end."""
        self._say(f"quiet: {self.counts.total()} kills, {self._in_flight()} of {len(self.customers)} still come")
        self.wait(60, or_until=lambda: not self._agenda)
        self.wait(60, or_until=self._site.is_ready)
        self.wait(_MAX_QUIET_S, or_until=lambda: self._in_flight() == 0)

    def wait(self, seconds: float, *, or_until: Callable[[], bool] = lambda: False) -> None:
        """Let time pass; what is due is done, and what has ended is started again."""
        deadline = time.monotonic() + seconds
        while not or_until() and time.monotonic() < deadline:
            for part in self._site.parts:
                part.tend()
            for entry in [entry for entry in self._agenda if entry[0] <= time.monotonic()]:
                self._agenda.remove(entry)
                entry[1]()
            time.sleep(_TICK_S)

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        self._agenda.append((time.monotonic() + seconds, action))

    def _in_flight(self) -> int:
        return sum(not customer.has_ended for customer in self.customers)


def run(folder: Path, *, seconds: float, calm: bool, load: int, say: Say) -> bool:
    """All of it; returns whether all invariants hold, and whether each is found broken once somebody breaks it."""
    with ExitStack() as stack:
        postgresql, redis = stack.enter_context(running(PostgreSQL)), stack.enter_context(running(Redis))
        servers = {"postgresql": postgresql, "redis": redis}
        with opened(folder / "undisturbed", **servers, broker=1, each=1, shard_seconds=1e6) as site:
            undisturbed, predicted = _undisturbed(site, say)
        receiver = stack.enter_context(Receiver())
        site = stack.enter_context(opened(folder / "struck", **servers, broker=2, each=2, shard_seconds=0.001))
        shared = Shared.uploaded(Caller(site.urls, Counter(), seconds=_MAX_QUIET_S))
        assert all(map(same_answer, shared.predicted, predicted)), "the same model predicts otherwise"
        before = _pids(site)
        storm = Storm(site, shared, receiver, say)
        with _computing(load) if load else nullcontext():
            storm.strike(seconds, calm=calm)
            storm.heal()
        result = Run(site, storm.customers, receiver, undisturbed)
        found = _settled(result, storm)
        if calm:
            found["no process ends by itself"] = [] if _pids(site) == before else [f"{before}, then {_pids(site)}"]
        _tell(storm, found, site, say)
        kept = not any(found.values()) and _each_can_break(result, say)
        left = site.stop()
        until(lambda: not processes_of(site.folder), what="all processes have ended", seconds=_ORPHAN_S)
        return kept and not left


def _undisturbed(site: Site, say: Say) -> tuple[list[Customer], list[object]]:
    """Results of the first customers and a batch, and predictions, without any kill."""
    shared = Shared.uploaded(Caller(site.urls, Counter(), seconds=_MAX_QUIET_S))
    numbers = [*range(COMPARED), _FIRST_BATCH]
    came = [come(one, Caller(site.urls, Counter(), seconds=_MAX_QUIET_S), shared) for one in numbers]
    until(lambda: all(one.has_ended for one in came), what="the first customers", seconds=_MAX_QUIET_S)
    assert all(one.result for one in came), [(one.complaints, one.record) for one in came]
    say(f"undisturbed: {len(came)} results to compare with")
    return came, list(shared.predicted)


def _settled(run: Run, storm: Storm) -> dict[str, list[str]]:
    """The complaints of each invariant after messages, sweeper and children had their time."""
    deadline, found = time.monotonic() + _SETTLED_S, {}
    for name, check in reversed(INVARIANTS.items()):
        while (complaints := check(run)) and time.monotonic() < deadline:
            storm.wait(1)
        found[name] = complaints
    return found


def _each_can_break(run: Run, say: Say) -> bool:
    """Break each invariant by hand: one that is not found broken then cannot fail, and proves nothing."""
    blind = []
    for name, check in INVARIANTS.items():
        with SABOTAGE[name](run):
            blind += [] if check(run) else [name]
    say(f"broken by hand: {len(INVARIANTS) - len(blind)} of {len(INVARIANTS)} are found; not found: {blind}")
    return not blind


def _pids(site: Site) -> dict[str, str]:
    """The processes of all APIs and workers by name, and their own parts."""
    files = sorted(site.folder.glob("*/run/**/*.pid"))
    return {**{part.name: str(part.pid) for part in site.parts}, **{str(file): file.read_text() for file in files}}


def _tell(storm: Storm, found: dict[str, list[str]], site: Site, say: Say) -> None:
    """The table: what was done, what became of it, and what broke."""
    ended = Counter(f"{one.kind}: {one.record.get('status')}" for one in storm.customers)
    attempts = [one.record.get("attempts", 0) for one in storm.customers]
    for title, counts in (("kills", storm.counts), ("customers", ended), ("asked again after", storm.troubles)):
        say("\n".join([f"{title}: {counts.total()}", *(f"  {count:5} {name}" for name, count in counts.most_common())]))
    say(f"attempts: {sum(attempts)}, of one at most {max(attempts, default=0)}")
    for surprise in (one for part in site.parts for one in part.surprises):
        say(f"note: {surprise}")
    for name, complaints in found.items():
        say("\n".join([f"{'BROKEN' if complaints else 'kept'}: {name}", *(f"  {one}" for one in complaints[:8])]))


@contextmanager
def _computing(count: int) -> Iterator[None]:
    """So many processes that want a core, for the block; they end with this process."""
    # Linux may weigh the processes of a session as one (`kernel.sched_autogroup_enabled`): as a build in a terminal.
    loops = subprocess.Popen([sys.executable, "-c", _LOOPS, str(count), str(os.getpid())], start_new_session=True)
    try:
        yield
    finally:
        loops.kill()
        loops.wait()
