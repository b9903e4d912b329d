"""The settings that service and worker share, read from `FEDLAS_*` by the composition roots and passed in."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

GIBIBYTE = 1024**3


class RegistrySettings(BaseSettings):
    """Where records, files and messages live; every value has a working default."""

    model_config = SettingsConfigDict(env_prefix="FEDLAS_", extra="ignore")

    data_dir: Path = Field(Path("fedlas-data"), description="Everything that must survive a restart.")
    database_url: str | None = Field(None, description="Default: an SQLite file in the data folder.")
    broker_url: str | None = Field(None, description="Default: the embedded Valkey of `fedlas serve`.")
    artifacts: Path | None = Field(None, description="Folder of the stored files. Default: in the data folder.")
    max_upload_bytes: int = Field(4 * GIBIBYTE, gt=0, description="Larger uploads are answered with 413.")

    @property
    def resolved_database_url(self) -> str:
        """The database URL, with the default filled in."""
        return self.database_url or f"sqlite:///{self.data_dir.absolute() / 'registry.sqlite'}"

    @property
    def resolved_artifacts(self) -> Path:
        """The folder of stored files, with the default filled in."""
        return (self.artifacts or self.data_dir / "artifacts").absolute()

    @property
    def resolved_broker_url(self) -> str:
        """The broker URL; without one, the socket that `fedlas serve` opens in the data folder."""
        return self.broker_url or f"redis+socket://{self.data_dir.absolute() / 'run' / 'broker.sock'}"
