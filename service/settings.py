"""The settings of the API process and of `fedlas serve`."""

from __future__ import annotations

import sys
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StringConstraints, field_validator
from pydantic_settings import NoDecode

from service.process_memory import default_limit
from service.registry.settings import LogSettings, RegistrySettings, listed

#: With less, a process that answers predictions cannot work.
LEAST_MEMORY_BYTES = 512 * 1024**2
#: 16 random letters and digits have 80 bits and more: no guessing finds them.
MIN_KEY_CHARACTERS = 16


class ServingSettings(LogSettings):
    """Settings of a process that answers predictions; none of them is secret, or says where anything lies."""

    max_predict_bytes: int = Field(64 * 1024**2, gt=0, description="Larger predict bodies are answered with 413.")
    max_predict_json_bytes: int = Field(
        8 * 1024**2,
        gt=0,
        description="The same of JSON, which holds the interpreter while it is read: 8 MiB of numbers for about 50 ms.",
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
        ge=LEAST_MEMORY_BYTES,
        description="The most memory that an API process may take; what would need more fails. "
        "Default: half of the machine's, shared among the API processes, but at least 2 GiB.",
    )
    hung_seconds: float = Field(
        5, ge=1, description="An API process whose event loop stands still for so long is ended and started again."
    )
    api_processes: int = Field(
        1,
        ge=1,
        le=256,
        description="Processes that answer predictions; they share the cores, and without a wall the port.",
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
    def resolved_api_memory_bytes(self) -> int:
        """The limit of each API process, with the default filled in."""
        return self.api_memory_bytes or default_limit(processes=self.api_processes)


class ServiceSettings(ServingSettings, RegistrySettings):
    """Settings of the API: those of serving, of the registry, and its own."""

    host: str = Field("127.0.0.1", description="Address to listen on; without keys only loopback is used.")
    port: int = Field(8000, ge=0, le=65535, description="0 takes any free port.")
    api_keys: Annotated[frozenset[str], NoDecode, BeforeValidator(listed)] = Field(
        frozenset(), description="Comma-separated bearer keys, each of 16 characters or more."
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
    isolated_models: int = Field(
        2,
        ge=0,
        le=64,
        description="Models at once that run in a process of their own behind the wall, because a run of theirs once "
        "crashed its process or did not end; 0: such a model is out of service for ten minutes.",
    )
    heavy_concurrency: int = Field(
        1, ge=1, description="Calibrations at once of `fedlas serve`: each uses all cores, or the GPU."
    )
    light_concurrency: int = Field(
        8, ge=1, description="All other work at once of `fedlas serve`; no queue takes more than its share of these."
    )

    allowed_hosts: Annotated[
        frozenset[Annotated[str, StringConstraints(to_lower=True)]], NoDecode, BeforeValidator(listed)
    ] = Field(
        frozenset(), description="Comma-separated names under which browsers reach this service, beside its `Host`."
    )

    @field_validator("api_keys")
    @classmethod
    def _are_not_guessed(cls, value: frozenset[str]) -> frozenset[str]:
        if short := [len(key) for key in value if len(key) < MIN_KEY_CHARACTERS]:
            raise ValueError(
                f"a key has {min(short)} characters; needed are {MIN_KEY_CHARACTERS} or more, "
                "such as `openssl rand -hex 24` makes"
            )
        return value

    @property
    def walled(self) -> bool:
        """Whether predictions are answered behind a wall; other systems than Linux have none to prefer."""
        return self.wall != "off" and (self.wall == "required" or sys.platform == "linux")

    @property
    def listen_host(self) -> str:
        """The address really bound: without configured keys only loopback, whatever was asked for."""
        return self.host if self.api_keys or is_loopback(self.host) else "127.0.0.1"

    @property
    def host_names(self) -> frozenset[str]:
        """The names under which browsers reach this service, beside `Host`."""
        return self.allowed_hosts | {self.listen_host.lower()}


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
