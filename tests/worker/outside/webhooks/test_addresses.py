"""URLs and addresses that a webhook may have."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlas.contract.webhooks import Endpoint, parse_url
from service.registry.webhooks import Policy

_PUBLIC = [
    "8.8.8.8",
    "93.184.216.34",
    "172.15.255.255",
    "172.32.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "223.255.255.255",
]
_PUBLIC_6 = ["2606:4700::1111", "2a00:1450:4001::200e", "2001:200::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]
_PRIVATE = [
    *("127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1"),
    *(
        "10.0.0.0",
        "10.255.255.255",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.0.1",
        "::ffff:10.1.2.3",
        "64:ff9b::a01:203",
    ),
    *("100.64.0.1", "100.127.255.255", "fc00::1", "fdff::1"),
]
_SPECIAL = [
    *("0.0.0.0", "0.1.2.3", "::", "::ffff:0.0.0.0"),
    *("169.254.1.1", "fe80::1", "febf::1", "fe80::1%eth0", "::ffff:169.254.1.1"),
    *("224.0.0.1", "239.255.255.255", "ff02::1"),
    *(
        "240.0.0.1",
        "255.255.255.255",
        "192.0.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
    ),
    *(
        "::10.0.0.1",
        "::8.8.8.8",
        "2002:a00:1::",
        "2002:808:808::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "192.88.99.1",
    ),
    *("64:ff9b:1::a00:1", "::ffff:0:10.0.0.1", "2001:db8::1", "3fff::1", "fec0::1", "100::1", "5f00::1", "4000::1"),
]
_METADATA = [
    "169.254.169.254",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "100.100.100.200",
    "168.63.129.16",
    *("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:c1::a9fe:a9fe", "169.254.170.2", "192.0.0.192"),
]
#: IANA's special-purpose address registries for IPv4 and IPv6, beside multicast and what no registry has given out.
_IANA = [
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
    *("192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
    *("224.0.0.0/4", "240.0.0.0/4", "255.255.255.255/32"),
    *("::/128", "::1/128", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "2001::/23", "2001:db8::/32", "2002::/16"),
    *("3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8", "4000::/2", "8000::/2"),
]
_EVERYTHING = Policy(allow_private=True, allowed_networks=(ip_network("0.0.0.0/0"), ip_network("::/0")))


@pytest.mark.parametrize("address", _PUBLIC + _PUBLIC_6)
def test_public_addresses_are_reached_over_https_only(address: str) -> None:
    """By default they are the only ones, and in clear there are none."""
    assert Policy().objection(ip_address(address), secure=True) is None
    assert Policy().objection(ip_address(address), secure=False) == "a public address, to which only https may go"
    assert Policy(allow_private=True).objection(ip_address(address), secure=False) is not None


@pytest.mark.parametrize("address", _PRIVATE)
def test_private_addresses_are_for_operators_who_allow_them(address: str) -> None:
    """Refused by default, however they are written; where they are allowed, http is good enough."""
    for secure in (True, False):
        assert Policy().objection(ip_address(address), secure=secure) in ("a loopback address", "a private address")
        assert Policy(allow_private=True).objection(ip_address(address), secure=secure) is None


@pytest.mark.parametrize("address", _SPECIAL)
def test_special_addresses_stay_closed_with_private_ones_open(address: str) -> None:
    """Link-local, multicast, reserved and tunnel addresses open only by their own network's name."""
    for policy in (Policy(), Policy(allow_private=True)):
        assert policy.objection(ip_address(address), secure=True) is not None
    assert _EVERYTHING.objection(ip_address(address), secure=False) is None


@pytest.mark.parametrize("address", _METADATA)
def test_metadata_services_are_never_allowed(address: str) -> None:
    """An operator who opens everything does not open these: no webhook lives there, but credentials do."""
    for policy in (Policy(), _EVERYTHING, Policy(allowed_networks=(ip_network("169.254.169.254/32"),))):
        assert policy.objection(ip_address(address), secure=True) == "a cloud's metadata service"


@pytest.mark.parametrize(
    ("network", "inside", "outside"),
    [
        ("10.1.0.0/16", ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3"], ["10.2.0.1", "192.168.0.1", "::1"]),
        ("fd00:1::/32", ["fd00:1::5"], ["fd00:2::5", "10.0.0.1"]),
        ("8.8.8.0/24", ["8.8.8.8"], []),
    ],
)
def test_an_operator_may_open_particular_networks(network: str, inside: list[str], outside: list[str]) -> None:
    """Addresses within the networks may be reached, in clear too; nothing beside them."""
    policy = Policy(allowed_networks=(ip_network(network),))
    assert [policy.objection(ip_address(address), secure=False) for address in inside] == [None] * len(inside)
    assert all(policy.objection(ip_address(address), secure=True) for address in outside)


@given(st.integers(0, 2**32 - 1).map(IPv4Address) | st.integers(0, 2**128 - 1).map(IPv6Address))
def test_nothing_is_public_that_python_does_not_hold_for_public(address: IPv4Address | IPv6Address) -> None:
    """The referee is the standard library's own table of special addresses."""
    if Policy().objection(address, secure=True) is None:
        judged = getattr(address, "ipv4_mapped", None) or address
        assert judged.is_global or judged in ip_network("64:ff9b::/96")
        assert not any((judged.is_multicast, judged.is_private, judged.is_loopback, judged.is_link_local))


@pytest.mark.parametrize("network", _IANA)
def test_networks_that_iana_keeps_from_the_internet_are_refused_from_end_to_end(network: str) -> None:
    """First and last address of each network whose "globally reachable" column does not say yes."""
    for address in (ip_network(network)[0], ip_network(network)[-1]):
        assert Policy().objection(address, secure=True) is not None


@pytest.mark.parametrize(
    ("text", "endpoint", "authority"),
    [
        ("https://example.org", Endpoint(True, "example.org", 443, "/"), "example.org"),
        ("HTTPS://Example.ORG:443/A?b=C%20", Endpoint(True, "example.org", 443, "/A?b=C%20"), "example.org"),
        ("https://example.org?x=//y@z", Endpoint(True, "example.org", 443, "/?x=//y@z"), "example.org"),
        ("http://hooks:8080/x/../y", Endpoint(False, "hooks", 8080, "/x/../y"), "hooks:8080"),
        ("http://example.org:443/", Endpoint(False, "example.org", 443, "/"), "example.org:443"),
        ("https://xn--bcher-kva.example/", Endpoint(True, "xn--bcher-kva.example", 443, "/"), "xn--bcher-kva.example"),
        ("https://192.0.2.7:1/", Endpoint(True, "192.0.2.7", 1, "/"), "192.0.2.7:1"),
        ("https://[2001:DB8:0::7]:65535/", Endpoint(True, "2001:db8::7", 65535, "/"), "[2001:db8::7]:65535"),
        ("https://my_host-1.internal/", Endpoint(True, "my_host-1.internal", 443, "/"), "my_host-1.internal"),
    ],
)
def test_a_url_is_read_in_one_way(text: str, endpoint: Endpoint, authority: str) -> None:
    """Scheme, host, port and what is asked for, and the `Host` header that follows."""
    assert parse_url(text) == endpoint
    assert parse_url(text).authority == authority


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        *((f"{scheme}://example.org/", "must begin with https://") for scheme in ("ftp", "file", "gopher", "ws", "h")),
        *(
            (text, "must begin with https://")
            for text in ("example.org", "//example.org", "https:example.org", "https:/x")
        ),
        *((text, "no user or password") for text in ("https://a:b@example.org/", "https://127.0.0.1@example.org/")),
        ("https://@example.org/", "no user or password"),
        *((text, "no fragment") for text in ("https://example.org/#", "https://example.org#@127.0.0.1/")),
        *(
            (f"https://{host}/", "must be four decimal numbers")
            for host in ("2130706433", "0x7f.1", "0x7f000001", "0x")
        ),
        *(
            (f"https://{host}/", "must be four decimal numbers")
            for host in ("0177.0.0.1", "127.1", "1.2.3.4.5", "1.2.3.256")
        ),
        *((f"https://{host}/", "no IPv6 address") for host in ("[1.2.3.4]", "[]", "[::g]", "[1::2::3]")),
        *((f"https://[fe80::1%{zone}]/", "no zone") for zone in ("eth0", "25eth0", "1")),
        *(
            (f"https://{host}/", "malformed")
            for host in ("[::1", "::1", "a:b:c", "example.org:", "example.org:x", "[::1]x")
        ),
        *((f"https://example.org:{port}/", "1 to 65535") for port in (0, 65536, 99999)),
        ("https://example.org:-1/", "malformed"),
        ("https://example.org:000000443/", "malformed"),
        *((f"https://{host}/", "full stop") for host in ("example.org.", "127.0.0.1.", ".")),
        *(
            (f"https://{host}/", "no host name")
            for host in ("", ".example.org", "a..b", "-a.org", "a-.org", "a%2eb", "a*")
        ),
        ("https:///path", "no host name"),
        (f"https://{'a' * 64}.org/", "no host name"),
        (f"https://{'a.' * 127}org/", "no host name"),
        *(
            (f"https://{host}/", "only the ASCII characters")
            for host in ("bücher.example", "127。0。0。1", "①②⑦.0.0.1")
        ),
        *((text, "only the ASCII characters") for text in ("", " https://example.org", "https://example.org/\r\nx: y")),
        *(
            (text, "only the ASCII characters")
            for text in ("https://example.org\\@127.0.0.1/", "https://ex\tample.org/")
        ),
        ("https://example.org/\x00", "only the ASCII characters"),
    ],
)
def test_every_other_url_is_refused_with_its_reason(text: str, reason: str) -> None:
    """Nothing is repaired: what two programs might read differently is not accepted."""
    with pytest.raises(ValueError, match=reason):
        parse_url(text)


@pytest.mark.parametrize(
    ("url", "policy", "reason"),
    [
        ("https://example.org/", Policy(), None),
        ("https://localhost/", Policy(), None),  # told at delivery: names are not resolved here
        ("https://8.8.8.8/", Policy(), None),
        ("http://example.org/", Policy(), "must begin with https://"),
        ("http://8.8.8.8/", Policy(), "only https"),
        ("https://127.0.0.1/", Policy(), "127.0.0.1: it is a loopback address"),
        ("https://[::ffff:10.0.0.1]/", Policy(), "a private address"),
        ("https://169.254.169.254/", Policy(allow_private=True), "metadata"),
        ("http://10.0.0.1:8080/", Policy(allow_private=True), None),
        ("http://hooks:8080/", Policy(allow_private=True), None),
        ("http://hooks:8080/", Policy(allowed_networks=(ip_network("10.0.0.0/8"),)), None),
        ("http://192.168.0.1/", Policy(allowed_networks=(ip_network("10.0.0.0/8"),)), "a private address"),
    ],
)
def test_what_the_url_alone_shows_is_told_at_once(url: str, policy: Policy, reason: str | None) -> None:
    """A job with a webhook that could never be delivered is refused when it is created."""
    if reason is None:
        policy.check(parse_url(url))
    else:
        with pytest.raises(ValueError, match=reason):
            policy.check(parse_url(url))
