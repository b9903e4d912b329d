"""A process that must always run: it is started again when it dies, and every unordered end is recorded."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.helpers.processes import descendants_of, die_with_parent

#: How long after its end a process is started again.
PAUSE_S = 0.5
_PATIENCE_S = 40.0


class Supervised:
    """One process of the service; all methods belong to the thread that made it, whose end would end the process.

    Attributes:
        ordered: whether the next end is wanted.
        surprises: its unordered ends.
        pids: of all its processes, dead and alive.
    """

    def __init__(
        self, name: str, command: Sequence[str], *, environment: Mapping[str, str], folder: Path, log_file: Path
    ) -> None:
        self.name = name
        self.environment = dict(environment)
        self.ordered = False
        self.frozen = False
        self.surprises: list[str] = []
        self.pids: set[int] = set()
        self._command = list(command)
        self._folder = folder
        self._log_file = log_file
        self._ended_at: float | None = None
        self._pause = PAUSE_S
        self.start()

    @property
    def pid(self) -> int:
        """The process, which may have ended."""
        return self.process.pid

    @property
    def is_running(self) -> bool:
        """True where the process lives."""
        return self.process.poll() is None

    def below(self) -> set[int]:
        """The processes that it has started, directly or not, and that still live."""
        return descendants_of(self.pid) if self.is_running else set()

    def start(self) -> None:
        """Start the process."""
        self.ordered = self.frozen = False
        self._ended_at, self._pause = None, PAUSE_S
        with self._log_file.open("ab") as log:
            log.write(f"--- started at {time.strftime('%H:%M:%S')}\n".encode())
            self.process = subprocess.Popen(
                self._command, cwd=self._folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=die_with_parent(),
            )  # fmt: skip
        self.pids.add(self.pid)

    def tend(self) -> None:
        """Start it again if it has ended, after a short pause."""
        if self.is_running:
            return
        if self._ended_at is None:
            self._ended_at = time.monotonic()
            if not self.ordered:
                self.surprises.append(f"{self.name} (process {self.pid}) ended by itself: {self.process.returncode}")
        elif time.monotonic() - self._ended_at > self._pause:
            self.start()

    def kill(self, *, pause: float = PAUSE_S) -> None:
        """SIGKILL; it also ends what is frozen."""
        self.ordered, self._pause = True, pause
        self.process.kill()

    def freeze(self) -> None:
        """SIGSTOP: it lives and does nothing."""
        self.frozen = True
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self, pid: int) -> None:
        """SIGCONT, if it is still that process."""
        if self.pid == pid and self.is_running:
            self.process.send_signal(signal.SIGCONT)
            self.frozen = False

    def end(self, *, pause: float = PAUSE_S) -> None:
        """SIGTERM: a deploy."""
        self.ordered, self._pause = True, pause
        self.process.terminate()

    def stop(self) -> bool:
        """End it for good; False if force was needed."""
        self.ordered = True
        if not self.is_running:
            return True
        self.thaw(self.pid)
        self.process.terminate()
        try:
            self.process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return False
        return True
