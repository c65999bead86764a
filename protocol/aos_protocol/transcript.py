"""What a model run did, token by token, and the commitment to it.

As JSON a transcript is one object with these members and no others:

    rule            the sampling rule's version (`aos_protocol.sampling`)
    model           SHA-256 of the GGUF file, 64 lowercase hex digits
    engine          the build that ran it, as text
    params          the effective parameters, all present: max_tokens, stop, temperature, top_p
    prompt_tokens   token ids that the model was given
    output_tokens   token ids that it drew, an end-of-sequence token included
    finish_reason   "eos": the last token ends the sequence; "stop": a stop sequence appeared in the text;
                    "length": max_tokens or the context's end was reached

The commitment is the Merkle root (`aos_protocol.merkle`), in hex, over 1 + n leaves for n output tokens:

    leaf 0      canonical JSON (RFC 8785, UTF-8) of the object above without output_tokens, plus "steps": n
    leaf 1 + i  i as 32 bit little-endian ‖ output token i as 32 bit little-endian

So a single step can be shown with its proof and leaf 0, whose "steps" gives the tree's size, n + 1.
"""

import struct
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, model_validator

from aos_protocol import merkle
from aos_protocol.canonical import JsonObject, canonical
from aos_protocol.errors import InvalidTranscript

MAX_TOKENS = 2**20
MAX_STOPS = 4

TokenId: TypeAlias = Annotated[int, Field(ge=0, lt=2**24)]
StopText: TypeAlias = Annotated[str, Field(min_length=1, max_length=256)]
FinishReason: TypeAlias = Literal["eos", "stop", "length"]

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
    engine: str = Field(min_length=1, max_length=1024)
    params: Params
    prompt_tokens: Annotated[tuple[TokenId, ...], Strict(False)] = Field(min_length=1, max_length=MAX_TOKENS)
    output_tokens: Annotated[tuple[TokenId, ...], Strict(False)] = Field(min_length=1, max_length=MAX_TOKENS)
    finish_reason: FinishReason

    @model_validator(mode="after")
    def _within_limit(self) -> Self:
        if len(self.output_tokens) > self.params.max_tokens:
            raise ValueError(
                f"{len(self.output_tokens)} output tokens exceed max_tokens {self.params.max_tokens}"
            )
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
        header: JsonObject = self.model_dump(mode="json", exclude={"output_tokens"})
        header["steps"] = len(self.output_tokens)
        steps = (_STEP.pack(position, token) for position, token in enumerate(self.output_tokens))
        return [canonical(header), *steps]

    def commitment(self) -> str:
        """The Merkle root over the leaves, 64 hex digits."""
        return merkle.root(self.leaves()).hex()

    def step_proof(self, step: int) -> list[bytes]:
        """The inclusion proof of output token `step` (leaf 1 + step of n + 1).

        Raises InvalidTranscript when there is no such step.
        """
        if not 0 <= step < len(self.output_tokens):
            raise InvalidTranscript(f"No step {step} in a transcript of {len(self.output_tokens)}.")
        return merkle.inclusion_proof(self.leaves(), 1 + step)
