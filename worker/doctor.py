"""The worker's check of `fedlas doctor`: what uploads would be opened with here, found by opening a sandbox."""

from __future__ import annotations

from collections.abc import Iterator

from service.confinement.confinement import protections
from service.registry.settings import RegistrySettings
from worker.sandbox import confinement


def check() -> Iterator[dict[str, str]]:
    """Each control that confines what opens an upload; one that is off is a warning, as it is for a worker."""
    folder = RegistrySettings().data_dir.absolute()
    # Where children would have their folders, or the nearest folder above that is there.
    report = confinement.status(next(path for path in (folder, *folder.parents) if path.is_dir()))
    for control in protections(report, confinement.CONTROLS, confinement.HARM):
        status, remedy = ("ok", "") if control.on else ("warn", control.remedy)
        yield {"name": f"sandbox, {control.name}", "status": status, "found": control.found, "remedy": remedy}
