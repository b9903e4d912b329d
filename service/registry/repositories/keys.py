"""Keys of three kinds: those of clients, idempotency keys for a day, and sessions of the pages until they expire."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, select, update

from service.registry.errors import KeyInFlight, KeyReused, NotFound
from service.registry.repositories.records import Repository
from service.registry.tables import ApiKey, BrowserSession, IdempotencyKey

_KEPT = timedelta(hours=24)


class ApiKeys(Repository):
    """Keys that administrators have issued."""

    def add(self, row: ApiKey) -> ApiKey:
        self.session.add(row)
        return row

    def all(self) -> Sequence[ApiKey]:
        return self.session.scalars(select(ApiKey)).all()

    def newest(self, *, limit: int, after: str | None) -> Sequence[ApiKey]:
        rows = select(ApiKey).order_by(ApiKey.id.desc()).limit(limit)
        return self.session.scalars(rows if after is None else rows.where(ApiKey.id < after)).all()

    def revoke(self, key_id: str) -> None:
        """Delete a key; raises NotFound."""
        if (row := self.session.get(ApiKey, key_id)) is None:
            raise NotFound("unknown_key", f"there is no key {key_id!r}: it was revoked, or never issued")
        self.session.delete(row)


class IdempotencyKeys(Repository):
    """A key is answered in the transaction that creates the record; a request that takes long reserves it before.

    A reservation holds others off for a while and promises nothing to its holder: writers take turns, and the one that
    stores its answer sees in that same transaction whether another has stored one or is about to. While a key is
    reserved `answer` is empty and `fingerprint` is its holder.
    """

    def reserve(self, key: str, holder: str, *, seconds: float) -> None:
        """Hold off other requests with this key for so long, unless it has an answer already; raises KeyInFlight."""
        moment = self.now
        row = self._find(key, moment) or self._fresh(key, moment)
        if not row.answer:
            _refuse_if_held(row, holder, moment)
            row.fingerprint, row.held_until = holder, moment + timedelta(seconds=seconds)

    def renew(self, key: str, holder: str, *, seconds: float) -> None:
        """Hold the key for so long from now; nothing happens if it was lost to another request."""
        held_until = self.now + timedelta(seconds=seconds)
        self.session.execute(update(IdempotencyKey).where(*_held(key, holder)).values(held_until=held_until))

    def release(self, key: str, holder: str) -> None:
        """Give up a reservation; one that was answered, or lost to another request, stays."""
        self.session.execute(delete(IdempotencyKey).where(*_held(key, holder)))

    def answer_of(self, key: str, fingerprint: str, *, holder: str = "") -> str | None:
        """Return the answer already given to this key and content, or None; raises KeyReused or KeyInFlight."""
        moment = self.now
        row = self._find(key, moment)
        if row is None:
            return None
        if not row.answer:
            _refuse_if_held(row, holder, moment)
            return None
        if row.fingerprint != fingerprint:
            raise KeyReused(
                "idempotency_key_reused", "this Idempotency-Key was used with other content; take a new key"
            )
        return row.answer

    def keep(self, key: str, fingerprint: str, answer: str) -> None:
        """Remember the answer, in the transaction that asked `answer_of`."""
        moment = self.now
        row = self._find(key, moment) or self._fresh(key, moment)
        row.fingerprint, row.answer, row.held_until = fingerprint, answer, None

    def amend(self, key: str, answer: str) -> None:
        """Remember the final answer in place of a preliminary one; a key that was forgotten meanwhile stays so."""
        if (row := self.session.get(IdempotencyKey, key)) is not None:
            row.answer = answer

    def current(self, key: str) -> str | None:
        """Return the answer remembered for this key, whatever its content."""
        row = self.session.get(IdempotencyKey, key)
        return None if row is None else row.answer

    def forget_old(self) -> None:
        self.session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < self.now - _KEPT))

    def _find(self, key: str, moment: datetime) -> IdempotencyKey | None:
        row = self.session.get(IdempotencyKey, key)
        if row is not None and row.created_at < moment - _KEPT:
            self.session.delete(row)
            self.session.flush()
            row = None
        return row

    def _fresh(self, key: str, moment: datetime) -> IdempotencyKey:
        row = IdempotencyKey(key=key, fingerprint="", answer="", created_at=moment)
        self.session.add(row)
        return row


def _held(key: str, holder: str) -> tuple[ColumnElement[bool], ...]:
    return IdempotencyKey.key == key, IdempotencyKey.fingerprint == holder, IdempotencyKey.answer == ""


def _refuse_if_held(row: IdempotencyKey, holder: str, moment: datetime) -> None:
    if row.fingerprint != holder and row.held_until is not None and row.held_until > moment:
        raise KeyInFlight("idempotency_key_in_flight", "a request with this key is still running; ask again shortly")


class BrowserSessions(Repository):
    """Open, find and end sessions by the digest of their id."""

    def open(self, id_digest: str, sealed_key: str, *, seconds: float) -> None:
        expires_at = self.now + timedelta(seconds=seconds)
        self.session.add(BrowserSession(id_digest=id_digest, sealed_key=sealed_key, expires_at=expires_at))

    def sealed_key_of(self, id_digest: str) -> str | None:
        """The sealed key of the session; None where it has expired, was ended, or never was."""
        row = self.session.get(BrowserSession, id_digest)
        return None if row is None or row.expires_at <= self.now else row.sealed_key

    def end(self, id_digest: str) -> None:
        self.session.execute(delete(BrowserSession).where(BrowserSession.id_digest == id_digest))

    def forget_expired(self) -> None:
        self.session.execute(delete(BrowserSession).where(BrowserSession.expires_at <= self.now))
