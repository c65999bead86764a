"""COSE_Sign1 with ES384 (RFC 9052, section 4.2; RFC 9053, section 2.1), in the one form that Nitro's security module writes."""

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import cbor2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from aos_protocol.attestation.foreign import printable
from aos_protocol.errors import InvalidAttestation

PROTECTED: Final = cbor2.dumps({1: -35})
"""The protected header: the algorithm, ES384, and nothing else."""

_TAG: Final = b"\xd2"
_DEPTH: Final = 3
_COORDINATE: Final = 48


@dataclass(frozen=True)
class Sign1:
    """A parsed COSE_Sign1: its payload, and the signature r ‖ s (96 bytes)."""

    payload: bytes
    signature: bytes


class _NoTags(Mapping[int, Callable[[Any, bool], Any]]):
    """Decoders for each tag there is, all of which refuse: tags would make dates, fractions and patterns, at a cost."""

    def __getitem__(self, tag: int) -> Callable[[Any, bool], NoReturn]:
        return self._refuse

    def __iter__(self) -> Iterator[int]:
        return iter(())

    def __len__(self) -> int:
        return 1

    @staticmethod
    def _refuse(_decoder: object, _immutable: bool) -> NoReturn:
        raise ValueError("tags have no place here")


def decode(data: bytes, what: str) -> object:
    """Return the one CBOR item that `data` is: no tags, no key twice, at most three containers deep, nothing after it.

    Lengths of any form are read, definite or not. What is announced and missing is not allocated. Raises `InvalidAttestation`.
    """
    decoder = cbor2.CBORDecoder(
        io.BytesIO(data), semantic_decoders=_NoTags(), max_depth=_DEPTH, allow_duplicate_keys=False
    )
    try:
        item: object = decoder.decode()
    except cbor2.CBORDecodeError as error:
        raise InvalidAttestation(f"{what} is not the CBOR it must be: {printable(error)}") from None
    try:
        decoder.read(1)
    except cbor2.CBORDecodeEOF:
        return item
    raise InvalidAttestation(f"{what} has further bytes after its end")


def parse(document: bytes) -> Sign1:
    """Read a COSE_Sign1, with tag 18 or without, whose encoding is the shortest and definite. Raises `InvalidAttestation`."""
    body = document.removeprefix(_TAG)
    fields = decode(body, "the document")
    if not isinstance(fields, list) or len(fields) != 4:
        raise InvalidAttestation("the document is no COSE_Sign1: it is not an array of four")
    protected, unprotected, payload, signature = fields
    if protected != PROTECTED:
        said = protected.hex()[:80] if isinstance(protected, bytes) else "no byte string"
        raise InvalidAttestation(
            f"the protected header is {said}, not {PROTECTED.hex()}, which is ES384 alone"
        )
    if unprotected != {}:
        raise InvalidAttestation("the unprotected header is not an empty map")
    if not isinstance(payload, bytes):
        raise InvalidAttestation("the payload is no byte string")
    if not isinstance(signature, bytes) or len(signature) != 2 * _COORDINATE:
        raise InvalidAttestation(f"the signature is not {2 * _COORDINATE} bytes, as ES384's are")
    if cbor2.dumps([protected, {}, payload, signature]) != body:
        raise InvalidAttestation("the document is encoded otherwise than in the shortest, definite form")
    return Sign1(payload, signature)


def verify(signed: Sign1, key: ec.EllipticCurvePublicKey) -> None:
    """Verify the signature by a P-384 key. Raises `InvalidAttestation`.

    Of each valid signature (r, s) anybody can make the other, (r, n - s): no bytes or hash of a document are a key for uniqueness.
    """
    covered = cbor2.dumps(["Signature1", PROTECTED, b"", signed.payload])
    r, s = (
        int.from_bytes(part, "big")
        for part in (signed.signature[:_COORDINATE], signed.signature[_COORDINATE:])
    )
    try:
        key.verify(encode_dss_signature(r, s), covered, ec.ECDSA(SHA384()))
    except InvalidSignature:
        raise InvalidAttestation("the document's signature is not by the key of its certificate") from None
