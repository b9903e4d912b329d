"""The service under attack: `fedlas serve` of any checkout, on loopback, in a folder of its own, short of memory."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.serving.processes import answering
from benchmarks.weight.disk import disk_bytes
from tests.helpers.processes import descendants_of, die_with_parent, free_port, is_alive, until

Json = dict[str, Any]

KEY = "key-of-the-attacker"
_START_S = 90.0
_TRACEBACK = "Traceback (most recent call last)"


class Service:
    """A running service; it starts its API again when that dies, and so do we when it hangs."""

    def __init__(self, checkout: Path, folder: Path, memory_bytes: int) -> None:
        self.port = free_port()
        self._members: set[int] = set()
        self._data = folder / "data"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("FEDLAS_")}
        environment = {**clean, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "FEDLAS_API_KEYS": KEY}
        environment |= {"TMPDIR": str(folder), "FEDLAS_API_MEMORY_BYTES": str(memory_bytes)}
        command = [sys.executable, "-m", "service.cli", "serve", "--port", str(self.port), "--data-dir"]
        with (folder / "serve.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*command, str(self._data)],
                cwd=checkout,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_limited(memory_bytes),
            )
        self._log = folder / "serve.log"
        self._read = 0

    def wait(self) -> None:
        """Wait until it answers that it is ready."""
        until(self._ready, seconds=_START_S, what=f"the service is ready; its log ends {self.log[-2000:]}")

    @property
    def log(self) -> str:
        """What it has said."""
        return self._log.read_text(errors="replace")

    def traceback(self) -> str:
        """What the first one ends with that was logged since the last call; empty without one."""
        with self._log.open("rb") as log:
            log.seek(self._read)
            found = log.read()
            self._read = log.tell()
        return end_of_traceback(found.decode(errors="replace"))

    @property
    def pids(self) -> frozenset[int]:
        """The processes of the API; none while there is none."""
        return answering(self._data / "run")

    @property
    def names(self) -> dict[int, str]:
        """What its living processes are called."""
        found = {}
        for path in (self._data / "run").glob("*.pid"):
            with suppress(OSError, ValueError):  # a process that has just ended
                found[int(path.read_text())] = path.stem
        return {pid: name for pid, name in found.items() if is_alive(pid)}

    @property
    def disk(self) -> int:
        """What its data and its temporary files take, those included that were deleted while it has them, in bytes."""
        return disk_bytes(self._data.parent, self._members) - self._log.stat().st_blocks * 512

    @property
    def memory(self) -> int:
        """What the processes of the API, and whatever they have started, hold now (VmRSS), in bytes."""
        return sum(_status(pid, "VmRSS") for pid in self._members)

    @property
    def highest_memory(self) -> int:
        """The most they held since `forget_highest` (VmHWM, added up), in bytes."""
        return sum(_status(pid, "VmHWM") for pid in self._members)

    @property
    def processor_seconds(self) -> float:
        """What they have computed so far."""
        return sum(map(_processor_seconds, self._members))

    def forget_highest(self) -> None:
        """The highest is what is held now; Linux does this on request. Reads anew which processes belong to the API."""
        self._members = self._family()
        for pid in self._members:
            with suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")

    def freeze_worker(self) -> None:
        """Nothing is worked on from now on: what is measured is the API, and what it accepts stays queued."""
        self._signal_worker(signal.SIGSTOP)

    def _signal_worker(self, number: signal.Signals) -> None:
        with suppress(OSError, ValueError):
            pid = int((self._data / "run" / "worker.pid").read_text())
            for member in (pid, *descendants_of(pid)):
                os.kill(member, number)

    def restart_api(self) -> None:
        """End the processes of the API by force, wherever they stand, and wait until others answer."""
        before = self.pids
        for pid in before:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: self.pids and not self.pids & before, seconds=_START_S, what="other processes of the API")
        self.wait()

    def ask(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> Json:
        """A plain request with the key, and its JSON answer; raises OSError where it is refused."""
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": kind}
        url = f"http://127.0.0.1:{self.port}{path}"
        with urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method), timeout=90) as answer:
            content = answer.read()
        found: Json = json.loads(content) if content else {}
        return found

    def stop(self) -> None:
        """End everything that was started, by its own process ids."""
        self._signal_worker(signal.SIGCONT)
        below = descendants_of(self._process.pid)
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(15)
        for pid in (*below, self._process.pid):
            with suppress(ProcessLookupError):
                if is_alive(pid):
                    os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def _ready(self) -> bool:
        assert self._process.poll() is None, self.log[-4000:]
        try:
            self.ask("GET", "/readyz")
        except (OSError, ValueError):
            return False
        return True

    def _family(self) -> set[int]:
        return set(self.pids).union(*map(descendants_of, self.pids))


def end_of_traceback(log: str) -> str:
    """What the first one ends with in a log of `fedlas serve`; empty without one."""
    lines = [line.partition(" | ")[2] for line in log.partition(_TRACEBACK)[2].splitlines()[1:]]
    ends = (line for line in lines if re.match(r"[A-Za-z_.]+(: |$)", line))  # its other lines are indented
    return next(ends, _TRACEBACK) if _TRACEBACK in log else ""


@contextmanager
def serving(checkout: Path, folder: Path, memory_bytes: int) -> Iterator[Service]:
    """The service for the block."""
    service = Service(checkout, folder, memory_bytes)
    try:
        service.wait()
        yield service
    finally:
        service.stop()


def _limited(memory_bytes: int) -> Any:
    die = die_with_parent(signal.SIGTERM)

    def prepare() -> None:
        if die is not None:
            die()
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, resource.getrlimit(resource.RLIMIT_DATA)[1]))

    return prepare


def _processor_seconds(pid: int) -> float:
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _status(pid: int, name: str) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0
