"""The child process: it confines itself, loads its libraries, takes its limits, does one piece of work and answers."""

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

from pydantic import BaseModel

from fedlas.errors import DeviceTooSmall, FedLASError
from service.confinement.confinement import lacking, lower
from service.process_memory import held_bytes, lacked_memory
from worker.documents import ChildEvent, WorkOrder
from worker.inside.channel import Ask, Emit, Replies
from worker.sandbox.confinement import confine
from worker.sandbox.protocol import ANSWER, REQUEST, ChildAnswer, ChildError, ChildRequest, Confined, Limits, Loaded

_OUT_OF_MEMORY = ChildError(
    code="out_of_memory", message="this took more memory than is allowed, or left", user_error=True
)
#: Not the upload's fault: the work is tried again.
_STORAGE_FULL = ChildError(
    code="storage_full", message="the disk took no more while this was being worked on", user_error=False
)
#: Whatever part of PyTorch or of the driver says so: a job goes on on the CPU.
_CARD_TOO_SMALL = ChildError(
    code="card_too_small", message="the memory of its card does not hold its network", user_error=False
)
#: How PyTorch and ONNX Runtime say that a card, or its driver, has failed.
_CARD_WORDS = ("CUDA error", "CUDA driver error", "CUDA unknown error", "CUDA failure", "cuDNN error", "CUDNN failure")
_INTERNAL = ChildError(
    code="internal_error", message="an unexpected error happened on our side; it has been logged", user_error=False
)
#: Kind of order → "module:function"; loaded on demand, since not every kind needs PyTorch.
KINDS = {
    "inspect_dataset": "worker.inside.inspection:inspect_dataset",
    "inspect_model": "worker.inside.inspection:inspect_model",
    "calibrate": "worker.inside.calibration:calibrate",
    "plan": "worker.inside.plan:plan",
    "predict": "worker.inside.batch:predict",
    "predict_shard": "worker.inside.batch:predict_shard",
    "fit_scores": "worker.inside.calibration:fit_scores",
}
#: Kind of order → what loads the libraries that its function loads on demand: PyTorch, or those that read files.
_LIBRARIES = {
    "inspect_dataset": ("fedlas.data",),
    "inspect_model": ("worker.inside.model_loading", "worker.inside.serving_cost"),
    "calibrate": ("worker.inside.model_loading",),
}
#: Kinds whose function is also given what asks the supervisor what to do next.
_ASKING = {"predict_shard"}
#: The exit code of a child that lacks a protection which this machine has.
UNPROTECTED = 4
_EVENTS_PER_SECOND = 5.0
#: Read by numeric libraries before their first use, so that the same job ends with the same bits: MKL's sums would
#: depend on where an array lies in memory (seen in a product of 7 × 512 and 512 × 10), those of cuBLAS on its streams.
_SAME_BITS = {"MKL_CBWR": "AUTO", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


def main(folder: Path) -> int:
    """Do the work that the request orders and write the answer.

    The first event tells how this process is confined. Nothing begins where a control is off that the supervisor
    expects to be on. The second event tells what its libraries take; only then is a file opened.
    """
    os.environ.update(_SAME_BITS)
    write = _claim_stdout()
    request = ChildRequest[WorkOrder].model_validate_json((folder / REQUEST).read_bytes())
    files = {name: Path(file) for name, file in request.files.items()}
    # A single thread until here: namespaces ask for it.
    report = confine(folder.resolve(), files.values())
    write(Confined(confined=report))
    if lacking(report, request.expected):
        return UNPROTECTED
    emit = _thinned(write)
    replies = Replies(emit)
    replies.listen()
    cores = _take_cores(request.limits.cores)
    write(loaded := load(request.order.kind))
    take_limits(request.limits, loaded, cores=cores)
    ask = replies.ask if request.order.kind in _ASKING else None
    unfinished = folder / "answer.partial"
    unfinished.write_text(answer_to(request.order, files, folder, emit, ask))
    os.replace(unfinished, folder / ANSWER)
    return 0


def load(kind: str) -> Loaded:
    """Load what this kind of work needs; an error, or the end of this process, is the machine's fault."""
    began = time.monotonic()
    for module in (KINDS[kind].partition(":")[0], *_LIBRARIES.get(kind, ())):
        import_module(module)
    return Loaded(**held_bytes(), seconds=time.monotonic() - began)


def answer_to(order: WorkOrder, files: Mapping[str, Path], folder: Path, emit: Emit, ask: Ask | None = None) -> str:
    module, _, function = KINDS[order.kind].partition(":")
    asking = () if ask is None else (ask,)
    try:
        result: BaseModel = getattr(import_module(module), function)(order, files, folder, emit, *asking)
        return json.dumps({"result": result.model_dump(mode="json", exclude_unset=True)})
    except Exception as error:
        return ChildAnswer(error=_explained(error)).model_dump_json()


def _explained(error: Exception) -> ChildError:
    # Importers explain whatever a graph runs into.
    cause = str(error.__cause__ if isinstance(error, FedLASError) else error).partition("\n")[0]
    if lacked_memory(error) and not isinstance(error, DeviceTooSmall):
        return _CARD_TOO_SMALL if "CUDA" in cause else _OUT_OF_MEMORY
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _STORAGE_FULL
    if any(words in cause for words in _CARD_WORDS):
        traceback.print_exception(error)
        return ChildError(code="card_failed", message=f"its card failed: {cause}", user_error=False)
    if isinstance(error, FedLASError):
        return ChildError(code=error.code, message=error.message, user_error=error.user_error)
    traceback.print_exception(error)
    return _INTERNAL


def _claim_stdout() -> Callable[[BaseModel], None]:
    """Keep the pipe for events, one a line; what libraries print goes to the log."""
    pipe = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return lambda event: print(event.model_dump_json(exclude_unset=True), file=pipe)


def _thinned(write: Callable[[BaseModel], None]) -> Emit:
    """Write events of any thread, but mere progress only some times a second."""
    last, lock = 0.0, threading.Lock()

    def emit(event: ChildEvent) -> None:
        nonlocal last
        with lock:
            if event.model_fields_set - {"progress"}:  # the next progress says all that this one does, and more
                write(event)
            elif time.monotonic() - last > 1 / _EVENTS_PER_SECOND:
                last = time.monotonic()
                write(event)

    return emit


def take_limits(limits: Limits, loaded: Loaded, *, cores: int) -> None:
    """Limit what this process takes beside what it has loaded; what is None stays as it is."""
    sizes = (
        (resource.RLIMIT_AS, limits.address_space, loaded.address_space),
        (resource.RLIMIT_DATA, limits.memory, loaded.data),
        (resource.RLIMIT_FSIZE, limits.file_size, 0),
        (resource.RLIMIT_CPU, math.ceil(limits.seconds) * cores, math.ceil(time.process_time())),
    )
    for kind, most, taken in sizes:
        if most is not None:
            lower(kind, taken + most)


def _take_cores(most: int | None) -> int:
    """Run on this many cores, any of them; returns how many there are. Libraries count them when they are loaded."""
    if sys.platform != "linux":
        return os.cpu_count() or 1
    usable = sorted(os.sched_getaffinity(0))
    if most is not None and most < len(usable):
        os.sched_setaffinity(0, random.sample(usable, most))
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    sys.stderr.flush()
    # Libraries' threads may still run, where a file was refused half-read: their destructors would abort the process.
    os._exit(code)
