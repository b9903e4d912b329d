"""The sandboxed child for real: limits, secrets, and its end together with its supervisor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel

from fedlas.contract.options import DatasetOptions, ModelOptions, ScoresOptions
from fedlas.errors import DeviceTooSmall, UnsupportedModel
from tests.helpers import uploads as made
from tests.helpers.service import ROOT, children_of, is_alive, until
from worker.documents import InspectDatasetOrder, InspectModelOrder, ScoresOrder
from worker.inside import child
from worker.sandbox import process as sandbox
from worker.sandbox.process import ChildOutcome, is_gone, machine, process_mark
from worker.sandbox.protocol import ChildRequest, Limits

Json = dict[str, Any]
#: Work that loads PyTorch first, which takes longer than the half second between two ticks.
SLOW = InspectModelOrder(options=ModelOptions())
DATASET = InspectDatasetOrder(options=DatasetOptions(purpose="fit"))


def ignore(_: Json) -> None:
    """Hear nothing."""


def inspect(
    folder: Path,
    content: bytes,
    *,
    limits: Limits | None = None,
    on_tick: Callable[[], None] = lambda: None,
    order: BaseModel | None = None,
) -> ChildOutcome:
    """Inspect a dataset in a child."""
    folder.mkdir(exist_ok=True)
    file = folder / "upload"
    file.write_bytes(content)
    return sandbox.run(
        ChildRequest(
            order=order or DATASET, files={"dataset": str(file), "model": str(file)}, limits=limits or Limits(60)
        ),
        folder=folder,
        on_event=ignore,
        on_tick=on_tick,
    )


def child_of_ours() -> int | None:
    """The process id of the sandboxed child that this process has just now."""
    for pid in children_of(os.getpid()):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except FileNotFoundError:
            continue
        if b"worker.inside.child" in command:
            return pid
    return None


def test_result_and_error_come_back(tmp_path: Path) -> None:
    """A result, or the library's own error, is what the supervisor gets; no child stays."""
    good = inspect(tmp_path / "good", made.digits_npz())
    assert (good.error, good.died) == (None, None)
    assert good.result is not None
    assert good.result["profile"]["num_samples"] == 1797
    assert (tmp_path / "good" / good.result["prepared"]).is_file()
    bad = inspect(tmp_path / "bad", b"a,b\n1,2\n")
    assert bad.result is None
    assert bad.error is not None
    assert (bad.error.code, bad.error.user_error) == ("no_label", True)
    assert child_of_ours() is None


def test_a_defect_is_ours_and_is_logged(tmp_path: Path) -> None:
    """An unexpected exception is reported as our error, without its text, which goes to the log."""
    order = ScoresOrder(sha256="0", options=ScoresOptions(method="auto"))  # and no file of that name
    outcome = inspect(tmp_path / "a", b"x", order=order)
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.user_error) == ("internal_error", False)
    assert "KeyError" in outcome.log
    assert "KeyError" not in outcome.error.message


def test_the_group_is_ended_before_its_leader_is_reaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that ended by itself keeps its id, and its group's, until the group was ended."""
    states: list[str] = []
    really = os.killpg

    def killpg(group: int, number: int) -> None:
        states.append(Path(f"/proc/{group}/stat").read_text().rpartition(")")[2].split()[0])
        really(group, number)

    monkeypatch.setattr(os, "killpg", killpg)
    outcome = inspect(tmp_path / "a", b"a,b\n1,2\n")
    assert outcome.error is not None
    assert outcome.error.code == "no_label"
    assert states == ["Z"]


def test_a_group_whose_leader_is_gone_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a child was reaped its id may be anybody's: nothing is sent to it any more."""
    child = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    child.wait()
    monkeypatch.setattr(os, "killpg", lambda *_: pytest.fail("a signal to somebody else"))
    assert sandbox._kill_group(child) == 0


def test_killed_child(tmp_path: Path) -> None:
    """A child that is killed is reported as dead by that signal."""

    def kill() -> None:
        if (pid := child_of_ours()) is not None:
            os.kill(pid, signal.SIGKILL)

    assert inspect(tmp_path / "a", b"model", order=SLOW, on_tick=kill).died == "signal 9"


def test_child_out_of_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that does not come to load its libraries in time is ended; time for its work counts from there on."""
    done = inspect(tmp_path / "a", b"model", order=SLOW, limits=Limits(seconds=1))
    assert (done.died, done.loaded is not None) == (None, True)
    monkeypatch.setattr(sandbox, "_LOADING_S", 0.001)
    late = inspect(tmp_path / "b", b"model", order=SLOW)
    assert (late.died, late.loaded) == ("timeout", None)
    assert child_of_ours() is None


def test_supervisor_that_changes_its_mind(tmp_path: Path) -> None:
    """An exception of a tick ends the child and comes through."""
    seen: list[int | None] = []

    def stop() -> None:
        seen.append(child_of_ours())
        raise LookupError

    with pytest.raises(LookupError):
        inspect(tmp_path / "a", b"model", order=SLOW, on_tick=stop)
    assert seen[0] is not None
    assert not is_alive(seen[0])


@pytest.mark.parametrize(
    "limits",
    [Limits(60, file_size=4096), Limits(60, address_space=2**19), Limits(60, memory=2**19)],
    ids=["file size", "address space", "memory"],
)
def test_limits_are_the_kernels(tmp_path: Path, limits: Limits) -> None:
    """A child can neither write a larger file nor take more memory beside its libraries than it may."""
    outcome = inspect(tmp_path / "a", made.digits_npz(), limits=limits)
    assert outcome.result is None
    assert outcome.died != "timeout"
    written = tmp_path / "a" / "prepared.npz"
    assert not written.exists() or written.stat().st_size <= 4096


def test_no_secret_reaches_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child's environment is an allow-list: no keys, URLs or passwords of the service are in it."""
    for name in ("FEDLAS_API_KEYS", "FEDLAS_DATABASE_URL", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "SOME_TOKEN"):
        monkeypatch.setenv(name, "s3cr3t")
    found: list[bytes] = []

    def look() -> None:
        if (pid := child_of_ours()) is not None:
            found.append(Path(f"/proc/{pid}/environ").read_bytes())
            raise LookupError

    with pytest.raises(LookupError):
        inspect(tmp_path / "a", b"model", order=SLOW, on_tick=look)
    assert b"s3cr3t" not in found[0]
    names = {entry.partition(b"=")[0].decode() for entry in found[0].split(b"\0") if entry}
    own = {"HOME", "TMPDIR", "PYTHONUNBUFFERED", "ORT_DISABLE_TELEMETRY", "ARROW_DEFAULT_MEMORY_POOL"}
    assert names <= {*sandbox._PASSED_ON, *own}
    assert f"HOME={tmp_path / 'a'}".encode() in found[0]


@pytest.mark.parametrize(("devices", "seen"), [(None, "7"), ("MIG-1", "MIG-1"), ("", "")])
def test_a_child_sees_the_card_that_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: str | None, seen: str
) -> None:
    """A child has its own `CUDA_VISIBLE_DEVICES`, of no card where it is empty; without one the worker's stays."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    found: list[bytes] = []

    def look() -> None:
        if (pid := child_of_ours()) is not None:
            found.append(Path(f"/proc/{pid}/environ").read_bytes())
            raise LookupError

    (tmp_path / "upload").write_bytes(b"model")
    request = ChildRequest(order=SLOW, files={"model": str(tmp_path / "upload")}, limits=Limits(60))
    with pytest.raises(LookupError):
        sandbox.run(request, folder=tmp_path, on_event=ignore, on_tick=look, devices=devices)
    given = [entry for entry in found[0].split(b"\0") if entry.startswith(b"CUDA_VISIBLE_DEVICES=")]
    assert given == [f"CUDA_VISIBLE_DEVICES={seen}".encode()]


def test_child_ends_with_its_supervisor(tmp_path: Path) -> None:
    """When the supervisor is killed its child ends by itself, without a signal."""
    (tmp_path / "upload").write_bytes(made.text_model())
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from worker.sandbox import process as sandbox\n"
        "from worker.documents import InspectModelOrder, ModelOptions\n"
        "from worker.sandbox.protocol import ChildRequest, Limits\n"
        "order = InspectModelOrder(options=ModelOptions())\n"
        "print('ready', flush=True)\n"
        "request = ChildRequest(order=order, files={'model': sys.argv[1] + '/upload'}, limits=Limits(60))\n"
        "sandbox.run(request, folder=Path(sys.argv[1]), on_event=lambda event: None, on_tick=lambda: None)\n"
    )
    supervisor = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    with supervisor:
        (child,) = until(lambda: children_of(supervisor.pid), what="the child starts")
        until(lambda: b"worker.inside.child" in Path(f"/proc/{child}/cmdline").read_bytes(), what="it is itself")
        supervisor.kill()
    until(lambda: not is_alive(child), what="the child ends")
    assert not (tmp_path / "answer.json").exists()


def test_private_folders_go(tmp_path: Path) -> None:
    """A private folder is gone after its block, also after an error; those of dead workers are cleared."""

    def fail() -> None:
        with sandbox.private_folder(tmp_path) as folder:
            (folder / "file").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_child_protocol(tmp_path: Path) -> None:
    """Events are JSON lines on the pipe, prints of libraries are not among them, and the answer appears whole."""
    (tmp_path / "upload").write_bytes(made.digits_npz())
    request = {
        "order": {"kind": "inspect_dataset", "options": {}},
        "files": {"dataset": str(tmp_path / "upload")},
        "expected": [],
        "limits": {"seconds": 60, "address_space": None, "file_size": None},
    }
    (tmp_path / "request.json").write_text(json.dumps(request))
    child = subprocess.Popen(
        [sys.executable, "-m", "worker.inside.child", str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with child:
        assert child.stdout is not None
        lines = child.stdout.read().splitlines()
        assert child.wait(60) == 0
    assert all(isinstance(json.loads(line), dict) for line in lines)
    assert json.loads((tmp_path / "answer.json").read_text())["result"]["prepared"] == "prepared.npz"
    assert not (tmp_path / "answer.partial").exists()


def test_child_without_supervisor_exits(tmp_path: Path) -> None:
    """With its standard input closed from the start, the child ends instead of working unsupervised."""
    request = {
        "order": {"kind": "inspect_model", "options": {}}, "files": {}, "expected": [],
        "limits": {"seconds": 60, "address_space": None, "file_size": None},
    }  # fmt: skip
    (tmp_path / "request.json").write_text(json.dumps(request))
    command = [sys.executable, "-m", "worker.inside.child", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    assert done.returncode == 3
    assert not (tmp_path / "answer.json").exists()


def test_a_lack_of_memory_is_told_apart_from_a_bad_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An importer that explains what PyTorch ran into does not call a sound file invalid because memory was short."""

    def importer(cause: BaseException) -> Callable[..., None]:
        def fails(*_: object) -> None:
            raise UnsupportedModel("invalid_graph", "the graph is not valid ONNX") from cause

        return fails

    for cause, code in (
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), "out_of_memory"),
        (ValueError("a node without inputs"), "invalid_graph"),
    ):
        monkeypatch.setattr("worker.inside.inspection.inspect_model", importer(cause))
        answer = json.loads(child.answer_to(SLOW, {}, tmp_path, lambda _: None))
        assert answer["error"]["code"] == code
        assert answer["error"]["user_error"] is True


CUDA = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported later"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (torch.AcceleratorError(CUDA), "card_failed", f"its card failed: {CUDA.splitlines()[0]}"),
        (RuntimeError(CUDA), "card_failed", f"its card failed: {CUDA.splitlines()[0]}"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "card_failed", "its card failed: cuDNN error"),
        (UnsupportedModel("bad_name", "a name is 'CUDA error'"), "bad_name", "a name is"),
        (DeviceTooSmall("8 GiB do not hold it"), "card_too_small", "8 GiB do not hold it"),
        (RuntimeError("a defect"), "internal_error", "an unexpected error"),
    ],
    ids=lambda part: type(part).__name__ if isinstance(part, Exception) else "",
)
def test_a_card_is_told_apart_from_a_defect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str, message: str
) -> None:
    """The end by a card's failure or its small memory is no defect of ours and no fault of the file."""

    def fails(*_: object) -> None:
        raise error

    def wraps(*_: object) -> None:
        raise UnsupportedModel("invalid_graph", "the graph is not valid ONNX") from error

    found = []
    for importer in (fails, fails if isinstance(error, UnsupportedModel) else wraps):
        monkeypatch.setattr("worker.inside.inspection.inspect_model", importer)
        found.append(json.loads(child.answer_to(SLOW, {}, tmp_path, lambda _: None))["error"])
    assert found[0]["code"] == code
    assert found[0]["message"].startswith(message)
    assert found[0]["user_error"] is (code == "bad_name")
    assert found[1]["code"] == (code if code in ("card_failed", "bad_name") else "invalid_graph")


@pytest.mark.parametrize(
    "words", ["CUDA out of memory. Tried to allocate 2 GiB", "CUDA error: out of memory", "a row of 8 GiB"]
)
def test_a_network_too_large_for_its_card_is_not_a_lack_of_main_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    """Whichever part of PyTorch found no memory, and whoever said so."""

    def fails(*_: object) -> None:
        error = torch.OutOfMemoryError if words.startswith("CUDA") else DeviceTooSmall
        raise error(words) from torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("worker.inside.inspection.inspect_model", fails)
    assert json.loads(child.answer_to(SLOW, {}, tmp_path, lambda _: None))["error"]["code"] == "card_too_small"


def test_a_living_process_is_not_gone_and_a_dead_one_is() -> None:
    """A process is gone once it has ended, also while its parent has not asked for its exit code."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    mark = process_mark(child.pid)
    assert not is_gone(mark)
    os.kill(child.pid, signal.SIGSTOP)
    assert not is_gone(mark), "asleep is not dead"
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie
    assert is_gone(mark)
    child.wait()
    assert child.stdin is not None
    child.stdin.close()
    assert is_gone(mark)


def test_an_id_that_was_given_again_is_another_process() -> None:
    """A process id with another start belongs to another process."""
    pid, _, start = process_mark(os.getpid()).partition(" ")
    assert is_gone(f"{pid} {int(start) - 1}")


@pytest.mark.parametrize("mark", ["", "x", "999999999 1"])
def test_nonsense_is_gone(mark: str) -> None:
    """A mark that names no process names none that lives."""
    assert is_gone(mark)


def test_children_are_on_the_same_machine() -> None:
    """Processes of one machine agree on its name."""
    code = "from worker.sandbox.process import machine; print(machine())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == machine()
