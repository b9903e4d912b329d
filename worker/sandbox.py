"""The limited child process in which uploads are opened and jobs run: started, watched and ended here.

The child is a fresh interpreter in a session of its own, with an allow-listed environment (no secrets) and a private
folder; it ends when the pipe that its supervisor holds closes, so it never outlives a killed worker. It reads files
and writes files; only the supervisor touches the registry.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_PASSED_ON = (
    "PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "OMP_NUM_THREADS",
    "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES",
)  # fmt: skip
_TICK_S = 0.5
_LOG_TAIL = 4000


@dataclass(frozen=True, slots=True)
class Limits:
    """What the child may use; None means no limit of its own."""

    seconds: float
    address_space: int | None = None
    file_size: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the child ended: with a result, with an error it explains, or without a word."""

    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    died: str | None = None  # "signal 9", "exit code 1", "timeout"
    log: str = ""


def worker_name() -> str:
    """Host and process: who holds a lease, and whose folders are whose."""
    return f"{socket.gethostname()}-{os.getpid()}"


def clear_left_overs(root: Path) -> None:
    """Remove the folders of workers of this host that are gone: a killed worker cannot tidy up."""
    for folder in root.glob(f"{socket.gethostname()}-*"):
        pid = folder.name.rpartition("-")[2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def private_folder(root: Path) -> Iterator[Path]:
    """A folder for one child, gone afterwards."""
    place = root / worker_name()
    place.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=place))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(
    step: str,
    spec: Mapping[str, Any],
    *,
    folder: Path,
    limits: Limits,
    on_event: Callable[[dict[str, Any]], None],
    on_tick: Callable[[], None],
) -> Outcome:
    """Run one step in a child and return how it ended.

    `on_event` is given every progress event; `on_tick` is called about twice a second and may raise to stop the
    child, which is then killed with all its descendants.
    """
    request = {"step": step, "spec": dict(spec), "limits": asdict(limits)}
    (folder / "request.json").write_text(json.dumps(request))
    with (folder / "log.txt").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "worker.child", str(folder)],
            stdin=subprocess.PIPE,  # held open: its closing is the child's signal that we are gone
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=folder,
            env=_environment(folder),
            start_new_session=True,
        )
    try:
        died = _watch(child, limits.seconds, on_event, on_tick)
    finally:
        _kill_group(child)
    return _outcome(folder, died)


def _environment(folder: Path) -> dict[str, str]:
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {**passed_on, "HOME": str(folder), "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}


def _watch(
    child: subprocess.Popen[bytes],
    seconds: float,
    on_event: Callable[[dict[str, Any]], None],
    on_tick: Callable[[], None],
) -> str | None:
    """Pass events on until the child ends; return None if it ended by itself and well."""
    assert child.stdout is not None
    deadline = time.monotonic() + seconds
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while True:
            if selector.select(_TICK_S):
                chunk = os.read(child.stdout.fileno(), 65536)
                if not chunk:
                    break
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    on_event(json.loads(line))
            on_tick()
            if time.monotonic() > deadline:
                return "timeout"
    while child.poll() is None:  # it closed its pipe and is about to end, or only pretends to
        on_tick()
        if time.monotonic() > deadline:
            return "timeout"
        time.sleep(_TICK_S / 10)
    code = child.returncode
    return None if code == 0 else f"signal {-code}" if code < 0 else f"exit code {code}"


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):  # already gone with all its descendants
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            stream.close()


def _outcome(folder: Path, died: str | None) -> Outcome:
    log = (folder / "log.txt").read_bytes()[-_LOG_TAIL:].decode(errors="replace")
    answer = folder / "answer.json"
    if died is not None or not answer.is_file():
        return Outcome(died=died or "no answer", log=log)
    content = json.loads(answer.read_text())
    return Outcome(result=content.get("result"), error=content.get("error"), log=log)
