"""The form of a job's evidence document, version 1, as `GET /api/job/evidence/{job_id}` returns it.

Tickets, results and scores stand in it as the signed frames that operators sent, text for text, because that
text is what their signatures cover. `aos_protocol.evidence` checks a document.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from aos_protocol.fields import (
    Address,
    Block,
    Challenged,
    ClockMap,
    EvidenceLevel,
    Hex32,
    Message,
    Position,
    Proof,
    PublicKey,
    Role,
    Signature,
    Tag,
    Text,
)
from aos_protocol.log import LogDocument
from aos_protocol.messages import ModelOffer

VERSION = "aos-evidence/1"

Status = Literal["created", "dispatched", "completed", "failed", "cancelled"]
"""How far a job or a round is."""


class DispatcherIdentity(Message):
    """Who vouches for the job, and the key that its seed is proven with."""

    address: Address
    public_key: PublicKey


class DomainDocument(Message):
    """The EIP-712 domain of receipt and results."""

    chain_id: int = Field(ge=0)
    registry: Address


class JobDocument(Message):
    """The request, its place in the sequence, and how the job stands."""

    job_id: Hex32
    sequence: int = Field(ge=1)
    request: dict[str, Any]
    request_digest: Hex32
    receipt: Signature
    status: Status
    reason: str
    clock: ClockMap


class SeedDocument(Message):
    """The job's seed and its proof."""

    value: Hex32
    proof: Proof


class RegistryEntry(Message):
    """One operator's number and its `[start, end)` of the range."""

    operator: Address
    number: int = Field(ge=2)
    start: int = Field(ge=0)
    end: int = Field(ge=0)


class RegistryChain(Message):
    """Where a registry was read: the contract, and the block whose state it is."""

    chain_id: int = Field(ge=1)
    registry: Address
    block: Block
    block_hash: Hex32


class RegistryDocument(Message):
    """The registry as the draw saw it: a contract's at a block, or with `chain` null the dispatcher's own."""

    max_range: int = Field(ge=1)
    chain: RegistryChain | None
    operators: list[RegistryEntry]


class ElectorDocument(Message):
    """An operator that was asked for a ticket: its signed reply, and why it does not count if it does not."""

    operator: Address
    frame: str | None
    reason: str


class SeatDocument(Message):
    """One seat of the committee, in the draw's order."""

    operator: Address
    role: Role
    filled: bool
    state: Literal["assigned", "answered", "refused", "lost"]
    reason: str


class VerdictDocument(Message):
    """What follows from scores: `aos_protocol.verdict` says how."""

    outcome: Literal["match", "mismatch", "inconclusive"]
    level: Literal["fingerprint", "seeded", "greedy", "likelihood"] | None
    reason: str
    statistics: dict[str, float]
    tokens_needed: int | None = None


class PolicyDocument(Message):
    """How the dispatcher verified when the job came: which share of untagged jobs it had verified anyway, and what answers had to show at least.

    Without `least_evidence`, they had to have transcripts: nothing else was taken.
    """

    audit_ppm: int = Field(ge=0, le=1_000_000)
    least_evidence: EvidenceLevel | None = None


class PleaDocument(Message):
    """Who had a result scored again, and why: an operator by its EIP-712 signature, the project, or the dispatcher itself.

    The dispatcher does so when a round found a mismatch: nobody is punished for what only one committee has seen.
    """

    purpose: Literal["challenge", "appeal"]
    by: Literal["dispatcher", "project", "operator"]
    operator: Address | None
    reason: Text
    signature: Signature | None

    @model_validator(mode="after")
    def _signed_by_operators_only(self) -> Self:
        if (self.by == "operator", self.by == "operator") != (
            self.operator is not None,
            self.signature is not None,
        ):
            raise ValueError("an operator, and nobody else, has an address and a signature here")
        return self


class RoundDocument(Message):
    """One dispatch of the job; what has not happened yet is null or empty.

    A challenge (its number is not 0) has a `seed` of its own, as `subject` the signed frame of the result that it scores
    again, and a `plea`. `cause` is the tagged job that had this round held for another one. `scores` are the verifiers' signed frames,
    `calibration` the digest of the one by which they are judged, null where the dispatcher had none.
    """

    verify_id: str
    tag: Tag
    position: Position
    challenge: Challenged
    cause: Hex32 | None
    seed: SeedDocument | None
    subject: str | None
    plea: PleaDocument | None
    scores: list[str]
    calibration: Hex32 | None
    verdict: VerdictDocument | None
    model: ModelOffer
    status: Status
    registry: RegistryDocument | None
    draw_clock: ClockMap | None
    electorate: list[ElectorDocument] | None
    dispatch_clock: ClockMap | None
    committee: list[SeatDocument]
    results: list[str]


class RejectionDocument(Message):
    """What an operator sent and was refused."""

    operator: Address
    reason: str
    frame: str


class Evidence(Message):
    """The whole document; `calibrations` has those that its rounds name, by which verdicts follow from scores.

    `log` is what the dispatcher's transparency log has about the job.
    """

    version: Literal["aos-evidence/1"]
    dispatcher: DispatcherIdentity
    domain: DomainDocument
    job: JobDocument
    seed: SeedDocument
    policy: PolicyDocument
    calibrations: list[dict[str, Any]]
    rounds: Annotated[list[RoundDocument], Field(min_length=1)]
    rejections: list[RejectionDocument]
    log: LogDocument | None
