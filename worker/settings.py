"""The settings of the worker process."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from service.registry.settings import GIBIBYTE, RegistrySettings


class WorkerSettings(RegistrySettings):
    """What the worker needs beyond the registry."""

    worker_threads: int = Field(4, ge=1, description="Pieces of work supervised at once; each runs in its own process.")
    worker_jobs: int = Field(1, ge=1, description="Calibrations at once: they use all cores, or the GPU.")
    lease_seconds: float = Field(15, gt=0, description="Work whose worker is silent for this long is given to another.")
    heartbeat_seconds: float = Field(2, gt=0, description="How often a lease is renewed and progress written.")
    reap_seconds: float = Field(3, gt=0, description="How often to look for work that nobody hears of.")
    max_attempts: int = Field(3, ge=1, description="Work that loses its process this often is given up.")
    inspection_seconds: float = Field(120, gt=0, description="An inspection that takes longer is ended by force.")
    inspection_memory_bytes: int = Field(12 * GIBIBYTE, gt=0, description="Address space of an inspection.")
    job_grace_seconds: float = Field(1800, ge=0, description="Beyond its own budget a job is ended by force.")

    @property
    def work_dir(self) -> Path:
        """Where children have their private folders."""
        return self.data_dir.absolute() / "work"
