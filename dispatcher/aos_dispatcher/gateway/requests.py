"""What /v1/chat/completions and /v1/completions take: OpenAI's bodies, checked strictly, and the jobs that they ask for. No I/O."""

from dataclasses import dataclass, field
from typing import Annotated, Literal, Self, TypeVar
from unicodedata import category

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from aos_dispatcher.gateway.aliases import MOST_TOKENS, by_openai_s_names
from aos_dispatcher.gateway.errors import BadRequest
from aos_dispatcher.gateway.unsupported import (
    NEUTRAL,
    NO_TOOLS,
    OPTIONS_NEUTRAL,
    TOOL_ROLES,
    TURN_NEUTRAL,
    Neutral,
    without_neutral,
)
from aos_dispatcher.gateway.wrong import bad_request, wrong
from aos_dispatcher.tables import JsonObject
from aos_protocol.fields import Ability, ShortText, Text, storable
from aos_protocol.job import MAX_LOGPROBS
from aos_protocol.transcript import MAX_STOPS

MAX_CHOICES = 8
"""How many answers one request may have: each is a job."""

CHAT_TOKENS = 1024
COMPLETION_TOKENS = 16
"""How long an answer may become, in tokens, if the request does not say so; OpenAI's own 16 of /v1/completions."""

_SEED = 2**53


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _prompts(value: object) -> object:
    flat = _listed(value)
    if isinstance(flat, list) and any(isinstance(each, int | list) for each in flat):
        raise ValueError("token ids are not taken; send the prompt as text")
    return flat


def _joined(content: object) -> object:
    """Return the text of a content that may be a list of parts; there is no other kind of part here."""
    if not isinstance(content, list):
        return content
    return "".join(map(_text_of, content))


def _text_of(part: object) -> str:
    given = (
        {name: value for name, value in part.items() if value is not None} if isinstance(part, dict) else {}
    )
    match given:
        case {"type": "text", "text": str(text), **others} if not others:
            return text
        case {"type": "text"}:
            raise wrong("a part of type 'text' has a text, and nothing else")
    raise wrong(
        f"a part of type {given.get('type')!r} is not supported: models here read text, as a string or as parts of type 'text'",
        name="unsupported_parameter",
    )


def _addressable(name: str) -> str:
    """Return what can be the end of a path: clients resolve dots before they send them, and routes end where a line does."""
    if name in {".", ".."} or any(category(each) == "Cc" for each in name):
        raise ValueError("must be neither . nor .. and have no control characters, since it is part of a URL")
    return name


_TEXTS: JsonObject = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
_PART: JsonObject = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
    "additionalProperties": False,
}

Content = Annotated[
    Text,
    BeforeValidator(_joined),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": _PART}]}),
]
Stops = Annotated[
    list[ShortText], Field(max_length=MAX_STOPS), BeforeValidator(_listed), WithJsonSchema(_TEXTS)
]
Prompts = Annotated[
    list[Text],
    Field(min_length=1, max_length=MAX_CHOICES),
    BeforeValidator(_prompts),
    WithJsonSchema(_TEXTS),
]
ConversationId = Annotated[
    str,
    StringConstraints(min_length=1, max_length=128),
    AfterValidator(storable),
    AfterValidator(_addressable),
]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


def _without(value: JsonObject, of: type[_Body], neutral: Neutral) -> JsonObject:
    """Do what `without_neutral` does, for an object inside a body."""
    try:
        return without_neutral(value, frozenset(of.model_fields), neutral)
    except BadRequest as error:
        raise wrong(str(error), error.param, name=error.name) from None


class Turn(_Body):
    """One message of a chat; `developer` is what OpenAI calls a system message now."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        role = value.get("role")
        if role in TOOL_ROLES:
            raise wrong(
                f"role {role!r} is not supported here: {NO_TOOLS}", "role", name="unsupported_parameter"
            )
        return _without(value, cls, TURN_NEUTRAL)

    def to_job(self) -> JsonObject:
        """Return the message as a job has it."""
        return {"role": "system" if self.role == "developer" else self.role, "content": self.content}


class StreamOptions(_Body):
    """`include_usage`: one more chunk says at the end what was used, in place of the last chunk of text."""

    include_usage: bool = False

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        return _without(value, cls, OPTIONS_NEUTRAL) if isinstance(value, dict) else value


class Asked(_Body):
    """What both kinds of request have in common."""

    model: ShortText
    temperature: float = Field(1.0, ge=0, le=2, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1, allow_inf_nan=False)
    max_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    stop: Stops = []
    seed: int | None = Field(None, gt=-_SEED, lt=_SEED)
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: ShortText | None = None

    @model_validator(mode="after")
    def _streamed(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise wrong("stream_options go with stream: true only", "stream_options")
        return self


class ChatRequest(Asked):
    """The body of POST /v1/chat/completions. `id` names a conversation that this request begins or continues."""

    messages: list[Turn] = Field(min_length=1, max_length=1024)
    max_completion_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    safety_identifier: ShortText | None = None
    id: ConversationId | None = None

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise wrong("top_logprobs goes with logprobs: true only", "top_logprobs")
        most = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(most) > 1:
            raise wrong(
                "max_tokens and max_completion_tokens mean the same, and differ: send one",
                "max_completion_tokens",
            )
        if self.id is not None and self.n > 1:
            raise wrong("a conversation goes on with one answer: send id or n, not both", "n")
        return self


class CompletionRequest(Asked):
    """The body of POST /v1/completions. With a `suffix`, the model fills in what is between it and the prompt."""

    prompt: Prompts
    suffix: Text | None = None
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    best_of: int | None = None

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.best_of not in {None, self.n}:
            raise wrong(
                "best_of is not supported here but as n: no answer is left out; send n alone",
                "best_of",
                name="unsupported_parameter",
            )
        if len(self.prompt) * self.n > MAX_CHOICES:
            raise wrong(f"prompt and n together ask for more than {MAX_CHOICES} answers", "n")
        if not (self.suffix or all(self.prompt)):
            raise wrong("an empty prompt needs a suffix beside it: there is nothing to go on with", "prompt")
        return self


@dataclass(frozen=True)
class Wanted:
    """What a request comes to: a job for each choice, yet without job type and user, and how to answer.

    `needs` are abilities that an operator must have, each with the field that asks for it.
    """

    chat: bool
    model: str
    jobs: list[JsonObject]
    needs: dict[Ability, str]
    stop: list[str]
    stream: bool
    include_usage: bool
    user: str | None
    conversation: str | None = None
    turns: list[JsonObject] = field(default_factory=list)


R = TypeVar("R", bound=Asked)


def parse(kind: type[R], body: JsonObject) -> R:
    """Check a body. Raises `BadRequest`, which names the first field that is wrong or not supported."""
    given = without_neutral(by_openai_s_names(body), frozenset(kind.model_fields), NEUTRAL)
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise bad_request(error) from None


def wanted_chat(request: ChatRequest) -> Wanted:
    """Return what a chat request comes to."""
    turns = [turn.to_job() for turn in request.messages]
    most = request.max_completion_tokens or request.max_tokens or CHAT_TOKENS
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    job = {"messages": turns} | _common(request, most, logprobs)
    needs: dict[Ability, str] = {"chat": "messages", **_for_logprobs(logprobs)}
    user = request.user or request.safety_identifier
    return _wanted(request, [job] * request.n, needs, user=user, conversation=request.id, turns=turns)


def wanted_completion(request: CompletionRequest) -> Wanted:
    """Return what a completion request comes to; the choices of one prompt stand together."""
    most = request.max_tokens or COMPLETION_TOKENS
    common = _common(request, most, request.logprobs)
    if request.suffix is not None:
        common["suffix"] = request.suffix
    jobs = [{"prompt": prompt} | common for prompt in request.prompt for _ in range(request.n)]
    needs: dict[Ability, str] = {"fim": "suffix"} if request.suffix is not None else {}
    return _wanted(request, jobs, needs | _for_logprobs(request.logprobs), user=request.user)


def _wanted(
    request: Asked,
    jobs: list[JsonObject],
    needs: dict[Ability, str],
    *,
    user: str | None,
    conversation: str | None = None,
    turns: list[JsonObject] | None = None,
) -> Wanted:
    return Wanted(
        chat=isinstance(request, ChatRequest),
        model=request.model,
        jobs=jobs,
        needs=needs,
        stop=request.stop,
        stream=request.stream,
        include_usage=request.stream_options is not None and request.stream_options.include_usage,
        user=user,
        conversation=conversation,
        turns=turns or [],
    )


def _common(request: Asked, most: int, logprobs: int | None) -> JsonObject:
    params = {"temperature": request.temperature, "top_p": request.top_p, "max_tokens": most}
    given: JsonObject = {"seed": request.seed, "logprobs": logprobs, "stream": request.stream or None}
    return {
        "model": request.model,
        "params": params | ({"stop": request.stop} if request.stop else {}),
    } | {name: value for name, value in given.items() if value is not None}


def _for_logprobs(logprobs: int | None) -> dict[Ability, str]:
    return {} if logprobs is None else {"logprobs": "logprobs"}
