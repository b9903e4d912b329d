"""The worker's check of `fedlas doctor`."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker import doctor
from worker.sandbox import confinement


def test_it_names_what_uploads_are_opened_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A line for each control that a real sandbox reports here, memory and a sample; no folder is made."""
    monkeypatch.setenv("FEDLAS_DATA_DIR", str(tmp_path / "data"))
    lines = {line["name"]: line for line in doctor.check()}
    report = confinement.status(tmp_path)
    assert set(lines) == {*(f"sandbox, {name.replace('_', ' ')}" for name in report), "memory", "an upload"}
    assert lines["an upload"]["status"] == "ok"
    assert "MB resident" in lines["an upload"]["found"]
    for name, state in report.items():
        assert lines[f"sandbox, {name.replace('_', ' ')}"]["status"] == ("ok" if state.startswith("on") else "warn")
    assert list(tmp_path.iterdir()) == []


def test_an_upload_that_cannot_be_opened_fails_and_little_memory_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason that the sample gave is told as it is; 1.5 GB are called little."""
    monkeypatch.setattr(doctor, "try_sample", lambda settings, folder: (None, "opening this file took more"))
    monkeypatch.setattr(doctor, "free_bytes", lambda: 1_500_000_000)
    lines = {line["name"]: line for line in doctor.check()}
    assert lines["an upload"]["status"] == "fail"
    assert lines["an upload"]["found"] == "opening this file took more"
    assert lines["memory"] == {
        "name": "memory", "status": "warn", "found": "1.5 GB are free; a small calibration takes 2",
    }  # fmt: skip


def test_what_is_missing_is_a_warning_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """An old kernel is a warning, as in the worker's log: it does not keep a service from running."""
    monkeypatch.setattr(confinement, "status", lambda _: {"files": "off: syscall: Function not implemented"})
    monkeypatch.setattr(doctor, "try_sample", lambda settings, folder: ("700 MB", None))
    assert {line["name"]: line for line in doctor.check()}["sandbox, files"] == {
        "name": "sandbox, files", "status": "warn",
        "found": "uploads are opened without this protection: reads only its inputs and writes "
        "only its folder (syscall: Function not implemented)",
        "remedy": "Linux 5.13 or newer with Landlock among lsm= of the kernel",
    }  # fmt: skip
