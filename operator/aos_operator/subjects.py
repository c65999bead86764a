"""What a verifier is to score: somebody's signed answer, or a claim that a job carries."""

from dataclasses import dataclass

from aos_protocol.clock import VectorClock
from aos_protocol.errors import InvalidClock, InvalidMessage
from aos_protocol.fields import parse_message
from aos_protocol.frames import open_frame
from aos_protocol.job import Claim
from aos_protocol.messages import JobResult, ScoreCall, Ticket
from aos_protocol.shown import Shown, claimed, digest_of, read_shown, unscorable
from aos_protocol.transcript import Transcript
from aos_protocol.typed_data import Domain
from aos_protocol.verification import Terms, check_result, check_ticket_proof


@dataclass(frozen=True)
class Subject:
    """What is scored, as a claim on the model: the job's own, or an answer's tokens, with their seed and fingerprints where it shows them.

    `digest` is the claim's, or that of what the answer comes with, `shown`: its transcript, or a record with token ids. `operator` gave
    that answer, of this `text`.
    """

    digest: str
    claim: Claim
    operator: str | None = None
    shown: Shown | None = None
    text: str = ""

    @property
    def transcript(self) -> Transcript | None:
        """The answer's transcript, if it has one."""
        return self.shown if isinstance(self.shown, Transcript) else None


def subject_of(call: ScoreCall) -> Subject:
    """Read a call's subject, whose signatures `check_subject` has checked. Raises `ProtocolError` when it cannot be read."""
    if call.job.claim is not None:
        return Subject(call.job.claim.digest(), call.job.claim)
    result = _result(call)
    shown = read_shown(result)
    if shown is None:
        raise InvalidMessage("the answer comes with neither a transcript nor a record")
    return Subject(digest_of(shown), claimed(shown), result.operator, shown, result.result)


def check_subject(call: ScoreCall, domain: Domain, dispatcher: str, verifier: str) -> None:
    """Make the dispatcher's checks of an executor's answer again, so that only what its operator signed is scored.

    1. There is a claim or an answer, not both.  2. The answer's frame is signed by its operator, who is not the verifier.
    3. It is an answer, with a ticket of its operator for this job.  4. Job, model, parameters, seed, prover and EIP-712 signature are what
    `aos_protocol.verification.check_result` wants.  5. The call knows of it. Raises `ProtocolError` with the first that fails.
    """
    if (call.subject is None) == (call.job.claim is None):
        raise InvalidMessage("a score needs a claim in the job or an answer as its subject, not both")
    if call.job.sealed is not None:
        raise InvalidMessage("a sealed prompt cannot be scored: nobody here can read it, nor the answer")
    if call.subject is None:
        return
    result = _result(call)
    if result.operator == verifier:
        raise InvalidMessage("the subject is this operator's own answer, which others must score")
    if not result.answered:
        raise InvalidMessage("the subject is no answer, but a reason for having none")
    if why := unscorable(read_shown(result), call.model):
        raise InvalidMessage(why)
    check_ticket_proof(result.operator, result.vrf, bytes.fromhex(call.job_seed), call.job.prompt_hash())
    terms = Terms(
        job_id=call.job_id,
        user=call.user,
        job=call.job,
        seed=call.job_seed,
        tag=result.tag,  # a challenge has a tag of its own, whatever the answer's was
        position=result.position,
        model_sha256=call.model.sha256,
        dispatch_clock={},
        dispatcher=dispatcher,
        registry_block=result.registry_block,  # by which block's registry it was drawn, the dispatcher knows
    )
    ticket = Ticket(
        job_id=call.job_id,
        tag=result.tag,
        position=result.position,
        operator=result.operator,
        vrf=result.vrf,
        clock=result.clock,
    )
    check_result(result, terms, ticket, result.role, domain)
    if not VectorClock.from_map(call.clock).dominates(VectorClock.from_map(result.clock)):
        raise InvalidClock("the call's clock does not dominate that of the answer to be scored")


def _result(call: ScoreCall) -> JobResult:
    if call.subject is None:
        raise InvalidMessage("there is neither a claim nor an answer to score")
    # It came within a frame, so its size was checked; a character has at most 4 bytes.
    frame = open_frame(call.subject, max_bytes=4 * len(call.subject))
    if frame.method != "job_result" or len(frame.params) != 1:
        raise InvalidMessage("the subject must be one job_result frame, as its operator signed it")
    result = parse_message(JobResult, frame.params[0])
    if frame.address != result.operator:
        raise InvalidMessage(
            f"the subject is the answer of {result.operator}, but {frame.address} signed its frame"
        )
    return result
