"""A taken-over process: code of a test that runs in a process behind the wall, in the place of a hole in a parser."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
from pathlib import Path
from typing import Any

from tests.helpers.processes import until

Json = dict[str, Any]
_CANARY = Path(__file__).with_name("sitecustomize.py")


class Takeover:
    """Processes that are started with `environment` do what the canary does, on a signal."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        shutil.copy(_CANARY, folder)
        self._folder = folder
        self._targets = folder / "targets.json"
        self._targets.touch()

    @property
    def environment(self) -> dict[str, str]:
        """Python loads the canary at its start."""
        return {"PYTHONPATH": f"{self._folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}

    def of(self, pid: int, targets: Json) -> Json:
        """Take a process over; returns what its code tried and got."""
        self._targets.write_text(json.dumps(targets))
        with open(os.open(self._pipe(pid), os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as answers:
            os.kill(pid, signal.SIGUSR1)
            written = b""
            while not written.endswith(b"\n"):
                assert select.select([answers], [], [], 60)[0], f"no answer after {written!r}"
                read = answers.read(65536)
                assert read, f"the process has ended after {written!r}"
                written += read
        return dict(json.loads(written))

    def flood(self, pid: int) -> None:
        """Take a process over, and flood control with questions from there until it is ended."""
        self._targets.write_text(json.dumps({"flood": True}))
        self._pipe(pid)
        os.kill(pid, signal.SIGUSR1)

    def _pipe(self, pid: int) -> Path:
        pipe = self._folder / f"{pid}.pipe"
        until(pipe.exists, what="the canary is in the process")
        return pipe
