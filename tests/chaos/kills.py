"""The kinds of kills: each strikes a process of a site and says which; None if there is none."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import redis

from tests.chaos.site import LEASE_S, Site
from tests.chaos.supervised import Supervised

_THAWED_S = 20.0
#: Defers an action by a number of seconds.
Later = Callable[[float, Callable[[], None]], None]
Kill = Callable[[Site, Later], str | None]


def _kill_child(site: Site, later: Later) -> str | None:
    """One process in which a piece of work is done, and nothing else."""
    found = [(worker, pid) for worker in site.workers for pid in sorted(worker.below())]
    children = [(worker, pid) for worker, pid in found if "worker.inside.child" in command_of(pid)]
    if not children:
        return None
    worker, pid = random.choice(children)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return f"process {pid} of {worker.name}"


def _signal_behind(site: Site, name: str, number: signal.Signals, later: Later | None = None) -> str | None:
    found = [
        (api, file.stem, pid)
        for api in site.apis
        for file in sorted((site.folder / api.name / "run").glob(f"*/{name}.pid"))
        if (pid := _pid_in(file)) in api.below()
    ]
    if not found:
        return None
    api, stem, pid = random.choice(found)
    with suppress(ProcessLookupError):
        os.kill(pid, number)
    if later is not None:  # one that is stopped cannot end with its parent, if that is killed within these seconds
        command = command_of(pid)
        later(_THAWED_S, lambda: _thaw(pid, command))
    return f"{stem} of {api.name} (process {pid})"


def _pid_in(file: Path) -> int:
    """The process that a file names; 0 if it has just ended."""
    with suppress(FileNotFoundError, ValueError):
        return int(file.read_text())
    return 0


def _thaw(pid: int, command: str) -> None:
    with suppress(ProcessLookupError):
        if command_of(pid) == command:
            os.kill(pid, signal.SIGCONT)


def _freeze_worker(site: Site, later: Later) -> str | None:
    """For longer than its lease: it wakes up believing that the work is still its own."""
    if (worker := _one_of(site.workers)) is None:
        return None
    seconds, pid = LEASE_S + random.uniform(2, 6), worker.pid
    worker.signal(signal.SIGSTOP)
    later(seconds, lambda: worker.thaw(pid))
    return f"{worker.name} (process {pid}) for {seconds:.1f} s"


def _kill_broker(site: Site, later: Later) -> str | None:
    """SIGKILL; it comes back with the messages that it has written down."""
    if not site.redis.is_running:
        return None
    site.redis.kill()
    later(random.uniform(0.2, 4), site.redis.launch)
    return "back soon"


def _flush_broker(site: Site, later: Later) -> str | None:
    """Every message is gone."""
    with suppress(redis.RedisError), site.redis.client(site.broker) as client:
        client.flushall()
        return "every message is gone"
    return None


def _double_messages(site: Site, later: Later) -> str | None:
    """Whatever waits in a queue is there twice."""
    doubled = 0
    with suppress(redis.RedisError), site.redis.client(site.broker) as client:
        for key in client.scan_iter(_type="list"):
            for message in client.lrange(key, 0, -1):
                client.rpush(key, message)
                doubled += 1
    return f"{doubled} that waited" if doubled else None


def _crash_database(site: Site, later: Later) -> str | None:
    if not site.postgresql.is_running:
        return None
    site.postgresql.kill()
    later(random.uniform(0.2, 3), site.postgresql.launch)
    return "back soon"


def _signalled(parts: Callable[[Site], list[Supervised]], number: signal.Signals) -> Kill:
    def kill(site: Site, later: Later) -> str | None:
        if (part := _one_of(parts(site))) is None:
            return None
        part.signal(number)
        return f"{part.name} (process {part.pid})"

    return kill


def _one_of(parts: list[Supervised]) -> Supervised | None:
    """One that lives and that nothing was done to yet."""
    fit = [part for part in parts if part.is_running and not part.touched]
    return random.choice(fit) if fit else None


def command_of(pid: int) -> str:
    """The command of a process; empty if it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


#: Every kind, and how often it comes among 26.
KILLS: dict[str, tuple[Kill, int]] = {
    "SIGKILL a child of a worker": (_kill_child, 8),
    "SIGKILL a worker": (_signalled(lambda site: site.workers, signal.SIGKILL), 2),
    "SIGTERM a worker": (_signalled(lambda site: site.workers, signal.SIGTERM), 1),
    "SIGSTOP a worker beyond its lease": (_freeze_worker, 2),
    "SIGKILL an API": (_signalled(lambda site: site.apis, signal.SIGKILL), 1),
    "SIGTERM an API": (_signalled(lambda site: site.apis, signal.SIGTERM), 1),
    "SIGKILL a process of an API": (lambda site, later: _signal_behind(site, "*", signal.SIGKILL), 3),
    # Until long after its API must have noticed.
    "SIGSTOP a process that answers predictions": (
        lambda site, later: _signal_behind(site, "serving-*", signal.SIGSTOP, later),
        1,
    ),
    "SIGKILL the broker": (_kill_broker, 2),
    "FLUSHALL": (_flush_broker, 2),
    "double what waits in the broker": (_double_messages, 1),
    "crash PostgreSQL": (_crash_database, 2),
}
