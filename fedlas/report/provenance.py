"""The provenance of a report: its subject, the environment that made it, and the proof of the written file.

The subject is a model, the dataset that judged it, the job and the moment. Versions of libraries and the machine are
read without importing anything. The proof says how near ONNX Runtime's probabilities are to those that were judged.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from fedlas.documents import Json


@dataclass(frozen=True)
class Named:
    """A model or dataset, as far as it has a name, an id, or a file whose digest is known."""

    name: str | None = None
    id: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Subject:
    """Subject of a report; a field is None where there is no such thing, as of a job in a notebook.

    Attributes:
        created_at: when it was ordered (RFC 3339, UTC), never when it was written: a job that is repeated ends with
            the same bytes.
    """

    model: Named | None = None
    dataset: Named | None = None
    job_id: str | None = None
    created_at: str | None = None

    @property
    def title(self) -> str | None:
        one = self.model or self.dataset
        return None if one is None else one.name or one.id


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


#: More changed decisions than this share, or a larger change of a mean score, is another model.
MOST_DECISIONS, MOST_NLL, MOST_BRIER = 0.01, 1e-3, 1e-3


@dataclass(frozen=True)
class RuntimeRounding:
    """The largest difference in a probability between forms of one graph in ONNX Runtime, on so many rows.

    Attributes:
        unoptimised: between the graph with ONNX Runtime's optimisations and as it is written.
        double_precision: between it and the graph in float64.

    Either is None where ONNX Runtime does not run the graph in that form.
    """

    num_rows: int
    unoptimised: float | None
    double_precision: float | None

    @property
    def largest(self) -> float:
        return max(self.unoptimised or 0.0, self.double_precision or 0.0)


@dataclass(frozen=True)
class Parity:
    """The distance of a file's probabilities, as ONNX Runtime computes them, from the network's that was judged.

    Attributes:
        num_rows: on how many rows.
        max_probability_error: the largest change of a probability; `limit` is what was allowed.
        decisions_changed: rows whose most probable class is another one.
        nll_change, brier_change: of the mean over the rows, the file's minus the network's; None without targets.
        rounding: what ONNX Runtime itself differs by; None where the file is so near that it was not asked.
    """

    num_rows: int
    max_probability_error: float
    limit: float
    decisions_changed: int
    nll_change: float | None = None
    brier_change: float | None = None
    rounding: RuntimeRounding | None = None

    @property
    def passed(self) -> bool:
        """Whether the difference is within the limit, and means nothing where it had to be explained."""
        if not self.max_probability_error <= self.limit:
            return False
        if self.rounding is None:
            return True
        few = self.decisions_changed <= max(1.0, MOST_DECISIONS * self.num_rows)
        return few and abs(self.nll_change or 0.0) <= MOST_NLL and abs(self.brier_change or 0.0) <= MOST_BRIER

    def __str__(self) -> str:
        """Differences of the file in words.

        >>> print(Parity(256, 3.7e-4, 1e-5, 0, 6.2e-05, 2e-05))
        3.7e-04 in a probability, 0 of 256 decisions, +6.2e-05 in mean NLL and +2.0e-05 in mean Brier score
        """
        found = (
            f"{self.max_probability_error:.1e} in a probability, {self.decisions_changed} of {self.num_rows} decisions"
        )
        if self.nll_change is None or self.brier_change is None:
            return found
        return f"{found}, {self.nll_change:+.1e} in mean NLL and {self.brier_change:+.1e} in mean Brier score"

    @property
    def sentence(self) -> str:
        """Differences of the file, and ONNX Runtime's own where those were asked.

        >>> print(Parity(256, 3e-7, 1e-5, 0).sentence)
        The served file differs from what was judged by 3.0e-07 in a probability, 0 of 256 decisions.
        """
        found = f"The served file differs from what was judged by {self}"
        if self.rounding is None:
            return f"{found}."
        return f"{found}: float32's rounding, by which ONNX Runtime itself differs by {self.rounding.largest:.1e}."


@dataclass(frozen=True)
class GaveWay:
    """A finalist that could not be written as a file that computes what was judged; the next was served in its place.

    Attributes:
        code: of the error (`parity`, `too_large_for_onnx`, …); `reason`: its sentence.
    """

    finalist: str
    code: str
    reason: str


@dataclass(frozen=True)
class WrittenFile:
    """The proof of the served file, None where the upload is served as it came, and the finalists that gave way."""

    parity: Parity | None
    gave_way: tuple[GaveWay, ...] = ()
