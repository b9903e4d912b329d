"""A process of a single model: it runs while control wants it, since a run of the model once ended its process."""

from __future__ import annotations

import time
from dataclasses import dataclass

from service.processes.child_process import ChildProcess, say

#: How long it may take to stop: its last requests are answered.
_STOP_TIMEOUT_S = 40.0


@dataclass
class AloneProcess(ChildProcess):
    """Started when control asks for it, stopped when it does not any more."""

    _asked_at: float | None = None  # to stop

    def start(self) -> None:
        """Start the process, if it is wanted."""
        if self._is_wanted:
            super().start()

    def ensure_running(self) -> None:
        """Start it, start it again, or stop it."""
        if self._is_wanted:
            self._asked_at = None
            super().ensure_running()
        elif self.process is not None and self.process.poll() is None:
            self._ask_once()
        elif self.process is not None and self.introductions is not None:
            self.introductions.part(self.name)
            self.pid_file.unlink(missing_ok=True)
            self.process = None

    @property
    def _is_wanted(self) -> bool:
        return self.introductions is not None and self.name in self.introductions.wanted

    def _ask_once(self) -> None:
        assert self.process is not None
        if self._asked_at is None:
            self._asked_at = time.monotonic()
            say(self.name, "is not needed any more")
            self.process.terminate()
        elif time.monotonic() - self._asked_at > _STOP_TIMEOUT_S:
            self.process.kill()
