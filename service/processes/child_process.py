"""Child processes of `fedlas serve`: each is kept running, with its log passed on and a standby to take its place.

They run in sessions of their own, so that Ctrl-C reaches only the parent, which stops them in order. On Linux the
kernel ends them with their parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from service.heartbeat import Pulse
from service.processes.introductions import Introductions, Mailbox

_STOP_TIMEOUT_S = {
    "api": 40.0,
    "worker": 20.0,
    "broker": 10.0,
    "control": 40.0,
    "serving": 40.0,
    "alone": 40.0,
    "acceptor": 5.0,
}
_RESTART_PAUSE_S = 1.0
#: A longer line is passed on in pieces: one without an end would fill this process.
_LONGEST_LINE = 16 * 1024
#: After so long without a restart a standby is started: loading all modules takes a second or two.
_STANDBY_AFTER_S = 10.0
_PR_SET_PDEATHSIG = 1


@dataclass
class ChildProcess:
    """A process that is started again when it dies or hangs.

    Attributes:
        passed_on: file descriptors that it inherits.
        pulse: detects that it hangs, where that is watched.
        introductions: of a process with a channel, to the others.
        stands_by: a watched process of this kind takes long to start.
        standby: a process of the same command that has loaded everything and waits to take its place.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    pid_file: Path
    passed_on: Sequence[int] = ()
    pulse: Pulse | None = None
    introductions: Introductions | None = None
    stands_by: bool = True
    process: subprocess.Popen[bytes] | None = None
    standby: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    _asked: subprocess.Popen[bytes] | None = None
    _mailboxes: dict[int, Mailbox] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """What several processes have in common: `serving` of `serving-2`."""
        return self.name.partition("-")[0]

    def start(self) -> None:
        """Start the process, or let the standby take over, and pass its log on."""
        self.process, self.standby = self._activated_standby() or self._spawned(), None
        self.started_at = time.monotonic()
        if self.introductions is not None:
            self.introductions.introduce(self.name, self._mailboxes.pop(self.process.pid), self.process.pid)
        if self.pulse is not None:
            self.pulse.started()
        fresh = self.pid_file.with_suffix(".new")
        fresh.write_text(f"{self.process.pid}\n")
        os.replace(fresh, self.pid_file)  # a reader sees the old id or the new one, never half a file
        threading.Thread(target=_pass_log_on, args=(self.name, self.process), daemon=True).start()

    def _spawned(self, *more: str) -> subprocess.Popen[bytes]:
        if self.introductions is None:
            return self._started([*self.command, *more], self.passed_on)
        mailbox = Mailbox.made()  # a new one for each: what was sent to one process is not read by another
        own = mailbox.own.fileno()
        started = self._started([*self.command, "--channel", str(own), *more], [*self.passed_on, own])
        self._mailboxes[started.pid] = mailbox
        return started

    def _started(self, command: Sequence[str], passed_on: Sequence[int]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            env=dict(self.environment),
            stdin=subprocess.PIPE if command[-1] == "--standby" else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=passed_on,
            preexec_fn=_die_with_parent(),
        )

    def _activated_standby(self) -> subprocess.Popen[bytes] | None:
        """The standby, which begins to serve; None if there is none."""
        if self.standby is None:
            return None
        if self.standby.poll() is None:
            assert self.standby.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it has just died, and is started again as any other
                with self.standby.stdin as pipe:
                    pipe.write(b"begin\n")
                return self.standby
        self.standby.communicate()
        self._forget(self.standby)
        return None

    def _forget(self, standby: subprocess.Popen[bytes]) -> None:
        if (mailbox := self._mailboxes.pop(standby.pid, None)) is not None:
            mailbox.close()

    def _start_standby(self) -> None:
        """Start a standby once this process has run for a while; only a watched process has one."""
        if self.pulse is None or not self.stands_by or time.monotonic() - self.started_at < _STANDBY_AFTER_S:
            return
        if self.standby is None:
            self.standby = self._spawned("--standby")

    def ensure_running(self) -> None:
        """Start the process again if it died or hangs, at most once a second."""
        if self.process is not None and self.process.poll() is None:
            if self.pulse is None or (trouble := self.pulse.trouble()) is None:
                self._start_standby()
                return
            say(self.name, f"hangs: {trouble}")
            self.process.kill()
            self.process.wait()
        if time.monotonic() - self.started_at < _RESTART_PAUSE_S:
            return
        if self.process is not None:
            say(self.name, f"died ({_described(self.process.returncode)}), starting it again")
        self.start()

    def ask_to_stop(self) -> None:
        """Send SIGTERM once, and do not wait: the second one would end it at once."""
        if self.process is not None and self.process is not self._asked:
            self._asked = self.process
            self.hurry()

    def hurry(self) -> None:
        """Send SIGTERM."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def stop(self) -> None:
        """Send SIGTERM, if it was not sent before, and wait; end it by force if it does not stop in time."""
        if self.standby is not None:
            self.standby.kill()
            self.standby.communicate()  # closes its pipes, too
            self._forget(self.standby)
        if self.process is None:
            return
        self.ask_to_stop()
        if self.process.poll() is None:
            try:
                self.process.wait(_STOP_TIMEOUT_S[self.kind])
            except subprocess.TimeoutExpired:
                say(self.name, "does not stop, ending it by force")
                self.process.kill()
                self.process.wait()
        if self.introductions is not None:
            self.introductions.part(self.name)
        self.pid_file.unlink(missing_ok=True)


def _die_with_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _pass_log_on(name: str, process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in iter(lambda: lines.readline(_LONGEST_LINE), b""):
            if text := line.decode(errors="replace").rstrip():
                # Nothing that a process writes commands the operator's terminal.
                say(name, "".join(letter if letter.isprintable() or letter == "\t" else "?" for letter in text))


def say(name: str, text: str) -> None:
    """Write a line of the log of `fedlas serve`."""
    print(f"{time.strftime('%H:%M:%S')} {name:<6} | {text}", flush=True)


def _described(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
