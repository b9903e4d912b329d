"""Garbage collection: removes stored files that no record names, and what killed processes left half-written.

A process may be killed between storing a file and committing the record that names it, and a deletion may commit while
the storage is away. The storage's own clock decides a file's age, and each file is checked again inside the write
transaction that removes it: no other writer can name it in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from service.registry.listing import StoredFile
from service.registry.registry import Registry

#: Files checked in one call, and in one reading transaction.
_MOST_FILES, _AT_ONCE = 1_000, 100


@dataclass(frozen=True, slots=True)
class CollectedGarbage:
    """The result of one call.

    Attributes:
        looked_at: stored files listed.
        orphans: files removed that no record named, of `orphan_bytes` together.
        left_overs: files removed that never got a name, of `left_over_bytes` together.
        next: where the next call goes on; None after the last file.
    """

    looked_at: int
    orphans: int
    orphan_bytes: int
    left_overs: int
    left_over_bytes: int
    next: str | None


def collect_garbage(
    registry: Registry, *, older_than: timedelta, after: str | None = None, most_files: int = _MOST_FILES
) -> CollectedGarbage:
    """Remove what no record names and nothing has changed for `older_than`, among the next `most_files` from `after`.

    `older_than` must be longer than any upload takes from its last byte to its record. Several processes may collect
    at once, and each host should: what is half-written lies on its own disk. Raises Unavailable where the database or
    the storage cannot be reached; what was removed until then stays removed.
    """
    store = registry.artifacts
    left_overs = store.clear_left_overs(older_than=older_than) if after is None else []
    before = store.clock() - older_than
    files = store.listed(after=after or "", limit=most_files)
    removed = []
    for file in _unnamed(registry, [file for file in files if file.changed < before]):
        with registry.write() as unit:
            if not unit.datasets.is_referenced(file.digest) and store.expire(file.digest, before=before):
                removed.append(file.size)
    return CollectedGarbage(
        looked_at=len(files),
        orphans=len(removed),
        orphan_bytes=sum(removed),
        left_overs=len(left_overs),
        left_over_bytes=sum(left_overs),
        next=files[-1].digest if len(files) == most_files else None,
    )


def _unnamed(registry: Registry, files: Sequence[StoredFile]) -> list[StoredFile]:
    """Those that no record seems to name: nearly all files are named, and need no write transaction."""
    unnamed = []
    for start in range(0, len(files), _AT_ONCE):
        some = files[start : start + _AT_ONCE]
        with registry.read() as unit:
            named = unit.datasets.referenced([file.digest for file in some])
        unnamed += [file for file in some if file.digest not in named]
    return unnamed
