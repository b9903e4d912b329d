"""The targets of `make`: their installations, and their words before minutes are spent; nothing is installed here."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.can_install import note, obstacles
from tests.packaging.conftest import ROOT

_SCRIPT = ROOT / "deploy" / "can_install.py"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that make reads, in a folder without an environment."""
    (tmp_path / "deploy").mkdir()
    for name in ("Makefile", "pyproject.toml", "deploy/can_install.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def _make(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # The make that runs the tests hands its level and flags down, and a make below another one says where it is.
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *arguments], cwd=clone, env=own, capture_output=True, text=True)


def test_who_tries_it_gets_what_is_used_and_once(clone: Path) -> None:
    """`demo` and `serve` install `[standalone]`, tests and checks the tools too; a second time nothing is installed."""
    for target in ("demo", "serve"):
        assert "--editable '.[standalone]'\n" in _make(clone, "-n", target).stdout
    for target in ("test", "check"):
        assert "--editable '.[standalone,postgresql,s3,otel]' --group dev\n" in _make(clone, "-n", target).stdout
    (clone / ".venv").mkdir()
    (clone / ".venv" / ".standalone").touch()
    assert _make(clone, "-n", "demo").stdout == ".venv/bin/fedlas demo\n"
    assert "--group dev" in _make(clone, "-n", "test").stdout
    (clone / ".venv" / ".installed").touch()
    assert "pip install" not in _make(clone, "-n", "test").stdout


def test_an_obstacle_is_told_before_anything_is_made(clone: Path) -> None:
    """No such Python, or too little room: a sentence, and no environment."""
    done = _make(clone, "setup", "PYTHON=python9")
    assert (done.returncode, done.stdout) == (2, "There is no python9: name a Python, 3.11 or newer, by PYTHON=…\n")
    little = (clone / "Makefile").read_text().replace("$(STANDALONE_SET),3)", "$(STANDALONE_SET),1000000)")
    (clone / "Makefile").write_text(little)
    done = _make(clone, "demo", f"PYTHON={sys.executable}")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"GB are free where .venv would be ({clone}/.venv), and 1e+06 GB are needed: make room" in done.stderr
    assert not (clone / ".venv").exists()


def test_an_old_python_and_the_other_runtime_are_named_with_their_remedies() -> None:
    """The check runs on Python 3.7 as well, and finds both before pip does."""
    ast.parse(_SCRIPT.read_text(), feature_version=(3, 7))
    assert obstacles((3, 11, 0), 3, 3, has_gpu_build=False, venv="/nowhere") == []
    old, gpu = obstacles((3, 10, 12), 3, 3, has_gpu_build=True, venv="/nowhere")
    assert old.startswith("this is Python 3.10.12 (")
    assert old.endswith("FedLAS needs 3.11 or newer: name one, as in `make demo PYTHON=python3.11`")
    assert "/nowhere/bin/python -m pip uninstall -y onnxruntime-gpu onnxruntime" in gpu


def test_room_for_one_build_of_pytorch_is_told_and_no_build_is_chosen(clone: Path) -> None:
    """Between 3 and 10 GB the way to the build without CUDA is named; with PyTorch there, or more room, nothing is."""
    told = note(5.0, has_pytorch=False, venv="/nowhere")
    assert told.startswith("5.0 GB are free, and pip's own PyTorch for Linux, which brings CUDA, needs 10")
    assert "/nowhere/bin/pip install torch --index-url" in told
    assert note(5.0, has_pytorch=True, venv="/nowhere") == note(10.0, has_pytorch=False, venv="/nowhere") == ""
    assert "index-url" not in _make(clone, "-n", "demo").stdout


def test_every_file_of_tests_that_the_checks_name_is_there() -> None:
    """A test file that is merged or moved is moved in the Makefile too: pytest would end without running the others."""
    script = (ROOT / "Makefile").read_text().partition("\nservers:")[2].partition("\n\n")[0].replace("\\\n", " ")
    named = [word for line in script.splitlines() for word in line.split() if word.startswith("tests/")]
    shown = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {' '.join(named)}"], cwd=ROOT, capture_output=True, text=True
    )
    files = shown.stdout.split()
    assert len(files) > len(named) > 0
    assert [file for file in files if not (ROOT / file).exists()] == []
