"""Checks of what enclaves say of the answers to a `tee` job, and of the attestation that stands behind it."""

from collections.abc import Iterator

from aos_protocol.attestation.appraisal import Appraisal, appraise
from aos_protocol.attestation.policy import AttestationPolicy
from aos_protocol.attestation.statement import EnclaveStatement
from aos_protocol.errors import InvalidAttestation, ProtocolError
from aos_protocol.evidence_view import Planned, RoundView
from aos_protocol.messages import parse_message
from aos_protocol.verification import check_result

_NO_POLICY = "no attestation policy was given to hold the enclave against: give one with --policy"


def enclave_checks(view: RoundView, policy: AttestationPolicy | None) -> Iterator[Planned]:
    """Plan the checks of a round that enclaves answer."""
    if view.request.job.tag != "tee" or not view.executes:
        return
    unanswered = view.undrawn or ("" if view.document.results else "there is no result")
    count = len(view.document.results)
    yield Planned(
        "AOS-ENCLAVE-1",
        unanswered,
        f"answers are signed with the keys of the keysets that come with them: {count}",
        lambda: _check_statements(view),
    )
    missing = unanswered or ("" if policy is not None else _NO_POLICY)
    yield Planned("AOS-ATTEST-1", missing, _what(view), lambda: appraisals(view, policy))


def appraisals(view: RoundView, policy: AttestationPolicy | None) -> list[Appraisal]:
    """Appraise the enclave of every answer at the time of its attestation, on the job's seed. Raises `ProtocolError`."""
    if policy is None:
        raise InvalidAttestation(_NO_POLICY)
    name, nonce = view.document.model.name, view.evidence.seed.value
    return [
        appraise(statement.attestation, policy, model=name, nonce=nonce) for statement in _statements(view)
    ]


def _statements(view: RoundView) -> list[EnclaveStatement]:
    return [parse_message(EnclaveStatement, result.enclave) for result in view.results]


def _check_statements(view: RoundView) -> None:
    terms = view.terms()
    for result in view.results:
        check_result(result, terms, view.tickets[result.operator][0], result.role, view.domain)


def _what(view: RoundView) -> str:
    try:
        kinds = {statement.attestation.kind for statement in _statements(view)}
    except ProtocolError:
        kinds = set()
    said = ", ".join(sorted(kinds)) or "unknown"
    warning = " (SIMULATED: this proves nothing about hardware)" if "simulated" in kinds else ""
    return f"the policy trusts the enclaves that answered, of kind {said}{warning}"
