"""The supervision of child processes: started in order, kept running, and stopped so that no request is lost.

The acceptor ends first, so that what it has accepted is answered; then the processes that answer predictions; then
control. Workers stop meanwhile, their broker last. Listening sockets outlive the
processes that accept from them, and keep their queues of connections.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from service.processes.child_process import ChildProcess, say
from service.registry.object_store import try_lock
from service.registry.settings import ServiceSettings
from service.served.folder import KEYS, SUSPENDED

_CHECK_EVERY_S = 0.1
#: Kinds that are asked to stop together, one after the other.
_STAGES = (frozenset({"acceptor"}), frozenset({"api", "serving"}), frozenset({"control"}))
_BROKER = "broker"
_PORT_TIMEOUT_S = 3.0
_BACKLOG = 2048
_LOCK = "serve.lock"


@contextlib.contextmanager
def running(children: Sequence[ChildProcess]) -> Iterator[None]:
    try:
        for child in children:
            child.start()
        yield
    finally:
        _stop(children)


def supervise(children: Sequence[ChildProcess], *, name: str) -> None:
    """Keep the processes running until SIGINT or SIGTERM, of which a second one ends them; `name` is for the log."""
    signals: list[int] = []  # an event could be locked by the very thread that a signal interrupts

    def caught(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        for child in children if len(signals) > 1 else ():
            child.hurry()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, caught)
    with running(children):
        while not signals:
            time.sleep(_CHECK_EVERY_S)
            tend(children)
        say(name, "stopping")
    say(name, "stopped")


def tend(children: Sequence[ChildProcess]) -> None:
    for child in children:
        try:
            child.ensure_running()
        except OSError as error:  # too many processes, or too little memory: those that run go on
            say(child.name, f"cannot be started now, and is tried again: {error}")
    for introductions in {child.introductions for child in children if child.introductions is not None}:
        introductions.rescue()


def _stop(children: Sequence[ChildProcess]) -> None:
    staged = [[child for child in children if child.kind in stage] for stage in _STAGES]
    workers = [child for child in children if child.kind not in {_BROKER}.union(*_STAGES)]
    for child in workers:
        child.ask_to_stop()
    for stage in (*staged, workers, [child for child in children if child.kind == _BROKER]):
        for child in stage:
            child.ask_to_stop()
        for child in stage:
            child.stop()


def bound(settings: ServiceSettings) -> socket.socket:
    """A listening socket; waits a moment for an earlier service that is still closing, then raises SystemExit."""
    deadline = time.monotonic() + _PORT_TIMEOUT_S
    address = (settings.listen_host, settings.port)
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    while True:
        try:
            return socket.create_server(address, family=family, backlog=_BACKLOG)
        except OSError as error:
            if time.monotonic() > deadline:
                message = f"cannot listen on {address[0]}:{address[1]}: {os.strerror(error.errno or 0)}"
                raise SystemExit(f"{message}; choose another by --port or FEDLAS_PORT") from None
            time.sleep(0.2)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder; raises SystemExit where another service holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as lock:
        if not try_lock(lock.fileno()):
            raise SystemExit(f"another `fedlas serve` already uses {folder.parent}: stop it first")
        yield


@contextlib.contextmanager
def numbered(parent: Path) -> Iterator[Path]:
    """Hold the first of `api-1`, `api-2`, ... that is free: several of them may share a data folder."""
    for number in itertools.count(1):
        folder = parent / f"api-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / _LOCK).open("w") as lock:
            if try_lock(lock.fileno()):
                yield folder
                return


def empty_served(run_dir: Path) -> Path:
    """The served folder of a service that begins: without what one before it has left, but for its keys.

    Those are right, but for what was revoked elsewhere, and soon written anew. Copies that services beside it have left
    go, too.
    """
    for lock in (*run_dir.glob(f"*/{_LOCK}"), *run_dir.parent.glob(_LOCK), *run_dir.parent.glob(f"*/{_LOCK}")):
        with lock.open("w") as held:
            if try_lock(held.fileno()):  # nobody's: links there would keep what is deleted
                shutil.rmtree(lock.with_name("served") / "models", ignore_errors=True)
    folder = run_dir / "served"
    (folder / KEYS).mkdir(parents=True, exist_ok=True)
    for entry in folder.iterdir():
        if entry.name not in (KEYS, SUSPENDED):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    return folder
