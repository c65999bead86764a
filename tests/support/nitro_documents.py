"""Nitro documents under roots of our own: chains of P-384 certificates, and payloads, right or wrong in one chosen way.

root = issue("root")
leaf = issue("enclave", root, authority=False)
nitro.verify(document([root, leaf]), roots=[root.fingerprint], at=NOW)
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

NOW = 1_800_000_000
DAY = 86_400
PROTECTED = bytes.fromhex("a1013822")


@dataclass(frozen=True)
class Issued:
    """A certificate (DER) and the key that it certifies."""

    name: str
    key: ec.EllipticCurvePrivateKey
    der: bytes

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.der).hexdigest()


def name_of(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "AOS tests"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def key_usage(*, signs: bool, issues: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signs,
        key_cert_sign=issues,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def builder(
    subject: str,
    issuer: str,
    key: CertificatePublicKeyTypes,
    window: tuple[int, int] = (NOW - DAY, NOW + DAY),
) -> x509.CertificateBuilder:
    """A certificate without extensions, valid in a window of Unix seconds."""
    begins, ends = (datetime.fromtimestamp(each, UTC) for each in window)
    return (
        x509.CertificateBuilder()
        .subject_name(name_of(subject))
        .issuer_name(name_of(issuer))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
    )


def issue(
    subject: str,
    issuer: Issued | None = None,
    *,
    authority: bool | None = True,
    path_length: int | None = None,
    usage: x509.KeyUsage | None = None,
    window: tuple[int, int] = (NOW - DAY, NOW + DAY),
    named_issuer: str | None = None,
    curve: ec.EllipticCurve | None = None,
    algorithm: SHA256 | SHA384 | None = None,
    extra: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> Issued:
    """Issue a certificate, self-signed without an issuer; `authority` None leaves the basic constraints out."""
    key = ec.generate_private_key(curve or ec.SECP384R1())
    made = builder(subject, named_issuer or (issuer.name if issuer else subject), key.public_key(), window)
    if authority is not None:
        made = made.add_extension(x509.BasicConstraints(authority, path_length), critical=True)
    for value, critical in [*([(usage, True)] if usage else []), *extra]:
        made = made.add_extension(value, critical)
    certificate = made.sign(issuer.key if issuer else key, algorithm or SHA384())
    return Issued(subject, key, certificate.public_bytes(Encoding.DER))


def chain(depth: int = 3) -> list[Issued]:
    """A good chain of so many certificates, root first."""
    made = [issue("root")]
    for level in range(1, depth - 1):
        made.append(issue(f"level {level}", made[-1], path_length=depth - 2 - level))
    return [*made, issue("enclave", made[-1], authority=False, usage=key_usage(signs=True, issues=False))]


def payload(certificates: Sequence[Issued], changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a document says, with changes; a field changed to `...` is left out."""
    fields: dict[str, Any] = {
        "module_id": "test-enclave",
        "digest": "SHA384",
        "timestamp": NOW * 1000,
        "pcrs": {index: bytes([index + 1]) * 48 for index in range(16)},
        "certificate": certificates[-1].der,
        "cabundle": [each.der for each in certificates[:-1]],
        "public_key": None,
        "user_data": b"\x11" * 32,
        "nonce": b"\x22" * 32,
    }
    fields |= changes or {}
    return {name: value for name, value in fields.items() if value is not ...}


def sign(encoded: bytes, key: ec.EllipticCurvePrivateKey, protected: bytes = PROTECTED) -> bytes:
    """The COSE signature r ‖ s over a payload."""
    covered = cbor2.dumps(["Signature1", protected, b"", encoded])
    r, s = decode_dss_signature(key.sign(covered, ec.ECDSA(SHA384())))
    return r.to_bytes(48, "big") + s.to_bytes(48, "big")


def seal(encoded: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """A COSE_Sign1 of a payload, however that is encoded."""
    return cbor2.dumps([PROTECTED, {}, encoded, sign(encoded, key)])


def document(certificates: Sequence[Issued], changes: Mapping[str, Any] | None = None) -> bytes:
    """A whole document, signed by the last of the certificates, which stand root first."""
    return seal(cbor2.dumps(payload(certificates, changes)), certificates[-1].key)
