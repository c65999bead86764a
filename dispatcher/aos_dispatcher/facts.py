"""What is fixed about a round before its draw, read from its row and its job's."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row

from aos_dispatcher.committee import Plan
from aos_dispatcher.tables import JsonObject
from aos_protocol import sortition
from aos_protocol.fields import EvidenceLevel, Position, Tag, parse_message
from aos_protocol.job import SubmitRequest
from aos_protocol.messages import ModelOffer

RoundKey = tuple[str, str, int]
"""What a message names a round by: job id, tag, and the challenge's number."""


@dataclass(frozen=True)
class RoundFacts:
    """A round and its job. `seed` draws its committee; only a challenge's is another than `job_seed`, from which answers are sampled.

    `least` is what its answers have to show at least. `fencing_token` is that of the lease under which it was read. `subject` is the id of the challenged result, `subject_frame` that result as its operator signed it.
    """

    round_id: int
    fencing_token: int
    job_id: str
    tag: Tag
    position: Position
    challenge: int
    audited: bool
    subject: str | None
    subject_frame: str | None
    request: SubmitRequest
    body: JsonObject
    sequence: int
    request_digest: str
    receipt: str
    seed: str
    seed_proof: str
    job_seed: str
    job_seed_proof: str
    model: ModelOffer
    prompt_hash: str
    clock: Mapping[str, str]
    deadline: float
    least: EvidenceLevel = "fingerprints"

    @classmethod
    def from_row(cls, row: Row[Any]) -> "RoundFacts":
        """Read a row of `RoundsStore.claim`; `deadline` becomes monotonic seconds of this process."""
        request = parse_message(SubmitRequest, row.request)
        left = (row.deadline - datetime.now(UTC)).total_seconds()
        return cls(
            round_id=row.id,
            fencing_token=row.fencing_token,
            job_id=row.job_id,
            tag=row.tag,
            position=row.position,
            challenge=row.challenge,
            audited=row.purpose == "audit",
            subject=row.subject,
            subject_frame=row.subject_frame,
            request=request,
            body=row.request,
            sequence=row.sequence,
            request_digest=row.request_digest,
            receipt=row.receipt,
            seed=row.seed or row.job_seed,
            seed_proof=row.seed_proof or row.job_seed_proof,
            job_seed=row.job_seed,
            job_seed_proof=row.job_seed_proof,
            model=ModelOffer(name=row.model, sha256=row.model_sha256),
            prompt_hash=request.job.prompt_hash(),
            clock=row.clock,
            deadline=time.monotonic() + left,
            least=row.least_evidence or "fingerprints",
        )

    @property
    def key(self) -> RoundKey:
        """What messages name this round by."""
        return self.job_id, self.tag, self.challenge

    @property
    def own(self) -> bool:
        """True for the round that the job ends with, rather than one that looks at it again."""
        return self.challenge == 0 and self.position != "before"

    @property
    def executes(self) -> bool:
        """True when the round makes an answer; a claim or a challenged result is only scored."""
        return self.challenge == 0 and self.request.job.claim is None

    @property
    def readers(self) -> frozenset[str] | None:
        """The operators with an enclave that can read a sealed prompt; None for a prompt that everybody can."""
        sealed = self.request.job.sealed
        return None if sealed is None else sealed.operators

    @property
    def alone(self) -> bool:
        """True when the executor of a sealed or direct prompt has nobody beside it: there is nothing that others could score."""
        return self.request.job.hidden

    @property
    def direct(self) -> bool:
        """True when the executor gets the prompt from the project's client, in a session."""
        return self.request.job.direct is not None

    def may_ask(self, operator: str) -> bool:
        """Whether the job itself lets this operator work on it: it can read a sealed prompt, and judges no claim of its own."""
        if self.readers is not None:
            return operator in self.readers
        claim = self.request.job.claim
        return claim is None or not claim.made_by(operator)

    @property
    def minimum(self) -> int:
        """How many members the committee has at least, if there are that many operators."""
        return sortition.committee_minimum(self.tag, audit=self.audited)

    def plan(self, members: int) -> Plan:
        """Return what is asked of a committee that was drawn with this many members.

        A challenge decides about an operator, so it fails with fewer than its minimum. A job is not lost for want of verifiers.
        """
        minimum = min(self.minimum, members)
        return Plan(
            executes=self.executes,
            blind=self.executes and self.tag == "malicious",
            minimum=minimum,
            needed=minimum if self.challenge else 1,
        )
