"""The sample that a worker opens at its start, in real children: what it measures, and why it may fail."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from service.registry.settings import WorkerSettings
from worker.outside.kinds.base import KILLED_FOR_MEMORY, lasting_error
from worker.outside.kinds.uploads import _SAMPLE, try_sample
from worker.sandbox.process import ChildOutcome
from worker.sandbox.protocol import ChildError, Limits, Loaded

LOADED = Loaded(address_space=3_700_000_000, resident=700_000_000, data=950_000_000, seconds=2.5)
LIMITED = Limits(60, memory=10**9)
DEFECT = ChildError(code="internal_error", message="", user_error=False)


def package(folder: Path, name: str, code: str) -> dict[str, str]:
    """A folder in which `name` is a package of this code; the variable that lets children find it first."""
    (folder / "shadow" / name).mkdir(parents=True)
    (folder / "shadow" / name / "__init__.py").write_text(code)
    return {"PYTHONPATH": str(folder / "shadow")}


def tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str] = {}, **settings: int) -> str:
    """The reason why the sample cannot be opened in this environment and with these settings."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    _, unfit = try_sample(WorkerSettings(**settings), tmp_path / "work")
    assert unfit is not None
    return unfit.removeprefix("this worker cannot open a sample of its own, nor any upload: ")


def test_it_measures_what_the_libraries_take(tmp_path: Path) -> None:
    """The sample is opened within the limits of any upload, and tells what PyTorch and the others take here."""
    loaded, unfit = try_sample(WorkerSettings(), tmp_path / "work")
    assert unfit is None
    assert loaded is not None
    assert 10**8 < loaded.data < loaded.address_space
    assert 10**8 < loaded.resident < loaded.address_space
    assert 0 < loaded.seconds < 600
    assert [path for path in (tmp_path / "work").rglob("*") if path.is_file()] == []


def test_the_sample_is_a_classifier() -> None:
    """ONNX Runtime alone opens the file that is shipped: four numbers a row, two classes."""
    session = ort.InferenceSession(_SAMPLE.read_bytes(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"x": np.ones((3, 4), np.float32)})
    assert logits.shape == (3, 2)
    assert np.isfinite(logits).all()


@pytest.mark.parametrize("setting", ["inspection_base_bytes", "inspection_memory_bytes"])
def test_a_limit_that_is_too_low_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    """Whoever set it reads its size and its name; what the libraries take is not counted against it."""
    told = tried(tmp_path, monkeypatch, **{setting: 1_000_000})
    assert told.startswith("opening this file took more memory than is allowed, 1 MB beside the worker's libraries;")
    assert f"FEDLAS_{setting.upper()}" in told


@pytest.mark.parametrize(
    ("code", "found"),
    [
        (
            "raise ImportError('libcudart.so.13: no such file')",
            "exit code 1: ImportError: libcudart.so.13: no such file",
        ),
        ("import os\nos.abort()", f"signal {signal.SIGABRT.value}"),
    ],
    ids=["error", "signal"],
)
def test_a_pytorch_that_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, found: str) -> None:
    """The library's own words, or the signal, stand in the sentence, with where to look."""
    told = tried(tmp_path, monkeypatch, package(tmp_path, "torch", code))
    assert told == (
        f"the worker cannot load PyTorch and its other libraries, so nothing was opened ({found}); "
        "`fedlas doctor` on its machine says more"
    )


def test_a_python_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter that was removed after the worker's start is named."""
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    assert "it cannot be started: [Errno 2] No such file or directory: '/nowhere/python'" in tried(
        tmp_path, monkeypatch
    )


@pytest.mark.parametrize(
    ("outcome", "limits", "code"),
    [
        (ChildOutcome(died="signal 11"), LIMITED, "worker_unfit"),
        (ChildOutcome(died="timeout"), LIMITED, "worker_unfit"),
        (ChildOutcome(died="timeout", loaded=LOADED), LIMITED, "timeout"),
        (ChildOutcome(died="signal 6", loaded=LOADED, log="| std::bad_alloc"), LIMITED, "out_of_memory"),
        (ChildOutcome(died="signal 6", loaded=LOADED, log="| std::bad_alloc"), Limits(60), "out_of_memory"),
        (ChildOutcome(error=DEFECT, loaded=LOADED, log="| std::bad_alloc"), LIMITED, "out_of_memory"),
        (ChildOutcome(error=DEFECT, loaded=LOADED, log="| KeyError"), LIMITED, "internal_error"),
        (ChildOutcome(died="signal 11", loaded=LOADED), LIMITED, None),
        (ChildOutcome(died="signal 9"), LIMITED, None),
        (ChildOutcome(died="signal 15"), LIMITED, None),
        (ChildOutcome(died=KILLED_FOR_MEMORY, loaded=LOADED, log="| MemoryError"), LIMITED, None),
        (ChildOutcome(result={}, loaded=LOADED, log="| MemoryError that was caught"), LIMITED, None),
    ],
)
def test_which_ends_are_final(outcome: ChildOutcome, limits: Limits, code: str | None) -> None:
    """An end that would happen again is reported at once; one that somebody else brought about is tried again."""
    error = lasting_error(outcome, limits)
    assert (None if error is None else error.code) == code
    assert error is None or error.user_error == (code == "out_of_memory" and limits.memory is not None)


def test_a_crash_on_an_unfit_worker_is_not_the_fault_of_a_file() -> None:
    """A worker that cannot open its own sample ends every upload so; an error that a file explains stays the file's."""
    lacked = ChildError(code="out_of_memory", message="", user_error=True)
    for outcome in (ChildOutcome(died="signal 11", loaded=LOADED), ChildOutcome(error=lacked, loaded=LOADED)):
        error = lasting_error(outcome, LIMITED, unfit="it cannot")
        assert error is not None
        assert (error.code, error.message, error.user_error) == ("worker_unfit", "it cannot", False)
    own = ChildError(code="not_onnx", message="no model", user_error=True)
    error = lasting_error(ChildOutcome(error=own, loaded=LOADED), LIMITED, unfit="it cannot")
    assert error is not None
    assert error.code == "not_onnx"
