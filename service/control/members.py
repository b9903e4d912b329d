"""The members of each place: the serving processes that take its connections, in turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import suppress

from service.control.peer import ServingPeer
from service.ipc.placement import place_of


class Members:
    """Which processes take connections."""

    def __init__(self) -> None:
        self._by_place: dict[str, deque[ServingPeer]] = {}

    def join(self, peer: ServingPeer) -> None:
        """It takes connections from now on."""
        self._by_place.setdefault(place_of(peer.name), deque()).append(peer)

    def leave(self, peer: ServingPeer) -> None:
        """It takes none any more."""
        with suppress(ValueError):  # it has left before
            self._by_place[place_of(peer.name)].remove(peer)

    def of(self, place: str) -> set[ServingPeer]:
        """Those of one place."""
        return set(self._by_place.get(place, ()))

    def in_turn(self, place: str) -> Iterator[ServingPeer]:
        """Those of one place, each once, beginning with the one whose turn it is."""
        members = self._by_place.get(place, deque())
        for _ in range(len(members)):
            members.rotate(-1)
            yield members[-1]
