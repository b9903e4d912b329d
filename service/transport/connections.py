"""How many connections one API process holds: in all, and from one address."""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

from service.settings import ServiceSettings

_MOST = 16_384
_PER_ADDRESS = 1024
#: Heads that are not whole yet, of all connections together; one alone may have 64 KiB.
_MOST_GATHERED_BYTES = 16 * 1024**2
#: Connections beyond the limit that are read from all the same, to be answered in terms of what they ask.
_MOST_HEARD = 64
#: A host has at least this much of the IPv6 addresses to itself.
_HOST_BITS = 64


class Connections:
    """Counts connections, and the bytes of heads that are not whole yet.

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
        self._heard = 0
        self.gathered_bytes = 0

    @classmethod
    def of(cls, settings: ServiceSettings) -> Connections:
        """As the settings say, and no more than this process may have open files."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = settings.max_connections or _MOST
        if soft != resource.RLIM_INFINITY:
            most = min(most, soft - max(128, soft // 8))  # the database, stored files and models need some, too
        return cls(max(1, most), settings.max_connections_per_address or _PER_ADDRESS, settings.trusted_proxies)

    def enter(self, address: str) -> str | None:
        """Count a new connection; returns why it is one too many, and then has not counted it."""
        if self._most and self._count >= self._most:
            return f"this process has {self._most} connections, as many as it takes"
        key = self._key(address)
        if key and self._per_address and self._by_address[key] >= self._per_address:
            return f"{self._per_address} connections come from {key}, as many as one address may have"
        self._count += 1
        if key:
            self._by_address[key] += 1
        return None

    def leave(self, address: str) -> None:
        """A connection that was counted has ended."""
        self._count -= 1
        if key := self._key(address):
            self._by_address[key] -= 1
            if not self._by_address[key]:
                del self._by_address[key]

    def hear(self) -> bool:
        """Whether one more that is too many is read from; it is counted then."""
        if self._heard >= _MOST_HEARD:
            return False
        self._heard += 1
        return True

    def unhear(self) -> None:
        """One of those has ended."""
        self._heard -= 1

    @property
    def gathered_too_much(self) -> bool:
        """Whether the heads that are not whole yet fill what they may."""
        return self.gathered_bytes > _MOST_GATHERED_BYTES

    def _key(self, address: str) -> str:
        """Who is counted together; nothing for those who are not counted."""
        if not self._per_address:
            return ""
        try:
            found = ip_address(address)
        except ValueError:  # a Unix socket
            return ""
        if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        if found.is_loopback or any(found in network for network in self._proxies):
            return ""
        if isinstance(found, IPv6Address):
            return str(IPv6Network((int(found) >> _HOST_BITS << _HOST_BITS, _HOST_BITS)))
        return str(found)
