"""Wheels and sdists of a release, built once, and empty environments that they are installed into."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.packaging.readme import serving

ROOT = Path(__file__).parents[2]
#: Distribution → its packages.
DISTRIBUTIONS = {"fedlas": ("fedlas",), "fedlas-service": ("service", "worker")}
PACKAGES = tuple(package for packages in DISTRIBUTIONS.values() for package in packages)


class Built(NamedTuple):
    """A distribution as `deploy/release.py` leaves it."""

    wheel: Path
    sdist: Path


class Environment:
    """A virtual environment with nothing in it but pip."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        venv.create(folder, with_pip=True)
        clean = ("PYTHONPATH", "FEDLAS_", "VIRTUAL_ENV")
        self._variables = {name: value for name, value in os.environ.items() if not name.startswith(clean)}

    def install(self, *wheels: Path, extra: str | None = None) -> None:
        """Install wheels, the last with an extra, by pip and from the index."""
        *needed, last = map(str, wheels)
        asked = [*needed, f"{last}[{extra}]" if extra else last]
        self.run(str(self._folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *asked)

    def python(self, code: str) -> subprocess.CompletedProcess[str]:
        """Run code, whatever becomes of it."""
        return self.run(str(self._folder / "bin" / "python"), "-c", code, check=False)

    def fedlas(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the script, whatever becomes of it."""
        return self.run(str(self._folder / "bin" / "fedlas"), *arguments, check=False)

    def serving(self, address: str) -> AbstractContextManager[None]:
        """Within the block, the script's `fedlas serve` is ready at the address."""
        return serving(address, self._folder, [str(self._folder / "bin" / "fedlas")], self._variables)

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
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    """Distribution → its wheel and sdist, as a release has them."""
    target = tmp_path_factory.mktemp("dist")
    command = [sys.executable, str(ROOT / "deploy" / "release.py"), str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    stems = {name: name.replace("-", "_") for name in DISTRIBUTIONS}
    assert len(list(target.iterdir())) == 2 * len(stems)
    return {
        name: Built(*(next(target.glob(f"{stem}-*{suffix}")) for suffix in (".whl", ".tar.gz")))
        for name, stem in stems.items()
    }


@pytest.fixture
def empty(tmp_path: Path) -> Callable[[], Environment]:
    """Makes empty environments."""
    return lambda: Environment(tmp_path / "environment")
