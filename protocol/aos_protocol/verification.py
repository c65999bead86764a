"""The checks that a dispatcher makes before it stores, and that an auditor repeats on the evidence.

Both sides call the same functions, so what was accepted and what can be checked never drift apart.
Each returns quietly or raises a `ProtocolError` that says which binding is broken.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from aos_protocol import sortition, vrf
from aos_protocol.attestation.statement import EnclaveStatement, check_statement, statement_digest
from aos_protocol.canonical import JsonValue, digest
from aos_protocol.clock import VectorClock
from aos_protocol.errors import (
    InvalidAttestation,
    InvalidClock,
    InvalidMessage,
    InvalidProof,
    InvalidSignature,
    InvalidTranscript,
)
from aos_protocol.fields import parse_message
from aos_protocol.identity import address_of
from aos_protocol.job import JobSpec
from aos_protocol.messages import NO_DIGEST, Draw, JobResult, JobScore, Ticket, Vrf
from aos_protocol.score_document import Score
from aos_protocol.shown import Shown, check_shown, digest_of
from aos_protocol.sortition import Candidate
from aos_protocol.transcript import Transcript
from aos_protocol.typed_data import Domain, ReceiptClaim, ResultClaim, ScoreClaim, recover_typed


@dataclass(frozen=True)
class Terms:
    """What every result and score of a round is held against: the job, the round, and what was drawn and dispatched.

    `seed` is the job's own, from which answers are sampled, also in a challenge.
    """

    job_id: str
    user: str
    job: JobSpec
    seed: str
    tag: str
    position: str
    model_sha256: str
    dispatch_clock: Mapping[str, str]
    dispatcher: str
    challenge: int = 0
    challenge_seed: str | None = None
    registry_block: int = 0

    @property
    def draw_seed(self) -> str:
        """The seed that tickets of the round were drawn on: a challenge has one of its own."""
        return self.challenge_seed or self.seed


def check_job_id(job_id: str, dispatcher: str, sequence: int, request: JsonValue) -> None:
    """Raise `InvalidMessage` unless the id is the digest of exactly this dispatcher, sequence and request."""
    if sortition.job_id(dispatcher, sequence, request) != job_id:
        raise InvalidMessage("the job id is not the digest of dispatcher, sequence and request")


def check_receipt(dispatcher: str, domain: Domain, claim: ReceiptClaim, signature: str) -> None:
    """Raise `InvalidSignature` unless the dispatcher signed this receipt."""
    signer = recover_typed(domain, claim, signature)
    if signer != dispatcher:
        raise InvalidSignature(f"the receipt is signed by {signer}, not by the dispatcher {dispatcher}")


def check_seed(
    dispatcher: str, public_key: str, job_id: str, seed: str, proof: str, *, challenge: int = 0
) -> None:
    """Raise `InvalidProof` unless `seed` is the VRF output of the dispatcher's own key on job id and challenge."""
    key = bytes.fromhex(public_key)
    if address_of(key) != dispatcher:
        raise InvalidProof(f"the seed's public key does not belong to the dispatcher {dispatcher}")
    if vrf.verify(key, sortition.seed_alpha(job_id, challenge), bytes.fromhex(proof)).hex() != seed:
        raise InvalidProof("the seed is not the output of its proof")


def check_ticket(ticket: Ticket, draw: Draw, operator: str) -> Candidate:
    """Verify that a ticket is this operator's answer to this draw, and return its place in it.

    Raises `InvalidMessage`, `InvalidProof` or `InvalidClock`.
    """
    if _round(ticket) != _round(draw):
        raise InvalidMessage("the ticket answers another draw")
    if ticket.operator != operator:
        raise InvalidMessage(f"the ticket names {ticket.operator}, but {operator} was asked")
    check_ticket_proof(ticket.operator, ticket.vrf, bytes.fromhex(draw.seed), draw.vrf_prompt_hash)
    _check_dominates(ticket.clock, draw.clock, "the ticket's clock does not dominate its draw's")
    candidate = Candidate(
        ticket.operator,
        sortition.ticket_value(bytes.fromhex(ticket.vrf.vrf_random_value)),
        sortition.ticket_threshold(draw.range_start, draw.range_end, draw.tag, draw.position),
    )
    if candidate.selected != ticket.vrf.selected:
        raise InvalidMessage(
            f"the ticket says selected={ticket.vrf.selected}, its value and threshold say otherwise"
        )
    return candidate


def check_ticket_proof(operator: str, ticket: Vrf, seed: bytes, prompt_hash: str) -> None:
    """Raise `InvalidProof` unless the ticket is the operator's own VRF output on seed and prompt hash."""
    key = bytes.fromhex(ticket.vrf_verify_pubkey)
    if address_of(key) != operator:
        raise InvalidProof(f"the ticket's public key does not belong to {operator}")
    if ticket.vrf_prompt_hash != prompt_hash:
        raise InvalidProof("the ticket is drawn on another prompt")
    output = vrf.verify(key, seed + bytes.fromhex(prompt_hash), bytes.fromhex(ticket.vrf_proof))
    if output.hex() != ticket.vrf_random_value:
        raise InvalidProof("the ticket's value is not the output of its proof")


def result_claim(result: JobResult, params_digest: str, shown: Shown | None, *, seed: str) -> ResultClaim:
    """Return what the operator's EIP-712 signature on this result must cover; `seed` is what its ticket was drawn on.

    Its member `transcript` is the commitment of the transcript, or of an answer that has a record, that record's digest.
    """
    return ResultClaim(
        job_id=result.job_id,
        dispatcher=result.dispatcher,
        operator=result.operator,
        role=result.role,
        tag=result.tag,
        position=result.position,
        counter=result.counter,
        registry_block=result.registry_block,
        answer=hashlib.sha256(result.result.encode()).hexdigest(),
        transcript=digest_of(shown),
        model=result.model.sha256,
        params=params_digest,
        vrf_proof=result.vrf.digest(seed),
        clock=digest(dict(result.clock)),
        attestation=statement_digest(result.enclave),
    )


def check_result(
    result: JobResult, terms: Terms, ticket: Ticket, role: str, domain: Domain
) -> EnclaveStatement | None:
    """Verify a result against the terms of its round, the operator's ticket and its role; return its enclave's statement, if any.

    It makes the checks of `check_work`, then those of `check_enclave`, and raises what they raise. The result's frame, its place
    on the committee, and whether the keyset is an enclave's (`attestation.appraisal`), are the caller's to check.
    """
    return check_enclave(result, terms, check_work(result, terms, ticket, role, domain), domain)


def check_work(result: JobResult, terms: Terms, ticket: Ticket, role: str, domain: Domain) -> str:
    """Verify what the operator says in a result; return the commitment (or digest of a record) that it signed, zeros of neither.

    1. It speaks of this job, round, role, model, dispatcher and registry.  2. It carries the ticket that was drawn.  3. Its clock dominates the dispatch.
    4. Its transcript has the model, parameters and seed of the job; a record in its place says what such an answer can show.  5. Only an answer to
    a `tee` job has an enclave's statement.  6. Its operator signed all of that. Whether a record shows enough, the caller decides
    (`shown.check_level`). Raises `InvalidMessage`, `InvalidClock`, `InvalidTranscript`, `InvalidRecord`, `InvalidSignature` or `InvalidAttestation`.
    """
    expected = (terms.job_id, terms.tag, terms.position, terms.user, role, ticket.operator)
    if (result.job_id, result.tag, result.position, result.user, result.role, result.operator) != expected:
        raise InvalidMessage(
            "the result's job, tag, position, user, role or operator is not what was dispatched"
        )
    if (result.model.name, result.model.sha256) != (terms.job.model, terms.model_sha256):
        raise InvalidMessage(
            f"the result names model {result.model.name} {result.model.sha256}, not {terms.job.model} {terms.model_sha256}"
        )
    if (result.dispatcher, result.registry_block) != (terms.dispatcher, terms.registry_block):
        raise InvalidMessage(
            f"the result is for dispatcher {result.dispatcher} by the registry of block {result.registry_block}, "
            f"not for {terms.dispatcher} by that of block {terms.registry_block}"
        )
    if result.vrf != ticket.vrf:
        raise InvalidMessage("the result carries another ticket than the one drawn")
    _check_dominates(
        result.clock, terms.dispatch_clock, "the result's clock does not dominate its dispatch's"
    )
    shown = check_shown(result, terms.job)
    if isinstance(shown, Transcript):
        _check_transcript(shown, result, terms)
    if result.enclave is not None and not _is_enclaves(result, terms):
        raise InvalidAttestation("only an answer to a tee job has an enclave's statement")
    claim = result_claim(result, terms.job.params.digest(), shown, seed=terms.draw_seed)
    signer = recover_typed(domain, claim, result.signature)
    if signer != result.operator:
        raise InvalidSignature(f"the result is signed by {signer}, not by its operator {result.operator}")
    return claim.transcript


def check_enclave(
    result: JobResult, terms: Terms, commitment: str, domain: Domain
) -> EnclaveStatement | None:
    """Verify what the enclave says of an answer to a `tee` job, and return it; None of other results, which have none.

    `commitment` is what `check_work` returned. Raises as `attestation.statement.check_statement` does.
    """
    if not _is_enclaves(result, terms):
        return None
    if result.enclave is None:
        raise InvalidAttestation("an answer to a tee job must come with its enclave's statement")
    return check_statement(result, terms.job, terms.seed, commitment, domain)


def _is_enclaves(result: JobResult, terms: Terms) -> bool:
    return terms.job.tag == "tee" and result.answered


def _check_transcript(transcript: Transcript, result: JobResult, terms: Terms) -> None:
    if transcript.model != terms.model_sha256:
        raise InvalidTranscript(
            f"the transcript was made with model {transcript.model}, not {terms.model_sha256}"
        )
    if digest(transcript.params.model_dump(mode="json")) != terms.job.params.digest():
        raise InvalidTranscript("the transcript was made with other parameters than the job's")
    if transcript.seed != terms.seed:
        raise InvalidTranscript("the transcript was made with another seed than the job's")
    if transcript.prover != result.operator:
        raise InvalidTranscript(
            f"the transcript's fingerprints are those of {transcript.prover}, not of {result.operator}"
        )


def check_counter(result: JobResult, number: int) -> None:
    """Raise `InvalidClock` unless the result's counter is the entry of this participant in its clock."""
    if result.clock.get(str(number)) != str(result.counter):
        raise InvalidClock(
            f"the result says counter {result.counter}, its clock {result.clock.get(str(number), 'nothing')} for participant {number}"
        )


def score_claim(said: JobScore, params_digest: str, *, seed: str) -> ScoreClaim:
    """Return what the verifier's EIP-712 signature on this score must cover; `seed` is what its ticket was drawn on."""
    return ScoreClaim(
        job_id=said.job_id,
        operator=said.operator,
        tag=said.tag,
        position=said.position,
        challenge=said.challenge,
        subject=said.subject,
        score=NO_DIGEST if said.score is None else digest(said.score),
        model=said.model.sha256,
        params=params_digest,
        vrf_proof=said.vrf.digest(seed),
        clock=digest(dict(said.clock)),
    )


def check_score(
    said: JobScore,
    terms: Terms,
    ticket: Ticket,
    domain: Domain,
    *,
    subject: str,
    subject_operator: str | None,
) -> Score | None:
    """Verify a score against the terms of its round, its verifier's ticket and what it was to score; return it.

    None stands for a verifier that signed a reason for having no score. Raises `InvalidMessage`, `InvalidClock` or `InvalidSignature`.
    """
    expected = (terms.job_id, terms.user, ticket.operator, subject, subject_operator)
    if (said.job_id, said.user, said.operator, said.subject, said.subject_operator) != expected:
        raise InvalidMessage("the score's job, user, operator or subject is not what was to be scored")
    if _round(said) != _round(terms):
        raise InvalidMessage("the score is of another round")
    if (said.model.name, said.model.sha256) != (terms.job.model, terms.model_sha256):
        raise InvalidMessage(f"the score was made with {said.model.name} {said.model.sha256}")
    if said.vrf != ticket.vrf:
        raise InvalidMessage("the score carries another ticket than the one drawn")
    if said.answered == (said.score is None):
        raise InvalidMessage("a score needs either its numbers or a reason for having none")
    _check_dominates(said.clock, terms.dispatch_clock, "the score's clock does not dominate its call's")
    score = None if said.score is None else parse_message(Score, said.score)
    if score is not None and (score.subject, score.model) != (subject, terms.model_sha256):
        raise InvalidMessage("the score's numbers are of another subject or model")
    claim = score_claim(said, terms.job.params.digest(), seed=terms.draw_seed)
    signer = recover_typed(domain, claim, said.signature)
    if signer != said.operator:
        raise InvalidSignature(f"the score is signed by {signer}, not by its verifier {said.operator}")
    return score


def _round(said: Ticket | Draw | JobScore | Terms) -> tuple[str, str, str, int]:
    return said.job_id, said.tag, said.position, said.challenge


def _check_dominates(later: Mapping[str, str], earlier: Mapping[str, str], why_not: str) -> None:
    if not VectorClock.from_map(dict(later)).dominates(VectorClock.from_map(dict(earlier))):
        raise InvalidClock(why_not)
