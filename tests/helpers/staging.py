"""Content that is stored without a file."""

from __future__ import annotations

from service.registry.artifacts import ArtifactStore, StagedFile


def stage_bytes(store: ArtifactStore, content: bytes) -> StagedFile:
    """A staged file with this content; use it as a context manager."""
    staged = store.stage()
    try:
        staged.write(content)
        staged.seal()
    except BaseException:
        staged.close()
        raise
    return staged
