"""Wheel and sdist, built once, and empty environments that they are installed into."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("fedlas", "service", "worker")
_FILES = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "SECURITY.md")


class Built(NamedTuple):
    """What `python -m build` leaves."""

    wheel: Path
    sdist: Path


class Environment:
    """A virtual environment with nothing in it but pip."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        venv.create(folder, with_pip=True)
        clean = ("PYTHONPATH", "FEDLAS_", "VIRTUAL_ENV")
        self._variables = {name: value for name, value in os.environ.items() if not name.startswith(clean)}

    def install(self, wheel: Path, extra: str | None = None) -> None:
        """Install the wheel, with an extra, by pip and from the index."""
        what = f"{wheel}[{extra}]" if extra else str(wheel)
        self.run(str(self._folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", what)

    def python(self, code: str) -> subprocess.CompletedProcess[str]:
        """Run code, whatever becomes of it."""
        return self.run(str(self._folder / "bin" / "python"), "-c", code, check=False)

    def fedlas(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the script, whatever becomes of it."""
        return self.run(str(self._folder / "bin" / "fedlas"), *arguments, check=False)

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command away from the source tree."""
        done = subprocess.run(command, cwd=self._folder, env=self._variables, capture_output=True, text=True)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def megabytes(self) -> float:
        """The size of what was installed, FedLAS and pip with its own libraries aside."""
        [packages] = self._folder.glob("lib/python*/site-packages")
        ours = (*PACKAGES, "pip", "setuptools", "_distutils_hack", "pkg_resources")
        files = (file for entry in packages.iterdir() if not entry.name.startswith(ours) for file in _files(entry))
        return sum(file.stat().st_size for file in files) / 1e6


def _files(entry: Path) -> list[Path]:
    return [path for path in entry.rglob("*") if path.is_file()] if entry.is_dir() else [entry]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Wheel and sdist of a copy of the sources."""
    source = tmp_path_factory.mktemp("source")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in _FILES:
        shutil.copy(ROOT / name, source / name)
    target = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(target), str(source)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [wheel], [sdist] = target.glob("*.whl"), target.glob("*.tar.gz")
    return Built(wheel, sdist)


@pytest.fixture
def empty(tmp_path: Path) -> Callable[[], Environment]:
    """Makes empty environments."""
    return lambda: Environment(tmp_path / "environment")
