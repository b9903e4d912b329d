"""The environment of a report: versions of libraries and the machine, read without importing anything."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from fedlas.documents import Json

_LIBRARIES = ("fedlas", "numpy", "torch", "onnx", "onnxruntime-gpu", "onnxruntime", "pyarrow")
_PROCESSORS, _DEVICES = Path("/proc/cpuinfo"), Path("/proc/driver/nvidia/gpus")


def library_versions() -> dict[str, str]:
    """Versions of Python and of the installed libraries that the numbers depend on."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def machine_facts() -> dict[str, Json]:
    """Platform, processor, number of processors that may be used, and the accelerator, None where there is none."""
    usable = getattr(os, "sched_getaffinity", None)
    return {
        "platform": platform.platform(),
        "processor": _first(_PROCESSORS, "model name") or platform.processor() or platform.machine(),
        "cpu_count": len(usable(0)) if usable else os.cpu_count(),
        "device": next((name for path in _informations() if (name := _first(path, "Model"))), None),
    }


def _informations() -> list[Path]:
    # The driver's own files: asking CUDA would import torch and claim memory on the device.
    try:
        return sorted(_DEVICES.glob("*/information"))
    except OSError:
        return []


def _first(path: Path, key: str) -> str | None:
    """The value of the first line `key : value`."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return None
    return next(
        (value.strip() for name, _, value in (line.partition(":") for line in lines) if name.strip() == key), None
    )
