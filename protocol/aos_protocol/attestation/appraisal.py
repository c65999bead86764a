"""Appraising an attestation by a policy (RFC 9334, section 7.1): every step fails closed, with what is wrong."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aos_protocol.attestation import nitro, snp, tdx
from aos_protocol.attestation.policy import AttestationPolicy, Build, ModelPolicy
from aos_protocol.attestation.statement import Attestation, Kind
from aos_protocol.errors import InvalidAttestation
from aos_protocol.fields import Hex32, Message, ShortText

SKEW_S: Final = 60
"""By how much the clocks of enclave and verifier may differ, in seconds."""

_NONCE: Final = re.compile("[0-9a-f]{64}")


class Appraisal(Message):
    """That an attestation was found good: which build it is, and by which policy (its digest); times are Unix seconds."""

    kind: Kind
    build: ShortText
    debug: bool
    keyset: Hex32
    issued_at: int
    verified_at: int
    policy: Hex32


@dataclass(frozen=True)
class Claims:
    """What hardware has signed, whatever its kind. `result_key` is None where it binds the keyset alone, `issued_at` where it has no clock."""

    measurements: Mapping[str, str]
    debug: bool
    keyset: bytes | None
    nonce: bytes | None
    result_key: bytes | None = None
    issued_at: int | None = None


def appraise(
    attestation: Attestation,
    policy: AttestationPolicy,
    *,
    model: str,
    nonce: str,
    now: int | None = None,
) -> Appraisal:
    """Return the appraisal of an enclave that serves `model` (by name) on a `nonce` (64 hex digits).

    1. The policy trusts enclaves of this kind for this model.  2. Hardware under a trusted root has signed the document, at its time.
    3. It binds nonce, keyset and result key.  4. The build is one of the policy's, and not in debug mode unless that allows it.
    5. The keyset is for this model and the policy's file of it, and holds at that time.  6. At `now` (Unix seconds) it is young enough and
    its keyset still holds; None, for an auditor, leaves that aside. Raises `InvalidAttestation` with the first that fails.

    Nitro's hardware signs the time. That of a TDX quote or SEV-SNP report is its sender's word: what bounds it is `now`, and the nonce,
    which nobody knew before it was asked. An auditor without `now` learns that such a document was good at the time it states.
    """
    wanted = _wanted(attestation, policy, model)
    claims = _signed(attestation, wanted)
    _check_bindings(attestation, claims, nonce)
    build = _build(attestation.kind, claims, wanted)
    _check_keyset(attestation, wanted, model)
    if now is not None:
        _check_age(attestation, wanted, now)
    return Appraisal(
        kind=attestation.kind,
        build=build.name,
        debug=claims.debug,
        keyset=attestation.keyset.digest(),
        issued_at=attestation.issued_at,
        verified_at=attestation.issued_at if now is None else now,
        policy=policy.digest(),
    )


def _wanted(attestation: Attestation, policy: AttestationPolicy, model: str) -> ModelPolicy:
    wanted = policy.models.get(model)
    if wanted is None:
        there_is = ", ".join(policy.models) or "none"
        raise InvalidAttestation(f"the policy has no entry for model {model}; there is: {there_is}")
    if attestation.kind == "simulated" and not policy.allow_simulated:
        raise InvalidAttestation(
            "the enclave is simulated, which proves nothing, and the policy refuses that"
        )
    if wanted.trusted(attestation.kind) is None:
        raise InvalidAttestation(f"the policy trusts no {attestation.kind} enclave for model {model}")
    return wanted


def _signed(attestation: Attestation, wanted: ModelPolicy) -> Claims:
    """Verify the document at the time that it was made."""
    document, at = attestation.document_bytes(), attestation.issued_at
    match attestation.kind:
        case "nitro" | "simulated":
            said = nitro.verify(document, roots=wanted.roots(attestation.kind), at=at)
            return Claims(
                measurements={f"pcr{index}": value.hex() for index, value in said.pcrs.items()},
                debug=said.debug,
                keyset=said.user_data,
                nonce=said.nonce,
                result_key=said.public_key,
                issued_at=said.timestamp_ms // 1000,
            )
        case "tdx":
            trusted = wanted.tdx
            quote = tdx.verify(document, attestation.collateral, at=at, tcb=trusted.tcb if trusted else [])
            return Claims(quote.measurements, quote.debug, quote.report_data[:32], quote.report_data[32:])
        case "sev-snp":
            report = snp.verify(document, attestation.collateral, roots=wanted.roots("sev-snp"), at=at)
            return Claims(report.measurements, report.debug, report.report_data[:32], report.report_data[32:])


def _check_bindings(attestation: Attestation, claims: Claims, nonce: str) -> None:
    keyset = attestation.keyset
    if _NONCE.fullmatch(nonce) is None:
        raise InvalidAttestation("a nonce has 64 hex digits: nothing is proven on another one")
    if claims.nonce != bytes.fromhex(nonce):
        said = claims.nonce.hex() if claims.nonce is not None else "none"
        raise InvalidAttestation(
            f"the nonce is {said}, not {nonce}: it was made for somebody else's question"
        )
    if claims.keyset != bytes.fromhex(keyset.digest()):
        raise InvalidAttestation("the document binds another keyset than the one that came with it")
    if attestation.kind in {"nitro", "simulated"} and claims.result_key != bytes.fromhex(keyset.result_key):
        raise InvalidAttestation("the document's public key is not the keyset's result key")
    if claims.issued_at is not None and claims.issued_at != attestation.issued_at:
        raise InvalidAttestation(
            f"the document was made at {claims.issued_at}, not at {attestation.issued_at} as is said beside it"
        )


def _build(kind: Kind, claims: Claims, wanted: ModelPolicy) -> Build:
    trusted = wanted.trusted(kind)
    builds = trusted.builds if trusted else []
    matching = [build for build in builds if _measures(build, claims)]
    for build in matching:
        if build.allow_debug or not claims.debug:
            return build
    if claims.debug:
        what = matching[0].name if matching else "an unknown build"
        raise InvalidAttestation(f"the enclave runs {what} in debug mode, so its host can read it")
    names = sorted(set[str]().union(*(build.measurements for build in builds)))
    said = ", ".join(f"{name} {claims.measurements.get(name, 'missing')}" for name in names)
    raise InvalidAttestation(f"the enclave runs no build that the policy trusts: {said}")


def _measures(build: Build, claims: Claims) -> bool:
    return all(claims.measurements.get(name) == value for name, value in build.measurements.items())


def _check_keyset(attestation: Attestation, wanted: ModelPolicy, model: str) -> None:
    keyset, at = attestation.keyset, attestation.issued_at
    if keyset.model.name != model:
        raise InvalidAttestation(f"the enclave's keyset is for model {keyset.model.name}, not {model}")
    if wanted.sha256 is not None and keyset.model.sha256 != wanted.sha256:
        raise InvalidAttestation(f"the enclave runs model {keyset.model.sha256}, not {wanted.sha256}")
    if not keyset.created_at - SKEW_S <= at < keyset.expires_at:
        raise InvalidAttestation(
            f"the keyset holds from {keyset.created_at} to {keyset.expires_at}, not at {at}, when this was made"
        )


def _check_age(attestation: Attestation, wanted: ModelPolicy, now: int) -> None:
    age = now - attestation.issued_at
    if age < -SKEW_S:
        raise InvalidAttestation(f"it is dated {-age} s ahead: set the clocks of enclave and verifier right")
    if age > wanted.maximum_age:
        raise InvalidAttestation(f"it is {age} s old, and the policy allows {wanted.maximum_age}")
    over = now - attestation.keyset.expires_at
    if over >= SKEW_S:
        raise InvalidAttestation(f"its keyset expired {over} s ago: ask the enclave for its present one")
