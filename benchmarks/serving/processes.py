"""A server as a process: started, awaited, frozen while another is measured, ended with all its children; no server."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.payloads import Failed
from tests.helpers.processes import descendants_of, die_with_parent, is_alive

_STARTING_S = 120.0
_ENDING_S = 30.0


@dataclass(frozen=True)
class Running:
    """A process that answers on a port of loopback."""

    name: str
    port: int
    process: subprocess.Popen[bytes]

    @property
    def pids(self) -> set[int]:
        """The process and everything below it."""
        return {self.process.pid, *descendants_of(self.process.pid)}

    @property
    def cpu_s(self) -> float:
        """CPU time that they have used so far, with that of children that have ended."""
        ticks = 0
        for pid in self.pids:
            with suppress(FileNotFoundError, ProcessLookupError):
                # Its own, in user and in system mode, and that of children that it has waited for.
                ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def freeze(self) -> None:
        """Stop the processes for a while: LitServe, for one, polls for requests a thousand times a second."""
        self._tell(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the processes go on as if nothing had been."""
        self._tell(signal.SIGCONT)

    def _tell(self, number: signal.Signals) -> None:
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self) -> None:
        """Ask it to end, and end by force what is left of it."""
        self.thaw()
        below = self.pids - {self.process.pid}
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_ENDING_S)
        for pid in (self.process.pid, *below):
            if is_alive(pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def running(
    name: str, command: Sequence[str], *, port: int, ready: str, environment: Mapping[str, str], folder: Path
) -> Iterator[Running]:
    """Start the command in this folder, wait until `ready` (a path) answers 200, and end it after the block."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("FEDLAS_")}
    # One thread each, whatever reads this: ONNX Runtime reads its session's options.
    given = {**inherited, "OMP_NUM_THREADS": "1", **environment}
    with tempfile.TemporaryFile(prefix=f"{name}-log-") as log:
        process = subprocess.Popen(
            list(command),
            cwd=folder,
            env=given,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with_parent(signal.SIGTERM),
        )
        server = Running(name, port, process)
        try:
            deadline = time.monotonic() + _STARTING_S
            while not answers(port, ready):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    text = log.read().decode(errors="replace")[-4000:]
                    raise Failed(f"{name} did not start (exit code {process.poll()}); it said:\n{text}")
                time.sleep(0.1)
            yield server
        finally:
            server.stop()


def answers(port: int, path: str) -> bool:
    """True where the server answers 200 at this path."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.HTTPError):
        return False
