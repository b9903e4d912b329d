"""Sessions: an opaque id in a browser's cookie that stands for the key that its user has entered.

The database holds a digest of the id, and the HMAC of the id under the key. Neither gives away the id or the key, every
API process can check a session, and a session ends by itself with the key: no key that is left makes the same HMAC.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from contextlib import suppress
from functools import partial
from weakref import WeakValueDictionary

from service.api.services import Services
from service.ipc.token_bucket import TokenBucket
from service.registry.errors import Overloaded, Unavailable
from service.registry.unit_of_work import UnitOfWork

_ID_BYTES = 32
#: Wrong keys that are answered with a page: in a second, and at once. A right key opens a session whatever others try.
_WRONG_PER_SECOND = 1.0
_MAX_WRONG_AT_ONCE = 10
#: A session that ended in another process, by its time, or with its key, is looked for so often.
SESSION_EVERY_S = 30.0


class Sessions:
    """The sessions of one service."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._keys = [key.encode() for key in services.settings.api_keys]
        self._wrong = TokenBucket(per_second=_WRONG_PER_SECOND, most=_MAX_WRONG_AT_ONCE)
        self._ends: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        self.seconds = services.settings.session_hours * 3600
        #: Names under which browsers reach this service, beside the one that its `Host` says.
        self.other_hosts = services.settings.allowed_hosts

    @property
    def needed(self) -> bool:
        """Whether pages want a session: without keys every client of this machine is admitted."""
        return bool(self._keys)

    async def open(self, key: str) -> str | None:
        """Open a session with a key, and return its id; None where this is no key of the service.

        Raises Overloaded for a wrong key where too many have come.
        """
        given = key.encode()
        # All are compared: the time must not show which key was nearly right.
        matches = [hmac.compare_digest(given, known) for known in self._keys]
        if not any(matches):
            if self._wrong.take(0) > 0:
                raise Overloaded(
                    "overloaded", "too many wrong keys are being entered; wait, then try again", retry_after=1
                )
            self._wrong.take(1)
            return None
        session_id = secrets.token_urlsafe(_ID_BYTES)

        def keep(unit: UnitOfWork) -> None:
            unit.browser_sessions.open(_digest(session_id), _proof(given, session_id), seconds=self.seconds)

        await self._services.write(keep)
        return session_id

    async def key_of(self, session_id: str) -> bytes | None:
        """The key that a session was opened with; None where it has expired, was ended, or its key is one no more."""
        proof = await self._services.read(partial(_proof_of, _digest(session_id)))
        if proof is None:
            return None
        return next((key for key in self._keys if hmac.compare_digest(_proof(key, session_id), proof)), None)

    async def end(self, session_id: str) -> None:
        """End a session, and the streams that were opened with it here."""
        await self._services.write(lambda unit: unit.browser_sessions.end(_digest(session_id)))
        if (ended := self._ends.get(session_id)) is not None:
            ended.set()

    async def await_end(self, session_id: str) -> None:
        """Return when the session has ended: at once after signing out here, else within `SESSION_EVERY_S`."""
        ended = self._ends.setdefault(session_id, asyncio.Event())
        while not ended.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), SESSION_EVERY_S)
            with suppress(Unavailable):  # the database is away: looked for again later
                if await self.key_of(session_id) is None:
                    return


def _digest(session_id: str) -> str:
    return hashlib.sha256(session_id.encode()).hexdigest()


def _proof(key: bytes, session_id: str) -> str:
    return hmac.new(key, session_id.encode(), hashlib.sha256).hexdigest()


def _proof_of(id_digest: str, unit: UnitOfWork) -> str | None:
    return unit.browser_sessions.proof_of(id_digest)
