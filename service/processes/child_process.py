"""Child processes of `fedlas serve`: each is kept running, with its log passed on.

They run in sessions of their own, so that Ctrl-C reaches only the parent, which stops them in order. On Linux the
kernel ends them with their parent.

A signal that the code of a process raises is the deed of the model in whose thread it was caught. Caught in another
thread, it may be anybody's; so may an end by the watchdog of the event loop, or by the kernel where memory runs out:
what ran then is suspect. SIGKILL has no sender: it counts only if the kernel has killed for memory since the process
was started.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from service.confinement import landlock
from service.heartbeat import HUNG, Pulse
from service.ipc.documents import Fault
from service.ipc.run_marks import Marked
from service.process_memory import oom_kills
from service.processes.introductions import Introductions, Mailbox

_CRASHES = frozenset(
    {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS}
)
#: Lines that `faulthandler` writes of a thread, and of a call; stacks end with those of the main thread.
_THREAD = re.compile(r"(Current t|T)hread 0x")
_CALL = re.compile(r'  File "(.+)", line (\d+) in (.+)')
_STOP_TIMEOUT_S = {
    "api": 40.0,
    "worker": 20.0,
    "broker": 10.0,
    "control": 40.0,
    "serving": 40.0,
    "acceptor": 5.0,
}
#: Between two starts; longer and longer while the process gives up as soon as it was started.
_RESTART_PAUSE_S = 1.0
_MAX_PAUSE_S = 10.0
#: In which a process that hangs tells where; one that was stopped as a whole does not.
_LAST_WORDS_S = 1.0
#: A longer line is passed on in pieces: one without an end would fill this process.
_MAX_LINE = 16 * 1024
_MAX_STACKS_BYTES = 64 * 1024


def place(stacks: Sequence[str]) -> str:
    """The call in which a process stood when `faulthandler` noted these stacks.

    >>> place(["Thread 0x1 (most recent call first):", '  File "/b.py", line 3 in f', '  File "/b.py", line 9 in g'])
    'f (/b.py, line 3)'
    """
    threads = [number for number, line in enumerate(stacks) if _THREAD.match(line)]
    (at, *_) = [number for number in threads if stacks[number].startswith("Current")] or threads[-1:] or [0]
    call = next(filter(None, map(_CALL.match, stacks[at + 1 : at + 2])), None)
    return "an unknown place" if call is None else f"{call[3]} ({call[1]}, line {call[2]})"


def fault(code: int, marked: Marked, *, out_of_memory: bool) -> Fault | None:
    """The fault of a model by which a process has ended, or None; `out_of_memory`: the kernel killed some process."""
    if -code in _CRASHES:
        models = marked.caught or marked.models
        # An error outside of any run may come of memory that one of them has corrupted.
        return _fault(signal.Signals(-code).name, models, certain=len(models) == 1 and marked.caught != frozenset())
    if -code == HUNG:
        return _fault("the watchdog of its event loop", marked.on_loop or marked.models, certain=False)
    if -code == signal.SIGKILL and out_of_memory:
        return _fault("SIGKILL, when memory ran out", marked.models, certain=False)
    return None


def _fault(how: str, models: Set[str], *, certain: bool) -> Fault | None:
    return Fault(how=how, models=sorted(models), certain=certain) if models else None


@dataclass
class ChildProcess:
    """A process that is started again when it dies or hangs.

    Attributes:
        passed_on: file descriptors that it inherits.
        pulse: detects that it hangs, where that is watched.
        introductions: of a process with a channel, to the others.
        runs_models: what it runs when it ends may have ended it.
        listener: what it accepts from, closed here when it is asked to stop: nothing more waits in it.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    pid_file: Path
    passed_on: Sequence[int] = ()
    pulse: Pulse | None = None
    introductions: Introductions | None = None
    runs_models: bool = False
    listener: socket.socket | None = None
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    _asked: subprocess.Popen[bytes] | None = None
    _pause: float = _RESTART_PAUSE_S
    _mailbox: Mailbox | None = None
    _oom_kills: int = 0

    @property
    def kind(self) -> str:
        """Kind that several processes share: `serving` of `serving-2`."""
        return self.name.partition("-")[0]

    def start(self) -> None:
        if self.introductions is None:
            self._begin(self.command, self.passed_on)
            return
        ended_by = self._fault()
        # A new one for each: what was sent to one process is not read by another.
        mailbox = Mailbox.made(runs_models=self.runs_models)
        options = [text for option, number in mailbox.inherited.items() for text in (option, str(number))]
        try:
            process = self._begin([*self.command, *options], [*self.passed_on, *mailbox.inherited.values()])
        except OSError:
            mailbox.close()
            raise
        self._mailbox, self._oom_kills = mailbox, oom_kills()
        self.introductions.introduce(self.name, mailbox, process.pid, ended_by)

    def _fault(self) -> Fault | None:
        """Fault that ended the process before, where a model may have done it; the log says where it stood."""
        if self.process is None or self._mailbox is None or (record := self._mailbox.record) is None:
            return None
        if notes := record.notes():
            say(self.name, _noted(notes[0], notes, self._stacks))
        return fault(self.process.wait(), record.read(), out_of_memory=oom_kills() > self._oom_kills)

    def _begin(self, command: Sequence[str], passed_on: Sequence[int]) -> subprocess.Popen[bytes]:
        self.started_at = time.monotonic()
        if self.pulse is not None:
            self.pulse.started()  # before the process can beat
        self.process = process = subprocess.Popen(
            command,
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=passed_on,
            preexec_fn=(lambda: landlock.end_with_parent(signal.SIGTERM)) if sys.platform == "linux" else None,
        )
        self._note_pid(process.pid)
        threading.Thread(target=_pass_log_on, args=(self.name, process, self._stacks), daemon=True).start()
        return process

    @property
    def _stacks(self) -> Path:
        """The file of where the threads of the last process stood that was ended."""
        return self.pid_file.with_suffix(".stacks")

    def _note_pid(self, pid: int) -> None:
        fresh = self.pid_file.with_suffix(".new")
        try:
            fresh.write_text(f"{pid}\n")
            os.replace(fresh, self.pid_file)  # a reader sees the old id or the new one, never half a file
        except OSError as error:  # a full disk ends no process
            say(self.name, f"its id {pid} cannot be written: {error}")

    def ensure_running(self) -> None:
        """Start the process again if it died or hangs, after a pause since it was started."""
        if self.process is not None and self.process.poll() is None and not self._ended(self.process):
            return
        if (lived := time.monotonic() - self.started_at) < self._pause:
            return
        if self.process is not None:
            code = self.process.wait()
            given_up = code > 0 and lived < self._pause + _RESTART_PAUSE_S
            self._pause = min(2 * self._pause, _MAX_PAUSE_S) if given_up else _RESTART_PAUSE_S
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            say(self.name, f"died ({how}), starting it again")
        self.start()

    def _ended(self, process: subprocess.Popen[bytes]) -> bool:
        """True if the process had to be ended, for a reason that is logged."""
        if self.introductions is not None and (reason := self.introductions.reason_to_end(self.name, process.pid)):
            say(self.name, f"is ended: {reason}")
        elif self.pulse is not None and (trouble := self.pulse.trouble()):
            say(self.name, f"hangs: {trouble}")
            process.send_signal(HUNG)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_LAST_WORDS_S)
        else:
            return False
        process.kill()
        process.wait()
        return True

    def ask_to_stop(self) -> None:
        """Send SIGTERM once, and do not wait: the second one would end it at once."""
        if self.process is not None and self.process is not self._asked:
            self._asked = self.process
            if self.listener is not None:
                self.listener.close()
            self.hurry()

    def hurry(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def stop(self) -> None:
        """Send SIGTERM, if it was not sent before, and wait; end it by force if it does not stop in time."""
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


def _pass_log_on(name: str, process: subprocess.Popen[bytes], stacks: Path) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in iter(lambda: lines.readline(_MAX_LINE), b""):
            text = line.decode(errors="replace").rstrip()
            if _THREAD.match(text):
                stack_lines = [text, *lines.read(_MAX_STACKS_BYTES).decode(errors="replace").splitlines()]
                text = _noted("its event loop stood still", stack_lines, stacks)
            if text:
                say(name, printable(text))


def _noted(reason: str, stacks: Sequence[str], file: Path) -> str:
    """The line of the log about a process that was ended; the stacks of all its threads are kept in a file."""
    with contextlib.suppress(OSError):  # a full disk
        file.write_text("\n".join(map(printable, stacks)))
    return f"ended: {reason}, in {place(stacks)}; where all threads stood: {file}"


def printable(text: str) -> str:
    """Make a process's output harmless to a terminal."""
    return "".join(letter if letter.isprintable() or letter == "\t" else "?" for letter in text)


def say(name: str, text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {name:<6} | {text}", flush=True)
