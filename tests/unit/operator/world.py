"""The other side of the protocol for the operator's tests: a dispatcher's key, its jobs and its frames, without I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from types import MappingProxyType
from typing import Any

from aos_operator.offer import Offer
from aos_operator.stub import stub_answer
from aos_operator.tickets import draw_ticket
from aos_protocol import sortition, vrf
from aos_protocol.canonical import JsonObject, digest
from aos_protocol.fields import WorkerType, parse_message
from aos_protocol.frames import Frame, open_frame, seal_reply, seal_request
from aos_protocol.identity import Signer
from aos_protocol.job import Claim, Direct, JobSpec, Params, Sealed
from aos_protocol.messages import (
    Challenge,
    Dispatch,
    Draw,
    JobResult,
    JobScore,
    ModelOffer,
    ScoreCall,
    ServedModel,
    Ticket,
    Welcome,
)
from aos_protocol.transcript import Transcript
from aos_protocol.typed_data import Domain, ReceiptClaim, SeatClaim, sign_typed
from aos_protocol.verification import Terms, check_counter, check_result, check_score, result_claim

MODEL = ModelOffer(name="demo.gguf", sha256="ab" * 32)
SERVED = ServedModel(name=MODEL.name, sha256=MODEL.sha256)
OFFER = Offer("opml", {MODEL.name: SERVED})
TEE_OFFER = Offer("tee", OFFER.models)
OPERATOR = Signer(b"\x11" * 32)
NUMBER = 7
"""The operator's participant number in these tests."""
EXECUTOR = Signer(b"\x44" * 32)
"""Another operator, whose answers are scored; its number is 3."""
_AS_MADE: Mapping[str, Any] = MappingProxyType({})
_SHARED = (
    "user",
    "job_id",
    "job",
    "sequence",
    "request_digest",
    "signature",
    "range_start",
    "range_end",
    "model",
)


@dataclass
class World:
    """A dispatcher as far as an operator sees it: it makes valid jobs and frames, and verifies what comes back.

    Its seats are signed for `operator`.
    """

    signer: Signer = field(default_factory=lambda: Signer(b"\x22" * 32))
    domain: Domain = field(default_factory=lambda: Domain(31337, "0x" + "00" * 19 + "01"))
    nonce: str = "cd" * 32
    operator: str = OPERATOR.address

    def __post_init__(self) -> None:
        self._sequence = count(1)
        self._ids = count(1)
        self._clock = count(1)

    def job(
        self,
        prompt: str = "What is AI?",
        *,
        claim: Claim | None = None,
        temperature: float = 1.0,
        kind: WorkerType = "opml",
        sealed: Sealed | None = None,
        direct: Direct | None = None,
        wishes: Mapping[str, Any] = MappingProxyType({}),
        **changes: Any,
    ) -> Dispatch:
        """A dispatch that holds in every respect, of the prompt, or what is `sealed` or `direct`; `changes` replace single members of it.

        `wishes` are what else the job asks for.
        """
        sequence = next(self._sequence)
        params = Params(max_tokens=16, temperature=temperature)
        asked: dict[str, Any] = (
            {"sealed": sealed} if sealed else {"direct": direct} if direct else {"prompt": prompt}
        )
        spec = JobSpec(
            **{"tag": kind, "model": MODEL.name, "params": params, "claim": claim, **asked, **wishes}
        )
        request: JsonObject = {"from": "p", "tag": "", "user": "u", "job": spec.to_json()}
        job_id = sortition.job_id(self.signer.address, sequence, request)
        proof = vrf.prove(self.signer, sortition.seed_alpha(job_id))
        receipt = ReceiptClaim(job_id, sequence, digest(request))
        members: dict[str, Any] = {
            "user": "u",
            "seed": vrf.verify(self.signer.public_key, sortition.seed_alpha(job_id), proof).hex(),
            "tag": "",
            "position": "",
            "signature": sign_typed(self.signer, self.domain, receipt),
            "clock": {"1": str(next(self._clock))},
            "job_id": job_id,
            "job": spec,
            "sequence": sequence,
            "request_digest": digest(request),
            "seed_proof": proof.hex(),
            "range_start": 0,
            "range_end": sortition.MAX_RANGE,
            "role": "executor",
            "seat": "00" * 65,
            "model": MODEL,
        }
        unseated = Dispatch(**{**members, **changes})
        return unseated if "seat" in changes else self.seated(unseated)

    def seated(self, dispatch: Dispatch, *, signer: Signer | None = None, **changes: Any) -> Dispatch:
        """The dispatch with a seat signed by the dispatcher (or `signer`) for what it says, but for `changes`."""
        claim = SeatClaim(
            dispatch.job_id,
            self.operator,
            dispatch.role,
            dispatch.tag,
            dispatch.position,
            dispatch.registry_block,
        )
        seat = sign_typed(signer or self.signer, self.domain, replace(claim, **changes))
        return dispatch.model_copy(update={"seat": seat})

    def answer(
        self,
        dispatch: Dispatch,
        signer: Signer = EXECUTOR,
        *,
        transcript: Mapping[str, Any] | None = _AS_MADE,
        sealed_by: Signer | None = None,
        signed_by: Signer | None = None,
        **changes: Any,
    ) -> str:
        """The `job_result` frame of an honest executor; `transcript` (None: without) and `changes` replace members before it is signed."""
        made = stub_answer(dispatch.job, MODEL.sha256, dispatch.seed, signer.address)
        members = {
            "user": dispatch.user,
            "job_id": dispatch.job_id,
            "result": made["text"],
            "reason": "",
            "vrf": draw_ticket(signer, dispatch),
            "tag": dispatch.tag,
            "clock": {**dispatch.clock, "3": "5"},
            "dispatcher": self.signer.address,
            "operator": signer.address,
            "counter": 5,
            "registry_block": dispatch.registry_block,
            "signature": "00" * 65,
            "position": dispatch.position,
            "role": "executor",
            "model": MODEL,
            "transcript": None if transcript is None else {**made["transcript"], **transcript},
        }
        result = JobResult(**{**members, **changes})
        bound = None if result.transcript is None else Transcript.from_json(result.transcript)
        claim = result_claim(result, dispatch.job.params.digest(), bound, seed=dispatch.seed)
        signature = sign_typed(signed_by or signer, self.domain, claim)
        said = {**result.to_json(), "signature": signature}
        return seal_request(sealed_by or signer, "17", "job_result", [said]).text

    def call(self, of: Dispatch | None = None, *, challenge: int = 0, **changes: Any) -> ScoreCall:
        """A call that holds in every respect: to score the executor's answer to a job, or the job's claim if it has one."""
        of = of or self.job()
        proof = vrf.prove(self.signer, sortition.seed_alpha(of.job_id, challenge))
        subject = None if of.job.claim else self.answer(of)
        shared = {name: getattr(of, name) for name in _SHARED}
        members: dict[str, Any] = {
            **shared,
            "seed": vrf.verify(
                self.signer.public_key, sortition.seed_alpha(of.job_id, challenge), proof
            ).hex(),
            "seed_proof": proof.hex(),
            "job_seed": of.seed,
            "job_seed_proof": of.seed_proof,
            "tag": "suspicion" if challenge else of.tag,
            "position": "after" if challenge else of.position,
            "challenge": challenge,
            "clock": {"1": str(next(self._clock) + 1000), "3": "5"},
            "subject": subject,
        }
        return ScoreCall(**{**members, **changes})

    def draw(self, dispatch: Dispatch | ScoreCall, **changes: Any) -> Draw:
        """The draw that comes before this dispatch or call."""
        members: dict[str, Any] = {
            "job_id": dispatch.job_id,
            "tag": dispatch.tag,
            "position": dispatch.position,
            "challenge": dispatch.challenge if isinstance(dispatch, ScoreCall) else 0,
            "job_type": dispatch.job.tag,
            "model": dispatch.model,
            "seed": dispatch.seed,
            "seed_proof": dispatch.seed_proof,
            "vrf_prompt_hash": dispatch.job.prompt_hash(),
            "range_start": dispatch.range_start,
            "range_end": dispatch.range_end,
            "registry_block": 0 if isinstance(dispatch, ScoreCall) else dispatch.registry_block,
            "clock": {"1": str(next(self._clock))},
        }
        return Draw(**{**members, **changes})

    def challenge(self, **changes: Any) -> str:
        """The first frame of a connection."""
        members: dict[str, Any] = {
            "nonce": self.nonce,
            "dispatcher": self.signer.address,
            "public_key": self.signer.public_key.hex(),
            "chain_id": self.domain.chain_id,
            "registry": self.domain.registry,
        }
        return self.request("challenge", Challenge(**{**members, **changes}).to_json())

    def welcome(self, connect: Frame, last_seen: int = 0) -> str:
        """The reply that lets an operator in."""
        clock = {str(NUMBER): str(last_seen)} if last_seen else {}
        return self.reply(connect.id, **Welcome(number=NUMBER, clock=clock).to_json())

    def request(self, method: str, param: dict[str, Any]) -> str:
        """Any request, signed by this dispatcher."""
        return seal_request(self.signer, f"d-{next(self._ids)}", method, [param]).text

    def reply(self, frame_id: str, code: int = 200, message: str = "success", **more: Any) -> str:
        """Any reply, signed by this dispatcher."""
        return seal_reply(self.signer, frame_id, {"code": code, "message": message, **more}).text

    def verify(self, frame: Frame, dispatch: Dispatch, ticket: Any) -> JobResult:
        """Hold a `job_result` against all that a dispatcher checks, and return it."""
        result = parse_message(JobResult, frame.params[0])
        terms = Terms(
            job_id=dispatch.job_id,
            user=dispatch.user,
            job=dispatch.job,
            seed=dispatch.seed,
            tag=dispatch.tag,
            position=dispatch.position,
            model_sha256=dispatch.model.sha256,
            dispatch_clock=dispatch.clock,
            dispatcher=self.signer.address,
            registry_block=dispatch.registry_block,
        )
        check_counter(result, NUMBER)
        check_result(result, terms, ticket, dispatch.role, self.domain)
        return result

    def verify_score(self, frame: Frame, call: ScoreCall, ticket: Ticket) -> JobScore:
        """Hold a `job_score` against all that a dispatcher checks, and return it."""
        said = parse_message(JobScore, frame.params[0])
        digest_, operator = subject_named(call)
        terms = Terms(
            job_id=call.job_id,
            user=call.user,
            job=call.job,
            seed=call.job_seed,
            tag=call.tag,
            position=call.position,
            model_sha256=call.model.sha256,
            dispatch_clock=call.clock,
            dispatcher=self.signer.address,
            challenge=call.challenge,
            challenge_seed=call.seed,
        )
        check_score(said, terms, ticket, self.domain, subject=digest_, subject_operator=operator)
        return said


def subject_named(call: ScoreCall) -> tuple[str, str | None]:
    """The digest of what a call wants scored, and whose it is."""
    if call.subject is None:
        assert call.job.claim is not None
        return call.job.claim.digest(), None
    result = open_frame(call.subject).params[0]
    return Transcript.from_json(result["transcript"]).commitment(), str(result["operator"])


def opened(text: str) -> Frame:
    """A frame that the operator made, with its signature checked."""
    frame = open_frame(text, max_bytes=4 << 20)
    assert frame.address == OPERATOR.address
    return frame
