"""Files in memory that cannot be changed any more: what is too large for a message goes in one."""

from __future__ import annotations

import fcntl
import os
import stat

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def sealed(content: bytes) -> int:
    """A file with this content."""
    memory = os.memfd_create("message", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    left = memoryview(content)
    while left:
        left = left[os.write(memory, left) :]
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
    return memory


def content_of(memory: int, most_bytes: int) -> bytes:
    """The content of such a file; raises ValueError for any other, whose reader might wait or never end."""
    found = os.fstat(memory)
    if not stat.S_ISREG(found.st_mode) or fcntl.fcntl(memory, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
        raise ValueError("not a sealed file in memory")
    if found.st_size > most_bytes:
        raise ValueError(f"a message of {found.st_size} bytes; at most {most_bytes}")
    return os.pread(memory, found.st_size, 0)
