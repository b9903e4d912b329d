"""`fedlas doctor`: the command, and the checks that it runs, against real processes and what may stand for them."""

from __future__ import annotations

import json
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from fedlas import __version__
from fedlas.cli import devices, doctor
from fedlas.cli.doctor import Line, checks, collected
from fedlas.client import configuration
from service.doctor import check as service_check
from tests.helpers.answering import answering
from tests.helpers.command_line import fedlas

pytestmark = pytest.mark.slow

NAMES = ("installed", "ONNX Runtime", "PyTorch", "server", "service", "worker")


def test_it_examines_this_machine(tmp_path: Path) -> None:
    """Every check has lines, each with a status; the one that fails makes the exit code 1, and nothing is made."""
    done = fedlas("doctor", "--json", "--url", "http://127.0.0.1:1", "--timeout", "60", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["ok"] is False
    assert list(dict.fromkeys(line["topic"] for line in told["checks"])) == [*NAMES]
    assert {line["topic"] for line in told["checks"] if line["status"] == "fail"} == {"server"}
    found = {(line["topic"], line["name"]): line["found"] for line in told["checks"]}
    assert found["installed", "FedLAS"].startswith(version("fedlas"))
    assert found["ONNX Runtime", "ONNX Runtime"].endswith("ExecutionProvider")
    assert list(tmp_path.iterdir()) == []


def test_what_fails_stands_on_the_page_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A database URL that leads nowhere makes the exit code 1; its password is not shown."""
    monkeypatch.setenv("FEDLAS_DATABASE_URL", "postgresql+psycopg://u:secret@127.0.0.1:1/x")
    monkeypatch.setenv("FEDLAS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("FEDLAS_WALL", "off")
    monkeypatch.setattr(doctor, "checks", lambda _: {"service": (service_check, "service")})
    assert doctor.run(seconds=30) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "service"
    assert lines[1].startswith("  FAIL database: postgresql+psycopg://u:***@127.0.0.1:1/x: connection failed")
    assert lines[2].strip() == "-> correct FEDLAS_DATABASE_URL, or start the database"
    assert lines[-1] == "0 ok, 0 to look at, 1 failing"


def test_libraries_that_bring_a_process_down_are_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash of ONNX Runtime fails in a sentence, and the examination goes on; one that hangs is ended."""
    library = tmp_path / "onnxruntime.py"
    library.write_text("import os; os.kill(os.getpid(), 11)")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    found = [*collected("devices", *checks(60)["devices"])]
    assert [(one["topic"], one["status"]) for one in found] == [("ONNX Runtime", "fail"), ("PyTorch", "fail")]
    assert found[0]["found"].startswith("its process ended with -11:")
    library.write_text("import time; time.sleep(60)")
    found = [*collected("devices", *checks(3)["devices"])]
    assert [(one["topic"], one["status"], one["found"]) for one in found] == [
        (topic, "warn", "no answer within 3 s") for topic in ("ONNX Runtime", "PyTorch")
    ]


def test_a_check_that_breaks_is_a_line() -> None:
    """An exception fails, in a sentence and without a traceback; a library that is missing is no failure."""

    def raising() -> Iterator[dict[str, str]]:
        raise RuntimeError("no luck")

    def lacking() -> Iterator[dict[str, str]]:
        import_module("fedlas_absent")
        yield {}

    def lines(check: Callable[[], Iterator[Line]]) -> list[Line]:
        return [*collected("one", check, "s3")]

    usual = {"topic": "one", "name": "one", "remedy": ""}
    broken = {"status": "fail", "found": "the check itself failed: RuntimeError: no luck"}
    missing = {"status": "skip", "found": "fedlas_absent is not installed", "remedy": "pip install 'fedlas[s3]'"}
    assert lines(raising) == [{**usual, **broken}]
    assert lines(lacking) == [{**usual, **missing}]


def test_devices_are_those_that_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that shows a GPU which nothing computes on is warned of, with a remedy."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("both compute on a GPU here")
    monkeypatch.setattr(devices, "has_gpu", lambda: True)
    [runtime], [pytorch] = devices.onnx_runtime(), devices.pytorch()
    assert (runtime["status"], pytorch["status"]) == ("warn", "warn")
    assert "computed on CPUExecutionProvider, although this machine has a GPU" in runtime["found"]
    assert runtime["remedy"]
    assert pytorch["remedy"]


def test_an_old_driver_is_named_as_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's warning is in the finding, with both remedies; played: an old driver needs another machine."""
    import torch

    def too_old() -> bool:
        message = "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040)."
        more = "Please update your GPU driver by … (Triggered internally at /c10/cuda/CUDAFunctions.cpp:119.)"
        warnings.warn("something else", stacklevel=1)
        warnings.warn(f"{message} {more}", stacklevel=1)
        return False

    monkeypatch.setattr(devices, "has_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", too_old)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    [line] = devices.pytorch()
    cause = "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040)"
    assert line["status"] == "warn"
    assert line["found"].endswith(f"although this machine has a GPU: {cause}")
    for words in ("PyTorch is built for CUDA 13.0", "update the driver", "nvidia-smi"):
        assert words in line["remedy"]


def test_a_wrong_result_of_a_device_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that answers must answer right, too."""
    monkeypatch.setattr(devices, "_SQUARE", [[0.0, 0.0], [0.0, 0.0]])
    [line] = devices.onnx_runtime()
    assert line["status"] == "fail"
    assert "the result was wrong: [[7.0, 10.0], [15.0, 22.0]]" in line["found"]


def _checked(monkeypatch: pytest.MonkeyPatch, url: str | None, key: str | None = None) -> dict[str, Line]:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/nowhere")
    for name, value in (("FEDLAS_URL", url), ("FEDLAS_API_KEY", key)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    return {line["name"]: line for line in doctor.server()}


def test_a_living_server_is_examined(idle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server's address, its own defects, its workers, the key and its version are reported apart."""
    found = _checked(monkeypatch, idle, "the-right-key-of-all-0123456789a")
    assert {name: line["status"] for name, line in found.items()} == {
        "address": "ok", "broker": "fail", "workers": "warn", "key": "ok", "version": "ok",
    }  # fmt: skip
    assert found["workers"]["remedy"] == "start one beside the server: python -m worker"
    assert found["version"]["found"] == f"the server is {__version__}, this is {__version__}"


def test_a_server_that_can_open_no_upload_fails() -> None:
    """The server's sentence is printed if a worker lives that takes uploads."""
    ready = {"checks": {}, "workers": {"inspect": 1}, "uploads": "it cannot load PyTorch"}
    found = {line["name"]: (line["status"], line["found"]) for line in doctor._readiness(ready)}
    assert found["uploads"] == ("fail", "it cannot load PyTorch")
    assert "uploads" not in {line["name"] for line in doctor._readiness({**ready, "workers": {}})}


@pytest.mark.parametrize(
    ("key", "found"),
    [("wrong", "the server does not know this key"), (None, "the server wants a key, and none is set")],
)
def test_wrong_and_no_keys_differ(idle: str, monkeypatch: pytest.MonkeyPatch, key: str | None, found: str) -> None:
    """Both fail, with the variable that mends it."""
    line = _checked(monkeypatch, idle, key)["key"]
    assert (line["status"], line["found"]) == ("fail", found)
    assert "FEDLAS_API_KEY" in line["remedy"]


def test_a_dead_port_fails_only_where_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address of the user's own must answer; the default one need not."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = f"http://127.0.0.1:{closed.getsockname()[1]}"
    line = _checked(monkeypatch, dead)["address"]
    assert line["status"] == "fail"
    assert line["found"].startswith(f"{dead} does not answer (")
    monkeypatch.setattr(configuration, "DEFAULT_URL", dead)
    line = _checked(monkeypatch, None)["address"]
    assert line["status"] == "skip"
    assert line["remedy"].startswith("fedlas serve")


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://h", "http://", "http://[", "nonsense"])
def test_what_is_no_url_fails_in_a_sentence(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """The remedy shows what one looks like."""
    line = _checked(monkeypatch, url)["address"]
    assert line["status"] == "fail"
    assert "FEDLAS_URL" in line["remedy"]


def test_another_web_server_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that answers 200 everywhere is no FedLAS service."""
    with answering(lambda _: (200, {}, b"<html></html>")) as other:
        line = _checked(monkeypatch, f"{other}/v1")["address"]
    assert line["status"] == "fail"
    assert line["found"].endswith("answers, but is no FedLAS service")


def test_a_server_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An open port without an answer is a failure after the time limit."""
    monkeypatch.setattr(doctor, "_SERVER_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        line = _checked(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")["address"]
    assert (line["status"], "timed out" in line["found"]) == ("fail", True)
