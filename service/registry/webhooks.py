"""The addresses to which webhooks may be sent: the operator's policy over those of IANA and of clouds.

The service checks what a job asks for, the worker checks again on the address that it connects to.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_network

from fedlas.contract.webhooks import Address, Endpoint

Network = IPv4Network | IPv6Network

_NAT64 = ip_network("64:ff9b::/96")
_GLOBAL_UNICAST = ip_network("2000::/3")
#: Where clouds answer with credentials: AWS, Azure, GCP and most others; Alibaba; Azure's agent; AWS and EKS, GCP and
#: Oracle over IPv6; Oracle's old one. Some lie in networks that operators allow, so they are refused before these.
_METADATA = [
    ip_network(address)
    for address in (
        *("169.254.169.254", "169.254.170.2", "169.254.170.23", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
        *("fd00:ec2::/64", "fd20:ce::254", "fd00:c1::a9fe:a9fe"),
    )
]
#: Networks that `allow_private` opens.
_PRIVATE = {
    "a loopback address": ("127.0.0.0/8", "::1"),
    "a private address": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"),
}
#: Networks that only the operator opens, by name (IANA's special-purpose registries, RFC 6890 and successors).
_SPECIAL = {
    "an unspecified address": ("0.0.0.0/8", "::"),
    "a link-local address": ("169.254.0.0/16", "fe80::/10"),
    "a multicast address": ("224.0.0.0/4", "ff00::/8"),
    "a tunnel to an IPv4 address": ("::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16", "192.88.99.0/24"),
    "a reserved address": (
        *("192.0.0.0/24", "192.0.2.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4"),
        *("2001::/23", "2001:db8::/32", "3fff::/20"),
    ),
}
_KINDS = [
    (ip_network(network), kind, private)
    for private, table in ((True, _PRIVATE), (False, _SPECIAL))
    for kind, networks in table.items()
    for network in networks
]


@dataclass(frozen=True, slots=True)
class Policy:
    """The addresses that webhooks may lead to; by default public ones over https only.

    An operator who allows an address trusts the way to it: http is good enough there, whereas over the public internet
    everything on the way reads the message. Metadata services of clouds are never allowed.

    Attributes:
        allow_private: Also loopback, RFC 1918, carrier-grade NAT (100.64.0.0/10) and unique local IPv6 addresses.
        allowed_networks: Also these, whatever they are.
    """

    allow_private: bool = False
    allowed_networks: tuple[Network, ...] = ()

    def objection(self, address: Address, *, secure: bool) -> str | None:
        """Reason to refuse this address, as the end of "it is …"; None if a message may go to it.

        An IPv4 address within IPv6 (mapped, or 64:ff9b::/96 of NAT64) is judged as what it is.
        """
        address = _plain(address)
        if any(address in network for network in _METADATA):
            return "a cloud's metadata service"
        if any(address in network for network in self.allowed_networks):
            return None
        kind, private = _kind(address)
        if kind is None:
            return None if secure else "a public address, to which only https may go"
        return None if private and self.allow_private else kind

    def check(self, endpoint: Endpoint) -> None:
        """Raise ValueError if the URL alone shows that nothing may be sent to it; names are not resolved."""
        if endpoint.address is not None:
            if objection := self.objection(endpoint.address, secure=endpoint.secure):
                raise ValueError(f"no webhook may be sent to {endpoint.host}: it is {objection}")
        elif not (endpoint.secure or self.allow_private or self.allowed_networks):
            raise ValueError("a webhook's URL must begin with https://")


def _plain(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, where hosts and translators by standard deliver to it."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address if isinstance(address, IPv4Address) else address.ipv4_mapped or address


def _kind(address: Address) -> tuple[str | None, bool]:
    """Special kind of an address (None: it is public), and whether `allow_private` permits it."""
    for network, kind, private in _KINDS:
        if address in network:
            return kind, private
    return None if address.version == 4 or address in _GLOBAL_UNICAST else "a reserved address", False
