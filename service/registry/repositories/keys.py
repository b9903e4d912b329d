"""Idempotency keys: the same key and content get the same answer again, for a day."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.registry.errors import KeyInFlight, KeyReused
from service.registry.repositories.records import now
from service.registry.tables import IdempotencyKey

_KEPT = timedelta(hours=24)


class IdempotencyKeys:
    """A key is taken and answered in the transaction that creates the record: there is no state in between."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def answer_of(self, key: str, fingerprint: str) -> str | None:
        """Return the answer already given to this key and content; raises KeyReused for other content."""
        self.session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < now() - _KEPT))
        found = self.session.get(IdempotencyKey, key)
        if found is None:
            return None
        if found.fingerprint != fingerprint:
            raise KeyReused(
                "idempotency_key_reused", "this Idempotency-Key was used with other content; take a new key"
            )
        return found.answer

    def amend(self, key: str, answer: str) -> None:
        """Remember the final answer in place of a preliminary one; a key that was forgotten meanwhile stays so."""
        found = self.session.get(IdempotencyKey, key)
        if found is not None:
            found.answer = answer

    def current(self, key: str) -> str | None:
        """Return the answer remembered for this key, whatever its content."""
        found = self.session.get(IdempotencyKey, key)
        return None if found is None else found.answer

    def keep(self, key: str, fingerprint: str, answer: str) -> None:
        """Remember the answer; raises KeyInFlight if a request beside this one took the key first."""
        row = IdempotencyKey(key=key, fingerprint=fingerprint, answer=answer, created_at=now())
        self.session.add(row)
        try:
            self.session.flush()
        except IntegrityError as error:
            raise KeyInFlight("idempotency_key_in_flight", "a request with this key is still running") from error
