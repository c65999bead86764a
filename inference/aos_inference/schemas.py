"""The bodies of the worker's HTTP API."""

from typing import Annotated, Final, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, Strict, model_validator

from aos_protocol import fingerprint
from aos_protocol.errors import InvalidTranscript
from aos_protocol.fields import Ability, EvidenceLevel
from aos_protocol.job import MAX_LOGPROBS
from aos_protocol.messages import TokenLogprob
from aos_protocol.score_document import Score
from aos_protocol.transcript import MAX_STOPS, MAX_TOKENS, FinishReason, Params, StopText, TokenId, Transcript

MAX_ITEMS: Final = 64

HexSeed: TypeAlias = Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$")]
Prover: TypeAlias = Annotated[str, Field(min_length=1, max_length=64)]
Tokens: TypeAlias = Annotated[tuple[TokenId, ...], Strict(False), Field(min_length=1, max_length=MAX_TOKENS)]


class _Request(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Message(_Request):
    """One chat message."""

    role: Literal["system", "user", "assistant"]
    content: str


class RequestParams(Params):
    """Sampling parameters as asked for; what is left out takes the default."""

    temperature: float = Field(default=1.0, ge=0, le=5)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=256, ge=1, le=2**20)
    stop: Annotated[tuple[StopText, ...], Strict(False)] = Field(default=(), max_length=MAX_STOPS)


class GenerateRequest(_Request):
    """A job for the model: a raw prompt or chat messages, the job's seed, and whose fingerprints the answer will carry.

    With a `suffix`, what is between the prompt and that is filled in. With `logprobs`, the answer says how likely each token and that many
    others were.
    """

    model: str
    prompt: str | None = None
    suffix: str | None = None
    messages: Annotated[tuple[Message, ...], Strict(False)] | None = Field(default=None, min_length=1)
    params: RequestParams = RequestParams()
    seed: HexSeed = Field(description="the job's seed, 32 bytes in hex")
    prover: Prover = Field(description="the operator's address, which the fingerprints are bound to")
    stream: bool = False
    logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give exactly one of prompt and messages")
        return self

    @model_validator(mode="after")
    def _some_prompt(self) -> Self:
        _check_prompt(self.prompt, self.suffix)
        return self


def _check_prompt(prompt: str | None, suffix: str | None) -> None:
    if suffix is not None and prompt is None:
        raise ValueError("a suffix needs a prompt beside it, which may be empty")
    if not (prompt is None or prompt or suffix):
        raise ValueError("prompt: give at least 1 character")


class Said(_Request):
    """What an answer says beside its output tokens, which its score then confirms or contradicts.

    One with a record in place of a transcript says its text only.
    """

    text: str
    finish_reason: FinishReason | None = None
    prompt_tokens: Tokens | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.finish_reason is None) != (self.prompt_tokens is None):
            raise ValueError("give both of finish_reason and prompt_tokens, or neither")
        return self


class ScoreItem(_Request):
    """An answer to score: what was asked, what was answered, and what else came with the answer."""

    prompt: str | None = None
    suffix: str | None = None
    messages: Annotated[tuple[Message, ...], Strict(False)] | None = Field(default=None, min_length=1)
    prompt_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    text: str | None = Field(default=None, min_length=1)
    params: RequestParams = RequestParams()
    seed: HexSeed | None = Field(default=None, description="the seed of the job that the answer is to")
    prover: Prover | None = None
    fingerprints: str | None = Field(default=None, description="as in a transcript, made by the prover")
    answer: Said | None = Field(default=None, description="of an answer, not a claim: what it says")
    subject: str = Field(pattern="^[0-9a-f]{64}$", description="commitment or digest of what is scored")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if sum(given is not None for given in (self.prompt, self.messages, self.prompt_tokens)) != 1:
            raise ValueError("give exactly one of prompt, messages and prompt_tokens")
        _check_prompt(self.prompt, self.suffix)
        if (self.output_tokens is None) == (self.text is None):
            raise ValueError("give exactly one of output_tokens and text")
        if self.answer is not None and self.output_tokens is None:
            raise ValueError("answer needs output_tokens beside it")
        if self.fingerprints is None:
            return self
        if self.output_tokens is None or self.seed is None or self.prover is None:
            raise ValueError("fingerprints need output_tokens, seed and prover beside them")
        try:
            fingerprint.from_text(self.fingerprints, len(self.output_tokens))
        except InvalidTranscript as error:
            raise ValueError(f"fingerprints: {error}") from error
        return self


class ScoreRequest(_Request):
    """Answers to score, together."""

    model: str
    items: Annotated[tuple[ScoreItem, ...], Strict(False)] = Field(min_length=1, max_length=MAX_ITEMS)


class ScoreAnswer(BaseModel):
    """One score an item, in their order."""

    scores: list[Score]


class Usage(BaseModel):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int


class Answer(BaseModel):
    """The whole output, with the transcript that lets others check it."""

    text: str
    finish_reason: FinishReason
    transcript: Transcript
    commitment: str = Field(description="Merkle root over the transcript's steps, 64 hex digits")
    usage: Usage
    logprobs: list[TokenLogprob] | None = Field(
        default=None,
        description="of each output token but an end token, where they were asked for",
        exclude_if=lambda given: given is None,
    )


class ModelCard(BaseModel):
    """The model that this worker serves."""

    name: str
    sha256: str
    size: int = Field(description="bytes of the GGUF file")
    context: int = Field(description="tokens of prompt and output together")
    vocabulary: int
    engine: str
    evidence: EvidenceLevel = Field(default="fingerprints", description="what can be shown of its answers")
    able: list[Ability] = Field(default=[], description="what it takes beside a plain prompt")


class ModelList(BaseModel):
    """All models of this worker: one."""

    models: list[ModelCard]


class Health(BaseModel):
    """Whether the engine runs, and how busy it is."""

    status: Literal["ok", "failed"]
    active: int
    queued: int = Field(description="jobs that wait for a slot")
    queued_tokens: int
    slots: int


class Problem(BaseModel):
    """Every error, with the HTTP status as its code."""

    code: int
    message: str
