"""Verifying AWS Nitro Enclaves attestation documents: COSE_Sign1 whose payload carries its own certificates.

What a payload holds, and within which bounds, is documented by AWS under "Verifying the root of trust".
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aos_protocol.attestation import certificates, cose
from aos_protocol.attestation.foreign import printable
from aos_protocol.errors import InvalidAttestation

_MOST_DOCUMENT: Final = 16 << 10
"""Above what the security module answers with (12 KiB)."""

_MOST_CERTIFICATE: Final = 1024
_MOST_BUNDLE: Final = 8
_PCR_LENGTH: Final = 48
_OPTIONAL: Final = {"public_key": (1, 1024), "user_data": (0, 512), "nonce": (0, 512)}
"""Least and most bytes of each."""

_NEEDED: Final = frozenset({"module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"})


@dataclass(frozen=True)
class NitroDocument:
    """What a verified document says; `pcrs` are its registers (48 bytes each), all of which are zero up to 2 in debug mode."""

    module_id: str
    timestamp_ms: int
    pcrs: Mapping[int, bytes]
    user_data: bytes | None
    nonce: bytes | None
    public_key: bytes | None

    @property
    def debug(self) -> bool:
        """True when PCR0, 1 and 2 are all zero: the enclave was started in debug mode."""
        return not any(any(self.pcrs.get(index, b"")) for index in (0, 1, 2))


def verify(document: bytes, *, roots: Collection[str], at: int) -> NitroDocument:
    """Verify a document at `at` (Unix seconds) under roots given by the SHA-256 of their DER. Raises `InvalidAttestation`.

    1. It is a COSE_Sign1 in the one form.  2. The payload has the documented fields.  3. The chain `cabundle` and `certificate` leads from
    a root to a P-384 key, and all of it is valid at `at`.  4. That key has signed. What the caller still owes: that `at` is the document's
    own time, that nonce, user data and public key are those expected, and that the registers are a trusted build's.
    """
    if len(document) > _MOST_DOCUMENT:
        raise InvalidAttestation(f"the document has {len(document)} bytes, and {_MOST_DOCUMENT} are allowed")
    signed = cose.parse(document)
    payload = _payload(signed.payload)
    chain = [*payload["cabundle"], payload["certificate"]]
    leaf = certificates.verify_chain(chain, roots=roots, at=at, scheme=certificates.ECDSA_P384)
    cose.verify(signed, certificates.p384(leaf.public_key))
    return NitroDocument(
        module_id=payload["module_id"],
        timestamp_ms=payload["timestamp"],
        pcrs=payload["pcrs"],
        user_data=payload.get("user_data"),
        nonce=payload.get("nonce"),
        public_key=payload.get("public_key"),
    )


def _payload(encoded: bytes) -> dict[str, Any]:
    """Read the payload; its map may be of indefinite length, as it is since 2025."""
    fields = cose.decode(encoded, "the payload")
    if not isinstance(fields, dict):
        raise InvalidAttestation("the payload is no map")
    missing = _NEEDED - fields.keys()
    if missing:
        raise InvalidAttestation(f"the payload lacks {', '.join(sorted(missing))}")
    unknown = [str(name) for name in fields if name not in _NEEDED and name not in _OPTIONAL]
    if unknown:
        raise InvalidAttestation(f"the payload has fields unknown here: {printable(', '.join(unknown))}")
    _check_facts(fields)
    _check_pcrs(fields["pcrs"])
    _check_certificates(fields["certificate"], fields["cabundle"])
    for name, (least, most) in _OPTIONAL.items():
        value = fields.get(name)
        if value is not None and (not isinstance(value, bytes) or not least <= len(value) <= most):
            raise InvalidAttestation(f"{name} is not a byte string of {least} to {most} bytes")
    return fields


def _check_facts(fields: dict[str, Any]) -> None:
    if not isinstance(fields["module_id"], str) or not fields["module_id"]:
        raise InvalidAttestation("module_id is no text, or empty")
    if fields["digest"] != "SHA384":
        raise InvalidAttestation("digest is not SHA384")
    if type(fields["timestamp"]) is not int or fields["timestamp"] <= 0:
        raise InvalidAttestation("timestamp is not a positive whole number of milliseconds")


def _check_pcrs(pcrs: object) -> None:
    if not isinstance(pcrs, dict) or not 1 <= len(pcrs) <= 32:
        raise InvalidAttestation("pcrs is not a map of 1 to 32 registers")
    for index, value in pcrs.items():
        if type(index) is not int or not 0 <= index <= 31:
            raise InvalidAttestation(f"pcrs has a register that is not one of 0 to 31: {printable(index)}")
        if not isinstance(value, bytes) or len(value) != _PCR_LENGTH:
            raise InvalidAttestation(f"PCR{index} is not {_PCR_LENGTH} bytes, as SHA384 gives")


def _check_certificates(certificate: object, bundle: object) -> None:
    if not isinstance(bundle, list) or not 1 <= len(bundle) <= _MOST_BUNDLE:
        raise InvalidAttestation(f"cabundle is not an array of 1 to {_MOST_BUNDLE} certificates")
    for each in (certificate, *bundle):
        if not isinstance(each, bytes) or not 1 <= len(each) <= _MOST_CERTIFICATE:
            raise InvalidAttestation(f"a certificate is not a byte string of 1 to {_MOST_CERTIFICATE} bytes")
