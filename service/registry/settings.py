"""The settings that service and worker share, read from `FEDLAS_*` by the composition roots and passed in."""

from __future__ import annotations

import re
from importlib.util import find_spec
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BeforeValidator, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.registry.webhooks import Policy

GIBIBYTE = 1024**3
#: The umask of every process that writes into the data folder, whatever it is started with.
OWNER_ONLY = 0o077
_S3 = "s3://"
#: What is wrong with these is said by their validators, without the secrets in them.
_SECRET = frozenset({"database_url", "api_keys"})


#: Of what SQLAlchemy reads, what the service can use: drivers that take libpq's options, and a file.
_URL_FORM = re.compile(
    r"""sqlite(?:\+pysqlite)?:///[^?]+(?:\?.*)?
    |   postgresql(?:\+(?P<driver>psycopg2?))?://(?:[^:/@]*(?::[^@]*)?@)?   # who
        (?:\[[^/?\]]+\]|[^:/?@]*)(?::[0-9]+)?(?:/[^?]*)?(?:\?.*)?           # where""",
    re.VERBOSE | re.DOTALL,
)
_URL_NEEDED = "needed is postgresql+psycopg://USER:PASSWORD@HOST/NAME or sqlite:////PATH, special characters as %XX"
_URL_SECRET = re.compile(r"(?<=://).*(?=@)|(?<=\?).*", re.DOTALL)


def fault(url: str) -> str | None:
    """Name what is wrong with the URL of a database, without its password; None where nothing is.

    >>> fault("postgres://me:secret@host/fedlas").partition(";")[0]
    "'postgres://***@host/fedlas' names no database that can be used"
    >>> fault("postgresql://me:secret@[::1]:5432/fedlas")
    """
    shown = repr(_URL_SECRET.sub("***", url))
    found = _URL_FORM.fullmatch(url)
    if found is None:
        return f"{shown} names no database that can be used; {_URL_NEEDED}"
    driver = found["driver"] or "psycopg"
    if url.startswith("postgresql") and find_spec(driver) is None:
        return f"{shown} needs {driver}, which is not installed: pip install 'fedlas[postgresql]'"
    return None


def listed(value: object) -> object:
    """What stands between the commas of a variable; anything else as it is.

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
        """The lines of the log, in the words of `logging`."""
        return f"{'%(asctime)s ' if self.log_times else ''}%(levelname)s %(message)s"


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
        """Which addresses webhooks may lead to."""
        return Policy(self.webhook_allow_private, self.webhook_allowed_networks)

    @property
    def resolved_database_url(self) -> str:
        """The database URL, with the default filled in."""
        return self.database_url or f"sqlite:///{self.data_dir.absolute() / 'registry.sqlite'}"

    @field_validator("artifacts")
    @classmethod
    def _names_a_bucket(cls, value: str | None) -> str | None:
        if value is not None and value.startswith(_S3) and not value.removeprefix(_S3).partition("/")[0]:
            raise ValueError(f"{value!r} names no bucket; needed is s3://bucket or s3://bucket/prefix")
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


class Mistake(NamedTuple):
    """What is wrong with settings: the variable of the environment, and what was found; no variable where several do
    not fit each other."""

    variable: str | None
    found: str

    def __str__(self) -> str:
        return self.found if self.variable is None else f"{self.variable}: {self.found}"


def mistakes(error: ValidationError) -> list[Mistake]:
    """What is wrong with settings, in the words of who has set them."""
    return [_mistake(one) for one in error.errors(include_url=False)]


def _mistake(details: ErrorDetails) -> Mistake:
    message = details["msg"].removeprefix("Value error, ")
    if not details["loc"]:
        return Mistake(None, message)
    name = str(details["loc"][0])
    found = "" if name in _SECRET else f", found {details['input']!r}"
    return Mistake(f"FEDLAS_{name}".upper(), message + found)
