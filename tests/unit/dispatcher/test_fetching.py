"""What may be fetched: which addresses of requests, and which addresses of hosts. Nothing is connected to here."""

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_dispatcher.errors import NotFetched
from aos_dispatcher.fetching import Target, check_addresses, is_public, read_target

PORTS = {80, 443}

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "93.184.216.34",
    "172.15.255.255",
    "172.32.0.1",
    "100.63.255.255",
    "100.128.0.1",
    "2606:4700:4700::1111",
    "2a00:1450:4001:82a::200e",
]
NOT_PUBLIC = {
    "loopback": ["127.0.0.1", "127.255.255.254", "::1"],
    "private": ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.0.1", "fc00::1", "fd12:3456::1"],
    "link-local, where clouds tell secrets": ["169.254.169.254", "fe80::1", "fe80::1%lo", "fd00:ec2::254"],
    "carriers' (RFC 6598), and a cloud's metadata in it": [
        "100.64.0.1",
        "100.127.255.255",
        "100.100.100.200",
    ],
    "unspecified": ["0.0.0.0", "0.1.2.3", "::"],
    "multicast": ["224.0.0.1", "239.255.255.250", "ff02::1", "ff0e::1"],
    "reserved and broadcast": ["240.0.0.1", "255.255.255.255", "192.0.0.1", "5f00::1"],
    "examples and benchmarks": [
        "192.0.2.1",
        "198.51.100.1",
        "203.0.113.1",
        "198.18.0.1",
        "2001:db8::1",
        "3fff::1",
    ],
    "IPv4 inside IPv6": [
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:8.8.8.8",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::7f00:1",
        "2002:7f00:1::",
        "2001:0:1::1",
    ],
    "site-local, discarded": ["fec0::1", "100::1"],
}


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("address"),
    [pytest.param(each, id=f"{kind}: {each}") for kind, some in NOT_PUBLIC.items() for each in some],
)
def test_all_others_are_not(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@given(st.ip_addresses())
def test_what_is_public_is_global_and_for_one_receiver(address: Any) -> None:
    """Held against the standard library's own view, which is laxer about what is inside of what."""
    if is_public(address):
        assert address.is_global
        assert not address.is_private
        assert not address.is_multicast
        assert getattr(address, "ipv4_mapped", None) is None
        assert getattr(address, "sixtofour", None) is None
        assert getattr(address, "teredo", None) is None


def test_every_address_of_a_host_must_be_public() -> None:
    assert str(check_addresses("h", ["1.1.1.1", "8.8.8.8"], [])) == "1.1.1.1"
    for found in ([], ["10.0.0.1"], ["1.1.1.1", "10.0.0.1"], ["10.0.0.1", "1.1.1.1"]):
        with pytest.raises(NotFetched, match="no address on the public internet"):
            check_addresses("h", found, [])


def test_a_network_of_the_settings_is_allowed_and_no_other() -> None:
    allowed = [ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00::/8")]
    assert str(check_addresses("h", ["10.1.2.3"], allowed)) == "10.1.2.3"
    assert str(check_addresses("h", ["fd00::1", "1.1.1.1"], allowed)) == "fd00::1"
    for other in ("10.2.0.1", "127.0.0.1", "::ffff:10.1.2.3"):
        with pytest.raises(NotFetched):
            check_addresses("h", [other], allowed)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://example.org", Target("https", "example.org", 443, "/")),
        ("http://EXAMPLE.org:80/a/b.png?c=d#e", Target("http", "example.org", 80, "/a/b.png?c=d")),
        ("http://example.org:443/", Target("http", "example.org", 443, "/")),
        ("https://[2606:4700::1111]/x", Target("https", "2606:4700::1111", 443, "/x")),
    ],
)
def test_an_address_is_taken_apart(url: str, target: Target) -> None:
    assert read_target(url, PORTS) == target


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("file:///etc/passwd", "https:// or http://"),
        ("ftp://example.org/a.png", "https:// or http://"),
        ("gopher://example.org:80/_x", "https:// or http://"),
        ("//example.org/a.png", "https:// or http://"),
        ("example.org/a.png", "https:// or http://"),
        ("data:image/png;base64,AAAA", "https:// or http://"),
        ("http:///a.png", "names a host"),
        ("http://user@example.org/", "no user"),
        ("http://example.org:secret@127.0.0.1/", "no user"),
        ("http://user:secret@example.org/", "no user"),
        ("http://1.1.1.1\\@127.0.0.1/", "backslash"),
        ("http://example.org/a b.png", "printable ASCII"),
        ("http://example.org/\n", "printable ASCII"),
        ("http://exämple.org/", "printable ASCII"),
        ("http://①②⑦.0.0.1/", "printable ASCII"),
        ("http://example.org:22/", "port 22 is not allowed here; allowed: 80, 443"),
        ("http://example.org:0/", "port 0"),
        ("http://example.org:99999/", "no URL"),
        ("http://[::1/", "no URL"),
        ("https://example.org/" + "a" * 2048, "2048 characters"),
    ],
)
def test_what_is_no_address_to_fetch_from_is_refused(url: str, why: str) -> None:
    with pytest.raises(NotFetched, match=why):
        read_target(url, PORTS)


@given(st.text(max_size=60), st.sampled_from(["http://", "https://", "HTTP://", ""]))
def test_whatever_is_sent_is_an_address_or_refused(text: str, start: str) -> None:
    try:
        target = read_target(start + text, PORTS)
    except NotFetched:
        return
    assert target.scheme in {"http", "https"}
    assert target.port in PORTS
    assert target.host
    assert "@" not in target.host
    assert target.path.startswith("/")
