"""A template: a process that has loaded what others need, and forks each of them when its parent orders it.

A fork is there at once, and its memory is the template's until one of the two writes to it; it is a child of the
parent, like those that this starts itself. A template has read no settings and runs nothing: processes of one template
learn nothing of each other. It has no threads but those of libraries that see to them around a fork (OpenBLAS,
jemalloc).

`python -m service.processes.template MODULE…`, started by `fedlas serve`.
"""

from __future__ import annotations

import argparse
import fcntl
import gc
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from pydantic import BaseModel, TypeAdapter

from service.confinement import landlock
from service.ipc.channel import Channel, Closed, Full, Malformed, Packet, pair
from service.processes.child_process import ChildProcess, ForkedProcess, say

_STANDARD = (1, 2)  # standard output and errors
#: How long a template may load its modules, and then take for a fork (10 ms): nothing else is watched meanwhile.
_LOADED_S = 30.0
_FORKED_S = 3.0
_ADOPTING = threading.Lock()


class Order(BaseModel):
    """A process to fork; with it come its standard output, and the files that it inherits.

    Attributes:
        module: its `main` is run.
        numbers: of the files.
    """

    name: str
    module: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    numbers: tuple[int, ...]


class Forked(BaseModel):
    """The answer to an order, which the new process gives itself; None: there is none.

    The first one is the template's own, when it has loaded its modules.
    """

    pid: int | None


def main() -> int:
    """Load the modules and wait; in a fork, run what was ordered."""
    parser = argparse.ArgumentParser(prog="python -m service.processes.template")
    parser.add_argument("--channel", type=int, required=True, help="to the parent")
    parser.add_argument("modules", nargs="+", help="what its forks need")
    options = parser.parse_args()
    for module in options.modules:
        import_module(module)
    # Objects that no collection visits are not written to, and stay shared.
    gc.collect()
    gc.freeze()
    order = _ordered(socket.socket(fileno=options.channel))
    if order is None:
        return 0
    sys.argv = [order.module, *order.arguments]
    return int(import_module(order.module).main())


def _ordered(end: socket.socket) -> Order | None:
    """In each fork, its order; in the template None, when the parent has ended."""
    channel, parent, arrived = Channel(end, TypeAdapter(Order)), os.getppid(), select.poll()
    arrived.register(end, select.POLLIN)
    channel.send(Forked(pid=os.getpid()))
    while True:
        arrived.poll()
        try:
            packet = channel.receive()
        except Closed:
            return None
        except Malformed as error:
            print(f"an order that cannot be read: {error}", flush=True)
            channel.send(Forked(pid=None))
            continue
        if packet is not None and _is_fork(channel):
            _settle(packet, channel, parent)
            return packet.document
        if packet is not None:
            packet.close()


def _is_fork(channel: Channel[Order]) -> bool:
    """Fork twice, so that the new process becomes a child of this one's parent; whether this is the new one."""
    if (between := os.fork()) > 0:
        if os.waitpid(between, 0)[1] != 0:
            channel.send(Forked(pid=None))
        return False
    between = os.getpid()
    try:
        if os.fork() > 0:
            os._exit(0)
    except OSError:  # there are too many processes
        os._exit(1)
    while os.getppid() == between:
        time.sleep(0.0005)
    return True


def _settle(packet: Packet[Order], channel: Channel[Order], parent: int) -> None:
    """Become a process of its own, with a session, an environment and files; tell the parent."""
    order = packet.document
    if os.getppid() != parent:  # it has ended, or its kernel gives it no orphans
        channel.send(Forked(pid=None))
        os._exit(1)
    landlock.end_with_parent(signal.SIGTERM)
    landlock.name_thread(order.name)
    os.setsid()
    os.environ.clear()
    os.environ.update(order.environment)
    channel.send(Forked(pid=os.getpid()))
    channel.close()
    _place(packet.files, order.numbers)


def _place(files: Sequence[int], numbers: Sequence[int]) -> None:
    """Give the files their numbers, the first one those of the standard streams."""
    first = max(*_STANDARD, *numbers) + 1
    output, *inherited = (fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, first) for file in files)  # out of the way of others
    for file in files:
        os.close(file)
    for file, number in [*((output, number) for number in _STANDARD), *zip(inherited, numbers, strict=True)]:
        os.dup2(file, number)
    for file in (output, *inherited):
        os.close(file)


_ANSWERS: TypeAdapter[Forked] = TypeAdapter(Forked)


@dataclass
class Template(ChildProcess):
    """A template, kept running; while there is none, processes are started as a whole."""

    _end: socket.socket | None = None
    _loaded: bool = False

    @classmethod
    def of(
        cls, kind: str, modules: Sequence[str], environment: Mapping[str, str], run_dir: Path, *options: str
    ) -> Template:
        """A template for one kind of processes, in their environment and with their options of the interpreter."""
        name = f"template-{kind}"
        command = [sys.executable, *options, "-m", "service.processes.template", *modules]
        return cls(name, command, environment, run_dir / f"{name}.pid")

    def start(self) -> None:
        self._close()
        self._loaded = False
        self._end, other = pair()
        with other:
            self._begin([*self.command, "--channel", str(other.fileno())], [other.fileno()])

    def stop(self) -> None:
        super().stop()
        self._close()

    def fork(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], passed_on: Sequence[int]
    ) -> ForkedProcess | None:
        """The process of a command `… -m module arguments`, with these open files; None where it cannot be had."""
        module = command.index("-m") + 1
        order = Order(
            name=name,
            module=command[module],
            arguments=tuple(command[module + 1 :]),
            environment=dict(environment),
            numbers=tuple(passed_on),
        )
        read, write = os.pipe()
        pid = self._ordered(order, [write, *passed_on])
        os.close(write)
        if pid is None:
            os.close(read)
            return None
        return ForkedProcess(pid, os.fdopen(read, "rb"))

    def _ordered(self, order: Order, files: Sequence[int]) -> int | None:
        """The fork's id; a template that does not answer is ended, and `ensure_running` starts another."""
        if self._end is None:
            return None
        channel = Channel(self._end, _ANSWERS)
        with suppress(Full, Malformed, OSError):
            if not self._loaded:
                self._answer(channel, self.started_at + _LOADED_S - time.monotonic())
                self._loaded = True
            with _adopting():
                channel.send(order, files=files)
                return self._answer(channel, _FORKED_S).pid
        self._close()
        if self.process is not None:
            self.process.kill()
        return None

    def _answer(self, channel: Channel[Forked], seconds: float) -> Forked:
        arrived = select.poll()
        arrived.register(channel.fileno(), select.POLLIN)
        if arrived.poll(1000 * max(0.0, seconds)) and (packet := channel.receive()) is not None:
            return packet.document
        say(self.name, f"does not answer for {seconds:.0f} s: it is ended")
        raise TimeoutError

    def _close(self) -> None:
        if self._end is not None:
            self._end.close()
            self._end = None


@contextmanager
def _adopting() -> Iterator[None]:
    """Processes whose parents end meanwhile become children of this one."""
    with _ADOPTING:
        landlock.adopt_orphans(True)
        try:
            yield
        finally:
            landlock.adopt_orphans(False)


if __name__ == "__main__":
    sys.exit(main())
