"""A process that is started again whenever it has ended, as systemd or Compose would."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.helpers.processes import descendants_of, die_with_parent

_PAUSE_S = 0.5
_PATIENCE_S = 40.0


class Supervised:
    """One process of the service; all methods belong to the thread that made it, whose end would end the process.

    Attributes:
        touched: whether its next end is wanted.
        surprises: ends that nobody wanted.
    """

    def __init__(self, name: str, command: Sequence[str], *, environment: Mapping[str, str], folder: Path) -> None:
        self.name, self.folder = name, folder
        self.surprises: list[str] = []
        self._command, self._environment = list(command), dict(environment)
        self._start()

    @property
    def pid(self) -> int:
        """The process, which may have ended."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """True if the process lives."""
        return self._process.poll() is None

    def below(self) -> set[int]:
        """The living processes that it has started, directly or not."""
        return descendants_of(self.pid) if self.is_running else set()

    def _start(self) -> None:
        self.touched, self._ended_at = False, 0.0
        with self.folder.with_suffix(".log").open("ab") as log:
            log.write(f"--- started at {time.strftime('%H:%M:%S')}\n".encode())
            self._process = subprocess.Popen(
                self._command, cwd=self.folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True, preexec_fn=die_with_parent(),
            )  # fmt: skip

    def tend(self) -> None:
        """Start it again a little after its end."""
        if self.is_running:
            return
        if not self._ended_at:
            self._ended_at = time.monotonic()
            if not self.touched:
                self.surprises.append(f"{self.name} (process {self.pid}) ended by itself: {self._process.returncode}")
        elif time.monotonic() - self._ended_at > _PAUSE_S:
            self._start()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal that somebody wants it to have."""
        self.touched = True
        self._process.send_signal(number)

    def thaw(self, pid: int) -> None:
        """SIGCONT, if it is still that process."""
        if self.pid == pid and self.is_running:
            self.signal(signal.SIGCONT)
            self.touched = False

    def stop(self) -> bool:
        """End it for good; False if force was needed."""
        if not self.is_running:
            return True
        self.thaw(self.pid)
        self.signal(signal.SIGTERM)
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return False
        return True
