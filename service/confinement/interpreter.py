"""The files of the interpreter: where modules, shared libraries and our own packages lie."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_PACKAGES = ("fedlas", "service", "worker")
#: What libraries of the system and the C library read.
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime", "/etc/nsswitch.conf", "/etc/passwd")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


def libraries() -> list[Path]:
    """Where modules and shared libraries lie."""
    searched = [sys.prefix, sys.base_prefix, *sys.path, *os.environ.get("LD_LIBRARY_PATH", "").split(":")]
    return [path for path in dict.fromkeys(Path(name).resolve() for name in searched if name) if path != Path("/")]


def packages() -> list[Path]:
    """Our own packages: an editable installation keeps them outside the environment."""
    root = Path(__file__).resolve().parents[2]
    return [root / name for name in _PACKAGES]
