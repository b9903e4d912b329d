"""The settings of the API process and of `fedlas serve`."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from service.registry.settings import RegistrySettings, listed


class ServiceSettings(RegistrySettings):
    """What the API needs beyond the registry."""

    host: str = Field("127.0.0.1", description="Address to listen on; without keys only loopback is used.")
    port: int = Field(8000, ge=0, le=65535, description="0 takes any free port.")
    api_keys: Annotated[frozenset[str], NoDecode] = Field(frozenset(), description="Comma-separated bearer keys.")
    max_predict_bytes: int = Field(64 * 1024**2, gt=0, description="Larger predict bodies are answered with 413.")
    max_predict_rows: int = Field(10_000, gt=0, description="Rows per predict request; more is answered with 413.")
    session_cache_bytes: int = Field(2 * 1024**3, gt=0, description="Total size of models kept open for serving.")
    inference_threads: int = Field(1, ge=1, description="Threads of ONNX Runtime within one request.")

    shutdown_seconds: float = Field(30, ge=0, description="How long requests in flight may take after SIGTERM.")

    @field_validator("api_keys", mode="before")
    @classmethod
    def _split_keys(cls, value: object) -> object:
        return listed(value)

    @property
    def listen_host(self) -> str:
        """The address really bound: without configured keys only loopback, whatever was asked for."""
        return self.host if self.api_keys or _is_loopback(self.host) else "127.0.0.1"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
