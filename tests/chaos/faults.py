"""The faults: each does one kind of harm to the site's own processes and sees to its end, or says why it cannot."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import redis

from tests.chaos.disk import Disk
from tests.chaos.doubling import Doubler, double_waiting
from tests.chaos.orders import Order
from tests.chaos.site import LEASE_S, Site
from tests.chaos.supervised import PAUSE_S, Supervised
from tests.chaos.watch import Watch
from tests.helpers.processes import is_alive

_SKEWED_MINUTES = (10, -10, 0)
#: A child notices that its worker is gone, and an import that is under way ends first.
ORPHAN_GRACE_S = 15.0


class Storm(Protocol):
    """The parts of the run that a fault needs."""

    site: Site
    disk: Disk | None
    rng: random.Random
    doublers: list[Doubler]
    watch: Watch
    orders: list[Order]

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do this after so many seconds."""

    def wait(self, seconds: float, *, or_until: Callable[[], bool]) -> bool:
        """Let time pass; returns whether the condition came true."""

    def cancel(self, order: Order) -> bool:
        """Cancel a job in its customer's stead; returns whether that was acknowledged."""

    def violated(self, text: str) -> None:
        """Something must never happen, and has."""


#: A sentence on what was done, or None where it cannot be done now.
Fault = Callable[[Storm], str | None]


def kill_worker(storm: Storm) -> str | None:
    """SIGKILL; its children must end by themselves."""
    if (worker := _one_of(storm, storm.site.workers, frozen=True)) is None:
        return None
    state = "frozen " if worker.frozen else ""
    below = kill_and_watch(storm, worker)
    return f"{state}{worker.name} (process {worker.pid}, {below} below)"


def kill_child(storm: Storm) -> str | None:
    """SIGKILL one process in which a job or an inspection runs, and nothing else."""
    return kill_one_child(storm, lambda pid: True)


def kill_one_child(storm: Storm, meant: Callable[[int], bool]) -> str | None:
    """SIGKILL one of the processes of work that are meant; None where there is none."""
    found = [(worker, pid) for worker in storm.site.workers for pid in children_of(worker) if meant(pid)]
    if not found:
        return None
    worker, pid = storm.rng.choice(found)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return f"process {pid} of {worker.name}"


def freeze_worker(storm: Storm) -> str | None:
    """SIGSTOP for longer than the lease, then SIGCONT: it wakes up believing that the work is still its own."""
    if (worker := _one_of(storm, storm.site.workers)) is None:
        return None
    seconds = LEASE_S + storm.rng.uniform(2, 6)
    pid = worker.pid
    worker.freeze()
    storm.later(seconds, lambda: worker.thaw(pid))
    return f"{worker.name} (process {pid}) for {seconds:.1f} s"


def kill_broker(storm: Storm) -> str | None:
    """SIGKILL; it comes back after a while with what it had written down."""
    if not (broker := storm.site.redis).is_running:
        return None
    broker.kill()
    seconds = storm.rng.uniform(0.2, 4)
    storm.later(seconds, broker.launch)
    return f"back in {seconds:.1f} s"


def flush_broker(storm: Storm) -> str | None:
    """FLUSHALL: every message is gone."""
    try:
        with storm.site.redis.client(storm.site.broker) as client:
            waiting = sum(client.llen(key) for key in client.scan_iter(_type="list"))
            client.flushall()
    except redis.RedisError:
        return None
    return f"{waiting} messages waited"


def restart_database(storm: Storm) -> str | None:
    """Stopped in order or crashed; it comes back after a while."""
    if not (database := storm.site.postgresql).is_running:
        return None
    crash = storm.rng.random() < 0.5
    (database.kill if crash else database.stop)()
    seconds = storm.rng.uniform(0.2, 3)
    storm.later(seconds, database.launch)
    return f"{'crashed' if crash else 'stopped'}, back in {seconds:.1f} s"


def kill_api(storm: Storm) -> str | None:
    """SIGKILL, with whatever requests it holds."""
    return _done(_one_of(storm, storm.site.apis), Supervised.kill)


def kill_serving(storm: Storm) -> str | None:
    """SIGKILL a process of an API that answers predictions, with whatever requests it holds."""
    return _signal_behind(storm, "serving-*", signal.SIGKILL)


def freeze_serving(storm: Storm) -> str | None:
    """SIGSTOP such a process, for ever: its API must notice."""
    return _signal_behind(storm, "serving-*", signal.SIGSTOP)


def kill_control(storm: Storm) -> str | None:
    """SIGKILL the process of an API that holds its registry."""
    return _signal_behind(storm, "control", signal.SIGKILL)


def kill_acceptor(storm: Storm) -> str | None:
    """SIGKILL the process of an API that accepts its connections."""
    return _signal_behind(storm, "acceptor", signal.SIGKILL)


def _signal_behind(storm: Storm, name: str, number: signal.Signals) -> str | None:
    """Signal one of the processes of an API; None where none of these runs just now."""
    if (api := _one_of(storm, storm.site.apis)) is None:
        return None
    found = sorted((storm.site.folder / api.name / "run").glob(f"*/{name}.pid"))
    mine = [(file.stem, int(file.read_text())) for file in found]
    if not (living := [(stem, pid) for stem, pid in mine if pid in api.below()]):
        return None
    stem, pid = storm.rng.choice(living)
    os.kill(pid, number)
    return f"{stem} of {api.name} (process {pid})"


def fill_disk(storm: Storm) -> str | None:
    """No byte can be stored for a while."""
    if (disk := storm.disk) is None or disk.is_full:
        return None
    disk.fill()
    seconds = storm.rng.uniform(3, 8)
    storm.later(seconds, disk.free)
    return f"for {seconds:.1f} s"


def double_messages(storm: Storm) -> str | None:
    """All messages that wait, and all that come in the next seconds, are there twice."""
    try:
        client = storm.site.redis.client(storm.site.broker)
        waiting = double_waiting(client)
    except redis.RedisError:
        return None
    seconds = storm.rng.uniform(10, 20)
    storm.doublers.append(Doubler(client, seconds=seconds))
    return f"{waiting} that wait, and all of the next {seconds:.1f} s"


def skew_clock(storm: Storm) -> str | None:
    """A worker's clock jumps, by ten minutes forward or back from the truth, or to the truth."""
    if not storm.site.clocks:
        return None
    name, clock = storm.rng.choice(sorted(storm.site.clocks.items()))
    clock.set(storm.rng.choice([minutes for minutes in _SKEWED_MINUTES if minutes != clock.minutes]))
    return f"{name} believes it is {clock.minutes:+d} min" if clock.minutes else f"{name} knows the time again"


def end_worker(storm: Storm) -> str | None:
    """SIGTERM, as a deploy does; a new one starts when it has ended."""
    return _done(_one_of(storm, storm.site.workers), Supervised.end)


def end_api(storm: Storm) -> str | None:
    """SIGTERM, as a deploy does."""
    return _done(_one_of(storm, storm.site.apis), Supervised.end)


def _done(part: Supervised | None, deed: Callable[[Supervised], None]) -> str | None:
    if part is None:
        return None
    deed(part)
    return f"{part.name} (process {part.pid})"


def kill_and_watch(storm: Storm, worker: Supervised, *, pause: float = PAUSE_S) -> int:
    """SIGKILL; a while later nothing that the worker had started may live. Returns how many processes that were."""
    below = worker.below()
    commands = {pid: _command(pid) for pid in below}
    worker.kill(pause=pause)

    def look() -> None:
        for pid, command in commands.items():
            if is_alive(pid) and _command(pid) == command:
                storm.violated(f"process {pid} lived {ORPHAN_GRACE_S:.0f} s longer than its {worker.name}: {command}")

    storm.later(ORPHAN_GRACE_S, look)
    return len(below)


def children_of(worker: Supervised) -> list[int]:
    """The processes in which the work of this worker is done."""
    return [pid for pid in sorted(worker.below()) if "worker.inside.child" in _command(pid)]


def _one_of(storm: Storm, parts: list[Supervised], *, frozen: bool = False) -> Supervised | None:
    """One that lives and that nothing was done to yet."""
    fit = [part for part in parts if part.is_running and not part.ordered and (frozen or not part.frozen)]
    return storm.rng.choice(fit) if fit else None


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""
