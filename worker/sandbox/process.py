"""The sandboxed child process in which uploads are opened and jobs run: started, watched and ended here.

The child is a fresh interpreter in a session of its own, with an allow-listed environment (no secrets) and a private
folder; it gives up everything else itself (`worker.sandbox.confinement`) before it opens anything, and it ends when the
pipe that its supervisor holds closes, so it never outlives a killed worker. It reads files and writes files; only the
supervisor touches the registry, and it trusts nothing that the child leaves behind: answer, log or files.
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
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from textwrap import indent

from service.confinement.confinement import lacking
from worker.sandbox.protocol import (
    ANSWER,
    REQUEST,
    ChildAnswer,
    ChildError,
    ChildRequest,
    JsonObject,
    Loaded,
    Order,
    Replies,
)


@cache
def machine() -> str:
    """Names this boot and this process namespace: only within both does a process id always mean the same process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def process_mark(pid: int) -> str:
    """A process id with its start, since ids are given again; raises OSError if there is no such process.

    >>> import os
    >>> is_gone(process_mark(os.getpid()))
    False
    """
    if sys.platform != "linux":
        os.kill(pid, 0)
        return str(pid)
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if fields[0] in "ZX":
        raise ProcessLookupError(f"process {pid} has ended")
    return f"{pid} {fields[19]}"


def is_gone(mark: str) -> bool:
    """True where the process that had this mark, on this machine, is no more."""
    pid = mark.partition(" ")[0]
    try:
        return not pid.isdigit() or process_mark(int(pid)) != mark
    except OSError:
        return True


_LOG_TAIL = 4000
_MAX_ANSWER = 64 * 1024**2
_PASSED_ON = (
    *("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV"),
    *("OMP_NUM_THREADS", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"),
)
_TICK_S = 0.5
#: From its start until its libraries are loaded: CUDA's are 2.5 GB, which a cold disk of 20 MB/s reads in two minutes.
_LOADING_S = 600.0
_MAX_EVENT = 1024**2


@dataclass(frozen=True, slots=True)
class ChildOutcome:
    """The end of a child: with a result, with an error it explains, without an answer, or before it began."""

    result: JsonObject | None = None
    error: ChildError | None = None
    died: str | None = None  # "signal 9", "exit code 1", "timeout"
    unprotected: str | None = None  # which protections it lacked: nothing was opened
    loaded: Loaded | None = None  # None: it ended while it loaded its libraries, and nothing was opened
    log: str = ""


def read_outcome(folder: Path, died: str | None) -> ChildOutcome:
    """Read the outcome that the child left in its folder; `died` says how it ended, where it did not end well."""
    _keep_only_files(folder)
    log = log_tail(folder)
    file = folder / ANSWER
    if died is not None or not file.is_file() or file.stat().st_size > _MAX_ANSWER:
        return ChildOutcome(died=died or "no answer", log=log)
    try:
        answer = ChildAnswer.model_validate(json.loads(file.read_text()))
        # Raises for text that no answer to a client carries.
        json.dumps(answer.model_dump(), ensure_ascii=False).encode()
    except (ValueError, TypeError, RecursionError):
        return ChildOutcome(died="an invalid answer", log=log)
    # The strings of a result are words or names of files in the folder, never paths that lead out of it.
    words = [value for value in (answer.result or {}).values() if isinstance(value, str)]
    if any("/" in word or word in ("", ".", "..") for word in words):
        return ChildOutcome(died="an answer that names files outside its folder", log=log)
    if answer.result is None and answer.error is None:
        return ChildOutcome(died="an answer without content", log=log)
    return ChildOutcome(result=answer.result, error=answer.error, log=log)


def _keep_only_files(folder: Path) -> None:
    """Remove links, pipes and devices that a child left: reading its files must not lead elsewhere."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            status = os.lstat(path)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                os.unlink(path)
    for place, names, _ in os.walk(folder):
        for name in [name for name in names if os.path.islink(os.path.join(place, name))]:
            os.unlink(os.path.join(place, name))


def log_tail(folder: Path) -> str:
    """The end of the child's log: nothing in it commands the operator's terminal or passes for a line of the worker."""
    file = folder / "log.txt"
    if not file.is_file():
        return ""
    with file.open("rb") as log:
        log.seek(max(0, file.stat().st_size - _LOG_TAIL))
        text = log.read().decode(errors="replace")
    printable = "".join(character if character.isprintable() or character in "\n\t" else "?" for character in text)
    return indent(printable, "| ")


def worker_name() -> str:
    """Host and process (its id and start): who holds a lease, and whose folders are whose."""
    return f"{socket.gethostname()}-{process_mark(os.getpid()).replace(' ', '-')}"


def remove_stale_folders(root: Path) -> None:
    """Remove the folders of workers of this host that are gone: a killed worker removes nothing."""
    for folder in root.glob(f"{socket.gethostname()}-*"):
        if is_gone(folder.name.removeprefix(f"{socket.gethostname()}-").replace("-", " ")):
            _remove(folder)


@contextmanager
def private_folder(root: Path) -> Iterator[Path]:
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
    request: ChildRequest[Order],
    *,
    folder: Path,
    on_event: Callable[[JsonObject], None],
    on_tick: Callable[[], None],
    replies: Replies | None = None,
    devices: str | None = None,
) -> ChildOutcome:
    """Do one piece of work in a child and return how it ended.

    Args:
        folder: the child's own, in which it leaves its files.
        on_event: is given every event, unchecked.
        on_tick: is called about twice a second and may raise to stop the child, which is then killed with all its
            descendants.
        replies: what is sent to it while it runs.
        devices: its `CUDA_VISIBLE_DEVICES`; None for that of this process.
    """
    replies = replies or Replies()
    (folder / REQUEST).write_text(request.model_dump_json())
    stream = _EventStream(on_event, request.expected, request.limits.seconds)
    try:
        with (folder / "log.txt").open("wb") as log:
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", "worker.inside.child", str(folder)],
                stdin=subprocess.PIPE,  # replies; its closing is the child's signal that its supervisor is gone
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                env=_environment(folder, devices),
                start_new_session=True,
            )
    except (FileNotFoundError, PermissionError) as error:  # others may pass: too many processes, too little memory
        return ChildOutcome(died=f"it cannot be started: {error}")
    assert child.stdin is not None
    replies.connect(child.stdin.fileno())
    try:
        died = _watch(child, stream, on_tick, replies)
    finally:
        replies.disconnect()
        code = _kill_group(child)
    if stream.lacking:
        return ChildOutcome(unprotected="; ".join(stream.lacking), log=log_tail(folder))
    ended = f"signal {-code}" if code < 0 else f"exit code {code}"
    return replace(read_outcome(folder, died or (ended if code else None)), loaded=stream.loaded)


class _EventStream:
    """A child's events; the first two, sent before it opens anything, report how it is confined and what it loaded.

    Attributes:
        deadline: of loading, and then of its work.
    """

    def __init__(self, on_event: Callable[[JsonObject], None], expected: Collection[str], seconds: float) -> None:
        self._on_event = on_event
        self._expected = expected
        self._seconds, self.deadline = seconds, time.monotonic() + _LOADING_S
        self._began = False
        self.lacking: list[str] = []
        self.loaded: Loaded | None = None

    def take(self, event: JsonObject) -> None:
        """Pass an event on; the first two are for this class."""
        if self.loaded is not None:
            self._on_event(event)
        elif self._began:
            self.loaded, self.deadline = Loaded.model_validate(event), time.monotonic() + self._seconds
        else:
            self._began = True
            self.lacking = lacking(event.get("confined"), self._expected)


def _environment(folder: Path, devices: str | None) -> dict[str, str]:
    return {
        **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        **({} if devices is None else {"CUDA_VISIBLE_DEVICES": devices}),
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "PYTHONUNBUFFERED": "1",
        # ONNX Runtime would report home, which it cannot, and say so in every log.
        "ORT_DISABLE_TELEMETRY": "1",
        # Arrow's own pool maps a gibibyte with its first array, which counts as memory that the child uses.
        "ARROW_DEFAULT_MEMORY_POOL": "system",
    }


def _watch(
    child: subprocess.Popen[bytes], stream: _EventStream, on_tick: Callable[[], None], replies: Replies
) -> str | None:
    assert child.stdout is not None
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while True:
            if child.stdout in _ready(selector, child, replies):
                chunk = os.read(child.stdout.fileno(), 65536)
                if not chunk:
                    break
                *lines, pending = (pending + chunk).split(b"\n")
                events = [_event(line) for line in lines]
                if len(pending) > _MAX_EVENT or None in events:
                    return "invalid events"
                for event in events:
                    stream.take(event or {})
                if stream.lacking:
                    return "a protection is missing"
            on_tick()
            if replies.ignored:
                return "it reads no replies"
            if time.monotonic() > stream.deadline:
                return "timeout"
    while not _has_ended(child):  # it closed its pipe and is about to end, or only pretends to
        on_tick()
        if time.monotonic() > stream.deadline:
            return "timeout"
        time.sleep(_TICK_S / 10)
    return None


def _ready(selector: selectors.BaseSelector, child: subprocess.Popen[bytes], replies: Replies) -> list[object]:
    """The pipes of the child that are ready within a tick; it is written to where it has not read everything."""
    assert child.stdin is not None
    waits = child.stdin in selector.get_map()
    if replies.unread and not waits:
        selector.register(child.stdin, selectors.EVENT_WRITE)
    elif waits and not replies.unread:
        selector.unregister(child.stdin)
    ready: list[object] = [key.fileobj for key, _ in selector.select(_TICK_S)]
    if child.stdin in ready:
        replies.flush()
    return ready


def _event(line: bytes) -> JsonObject | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None


def _has_ended(child: subprocess.Popen[bytes]) -> bool:
    """True where it has ended; it is not reaped, so that its id, and its group's, stays its own until `_kill_group`."""
    if not hasattr(os, "waitid"):  # macOS with Python before 3.13
        return child.poll() is not None
    return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _kill_group(child: subprocess.Popen[bytes]) -> int:
    """End the child with all its descendants, then reap it; returns its exit code, negative for a signal.

    In this order: the id of a process that was reaped may be another's by now, and so may that of its group.
    """
    if child.returncode is None:
        with suppress(ProcessLookupError, PermissionError):  # the group is empty
            os.killpg(child.pid, signal.SIGKILL)
    code = child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            stream.close()
    return code
