"""The checks that anybody can make on a job's evidence document without trusting where it came from.

Tickets, results and scores are in the document as signed frames; everything else is either bound by a digest or a proof, or
plain testimony of the dispatcher, which is only held against the rest. `check_evidence` makes, in this order,

of the job:

| id | what holds when it passes |
| --- | --- |
| AOS-JOB-1 | the job id is the digest of dispatcher, sequence and request |
| AOS-RECEIPT-1 | the dispatcher signed the receipt of exactly this request |
| AOS-SEED-1 | the seed is the dispatcher's VRF output on the job id |
| AOS-REJECTION-1 | (where something was refused) it is about this job, and signed by the operator that it is held against |

| AOS-HEAD-1 | the dispatcher signed the head of its log |
| AOS-LOG-1 | all that the document tells of the job is in that log, each event once, in order, and the log has nothing of it besides |
| AOS-ANCHOR-1 | (where signatures are valid on a chain) that log is a later state of the one that the chain anchors, this job's entries included. Whether the chain has that anchor, `aos-audit --rpc` asks |
| AOS-CLOCK-2 | over all rounds, no operator signed two different things as one event of its clock, nor one that the dispatcher had already seen |

of every round, as far as they apply to it:

| id | what holds when it passes |
| --- | --- |
| AOS-TICKET-1 | every ticket is its operator's own VRF output on seed and prompt, in a frame that it signed; no good one was set aside |
| AOS-ELECTORATE-1 | (more operators registered than a draw asks at most) no more were asked; as many are those whom the seed finds, in its order |
| AOS-COMMITTEE-1 | the committee follows from registry, tickets and tag; who was lost is replaced in the draw's order; tag and position are the request's, or those of a tagged job that is named |
| AOS-ROLE-1 | the first seat in the draw's order that was not given up executes, the others verify; nobody executes a claim or a challenge |
| AOS-AUDIT-1 | (untagged) whether the job has a verifier anyway is what its seed and the dispatcher's policy give |
| AOS-CHALLENGE-1 | (challenge) its seed is the dispatcher's VRF output on job id and number, its subject is a result of this job, an operator that asked for it signed that, and no party was asked to judge; (mismatch) there is such a challenge |
| AOS-RESULT-1 | every result is in a frame of its operator, with an EIP-712 signature over all that it binds, its enclave's statement included |
| AOS-TRANSCRIPT-1 | (not sealed) every answer was sampled with the job's seed, has fingerprints in its operator's name, and its commitment is signed; skipped of those that have a record |
| AOS-RECORD-1 | (an answer without a transcript) its record is signed, says what such an answer can show, and no less than the dispatcher's policy wanted when the job came |
| AOS-ENCLAVE-1 | (tee) every answer to exactly this prompt, seed and model is signed with the key of the keyset that comes with it; a sealed prompt has a box for that keyset |
| AOS-ATTEST-1 | (tee) by the policy that was given here, that keyset is an enclave's: attested on the job's seed, by a trusted build under a trusted root |
| AOS-SCORE-1 | every score is in a frame of a verifier of this committee, with an EIP-712 signature, of the whole of what was to be scored |
| AOS-CLOCK-1 | tickets follow the draw, the dispatch follows the tickets, results follow the dispatch, scores follow what they score, and the end follows all; a verifier that executes did so before it scored, unseeing; the dispatcher's clocks have nothing of operators that these did not sign |
| AOS-MODEL-1 | every result and score was made with the model file that the round names |
| AOS-COMPLETE-1 | a completed round has what its role asks of each member that was not given up, and as many as its tag needs |
| AOS-VERDICT-1 | the stated verdict is the one that `aos_protocol.verdict` computes from the scores and the model's calibration |

and of each answer, or of the claim:

| id | what holds when it passes |
| --- | --- |
| AOS-MATCH-1 | (not sealed) verifiers found it to be the model's. It fails on a mismatch, and is skipped when nobody scored it or the scores do not decide |
"""

from collections.abc import Iterator
from typing import Any

from aos_protocol.attestation.policy import AttestationPolicy
from aos_protocol.canonical import digest
from aos_protocol.errors import InvalidEvidence, InvalidMessage
from aos_protocol.evidence_challenge import challenge_checks
from aos_protocol.evidence_clocks import clock_checks
from aos_protocol.evidence_document import Evidence
from aos_protocol.evidence_draw import draw_checks
from aos_protocol.evidence_enclave import enclave_checks
from aos_protocol.evidence_log import log_checks
from aos_protocol.evidence_verdict import match_checks, verdict_checks
from aos_protocol.evidence_view import Check, Planned, RoundView, domain_of, open_any
from aos_protocol.evidence_work import work_checks
from aos_protocol.fields import parse_message
from aos_protocol.job import SubmitRequest
from aos_protocol.messages import JobResult, JobScore
from aos_protocol.typed_data import ReceiptClaim
from aos_protocol.verification import check_job_id, check_receipt, check_seed

__all__ = ["Check", "answers", "check_evidence", "round_views", "scores"]


def check_evidence(
    document: object, *, dispatcher: str, job_id: str, policy: AttestationPolicy | None = None
) -> list[Check]:
    """Check a document against the dispatcher and the job that the caller expects, and enclaves against the caller's policy.

    Raises `InvalidEvidence` when it is not an evidence document of that job and dispatcher at all.
    """
    evidence = _read(document)
    if evidence.dispatcher.address != dispatcher:
        said = evidence.dispatcher.address
        raise InvalidEvidence(f"this is evidence of dispatcher {said}, not of {dispatcher}")
    if evidence.job.job_id != job_id:
        raise InvalidEvidence(f"this is evidence of job {evidence.job.job_id}, not of {job_id}")
    views = _views(evidence)
    of_the_job = (*_job_checks(evidence), *log_checks(evidence, _raw(document)), *clock_checks(views))
    checks = [planned.make() for planned in of_the_job]
    for view in views:
        planned_here = (
            *draw_checks(view),
            *work_checks(view),
            *enclave_checks(view, policy),
            *verdict_checks(view),
            *challenge_checks(view),
        )
        checks += [planned.make(view.where) for planned in planned_here]
    return [*checks, *match_checks(views)]


def round_views(document: object) -> list[RoundView]:
    """Return the rounds of a document, to be looked into. Raises `InvalidEvidence` for what is no evidence document."""
    return _views(_read(document))


def answers(document: object) -> list[JobResult]:
    """Return the results of an evidence document, read from their signed frames.

    Raises `InvalidEvidence` for what is no evidence document, other `ProtocolError`s for a bad frame.
    """
    return [result for view in round_views(document) for result in view.results]


def scores(document: object) -> list[JobScore]:
    """Return the scores of an evidence document, read from their signed frames. Raises as `answers` does."""
    return [score for view in round_views(document) for score in view.scores]


def _job_checks(evidence: Evidence) -> Iterator[Planned]:
    """Plan the checks of what the dispatcher alone vouches for: id, receipt, seed."""
    job, dispatcher, seed = evidence.job, evidence.dispatcher, evidence.seed

    def check_the_receipt() -> None:
        if digest(job.request) != job.request_digest:
            raise InvalidEvidence("the request's digest is not the one in the receipt")
        claim = ReceiptClaim(job.job_id, job.sequence, job.request_digest)
        check_receipt(dispatcher.address, domain_of(evidence), claim, job.receipt)

    yield Planned(
        "AOS-JOB-1",
        "",
        f"the job id binds sequence {job.sequence} and the request",
        lambda: check_job_id(job.job_id, dispatcher.address, job.sequence, job.request),
    )
    yield Planned("AOS-RECEIPT-1", "", f"the receipt is signed by {dispatcher.address}", check_the_receipt)
    yield Planned(
        "AOS-SEED-1",
        "",
        f"the seed {seed.value[:16]}… is proven by {dispatcher.address}",
        lambda: check_seed(dispatcher.address, dispatcher.public_key, job.job_id, seed.value, seed.proof),
    )

    if evidence.rejections:
        what = f"what was refused is signed by whom it is held against: {len(evidence.rejections)}"
        yield Planned("AOS-REJECTION-1", "", what, lambda: _check_rejections(evidence))


def _check_rejections(evidence: Evidence) -> None:
    for rejection in evidence.rejections:
        frame = open_any(rejection.frame)
        if frame.address != rejection.operator:
            raise InvalidEvidence(f"what is held against {rejection.operator} is signed by {frame.address}")
        said = frame.params[0] if frame.params else (frame.result or {}).get("ticket")
        if not isinstance(said, dict) or said.get("job_id") != evidence.job.job_id:
            raise InvalidEvidence(f"what is held against {rejection.operator} is not about this job")


def _raw(document: object) -> dict[str, Any]:
    return document if isinstance(document, dict) else {}


def _read(document: object) -> Evidence:
    try:
        return parse_message(Evidence, document)
    except InvalidMessage as error:
        raise InvalidEvidence(str(error)) from None


def _views(evidence: Evidence) -> list[RoundView]:
    try:
        request = parse_message(SubmitRequest, evidence.job.request)
    except InvalidMessage as error:
        raise InvalidEvidence(str(error)) from None
    views: list[RoundView] = []
    views += [RoundView(evidence, request, round_, views) for round_ in evidence.rounds]
    return views
