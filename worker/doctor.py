"""The worker's check of `fedlas doctor`: what uploads would be opened with here, found by opening a sandbox."""

from __future__ import annotations

from collections.abc import Iterator

from service.registry.settings import RegistrySettings
from worker.sandbox import confinement

#: Control → what it is for, and what permits it where it is off.
_CONTROLS = {
    "network": ("no network", "allow user namespaces (sysctl user.max_user_namespaces), or seccomp"),
    "files": ("reads and writes only what it is given", "Linux 5.13 or newer with Landlock among lsm= of the kernel"),
    "user": ("is not root", "start the worker as a user other than root, or leave it CAP_SETUID and CAP_CHOWN"),
    "system_calls": ("dangerous system calls are denied", "a kernel with seccomp, on x86-64 or ARM64"),
    "privileges": ("never gains rights", "a Linux kernel"),
    "limits": ("processes and open files are limited", "raise the hard limits of this user (ulimit -Hn, -Hu)"),
}


def check() -> Iterator[dict[str, str]]:
    """Each control that confines what opens an upload; one that is off is a warning, as it is for a worker."""
    folder = RegistrySettings().data_dir.absolute()
    # Where children would have their folders, or the nearest folder above that is there.
    report = confinement.status(next(path for path in (folder, *folder.parents) if path.is_dir()))
    for name, (meaning, remedy) in _CONTROLS.items():
        state = report.get(name, "off: the trial did not say")
        how = state.partition(": ")[2]
        if state.startswith("on"):
            yield {"name": f"sandbox, {name.replace('_', ' ')}", "status": "ok", "found": f"{meaning} ({how})"}
        else:
            found = f"uploads are opened without this protection: {meaning} ({how})"
            yield {"name": f"sandbox, {name.replace('_', ' ')}", "status": "warn", "found": found, "remedy": remedy}
