"""The serving processes beside control, and the acceptor: met when they are started, known until they end.

`PeerModels` is what the API speaks to.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel

from service.control.peer import READ, Known, ServingPeer
from service.control.suspension import Suspension
from service.ipc.channel import Channel, Packet
from service.ipc.documents import (
    ACCEPTOR,
    CONTROL,
    SERVING,
    Connection,
    Count,
    End,
    Fault,
    Gone,
    Members,
    Open,
    Peer,
    ToControl,
    place_of_request,
)
from service.ipc.reader import ALL, Adoption, Reader
from service.predict.engine.metrics import ServingMetrics
from service.registry.errors import PeerAway, RegistryError, Unavailable
from service.served.writer import ServedWriter
from service.serving_counts import ServingCounts

_LOG = logging.getLogger(__name__)
_MAX_BYTES = 16 * 1024**2  # the counts of ten thousand models
#: How long figures wait for the last counts, and a model for being opened.
_COUNTED_S = 1.0
_OPENED_S = 60.0


class ServingPeers:
    """All serving processes, and the acceptor; on the event loop.

    Args:
        channel: tells of the other processes, and brings connections.
        counts: the file of what they have counted.
    """

    def __init__(self, channel: socket.socket, counts: Path) -> None:
        self._parent = Channel(channel, READ)
        self._reader = Reader(self._parent, self._take, name="the parent", at_once=ALL)
        self._acceptor: Channel[ToControl] | None = None
        self._counts = ServingCounts(counts)
        self._known: Known | None = None
        self._adoption = Adoption(self._hand_back)
        self._peers: dict[str, ServingPeer] = {}
        self.members: Members[ServingPeer] = Members()
        self._pids = {CONTROL: os.getpid()}
        self._faults = self._restarts = 0

    def connect(
        self,
        served: ServedWriter,
        suspension: Suspension,
        metrics: ServingMetrics,
        on_spans: Callable[[bytes], None],
    ) -> None:
        """Serve what is wanted, count for all processes, and pass their spans on."""
        self._known = Known(served, suspension, self._counts, self._adoption, on_spans)
        metrics.others = self._counts.others
        metrics.load(int, int, int)  # none here: those of others are shown
        metrics.counter(
            "fedlas_serving_faults",
            "Serving processes that were ended since they flooded control with messages, or sent what it cannot read.",
            lambda: self._faults,
        )
        metrics.counter(
            "fedlas_serving_restarts",
            "Processes that took the place of a serving process that had ended, as far as this control has seen.",
            lambda: self._restarts,
        )

    def start(self, protocol: Callable[[bytes], asyncio.Protocol]) -> None:
        """Meet the other processes, and answer the connections that they hand on."""
        self._adoption.begin(protocol)
        self._reader.start()

    def leave(self) -> None:
        """Have no more connections sent here: this process stops."""
        self._tell_acceptor(Gone(name=CONTROL))

    def adopt_no_more(self) -> None:
        """Leave connections that still come to the next control process."""
        self._adoption.end()
        self._reader.stop()

    def process_ids(self) -> list[int]:
        return sorted(self._pids.values())

    def present(self) -> list[ServingPeer]:
        return list(self._peers.values())

    # Connections (HandOver)

    def is_elsewhere(self, path: bytes) -> bool:
        return place_of_request(path) != CONTROL

    def hand_over(self, path: bytes, descriptor: int, received: bytes) -> bool:
        """Give a connection to a process of its place, each in turn; if none takes it, it waits at the acceptor."""
        for peer in self.members.in_turn(place_of_request(path)):
            if peer.channel.has_room and peer.channel.offer(Connection(), received, (descriptor,)):
                return True
        return self._tell_acceptor(Connection(), received, (descriptor,))

    # Processes

    def _take(self, packet: Packet[ToControl]) -> None:
        """Take a packet of this process's channel: of its parent, or a connection."""
        match packet.document:
            case Peer(name=name, pid=pid, start=start, fault=fault):
                channel = Channel(packet.take_socket(), READ, most_bytes=_MAX_BYTES)
                before = self._part(name)
                self._pids[name] = pid
                if name == ACCEPTOR:
                    self._acceptor = channel
                else:
                    self._counts.met(name, start)
                    self._meet(name, pid, channel, before, fault)
            case Gone(name=name):
                self._part(name)
                self._counts.parted(name)
            case Connection():
                self._adoption.adopt(packet)  # type: ignore[arg-type]

    def _hand_back(self, packet: Packet[Connection]) -> None:
        self._tell_acceptor(packet.document, packet.content, packet.files)

    def _meet(
        self, name: str, pid: int, channel: Channel[ToControl], before: ServingPeer | None, fault: Fault | None
    ) -> None:
        assert self._known is not None
        peer = self._peers[name] = ServingPeer(
            name, pid, channel, self._known, on_leaving=self._left, on_fault=self._faulty
        )
        self.members.join(peer.name, peer)
        if fault is not None:  # what a process has marked may be a lie: it ran nothing but what lies there
            served = [digest for digest in fault.models if self._known.served.holds(digest)]
            self._known.suspension.fault(fault.model_copy(update={"models": served}), name)
        peer.start()
        peer.channel.offer(Count(number=0))  # what it is; nobody waits for its answer
        if before is not None:
            self._restarts += 1

    def _part(self, name: str) -> ServingPeer | None:
        self._pids.pop(name, None)
        if name == ACCEPTOR and self._acceptor is not None:
            self._acceptor.close()
            self._acceptor = None
        if (peer := self._peers.pop(name, None)) is not None:
            self.members.leave(peer.name, peer)
            peer.close()
        return peer

    def _left(self, peer: ServingPeer) -> None:
        """Mark a process that takes no connections any more; it is heard until it has ended."""
        self.members.leave(peer.name, peer)
        self._tell_acceptor(Gone(name=peer.name))

    def _tell_acceptor(self, document: BaseModel, content: bytes = b"", files: Sequence[int] = ()) -> bool:
        return self._acceptor is not None and self._acceptor.offer(document, content, files)

    def _faulty(self, peer: ServingPeer, fault: str) -> None:
        """Have the parent end a process that does not run the code of this release."""
        _LOG.critical("%s %s: it is ended, and started again", peer.name, fault)
        self._faults += 1
        self._parent.offer(End(name=peer.name, pid=peer.pid, reason=f"it {fault}"))  # it is called again


class PeerModels:
    """`ServedModels` over messages to the processes that answer predictions; on the event loop."""

    def __init__(self, peers: ServingPeers, served: ServedWriter) -> None:
        self._peers = peers
        self._served = served

    async def ready(self, called: str, version: str | None = None) -> None:
        """Open the model in every process that may be asked for it; raises as its questions do, or Unavailable."""
        opened = await _told(
            self._serving(), lambda number: Open(number=number, called=called, version=version), seconds=_OPENED_S
        )
        for peer, error in opened:
            if isinstance(error, PeerAway):
                raise Unavailable("unavailable", f"{peer.name} has ended, or does not respond; come again in 1 s")
            if error is not None:
                raise error

    async def prepare(self, model_id: str) -> None:
        """Open a model ahead of its requests; where that fails, they raise."""
        try:
            await self.ready(model_id)
        except RegistryError as error:
            _LOG.warning("a model could not be opened ahead of its requests: %s", _quoted(error))

    async def count(self) -> None:
        """Have the present counts sent, for as long as that takes no second."""
        for peer, error in await _told(self._peers.present(), lambda number: Count(number=number), seconds=_COUNTED_S):
            if error is not None and not peer.ended:
                _LOG.warning("%s did not send its counts: %s", peer.name, _quoted(error))

    def provider(self, digest: str) -> str | None:
        """Provider of the model of this file; None where no process may have opened it."""
        return next(iter(self.processes()), None) if self._served.holds(digest) else None

    def check(self) -> None:
        """Raises Unavailable while predictions have no process that answers them."""
        if all(peer.provider is None for peer in self._peers.members.of(SERVING)):
            raise _missing()

    def processes(self) -> Mapping[str, int]:
        """The processes that have reported their provider, by this."""
        return Counter(peer.provider for peer in self._peers.present() if peer.provider is not None)

    def _serving(self) -> set[ServingPeer]:
        """The processes that answer predictions; raises Unavailable where there is none."""
        if not (peers := self._peers.members.of(SERVING)):
            raise _missing()
        return peers


async def _told(
    peers: Iterable[ServingPeer], document: Callable[[int], BaseModel], *, seconds: float
) -> list[tuple[ServingPeer, RegistryError | None]]:
    async def tell(peer: ServingPeer) -> RegistryError | None:
        try:
            await peer.questions.ask(document, seconds=seconds)
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
