"""Chains of certificates from a pinned root to the one that signs an attestation (RFC 5280, section 6.1, as far as vendors use it).

A certificate is read only after its issuer's signature holds. Revocation is not looked up, since nothing here has I/O: AWS's chains live
for hours to weeks, and AMD's and Intel's states of a platform are in the report and its collateral.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import load_der_public_key

from aos_protocol.attestation import der
from aos_protocol.attestation.foreign import printable
from aos_protocol.errors import InvalidAttestation

_KEPT: Final = 512
"""How many verified pairs of issuer and certificate are kept; an enclave's host adds about one a day, an enclave one every three hours."""

_COMMON_NAME: Final = bytes.fromhex("550403")
_BASIC_CONSTRAINTS: Final = bytes.fromhex("551d13")
_KEY_USAGE: Final = bytes.fromhex("551d0f")
_DIGITAL_SIGNATURE: Final = 0x80
_KEY_CERT_SIGN: Final = 0x04
_TO_BE_SIGNED: Final = (0xA0, der.INTEGER, *[der.SEQUENCE] * 5, 0xA3)
"""Version, serial number, algorithm, issuer, validity, subject, key, extensions: what every version 3 certificate of a vendor has."""

_EXTENSION: Final = ([der.OBJECT, der.OCTET_STRING], [der.OBJECT, der.BOOLEAN, der.OCTET_STRING])
_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----\s+([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----\s*")


@dataclass(frozen=True)
class Certificate:
    """What a certificate says; times are Unix seconds (both ends included), names DER, `extensions` by the content of their OID."""

    common_name: str
    issuer: bytes
    subject: bytes
    not_before: int
    not_after: int
    public_key: PublicKeyTypes
    authority: bool
    path_length: int | None
    key_usage: int | None
    extensions: Mapping[bytes, bytes]


@dataclass(frozen=True)
class Scheme:
    """How the certificates of a vendor are signed: the AlgorithmIdentifiers (DER) that may stand in them, and their check."""

    name: str
    algorithms: frozenset[bytes]
    verify: Callable[[PublicKeyTypes, bytes, bytes], None]


def p384(key: PublicKeyTypes) -> ec.EllipticCurvePublicKey:
    """Return the key as one on P-384. Raises `InvalidAttestation` when it is on another curve, or none."""
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise InvalidAttestation("its key is not on the curve P-384")
    return key


def _verify_ecdsa(key: PublicKeyTypes, signature: bytes, data: bytes) -> None:
    p384(key).verify(signature, data, ec.ECDSA(SHA384()))


def _verify_pss(key: PublicKeyTypes, signature: bytes, data: bytes) -> None:
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size < 4096:
        raise InvalidAttestation("its key is not an RSA key of 4096 bits")
    key.verify(signature, data, padding.PSS(padding.MGF1(SHA384()), 48), SHA384())


_SHA384_PSS: Final = "300d06096086480165030402020500"
_PSS: Final = f"a00f{_SHA384_PSS}a11c301a06092a864886f70d010108{_SHA384_PSS}a203020130"
ECDSA_P384: Final = Scheme(
    "ECDSA on P-384 with SHA-384 (RFC 5758)",
    frozenset({bytes.fromhex("300a06082a8648ce3d040303")}),
    _verify_ecdsa,
)
RSA_PSS: Final = Scheme(
    "RSASSA-PSS with SHA-384 and a salt of 48 bytes (RFC 4055)",
    # AMD writes the trailer field, which DER would leave out.
    frozenset(
        bytes.fromhex(each)
        for each in (
            f"304106092a864886f70d01010a3034{_PSS}",
            f"304606092a864886f70d01010a3039{_PSS}a303020101",
        )
    ),
    _verify_pss,
)


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
    certificate = _parse(chain[0])
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
def _issued(issuer: bytes, encoded: bytes, scheme: Scheme) -> Certificate:
    """Verify a certificate by its issuer's, which is verified already; only what holds is remembered."""
    signer = _parse(issuer)
    to_be_signed, algorithm, signature = _signed_parts(encoded)
    said = f"the certificate below {signer.common_name}"
    if algorithm not in scheme.algorithms:
        raise InvalidAttestation(f"{said} is not signed with {scheme.name}")
    try:
        scheme.verify(signer.public_key, signature, to_be_signed)
    except InvalidSignature:
        raise InvalidAttestation(f"{said} does not bear that one's signature") from None
    certificate = _parse(encoded)
    if certificate.issuer != signer.subject:
        raise InvalidAttestation(f"{said} names another issuer")
    return certificate


def _signed_parts(encoded: bytes) -> tuple[bytes, bytes, bytes]:
    """Return what is signed, the algorithm (DER) and the signature."""
    body, algorithm, bits = der.sequence(encoded, der.SEQUENCE, der.SEQUENCE, der.BIT_STRING)
    if bits.content[:1] != b"\x00":
        raise InvalidAttestation("a certificate's signature is no whole number of bytes")
    return body.whole, algorithm.whole, bits.content[1:]


@lru_cache(maxsize=_KEPT)
def _parse(encoded: bytes) -> Certificate:
    """Read a certificate that is pinned, or whose signature holds."""
    body, outer, _ = der.sequence(encoded, der.SEQUENCE, der.SEQUENCE, der.BIT_STRING)
    version, _, inner, issuer, validity, subject, key, extensions = der.sequence(body.whole, *_TO_BE_SIGNED)
    if der.unsigned(version.content) != 2:
        raise InvalidAttestation("a certificate is not of version 3")
    if inner.whole != outer.whole:
        raise InvalidAttestation("a certificate names two algorithms for its signature")
    begins, ends = _window(validity)
    found = _extensions(extensions)
    authority, path_length = _constraints(found.get(_BASIC_CONSTRAINTS))
    return Certificate(
        common_name=_common_name(subject),
        issuer=issuer.whole,
        subject=subject.whole,
        not_before=begins,
        not_after=ends,
        public_key=_public_key(key.whole),
        authority=authority,
        path_length=path_length,
        key_usage=_usage(found.get(_KEY_USAGE)),
        extensions=found,
    )


def _public_key(info: bytes) -> PublicKeyTypes:
    try:
        return load_der_public_key(info)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidAttestation(f"a certificate's public key is unusable: {printable(error)}") from None


def _common_name(name: der.Element) -> str:
    for group in der.elements(name.content):
        for part in der.elements(group.content):
            pair = der.elements(part.content)
            if len(pair) == 2 and pair[0].content == _COMMON_NAME:
                return printable(pair[1].content.decode("ascii", "backslashreplace"))
    return "without a common name"


def _window(validity: der.Element) -> tuple[int, int]:
    times = der.elements(validity.content)
    if len(times) != 2:
        raise InvalidAttestation("a certificate's validity is not two times")
    return _seconds(times[0]), _seconds(times[1])


def _seconds(time: der.Element) -> int:
    """Return a time in Unix seconds; two-digit years are 1950 to 2049 (RFC 5280, section 4.1.2.5)."""
    text = time.content.decode("ascii", "replace")
    if time.tag == der.UTC_TIME:
        text = ("19" if text[:1] >= "5" else "20") + text
    if time.tag not in {der.UTC_TIME, der.GENERALIZED_TIME} or not re.fullmatch(r"[0-9]{14}Z", text):
        raise InvalidAttestation("a certificate's validity has a time in a form that is not allowed")
    try:
        return int(datetime.fromisoformat(f"{text[:8]}T{text[8:]}").timestamp())
    except ValueError as error:
        raise InvalidAttestation(
            f"a certificate's validity has an impossible time: {printable(error)}"
        ) from None


def _extensions(field: der.Element) -> dict[bytes, bytes]:
    """Return the extensions' values; what is critical must be understood (RFC 5280, section 4.2)."""
    found: dict[bytes, bytes] = {}
    for extension in der.elements(der.element(field.content, der.SEQUENCE).content):
        name, *flag, value = _extension(extension)
        critical = bool(flag) and der.boolean(flag[0].whole)
        if critical and name.content not in {_BASIC_CONSTRAINTS, _KEY_USAGE}:
            raise InvalidAttestation(
                f"a certificate has a critical extension unknown here, OID {name.content.hex()}"
            )
        if name.content in found:
            raise InvalidAttestation(f"a certificate has the extension with OID {name.content.hex()} twice")
        found[name.content] = value.content
    return found


def _extension(field: der.Element) -> list[der.Element]:
    parts = der.elements(field.content)
    if field.tag != der.SEQUENCE or [part.tag for part in parts] not in _EXTENSION:
        raise InvalidAttestation("a certificate has an extension that is not a name, a flag and a value")
    return parts


def _constraints(value: bytes | None) -> tuple[bool, int | None]:
    """Return whether a certificate may issue others, and how many authorities may follow it."""
    if value is None:
        return False, None
    inside = der.elements(der.element(value, der.SEQUENCE).content)
    tags = [each.tag for each in inside]
    if tags not in ([], [der.BOOLEAN], [der.BOOLEAN, der.INTEGER]):
        raise InvalidAttestation("a certificate's basic constraints are malformed")
    authority = bool(inside) and der.boolean(inside[0].whole)
    return authority, der.unsigned(inside[1].whole) if len(inside) == 2 else None


def _usage(value: bytes | None) -> int | None:
    """Return the first eight bits of the key usage, the first bit being the highest."""
    if value is None:
        return None
    content = der.element(value, der.BIT_STRING).content
    if len(content) < 2:
        raise InvalidAttestation("a certificate's key usage is empty")
    return content[1]


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
    if certificate.key_usage is not None and not certificate.key_usage & _KEY_CERT_SIGN:
        raise InvalidAttestation(f"{said} has a key usage without certificate signing")


def _check_leaf(certificate: Certificate, said: str) -> None:
    if certificate.authority:
        raise InvalidAttestation(f"{said} is a certificate authority, and must only sign documents")
    if certificate.key_usage is not None and not certificate.key_usage & _DIGITAL_SIGNATURE:
        raise InvalidAttestation(f"{said} has a key usage without digital signatures")
