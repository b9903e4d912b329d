"""Processes that are forked from a template, which has loaded their modules: at once, and with shared memory.

A fork is a child of this process, like those that it starts itself.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydantic import TypeAdapter

from service.confinement import kernel
from service.ipc.channel import Channel, Full, Malformed, pair
from service.processes.child_process import ChildProcess, say
from service.processes.template import Forked, Order

_READ: TypeAdapter[Forked] = TypeAdapter(Forked)
#: How long a template may load its modules, and then take for a fork (10 ms): nothing else is watched meanwhile.
_LOADED_S, _FORKED_S = 30.0, 3.0
_LOOK_S = 0.01
_ADOPTING = threading.Lock()


class ForkedProcess:
    """A fork, with what is used of `subprocess.Popen`.

    Attributes:
        stdout: what it writes.
        returncode: None while it is not known to have ended.
    """

    def __init__(self, pid: int, stdout: IO[bytes]) -> None:
        self.pid = pid
        self.stdout = stdout
        self.returncode: int | None = None
        self._looking = threading.Lock()

    def poll(self) -> int | None:
        """The exit code, or the negative signal, if it has ended."""
        with self._looking:
            if self.returncode is None and (found := os.waitpid(self.pid, os.WNOHANG))[0]:
                self.returncode = os.waitstatus_to_exitcode(found[1])
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The same once it has ended; raises `subprocess.TimeoutExpired`."""
        began = time.monotonic()
        while (code := self.poll()) is None:
            if timeout is not None and time.monotonic() - began > timeout:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(_LOOK_S)
        return code

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        if self.poll() is None:  # its id is not given to another before that
            os.kill(self.pid, number)


@dataclass
class Template(ChildProcess):
    """A template, kept running; while there is none, processes are started as a whole."""

    _end: socket.socket | None = None
    _loaded: bool = False

    @classmethod
    def of(
        cls, kind: str, modules: Sequence[str], environment: Mapping[str, str], run_dir: Path, *options: str
    ) -> Template:
        """That of one kind of processes, in their environment and with their options of the interpreter."""
        name = f"template-{kind}"
        command = [sys.executable, *options, "-m", "service.processes.template", *modules]
        return cls(name, command, environment, run_dir / f"{name}.pid")

    def start(self) -> None:
        """Start it; it loads its modules meanwhile."""
        self._close()
        self._loaded = False
        self._end, other = pair()
        with other:
            self._begin([*self.command, "--channel", str(other.fileno())], [other.fileno()])

    def stop(self) -> None:
        """End it: it has nothing to finish."""
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
        channel = Channel(self._end, _READ)
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
        """The next one; raises OSError where there is none in this time."""
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
        kernel.adopt_orphans(True)
        try:
            yield
        finally:
            kernel.adopt_orphans(False)
