"""Sessions of the pages: what is known of a session's id, until it expires."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete

from service.registry.repositories.records import Repository
from service.registry.tables import BrowserSession


class BrowserSessions(Repository):
    """Open, find and end sessions by the digest of their id."""

    def open(self, id_digest: str, key_proof: str, *, seconds: float) -> None:
        """Keep a session for so long."""
        expires_at = self.now + timedelta(seconds=seconds)
        self.session.add(BrowserSession(id_digest=id_digest, key_proof=key_proof, expires_at=expires_at))

    def proof_of(self, id_digest: str) -> str | None:
        """The proof of the session's key; None where it has expired, was ended, or never was."""
        found = self.session.get(BrowserSession, id_digest)
        return None if found is None or found.expires_at <= self.now else found.key_proof

    def end(self, id_digest: str) -> None:
        """Forget a session; nothing happens where there is none."""
        self.session.execute(delete(BrowserSession).where(BrowserSession.id_digest == id_digest))

    def forget_expired(self) -> None:
        """Delete what no browser can use any more."""
        self.session.execute(delete(BrowserSession).where(BrowserSession.expires_at <= self.now))
