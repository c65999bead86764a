"""What projects, dispatchers and operators say to each other, as AOS names it, with what evidence needs.

Every model is strict and closed: a wrong type or an unknown field is an error, never a guess. Names
and types of the published fields are kept; fields of ours stand beside them. `docs/protocol.md`
tells in which order the messages travel.
"""

import hashlib
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, Strict, StringConstraints

from aos_protocol.fields import (
    Ability,
    Address,
    Base64,
    Block,
    Challenged,
    ClockMap,
    EvidenceLevel,
    Hex32,
    Hex64,
    Message,
    ModelKind,
    Position,
    Proof,
    PublicKey,
    Role,
    ShortText,
    Signature,
    Tag,
    Text,
    WorkerType,
    storable,
)
from aos_protocol.job import MAX_LOGPROBS, JobSpec

NO_DIGEST = "0" * 64
"""Stands where a result has nothing to bind: no transcript, no attestation."""

MAX_PROMPT_BOX = 960 << 10
"""How many characters a direct prompt's box has at most, so that it fits a body of less than 1 MiB."""

MAX_CHUNK_BOX = 36 << 10
"""How many characters the box of one piece of a direct answer has at most."""

UNSELECTED = "unselected worker by vrf"
"""AOS's reason of an operator that a draw did not choose."""


class Receipt(Message):
    """A dispatcher's signed word that it accepted a request under this id and place in its sequence."""

    job_id: Hex32
    sequence: int = Field(ge=1)
    request_digest: Hex32
    dispatcher: Address
    signature: Signature


class Challenge(Message):
    """First word of a dispatcher on `/ws`: what `connect` must answer, and in which EIP-712 domain to sign."""

    nonce: Hex32
    dispatcher: Address
    public_key: PublicKey
    chain_id: int = Field(ge=0)
    registry: Address


class ModelOffer(Message):
    """A model that an operator's worker serves: its name and the SHA-256 of its GGUF."""

    name: ShortText
    sha256: Hex32


class Instance(Message):
    """A running model as whoever runs it registered it: for which project, and in which container (`cid`)."""

    project: ShortText
    cid: Annotated[str, StringConstraints(max_length=128), AfterValidator(storable)] = ""
    kind: ModelKind = 0


class ServedModel(ModelOffer):
    """A model as an operator announces it: what can be shown of its answers, which kinds of job it takes, and what else of those."""

    evidence: EvidenceLevel = "fingerprints"
    kinds: list[ModelKind] = Field(default=[0], min_length=1, max_length=3)
    able: list[Ability] = Field(default=["chat"], max_length=3)
    instances: list[Instance] = Field(default=[], max_length=64)


class DirectOffer(Message):
    """How a project's client reaches an operator itself: the X25519 key to encrypt to, and where it listens, if it can be reached."""

    key: Hex32
    url: Annotated[str, StringConstraints(min_length=1, max_length=1024), AfterValidator(storable)] | None = (
        None
    )


class Session(Message):
    """A dispatcher's word to a project's client, by which it talks to the operator that its `direct` job was given to (docs/protocol.md).

    It is for the job of that id, for this model file and seed. The prompt goes to the X25519 `key`, at `url` if there is one, and has to be there
    by `expires_at` (Unix seconds). `signature` is EIP-712 over `typed_data.SessionClaim`.
    """

    job_id: Hex32
    dispatcher: Address
    operator: Address
    model: ModelOffer
    seed: Hex32
    key: Hex32
    url: Annotated[str, StringConstraints(min_length=1, max_length=1024), AfterValidator(storable)] | None = (
        None
    )
    expires_at: int = Field(ge=0, lt=2**53)
    signature: Signature


class Connect(Message):
    """An operator's answer to a challenge; signed by itself (`frames.seal_object`) besides its frame."""

    operator: Address
    workers: list[WorkerType] = Field(min_length=1, max_length=2)
    models: list[ServedModel] = Field(max_length=256)
    direct: DirectOffer | None = None
    nonce: Hex32
    hash: Hex32
    signature: Signature


class Welcome(Message):
    """The reply to `connect`: the operator's participant number and the last clock seen from it."""

    code: Literal[200] = 200
    message: Literal["success"] = "success"
    number: int = Field(ge=2)
    clock: ClockMap


class Draw(Message):
    """A dispatcher's call for tickets: all that a ticket needs, and nothing of the prompt but its hash."""

    job_id: Hex32
    tag: Tag
    position: Position
    challenge: Challenged = 0
    job_type: WorkerType
    model: ModelOffer
    seed: Hex32
    seed_proof: Proof
    vrf_prompt_hash: Hex64
    range_start: int = Field(ge=0)
    range_end: int = Field(ge=0)
    registry_block: Block = 0
    clock: ClockMap


class Reply(Message):
    """The `result` of every reply; a draw's has the `ticket` besides, `attest`'s the `attestation`, `connect`'s is a `Welcome`.

    That to the dispatch of a `direct` job has `accepted`, the digest of the session's JSON: its sender's word that the session's key is its own.
    """

    code: int
    message: Text = Field(max_length=4096)
    ticket: dict[str, Any] | None = None
    attestation: dict[str, Any] | None = None
    accepted: Hex32 | None = None


class Attest(Message):
    """`attest`: a dispatcher's call for a fresh attestation of the enclave behind an operator, on somebody's nonce."""

    model: ShortText
    nonce: Hex32


class Vrf(Message):
    """An operator's ticket as the published `vrf` object shows it."""

    selected: bool
    vrf_prompt_hash: Hex64
    vrf_random_value: Hex32
    vrf_verify_pubkey: PublicKey
    vrf_proof: Proof

    def digest(self, seed: str) -> str:
        """Return the SHA-256 hex of what the ticket was drawn on (seed, then SHA-512 of the prompt) and of its proof.

        Signatures of results and scores bind it, so that a contract that is shown these bytes can check the proof.
        """
        return hashlib.sha256(bytes.fromhex(seed + self.vrf_prompt_hash + self.vrf_proof)).hexdigest()


class Ticket(Message):
    """An operator's answer to a draw, selected or not. It is the `ticket` of a 200 reply."""

    job_id: Hex32
    tag: Tag
    position: Position
    challenge: Challenged = 0
    operator: Address
    vrf: Vrf
    clock: ClockMap


class Dispatch(Message):
    """`dispatch_job`: the whole job to one member of its committee.

    `signature` is the dispatcher's receipt for `job_id`, `sequence` and `request_digest`. With the seed's proof and the range, it lets an
    operator that remembers nothing of the draw check and answer it. `seat` is the dispatcher's signature over `typed_data.SeatClaim`. A
    `direct` job comes with the `session` that its client is given once the operator has accepted it.
    """

    user: ShortText
    seed: Hex32
    tag: Tag
    position: Position
    signature: Signature
    clock: ClockMap
    job_id: Hex32
    job: JobSpec
    sequence: int = Field(ge=1)
    request_digest: Hex32
    seed_proof: Proof
    range_start: int = Field(ge=0)
    range_end: int = Field(ge=0)
    registry_block: Block = 0
    role: Role
    seat: Signature
    model: ModelOffer
    session: Session | None = None


class DirectPrompt(Message):
    """`direct_prompt`: a client's sealed prompt, as the dispatcher relays it to an operator that it cannot reach itself.

    `route` names the process that has the client, which the operator repeats in what it answers.
    """

    job_id: Hex32
    route: ShortText
    box: Annotated[Base64, StringConstraints(min_length=1, max_length=MAX_PROMPT_BOX)]


class DirectChunk(Message):
    """A sealed piece of an answer to a direct prompt, and whether it is the last."""

    last: bool
    box: Annotated[Base64, StringConstraints(min_length=1, max_length=MAX_CHUNK_BOX)]


class DirectChunks(Message):
    """`direct_chunks`: what has come of the answer to a relayed prompt. It is a notice: it has no clock, and gets no reply."""

    job_id: Hex32
    route: ShortText
    chunks: list[DirectChunk] = Field(min_length=1, max_length=64)


class ScoreCall(Message):
    """`score_job`: a claim or an executor's answer to one verifier of the committee, which scores it.

    As in a `Dispatch`, `signature` is the receipt and `seed` the round's, on which the ticket is drawn. `job_seed` is the job's
    own, from which answers are sampled: another one only in a challenge. `subject` is the executor's `job_result` frame as it
    signed it, or None when the job carries a claim.
    """

    user: ShortText
    seed: Hex32
    seed_proof: Proof
    job_seed: Hex32
    job_seed_proof: Proof
    tag: Tag
    position: Position
    challenge: Challenged
    signature: Signature
    clock: ClockMap
    job_id: Hex32
    job: JobSpec
    sequence: int = Field(ge=1)
    request_digest: Hex32
    range_start: int = Field(ge=0)
    range_end: int = Field(ge=0)
    model: ModelOffer
    subject: str | None = None


Logprob = Annotated[float, Field(le=0, allow_inf_nan=False)]


class TokenLogprob(Message):
    """A token's text, the natural logarithm of its probability before temperature and top-p, and the likeliest in its place."""

    token: Text
    logprob: Logprob
    # JSON arrays arrive as lists, hence not strict about the container.
    top: list[Annotated[tuple[Text, Logprob], Strict(False)]] = Field(default=[], max_length=MAX_LOGPROBS)


class Delta(Message):
    """Text that has come of a job since the last that was told of it; `start` is how many characters of the answer came before.

    While the job waits for a place on its model, `position` says how many are before it, from 1, and there is no text.
    """

    job_id: Hex32
    tag: Tag
    start: int = Field(0, ge=0)
    text: Text = ""
    logprobs: list[TokenLogprob] | None = None
    position: int | None = Field(None, ge=1)


class JobStream(Message):
    """`job_stream`: what has come of an operator's streamed jobs. It is a notice: it has no clock, and gets no reply."""

    deltas: list[Delta] = Field(min_length=1, max_length=256)


class JobResult(Message):
    """`job_result`: a signed answer, or with a `reason` and an empty result, why there is none.

    `counter` is the operator's own entry of `clock`, `registry_block` the draw's. `signature` is the EIP-712 signature over `typed_data.ResultClaim`; `transcript` is absent without an answer. An answer to a `tee`
    job has an `enclave` statement (`attestation.statement.EnclaveStatement`). One to a sealed prompt has no transcript, and its
    `result` is the sealed answer in base64. One of a backend that can show no transcript has a `record` (`aos_protocol.record`) in its
    place, which the signature binds in the same way.
    """

    user: ShortText
    job_id: Hex32
    result: str
    reason: Text = Field(max_length=4096)
    vrf: Vrf
    tag: Tag
    clock: ClockMap
    dispatcher: Address
    operator: Address
    counter: int = Field(ge=1)
    registry_block: Block = 0
    signature: Signature
    position: Position
    role: Role
    model: ModelOffer
    transcript: dict[str, Any] | None = None
    enclave: dict[str, Any] | None = None
    record: dict[str, Any] | None = None
    logprobs: list[TokenLogprob] | None = None

    @property
    def answered(self) -> bool:
        """True when this carries an answer rather than a reason for having none."""
        return self.reason == ""


class JobScore(Message):
    """`job_score`: a verifier's signed score of a subject, or with a `reason`, why there is none.

    `subject` is the digest of what was scored: a transcript's commitment, made by `subject_operator`, or a claim's digest.
    `signature` is the EIP-712 signature over `typed_data.ScoreClaim`.
    """

    user: ShortText
    job_id: Hex32
    tag: Tag
    position: Position
    challenge: Challenged
    subject: Hex32
    subject_operator: Address | None = None
    score: dict[str, Any] | None = None
    reason: Text = Field(max_length=4096)
    vrf: Vrf
    clock: ClockMap
    operator: Address
    signature: Signature
    model: ModelOffer

    @property
    def answered(self) -> bool:
        """True when this carries a score rather than a reason for having none."""
        return self.reason == ""
