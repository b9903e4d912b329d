"""Idempotency: every creation is answered once per `Idempotency-Key`.

A small body is compared and answered in the one transaction that creates its record. A file may arrive for hours:
its key is reserved before the first byte is read, so that a concurrent retry is refused at once, whichever process it
reaches. The reservation of a process that has died ends by itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from fastapi import Header
from pydantic import BaseModel

from service.api.plumbing.services import Services
from service.registry.errors import Unavailable
from service.registry.registry import UnitOfWork

_LOG = logging.getLogger(__name__)

#: A retry after a crash waits for the rest of this; a process that is busy must come to renew in it.
_HELD_S = 10.0
_RENEWED_EVERY_S = 3.0

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="A text of yours: the same key and content answer the same again, for 24 hours.",
    ),
]


@dataclass(frozen=True, slots=True)
class Key:
    """A key within one kind of record; `holder` names the request that has reserved it."""

    text: str
    holder: str = ""

    @classmethod
    def of(cls, kind: str, given: str | None) -> Key | None:
        return None if given is None else cls(f"{kind}:{given}")


class Creation(NamedTuple):
    """The record that a creation answers, as JSON, and whether an earlier request with the key has made it."""

    record: str
    replayed: bool


@asynccontextmanager
async def reserved(services: Services, key: Key | None) -> AsyncIterator[Key | None]:
    """Hold the key while the block receives and creates; raises KeyInFlight. If the block fails, the key is free."""
    if key is None:
        yield None
        return
    held = Key(key.text, secrets.token_hex(16))
    await services.write(lambda unit: unit.keys.reserve(held.text, held.holder, seconds=_HELD_S))
    renewing = asyncio.create_task(_keep_renewing(services, held))
    try:
        yield held
    except BaseException:
        with suppress(Unavailable):  # then it ends by itself
            await asyncio.shield(services.write(lambda unit: unit.keys.release(held.text, held.holder)))
        raise
    finally:
        renewing.cancel()


async def create_once(
    services: Services, key: Key | None, content: Sequence[str], make: Callable[[UnitOfWork], BaseModel]
) -> Creation:
    """Run `make` in one transaction and return its record, or the answer that this key was given before.

    `content` is what the key stands for: digests and options, not bytes with boundaries. Raises KeyReused, KeyInFlight.
    """

    def answered(unit: UnitOfWork) -> Creation:
        if key is None:
            return Creation(make(unit).model_dump_json(), replayed=False)
        fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        answer = unit.keys.answer_of(key.text, fingerprint, holder=key.holder)
        if answer is not None:
            return Creation(answer, replayed=True)
        made = make(unit).model_dump_json()
        unit.keys.keep(key.text, fingerprint, made)
        return Creation(made, replayed=False)

    return await services.write(answered)


async def _keep_renewing(services: Services, key: Key) -> None:
    while True:
        await asyncio.sleep(_RENEWED_EVERY_S)
        try:
            await services.write(lambda unit: unit.keys.renew(key.text, key.holder, seconds=_HELD_S))
        except Unavailable as error:
            _LOG.warning("an Idempotency-Key could not be held: %s", error)
