"""A provider's identity follows from its secret, for ever by the same rule."""

import hashlib

import pytest

from aos_cli.provider_secret import check_secret, derive, looks_weak
from aos_protocol.identity import Signer

SECRET = "correct horse battery staple"


def test_the_rule_is_that_of_the_documentation() -> None:
    """Another rule would give everybody another identity."""
    assert derive(SECRET).address == "0xf04B9870e5474368a4EF7cab0FE7E95f88007de8"
    drawn = hashlib.scrypt(
        SECRET.encode(),
        salt=b"AOS provider identity, version 1",
        n=131_072,
        r=8,
        p=1,
        maxmem=1 << 28,
        dklen=48,
    )
    order = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
    key = 1 + int.from_bytes(drawn, "big") % (order - 1)
    assert Signer(key.to_bytes(32, "big")).address == derive(SECRET).address


def test_a_letter_is_the_same_however_it_is_composed() -> None:
    assert (
        derive("caf\u00e9 caf\u00e9 caf\u00e9").address == derive("cafe\u0301 cafe\u0301 cafe\u0301").address
    )


@pytest.mark.parametrize(
    "secret", ["", "x", "elevenchars", "My password!", "change me 12", "abababababababab"]
)
def test_secrets_that_anybody_would_try_are_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="aos provider --init"):
        check_secret(secret)


@pytest.mark.parametrize("secret", [SECRET, "kR8#vQ2z!pLm", "a word secret among many others here"])
def test_others_are_not(secret: str) -> None:
    check_secret(secret)


@pytest.mark.parametrize(
    ("secret", "weak"), [("abcdefghijkl", True), ("129481238912", True), (SECRET, False)]
)
def test_short_ones_of_few_kinds_are_warned_about(secret: str, weak: bool) -> None:
    assert looks_weak(secret) is weak
