"""Keys with scopes: what the holder of a key may do, and the form in which one is issued.

A key is `fedlas_`, 128 random bits in hexadecimal digits, and the CRC-32 of what stands before: a key that was cut off
or misspelt is known by itself. The service keeps its SHA-256 alone.
"""

from __future__ import annotations

import secrets
import zlib
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BeforeValidator, Field, field_validator, model_validator

from fedlas.contract.base import OPEN, Reference, Shape, Strict

Scope = Literal["predict", "read", "write", "metrics", "admin"]
PREFIX = "fedlas_"
_RANDOM_BYTES = 16
_CHECKSUM_DIGITS = 8


def _moment(value: object) -> object:
    """The time in UTC that a text of RFC 3339 names; a number names none."""
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise ValueError(f"expected a time such as 2027-01-31T12:00:00Z, found {value!r:.60}")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{value!r:.60} is no time that a calendar has") from None


class KeyRequest(Strict):
    """The request for a new key: what its holder may do, and until when."""

    name: str = Field(min_length=1, max_length=100, description="The name of the person or program that uses the key.")
    scopes: list[Scope] = Field(
        min_length=1,
        max_length=5,
        description="`predict`: predictions; `read`: every GET; `write`: whatever changes something; `metrics`: "
        "`/metrics`; `admin`: all of these, and keys.",
    )
    models: list[Reference] | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="The published names and model ids that it may ask for predictions; only with `predict` alone.",
    )
    expires_at: Annotated[AwareDatetime, BeforeValidator(_moment)] | None = Field(
        None, description="The time after which it is refused; null: never."
    )

    @field_validator("name")
    @classmethod
    def _is_printable(cls, value: str) -> str:
        if not value.isprintable():
            raise ValueError("a name has letters that can be printed, in one line")
        return value

    @model_validator(mode="after")
    def _models_belong_to_predictions(self) -> KeyRequest:
        if self.models is not None and set(self.scopes) != {"predict"}:
            raise ValueError("models restrict predictions: a key with models has the scope predict alone")
        return self


class KeyRecord(Shape):
    """A key as it is listed: what it may do, never the key itself."""

    id: str = Field(description="The id, `key_…`, by which it is revoked.")
    name: str = Field(description="The name of the person or program that uses the key.")
    scopes: list[Annotated[Scope, OPEN]] = Field(description="The rights of its holder.")
    models: list[str] | None = Field(description="The models that it may ask; null: all.")
    created_at: AwareDatetime = Field(description="The time at which it was issued.")
    expires_at: AwareDatetime | None = Field(description="The time after which it is refused; null: never.")


class IssuedKey(KeyRecord):
    """A new key, shown this once."""

    key: str = Field(description="The key itself, for `Authorization: Bearer …`; it cannot be shown again.")


def new_key() -> str:
    body = f"{PREFIX}{secrets.token_hex(_RANDOM_BYTES)}"
    return f"{body}{_checksum(body)}"


def is_whole(key: str) -> bool:
    """True for a key of this form whose checksum fits.

    >>> is_whole(new_key()), is_whole(new_key()[:-1]), is_whole("fedlas_")
    (True, False, False)
    """
    body, checksum = key[:-_CHECKSUM_DIGITS], key[-_CHECKSUM_DIGITS:]
    return len(body) == len(PREFIX) + 2 * _RANDOM_BYTES and body.startswith(PREFIX) and checksum == _checksum(body)


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):0{_CHECKSUM_DIGITS}x}"
