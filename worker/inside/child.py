"""The child process: it takes its limits, confines itself, does one piece of work and leaves an answer."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from service.inference.memory import lacked_memory
from worker.sandbox.confinement import confine, lacking, lower

_OUT_OF_MEMORY = {"code": "out_of_memory", "message": "opening this file took more memory than is allowed"}
#: Not the upload's fault: the work is tried again.
_STORAGE_FULL = {"code": "storage_full", "message": "the disk took no more while this was being worked on"}
_INTERNAL = {"code": "internal_error", "message": "an unexpected error happened on our side; it has been logged"}
#: Kind of work → "module:function"; loaded on demand, since not every kind needs PyTorch.
KINDS = {
    "inspect_dataset": "worker.inside.inspection:inspect_dataset",
    "inspect_model": "worker.inside.inspection:inspect_model",
    "calibrate": "worker.inside.calibration:calibrate",
    "plan": "worker.inside.plan:plan",
    "predict": "worker.inside.batch:predict",
    "fit_scores": "worker.inside.scores:fit_scores",
}
#: The exit code of a child that lacks a protection which this machine has.
UNPROTECTED = 4
_EVENTS_PER_SECOND = 5.0
#: Read by numeric libraries before their first use, so that the same job ends with the same bits: MKL's sums would
#: depend on where an array lies in memory (seen in a product of 7 × 512 and 512 × 10), those of cuBLAS on its streams.
_SAME_BITS = {"MKL_CBWR": "AUTO", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
_KINDS_OF_LIMITS = (
    (resource.RLIMIT_AS, "address_space"),
    (resource.RLIMIT_DATA, "memory"),
    (resource.RLIMIT_FSIZE, "file_size"),
)


def main(folder: Path) -> int:
    """Do the work that `request.json` names and write `answer.json`.

    The first event tells how this process is confined. It begins nothing where a control is off that its supervisor
    expects to be on.
    """
    os.environ.update(_SAME_BITS)
    emit = _claim_stdout()
    request = json.loads((folder / "request.json").read_text())
    _take_limits(request["limits"])
    inputs = request["inputs"]
    # A single thread until here: namespaces ask for it.
    report = confine(folder.resolve(), [Path(file) for file in inputs.values()])
    emit({"confined": report, "important": True})
    if lacking(report, request["expected"]):
        return UNPROTECTED
    threading.Thread(target=_end_with_supervisor, daemon=True).start()
    answer = _answer(request["kind"], with_files(request["spec"], inputs), folder, emit)
    partial = folder / "answer.partial"
    partial.write_text(json.dumps(answer))
    os.replace(partial, folder / "answer.json")
    return 0


def _answer(kind: str, spec: dict[str, Any], folder: Path, emit: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    from fedlas.errors import FedLASError

    module, _, function = KINDS[kind].partition(":")
    try:
        return {"result": getattr(import_module(module), function)(spec, folder, emit)}
    except Exception as error:
        if lacked_memory(error):
            return {"error": {**_OUT_OF_MEMORY, "user_error": True}}
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return {"error": {**_STORAGE_FULL, "user_error": False}}
        if isinstance(error, FedLASError):
            return {"error": {"code": error.code, "message": error.message, "user_error": error.user_error}}
        traceback.print_exc()
        return {"error": {**_INTERNAL, "user_error": False}}


def _claim_stdout() -> Callable[[dict[str, Any]], None]:
    """Keep the pipe for events; whatever libraries print goes to the log."""
    pipe = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    last = 0.0

    def emit(event: dict[str, Any]) -> None:
        nonlocal last
        if event.get("important") or time.monotonic() - last > 1 / _EVENTS_PER_SECOND:
            last = time.monotonic()
            pipe.write(json.dumps(event) + "\n")

    return emit


def _end_with_supervisor() -> None:
    while os.read(0, 1024):  # returns nothing when the supervisor closes the pipe, or dies
        pass
    os._exit(3)


def with_files(spec: dict[str, Any], inputs: Mapping[str, str]) -> dict[str, Any]:
    """The order with each input where its function looks for it; whatever an order brings along there gives way.

    >>> with_files({"model": {"profile": {}}}, {"model.file": "/a", "file": "/b"})
    {'model': {'profile': {}, 'file': '/a'}, 'file': '/b'}
    """
    for place, file in inputs.items():
        *parents, last = place.split(".")
        within = spec
        for parent in parents:
            within = within.setdefault(parent, {})
        within[last] = file
    return spec


def _take_limits(limits: dict[str, Any]) -> None:
    for kind, name in _KINDS_OF_LIMITS:
        if limits.get(name) is not None:
            lower(kind, limits[name])
    cores = _take_cores(limits.get("cores"))
    if limits.get("seconds") is not None:
        lower(resource.RLIMIT_CPU, math.ceil(limits["seconds"]) * cores)


def _take_cores(most: int | None) -> int:
    """Run on so many cores, any of them; returns how many there are."""
    if sys.platform != "linux":
        return os.cpu_count() or 1
    usable = sorted(os.sched_getaffinity(0))
    if most is not None and most < len(usable):
        os.sched_setaffinity(0, random.sample(usable, most))
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
