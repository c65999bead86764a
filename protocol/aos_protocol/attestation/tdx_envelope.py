"""What of a TDX quote nobody has signed: lengths, types, the certificates' wrapping, padding (Intel's DCAP quote formats 4 and 5).

The library that verifies quotes skips over most of it, so that one quote could be written in many ways. Here each has one form, but
for zeros after its end: the kernel hands quotes out in a buffer of fixed size.
"""

import hashlib
import struct
from typing import Final

from aos_protocol.attestation.certificates import from_pem, to_pem
from aos_protocol.errors import InvalidAttestation

INTEL_ROOT: Final = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
"""SHA-256 of the Intel SGX Root CA certificate, by which TDX platforms are certified, too."""

_HEADER: Final = 48
_SGX: Final = 0x00
_TDX: Final = 0x81
_BODY_V4: Final = 584
_SIGNATURE_AND_KEY: Final = 64 + 64
_QE_REPORT_AND_SIGNATURE: Final = 384 + 64
_QE_REPORT_DATA: Final = 6
_PCK_CHAIN: Final = 5


def check_envelope(quote: bytes) -> None:
    """Check that a quote is for TDX, and written in the one form. Raises `InvalidAttestation`."""
    try:
        start = _signed_length(quote)
        (length,) = struct.unpack_from("<I", quote, start)
        start += 4
        if any(quote[start + length :]) or start + length > len(quote):
            raise InvalidAttestation("the quote does not end where its signature data do")
        chain = _chain(quote[start : start + length])
    except struct.error:
        raise InvalidAttestation("the quote breaks off") from None
    _check_chain(chain)


def _signed_length(quote: bytes) -> int:
    """Return how many bytes header and TD report are, which the quote's signature covers."""
    version, _, tee_type = struct.unpack_from("<HHI", quote)
    if tee_type == _SGX:
        raise InvalidAttestation("it is an SGX quote, of an application's enclave: a TDX quote is wanted")
    if tee_type != _TDX:
        raise InvalidAttestation(f"its TEE type is {tee_type:#x}, and TDX's is {_TDX:#x}")
    if version == 4:
        return _HEADER + _BODY_V4
    if version == 5:
        _, size = struct.unpack_from("<HI", quote, _HEADER)
        return _HEADER + 6 + int(size)
    raise InvalidAttestation(f"it is a quote of version {version}: 4 and 5 are known here")


def _chain(data: bytes) -> bytes:
    """Return the certificate chain at the end of the signature data."""
    start = _SIGNATURE_AND_KEY
    kind, size = struct.unpack_from("<HI", data, start)
    start += 6
    if kind != _QE_REPORT_DATA or start + size != len(data):
        raise InvalidAttestation("its signature data are not one report of the quoting enclave")
    start += _QE_REPORT_AND_SIGNATURE
    (authenticated,) = struct.unpack_from("<H", data, start)
    start += 2 + authenticated
    kind, size = struct.unpack_from("<HI", data, start)
    start += 6
    if kind != _PCK_CHAIN or start + size != len(data):
        raise InvalidAttestation("its signature data do not end with the platform's certificate chain")
    return data[start:]


def _check_chain(text: bytes) -> None:
    """Check that the platform's certificates end in Intel's root, and are written as Intel writes them: PEM, and a zero or none."""
    chain = from_pem(text.removesuffix(b"\0").decode("latin-1"))
    if "".join(to_pem(each) for each in chain).encode() != text.removesuffix(b"\0"):
        raise InvalidAttestation("the platform's certificates are not in the one form of PEM")
    if len(chain) != 3 or hashlib.sha256(chain[-1]).hexdigest() != INTEL_ROOT:
        raise InvalidAttestation("the platform's certificates are not three that end with Intel's root")
