"""Keys: the rights that each grants, in every process that answers requests.

Administrators' keys are settings; a process knows them by fingerprints, made anew at each start of the service, which
are of no use to anybody else. Issued keys are rows of the registry. The API writes their digests and scopes into a
file, and each process reads that: a process that answers predictions asks nobody about a key.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from service.served.folder import replace

if TYPE_CHECKING:
    from service.registry import tables

_LOG = logging.getLogger(__name__)
#: How often a process looks whether the file has changed.
_LOOK_EVERY_S = 0.2
#: How often the API reads the table again: another machine may have issued or revoked a key.
REFRESH_S = 1.0
_FILE = "keys.json"
#: Environment variable of a process without settings: the fingerprints.
ADMINISTRATORS = "FEDLAS_ADMINISTRATORS"
_SALT_BYTES = 16


@dataclass(frozen=True)
class Grant:
    """The rights of a key: its scopes, the models that it may ask (None: all), and when it ends, in Unix time."""

    name: str
    scopes: frozenset[str]
    models: frozenset[str] | None = None
    ends_at: float | None = None

    def may(self, scope: str) -> bool:
        return scope in self.scopes or "admin" in self.scopes


#: The grant of a key for Prometheus.
SCRAPER = Grant("metrics", frozenset({"metrics"}))
#: The grant of an administrator's key, and of a request where no key is needed.
ADMINISTRATOR = Grant("administrator", frozenset({"admin"}))


@dataclass(frozen=True)
class Fingerprints:
    """Administrators' keys as a process may hold them: their HMACs under a salt of this start of the service."""

    salt: bytes
    digests: frozenset[bytes]

    @classmethod
    def of(cls, keys: Iterable[str]) -> Self:
        salt = secrets.token_bytes(_SALT_BYTES)
        return cls(salt, frozenset(hmac.digest(salt, key.encode(), "sha256") for key in keys))

    @classmethod
    def parsed(cls, text: str) -> Self:
        """Read what `str` has written."""
        salt, *digests = map(bytes.fromhex, text.split(","))
        return cls(salt, frozenset(digests))

    def __str__(self) -> str:
        return ",".join(part.hex() for part in (self.salt, *self.digests))

    def __contains__(self, key: bytes) -> bool:
        return hmac.digest(self.salt, key, "sha256") in self.digests


class Keys:
    """The keys of the service, as this process knows them.

    Args:
        administrators: their keys; `scrapers`: keys that read metrics alone, where this process answers with any.
        folder: where `write` puts the file of issued keys, which need not be there yet; None where none are issued.
    """

    def __init__(
        self, administrators: Fingerprints, folder: Path | None, *, scrapers: Fingerprints | None = None
    ) -> None:
        self._administrators = administrators
        self._scrapers = scrapers
        self._path = None if folder is None else folder / _FILE
        #: The file that was read, by inode and time, and what it says: in one, since threads read it, too.
        self._known: tuple[tuple[int, int] | None, Mapping[str, Grant]] = (None, {})
        self._look_at = 0.0
        self._writing = threading.Lock()
        self._is_well = True

    @classmethod
    def of_settings(cls, administrators: Iterable[str], scrapers: Iterable[str], folder: Path | None = None) -> Self:
        """The keys of a process that holds them itself."""
        return cls(Fingerprints.of(administrators), folder, scrapers=Fingerprints.of(scrapers))

    @property
    def needed(self) -> bool:
        """True where requests need a key: there is an administrator, who could issue one."""
        return bool(self._administrators.digests)

    def grant(self, authorization: bytes) -> Grant | None:
        """The rights of the holder of this `Authorization`; None where it holds no key that is valid now."""
        scheme, _, key = authorization.partition(b" ")
        return self.grant_of(key.strip()) if scheme.lower() == b"bearer" else None

    def grant_of(self, key: bytes) -> Grant | None:
        """The rights of the holder of this key; what is compared are digests, whose times tell nothing of the key."""
        if key in self._administrators:
            return ADMINISTRATOR
        if self._scrapers is not None and key in self._scrapers:
            return SCRAPER
        if time.monotonic() >= self._look_at:
            self.refresh()
        grant = self._known[1].get(hashlib.sha256(key).hexdigest())
        return None if grant is None or (grant.ends_at is not None and grant.ends_at <= time.time()) else grant

    def refresh(self) -> None:
        """Read the file of issued keys, if it is another one than before; one that cannot be read changes nothing."""
        self._look_at = time.monotonic() + _LOOK_EVERY_S
        if self._path is None:
            return
        try:
            status = self._path.stat()
            if (version := (status.st_ino, status.st_mtime_ns)) != self._known[0]:
                rows = json.loads(self._path.read_bytes())
                self._known = version, {digest: _grant(row) for digest, row in rows.items()}
            self._is_well = True
        except FileNotFoundError:  # none was issued, as far as this process can know
            self._known = None, {}
        except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
            self._report(f"the file of keys cannot be read: {error!r}")

    def write(self, read: Callable[[], Iterable[tables.ApiKey]]) -> None:
        """Write the file of issued keys for every process, if it says anything new; whole at any moment.

        Args:
            read: the rows; called while nobody else writes, so that no older content follows a newer one.

        Raises:
            OSError: it cannot be written. Where a key was to go, the old file is gone: all issued keys are refused.
        """
        assert self._path is not None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._writing:  # one process writes; who may read the folder could hold a lock that lies in it
            now = datetime.now(UTC)
            rows = {row.sha256: _written(row) for row in read() if row.expires_at is None or row.expires_at > now}
            content = json.dumps(rows, sort_keys=True).encode()
            try:
                replace(self._path, content)
            except OSError as error:
                self._report(f"the file of keys cannot be written: {error}")
                if self._known[1].keys() - rows.keys():
                    self._path.unlink(missing_ok=True)
                raise
        self.refresh()

    def _report(self, trouble: str) -> None:
        """Log the first of several troubles in a row."""
        if self._is_well:
            _LOG.error(trouble)
        self._is_well = False


def _written(row: tables.ApiKey) -> dict[str, object]:
    ends_at = None if row.expires_at is None else row.expires_at.timestamp()
    return {"name": row.name, "scopes": row.scopes, "models": row.models, "ends_at": ends_at}


def _grant(row: Mapping[str, Any]) -> Grant:
    models = None if row["models"] is None else frozenset(row["models"])
    return Grant(row["name"], frozenset(row["scopes"]), models, row["ends_at"])
