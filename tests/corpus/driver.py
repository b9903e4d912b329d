"""Uploads through one confined child: `python -m tests.corpus.driver FOLDER`, orders.json to timed answers.json."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from pydantic import TypeAdapter

from worker.documents import WorkOrder
from worker.inside import child
from worker.sandbox.confinement import confine
from worker.sandbox.protocol import Limits

_ORDER: TypeAdapter[WorkOrder] = TypeAdapter(WorkOrder)


def main(folder: Path) -> None:
    """Answer all orders."""
    orders = json.loads((folder / "orders.json").read_text())
    # Not ru_maxrss, which begins at the size of the process that this one was forked from.
    status = Path("/proc/self/status").open()  # noqa: SIM115
    confine(folder, [Path(order["file"]) for order in orders["orders"]])
    limits = Limits(**orders["limits"])
    cores = child._take_cores(limits.cores)
    loaded = child.load("inspect_model")
    child.take_limits(limits, loaded, cores=cores)
    answers = []
    for order in orders["orders"]:
        started = time.monotonic()
        Path(order["folder"]).mkdir(exist_ok=True)
        ordered: WorkOrder = _ORDER.validate_python(order["order"])
        files = dict.fromkeys(("model", "dataset"), Path(order["file"]))
        answer = json.loads(child.answer_to(ordered, files, Path(order["folder"]), lambda event: None))
        seconds = time.monotonic() - started
        status.seek(0)
        peak = 1024 * int(status.read().partition("VmHWM:")[2].split()[0]) - loaded.resident
        answers.append({**answer, "seconds": seconds, "peak": peak})
        (folder / "answers.json").write_text(json.dumps(answers))  # as far as it came, should a file kill it


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
