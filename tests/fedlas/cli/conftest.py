"""A service behind a key, the files of its users, and the command with both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from fedlas.cli import main
from tests.helpers.command_line import drawn_npz, drawn_scores, fedlas, scaled_model
from tests.helpers.live_api import live
from tests.helpers.service import Service, serving

KEY = "a-key-of-the-tests-0123456789abc"
#: `fedlas` as a process.
Command = Callable[..., CompletedProcess[str]]
#: `fedlas` in the test's process, which is quicker.
Here = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that answers one key only."""
    with serving(tmp_path_factory.mktemp("service") / "data", FEDLAS_API_KEYS=KEY) as running:
        running.client.headers["Authorization"] = f"Bearer {KEY}"
        yield running


@pytest.fixture(scope="package")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an API with the key `the-right-key-of-all-0123456789a`, without broker and workers."""
    with live({"data_dir": tmp_path_factory.mktemp("data"), "api_keys": "the-right-key-of-all-0123456789a"}) as [api]:
        yield api.url


@pytest.fixture(scope="package")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models that are too sure (`sharp`) and not (`exact`), and rows of which many or few judge."""
    folder = tmp_path_factory.mktemp("files")
    for name, content in (
        ("sharp.onnx", scaled_model(3.0)),
        ("exact.onnx", scaled_model(1.0)),
        ("many.npz", drawn_npz(test=600)),
        ("few.npz", drawn_npz(test=30)),
        ("wrong.npz", drawn_npz(test=600, wrong=0.4)),
        ("sharp_scores.npz", drawn_scores(3.0, test=600)),
        ("wrong_scores.npz", drawn_scores(1.0, test=600, wrong=0.4)),
        ("few_scores.npz", drawn_scores(3.0, test=30)),
    ):
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="package")
def variables(service: Service) -> dict[str, str]:
    """The variables that name the service and its key."""
    return {"FEDLAS_URL": str(service.client.base_url), "FEDLAS_API_KEY": KEY}


@pytest.fixture
def command(variables: dict[str, str], files: Path) -> Command:
    """`fedlas` in the folder of the files, for the service."""

    def run(*arguments: object, **given: Any) -> CompletedProcess[str]:
        return fedlas(*arguments, **{"cwd": files, "variables": variables, **given})

    return run


@pytest.fixture
def here(
    variables: dict[str, str], files: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Here:
    """A command run in this process."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CONFIG_HOME", "/nonexistent")
    monkeypatch.chdir(files)

    def run(*arguments: object) -> CompletedProcess[str]:
        capfd.readouterr()
        return CompletedProcess(arguments, main([str(argument) for argument in arguments]), *capfd.readouterr())

    return run


@pytest.fixture(scope="package")
def calibrated(
    service: Service, files: Path, variables: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with the files and output of `fedlas calibrate`; its model answers as `sharp`."""
    folder = tmp_path_factory.mktemp("calibrated")
    done = fedlas(
        *("calibrate", files / "sharp.onnx", files / "many.npz", "--seen-by-model", "no", "--method", "temperature"),
        *("--publish-as", "sharp", "--out", folder / "sharp.onnx", "--report", folder / "report.html"),
        *("--require", "significant", "--json", "--metadata", "team=cli"),
        variables=variables,
    )
    assert done.returncode == 0, (done, service.log)
    (folder / "job.json").write_text(done.stdout)
    (folder / "said.txt").write_text(done.stderr)
    return folder
