"""The bodies of the worker's HTTP API."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, Strict, model_validator

from aos_protocol.transcript import MAX_STOPS, FinishReason, Params, StopText, Transcript


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
    """A job for the model: a raw prompt or chat messages, and the job's seed."""

    model: str
    prompt: str | None = Field(default=None, min_length=1)
    messages: Annotated[tuple[Message, ...], Strict(False)] | None = Field(default=None, min_length=1)
    params: RequestParams = RequestParams()
    seed: str = Field(pattern="^[0-9a-fA-F]{64}$", description="the job's seed, 32 bytes in hex")
    stream: bool = False

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give exactly one of prompt and messages")
        return self


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


class ModelCard(BaseModel):
    """The model that this worker serves."""

    name: str
    sha256: str
    size: int = Field(description="bytes of the GGUF file")
    context: int = Field(description="tokens of prompt and output together")
    vocabulary: int
    engine: str


class ModelList(BaseModel):
    """All models of this worker: one."""

    models: list[ModelCard]


class Health(BaseModel):
    """Whether the engine runs, and how busy it is."""

    status: Literal["ok", "failed"]
    active: int
    queued: int
    slots: int


class Problem(BaseModel):
    """Every error, with the HTTP status as its code."""

    code: int
    message: str
