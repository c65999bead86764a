"""Verifying Intel TDX quotes through `dcap-qvl`, with the collateral that comes with them."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from aos_protocol.attestation.foreign import printable
from aos_protocol.attestation.tdx_envelope import check_envelope
from aos_protocol.errors import InvalidAttestation

_MOST_QUOTE: Final = 16 << 10
_MOST_COLLATERAL: Final = 256 << 10
_COLLATERAL: Final = frozenset(
    {
        "pck_crl_issuer_chain",
        "root_ca_crl",
        "pck_crl",
        "tcb_info_issuer_chain",
        "tcb_info",
        "tcb_info_signature",
        "qe_identity_issuer_chain",
        "qe_identity",
        "qe_identity_signature",
    }
)
_DEBUG: Final = 0x01


@dataclass(frozen=True)
class Quote:
    """What a verified quote says; measurements by name in hex, and the 64 bytes that it binds."""

    measurements: Mapping[str, str]
    debug: bool
    report_data: bytes


def verify(document: bytes, collateral: dict[str, Any] | None, *, at: int, tcb: Collection[str]) -> Quote:
    """Verify a quote with collateral at `at` (Unix seconds). Raises `InvalidAttestation`.

    1. The quote is for TDX and in the one form; the collateral has Intel's nine parts, as a PCCS names them.  2. Intel's root vouches for
    the platform, its quoting enclave and the collateral; nothing is revoked, and all is valid at `at`.  3. The state of the platform (the worse
    of CPU, TDX module and quoting enclave) is one of `tcb`, say UpToDate.

    Step 2 is the library's `verify`, not its `verify_with_policy`: that one's `strict` refuses platforms which may add packages, keep
    keys or run hyper-threads, which is every cloud's, and states are for our own policy to accept. The library refuses, at any policy, TDs
    in debug or profiling mode, that may migrate, or that its host may interrupt by its pages (SEPT_VE_DISABLE unset): `debug` says so again.
    """
    if len(document) > _MOST_QUOTE:
        raise InvalidAttestation(f"the quote has {len(document)} bytes, and {_MOST_QUOTE} are allowed")
    if not 0 <= at < 2**53:
        raise InvalidAttestation(f"{at} is no time in Unix seconds")
    library = _library()
    check_envelope(document)
    text = _collateral(collateral)
    try:
        verified = library.verify(document, library.QuoteCollateralV3.from_json(text), at)
    except ValueError as error:
        raise InvalidAttestation(f"the TDX quote does not verify: {printable(error)}") from None
    if verified.status not in tcb:
        advisories = ", ".join(verified.advisory_ids) or "no advisories"
        raise InvalidAttestation(
            f"the platform's state is {verified.status} ({advisories}), and the policy allows {', '.join(tcb)}"
        )
    return _quote(verified.to_json())


def _library() -> ModuleType:
    """Import `dcap-qvl`, which only those need who meet TDX."""
    try:
        import dcap_qvl
    except ImportError:
        raise InvalidAttestation(
            "TDX quotes need the library dcap-qvl: install aos[dispatcher], or dcap-qvl itself"
        ) from None
    library: ModuleType = dcap_qvl
    return library


def _collateral(collateral: dict[str, Any] | None) -> str:
    if collateral is None:
        raise InvalidAttestation(
            "a TDX quote needs collateral, what a PCCS says of its platform; there is none"
        )
    wrong = _COLLATERAL ^ collateral.keys() or {
        name for name, value in collateral.items() if not isinstance(value, str)
    }
    if wrong:
        said = printable(", ".join(sorted(str(name) for name in wrong)))
        raise InvalidAttestation(f"the collateral must have its nine parts, each a text; look at {said}")
    text = json.dumps(collateral)
    if len(text) > _MOST_COLLATERAL:
        raise InvalidAttestation(
            f"the collateral has {len(text)} characters, and {_MOST_COLLATERAL} are allowed"
        )
    return text


def _quote(verified: str) -> Quote:
    """Read what the library says of a verified quote: its report, under the name of its form."""
    (report,) = json.loads(verified)["report"].values()
    measurements = {name: value for name, value in report.items() if isinstance(value, str)}
    attributes = bytes.fromhex(measurements["td_attributes"])
    data = bytes.fromhex(measurements.pop("report_data"))
    return Quote(measurements, bool(attributes[0] & _DEBUG), data)
