"""The serving processes beside control, and the acceptor: met when they are started, known until they end."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel

from service.api.plumbing.access import Keys
from service.control.counts import ServingCounts
from service.control.isolation import Isolation
from service.control.members import Members
from service.control.peer import READ, Known, ServingPeer
from service.control.served_folder import ServedFolder
from service.inference.gauges import NoLoad, add_gauges
from service.inference.metrics import ServingMetrics
from service.ipc.adoption import Adoption
from service.ipc.channel import Channel, Full, Packet
from service.ipc.documents import Connection, End, Fault, Gone, Peer, Places, ToControl, Wanted
from service.ipc.placement import ACCEPTOR, ALONE, CONTROL, Placement, in_path
from service.ipc.reader import ALL, Reader
from service.model_lookup import ModelLookup
from service.registry.artifacts import ArtifactStore

_LOG = logging.getLogger(__name__)
#: How often it is looked whether a process is needed.
_TEND_S = 2.0
#: After so long the processes of single models that an earlier control has left end, if theirs were not asked for.
_STRAY_S = 60.0
_MOST_BYTES = 16 * 1024**2  # the counts of ten thousand models


class ServingPeers:
    """All serving processes, and the acceptor; on the event loop.

    Args:
        channel: tells of the other processes, and brings connections.
        folder: where each process has a folder with its served copies.
        counts: the file of what they have counted.
        isolation: of the models that run alone.
    """

    def __init__(
        self, channel: socket.socket, folder: Path, counts: Path, placement: Placement, isolation: Isolation
    ) -> None:
        self.placement = placement
        self._isolation = isolation
        isolation.on_change = self._tell_places
        self._places_told = True
        self._parent = Channel(channel, READ)
        self._reader = Reader(self._parent, self._take, name="the parent", at_once=ALL)
        self._acceptor: Channel[ToControl] | None = None
        self._folder = folder
        self._folders: dict[str, ServedFolder] = {}
        self._counts = ServingCounts(counts)
        self._known: Known | None = None
        self._on_spans: Callable[[bytes], None] | None = None
        self._adoption = Adoption(self._hand_back)
        self._peers: dict[str, ServingPeer] = {}
        self.members = Members()
        self._pids = {CONTROL: os.getpid()}
        self._faults = self._restarts = 0

    def connect(
        self,
        look_up: ModelLookup,
        keys: Keys,
        artifacts: ArtifactStore,
        metrics: ServingMetrics,
        on_spans: Callable[[bytes], None],
    ) -> None:
        """Answer questions from these, count for all processes, and pass their spans on."""
        self._on_spans = on_spans
        self._known = Known(look_up, keys, artifacts, self._isolation)
        metrics.others = self._counts.others
        add_gauges(metrics, NoLoad())
        about = (
            "Serving processes that were ended since they flooded control with messages, or sent what it cannot read."
        )
        metrics.counter("fedlas_serving_faults", about, lambda: self._faults)
        about = "Processes that took the place of a serving process that had ended, as far as this control has seen."
        metrics.counter("fedlas_serving_restarts", about, lambda: self._restarts)

    def start(self, protocol: Callable[[bytes], asyncio.Protocol]) -> None:
        """Meet the other processes, and answer the connections that they hand on."""
        self._adoption.begin(protocol)
        self._reader.start()

    def leave(self) -> None:
        """Have no more connections sent here: this process stops."""
        self._tell_acceptor(Gone(name=CONTROL))

    async def tend(self) -> None:
        """End idle processes of single models, and send again what was not taken, until cancelled."""
        begun = time.monotonic()
        while True:
            await asyncio.sleep(_TEND_S)
            self._isolation.release()
            if not self._places_told or (time.monotonic() - begun > _STRAY_S and self._strays()):
                self._tell_places()

    def adopt_no_more(self) -> None:
        """Leave connections that still come to the next control process."""
        self._adoption.end()
        self._reader.stop()

    def process_ids(self) -> list[int]:
        """Of all processes that answer this service's requests."""
        return sorted(self._pids.values())

    def present(self) -> list[ServingPeer]:
        """All that answer predictions just now."""
        return list(self._peers.values())

    # Connections (HandOver)

    def is_elsewhere(self, path: bytes) -> bool:
        """Whether a serving process answers this."""
        return self.placement.place(path) != CONTROL

    def hand_over(self, path: bytes, descriptor: int, received: bytes) -> bool:
        """Give a connection to a process of its place, each in turn; if none takes it, it waits at the acceptor."""
        for peer in self.members.in_turn(self.placement.place(path)):
            if peer.has_room and peer.send(Connection(), received, (descriptor,)):
                return True
        return self._tell_acceptor(Connection(), received, (descriptor,))

    # Processes

    def _take(self, packet: Packet[ToControl]) -> None:
        """What came over the channel of this process: of its parent, and connections."""
        match packet.document:
            case Peer(name=name, pid=pid, start=start, fault=fault):
                channel = Channel(packet.take_socket(), READ, most_bytes=_MOST_BYTES)
                before = self._part(name)
                self._pids[name] = pid
                if name == ACCEPTOR:
                    self._acceptor = channel
                    if self.placement.alone:  # what an earlier control has told it holds until it is known to be wrong
                        self._tell_places()
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
        assert self._on_spans is not None
        peer = ServingPeer(
            name,
            pid,
            channel,
            self._folder_of(name),
            self._known,
            adopt=self._adoption.adopt,
            on_counts=self._counts.tell,
            on_stuck=self._stuck,
            on_spans=self._on_spans,
            on_leaving=self._left,
            on_fault=self._faulty,
        )
        self._peers[name] = peer
        self.members.join(peer)
        if fault is not None:  # what a process has marked may be a lie: it ran nothing but what it was given
            given = [digest for digest in fault.models if peer.may_read(digest)]
            self._isolation.fault(fault.model_copy(update={"models": given}), name)
        peer.send(Places(alone=dict(self.placement.alone)))
        peer.start()
        if before is not None:
            self._restarts += 1
            peer.warm([key for key in before.asked if self.placement.alone.get(in_path(*key), name) == name])

    def _folder_of(self, name: str) -> ServedFolder:
        """One for all processes of a name: what a thread still does for the last one is in turn with the next one's."""
        if (found := self._folders.get(name)) is None:
            found = self._folders[name] = ServedFolder(self._folder / name)
        return found

    def _part(self, name: str) -> ServingPeer | None:
        """The process of this name has ended; returns it, if it was one that answers predictions."""
        self._pids.pop(name, None)
        if name == ACCEPTOR and self._acceptor is not None:
            self._acceptor.close()
            self._acceptor = None
        if (peer := self._peers.pop(name, None)) is not None:
            self.members.leave(peer)
            peer.close()
        return peer

    def _left(self, peer: ServingPeer) -> None:
        """It takes no connections any more, and is heard until it has ended."""
        self.members.leave(peer)
        self._tell_acceptor(Gone(name=peer.name))

    def _tell_acceptor(self, document: BaseModel, content: bytes = b"", files: Sequence[int] = ()) -> bool:
        if self._acceptor is None:
            return False
        try:
            self._acceptor.send(document, content, files)
        except Full:
            return False
        return True

    def _stuck(self, peer: ServingPeer, digest: str) -> None:
        """A run ends its process: no process of other models opens this one any more."""
        self._isolation.ended(digest, peer.name)

    def _faulty(self, peer: ServingPeer, fault: str) -> None:
        """It does not run the code of this release: the parent ends it."""
        _LOG.critical("%s %s: it is ended, and started again", peer.name, fault)
        self._faults += 1
        with suppress(Full):  # it is called again
            self._parent.send(End(name=peer.name, pid=peer.pid, reason=f"it {fault}"))

    def _strays(self) -> bool:
        """Whether an earlier control has left a process whose model was not asked for since."""
        return any(name.startswith(ALONE) and name not in self._isolation.processes for name in self._peers)

    def _tell_places(self) -> None:
        """Tell who runs alone to all that ask, and to the parent, which starts the processes."""
        self.placement.alone = self._isolation.places()
        places = Places(alone=self.placement.alone)
        told = [peer.send(places) for peer in self._peers.values()]
        told.append(self._acceptor is None or self._tell_acceptor(places))
        try:
            self._parent.send(Wanted(alone=self._isolation.processes))
        except Full:
            told.append(False)
        self._places_told = all(told)
