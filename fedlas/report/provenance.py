"""The provenance of a report: its subject, the environment that made it, and the proof of the written file.

The subject is a model, the dataset that judged it, the job and the moment. Versions of libraries and the machine are
read without importing anything. The proof says how near ONNX Runtime's probabilities are to those that were judged.
"""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from fedlas.documents import Json


def rfc3339(at: datetime | None) -> str | None:
    return None if at is None else f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def moment(created_at: str) -> str:
    """A moment as a reader has it.

    >>> moment("2026-07-05T09:03:01Z")
    '5 July 2026, 09:03 UTC'
    """
    at = datetime.fromisoformat(created_at)
    return f"{at.day} {at:%B %Y, %H:%M} UTC"


_LIBRARIES = ("fedlas", "numpy", "torch", "onnx", "onnxruntime-gpu", "onnxruntime", "pyarrow")
_PROCESSORS = Path("/proc/cpuinfo")
_DEVICES = Path("/proc/driver/nvidia/gpus")


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
    # The driver's own files: asking CUDA would import torch and claim memory on the device.
    try:
        devices = sorted(_DEVICES.glob("*/information"))
    except OSError:
        devices = []
    return {
        "platform": platform.platform(),
        "processor": _first(_PROCESSORS, "model name") or platform.processor() or platform.machine(),
        "cpu_count": len(usable(0)) if usable else os.cpu_count(),
        "device": next((name for path in devices if (name := _first(path, "Model"))), None),
    }


def _first(path: Path, key: str) -> str | None:
    """The value of the first line `key : value`."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return None
    return next(
        (value.strip() for name, _, value in (line.partition(":") for line in lines) if name.strip() == key), None
    )
