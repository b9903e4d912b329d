"""The settings of the worker process."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from service.registry.settings import GIBIBYTE, RegistrySettings
from worker.sandbox import Limits

_MEBIBYTE = 1024**2
#: An importer holds the file, its message, the arrays, the network, the session and the copy it writes.
_MEMORY_PER_BYTE = 8
#: Large files may take longer: this is what a busy machine reads, checks and writes again. Their arrays are mapped, the
#: upload's and the copy's, perhaps inflated: address space is no memory.
_BYTES_PER_SECOND, _COPIES = 10_000_000, 16


class WorkerSettings(RegistrySettings):
    """What the worker needs beyond the registry."""

    worker_threads: int = Field(4, ge=1, description="Pieces of work supervised at once; each runs in its own process.")
    worker_jobs: int = Field(1, ge=1, description="Calibrations at once: they use all cores, or the GPU.")
    lease_seconds: float = Field(15, gt=0, description="Work whose worker is silent for this long is given to another.")
    heartbeat_seconds: float = Field(2, gt=0, description="How often a lease is renewed and progress written.")
    reap_seconds: float = Field(3, gt=0, description="How often to look for work that nobody hears of.")
    max_attempts: int = Field(3, ge=1, description="Work that loses its process this often is given up.")
    inspection_seconds: float = Field(
        120, gt=0, description="An inspection of a small file that takes longer is ended by force."
    )
    inspection_memory_bytes: int = Field(
        12 * GIBIBYTE,
        gt=0,
        description="Address space of an inspection beside 16 times its upload; its memory is far less.",
    )
    inspection_base_bytes: int = Field(
        768 * _MEBIBYTE, gt=0, description="Memory of an inspection beside 8 times its upload; the libraries take half."
    )
    inspection_cores: int = Field(4, ge=1, description="Cores that one inspection may use.")
    job_grace_seconds: float = Field(1800, ge=0, description="Beyond its own budget a job is ended by force.")

    @property
    def work_dir(self) -> Path:
        """Where children have their private folders."""
        return self.data_dir.absolute() / "work"


def inspection_limits(settings: WorkerSettings, size: int) -> Limits:
    """What a child may use that opens an upload of this size: bytes that few bytes claim to be are not made."""
    most = settings.inspection_memory_bytes
    return Limits(
        seconds=settings.inspection_seconds + size / _BYTES_PER_SECOND,
        address_space=most + _COPIES * size,
        # The prepared copy may be larger than a compressed upload, but not without bounds.
        file_size=max(64 * _MEBIBYTE, min(64 * size, 4 * settings.max_upload_bytes)),
        memory=min(most, settings.inspection_base_bytes + _MEMORY_PER_BYTE * size),
        cores=settings.inspection_cores,
    )
