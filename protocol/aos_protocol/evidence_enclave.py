"""Checks of what enclaves say of the answers to a `tee` job, and of the attestation that stands behind it."""

from collections.abc import Iterator

from aos_protocol.attestation.appraisal import Appraisal, appraise
from aos_protocol.attestation.policy import AttestationPolicy
from aos_protocol.attestation.statement import EnclaveStatement, Kind
from aos_protocol.errors import InvalidAttestation, ProtocolError
from aos_protocol.evidence_view import Planned, RoundView
from aos_protocol.fields import parse_message
from aos_protocol.messages import NO_DIGEST, JobResult
from aos_protocol.transcript import Transcript
from aos_protocol.verification import check_enclave

_NO_POLICY = "no attestation policy was given to hold the enclave against: give one with --policy"
_OWN_WORD = "(when it was made is the operator's word: no hardware signed it)"
_WARNINGS: dict[Kind, str] = {
    "simulated": "(SIMULATED: this proves nothing about hardware)",
    "tdx": _OWN_WORD,
    "sev-snp": _OWN_WORD,
}


def enclave_checks(view: RoundView, policy: AttestationPolicy | None) -> Iterator[Planned]:
    """Plan the checks of a round that enclaves answer."""
    if view.request.job.tag != "tee" or not view.executes:
        return
    unanswered = view.undrawn or ("" if view.document.results else "there is no result")
    kinds = _kinds(view)
    yield Planned(
        "AOS-ENCLAVE-1",
        unanswered,
        f"answers are signed with the keys of the keysets that come with them, of kind {kinds}",
        lambda: _check_statements(view),
    )
    missing = unanswered or ("" if policy is not None else f"{_NO_POLICY}; it says that it is {kinds}")
    what = f"the policy trusts the enclaves that answered, of kind {kinds}"
    yield Planned("AOS-ATTEST-1", missing, what, lambda: appraisals(view, policy))


def appraisals(view: RoundView, policy: AttestationPolicy | None) -> list[Appraisal]:
    """Appraise the enclave of every answer at the time of its attestation, on the job's seed. Raises `ProtocolError`."""
    if policy is None:
        raise InvalidAttestation(_NO_POLICY)
    name, nonce = view.document.model.name, view.evidence.seed.value
    return [
        appraise(statement.attestation, policy, model=name, nonce=nonce) for statement in _statements(view)
    ]


def _answers(view: RoundView) -> list[JobResult]:
    return [result for result in view.results if result.answered]


def _statements(view: RoundView) -> list[EnclaveStatement]:
    return [parse_message(EnclaveStatement, result.enclave) for result in _answers(view)]


def _check_statements(view: RoundView) -> None:
    terms = view.terms()
    for result in _answers(view):
        check_enclave(result, terms, _commitment(result), view.domain)


def _commitment(result: JobResult) -> str:
    return Transcript.from_json(result.transcript).commitment() if result.transcript else NO_DIGEST


def _kinds(view: RoundView) -> str:
    """Say what the enclaves call themselves, and how little that may mean, whether or not there is a policy."""
    try:
        kinds = {statement.attestation.kind for statement in _statements(view)}
    except ProtocolError:
        kinds = set()
    warnings = sorted({_WARNINGS[kind] for kind in kinds & _WARNINGS.keys()})
    return " ".join([", ".join(sorted(kinds)) or "unknown", *warnings])
