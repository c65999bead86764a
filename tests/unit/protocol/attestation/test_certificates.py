"""Chains of certificates, each wrong in one way; and PEM."""

import hashlib
import itertools
from collections.abc import Sequence

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from aos_protocol.attestation import certificates
from aos_protocol.attestation.certificates import ECDSA_P384, RSA_PSS, from_pem, to_pem, verify_chain
from aos_protocol.errors import InvalidAttestation
from support.nitro_documents import DAY, NOW, Issued, builder, chain, issue, key_usage

GOOD = chain(5)
ROOT = GOOD[0]
LEAF = key_usage(signs=True, issues=False)
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"x")


def refused(links: Sequence[Issued], at: int = NOW) -> str:
    with pytest.raises(InvalidAttestation) as caught:
        verify(links, at)
    return str(caught.value)


def verify(links: Sequence[Issued], at: int = NOW) -> certificates.Certificate:
    return verify_chain([each.der for each in links], roots=[links[0].fingerprint], at=at, scheme=ECDSA_P384)


def test_a_good_chain_gives_its_last_certificate() -> None:
    leaf = verify(GOOD)
    assert (leaf.common_name, leaf.authority, leaf.path_length) == ("enclave", False, None)
    assert (leaf.not_before, leaf.not_after) == (NOW - DAY, NOW + DAY)
    assert leaf.public_key == GOOD[-1].key.public_key()


def test_a_root_of_other_bytes_is_not_trusted() -> None:
    twin = Issued(ROOT.name, ROOT.key, issue("root").der)
    with pytest.raises(InvalidAttestation, match=f"no trusted root: {twin.fingerprint}"):
        verify_chain([twin.der, GOOD[1].der], roots=[ROOT.fingerprint], at=NOW, scheme=ECDSA_P384)


def test_any_other_order_is_refused() -> None:
    for order in itertools.permutations(GOOD[1:]):
        links = [ROOT, *order]
        if links != GOOD:
            refused(links)


def test_a_link_that_is_left_out_or_repeated_is_missed() -> None:
    for place in range(1, 4):
        assert "names another issuer" in refused([*GOOD[:place], *GOOD[place + 1 :]])
    assert "(level 1) allows 2 authorities below it, and there are 3" in refused([*GOOD[:2], *GOOD[1:]])
    assert "certificate 4 of 4 (level 3) is a certificate authority" in refused(GOOD[:-1])
    assert "certificate 1 of 1 (root) is a certificate authority" in refused([ROOT])


def test_a_certificate_below_a_key_of_another_curve_is_refused() -> None:
    weak = issue("weak", ROOT, curve=ec.SECP256R1())
    assert "is not signed with ECDSA on P-384" in refused([ROOT, weak, issue("leaf", weak, authority=False)])


LEAF_REFUSALS = [
    (issue("leaf", ROOT), "certificate 2 of 2 (leaf) is a certificate authority"),
    (issue("leaf", ROOT, authority=False, usage=key_usage(signs=False, issues=True)), "digital signatures"),
    (issue("leaf", ROOT, authority=False, algorithm=SHA256()), "is not signed with ECDSA on P-384"),
    (issue("leaf", ROOT, authority=False, named_issuer="other"), "names another issuer"),
    (issue("leaf", ROOT, authority=False, window=(NOW + 1, NOW + 9)), "is not valid yet at 1800000000"),
    (issue("leaf", ROOT, authority=False, window=(NOW - 9, NOW - 1)), "has expired at 1800000000"),
    (
        issue("leaf", ROOT, authority=False, extra=[(UNKNOWN, True)]),
        "a critical extension unknown here, OID 1.2.3.4",
    ),
]


@pytest.mark.parametrize(("leaf", "reason"), LEAF_REFUSALS)
def test_a_wrong_leaf_is_refused_with_what_is_wrong(leaf: Issued, reason: str) -> None:
    assert reason in refused([ROOT, leaf])


@pytest.mark.parametrize("authority", [None, False])
def test_a_leaf_needs_no_basic_constraints_and_no_usage(authority: bool | None) -> None:
    leaf = issue("leaf", ROOT, authority=authority, extra=[(UNKNOWN, False)])
    assert verify([ROOT, leaf]).authority is False


def test_a_certificate_without_any_extension_is_no_authority() -> None:
    middle = issue("middle", ROOT, authority=None)
    assert verify([ROOT, middle]).authority is False
    assert "(middle) is no certificate authority" in refused([ROOT, middle, issue("leaf", middle)])


def test_an_extension_that_is_not_critical_need_not_be_known() -> None:
    leaf = issue("leaf", ROOT, authority=False, extra=[(UNKNOWN, False)])
    assert verify([ROOT, leaf]).extensions.get_extension_for_oid(UNKNOWN.oid).value == UNKNOWN


@pytest.mark.parametrize(
    ("middle", "reason"),
    [
        (
            issue("middle", ROOT, authority=None, extra=[(UNKNOWN, False)]),
            "certificate 2 of 3 (middle) is no certificate authority",
        ),
        (issue("middle", ROOT, authority=False), "certificate 2 of 3 (middle) is no certificate authority"),
        (issue("middle", ROOT, usage=LEAF), "(middle) has a key usage without certificate signing"),
        (issue("middle", ROOT, window=(NOW + 1, NOW + DAY)), "certificate 2 of 3 (middle) is not valid yet"),
        (issue("middle", ROOT, window=(NOW - DAY, NOW - 1)), "certificate 2 of 3 (middle) has expired"),
    ],
)
def test_a_wrong_authority_is_refused_with_what_is_wrong(middle: Issued, reason: str) -> None:
    leaf = issue("leaf", middle, authority=False)
    assert reason in refused([ROOT, middle, leaf])


def test_the_root_must_be_an_authority_within_its_window() -> None:
    for root, reason in (
        (issue("root", authority=False), "certificate 1 of 2 (root) is no certificate authority"),
        (issue("root", window=(0, NOW - 1)), "certificate 1 of 2 (root) has expired"),
        (issue("root", path_length=0), None),
    ):
        links = [root, issue("leaf", root, authority=False)]
        if reason is None:
            verify(links)
        else:
            assert reason in refused(links)


def test_no_more_authorities_follow_than_a_certificate_allows() -> None:
    for allowed, below in itertools.product(range(3), range(3)):
        links = [ROOT, issue("limited", ROOT, path_length=allowed)]
        for level in range(below):
            links.append(issue(f"level {level}", links[-1]))
        links.append(issue("leaf", links[-1], authority=False))
        if below <= allowed:
            verify(links)
        else:
            assert f"(limited) allows {allowed} authorities below it, and there are {below}" in refused(links)


def test_windows_are_looked_at_each_time_though_signatures_are_remembered() -> None:
    links = chain(3)
    before = certificates._issued.cache_info()
    verify(links)
    first = certificates._issued.cache_info()
    verify(links)
    second = certificates._issued.cache_info()
    assert first.misses - before.misses == 2
    assert (second.misses, second.hits - first.hits) == (first.misses, 2)
    assert "has expired" in refused(links, NOW + DAY + 1)
    assert "is not valid yet" in refused(links, NOW - DAY - 1)


def test_what_does_not_verify_is_not_remembered() -> None:
    links = [ROOT, issue("leaf", issue("another"), authority=False)]
    kept = certificates._issued.cache_info().currsize, certificates._root.cache_info().currsize
    for _ in range(3):
        refused(links)
    assert (certificates._issued.cache_info().currsize, certificates._root.cache_info().currsize) == kept


def test_what_is_remembered_is_bounded() -> None:
    for cache in (certificates._issued, certificates._root):
        assert cache.cache_info().maxsize == 512


@given(st.integers(1, 4), st.data())
def test_no_bit_of_a_certificate_can_be_changed(place: int, data: st.DataObject) -> None:
    encoded = bytearray(GOOD[place].der)
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= 1 << data.draw(st.integers(0, 7))
    changed = Issued("changed", GOOD[place].key, bytes(encoded))
    refused([*GOOD[:place], changed, *GOOD[place + 1 :]])


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_certificate(data: bytes) -> None:
    garbage = Issued("garbage", ROOT.key, data)
    refused([ROOT, garbage])
    # Pinned, it is read, and refused all the same.
    refused([garbage, GOOD[1]])


@given(st.data())
def test_a_pinned_root_that_is_damaged_raises_nothing_else(data: st.DataObject) -> None:
    encoded = bytearray(ROOT.der)
    encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    damaged = Issued("damaged", ROOT.key, bytes(encoded))
    try:
        verify([damaged, *GOOD[1:]])
    except InvalidAttestation:
        return
    assert certificates._root(damaged.der).public_key == ROOT.key.public_key()


def resigned(to_be_signed: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """A certificate whose signed part is given, signed anew."""
    signature = key.sign(to_be_signed, ec.ECDSA(SHA384()))
    bits = b"\x03" + bytes([len(signature) + 1]) + b"\x00" + signature
    inside = to_be_signed + bytes.fromhex("300a06082a8648ce3d040303") + bits
    return b"\x30\x82" + len(inside).to_bytes(2, "big") + inside


def patched(old: bytes, new: bytes) -> Issued:
    """A leaf below the root, of which some bytes are other (as many) before it is signed."""
    made = builder("leaf", "root", GOOD[-1].key.public_key(), (946_684_800, NOW + DAY))
    made = made.add_extension(x509.BasicConstraints(False, None), critical=True)
    body = made.sign(ROOT.key, SHA384()).tbs_certificate_bytes
    assert body.count(old) == 1
    assert len(old) == len(new)
    return Issued("leaf", GOOD[-1].key, resigned(body.replace(old, new), ROOT.key))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"000101000000Z", b"000101000000Z", None),
        (b"000101000000Z", b"500101000000Z", None),
        (b"000101000000Z", b"000230000000Z", "Validity::not_before"),
        (b"000101000000Z", b"000101000060Z", "Validity::not_before"),
        (b"000101000000Z", b"0001010000+0Z", "Validity::not_before"),
        (b"000101000000Z", b"0001010000000", "Validity::not_before"),
        (b"\x17\x0d000101", b"\x13\x0d000101", "UnexpectedTag"),
        (bytes.fromhex("a003020102"), bytes.fromhex("a003020101"), "is not a valid X509 version"),
        (
            bytes.fromhex("06082a8648ce3d040303"),
            bytes.fromhex("06082a8648ce3d040304"),
            "signature algorithms do not match",
        ),
        (bytes.fromhex("2b81040022"), bytes.fromhex("2b81040021"), "Invalid key"),
        (
            bytes.fromhex("0603551d13"),
            bytes.fromhex("0603551d12"),
            "critical extension unknown here, OID 2.5.29.18",
        ),
        (
            bytes.fromhex("0603551d130101ff"),
            bytes.fromhex("0603551d13010101"),
            "Extension::critical",
        ),
        (bytes.fromhex("0603551d13"), bytes.fromhex("0403551d13"), "UnexpectedTag"),
        (bytes.fromhex("04023000"), bytes.fromhex("04020500"), "UnexpectedTag"),
    ],
)
def test_what_a_trusted_issuer_signed_is_still_read_strictly(
    old: bytes, new: bytes, reason: str | None
) -> None:
    link = patched(old, new)
    if reason is None:
        year = 1950 if new[:2] == b"50" else 2000
        assert verify([ROOT, link]).not_before == (year - 1970) * 365 * DAY + (year - 1969) // 4 * DAY
    else:
        assert reason in refused([ROOT, link])


def test_far_times_are_read_too() -> None:
    ends = 4_102_444_800  # 2100, which a UTCTime cannot say
    assert verify([ROOT, issue("leaf", ROOT, authority=False, window=(NOW, ends))]).not_after == ends


def test_no_extension_stands_twice() -> None:
    extension = bytes.fromhex("06032a030404017830")
    made = builder("leaf", "root", GOOD[-1].key.public_key())
    for last in (4, 5):
        other = x509.ObjectIdentifier(f"1.2.3.{last}")
        made = made.add_extension(x509.UnrecognizedExtension(other, b"x0"), critical=False)
    body = made.sign(ROOT.key, SHA384()).tbs_certificate_bytes
    twice = body.replace(bytes.fromhex("06032a0305"), bytes.fromhex("06032a0304"))
    assert extension[:5] in body
    assert "Duplicate 1.2.3.4 extension" in refused(
        [ROOT, Issued("leaf", GOOD[-1].key, resigned(twice, ROOT.key))]
    )


def rsa_root(bits: int) -> tuple[rsa.RSAPrivateKey, bytes]:
    key = rsa.generate_private_key(65537, bits)
    made = builder("root", "root", key.public_key()).add_extension(x509.BasicConstraints(True, None), True)
    pss = padding.PSS(padding.MGF1(SHA384()), 48)
    return key, made.sign(key, SHA384(), rsa_padding=pss).public_bytes(Encoding.DER)


def test_rsa_keys_below_4096_bits_are_refused() -> None:
    key, root = rsa_root(2048)
    leaf = builder("leaf", "root", GOOD[-1].key.public_key()).add_extension(
        x509.BasicConstraints(False, None), True
    )
    pss = padding.PSS(padding.MGF1(SHA384()), 48)
    encoded = leaf.sign(key, SHA384(), rsa_padding=pss).public_bytes(Encoding.DER)
    fingerprint = hashlib.sha256(root).hexdigest()
    with pytest.raises(InvalidAttestation, match="by a key of 4096 bits or more"):
        verify_chain([root, encoded], roots=[fingerprint], at=NOW, scheme=RSA_PSS)
    with pytest.raises(InvalidAttestation, match="is not signed with ECDSA on P-384"):
        verify_chain([root, encoded], roots=[fingerprint], at=NOW, scheme=ECDSA_P384)
    with pytest.raises(InvalidAttestation, match="is not signed with RSASSA-PSS"):
        verify_chain([ROOT.der, GOOD[1].der], roots=[ROOT.fingerprint], at=NOW, scheme=RSA_PSS)


def test_pem_is_what_cryptography_writes_and_reads() -> None:
    texts = [to_pem(each.der) for each in GOOD]
    for each, text in zip(GOOD, texts, strict=True):
        assert x509.load_der_x509_certificate(each.der).public_bytes(Encoding.PEM).decode() == text
    assert from_pem("".join(texts)) == [each.der for each in GOOD]
    assert from_pem("\n".join(texts).replace("\n", "\r\n")) == [each.der for each in GOOD]
    assert from_pem("") == []


@pytest.mark.parametrize(
    "text",
    [
        "hello",
        to_pem(b"abc") + "hello",
        "hello" + to_pem(b"abc"),
        to_pem(b"abc").replace("END", "BEGIN"),
        to_pem(b"abc").replace("YWJj", "YWJ"),
        to_pem(b"abc").replace("YWJj", "YW=j"),
        to_pem(b"abc").replace("YWJj", "YW-j"),
        to_pem(b"abc").replace("CERTIFICATE", "PRIVATE KEY"),
    ],
)
def test_what_is_no_certificate_in_pem_is_refused(text: str) -> None:
    with pytest.raises(InvalidAttestation, match="PEM"):
        from_pem(text)


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=4))
def test_pem_round_trip(ders: list[bytes]) -> None:
    assert from_pem("".join(to_pem(each) for each in ders)) == ders


@given(st.text(max_size=80))
def test_arbitrary_text_is_no_pem_and_raises_nothing_else(text: str) -> None:
    with pytest.raises(InvalidAttestation):
        from_pem(to_pem(b"x") + "-" + text)
