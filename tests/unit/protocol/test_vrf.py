import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import ecdsa
import pytest
from ecdsa.rfc6979 import generate_k
from hypothesis import given, settings
from hypothesis import strategies as st

from aos_protocol import vrf
from aos_protocol.curves import P256, SECP256K1, EcdsaCurve
from aos_protocol.errors import InvalidKey, InvalidProof
from aos_protocol.identity import Signer
from aos_protocol.vrf import ECVRF_P256_SHA256_TAI, ECVRF_SECP256K1_SHA256_TAI, Ecvrf, rfc6979_nonce

VECTORS = Path(__file__).parents[4] / "shared" / "vectors" / "vrf"
PURE = EcdsaCurve(ecdsa.SECP256k1)
PURE_ECVRF = Ecvrf(PURE, b"\xfe")
ORDER = SECP256K1.order
FIELD = 2**256 - 2**32 - 977
SCALARS = st.integers(1, ORDER - 1) | st.sampled_from([1, 2, ORDER - 1, ORDER // 2, ORDER // 2 + 1])
SECRETS = SCALARS.map(lambda number: number.to_bytes(32, "big"))

SIGNER = Signer(b"\x0b" * 32)
ALPHA = b"seed and prompt"


def vectors(name: str, key: str) -> list[Any]:
    path = VECTORS / name
    if not path.exists():
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"no published vectors at {path}"))]
    return [
        {field: bytes.fromhex(value) if is_hex(field) else value for field, value in vector.items()}
        for vector in json.loads(path.read_text())[key]
    ]


def is_hex(field: str) -> bool:
    return field in {"sk", "pk", "alpha", "h", "k", "u", "v", "pi", "beta"}


def check_vector(suite: Ecvrf[Any], curve: Any, vector: dict[str, bytes]) -> None:
    """Every intermediate value, then proof and output."""
    h = suite.encode_to_curve(vector["pk"], vector["alpha"])
    k = rfc6979_nonce(int.from_bytes(vector["sk"], "big"), vector["h"], curve.order)
    assert curve.encode(curve.multiply_base(int.from_bytes(vector["sk"], "big"))) == vector["pk"]
    assert curve.encode(h) == vector["h"]
    assert k.to_bytes(32, "big") == vector["k"]
    assert curve.encode(curve.multiply_base(k)) == vector["u"]
    assert [curve.encode(point) for point in curve.multiply_secret((k,), h)] == [vector["v"]]
    assert suite.prove(vector["sk"], vector["alpha"]) == vector["pi"]
    assert suite.verify(vector["pk"], vector["alpha"], vector["pi"]) == vector["beta"]
    assert suite.proof_to_hash(vector["pi"]) == vector["beta"]


@pytest.mark.parametrize("vector", vectors("rfc9381_p256_sha256_tai.json", "vectors"))
def test_rfc_9381_appendix_b_1(vector: dict[str, bytes]) -> None:
    check_vector(ECVRF_P256_SHA256_TAI, P256, vector)


@pytest.mark.parametrize("vector", vectors("atikayda_secp256k1_rfc9381.json", "vectors"))
def test_published_secp256k1_proofs(vector: dict[str, bytes]) -> None:
    check_vector(ECVRF_SECP256K1_SHA256_TAI, SECP256K1, vector)


@pytest.mark.parametrize("vector", vectors("atikayda_secp256k1_rfc9381.json", "negative_vectors"))
def test_published_bad_proofs_are_refused(vector: dict[str, bytes]) -> None:
    with pytest.raises(InvalidProof):
        vrf.verify(vector["pk"], vector["alpha"], vector["pi"])


@pytest.mark.parametrize("vector", vectors("secp256kfun_vrf_fun_emptysalt.json", "vectors"))
def test_proofs_that_are_not_salted_with_the_key_are_refused(vector: dict[str, bytes]) -> None:
    with pytest.raises(InvalidProof, match="does not hold"):
        vrf.verify(vector["pk"], vector["alpha"], vector["pi"])


def test_the_published_sets_are_complete() -> None:
    counts = [
        len(vectors("rfc9381_p256_sha256_tai.json", "vectors")),
        len(vectors("atikayda_secp256k1_rfc9381.json", "vectors")),
        len(vectors("atikayda_secp256k1_rfc9381.json", "negative_vectors")),
        len(vectors("secp256kfun_vrf_fun_emptysalt.json", "vectors")),
    ]
    if not VECTORS.exists():
        pytest.skip(f"no published vectors at {VECTORS}")
    assert counts == [3, 51, 15, 3]


def test_a_signer_proves_under_its_own_key() -> None:
    proof = vrf.prove(SIGNER, ALPHA)
    assert len(proof) == vrf.PROOF_SIZE == 81
    assert proof == ECVRF_SECP256K1_SHA256_TAI.prove(SIGNER.secret, ALPHA)
    output = vrf.verify(SIGNER.public_key, ALPHA, proof)
    assert len(output) == 32
    assert output == ECVRF_SECP256K1_SHA256_TAI.proof_to_hash(proof)


def test_proofs_are_bound_to_key_and_input() -> None:
    proof = vrf.prove(SIGNER, ALPHA)
    with pytest.raises(InvalidProof, match="does not hold"):
        vrf.verify(SIGNER.public_key, ALPHA + b"\0", proof)
    with pytest.raises(InvalidProof, match="does not hold"):
        vrf.verify(Signer(b"\x0c" * 32).public_key, ALPHA, proof)
    with pytest.raises(InvalidProof, match="does not hold"):
        Ecvrf(SECP256K1, b"\xff").verify(SIGNER.public_key, ALPHA, proof)


@given(st.integers(0, 80), st.integers(1, 255))
def test_no_changed_proof_holds(at: int, mask: int) -> None:
    changed = bytearray(vrf.prove(SIGNER, ALPHA))
    changed[at] ^= mask
    with pytest.raises(InvalidProof):
        vrf.verify(SIGNER.public_key, ALPHA, bytes(changed))


def proof_with(**parts: bytes) -> bytes:
    proof = vrf.prove(SIGNER, ALPHA)
    return parts.get("gamma", proof[:33]) + parts.get("c", proof[33:49]) + parts.get("s", proof[49:])


def off_curve() -> bytes:
    """The least x that has no y."""
    x = next(x for x in range(1, 100) if pow(x**3 + 7, (FIELD - 1) // 2, FIELD) != 1)
    return b"\x02" + x.to_bytes(32, "big")


@pytest.mark.parametrize(
    ("proof", "reason"),
    [
        (b"", "has 0"),
        (bytes(80), "has 80"),
        (vrf.prove(SIGNER, ALPHA) + b"\0", "has 82"),
        (proof_with(s=ORDER.to_bytes(32, "big")), "s is not below"),
        (proof_with(s=b"\xff" * 32), "s is not below"),
        (proof_with(gamma=off_curve()), "no compressed point"),
        (proof_with(gamma=b"\x02" + FIELD.to_bytes(32, "big")), "no compressed point"),
        (proof_with(gamma=bytes(33)), "no compressed point"),
        (proof_with(gamma=b"\x04" + bytes(32)), "no compressed point"),
        (proof_with(c=bytes(16)), "does not hold"),
        (proof_with(s=bytes(32)), "does not hold"),
        (proof_with(c=bytes(16), s=bytes(32)), "does not hold"),
    ],
)
def test_malformed_proofs_are_refused(proof: bytes, reason: str) -> None:
    for suite in (ECVRF_SECP256K1_SHA256_TAI, PURE_ECVRF):
        with pytest.raises(InvalidProof, match=reason):
            suite.verify(SIGNER.public_key, ALPHA, proof)


@pytest.mark.parametrize("proof", [b"", bytes(81), proof_with(s=b"\xff" * 32), proof_with(gamma=off_curve())])
def test_no_output_is_read_from_a_malformed_proof(proof: bytes) -> None:
    with pytest.raises(InvalidProof):
        ECVRF_SECP256K1_SHA256_TAI.proof_to_hash(proof)


@pytest.mark.parametrize("secret", [b"\x0b" * 32, b"\x01".rjust(32, b"\0")])
def test_a_proof_that_leads_to_infinity_is_refused(secret: bytes) -> None:
    """s = c x makes U infinity, and with Gamma = x H also V."""
    signer, c = Signer(secret), 5
    s = c * int.from_bytes(secret, "big") % ORDER
    gamma = vrf.prove(signer, ALPHA)[:33]
    for suite in (ECVRF_SECP256K1_SHA256_TAI, PURE_ECVRF):
        with pytest.raises(InvalidProof, match="does not hold"):
            suite.verify(signer.public_key, ALPHA, gamma + c.to_bytes(16, "big") + s.to_bytes(32, "big"))


@pytest.mark.parametrize(
    "form", [b"", b"\0", bytes(33), off_curve(), b"\x02" + b"\xff" * 32, b"uncompressed"]
)
def test_public_keys_are_validated(form: bytes) -> None:
    if form == b"uncompressed":
        form = PURE.decode(SIGNER.public_key).to_bytes("uncompressed")
    for suite in (ECVRF_SECP256K1_SHA256_TAI, PURE_ECVRF):
        with pytest.raises(InvalidProof, match="compressed point"):
            suite.verify(form, ALPHA, vrf.prove(SIGNER, ALPHA))


@pytest.mark.parametrize(
    "secret", [b"", bytes(32), b"\x01" * 31, b"\x01" * 33, ORDER.to_bytes(32, "big"), b"\xff" * 32]
)
def test_secrets_out_of_range_are_refused(secret: bytes) -> None:
    with pytest.raises(InvalidKey, match="32 bytes between 1 and the group order"):
        ECVRF_SECP256K1_SHA256_TAI.prove(secret, ALPHA)


@settings(max_examples=25, deadline=None)
@given(SECRETS, st.binary(max_size=120))
def test_libsecp256k1_and_pure_python_prove_and_accept_the_same(secret: bytes, alpha: bytes) -> None:
    signer = Signer(secret)
    proof = vrf.prove(signer, alpha)
    assert PURE_ECVRF.prove(secret, alpha) == proof
    output = vrf.verify(signer.public_key, alpha, proof)
    assert PURE_ECVRF.verify(signer.public_key, alpha, proof) == output


@settings(max_examples=40, deadline=None)
@given(
    SCALARS, SCALARS, st.integers(-ORDER, 2 * ORDER), st.sampled_from([0, 1, ORDER, ORDER + 1, -1]) | SCALARS
)
def test_both_libraries_agree_on_the_group(a: int, b: int, m: int, n: int) -> None:
    for x, y in ((a, b), (a, a), (a, ORDER - a)):
        results = [
            (
                curve.add(curve.multiply_base(x), curve.multiply_base(y)),
                curve.multiply(m, base(curve, x)),
                curve.multiply(n, base(curve, y)),
                *curve.multiply_secret((m, n), base(curve, x)),
                curve.multiply_base(n),
                curve.multiply_add_base(m, base(curve, x), n),
                curve.multiply_add_base(1, base(curve, x), -x),
                curve.multiply_add_base(0, base(curve, x), y),
            )
            for curve in (SECP256K1, PURE)
        ]
        fast, pure = (
            [written(curve, point) for point in row]
            for curve, row in zip((SECP256K1, PURE), results, strict=True)
        )
        assert fast == pure
        assert fast[1] == fast[3]
        assert fast[7] is None


def base(curve: Any, scalar: int) -> Any:
    point = curve.multiply_base(scalar)
    assert point is not None
    return point


def written(curve: Any, point: Any) -> bytes | None:
    if point is None:
        return None
    encoded: bytes = curve.encode(point)
    assert curve.encode(curve.decode(encoded)) == encoded
    return encoded


@pytest.mark.parametrize("curve", [SECP256K1, PURE, P256], ids=["coincurve", "ecdsa", "p256"])
def test_infinity_is_the_neutral_element(curve: Any) -> None:
    point = base(curve, 7)
    assert curve.encode(curve.add(point, None)) == curve.encode(curve.add(None, point)) == curve.encode(point)
    assert curve.add(None, None) is None
    assert curve.add(point, base(curve, -7)) is None
    for zero in (0, curve.order, -curve.order):
        assert curve.multiply(zero, point) is None
        assert curve.multiply_secret((zero, zero), point) == [None, None]
        assert curve.multiply_base(zero) is None
        assert curve.multiply_add_base(zero, point, zero) is None


@pytest.mark.parametrize("curve", [SECP256K1, PURE, P256], ids=["coincurve", "ecdsa", "p256"])
def test_only_compressed_points_are_decoded(curve: Any) -> None:
    good = curve.encode(base(curve, 7))
    for bad in (
        b"",
        b"\0",
        good[:-1],
        good + b"\0",
        b"\x04" + good[1:],
        b"\x06" + good[1:],
        bytes(33),
        b"\x02" + b"\xff" * 32,
    ):
        with pytest.raises(InvalidProof, match="compressed point"):
            curve.decode(bad)
    assert curve.encode(curve.decode(bytearray(good))) == good


@given(SCALARS, st.binary(max_size=64))
def test_the_nonce_is_that_of_rfc_6979(secret: int, message: bytes) -> None:
    expected = generate_k(ORDER, secret, sha256, sha256(message).digest())
    assert rfc6979_nonce(secret, message, ORDER) == expected


def test_the_nonce_of_rfc_6979_appendix_a_2_5() -> None:
    secret = 0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721
    expected = 0xA6E3C57DD01ABE90086538398355DD4C3B17AA873382B0F24D6129493D8AAD60
    assert rfc6979_nonce(secret, b"sample", P256.order) == expected


def test_nonces_out_of_range_are_drawn_again_and_digests_reduced() -> None:
    """For an order just above 2^255 every second draw, and every second digest, is too great."""
    order = 2**255 + 95
    for secret in range(1, 30):
        message = bytes((secret,))
        expected = generate_k(order, secret, sha256, sha256(message).digest())
        assert rfc6979_nonce(secret, message, order) == expected


def test_an_input_that_no_counter_maps_to_the_curve_is_refused() -> None:
    class Nowhere:
        order = ORDER

        def decode(self, data: bytes) -> None:
            raise InvalidProof

    with pytest.raises(InvalidProof, match="no counter"):
        Ecvrf(Nowhere(), b"\xfe").encode_to_curve(SIGNER.public_key, ALPHA)  # type: ignore[arg-type]
