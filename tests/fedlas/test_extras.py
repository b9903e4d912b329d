"""Sentences where a library of an extra is not installed. `tests/packaging` has those of an empty environment."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from fedlas import extras
from fedlas.extras import MissingExtra, cuda_remedy, has_gpu, require

ROOT = Path(__file__).parents[2]
_REQUIRE = re.compile(r'^require\("(\w+)", (.*)\)$', re.MULTILINE)


def test_what_is_missing_is_named_with_the_extra() -> None:
    """The sentence says what to type, and the error stays a `ModuleNotFoundError`."""
    with pytest.raises(ModuleNotFoundError) as raised:
        require("arrays", "numpy", "fedlas_absent")
    assert str(raised.value) == "this needs fedlas_absent, which is not installed: pip install 'fedlas[arrays]'"
    assert isinstance(raised.value, MissingExtra)
    assert (raised.value.name, raised.value.extra) == ("fedlas_absent", "arrays")


def test_what_is_there_is_not_loaded() -> None:
    """Asking costs no import."""
    require("sklearn", "this", "sklearn")
    assert "this" not in sys.modules


def test_a_package_that_lacks_pydantic_says_so() -> None:
    """The contract's shapes are everywhere: without pydantic a package is imported, or names the extra to install."""
    code = (
        "import importlib, sys\n"
        "sys.modules['pydantic'] = None\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        importlib.import_module(f'fedlas.{name}')\n"
        "    except ModuleNotFoundError as missing:\n"
        "        print(name, missing)\n"
    )
    packages = sorted(path.parent.name for path in (ROOT / "fedlas").glob("*/__init__.py"))
    done = subprocess.run([sys.executable, "-c", code, *packages], capture_output=True, text=True, check=True)
    told = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert {"calibration", "client", "contract", "data", "gate", "guarantees", "metrics", "report"} <= set(told)
    sentence = re.compile(r"this needs pydantic, which is not installed: pip install 'fedlas\[[a-z-]+\]'")
    assert [name for name, said in told.items() if not sentence.fullmatch(said)] == []


def _brought(extra: str) -> set[str]:
    """The distributions of an extra on this platform, with those of the extras that it names."""
    names: set[str] = set()
    for line in metadata("fedlas").get_all("Requires-Dist", []):
        one = Requirement(line)
        if one.marker is not None and one.marker.evaluate({"extra": extra}):
            names |= {name for part in one.extras for name in _brought(part)} if one.name == "fedlas" else {one.name}
    return names


def test_every_named_extra_brings_what_is_required() -> None:
    """The command that is named installs what is missing."""
    names = {"PIL": "pillow", "sklearn": "scikit-learn"}
    found = [match for path in (ROOT / "fedlas").rglob("*.py") for match in _REQUIRE.findall(path.read_text())]
    assert len(found) >= 16
    for extra, modules in found:
        assert {names.get(name, name) for name in re.findall(r"\w+", modules)} <= _brought(extra), extra


def test_a_gpu_is_a_device_that_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver alone is no GPU, and `CUDA_VISIBLE_DEVICES` hides all of them where it names none."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "nvidiactl").touch()
    (tmp_path / "nvidia-uvm").touch()
    assert not has_gpu(tmp_path)
    (tmp_path / "nvidia5").touch()
    assert has_gpu(tmp_path)
    for value, seen in (("0", True), ("", False), ("-1", False)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert has_gpu(tmp_path) == seen


def test_the_remedy_is_that_of_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """The build for CPUs is replaced; that for GPUs is shown its libraries."""
    for version, words in ((None, "pip uninstall -y onnxruntime && pip install"), ("1.31.1", "LD_LIBRARY_PATH")):
        monkeypatch.setattr(extras, "installed", lambda _, version=version: version)
        assert words in cuda_remedy()
