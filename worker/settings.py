"""The settings of the worker process."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_settings import NoDecode

from service.process_memory import memory_bytes
from service.registry.contract import GPU_ONLY, QUEUES
from service.registry.settings import GIBIBYTE, RegistrySettings, listed
from worker.sandbox.protocol import Limits

_MEBIBYTE = 1024**2
_CENTURY_DAYS = 36_525  # as long as moments can be told
#: An importer holds the file, its message, the arrays, the network, the session and the copy it writes. A forest is
#: lists of small numbers, a byte or two each in the file and an object in Python: 25 MB of it took 1.2 GiB.
_MEMORY_PER_BYTE, _MEMORY_PER_LISTED_BYTE, _LISTED_BYTES = 8, 40, 64 * _MEBIBYTE
#: Large files may take longer: this is what a busy machine reads, checks and writes again. Their arrays are mapped, the
#: upload's and the copy's, perhaps inflated: address space is no memory.
_BYTES_PER_SECOND, _COPIES = 10_000_000, 16


class WorkerSettings(RegistrySettings):
    """Settings of the worker beyond the registry's."""

    worker_queues: Annotated[frozenset[str], NoDecode, BeforeValidator(listed)] = Field(
        frozenset(), description="Comma-separated; default: all, `calibrate.gpu` only where there is a GPU."
    )
    worker_memory_bytes: int | None = Field(
        None, gt=0, description="Calibrations that need more are left to larger workers. Default: what is here."
    )
    lease_seconds: float = Field(6, gt=0, description="Work whose worker is silent for this long is given to another.")
    heartbeat_seconds: float = Field(2, gt=0, description="How often a lease is renewed and progress written.")
    poll_seconds: float = Field(1, gt=0, description="How often to poll the queues for work whose message was lost.")
    max_attempts: int = Field(
        5, ge=1, description="Work that loses its process this often in a row, without getting further, is given up."
    )
    checkpoint_seconds: float = Field(
        0.5, ge=0, description="Jobs are saved after each epoch, unless the last time is no longer ago than this."
    )
    shard_seconds: float = Field(
        5, gt=0, description="Batch predictions that take longer, by an estimate, are split into shards of this size."
    )
    sweep_grace_seconds: float = Field(
        24 * 3600, gt=0, description="Stored files that nothing names are removed when they are this old."
    )
    sweep_seconds: float = Field(60, gt=0, description="How often to look at the next thousand of them.")
    keep_jobs_days: float | None = Field(
        None,
        gt=0,
        le=_CENTURY_DAYS,
        description="Jobs that ended longer ago are deleted with their reports. Default: kept for ever.",
    )
    keep_results_days: float | None = Field(
        None,
        gt=0,
        le=_CENTURY_DAYS,
        description="The same of batch predictions with their results. Default: kept for ever.",
    )
    worker_metrics_port: int | None = Field(
        None, ge=0, le=65535, description="The port of this worker's `/metrics`; 0 takes any free one. Default: none."
    )
    worker_metrics_host: str = Field("127.0.0.1", description="The address of that port; whoever reaches it may read.")
    inspection_seconds: float = Field(
        120, gt=0, description="An inspection of a small file that takes longer is ended by force."
    )
    inspection_memory_bytes: int = Field(
        12 * GIBIBYTE,
        gt=0,
        description="Address space of an inspection beside 16 times its upload; its memory is far less.",
    )
    inspection_base_bytes: int = Field(
        768 * _MEBIBYTE,
        gt=0,
        description="Memory of an inspection beside 8 times its upload, 40 times its first 64 MiB.",
    )
    inspection_cores: int = Field(4, ge=1, description="Cores that one inspection may use.")
    job_grace_seconds: float = Field(1800, ge=0, description="Beyond its own budget a job is ended by force.")

    @field_validator("worker_queues")
    @classmethod
    def _known_queues(cls, value: frozenset[str]) -> frozenset[str]:
        if unknown := sorted(value - set(QUEUES)):
            raise ValueError(f"there is no queue {unknown[0]!r}; the queues are {', '.join(QUEUES)}")
        return value

    @model_validator(mode="after")
    def _makes_sense(self) -> WorkerSettings:
        lease, heartbeat = self.lease_seconds, self.heartbeat_seconds
        if lease < 2 * heartbeat:
            raise ValueError(
                f"FEDLAS_LEASE_SECONDS must be at least twice FEDLAS_HEARTBEAT_SECONDS, else living workers lose work; "
                f"found {lease:g} and {heartbeat:g}"
            )
        return self

    @property
    def resolved_queues(self) -> tuple[str, ...]:
        """The queues, those first that only few workers can serve."""
        return tuple(sorted(self.worker_queues or QUEUES, key=lambda queue: (queue != GPU_ONLY, queue)))

    @property
    def resolved_memory_bytes(self) -> int:
        """What calibrations here may need."""
        return self.worker_memory_bytes or memory_bytes()

    @property
    def work_dir(self) -> Path:
        """Where children have their private folders."""
        return self.data_dir.absolute() / "work"


def inspection_limits(settings: WorkerSettings, size: int) -> Limits:
    """What a child may use that opens an upload of this size: bytes that few bytes claim to be are not made."""
    most = settings.inspection_memory_bytes
    opened = _MEMORY_PER_BYTE * size + (_MEMORY_PER_LISTED_BYTE - _MEMORY_PER_BYTE) * min(size, _LISTED_BYTES)
    return Limits(
        seconds=settings.inspection_seconds + size / _BYTES_PER_SECOND,
        address_space=most + _COPIES * size,
        # The prepared copy may be larger than a compressed upload, but not without bounds.
        file_size=max(64 * _MEBIBYTE, min(64 * size, 4 * settings.max_upload_bytes)),
        memory=min(most, settings.inspection_base_bytes + opened),
        cores=settings.inspection_cores,
    )
