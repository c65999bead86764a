"""The hints are what they are said to be, by the pure Python curve and by the field's own arithmetic."""

from dataclasses import FrozenInstanceError, replace
from hashlib import sha256
from typing import Any

import ecdsa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aos_chain import hints as module
from aos_chain.errors import ChainError
from aos_chain.hints import FIELD, Hints, coordinates, hints
from aos_protocol.curves import SECP256K1, EcdsaCurve
from aos_protocol.errors import InvalidProof
from aos_protocol.identity import Signer
from aos_protocol.vrf import ECVRF_SECP256K1_SHA256_TAI
from support.sortition import Case, changed, gamma_by, good

PURE = EcdsaCurve(ecdsa.SECP256k1)
ORDER = SECP256K1.order
SIGNER = Signer(b"\x0b" * 32)
GOOD = good(SIGNER, b"seed and prompt")
SECRETS = st.integers(1, ORDER - 1).map(lambda scalar: scalar.to_bytes(32, "big"))


def pair(point: Any) -> tuple[int, int]:
    return (0, 0) if point is None else (int(point.x()), int(point.y()))


def scalars(proof: bytes) -> tuple[int, int]:
    return int.from_bytes(proof[33:49], "big"), int.from_bytes(proof[49:], "big")


def check_points(case: Case) -> None:
    """U = sB - cY, sH, cGamma and V = sH - cGamma on another curve implementation."""
    told, (c, s) = case.hints, scalars(case.proof)
    key, gamma = PURE.decode(case.key), PURE.decode(case.proof[:33])
    h = PURE.decode(
        SECP256K1.encode(ECVRF_SECP256K1_SHA256_TAI.encode_to_curve(case.key, case.alpha)),
    )
    s_h = PURE.multiply(s, h)
    assert told.gamma_y == pair(gamma)[1]
    assert told.roots[-1] == pair(h)[1]
    assert told.u == pair(PURE.multiply_add_base(-c, key, s))
    assert told.s_h == pair(s_h)
    assert told.c_gamma == pair(PURE.multiply(c, gamma))
    assert told.v == pair(PURE.add(s_h, PURE.multiply(-c, gamma)))


@settings(max_examples=15, deadline=None)
@given(SECRETS, st.binary(max_size=120), st.integers(1, 2**128 - 1), st.integers(1, ORDER - 1))
def test_points(secret: bytes, alpha: bytes, c: int, s: int) -> None:
    """Of good proofs, and of such as have other scalars."""
    case = good(Signer(secret), alpha)
    check_points(case)
    check_points(changed(case, c=c, s=s))


def test_points_that_meet_and_infinity() -> None:
    u_infinite = changed(GOOD, c=5, s=5 * int.from_bytes(SIGNER.secret, "big") % ORDER)
    for case in (u_infinite, gamma_by(GOOD, 1), gamma_by(GOOD, -1)):
        check_points(case)
    assert u_infinite.hints.u == gamma_by(GOOD, 1).hints.v == (0, 0)


@settings(deadline=None)
@given(SECRETS, st.binary(max_size=120))
def test_there_is_a_root_for_every_counter(secret: bytes, alpha: bytes) -> None:
    """Of -(x^3 + 7) for those refused, the even one of x^3 + 7 for the last: the two never both exist."""
    key = Signer(secret).public_key
    roots = hints(key, alpha, good(Signer(secret), alpha).proof).roots
    for counter, root in enumerate(roots):
        x = int.from_bytes(sha256(b"\xfe\x01" + key + alpha + bytes((counter, 0))).digest(), "big")
        sign = 1 if counter == len(roots) - 1 else -1
        assert root * root % FIELD == sign * (x**3 + 7) % FIELD
    assert roots[-1] % 2 == 0
    assert all(0 < root < FIELD for root in roots)


@settings(deadline=None)
@given(st.sampled_from([2, 3]), st.integers(0, FIELD - 1))
def test_a_gamma_that_is_no_point_comes_with_the_root_that_shows_it(prefix: int, x: int) -> None:
    gamma = bytes((prefix,)) + x.to_bytes(32, "big")
    told = changed(GOOD, gamma=gamma).hints
    try:
        SECP256K1.decode(gamma)
    except InvalidProof:
        assert told == Hints(gamma_y=told.gamma_y)
        assert told.gamma_y**2 % FIELD == -(x**3 + 7) % FIELD
    else:
        assert told.gamma_y**2 % FIELD == (x**3 + 7) % FIELD
        assert told.gamma_y % 2 == prefix % 2


@pytest.mark.parametrize(
    "case",
    [
        replace(GOOD, proof=b""),
        replace(GOOD, proof=GOOD.proof[:-1]),
        replace(GOOD, proof=GOOD.proof + b"\0"),
        changed(GOOD, c=0),
        changed(GOOD, s=0),
        changed(GOOD, s=ORDER),
        changed(GOOD, s=2**256 - 1),
    ],
)
def test_what_the_contract_sees_by_itself_needs_no_hints(case: Case) -> None:
    assert case.hints == Hints()


@settings(deadline=None)
@given(st.binary(max_size=100), st.binary(min_size=75, max_size=90))
def test_any_bytes_have_hints(alpha: bytes, proof: bytes) -> None:
    assert isinstance(hints(SIGNER.public_key, alpha, proof), Hints)


@pytest.mark.parametrize("key", [b"", bytes(33), b"\x02" + b"\xff" * 32, SIGNER.public_key + b"\0"])
def test_a_key_that_is_no_point_has_none(key: bytes) -> None:
    with pytest.raises(InvalidProof, match="compressed point"):
        hints(key, GOOD.alpha, GOOD.proof)
    with pytest.raises(InvalidProof, match="compressed point"):
        coordinates(key)


def test_an_input_that_needs_more_counters_than_the_contract_tries_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needs_two = next(case for n in range(256) if len((case := good(SIGNER, bytes((n,)))).hints.roots) == 2)
    monkeypatch.setattr(module, "MAX_ROOTS", 2)
    assert len(needs_two.hints.roots) == 2
    monkeypatch.setattr(module, "MAX_ROOTS", 1)
    with pytest.raises(ChainError, match=r"none of 1 counters .* change the input"):
        assert needs_two.hints


@given(SECRETS)
def test_coordinates_are_those_of_the_key(secret: bytes) -> None:
    key = Signer(secret).public_key
    x, y = coordinates(key)
    assert key == bytes((2 + y % 2,)) + x.to_bytes(32, "big")
    assert y * y % FIELD == (x**3 + 7) % FIELD


def test_the_abi_has_the_contract_s_order() -> None:
    told = Hints(1, (2, 3), (4, 5), (6, 7), (8, 9), (10, 11))
    assert told.abi() == (1, [2, 3], [4, 5], [6, 7], [8, 9], [10, 11])
    with pytest.raises(FrozenInstanceError):
        told.gamma_y = 2  # type: ignore[misc]
