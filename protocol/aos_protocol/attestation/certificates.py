"""Chains of certificates from a pinned root to the one that signs an attestation (RFC 5280, section 6.1, as far as vendors use it).

`cryptography` reads certificates and verifies signatures. Its path builder is not used, since it wants what vendors leave out: AWS's
certificates have no key identifiers. Revocation is not looked up, since nothing here has I/O: AWS's chains live for hours to weeks,
and AMD's and Intel's states of a platform are in the report and its collateral.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.x509.oid import NameOID

from aos_protocol.attestation.foreign import printable
from aos_protocol.errors import InvalidAttestation

_KEPT: Final = 512
"""How many verified pairs of issuer and certificate are kept; an enclave's host adds about one a day, an enclave one every three hours."""

_UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What `cryptography` raises for what it cannot read, at once or when it is asked for it."""

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)
_UNDERSTOOD: Final = (x509.BasicConstraints, x509.KeyUsage)
_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----\s+([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----\s*")


@dataclass(frozen=True)
class Certificate:
    """What a certificate says; times are Unix seconds (both ends included), `usage` is None where it leaves it out."""

    common_name: str
    not_before: int
    not_after: int
    public_key: PublicKeyTypes
    authority: bool
    path_length: int | None
    usage: x509.KeyUsage | None
    extensions: x509.Extensions
    read: x509.Certificate


@dataclass(frozen=True)
class Scheme:
    """How the certificates of a vendor are signed, and whether one of them is, by a key of its issuer's."""

    name: str
    fits: Callable[[x509.Certificate, PublicKeyTypes], bool]


def p384(key: PublicKeyTypes) -> ec.EllipticCurvePublicKey:
    """Return the key as one on P-384. Raises `InvalidAttestation` when it is on another curve, or none."""
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise InvalidAttestation("its key is not on the curve P-384")
    return key


def _is_ecdsa(certificate: x509.Certificate, key: PublicKeyTypes) -> bool:
    signed = isinstance(certificate.signature_algorithm_parameters, ec.ECDSA)
    good = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)
    return signed and good and isinstance(certificate.signature_hash_algorithm, SHA384)


def _is_pss(certificate: x509.Certificate, key: PublicKeyTypes) -> bool:
    signed = isinstance(certificate.signature_algorithm_parameters, padding.PSS)
    good = isinstance(key, rsa.RSAPublicKey) and key.key_size >= 4096
    return signed and good and isinstance(certificate.signature_hash_algorithm, SHA384)


ECDSA_P384: Final = Scheme("ECDSA on P-384 with SHA-384 (RFC 5758)", _is_ecdsa)
RSA_PSS: Final = Scheme("RSASSA-PSS with SHA-384, by a key of 4096 bits or more (RFC 4055)", _is_pss)


def verify_chain(chain: Sequence[bytes], *, roots: Collection[str], at: int, scheme: Scheme) -> Certificate:
    """Return the last certificate of a chain of DER, root first, verified for `at` (Unix seconds).

    1. The first is a root: its SHA-256 (hex) is in `roots`.  2. Each other is issued by the one before: name and signature.  3. Each is within
    its window at `at`.  4. All but the last may issue certificates, and that many more; the last may not, and may sign.  Steps 1 and
    2 are remembered by DER, so that a further document under the same chain costs its own signature only. Raises `InvalidAttestation`.
    """
    fingerprint = hashlib.sha256(chain[0]).hexdigest()
    if fingerprint not in roots:
        raise InvalidAttestation(
            f"its chain begins with a certificate that is no trusted root: {fingerprint}"
        )
    certificate = _root(chain[0])
    for place, encoded in enumerate(chain):
        if place:
            certificate = _issued(chain[place - 1], encoded, scheme)
        said = f"certificate {place + 1} of {len(chain)} ({certificate.common_name})"
        _check_window(certificate, at, said)
        if place == len(chain) - 1:
            _check_leaf(certificate, said)
        else:
            _check_authority(certificate, len(chain) - place - 2, said)
    return certificate


def to_pem(encoded: bytes) -> str:
    """Return a certificate's one PEM form: lines of 64, each with a newline (RFC 7468, section 3)."""
    text = base64.b64encode(encoded).decode()
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])


def from_pem(text: str) -> list[bytes]:
    """Return the DER of each certificate in a PEM text that holds nothing else. Raises `InvalidAttestation`."""
    found: list[bytes] = []
    rest = text.lstrip()
    while rest:
        block = _PEM.match(rest)
        if block is None:
            raise InvalidAttestation(
                "something that is no certificate stands where certificates in PEM must be"
            )
        try:
            found.append(base64.b64decode("".join(block[1].split()), validate=True))
        except ValueError as error:
            raise InvalidAttestation(f"a certificate in PEM is not base64: {printable(error)}") from None
        rest = rest[block.end() :]
    return found


@lru_cache(maxsize=_KEPT)
def _root(encoded: bytes) -> Certificate:
    return _said(_read(encoded))


@lru_cache(maxsize=_KEPT)
def _issued(issuer: bytes, encoded: bytes, scheme: Scheme) -> Certificate:
    """Verify a certificate by its issuer's, which is verified already; only what holds is remembered."""
    signer, certificate = _said(_read(issuer)), _read(encoded)
    said = f"the certificate below {signer.common_name}"
    try:
        if not scheme.fits(certificate, signer.read.public_key()):
            raise InvalidAttestation(f"{said} is not signed with {scheme.name}")
        if certificate.issuer != signer.read.subject:
            raise InvalidAttestation(f"{said} names another issuer")
        certificate.verify_directly_issued_by(signer.read)
    except InvalidSignature:
        raise InvalidAttestation(f"{said} does not bear that one's signature") from None
    except _UNREADABLE as error:
        raise InvalidAttestation(f"{said} cannot be verified: {printable(error)}") from None
    return _said(certificate)


def _read(encoded: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(encoded)
    except _UNREADABLE as error:
        raise InvalidAttestation(f"a certificate cannot be read: {printable(error)}") from None


def _said(certificate: x509.Certificate) -> Certificate:
    """Read all that is looked at later; what is critical must be understood (RFC 5280, section 4.2)."""
    try:
        extensions = certificate.extensions
        unknown = [each for each in extensions if each.critical and not isinstance(each.value, _UNDERSTOOD)]
        if unknown:
            oid = unknown[0].oid.dotted_string
            raise InvalidAttestation(f"a certificate has a critical extension unknown here, OID {oid}")
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        constraints = _extension(extensions, x509.BasicConstraints)
        return Certificate(
            common_name=printable(names[0].value) if names else "without a common name",
            not_before=int(certificate.not_valid_before_utc.timestamp()),
            not_after=int(certificate.not_valid_after_utc.timestamp()),
            public_key=certificate.public_key(),
            authority=constraints is not None and constraints.ca,
            path_length=constraints.path_length if constraints is not None else None,
            usage=_extension(extensions, x509.KeyUsage),
            extensions=extensions,
            read=certificate,
        )
    except _UNREADABLE as error:
        raise InvalidAttestation(f"a certificate cannot be read: {printable(error)}") from None


def _extension(extensions: x509.Extensions, kind: type[_Extension]) -> _Extension | None:

    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _check_window(certificate: Certificate, at: int, said: str) -> None:
    if at < certificate.not_before:
        begins = datetime.fromtimestamp(certificate.not_before, UTC)
        raise InvalidAttestation(
            f"{said} is not valid yet at {at}: it begins at {begins:%Y-%m-%d %H:%M:%S} UTC"
        )
    if at > certificate.not_after:
        ended = datetime.fromtimestamp(certificate.not_after, UTC)
        raise InvalidAttestation(f"{said} has expired at {at}: it ended at {ended:%Y-%m-%d %H:%M:%S} UTC")


def _check_authority(certificate: Certificate, below: int, said: str) -> None:
    """Check a certificate that issues others; `below` is how many of these issue yet others."""
    if not certificate.authority:
        raise InvalidAttestation(f"{said} is no certificate authority, yet issues the next")
    if certificate.path_length is not None and below > certificate.path_length:
        raise InvalidAttestation(
            f"{said} allows {certificate.path_length} authorities below it, and there are {below}"
        )
    if certificate.usage is not None and not certificate.usage.key_cert_sign:
        raise InvalidAttestation(f"{said} has a key usage without certificate signing")


def _check_leaf(certificate: Certificate, said: str) -> None:
    if certificate.authority:
        raise InvalidAttestation(f"{said} is a certificate authority, and must only sign documents")
    if certificate.usage is not None and not certificate.usage.digital_signature:
        raise InvalidAttestation(f"{said} has a key usage without digital signatures")
