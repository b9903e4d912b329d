"""The served models of all serving processes, as the API speaks of them: a change reaches every process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from pydantic import BaseModel

from service.control.peer import ServingPeer
from service.control.peers import ServingPeers
from service.ipc.documents import Count, Drop, Forget, Open
from service.ipc.placement import SERVING, in_path
from service.registry.errors import ControlAway, RegistryError, Unavailable

_LOG = logging.getLogger(__name__)
#: How long a change waits for processes that should know of it, and a model for being opened.
_TOLD_S, _OPENED_S = 1.0, 60.0
#: How often it is looked for served copies that no model has any more.
_SWEEP_S = 60.0
#: Processes in one another's place that are asked to open a model: one that ends them is in none of them then.
_MOST_SUCCESSORS = 3


class PeerModels:
    """`ServedModels`, told to and asked of the processes that answer predictions; on the event loop."""

    def __init__(self, peers: ServingPeers) -> None:
        self._peers = peers

    async def ready(self, called: str, version: str | None = None) -> None:
        """Open the model in every process that may be asked for it; raises as its questions do, or Unavailable."""
        await self._open(called, version)

    async def _open(self, called: str, version: str | None = None, *, ahead: bool = False) -> None:
        def document(number: int) -> Open:
            return Open(number=number, called=called, version=version, ahead=ahead)

        opened: set[ServingPeer] = set()
        for _ in range(1 + _MOST_SUCCESSORS):
            if not (missing := self._asked_for(called, version) - opened):
                return
            for peer, error in await _told(missing, document, seconds=_OPENED_S):
                if error is None:
                    opened.add(peer)
                elif not isinstance(error, ControlAway):
                    raise error
                elif not peer.ended:  # the successor of one that has ended is asked
                    raise Unavailable("unavailable", "a process that answers predictions does not respond")
        raise Unavailable("unavailable", "processes that were to open this model have ended; come again in 1 s")

    async def prepare(self, model_id: str) -> None:
        """Open a model ahead of its requests; where that fails, they raise."""
        try:
            await self._open(model_id, ahead=True)
        except RegistryError as error:
            _LOG.warning("a model could not be opened ahead of its requests: %s", _quoted(error))

    async def renew(self, called: str) -> None:
        """Have one name asked again before its next use."""
        await self._tell(lambda number: Forget(number=number, called=called))

    async def forget(self) -> None:
        """Have every name asked again before its next use, and take away what no model has any more."""
        await self._tell(lambda number: Forget(number=number))
        await self._sweep()

    async def tend(self) -> None:
        """Take served copies away whose models were deleted elsewhere, once in a while, until cancelled."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            await self._sweep()

    async def drop(self, called: str) -> None:
        """Have the models of a name closed."""
        await self._tell(lambda number: Drop(number=number, called=called))

    async def count(self) -> None:
        """Have the present counts sent, for as long as that takes no second."""
        await self._tell(lambda number: Count(number=number))

    def provider(self, digest: str) -> str | None:
        """What the model of this file runs on; None where no process was given it."""
        return next((peer.provider for peer in self._peers.present() if peer.may_read(digest)), None)

    def check(self) -> None:
        """Raises Unavailable while predictions have no process that answers them."""
        if all(peer.provider is None for peer in self._peers.members.of(SERVING)):
            raise _missing()

    def device(self) -> str | None:
        """What predictions run on, as the first process says that is there."""
        return next((peer.provider for peer in self._peers.present() if peer.provider is not None), None)

    async def _sweep(self) -> None:
        for peer in self._peers.present():
            try:
                await peer.sweep()
            except RegistryError as error:
                _LOG.info("served copies of %s are not looked through now: %s", peer.name, error.message)

    def _asked_for(self, called: str, version: str | None) -> set[ServingPeer]:
        """The processes that may be asked for a model; raises Unavailable where there is none."""
        place = self._peers.placement.alone.get(in_path(called, version), SERVING)
        if not (found := self._peers.members.of(place)):
            raise _missing()
        return found

    async def _tell(self, document: Callable[[int], BaseModel]) -> None:
        """Tell all; one that does not answer in time asks again by itself before it answers."""
        for peer, error in await _told(self._peers.present(), document, seconds=_TOLD_S):
            if error is not None and not peer.ended:
                _LOG.warning("%s was told something and did not do it: %s", peer.name, _quoted(error))


async def _told(
    peers: Iterable[ServingPeer], document: Callable[[int], BaseModel], *, seconds: float
) -> list[tuple[ServingPeer, RegistryError | None]]:
    async def tell(peer: ServingPeer) -> RegistryError | None:
        try:
            await peer.ask(document, seconds=seconds)
        except RegistryError as error:
            return error
        return None

    asked = list(peers)
    return list(zip(asked, await asyncio.gather(*map(tell, asked)), strict=True))


def _missing() -> Unavailable:
    return Unavailable("unavailable", "no process that answers predictions is running; come again in 1 s")


def _quoted(error: RegistryError) -> str:
    """The words of another process, which may have been taken over, on one line of the log."""
    return repr(error.message[:300])
