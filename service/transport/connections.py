"""The connection limits of one API process: in all, and from one address."""

from __future__ import annotations

import resource
from collections import Counter, deque
from collections.abc import Callable, Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the acceptor has limits, and neither settings nor an event loop
    from asyncio import AbstractEventLoop

    from service.registry.settings import ServingSettings

_MAX_CONNECTIONS = 16_384
_MAX_FILES = 65_536
_PER_ADDRESS = 1024
#: Incomplete heads of all connections together; one alone may have 64 KiB.
MAX_PENDING_HEAD_BYTES = 16 * 1024**2
#: Bytes that all connections parse in one turn of the event loop: 22 ms where each chunk of a body has one byte.
_TURN_BYTES = 128 * 1024
#: Bytes of heads that wait for a later turn, of all connections; a transport reads 256 KiB at once.
_MAX_WAITING_BYTES = 16 * 1024**2
#: Connections beyond a limit that are read from, so that the answer has the form of the protocol they ask for.
_MAX_SURPLUS_READ = 64
#: A host has at least this much of the IPv6 addresses to itself.
_HOST_BITS = 64


class ReadingTurns:
    """Bytes that the connections of a process parse in one turn of its event loop; the rest waits for another."""

    def __init__(self) -> None:
        self._left = _TURN_BYTES
        self._is_turning = False
        self._is_called = False
        self._waiting: deque[tuple[Callable[[], None], int]] = deque()
        self._waiting_bytes = 0

    def take(self, size: int, loop: AbstractEventLoop) -> bool:
        """Count so many bytes as parsed in this turn, unless it has no more, or others wait."""
        if self._left <= 0 or (self._waiting and not self._is_called):
            return False
        self._is_called = False
        if not self._is_turning:
            self._is_turning = True
            loop.call_soon(self._begin)
        self._left -= size
        return True

    def wait(self, go_on: Callable[[], None], size: int) -> bool:
        """Call this in a later turn, after those that wait already; False where they hold too many bytes."""
        if self._waiting_bytes + size > _MAX_WAITING_BYTES:
            return False
        self._waiting_bytes += size
        self._waiting.append((go_on, size))
        return True

    def _begin(self) -> None:
        self._left = _TURN_BYTES
        self._is_turning = False
        while self._waiting and self._left > 0:
            self._is_called = True
            go_on, size = self._waiting.popleft()
            self._waiting_bytes -= size
            go_on()


class Connections:
    """Counts connections, and the bytes of incomplete heads.

    Args:
        most: connections at once; 0 is no limit.
        per_address: connections at once from one IPv4 address, or one /64 of IPv6; 0 is no limit. This machine and
            `proxies` have none: many clients stand behind them.
    """

    def __init__(self, most: int = 0, per_address: int = 0, proxies: Iterable[IPv4Network | IPv6Network] = ()) -> None:
        self._most = most
        self._per_address = per_address
        self._proxies = tuple(proxies)
        self._count = 0
        self._by_address: Counter[str] = Counter()
        self._surplus_read = 0
        self.pending_head_bytes = 0
        self.turns = ReadingTurns()

    @classmethod
    def of(cls, settings: ServingSettings) -> Connections:
        """The limits of the settings, and no more than this process may have open files."""
        return cls.limited(settings.max_connections, settings.max_connections_per_address, settings.trusted_proxies)

    @classmethod
    def limited(cls, most: int, per_address: int, proxies: Iterable[IPv4Network | IPv6Network]) -> Connections:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = most or _MAX_CONNECTIONS
        if soft != resource.RLIM_INFINITY:
            most = min(most, soft - max(128, soft // 8))  # for the database, stored files and models
        return cls(max(1, most), per_address or _PER_ADDRESS, proxies)

    def admit(self, address: str) -> str | None:
        """Count a new connection; returns the reason where it is beyond a limit, and then does not count it."""
        if self._most and self._count >= self._most:
            return f"this process has {self._most} connections, its limit"
        key = self._key(address)
        if key and self._per_address and self._by_address[key] >= self._per_address:
            return f"{self._per_address} connections come from {key}, the limit for one address"
        self._count += 1
        if key:
            self._by_address[key] += 1
        return None

    def release(self, address: str) -> None:
        self._count -= 1
        if key := self._key(address):
            self._by_address[key] -= 1
            if not self._by_address[key]:
                del self._by_address[key]

    def read_surplus(self) -> bool:
        """True where one more surplus connection is read from, which is counted then."""
        if self._surplus_read >= _MAX_SURPLUS_READ:
            return False
        self._surplus_read += 1
        return True

    def release_surplus(self) -> None:
        self._surplus_read -= 1

    def _key(self, address: str) -> str:
        """The address or network that is counted; empty for those without a limit."""
        if not self._per_address:
            return ""
        try:
            ip = ip_address(address)
        except ValueError:  # a Unix socket
            return ""
        if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        if ip.is_loopback or any(ip in network for network in self._proxies):
            return ""
        if isinstance(ip, IPv6Address):
            return str(IPv6Network((int(ip) >> _HOST_BITS << _HOST_BITS, _HOST_BITS)))
        return str(ip)


def allow_many_connections() -> None:
    """Raise the limit of open files: every connection is one, and the usual limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
