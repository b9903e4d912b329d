"""A limit on the memory of a measured process, its page cache included; it measures nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Version 1, where the kernel has it.
CGROUP = Path("/sys/fs/cgroup/memory")


@contextmanager
def control_group(limit_bytes: float) -> Iterator[Path | None]:
    """A control group with so much memory for everything, or None where none can be made."""
    group = CGROUP / f"fedlas-benchmark-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(int(limit_bytes)))
    except OSError:
        yield None
        return
    try:
        yield group
    finally:
        group.rmdir()
