"""`fedlas doctor` as a process, and the checks that it runs in others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from fedlas.cli.doctor import CHECKS, Finding, devices, installed, machine
from fedlas.cli.doctor.examination import _run
from fedlas.cli.doctor.finding import exit_code
from fedlas.extras import beside

run_module = import_module("fedlas.cli.doctor.run")

ROOT = Path(__file__).parents[4]


def _doctor(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FEDLAS_")}
    return subprocess.run(
        [sys.executable, "-m", "fedlas.cli.doctor", *arguments],
        cwd=cwd, env={**clean, "PYTHONPATH": os.pathsep.join(sys.path), **variables}, capture_output=True, text=True,
    )  # fmt: skip


def test_it_examines_this_machine(tmp_path: Path) -> None:
    """Every check has lines, each with a status; the one that fails makes the exit code 1, and nothing is made."""
    done = _doctor("--json", cwd=tmp_path, FEDLAS_URL="http://127.0.0.1:1")
    assert (done.returncode, done.stderr) == (1, "")
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["ok"] is False
    assert {line["topic"] for line in told["checks"]} >= {*CHECKS, "service", "worker"}
    assert {line["topic"] for line in told["checks"] if line["status"] == "fail"} == {"server"}
    found = {(line["topic"], line["name"]): line["found"] for line in told["checks"]}
    assert found["installed", "FedLAS"].startswith(version("fedlas"))
    assert found["ONNX Runtime", "ONNX Runtime"].endswith("ExecutionProvider")
    assert list(tmp_path.iterdir()) == []


def test_what_fails_stands_on_the_page_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A database URL that leads nowhere makes the exit code 1; its password is not shown."""
    environment = {
        "FEDLAS_DATABASE_URL": "postgresql+psycopg://u:secret@127.0.0.1:1/x",
        "FEDLAS_DATA_DIR": str(tmp_path),
        "FEDLAS_WALL": "off",
    }
    monkeypatch.setattr(
        run_module, "examine", lambda **_: _run("service", "service.doctor:check", "service", environment, 30)
    )
    assert run_module.run() == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "service"
    assert lines[1].startswith("  FAIL database: postgresql+psycopg://u:***@127.0.0.1:1/x: connection failed")
    assert lines[2].strip() == "-> correct FEDLAS_DATABASE_URL, or start the database"
    assert lines[-1] == "0 ok, 0 to look at, 1 failing"


def test_each_check_has_a_time_limit() -> None:
    """One that hangs is ended, and what it had found until then is kept."""
    found = _run("slow", f"{__name__}:hanging", "cli", {"PYTHONPATH": f"{ROOT}"}, 1.5)
    assert [(one.name, one.status) for one in found] == [("first", "ok"), ("slow", "warn")]
    assert found[1].found == "no answer within 1.5 s"


def hanging() -> Any:
    """A check that never ends."""
    import time

    yield {"name": "first", "status": "ok", "found": "there"}
    time.sleep(60)


@pytest.mark.parametrize(
    ("check", "found"),
    [("crashing", "its process ended with -11: "), ("raising", "the check itself failed: RuntimeError: no luck"),
     ("absent", "the check itself failed: AttributeError: ")],
)  # fmt: skip
def test_a_check_that_breaks_is_a_line(check: str, found: str) -> None:
    """A crash of its process and an exception fail, in a sentence, and without a traceback."""
    [line] = _run(check, f"{__name__}:{check}", "cli", {"PYTHONPATH": f"{ROOT}"}, 30)
    assert (line.name, line.status) == (check, "fail")
    assert line.found.startswith(found.strip())
    assert exit_code([line]) == 1


def crashing() -> None:
    """A check that brings its process down."""
    os.kill(os.getpid(), 11)


def test_a_check_whose_libraries_are_missing_has_nothing_to_say() -> None:
    """It is skipped, with what would install them."""
    [line] = _run("lacking", f"{__name__}:lacking", "s3", {"PYTHONPATH": f"{ROOT}"}, 30)
    assert line == Finding("lacking", "lacking", "skip", "fedlas_absent is not installed", "pip install 'fedlas[s3]'")


def lacking() -> None:
    """A check of something that is not installed."""
    import_module("fedlas_absent")


def raising() -> None:
    """A check with a defect."""
    raise RuntimeError("no luck")


def test_a_missing_extra_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named with what it lacks and what installs it."""
    real = installed._version
    monkeypatch.setattr(installed, "_version", lambda name: None if name in ("celery", "redis") else real(name))
    lines = {line["name"]: line for line in installed.check()}
    assert lines["fedlas[client]"]["status"] == "ok"
    extra = f"fedlas[{beside('service')}]"
    assert lines[extra] == {
        "name": extra, "status": "skip", "found": "not installed: lacks celery, redis",
        "remedy": f"pip install '{extra}'",
    }  # fmt: skip


def test_versions_that_do_not_fit_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is installed is compared with what the extra asks for."""
    real = installed._version
    monkeypatch.setattr(installed, "_version", lambda name: "1.26.4" if name == "numpy" else real(name))
    line = installed._extra("arrays")
    assert line["status"] == "fail"
    assert line["found"] == "not supported: numpy 1.26.4, needed is <3,>=2.0"


def test_devices_are_those_that_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that shows a GPU which nothing computes on is warned of, with a remedy."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("both compute on a GPU here")
    monkeypatch.setattr(devices, "_has_gpu", lambda: True)
    [runtime], [pytorch] = devices.onnx_runtime(), devices.pytorch()
    assert (runtime["status"], pytorch["status"]) == ("warn", "warn")
    assert "computed on CPUExecutionProvider, although this machine has a GPU" in runtime["found"]
    assert runtime["remedy"]
    assert pytorch["remedy"]


def test_a_wrong_result_of_a_device_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """That it answers is not enough."""
    monkeypatch.setattr(devices, "_SQUARE", [[0.0, 0.0], [0.0, 0.0]])
    [line] = devices.onnx_runtime()
    assert line["status"] == "fail"
    assert "the result was wrong: [[7.0, 10.0], [15.0, 22.0]]" in line["found"]


def test_a_folder_that_cannot_be_used_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data folder is judged where it would be made."""
    monkeypatch.setenv("FEDLAS_DATA_DIR", "/proc/nothing/here")
    lines = {line["name"]: line for line in machine.check()}
    assert lines["data folder"]["status"] == "fail"
    assert "FEDLAS_DATA_DIR" in lines["data folder"]["remedy"]


def test_lines_of_others_are_read_with_care() -> None:
    """An unknown status is a warning, and line breaks do not break the page."""
    assert Finding.read("t", {"name": "n", "status": "great", "found": "a\nb"}) == Finding("t", "n", "warn", "a b")
