"""Verifying AMD SEV-SNP attestation reports, signed by the chip's own key, its VCEK (AMD 56860, section 7.3, and 57230).

Reports of version 2, 3 and 5 from Milan and Genoa are read here; chips from Turin on lay their TCB out otherwise, and are refused.
"""
# AMD numbers its chips' certificates 0, of which `cryptography` warns; a version that refuses them would refuse such reports with that.

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from aos_protocol.attestation.certificates import RSA_PSS, Certificate, from_pem, p384, verify_chain
from aos_protocol.attestation.foreign import printable
from aos_protocol.errors import InvalidAttestation

_LENGTH: Final = 1184
_SIGNED: Final = 0x2A0
_NUMBER: Final = 72
_VERSIONS: Final = frozenset({2, 3, 5})
_PRODUCTS: Final = ("Milan", "Genoa")
_MIGRATION_AGENT: Final = 1 << 18
_DEBUG: Final = 1 << 19
_INTEGER: Final = 0x02
_IA5_STRING: Final = 0x16
_FIELDS: Final = {
    "family_id": (0x10, 16),
    "image_id": (0x20, 16),
    "measurement": (0x90, 48),
    "host_data": (0xC0, 32),
    "id_key_digest": (0xE0, 48),
    "author_key_digest": (0x110, 48),
    "reported_tcb": (0x180, 8),
    "chip_id": (0x1A0, 64),
}
"""Where a report says what, and how many bytes that has."""

_AMD: Final = "1.3.6.1.4.1.3704.1"
"""The OID below which AMD's extensions stand."""

_PRODUCT: Final = f"{_AMD}.2"
_CHIP_ID: Final = f"{_AMD}.4"
_TCB: Final = {0: f"{_AMD}.3.1", 1: f"{_AMD}.3.2", 6: f"{_AMD}.3.3", 7: f"{_AMD}.3.8"}
"""Byte of the TCB, and the extension that has the same: boot loader, TEE, SNP firmware, microcode."""


@dataclass(frozen=True)
class Report:
    """What a verified report says; measurements by name in hex, and the 64 bytes that it binds."""

    measurements: Mapping[str, str]
    debug: bool
    report_data: bytes


def verify(document: bytes, collateral: dict[str, Any] | None, *, roots: Collection[str], at: int) -> Report:
    """Verify a report with its certificates at `at` (Unix seconds). Raises `InvalidAttestation`.

    1. It has the form, was made for the guest's most privileged level (VMPL 0), and no migration agent may take that guest elsewhere.  2. `vcek`, `ask` and `ark` in the collateral (PEM) are a
    chain from a root in `roots` (SHA-256 of DER), valid at `at`.  3. The VCEK is of this very chip and TCB.  4. It signed the report.
    `debug` says whether the guest's policy lets the host debug it. What the caller still owes: that the measurement is a trusted build's,
    and `reported_tcb` (in the report's order of bytes) what AMD advises: older firmware has a key, too.
    """
    _check_form(document)
    chain = [_certificate(collateral, name) for name in ("ark", "ask", "vcek")]
    vcek = verify_chain(chain, roots=roots, at=at, scheme=RSA_PSS)
    measurements = {name: document[start : start + size].hex() for name, (start, size) in _FIELDS.items()}
    _check_chip(vcek, document[0x1A0:0x1E0], document[0x180:0x188])
    _check_signature(vcek, document)
    measurements["policy"] = f"{_policy(document):016x}"
    return Report(measurements, bool(_policy(document) & _DEBUG), document[0x50:0x90])


def _check_form(report: bytes) -> None:
    if len(report) != _LENGTH:
        raise InvalidAttestation(f"the report has {len(report)} bytes, and must have {_LENGTH}")
    version, vmpl, algorithm, keys = (
        int.from_bytes(report[start : start + 4], "little") for start in (0x00, 0x30, 0x34, 0x48)
    )
    if version not in _VERSIONS:
        raise InvalidAttestation(f"the report is of version {version}: 2, 3 and 5 are known here")
    if vmpl != 0:
        raise InvalidAttestation(f"the report was made for VMPL {vmpl}, and only 0 sees all of the guest")
    if algorithm != 1:
        raise InvalidAttestation(f"the report's signature is of algorithm {algorithm}, not 1: ECDSA on P-384")
    if keys >> 2 & 7:
        raise InvalidAttestation("the report is signed with a key of the cloud's (VLEK), not with the chip's")
    if _policy(report) & _MIGRATION_AGENT:
        raise InvalidAttestation("the guest's policy lets a migration agent take it to other machines")
    if any(report[_SIGNED + 2 * _NUMBER :]):
        raise InvalidAttestation("the report has bytes set after its signature")


def _policy(report: bytes) -> int:
    return int.from_bytes(report[0x08:0x10], "little")


def _certificate(collateral: dict[str, Any] | None, name: str) -> bytes:
    text = (collateral or {}).get(name)
    if not isinstance(text, str) or len(text) > 8 << 10:
        raise InvalidAttestation(f"the collateral lacks the certificate {name!r} in PEM")
    found = from_pem(text)
    if len(found) != 1:
        raise InvalidAttestation(f"the collateral has {len(found)} certificates for {name!r}, not one")
    return found[0]


def _check_chip(vcek: Certificate, chip_id: bytes, tcb: bytes) -> None:
    """Check that AMD made the key for this chip with this firmware."""
    product = printable(_content(vcek, _PRODUCT, _IA5_STRING).decode("ascii", "backslashreplace"))
    if not product.startswith(_PRODUCTS):
        raise InvalidAttestation(
            f"the chip is of product {product}: {' and '.join(_PRODUCTS)} are known here"
        )
    if _extension(vcek, _CHIP_ID) != chip_id:
        raise InvalidAttestation("the VCEK is another chip's than the report: their chip ids differ")
    for place, oid in _TCB.items():
        certified = int.from_bytes(_content(vcek, oid, _INTEGER), "big")
        if certified != tcb[place]:
            raise InvalidAttestation(
                f"the VCEK is for another TCB than the report: byte {place} is {certified}, not {tcb[place]}"
            )


def _content(vcek: Certificate, oid: str, tag: int) -> bytes:
    """Return what a short DER value of this tag holds, which is all of an extension."""
    value = _extension(vcek, oid)
    if value[:2] != bytes((tag, len(value) - 2)):
        raise InvalidAttestation(f"the VCEK's extension {oid} is not the value that it must be")
    return value[2:]


def _extension(vcek: Certificate, oid: str) -> bytes:
    try:
        value = vcek.extensions.get_extension_for_oid(x509.ObjectIdentifier(oid)).value
    except x509.ExtensionNotFound:
        raise InvalidAttestation(f"the VCEK lacks AMD's extension {oid}") from None
    return value.public_bytes()


def _check_signature(vcek: Certificate, report: bytes) -> None:
    r, s = (
        int.from_bytes(report[start : start + _NUMBER], "little") for start in (_SIGNED, _SIGNED + _NUMBER)
    )
    try:
        p384(vcek.public_key).verify(encode_dss_signature(r, s), report[:_SIGNED], ec.ECDSA(SHA384()))
    except InvalidSignature:
        raise InvalidAttestation("the report's signature is not by the chip's key") from None
