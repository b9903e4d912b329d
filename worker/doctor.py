"""The worker's check of `fedlas doctor`: what uploads would be opened with here, found by opening a sample."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from service.confinement.confinement import protections
from service.process_memory import free_bytes
from service.registry.settings import WorkerSettings
from worker.outside.kinds.uploads import try_sample
from worker.sandbox import confinement

_LITTLE_BYTES = 2 * 10**9


def check() -> Iterator[dict[str, str]]:
    """The controls that confine what opens an upload, each a warning if it is off; memory; and the sample."""
    folder = WorkerSettings().data_dir.absolute()
    # Where children would have their folders, or the nearest folder above that is there.
    report = confinement.status(next(path for path in (folder, *folder.parents) if path.is_dir()))
    yield from protections(report, confinement.CONTROLS, confinement.HARM, place="sandbox, ")
    status, gigabytes = "ok" if free_bytes() >= _LITTLE_BYTES else "warn", free_bytes() / 1e9
    yield {"name": "memory", "status": status, "found": f"{gigabytes:.1f} GB are free; a small calibration takes 2"}
    with TemporaryDirectory() as work_dir:
        loaded, unfit = try_sample(WorkerSettings(), Path(work_dir))
    if unfit is None:
        yield {"name": "an upload", "status": "ok", "found": f"a process that has loaded PyTorch takes {loaded}"}
    else:
        yield {
            "name": "an upload",
            "status": "fail",
            "found": unfit,
            "remedy": "mend the library or limit that it names",
        }
