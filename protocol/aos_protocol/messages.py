"""What projects, dispatchers and operators say to each other, as AOS names it, with what evidence needs.

Every model is strict and closed: a wrong type or an unknown field is an error, never a guess. Names
and types of the published fields are kept; fields of ours stand beside them. `docs/protocol.md`
tells in which order the messages travel.
"""

import base64
import binascii
import hashlib
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from aos_protocol import fingerprint
from aos_protocol.canonical import JsonValue, canonical, digest
from aos_protocol.clock import VectorClock
from aos_protocol.errors import InvalidAddress, InvalidClock, InvalidMessage, InvalidTranscript
from aos_protocol.identity import checksum_address

NO_DIGEST = "0" * 64
"""Stands where a result has nothing to bind: no transcript, no attestation."""

MAX_BOXES = 16
"""How many enclaves a prompt can be sealed to."""

MAX_BOX_CHARACTERS = 960 << 10
"""How many characters the boxes of a sealed prompt have together, so that a request with them is a body of less than 1 MiB."""

UNSELECTED = "unselected worker by vrf"
"""AOS's reason of an operator that a draw did not choose."""


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain U+0000")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must not contain half of a surrogate pair") from None
    return text


def _address(text: str) -> str:
    try:
        checksummed = checksum_address(text)
    except InvalidAddress as error:
        raise ValueError(str(error)) from None
    if checksummed != text:
        raise ValueError(f"is not in EIP-55 form; write {checksummed}")
    return text


def _clock(value: dict[str, str]) -> dict[str, str]:
    try:
        VectorClock.from_map(value)
    except InvalidClock as error:
        raise ValueError(str(error)) from None
    return value


def _base64(text: str) -> str:
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not base64 (RFC 4648, section 4)") from None
    if base64.b64encode(decoded).decode() != text:
        raise ValueError("is not the one base64 form of its bytes")
    return text


Text = Annotated[str, AfterValidator(_storable)]
Base64 = Annotated[str, AfterValidator(_base64)]
ShortText = Annotated[str, StringConstraints(min_length=1, max_length=256), AfterValidator(_storable)]
Hex32 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Hex64 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]
PublicKey = Annotated[str, StringConstraints(pattern=r"^0[23][0-9a-f]{64}$")]
Proof = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{162}$")]
Signature = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{130}$")]
Address = Annotated[str, AfterValidator(_address)]
ClockMap = Annotated[dict[str, str], AfterValidator(_clock)]
Tag = Literal["", "suspicion", "malicious"]
Position = Literal["", "before", "after"]
WorkerType = Literal["opml", "tee"]
Role = Literal["executor", "verifier"]
TokenId = Annotated[int, Field(ge=0, lt=2**24)]
Block = Annotated[int, Field(ge=0, lt=2**53)]
"""The number of a block of the chain that the registry is on; 0 where there is none."""
Challenged = Annotated[int, Field(ge=0, lt=2**31)]
"""Which challenge of a job's result a round decides; 0 for a round that none asked for."""


class Message(BaseModel):
    """Base of everything said: strict types, no unknown fields, immutable."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, populate_by_name=True)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that travels, with the published field names."""
        return self.model_dump(by_alias=True, exclude_none=True)


M = TypeVar("M", bound=Message)


class Params(Message):
    """Sampling parameters; what a project leaves out has these defaults, which its digest covers too."""

    temperature: float = Field(1.0, ge=0, le=5, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1, allow_inf_nan=False)
    max_tokens: int = Field(256, ge=1, le=65_536)
    stop: list[ShortText] = Field(default_factory=list, max_length=4)

    def digest(self) -> str:
        """Return the SHA-256 hex of all parameters in canonical JSON, defaults included."""
        return digest(self.model_dump())


class ChatMessage(Message):
    """One turn of a conversation, for models with a chat template."""

    role: Literal["system", "user", "assistant"]
    content: Text


class Claim(Message):
    """An answer that somebody claims to have from the model: its text or its token ids, and what else makes it checkable.

    `seed` is the job's seed that it was drawn with, `fingerprints` are its transcript's, made by `prover`. The more a
    claim brings, the stronger its verdict: likelihood, greedy (temperature 0), seeded, fingerprint.
    """

    text: Annotated[str, StringConstraints(min_length=1), AfterValidator(_storable)] | None = None
    output_tokens: list[TokenId] | None = Field(default=None, min_length=1, max_length=65_536)
    seed: Hex32 | None = None
    prover: (
        Annotated[str, StringConstraints(min_length=1, max_length=64), AfterValidator(_storable)] | None
    ) = None
    fingerprints: Text | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.text is None) == (self.output_tokens is None):
            raise ValueError("give exactly one of text and output_tokens")
        if self.fingerprints is None:
            return self
        if self.output_tokens is None or self.seed is None or self.prover is None:
            raise ValueError("fingerprints need output_tokens, seed and prover beside them")
        try:
            fingerprint.from_text(self.fingerprints, len(self.output_tokens))
        except InvalidTranscript as error:
            raise ValueError(str(error)) from None
        return self

    def made_by(self, operator: str) -> bool:
        """Whether this operator is named as the prover, who does not judge."""
        return self.prover is not None and self.prover.lower() == operator.lower()

    def digest(self) -> str:
        """Return the SHA-256 hex of the claim's canonical JSON, which scores name as their subject."""
        return digest(self.to_json())


class SealedBox(Message):
    """A prompt encrypted to one enclave: which operator it is behind, its keyset's digest, and the HPKE message."""

    operator: Address
    keyset: Hex32
    box: Annotated[Base64, StringConstraints(min_length=1)]


class Sealed(Message):
    """A prompt that only enclaves can read, and the key to which they encrypt the answer (`aos_protocol.sealing`).

    `suite` are the code points of RFC 9180: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM. `reply_key` is an X25519
    public key, made for this job alone. Any enclave that a box is for may run the job.
    """

    suite: Literal["0x0020-0x0001-0x0002"]
    reply_key: Hex32
    boxes: list[SealedBox] = Field(min_length=1, max_length=MAX_BOXES)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len({box.keyset for box in self.boxes}) != len(self.boxes):
            raise ValueError("two boxes are for the same keyset")
        total = sum(len(box.box) for box in self.boxes)
        if total > MAX_BOX_CHARACTERS:
            raise ValueError(
                f"its boxes have {total} characters, at most {MAX_BOX_CHARACTERS} are taken: seal a shorter prompt, or to fewer enclaves"
            )
        return self

    @property
    def operators(self) -> frozenset[str]:
        """The operators that have an enclave which can read it."""
        return frozenset(box.operator for box in self.boxes)

    def has_box(self, operator: str, keyset: str) -> bool:
        """Whether the enclave with this keyset (its digest) can read it, behind this operator."""
        return any((box.operator, box.keyset) == (operator, keyset) for box in self.boxes)


class JobSpec(Message):
    """What to run: a raw `prompt`, chat `messages` or a `sealed` prompt. With a `claim`, nothing is run: the claim is scored."""

    tag: WorkerType
    prompt: Text | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1024)] | None = None
    sealed: Sealed | None = None
    model: ShortText
    params: Params = Params()
    claim: Claim | None = None

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if sum(given is not None for given in (self.prompt, self.messages, self.sealed)) != 1:
            raise ValueError("give exactly one of prompt, messages and sealed")
        if self.sealed is not None and (self.tag != "tee" or self.claim is not None):
            raise ValueError("a sealed prompt needs job type tee, and allows no claim")
        return self

    def prompt_bytes(self) -> bytes:
        """Return what stands for the prompt wherever it is hashed: its UTF-8, else RFC 8785 JSON of messages or the sealed form."""
        if self.prompt is not None:
            return self.prompt.encode()
        if self.sealed is not None:
            return canonical(self.sealed.to_json())
        turns: JsonValue = [turn.model_dump() for turn in self.messages or []]
        return canonical(turns)

    def prompt_hash(self) -> str:
        """Return the SHA-512 hex of `prompt_bytes`, as `vrf_prompt_hash` shows it."""
        return hashlib.sha512(self.prompt_bytes()).hexdigest()

    def prompt_digest(self) -> str:
        """Return the SHA-256 hex of `prompt_bytes`, which an enclave's signature covers."""
        return hashlib.sha256(self.prompt_bytes()).hexdigest()


class SubmitRequest(Message):
    """The body of `/api/job/submit` without its token, which is what a job id binds."""

    project: ShortText = Field(alias="from")
    tag: Tag = ""
    user: ShortText
    job: JobSpec


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


class Connect(Message):
    """An operator's answer to a challenge; signed by itself (`frames.seal_object`) besides its frame."""

    operator: Address
    workers: list[WorkerType] = Field(min_length=1, max_length=2)
    models: list[ModelOffer] = Field(max_length=256)
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
    """The `result` of every reply; a draw's has the `ticket` besides, `attest`'s the `attestation`, `connect`'s is a `Welcome`."""

    code: int
    message: Text = Field(max_length=4096)
    ticket: dict[str, Any] | None = None
    attestation: dict[str, Any] | None = None


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
    operator that remembers nothing of the draw check and answer it. `seat` is the dispatcher's signature over `typed_data.SeatClaim`.
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


class JobResult(Message):
    """`job_result`: a signed answer, or with a `reason` and an empty result, why there is none.

    `counter` is the operator's own entry of `clock`, `registry_block` the draw's. `signature` is the EIP-712 signature over `typed_data.ResultClaim`; `transcript` is absent without an answer. An answer to a `tee`
    job has an `enclave` statement (`attestation.statement.EnclaveStatement`). One to a sealed prompt has no transcript, and its
    `result` is the sealed answer in base64.
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


def parse_message(kind: type[M], value: object) -> M:
    """Validate a received JSON object as a message of this kind.

    Raises `InvalidMessage` that names every offending field.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise InvalidMessage(f"{kind.__name__}: {describe(error)}") from None


def describe(error: ValidationError) -> str:
    """Put a pydantic error into one line: each field's path and what is wrong with it, no input echoed."""
    parts = []
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        where = ".".join(str(step) for step in problem["loc"])
        said = problem["msg"].removeprefix("Value error, ")
        parts.append(f"{where}: {said}" if where else said)
    return "; ".join(parts)
