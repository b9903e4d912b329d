"""The settings of service and worker, read from `FEDLAS_*` by the composition roots and passed in."""

from __future__ import annotations

import os
import re
import sys
from importlib.util import find_spec
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BeforeValidator, Field, StringConstraints, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.process_memory import memory_bytes
from service.registry.queues import GPU_ONLY, QUEUES
from service.registry.webhooks import Policy

GIBIBYTE = 1024**3
#: The umask of every process that writes into the data folder, whatever it is started with.
OWNER_ONLY = 0o077
_S3 = "s3://"
#: Settings whose validators say what is wrong, without the secrets in them.
_SECRET = frozenset({"database_url", "api_keys", "metrics_keys"})
#: With less, a process that answers predictions cannot work.
MIN_MEMORY_BYTES = 512 * 1024**2
_MIN_DEFAULT_BYTES = 2 * 1024**3
_MAX_DEFAULT_PROCESSES = 8
#: Memory of each process: with less it opens smaller models only.
_DEFAULT_BYTES_EACH = 4 * 1024**3
#: 32 random hexadecimal digits have 128 bits: no guessing finds them.
MIN_KEY_CHARACTERS = 32
_CENTURY_DAYS = 36_525  # as long as moments can be written
#: The URLs of SQLAlchemy that the service can use: drivers that take libpq's options, and a file.
_URL_FORM = re.compile(
    r"""sqlite(?:\+pysqlite)?:///[^?]+(?:\?.*)?
    |   postgresql(?:\+(?P<driver>psycopg2?))?://(?:[^:/@]*(?::[^@]*)?@)?   # who
        (?:\[[^/?\]]+\]|[^:/?@]*)(?::[0-9]+)?(?:/[^?]*)?(?:\?.*)?           # where""",
    re.VERBOSE | re.DOTALL,
)
_URL_NEEDED = "expected postgresql+psycopg://USER:PASSWORD@HOST/NAME or sqlite:////PATH, special characters as %XX"
_URL_SECRET = re.compile(r"(?<=://).*(?=@)|(?<=\?).*", re.DOTALL)


def fault(url: str) -> str | None:
    """Name what is wrong with the URL of a database, without its password; None where nothing is.

    >>> fault("postgres://me:secret@host/fedlas").partition(";")[0]
    "'postgres://***@host/fedlas' names no database that can be used"
    >>> fault("postgresql://me:secret@[::1]:5432/fedlas")
    """
    shown = repr(_URL_SECRET.sub("***", url))
    match = _URL_FORM.fullmatch(url)
    if match is None:
        return f"{shown} names no database that can be used; {_URL_NEEDED}"
    driver = match["driver"] or "psycopg"
    if url.startswith("postgresql") and find_spec(driver) is None:
        return (
            f"{shown} needs {driver}, which is not installed: "
            "pip install 'fedlas-service[postgresql]' (in a clone '.[postgresql]')"
        )
    return None


def listed(value: object) -> object:
    """Items between the commas of a variable; anything else as it is.

    >>> listed("a, b,")
    ('a', 'b')
    """
    return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value


class LogSettings(BaseSettings):
    """Settings of every process' log."""

    model_config = SettingsConfigDict(env_prefix="FEDLAS_", extra="ignore")

    log_times: bool = Field(
        True, description="Lines of the log begin with the time; not with `fedlas serve`, which adds its own."
    )

    @property
    def log_format(self) -> str:
        return f"{'%(asctime)s ' if self.log_times else ''}%(levelname)s %(message)s"


class ServingSettings(LogSettings):
    """Settings of a process that answers predictions; none of them is secret, or says where anything lies."""

    max_predict_bytes: int = Field(64 * 1024**2, gt=0, description="Larger predict bodies are answered with 413.")
    max_predict_json_bytes: int = Field(
        8 * 1024**2,
        gt=0,
        description="The limit for JSON, which holds the interpreter while it is read: 8 MiB for about 50 ms.",
    )
    max_predict_rows: int = Field(10_000, gt=0, description="Rows per predict request; more is answered with 413.")
    max_answer_bytes: int = Field(
        64 * 1024**2,
        gt=0,
        description="Answers that may become larger, or JSON larger than a quarter of it, are answered with 413.",
    )
    max_inflight_bytes: int = Field(
        1024**3,
        gt=0,
        description="Predict bodies, rows and answers held at once; what comes beyond is answered with 429.",
    )
    max_waiting_bodies: int = Field(
        256, gt=0, description="Predict bodies that may wait to be read; what comes beyond is answered with 429."
    )
    max_queued_rows: int = Field(
        20_000, gt=0, description="Rows that may wait for one model; what comes beyond is answered with 429."
    )
    max_batch_rows: int = Field(256, gt=0, description="Rows of different requests that are run together, at most.")
    predict_timeout_seconds: float = Field(
        30, gt=0, le=3600, description="The longest a predict request waits for its answer; then 504."
    )
    session_cache_bytes: int = Field(2 * 1024**3, gt=0, description="Total size of models kept open for serving.")
    metrics_models: int = Field(
        200, ge=1, le=10_000, description="Names and versions that `/metrics` tells apart; others count as `other`."
    )
    inference_threads: int = Field(1, ge=1, description="Threads of ONNX Runtime within one batch.")
    inference_runs: int = Field(
        0, ge=0, description="Batches at once in one API process; 0: as many as it has cores to spare."
    )
    api_memory_bytes: int | None = Field(
        None,
        ge=MIN_MEMORY_BYTES,
        description="The most memory that an API process may take; what would need more fails. "
        "Default: half of the machine's, shared among the API processes, but at least 2 GiB.",
    )
    hung_seconds: float = Field(
        5, ge=1, description="An API process whose event loop stands still for so long is ended and started again."
    )
    api_processes: int | None = Field(
        None,
        ge=1,
        le=256,
        description="Processes that answer predictions. Default: one for each core and 8 GiB of memory, 8 at most; "
        "without a wall one.",
    )

    max_connections: int = Field(
        0, ge=0, description="Connections of one API process; 0: 16,384, or fewer where files are limited. Then 503."
    )
    max_connections_per_address: int = Field(
        0, ge=0, description="Connections of one address to one API process; 0: 1,024. Loopback and proxies have none."
    )
    trusted_proxies: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(listed)] = Field(
        (),
        description="Comma-separated addresses or networks of proxies, whose connections are not counted by address.",
    )

    shutdown_seconds: float = Field(30, ge=0, description="How long requests in flight may take after SIGTERM.")

    @property
    def resolved_api_processes(self) -> int:
        most = min(len(os.sched_getaffinity(0)), _MAX_DEFAULT_PROCESSES)
        return self.api_processes or max(1, min(most, memory_bytes() // 2 // _DEFAULT_BYTES_EACH))

    @property
    def resolved_api_memory_bytes(self) -> int:
        """The limit of each API process; by default half of the machine's memory, shared: jobs need the rest."""
        return self.api_memory_bytes or max(_MIN_DEFAULT_BYTES, memory_bytes() // 2 // self.resolved_api_processes)


class RegistrySettings(LogSettings):
    """Settings of the registry: records, files and messages; every value has a working default."""

    data_dir: Path = Field(Path("fedlas-data"), description="Everything that must survive a restart.")
    database_url: str | None = Field(None, description="Default: an SQLite file in the data folder.")
    broker_url: str | None = Field(None, description="Default: the embedded Valkey of `fedlas serve`.")
    artifacts: str | None = Field(
        None, description="The stored files: a folder, or `s3://bucket/prefix`. Default: in the data folder."
    )
    artifact_cache_bytes: int = Field(
        50 * GIBIBYTE, gt=0, description="About how much of a bucket is kept at hand on this machine's disk."
    )
    max_upload_bytes: int = Field(4 * GIBIBYTE, gt=0, description="Larger uploads are answered with 413.")

    webhook_allow_private: bool = Field(False, description="Webhooks may lead to private addresses and loopback.")
    webhook_allowed_networks: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(listed)] = (
        Field((), description="Comma-separated networks that webhooks may lead to although they are private.")
    )

    @field_validator("database_url")
    @classmethod
    def _names_a_database(cls, value: str | None) -> str | None:
        if value and (wrong := fault(value)):
            raise ValueError(wrong)
        return value

    @property
    def webhook_policy(self) -> Policy:
        return Policy(self.webhook_allow_private, self.webhook_allowed_networks)

    @property
    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir.absolute() / 'registry.sqlite'}"

    @field_validator("artifacts")
    @classmethod
    def _names_a_bucket(cls, value: str | None) -> str | None:
        if value is not None and value.startswith(_S3) and not value.removeprefix(_S3).partition("/")[0]:
            raise ValueError(f"{value!r} names no bucket; expected s3://bucket or s3://bucket/prefix")
        return value

    @property
    def artifact_bucket(self) -> tuple[str, str] | None:
        """Bucket and prefix of the stored files; None where they lie in a folder."""
        if self.artifacts is None or not self.artifacts.startswith(_S3):
            return None
        bucket, _, prefix = self.artifacts.removeprefix(_S3).partition("/")
        return bucket, prefix.strip("/")

    @property
    def resolved_artifacts(self) -> Path:
        """The folder of stored files, or of the copies from a bucket, with the default filled in."""
        if self.artifact_bucket is not None:
            return self.data_dir.absolute() / "artifact-cache"
        return Path(self.artifacts or self.data_dir / "artifacts").absolute()

    @property
    def resolved_broker_url(self) -> str:
        """The broker URL; without one, the socket that `fedlas serve` opens in the data folder."""
        return self.broker_url or f"redis+socket://{self.data_dir.absolute() / 'run' / 'broker.sock'}"


class ServiceSettings(ServingSettings, RegistrySettings):
    """Settings of the API: those of serving, of the registry, and its own."""

    host: str = Field("127.0.0.1", description="Address to listen on; without keys only loopback is used.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes any free port.")
    api_keys: Annotated[frozenset[str], NoDecode, BeforeValidator(listed)] = Field(
        frozenset(), description="Comma-separated keys of administrators, each of 32 characters or more."
    )
    metrics_keys: Annotated[frozenset[str], NoDecode, BeforeValidator(listed)] = Field(
        frozenset(), description="Comma-separated keys that read `/metrics` alone, each of 32 characters or more."
    )
    session_hours: float = Field(
        12, gt=0, le=24 * 31, description="How long a browser may use the pages after its user has entered a key."
    )
    wall: Literal["preferred", "required", "off"] = Field(
        "preferred",
        description="Whether predictions are answered in processes that hold no key, no password and no way out: "
        "`preferred`, with the protections that this machine has; `required`, only with all of them; `off`, in the API "
        "process itself.",
    )
    heavy_concurrency: int = Field(
        1, ge=1, description="Calibrations at once of `fedlas serve`: each uses all cores, or the GPU."
    )
    light_concurrency: int = Field(
        8,
        ge=1,
        description="All other work at once of `fedlas serve`; no queue takes more than its share of these, and "
        "inspections and dry runs no more than half of the memory.",
    )

    allowed_hosts: Annotated[
        frozenset[Annotated[str, StringConstraints(to_lower=True)]], NoDecode, BeforeValidator(listed)
    ] = Field(
        frozenset(), description="Comma-separated names under which browsers reach this service, beside its `Host`."
    )

    @field_validator("api_keys", "metrics_keys")
    @classmethod
    def _are_not_guessed(cls, value: frozenset[str]) -> frozenset[str]:
        if short := [len(key) for key in value if len(key) < MIN_KEY_CHARACTERS]:
            raise ValueError(
                f"a key has {min(short)} characters; expected {MIN_KEY_CHARACTERS} or more, "
                "such as `openssl rand -hex 24` makes"
            )
        return value

    @model_validator(mode="after")
    def _one_process_without_a_wall(self) -> ServiceSettings:
        if not self.walled and (self.api_processes or 1) > 1:
            raise ValueError("FEDLAS_WALL=off answers in one process: leave out FEDLAS_API_PROCESSES")
        return self

    @property
    def walled(self) -> bool:
        """True where predictions are answered behind a wall; other systems than Linux have none to prefer."""
        return self.wall != "off" and (self.wall == "required" or sys.platform == "linux")

    @property
    def resolved_api_processes(self) -> int:
        return super().resolved_api_processes if self.walled else 1

    @property
    def listen_host(self) -> str:
        """The address really bound: without configured keys only loopback, whatever was asked for."""
        return self.host if self.api_keys or is_loopback(self.host) else "127.0.0.1"

    @property
    def host_names(self) -> frozenset[str]:
        """The names under which browsers reach this service, beside `Host`."""
        return self.allowed_hosts | {self.listen_host.lower()}


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
        description="Batch predictions that ended longer ago are deleted with their results. Default: kept for ever.",
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
        description="Address space of an inspection beside the libraries that it loads and 16 times its upload; its "
        "memory is far less.",
    )
    inspection_base_bytes: int = Field(
        512 * 1024**2,
        gt=0,
        description="Memory of an inspection beside the libraries that it loads and 8 times its upload, 40 times its "
        "first 64 MiB.",
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
        """Memory for calibrations here, in bytes."""
        return self.worker_memory_bytes or memory_bytes()

    @property
    def work_dir(self) -> Path:
        return self.data_dir.absolute() / "work"


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Mistake(NamedTuple):
    """A mistake in settings: its environment variable, None where several do not fit each other, and the finding."""

    variable: str | None
    found: str

    def __str__(self) -> str:
        return self.found if self.variable is None else f"{self.variable}: {self.found}"


def mistakes(error: ValidationError) -> list[Mistake]:
    """Mistakes in settings, in the words of who has set them."""
    all_mistakes = []
    for details in error.errors(include_url=False):
        message, name = details["msg"].removeprefix("Value error, "), "".join(map(str, details["loc"][:1]))
        shown = "" if not name or name in _SECRET else f", found {details['input']!r}"
        all_mistakes.append(Mistake(f"FEDLAS_{name}".upper() if name else None, message + shown))
    return all_mistakes
