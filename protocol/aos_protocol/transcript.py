"""What a model run did, token by token, and the commitment to it.

As JSON a transcript is one object with these members and no others:

    rule            the sampling rule's version (`aos_protocol.sampling`)
    model           SHA-256 of the GGUF file, 64 lowercase hex digits
    engine          the build that ran it, as text
    params          the effective parameters, all present: max_tokens, stop, temperature, top_p
    seed            the job's seed, 64 lowercase hex digits, from which the sampling seed derives
    prover          whose fingerprints these are: an operator's address
    prompt_tokens   token ids that the model was given
    output_tokens   token ids that it drew, an end-of-sequence token included
    fingerprints    16 bytes an output token (`aos_protocol.fingerprint`), base64
    finish_reason   "eos": the last token ends the sequence; "stop": a stop sequence appeared in the text;
                    "length": max_tokens or the context's end was reached

The commitment is the Merkle root (`aos_protocol.merkle`), in hex, over 1 + n leaves for n output tokens:

    leaf 0      canonical JSON (RFC 8785, UTF-8) of the object above without output_tokens and fingerprints, plus "steps": n
    leaf 1 + i  i as 32 bit little-endian ‖ output token i as 32 bit little-endian ‖ its fingerprint, 16 bytes

So a single step can be shown with its proof and leaf 0, whose "steps" gives the tree's size, n + 1: a `StepProof`.
"""

import struct
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, model_validator

from aos_protocol import fingerprint, merkle
from aos_protocol.canonical import JsonObject, canonical
from aos_protocol.errors import InvalidTranscript, NotCanonical

MAX_TOKENS = 2**20
MAX_STOPS = 16

TokenId: TypeAlias = Annotated[int, Field(ge=0, lt=2**24)]
StopText: TypeAlias = Annotated[str, Field(min_length=1, max_length=256)]
FinishReason: TypeAlias = Literal["eos", "stop", "length"]
Node: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

_NO_NUL = r"^[^\x00]*$"  # which no database stores
_STEP = struct.Struct("<II")


class Params(BaseModel):
    """The effective sampling parameters of a run."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    # JSON arrays arrive as lists, hence not strict about the container.
    temperature: float = Field(ge=0, le=5)
    top_p: float = Field(gt=0, le=1)
    max_tokens: int = Field(ge=1, le=MAX_TOKENS)
    stop: Annotated[tuple[StopText, ...], Strict(False)] = Field(max_length=MAX_STOPS)


class Transcript(BaseModel):
    """One run of a model, as the module's docstring describes it."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    rule: int = Field(ge=1, le=2**16)
    model: str = Field(pattern=r"^[0-9a-f]{64}$")
    engine: str = Field(min_length=1, max_length=1024, pattern=_NO_NUL)
    params: Params
    seed: str = Field(pattern=r"^[0-9a-f]{64}$")
    prover: str = Field(min_length=1, max_length=64, pattern=_NO_NUL)
    prompt_tokens: Annotated[tuple[TokenId, ...], Strict(False)] = Field(min_length=1, max_length=MAX_TOKENS)
    output_tokens: Annotated[tuple[TokenId, ...], Strict(False)] = Field(min_length=1, max_length=MAX_TOKENS)
    fingerprints: str
    finish_reason: FinishReason

    @model_validator(mode="after")
    def _within_limit(self) -> Self:
        if len(self.output_tokens) > self.params.max_tokens:
            raise ValueError(
                f"{len(self.output_tokens)} output tokens exceed max_tokens {self.params.max_tokens}"
            )
        try:
            fingerprint.from_text(self.fingerprints, len(self.output_tokens))
        except InvalidTranscript as error:
            raise ValueError(str(error)) from None
        return self

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Check a decoded JSON value. Raises InvalidTranscript, which names the first wrong member."""
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "transcript"
            raise InvalidTranscript(f"{where}: {first['msg']}") from error

    def to_json(self) -> JsonObject:
        """The JSON object that `from_json` reads."""
        return self.model_dump(mode="json")

    def leaves(self) -> list[bytes]:
        """The commitment's leaves: the header, then one a step."""
        data = fingerprint.from_text(self.fingerprints, len(self.output_tokens))
        steps = (
            _STEP.pack(position, token)
            + data[position * fingerprint.BYTES : (position + 1) * fingerprint.BYTES]
            for position, token in enumerate(self.output_tokens)
        )
        return [canonical(self.header()), *steps]

    def header(self) -> JsonObject:
        """The JSON object of leaf 0."""
        header: JsonObject = self.model_dump(mode="json", exclude={"output_tokens", "fingerprints"})
        return {**header, "steps": len(self.output_tokens)}

    def commitment(self) -> str:
        """The Merkle root over the leaves, 64 hex digits."""
        return merkle.root(self.leaves()).hex()

    def step_proof(self, step: int) -> "StepProof":
        """What shows output token `step` to somebody who knows the commitment only.

        Raises InvalidTranscript when there is no such step.
        """
        if not 0 <= step < len(self.output_tokens):
            raise InvalidTranscript(f"No step {step} in a transcript of {len(self.output_tokens)}.")
        leaves = self.leaves()
        return StepProof(
            header=self.header(),
            header_proof=[node.hex() for node in merkle.inclusion_proof(leaves, 0)],
            position=step,
            token=self.output_tokens[step],
            fingerprint=leaves[1 + step][_STEP.size :].hex(),
            proof=[node.hex() for node in merkle.inclusion_proof(leaves, 1 + step)],
        )


class StepProof(BaseModel):
    """One step of a transcript, with the proofs that tie it and the transcript's header to a commitment."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    header: dict[str, Any]
    header_proof: list[Node] = Field(max_length=32)
    position: int = Field(ge=0, lt=MAX_TOKENS)
    token: TokenId
    fingerprint: str = Field(pattern=r"^[0-9a-f]{32}$")
    proof: list[Node] = Field(max_length=32)

    def check(self, commitment: str) -> None:
        """Raise InvalidTranscript unless the step and the header are those of the transcript with this commitment."""
        root, header, steps = _root(commitment), self._header(), self.header.get("steps")
        if type(steps) is not int or not 0 < steps <= MAX_TOKENS:
            raise InvalidTranscript(
                "The header of the step's transcript does not say how many steps there are."
            )
        if not merkle.verify_inclusion(header, 0, steps + 1, _nodes(self.header_proof), root):
            raise InvalidTranscript("The header is not that of the transcript with this commitment.")
        leaf = _STEP.pack(self.position, self.token) + bytes.fromhex(self.fingerprint)
        if not merkle.verify_inclusion(leaf, 1 + self.position, steps + 1, _nodes(self.proof), root):
            raise InvalidTranscript(
                f"Step {self.position} is not that of the transcript with this commitment."
            )

    def _header(self) -> bytes:
        try:
            return canonical(self.header)
        except NotCanonical as error:
            raise InvalidTranscript(
                f"The header of the step's transcript has no canonical form: {error}"
            ) from error


def _root(commitment: str) -> bytes:
    try:
        return bytes.fromhex(commitment)
    except ValueError as error:
        raise InvalidTranscript("A commitment is 64 hex digits.") from error


def _nodes(proof: list[str]) -> list[bytes]:
    return [bytes.fromhex(node) for node in proof]
