"""`client.keys`: keys with scopes, which administrators issue and revoke."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from fedlas.client.options import HasId, given, names_of
from fedlas.client.transport import Pages, Route
from fedlas.contract.base import Page
from fedlas.contract.keys import IssuedKey, KeyRecord, Scope


class Keys(Route):
    """Issue keys, list and revoke them; needs a key of an administrator."""

    _path = "/v1/keys"

    def create(
        self,
        name: str,
        scopes: Sequence[Scope],
        *,
        models: Sequence[str] | None = None,
        expires: datetime | timedelta | None = None,
    ) -> IssuedKey:
        """Issue a key; `key` of the answer is shown this once.

        Args:
            name: who or what uses it.
            scopes: `predict`, `read`, `write`, `metrics`; `admin` for everything.
            models: the published names and model ids that it may ask; with the scope `predict` alone.
            expires: when, or after how long, it is refused.
        """
        at = datetime.now(UTC) + expires if isinstance(expires, timedelta) else expires
        expires_at = None if at is None else at.astimezone().isoformat()
        body = given({}, name=name, scopes=list(scopes), models=names_of(models), expires_at=expires_at)
        return self._transport.read(IssuedKey, "POST", self._path, json=body)

    def list(self, *, limit: int | None = None) -> Pages[KeyRecord]:
        """All keys that were issued and not revoked, newest first, at most `limit`; iterate over it."""
        return Pages(self._transport, Page[KeyRecord], self._path, {}, limit=limit)

    def revoke(self, key: str | HasId) -> None:
        """Revoke a key: five seconds later no process admits it."""
        self._transport.request("DELETE", self._at(key))
