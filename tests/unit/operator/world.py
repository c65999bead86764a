"""The other side of the protocol for the operator's tests: a dispatcher's key, its jobs and its frames, without I/O."""

from dataclasses import dataclass, field
from itertools import count
from typing import Any

from aos_operator.offer import Offer
from aos_protocol import sortition, vrf
from aos_protocol.canonical import JsonObject, digest
from aos_protocol.frames import Frame, open_frame, seal_reply, seal_request
from aos_protocol.identity import Signer
from aos_protocol.messages import (
    Challenge,
    Dispatch,
    Draw,
    JobResult,
    JobSpec,
    ModelOffer,
    Params,
    Welcome,
    parse_message,
)
from aos_protocol.typed_data import Domain, ReceiptClaim, sign_typed
from aos_protocol.verification import Terms, check_result

MODEL = ModelOffer(name="demo.gguf", sha256="ab" * 32)
OFFER = Offer("opml", {MODEL.name: MODEL.sha256})
OPERATOR = Signer(b"\x11" * 32)
NUMBER = 7
"""The operator's participant number in these tests."""


@dataclass
class World:
    """A dispatcher as far as an operator sees it: it makes valid jobs and frames, and verifies what comes back."""

    signer: Signer = field(default_factory=lambda: Signer(b"\x22" * 32))
    domain: Domain = field(default_factory=lambda: Domain(31337, "0x" + "00" * 19 + "01"))
    nonce: str = "cd" * 32

    def __post_init__(self) -> None:
        self._sequence = count(1)
        self._ids = count(1)
        self._clock = count(1)

    def job(self, prompt: str = "What is AI?", **changes: Any) -> Dispatch:
        """A dispatch that holds in every respect; `changes` replace single members of it."""
        sequence = next(self._sequence)
        spec = JobSpec(tag="opml", prompt=prompt, model=MODEL.name, params=Params(max_tokens=16))
        request: JsonObject = {"from": "p", "tag": "", "user": "u", "job": spec.to_json()}
        job_id = sortition.job_id(self.signer.address, sequence, request)
        proof = vrf.prove(self.signer, sortition.seed_alpha(job_id))
        claim = ReceiptClaim(job_id, sequence, digest(request))
        members: dict[str, Any] = {
            "user": "u",
            "seed": vrf.verify(self.signer.public_key, sortition.seed_alpha(job_id), proof).hex(),
            "tag": "",
            "position": "",
            "signature": sign_typed(self.signer, self.domain, claim),
            "clock": {"1": str(next(self._clock))},
            "job_id": job_id,
            "job": spec,
            "sequence": sequence,
            "request_digest": digest(request),
            "seed_proof": proof.hex(),
            "range_start": 0,
            "range_end": sortition.MAX_RANGE,
            "role": "executor",
            "model": MODEL,
        }
        return Dispatch(**{**members, **changes})

    def draw(self, dispatch: Dispatch, **changes: Any) -> Draw:
        """The draw that comes before this dispatch."""
        members: dict[str, Any] = {
            "job_id": dispatch.job_id,
            "tag": dispatch.tag,
            "position": dispatch.position,
            "job_type": dispatch.job.tag,
            "model": dispatch.model,
            "seed": dispatch.seed,
            "seed_proof": dispatch.seed_proof,
            "vrf_prompt_hash": dispatch.job.prompt_hash(),
            "range_start": dispatch.range_start,
            "range_end": dispatch.range_end,
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
        )
        check_result(result, terms, ticket, dispatch.role, self.domain)
        return result


def opened(text: str) -> Frame:
    """A frame that the operator made, with its signature checked."""
    frame = open_frame(text, max_bytes=4 << 20)
    assert frame.address == OPERATOR.address
    return frame
