"""Extras: what to install where a part of FedLAS finds a library missing. `import fedlas` alone needs none.

Whether this machine has a GPU stands here as well, and the remedy where ONNX Runtime leaves it idle: nothing is loaded
for that. A package that people import says first what it needs, and keeps its traceback to one sentence:

>>> require("arrays", "numpy", "scipy")
>>> require("client", "nothing_of_this_name")
Traceback (most recent call last):
    ...
fedlas.extras.MissingExtra: this needs nothing_of_this_name, which is not installed: pip install 'fedlas[client]'
"""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, metadata, version
from importlib.util import find_spec
from pathlib import Path

#: Extras that compute: each brings a build of ONNX Runtime, that for GPUs where its name ends in `-gpu`.
FAMILY = ("runtime", "library", "sklearn", "service", "worker", "standalone")
_MAX_GPUS = 64


class TwoRuntimes(RuntimeError):
    """Both builds of ONNX Runtime are installed; the message says so, and how one of them remains."""

    found = "onnxruntime and onnxruntime-gpu are both installed, and overwrite each other's files"
    remedy = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'fedlas[runtime]' (on a GPU: [runtime-gpu])"

    def __init__(self) -> None:
        super().__init__(f"{self.found}: {self.remedy}")


class MissingExtra(ModuleNotFoundError):
    """A library is not installed; the message names the extra that brings it."""

    def __init__(self, extra: str, module: str) -> None:
        super().__init__(
            f"this needs {module}, which is not installed: {command(extra)}",
            name=module,
        )
        self.extra = extra


def require(extra: str, *modules: str) -> None:
    """Raise MissingExtra unless all modules, which `extra` brings, are installed; nothing is loaded."""
    for module in modules:
        if find_spec(module) is None:
            raise MissingExtra(extra, module)


def command(extra: str) -> str:
    """The command that installs an extra, beside the build of ONNX Runtime that is there: the other would break it.

    Its distribution is `fedlas`, which in a clone has all extras, or `fedlas-service`.

    >>> command("client")
    "pip install 'fedlas[client]'"
    """
    extra = beside(extra)
    elsewhere = installed("fedlas") and extra not in metadata("fedlas").get_all("Provides-Extra", [])
    return f"pip install '{'fedlas-service' if elsewhere else 'fedlas'}[{extra}]'"


def beside(extra: str) -> str:
    """The extra for this environment: its `-gpu` twin where the GPU build of ONNX Runtime is installed."""
    return f"{extra}-gpu" if extra in FAMILY and installed("onnxruntime-gpu") else extra


def check_single_runtime() -> None:
    """Raise TwoRuntimes where both builds of ONNX Runtime are installed; neither is loaded."""
    if installed("onnxruntime") and installed("onnxruntime-gpu"):
        raise TwoRuntimes


def installed(distribution: str) -> str | None:
    """The version of a distribution; None where it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def has_gpu(devices: Path = Path("/dev")) -> bool:
    """True where an NVIDIA device is here and not hidden; asking CUDA itself would take memory on it."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    # By their names: a process behind a wall may look at each of them, and may not list their folder.
    return any((devices / f"nvidia{number}").exists() for number in range(_MAX_GPUS))


def cuda_remedy() -> str:
    """The remedy where the installed build of ONNX Runtime computes on the CPU, although this machine has a GPU."""
    if installed("onnxruntime-gpu") is None:
        return "this build knows no GPU: pip uninstall -y onnxruntime && pip install 'fedlas[runtime-gpu]'"
    return (
        "this build does not find the libraries of CUDA and cuDNN: pip install 'onnxruntime-gpu[cuda,cudnn]' and name "
        "their folders in LD_LIBRARY_PATH, or install CUDA on this machine"
    )
