"""What OpenAPI shows of /v1: the answers' and errors' forms."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from aos_dispatcher import openapi
from aos_protocol.fields import Ability, Address, EvidenceLevel, Hex32, ModelKind, WorkerType
from aos_protocol.record import ImageRecord


class Success(BaseModel):
    """What stands beside OpenAI's fields in every answer that is no error, as DBC's clients want it."""

    code: Literal[0] = 0
    message: Literal["success"] = "success"


class ErrorMember(BaseModel):
    """An error as OpenAI's clients read it: `param` is the field that is meant, `code` a word for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class GatewayFailure(BaseModel):
    """Every error under /v1: OpenAI's `error`, and beside it the HTTP status and the message once more, as DBC's clients want it."""

    error: ErrorMember
    code: int = Field(examples=[404])
    message: str


class JobFacts(BaseModel):
    """The job that a choice is: who answered it, and what can be shown of the answer (`GET` of `evidence`)."""

    job_id: Hex32
    evidence: str
    operator: Address
    level: EvidenceLevel
    model_sha256: Hex32


class JobsFacts(BaseModel):
    """The jobs of an answer with several choices, in their order."""

    jobs: list[JobFacts]


class Usage(BaseModel):
    """Tokens, as the operator's model counts them; a prompt counts once for each choice."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class _Whole(Success):
    id: str
    created: int
    model: str
    usage: Usage | None
    aos: JobFacts | JobsFacts


class Said(BaseModel):
    """What the model said."""

    role: Literal["assistant"]
    content: str
    refusal: None


class _Choice(BaseModel):
    index: int
    finish_reason: Literal["stop", "length"]
    stop_reason: int | str | None
    logprobs: dict[str, Any] | None


class ChatChoice(_Choice):
    """One answer. `stop_reason` is the token that ended it, or the stop sequence, where one alone was named."""

    message: Said


class TextChoice(_Choice):
    """One continuation."""

    text: str


class ChatAnswer(_Whole):
    """The answers to a chat."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class CompletionAnswer(_Whole):
    """The continuations of prompts."""

    object: Literal["text_completion"]
    choices: list[TextChoice]


class ImageEntry(BaseModel):
    """One image: its bytes in base64 or its address, as `response_format` says, the other empty; the prompt is as it was sent."""

    b64_json: str
    url: str
    revised_prompt: str


class ImagesFacts(JobFacts):
    """The job of an answer of images, which nobody scores, and what its signed result says of them."""

    verdict: Literal["inconclusive"]
    reason: str
    images: list[ImageRecord]


class ImagesDocument(Success):
    """The images of a job, in the order of its result."""

    created: int
    data: list[ImageEntry]
    aos: ImagesFacts


class ModelEntry(BaseModel):
    """A model that is served now.

    `created` is 0: nobody tells when a model was made. `project` is whose it is by its registration, `evidence` what the weakest of its operators
    can show of an answer, `kinds` what it makes (0 text, 1 images of text, 2 images of images), `able` what it takes beside a plain prompt.
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    model: str
    url: str
    project: str
    evidence: EvidenceLevel
    kinds: list[ModelKind]
    able: list[Ability]
    job_type: WorkerType
    sha256: Hex32


class Model(ModelEntry, Success):
    """One model."""


class ModelList(Success):
    """All models that are served now; `project` is the token's."""

    object: Literal["list"]
    project: str
    data: list[ModelEntry]


_JOB = {
    "x-aos-job-id": {"description": "The job of the answer, or all of them.", "schema": {"type": "string"}},
    "x-aos-evidence": {"description": "Where the evidence is.", "schema": {"type": "string"}},
}
_FAILED = "The job failed: no operator gave an answer in time. The message says why, `job_id` which job."


def _error(said: dict[str, Any]) -> dict[str, Any]:
    return said | {"model": GatewayFailure}


ERRORS: dict[int | str, dict[str, Any]] = {
    **{code: _error(said) for code, said in openapi.ERRORS.items()},
    502: _error({"description": _FAILED}),
}
"""The errors of every request under /v1."""


def answered(whole: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """Return how OpenAPI shows the good answer of a request that may be streamed."""
    events = {"text/event-stream": {"schema": {"type": "string"}}}
    return {200: {"model": whole, "content": events, "headers": _JOB}}


def answered_images(whole: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """Return how OpenAPI shows the good answer of a request for images."""
    return {200: {"model": whole, "headers": _JOB}}
