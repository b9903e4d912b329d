"""Inside the sandbox: takes its limits, does one step, and leaves an answer; it knows no registry and no queue."""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

_OUT_OF_MEMORY = {"code": "out_of_memory", "message": "opening this file took more memory than is allowed"}
_INTERNAL = {"code": "internal_error", "message": "an unexpected error happened on our side; it has been logged"}
#: Step → "module:function"; loaded on demand, since not every step needs PyTorch.
STEPS = {
    "inspect_dataset": "worker.inspection:inspect_dataset",
    "inspect_model": "worker.inspection:inspect_model",
    "calibrate": "worker.pipeline:calibrate",
    "predict": "worker.batch:predict",
    "fit_scores": "worker.scores_only:fit_scores",
}
_EVENTS_PER_SECOND = 5.0


def main(folder: Path) -> int:
    """Run the step that `request.json` names and write `answer.json`."""
    emit = _claim_stdout()
    threading.Thread(target=_end_with_supervisor, daemon=True).start()
    request = json.loads((folder / "request.json").read_text())
    _take_limits(request["limits"])
    answer = _answer(request["step"], request["spec"], folder, emit)
    partial = folder / "answer.partial"
    partial.write_text(json.dumps(answer))
    os.replace(partial, folder / "answer.json")
    return 0


def _answer(step: str, spec: dict[str, Any], folder: Path, emit: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    from fedlas.errors import FedLASError

    module, _, function = STEPS[step].partition(":")
    try:
        return {"result": getattr(import_module(module), function)(spec, folder, emit)}
    except FedLASError as error:
        return {"error": {"code": error.code, "message": error.message, "user_error": error.user_error}}
    except MemoryError:
        return {"error": {**_OUT_OF_MEMORY, "user_error": True}}
    except Exception as error:
        traceback.print_exc()
        if "can't allocate memory" in str(error) or "bad allocation" in str(error):
            return {"error": {**_OUT_OF_MEMORY, "user_error": True}}
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


def _take_limits(limits: dict[str, Any]) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for kind, name in ((resource.RLIMIT_AS, "address_space"), (resource.RLIMIT_FSIZE, "file_size")):
        if limits[name] is not None:
            resource.setrlimit(kind, (limits[name], limits[name]))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
