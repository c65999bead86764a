"""Operators of a story without I/O: all keys are real, and what they say can be bent before they sign it."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aos_protocol import fingerprint, sortition, vrf
from aos_protocol.attestation.statement import execution_claim
from aos_protocol.clock import VectorClock
from aos_protocol.errors import InvalidRecord
from aos_protocol.fields import Role, parse_message
from aos_protocol.frames import seal_request
from aos_protocol.identity import Signer
from aos_protocol.job import JobSpec
from aos_protocol.messages import NO_DIGEST, Draw, JobResult, JobScore, ModelOffer, Ticket, Vrf
from aos_protocol.record import Record
from aos_protocol.score_document import Score
from aos_protocol.sealing import seal_answer
from aos_protocol.shown import Shown, read_shown
from aos_protocol.transcript import Transcript
from aos_protocol.typed_data import Domain, sign_typed
from aos_protocol.verification import Terms, result_claim, score_claim
from support.enclaves import Enclave

NO_REGISTRY = "0x" + "0" * 40
DOMAIN = Domain(0, NO_REGISTRY)
MODEL = ModelOffer(name="tiny.gguf", sha256=hashlib.sha256(b"tiny").hexdigest())
TOKENS = [4, 5, 2]
TEXT = "a sensible answer"

Bend = Callable[["Actor", dict[str, Any]], None]


def honest(_actor: "Actor", _said: dict[str, Any]) -> None:
    """Change nothing."""


@dataclass
class Actor:
    """One operator: it signs, draws and ticks. `bend` changes what it says in a result or score before it signs that.

    One with a `record` shows that in place of a transcript, one that is `enclosed` has its answers from its enclave. It signs in `domain`. One that is `away` is in the registry, and asked nothing.
    """

    number: int
    bend: Bend
    enclosed: bool = False
    domain: Domain = DOMAIN
    signer: Signer = field(init=False)
    enclave: Enclave = field(init=False)
    counter: int = 0
    away: bool = False
    record: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self.signer = Signer(bytes([self.number]) * 32)
        self.enclave = Enclave(self.number, MODEL)

    @property
    def address(self) -> str:
        return self.signer.address

    def tick(self, *known: dict[str, str]) -> dict[str, str]:
        """The clock of its next message: what it knows of the job, and its own counter one higher."""
        self.counter += 1
        return merged({str(self.number): str(self.counter)}, *known)

    def ticket(self, draw: Draw) -> Ticket:
        alpha = bytes.fromhex(draw.seed) + bytes.fromhex(draw.vrf_prompt_hash)
        proof = vrf.prove(self.signer, alpha)
        output = vrf.verify(self.signer.public_key, alpha, proof)
        threshold = sortition.ticket_threshold(draw.range_start, draw.range_end, draw.tag, draw.position)
        drawn = Vrf(
            selected=sortition.ticket_value(output) < threshold,
            vrf_prompt_hash=draw.vrf_prompt_hash,
            vrf_random_value=output.hex(),
            vrf_verify_pubkey=self.signer.public_key.hex(),
            vrf_proof=proof.hex(),
        )
        return Ticket(
            job_id=draw.job_id,
            tag=draw.tag,
            position=draw.position,
            challenge=draw.challenge,
            operator=self.address,
            vrf=drawn,
            clock=self.tick(draw.clock),
        )

    def result(self, terms: Terms, ticket: Ticket, role: Role) -> tuple[str, JobResult]:
        """The signed frame of an answer, and what is in it."""
        said = {
            "result": TEXT,
            "role": role,
            "transcript": transcript(terms, self.address),
            **self._common(terms, ticket, terms.dispatch_clock),
            "dispatcher": terms.dispatcher,
            "counter": self.counter,
            "registry_block": terms.registry_block,
        }
        if self.enclosed:
            self.enclose(said, terms.job, terms.seed)
        if self.record is not None:
            said |= {"transcript": None, "record": self.record}
        self.bend(self, said)
        result = parse_message(JobResult, said)
        claim = result_claim(result, terms.job.params.digest(), _shown(result), seed=terms.draw_seed)
        said["signature"] = sign_typed(self.signer, self.domain, claim)
        return seal_request(self.signer, "8", "job_result", [said]).text, parse_message(JobResult, said)

    def enclose(self, said: dict[str, Any], job: JobSpec, seed: str) -> None:
        """Have the enclave seal an answer where its prompt was sealed, and make its statement on it."""
        commitment = NO_DIGEST
        if job.sealed is not None:
            place = {"seed": seed, "prover": self.address, "keyset": self.enclave.keyset.digest()}
            answer = {"text": said["result"], "transcript": said["transcript"]}
            said |= {"result": seal_answer(answer, job.sealed, **place), "transcript": None}
        else:
            commitment = Transcript.from_json(said["transcript"]).commitment()
        claim = execution_claim(parse_message(JobResult, said), job, seed, commitment)
        said["enclave"] = self.enclave.state(claim, self.domain)

    def score(
        self, terms: Terms, ticket: Ticket, score: Score, operator: str | None, known: dict[str, str]
    ) -> str:
        """The signed frame of a score; `known` is the clock of the call."""
        said = {
            "challenge": terms.challenge,
            "subject": score.subject,
            "subject_operator": operator,
            "score": score.to_json(),
            **self._common(terms, ticket, known),
        }
        self.bend(self, said)
        params = terms.job.params.digest()
        claim = score_claim(parse_message(JobScore, said), params, seed=terms.draw_seed)
        said["signature"] = sign_typed(self.signer, self.domain, claim)
        return seal_request(self.signer, "9", "job_score", [said]).text

    def _common(self, terms: Terms, ticket: Ticket, known: Any) -> dict[str, Any]:
        return {
            "user": terms.user,
            "job_id": terms.job_id,
            "tag": terms.tag,
            "position": terms.position,
            "reason": "",
            "vrf": ticket.vrf.to_json(),
            "clock": self.tick(dict(known)),
            "operator": self.address,
            "signature": "0" * 130,
            "model": MODEL.to_json(),
        }


def _shown(result: JobResult) -> Shown | None:
    """What is bound: of a record that is none, as it was bent, its digest as if it were one."""
    try:
        return read_shown(result)
    except InvalidRecord:
        return Record.model_construct(**(result.record or {}))


def transcript(terms: Terms, prover: str) -> dict[str, Any]:
    """What a worker would give for this job; nothing in the evidence depends on what the fingerprints are."""
    return {
        "rule": 1,
        "model": terms.model_sha256,
        "engine": "scripted",
        "params": terms.job.params.model_dump(),
        "seed": terms.seed,
        "prover": prover,
        "prompt_tokens": [1, 2, 3],
        "output_tokens": TOKENS,
        "fingerprints": fingerprint.to_text(bytes(fingerprint.BYTES * len(TOKENS))),
        "finish_reason": "eos",
    }


def merged(first: dict[str, str], *others: dict[str, str]) -> dict[str, str]:
    """The entry-wise greatest of clocks."""
    clock = VectorClock.from_map(first)
    for other in others:
        clock = clock.merge(VectorClock.from_map(other))
    return clock.to_map()
