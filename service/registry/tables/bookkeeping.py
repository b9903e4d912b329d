"""Tables of names, idempotency keys, sessions of the pages and the evaluation ledger."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from service.registry.tables.columns import KEEPS_FILE, Base


class PublishedVersion(Base):
    """A version of a published name."""

    __tablename__ = "published_versions"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    is_default: Mapped[bool]
    class_priors: Mapped[dict[str, float] | None] = mapped_column(JSON(none_as_null=True))
    newest: Mapped[int | None]  # the name's highest version ever, where that was deleted: no number is given twice
    created_at: Mapped[datetime]


class UnloadedName(Base):
    """A name or model id that was taken out of service by hand."""

    __tablename__ = "unloaded_names"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    since: Mapped[datetime]


class IdempotencyKey(Base):
    """The answer that a request with this key was given, so that it can be given again."""

    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(String(300), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    answer: Mapped[str] = mapped_column(Text)  # empty while the request is still running
    held_until: Mapped[datetime | None]  # of a running request: when its process must have died
    created_at: Mapped[datetime]


class BrowserSession(Base):
    """A session of the pages: neither the id that the browser holds nor the key can be told from it."""

    __tablename__ = "browser_sessions"

    id_digest: Mapped[str] = mapped_column(String(64), primary_key=True, info={KEEPS_FILE: False})
    key_proof: Mapped[str] = mapped_column(String(64))  # the key's HMAC of the session's id
    expires_at: Mapped[datetime]


class Evaluation(Base):
    """One evaluation of the test rows of a file, by a job or calibrator; kept by its digest, so it outlives both."""

    __tablename__ = "looks"
    __table_args__ = (UniqueConstraint("dataset_sha256", "number"),)

    job_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    dataset_sha256: Mapped[str] = mapped_column(String(64), info={KEEPS_FILE: False})
    number: Mapped[int]  # how many evaluations came before
