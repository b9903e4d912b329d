"""Workers as operators start them, by a plain Celery command, and what they answer to Celery's own tools."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from celery import Celery

from tests.helpers import Json
from tests.helpers.processes import die_with_parent
from tests.helpers.service import ROOT


class CeleryWorker:
    """`celery -A worker.app worker …` as a process, and Celery's remote control beside it."""

    def __init__(self, settings: Mapping[str, str], folder: Path, *options: str, name: str = "w") -> None:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("FEDLAS_")}
        self.node = f"{name}@{socket.gethostname()}"
        self._control = Celery("tests", broker=settings["FEDLAS_BROKER_URL"], set_as_current=False).control
        self._log_file = folder / f"{name}.log"
        with self._log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "worker.app", "worker", "-n", self.node, *options], cwd=ROOT,
                env={**inherited, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **settings},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent(),
            )  # fmt: skip

    @property
    def log(self) -> str:
        """The log so far."""
        return self._log_file.read_text(errors="replace")

    def ask(self, command: str, **arguments: Any) -> Json:
        """The answer to a command of Celery's remote control; while the worker connects anew it hears of none."""
        for _ in range(6):
            for answer in self._control.broadcast(
                command, arguments=arguments, destination=[self.node], reply=True, limit=1, timeout=10
            ):
                found: Json = answer[self.node]
                return found
        raise AssertionError(f"{self.node} answers nothing to {command}; its log: {self.log}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)

    def end_by_force(self) -> None:
        """For the end of a test that has failed."""
        self.process.kill()
        self.process.wait()
