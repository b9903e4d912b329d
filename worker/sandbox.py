"""The limited child process in which uploads are opened and jobs run: started, watched and ended here.

The child is a fresh interpreter in a session of its own, with an allow-listed environment (no secrets) and a private
folder; it gives up everything else itself (`worker.confinement`) before it opens anything, and it ends when the pipe
that its supervisor holds closes, so it never outlives a killed worker. It reads files and writes files; only the
supervisor touches the registry, and it trusts nothing that the child leaves behind.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from worker.machine import is_gone, process_mark

_PASSED_ON = (
    "PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "OMP_NUM_THREADS",
    "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES",
)  # fmt: skip
_TICK_S = 0.5
_LOG_TAIL = 4000
_LONGEST_EVENT = 1024**2
_LARGEST_ANSWER = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class Limits:
    """What the child may use; None means no limit of its own.

    Attributes:
        seconds: wall clock; the processor time of all cores is limited to as much.
        address_space: bytes mapped, files and libraries among them.
        file_size: bytes of each file written.
        memory: bytes of private writable memory (`RLIMIT_DATA`).
        cores: it runs on so many; every thread of a library's pool takes memory for its stack.
    """

    seconds: float
    address_space: int | None = None
    file_size: int | None = None
    memory: int | None = None
    cores: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the child ended: with a result, with an error it explains, or without a word."""

    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    died: str | None = None  # "signal 9", "exit code 1", "timeout"
    log: str = ""


def worker_name() -> str:
    """Host and process (its id and start): who holds a lease, and whose folders are whose."""
    return f"{socket.gethostname()}-{process_mark(os.getpid()).replace(' ', '-')}"


def clear_left_overs(root: Path) -> None:
    """Remove the folders of workers of this host that are gone: a killed worker cannot tidy up."""
    for folder in root.glob(f"{socket.gethostname()}-*"):
        if is_gone(folder.name.removeprefix(f"{socket.gethostname()}-").replace("-", " ")):
            _remove(folder)


@contextmanager
def private_folder(root: Path) -> Iterator[Path]:
    """A folder for one child, gone afterwards."""
    place = root / worker_name()
    place.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=place))
    try:
        yield folder
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a child's folder, also where the child has closed parts of it."""
    for place, names, _ in os.walk(folder):
        for path in [os.path.join(place, name) for name in names]:
            if not os.path.islink(path):
                with suppress(OSError):
                    os.chmod(path, stat.S_IRWXU)
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
    ours = {
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "PYTHONUNBUFFERED": "1",
        # ONNX Runtime would report home, which it cannot, and say so in every log.
        "ORT_DISABLE_TELEMETRY": "1",
        # Arrow's own pool maps a gibibyte with its first array, which counts as memory that the child uses.
        "ARROW_DEFAULT_MEMORY_POOL": "system",
    }
    return {**passed_on, **ours}


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
                events = [_event(line) for line in lines]
                if len(pending) > _LONGEST_EVENT or None in events:
                    return "events that are none"
                for event in events:
                    on_event(event or {})
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


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):  # already gone with all its descendants
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            stream.close()


def _outcome(folder: Path, died: str | None) -> Outcome:
    _keep_only_files(folder)
    log = _tail(folder / "log.txt")
    answer = folder / "answer.json"
    if died is not None or not answer.is_file() or answer.stat().st_size > _LARGEST_ANSWER:
        return Outcome(died=died or "no answer", log=log)
    try:
        content = json.loads(answer.read_text())
        json.dumps(content, ensure_ascii=False).encode()  # raises for text that no answer to a client could carry
        result, error = content.get("result"), content.get("error")
        if result is not None and not _stays_inside(result):
            return Outcome(died="an answer that names files outside its folder", log=log)
        return Outcome(result=result, error=error and _plain_error(error), log=log)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return Outcome(died="an answer that is none", log=log)


def _keep_only_files(folder: Path) -> None:
    """Remove links, pipes and devices that a child left: who publishes its files must not be led elsewhere."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            found = os.lstat(path)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                os.unlink(path)
    for place, names, _ in os.walk(folder):
        for name in [name for name in names if os.path.islink(os.path.join(place, name))]:
            os.unlink(os.path.join(place, name))


def _stays_inside(result: dict[str, Any]) -> bool:
    """The strings of a result are words or names of files in the folder, never paths that lead out of it."""
    words = [value for value in result.values() if isinstance(value, str)]
    return all("/" not in word and word not in ("", ".", "..") for word in words)


def _plain_error(error: dict[str, Any]) -> dict[str, Any]:
    return {"code": str(error["code"]), "message": str(error["message"]), "user_error": bool(error["user_error"])}


def _tail(file: Path) -> str:
    """The end of the log, without what would command the operator's terminal."""
    if not file.is_file():
        return ""
    with file.open("rb") as log:
        log.seek(max(0, file.stat().st_size - _LOG_TAIL))
        text = log.read().decode(errors="replace")
    return "".join(character if character.isprintable() or character in "\n\t" else "?" for character in text)
