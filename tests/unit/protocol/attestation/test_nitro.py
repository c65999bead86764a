"""Nitro documents: what hardware made, what was tampered with, and what our own roots sign."""

import hashlib
import json
import resource
from datetime import datetime
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_protocol.attestation import nitro
from aos_protocol.attestation.certificates import from_pem
from aos_protocol.attestation.policy import NITRO_ROOT_G1
from aos_protocol.errors import InvalidAttestation
from support.nitro_documents import NOW, PROTECTED, chain, document, payload, seal, sign

VALID = [
    "anjuna_prod_20210324_pubkey.bin",
    "anjuna_debug_20240124_full.bin",
    "veracruz_prod_20221109_ud_nonce.bin",
    "evervault_prod_20221013_pcr8.bin",
    "sparsity_debug_20240816.bin",
    "distributedlab_debug_20250818.bin",
    "dstack_prod_20251225.bin",
    "base_prod_20260103_repaired.bin",
]
MALLEATED = "variant_signature_malleated_valid.bin"
NOT_SIGNED = "the document's signature is not by the key of its certificate"
INVALID = {
    "veracruz_badsig_20221109.bin": NOT_SIGNED,
    "base_malformed_20260103_as_published.bin": "the document is not the CBOR it must be",
    "tampered_pcr0_bit.bin": NOT_SIGNED,
    "tampered_nonce_bit.bin": NOT_SIGNED,
    "tampered_signature_zero.bin": NOT_SIGNED,
    "tampered_alg_es256.bin": "the protected header is a10126, not a1013822, which is ES384",
    "tampered_truncated.bin": "premature end of stream",
    "tampered_cabundle_without_root.bin": "begins with a certificate that is no trusted root",
    "tampered_timestamp_plus_1y.bin": NOT_SIGNED,
    "fake_leaf_selfsigned.bin": "below aws.nitro-enclaves does not bear that one's signature",
}
P384_ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16
)
CHAIN = chain()
ROOTS = [CHAIN[0].fingerprint]

Entry = dict[str, Any]


@pytest.fixture(scope="module")
def entries(vectors: Path) -> dict[str, Entry]:
    manifest = json.loads((vectors / "nitro" / "manifest.json").read_text())
    return {entry["file"]: entry for entry in manifest["documents"]}


def own_time(entries: dict[str, Entry], name: str) -> int:
    """When a document was made, by the manifest; of a tampered one, when what it was made from was."""
    entry = entries[name]
    parent = entry["origin"].get("derived_from")
    fallback = parent or "base_prod_20260103_repaired.bin"
    said: int = entry.get("timestamp_ms") or entries[fallback]["timestamp_ms"]
    return said // 1000


def read(vectors: Path, name: str) -> bytes:
    return (vectors / "nitro" / name).read_bytes()


def refused(encoded: bytes, at: int = NOW, roots: list[str] | None = None) -> str:
    with pytest.raises(InvalidAttestation) as caught:
        nitro.verify(encoded, roots=ROOTS if roots is None else roots, at=at)
    return str(caught.value)


def test_every_published_document_has_its_place_here(entries: dict[str, Entry]) -> None:
    assert {*VALID, MALLEATED, *INVALID} == entries.keys()
    for name, entry in entries.items():
        assert entry["expected"].startswith("INVALID") == (name in INVALID)


@pytest.mark.parametrize("name", VALID)
def test_real_documents_say_what_the_manifest_says(
    name: str, entries: dict[str, Entry], vectors: Path
) -> None:
    entry = entries[name]
    said = nitro.verify(read(vectors, name), roots=[NITRO_ROOT_G1], at=own_time(entries, name))
    assert said.module_id == entry["module_id"]
    assert said.timestamp_ms == entry["timestamp_ms"]
    assert {str(index): value.hex() for index, value in said.pcrs.items()} == entry["pcrs"]
    for field in ("user_data", "nonce", "public_key"):
        value = getattr(said, field)
        assert (value.hex() if value is not None else None) == entry[field]
    assert said.debug == entry["debug_mode_pcr012_all_zero"]


@pytest.mark.parametrize("name", INVALID)
def test_bad_documents_are_refused_with_what_is_wrong(
    name: str, entries: dict[str, Entry], vectors: Path
) -> None:
    assert INVALID[name] in refused(read(vectors, name), own_time(entries, name), [NITRO_ROOT_G1])


def test_a_timestamp_moved_by_a_year_is_past_the_chain(entries: dict[str, Entry], vectors: Path) -> None:
    at = own_time(entries, "tampered_timestamp_plus_1y.bin") + 365 * 86_400
    said = refused(read(vectors, "tampered_timestamp_plus_1y.bin"), at, [NITRO_ROOT_G1])
    assert "certificate 2 of 5 (80c9fe850e6c24c9.eu-west-1.aws.nitro-enclaves) has expired" in said


@pytest.mark.parametrize("name", VALID)
def test_documents_hold_within_the_joint_window_of_their_chain_only(
    name: str, entries: dict[str, Entry], vectors: Path
) -> None:
    entry, encoded = entries[name], read(vectors, name)
    begins, ends = (
        int(datetime.fromisoformat(entry[field]).timestamp())
        for field in ("chain_valid_from", "chain_valid_to")
    )
    for at in (begins, ends):
        assert nitro.verify(encoded, roots=[NITRO_ROOT_G1], at=at).module_id == entry["module_id"]
    # The chain is remembered by now; its windows are looked at all the same.
    assert "is not valid yet" in refused(encoded, begins - 1, [NITRO_ROOT_G1])
    assert "has expired" in refused(encoded, ends + 1, [NITRO_ROOT_G1])
    for at in (-(2**62), 0, 2**62):
        refused(encoded, at, [NITRO_ROOT_G1])


def test_the_other_valid_signature_is_accepted_too(entries: dict[str, Entry], vectors: Path) -> None:
    original, other = read(vectors, "dstack_prod_20251225.bin"), read(vectors, MALLEATED)
    at = own_time(entries, MALLEATED)
    assert original != other
    said = [nitro.verify(each, roots=[NITRO_ROOT_G1], at=at) for each in (original, other)]
    assert said[0] == said[1]


def test_the_real_root_is_the_pinned_one(vectors: Path) -> None:
    (root,) = from_pem((vectors / "nitro" / "aws_nitro_root_g1.pem").read_text())
    assert hashlib.sha256(root).hexdigest() == NITRO_ROOT_G1


def test_documents_of_ones_own_root_verify_under_it_alone() -> None:
    encoded = document(CHAIN)
    said = nitro.verify(encoded, roots=ROOTS, at=NOW)
    assert (said.user_data, said.nonce, said.public_key) == (b"\x11" * 32, b"\x22" * 32, None)
    assert not said.debug
    assert "no trusted root" in refused(encoded, roots=[])
    assert "no trusted root" in refused(encoded, roots=[NITRO_ROOT_G1])
    assert "no trusted root" in refused(encoded, roots=[CHAIN[1].fingerprint])


def test_tag_18_may_stand_before_a_document_once() -> None:
    encoded = document(CHAIN)
    assert nitro.verify(b"\xd2" + encoded, roots=ROOTS, at=NOW) == nitro.verify(encoded, roots=ROOTS, at=NOW)
    assert "tag 18" in refused(b"\xd2\xd2" + encoded)
    assert "tag 17" in refused(b"\xd1" + encoded)


def test_the_payload_may_have_an_indefinite_length() -> None:
    definite = cbor2.dumps(payload(CHAIN))
    indefinite = b"\xbf" + definite[1:] + b"\xff"
    assert definite[0] == 0xA9
    said = nitro.verify(seal(indefinite, CHAIN[-1].key), roots=ROOTS, at=NOW)
    assert said == nitro.verify(seal(definite, CHAIN[-1].key), roots=ROOTS, at=NOW)


def outer(*, protected: Any = PROTECTED, unprotected: Any = None, signature: Any = None) -> list[Any]:
    encoded = cbor2.dumps(payload(CHAIN))
    good = sign(encoded, CHAIN[-1].key, protected if isinstance(protected, bytes) else PROTECTED)
    return [
        protected,
        {} if unprotected is None else unprotected,
        encoded,
        good if signature is None else signature,
    ]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (outer()[:3], "not an array of four"),
        ([*outer(), b""], "not an array of four"),
        ({}, "not an array of four"),
        (outer(protected={1: -35}), "the protected header is no byte string"),
        (outer(protected=b""), "the protected header is ,"),
        (outer(protected=cbor2.dumps({1: -7})), "the protected header is a10126"),
        (outer(protected=cbor2.dumps({1: -35, 4: b"k"})), "the protected header is a2"),
        (outer(protected=b"\xbf\x01\x38\x22\xff"), "the protected header is bf"),
        (outer(unprotected={4: b"key"}), "the unprotected header is not an empty map"),
        (outer(unprotected=[]), "the unprotected header is not an empty map"),
        ([*outer()[:2], None, outer()[3]], "the payload is no byte string"),
        (outer(signature=b"\x01" * 95), "the signature is not 96 bytes"),
        (outer(signature=b"\x01" * 97), "the signature is not 96 bytes"),
        (outer(signature="1" * 96), "the signature is not 96 bytes"),
        (outer(signature=bytes(96)), NOT_SIGNED),
        (outer(signature=b"\xff" * 96), NOT_SIGNED),
    ],
)
def test_only_the_one_outer_form_is_read(fields: Any, reason: str) -> None:
    assert reason in refused(cbor2.dumps(fields))


def test_other_encodings_of_the_same_document_are_refused() -> None:
    encoded = document(CHAIN)
    size = int.from_bytes(encoded[8:10], "big")
    head, rest = encoded[:7], encoded[10:]
    assert encoded[7] == 0x59
    one_form = "encoded otherwise than in the shortest, definite form"
    assert one_form in refused(head + b"\x5a" + size.to_bytes(4, "big") + rest)
    assert one_form in refused(b"\x9f" + encoded[1:] + b"\xff")
    assert one_form in refused(b"\x98\x04" + encoded[1:])
    assert one_form in refused(encoded[:1] + b"\x5f" + encoded[1:6] + b"\xff" + encoded[6:])
    assert "further bytes after its end" in refused(encoded + b"\x00")
    assert "further bytes after its end" in refused(encoded + encoded)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"module_id": ...}, "the payload lacks module_id"),
        ({"pcrs": ..., "cabundle": ...}, "the payload lacks cabundle, pcrs"),
        ({"module_id": ""}, "module_id is no text, or empty"),
        ({"module_id": b"x"}, "module_id is no text"),
        ({"digest": "SHA256"}, "digest is not SHA384"),
        ({"digest": None}, "digest is not SHA384"),
        ({"timestamp": 0}, "timestamp is not a positive whole number"),
        ({"timestamp": -1}, "timestamp is not a positive whole number"),
        ({"timestamp": True}, "timestamp is not a positive whole number"),
        ({"timestamp": 1.8e12}, "timestamp is not a positive whole number"),
        ({"timestamp": 2**64}, "the payload is not the CBOR it must be"),
        ({"pcrs": {}}, "pcrs is not a map of 1 to 32 registers"),
        ({"pcrs": [b"\x00" * 48]}, "pcrs is not a map of 1 to 32 registers"),
        ({"pcrs": {32: b"\x00" * 48}}, "a register that is not one of 0 to 31: 32"),
        ({"pcrs": {-1: b"\x00" * 48}}, "a register that is not one of 0 to 31: -1"),
        ({"pcrs": {"0": b"\x00" * 48}}, "a register that is not one of 0 to 31: 0"),
        ({"pcrs": {True: b"\x00" * 48}}, "a register that is not one of 0 to 31: True"),
        ({"pcrs": {0: b"\x00" * 32}}, "PCR0 is not 48 bytes"),
        ({"pcrs": {4: "0" * 48}}, "PCR4 is not 48 bytes"),
        ({"certificate": b""}, "a certificate is not a byte string of 1 to 1024 bytes"),
        ({"certificate": b"x" * 1025}, "a certificate is not a byte string of 1 to 1024 bytes"),
        ({"certificate": "x"}, "a certificate is not a byte string"),
        ({"cabundle": []}, "cabundle is not an array of 1 to 8 certificates"),
        ({"cabundle": [CHAIN[0].der] * 9}, "cabundle is not an array of 1 to 8 certificates"),
        ({"cabundle": CHAIN[0].der}, "cabundle is not an array of 1 to 8 certificates"),
        ({"cabundle": [CHAIN[0].der, 7]}, "a certificate is not a byte string"),
        ({"public_key": b""}, "public_key is not a byte string of 1 to 1024 bytes"),
        ({"public_key": b"k" * 1025}, "public_key is not a byte string of 1 to 1024 bytes"),
        ({"user_data": b"d" * 513}, "user_data is not a byte string of 0 to 512 bytes"),
        ({"nonce": b"n" * 513}, "nonce is not a byte string of 0 to 512 bytes"),
        ({"nonce": "text"}, "nonce is not a byte string"),
        ({"comment": "hello"}, "fields unknown here: comment"),
        ({"\x1b[2J": 1}, r"fields unknown here: \x1b[2J"),
        ({"nonce": cbor2.CBORTag(24, b"n")}, "error decoding semantic tag 24"),
        ({"nonce": [[[b"n"]]]}, "maximum container nesting depth"),
    ],
)
def test_payloads_are_read_as_documented_and_no_further(changes: dict[str, Any], reason: str) -> None:
    assert reason in refused(document(CHAIN, changes))


def test_optional_fields_may_be_absent_null_or_as_long_as_is_allowed() -> None:
    longest = {"public_key": b"k" * 1024, "user_data": b"d" * 512, "nonce": b"n" * 512}
    for changes in (dict.fromkeys(longest, ...), dict.fromkeys(longest), longest):
        said = nitro.verify(document(CHAIN, changes), roots=ROOTS, at=NOW)
        wanted = changes if changes == longest else dict.fromkeys(longest)
        assert {name: getattr(said, name) for name in longest} == wanted


def test_a_payload_that_is_no_map_or_has_a_key_twice_is_refused() -> None:
    key = CHAIN[-1].key
    good = cbor2.dumps(payload(CHAIN))
    nonce = cbor2.dumps("nonce") + cbor2.dumps(b"\x33" * 32)
    assert "Duplicate map key" in refused(seal(b"\xaa" + good[1:] + nonce, key))
    assert "the payload is no map" in refused(seal(cbor2.dumps([1]), key))
    assert "the payload has further bytes after its end" in refused(seal(good + b"\x00", key))
    assert "the payload is not the CBOR it must be" in refused(seal(b"", key))


def test_debug_means_that_the_first_three_registers_are_zero() -> None:
    zero, some = bytes(48), b"\x01" * 48
    for pcrs, debug in (
        ({0: zero, 1: zero, 2: zero, 3: some}, True),
        ({0: zero, 1: zero, 2: some}, False),
        ({3: some}, True),
    ):
        assert nitro.verify(document(CHAIN, {"pcrs": pcrs}), roots=ROOTS, at=NOW).debug is debug


def test_a_document_is_signed_by_the_key_of_its_own_certificate() -> None:
    other = chain()
    encoded = cbor2.dumps(payload(CHAIN))
    assert refused(seal(encoded, other[-1].key)) == NOT_SIGNED
    assert refused(seal(encoded, CHAIN[1].key)) == NOT_SIGNED


def test_what_is_too_long_is_not_even_parsed() -> None:
    assert "the document has 16385 bytes, and 16384 are allowed" in refused(b"\xff" * 16_385)


@pytest.mark.parametrize("major", [0x40, 0x60, 0x80, 0xA0])
@pytest.mark.parametrize("length", [2**31, 2**40, 2**63, 2**64 - 1])
def test_a_huge_announced_length_is_refused_without_memory_for_it(major: int, length: int) -> None:
    lie = bytes([major | 27]) + length.to_bytes(8, "big")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for encoded in (lie, b"\x84" + lie, document(CHAIN)[:6] + lie, seal(b"\xa1\x61n" + lie, CHAIN[-1].key)):
        assert "is not the CBOR it must be" in refused(encoded)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


@pytest.mark.parametrize("opening", [b"\x81", b"\x9f", b"\xa1\x00", b"\xbf\x00", b"\xc6", b"\xd8\x1c\x81"])
def test_deep_nesting_is_refused(opening: bytes) -> None:
    assert "is not the CBOR it must be" in refused(opening * (16_000 // len(opening)))


@given(st.binary(max_size=300))
def test_arbitrary_bytes_raise_nothing_else(data: bytes) -> None:
    refused(data)
    refused(b"\x84" + data)
    refused(seal(data, CHAIN[-1].key))


PRIMITIVES = st.none() | st.booleans() | st.integers() | st.floats() | st.binary() | st.text()
THINGS = st.recursive(
    PRIMITIVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=6,
)
FIELDS = [*payload(CHAIN), "comment"]


@given(st.dictionaries(st.sampled_from(FIELDS), THINGS, min_size=1, max_size=3))
def test_whatever_stands_in_a_field_is_taken_as_documented_or_refused(changes: dict[str, Any]) -> None:
    try:
        said = nitro.verify(document(CHAIN, changes), roots=ROOTS, at=NOW)
    except InvalidAttestation:
        return
    for name, value in changes.items():
        kept = said.timestamp_ms if name == "timestamp" else getattr(said, name, value)
        assert kept == value
        assert name != "comment"


@given(
    pcrs=st.dictionaries(st.integers(0, 31), st.binary(min_size=48, max_size=48), min_size=1),
    user_data=st.none() | st.binary(max_size=512),
    nonce=st.none() | st.binary(max_size=512),
    public_key=st.none() | st.binary(min_size=1, max_size=1024),
    timestamp=st.integers(1, 2**64 - 1),
)
def test_what_is_signed_is_what_is_said(**changes: Any) -> None:
    said = nitro.verify(document(CHAIN, changes), roots=ROOTS, at=NOW)
    assert said.timestamp_ms == changes.pop("timestamp")
    assert {name: getattr(said, name) for name in changes} == changes


@given(st.data())
def test_no_bit_of_a_document_can_be_changed(data: st.DataObject) -> None:
    encoded = bytearray(document(CHAIN))
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= 1 << data.draw(st.integers(0, 7))
    refused(bytes(encoded))


def test_each_signature_has_one_other_and_no_more() -> None:
    encoded = document(CHAIN)
    s = int.from_bytes(encoded[-48:], "big")
    other = encoded[:-48] + (P384_ORDER - s).to_bytes(48, "big")
    assert nitro.verify(other, roots=ROOTS, at=NOW) == nitro.verify(encoded, roots=ROOTS, at=NOW)
    assert refused(encoded[:-48] + (s ^ 1).to_bytes(48, "big")) == NOT_SIGNED
