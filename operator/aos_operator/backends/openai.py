"""OpenAI's API as vLLM, SGLang, LM Studio, LiteLLM, Oobabooga and many others have it: chat and completions, over server-sent events."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from aos_operator.backends.chunks import Chunk, Finish, count, logprobs, token_ids
from aos_operator.backends.dialects import Dialect
from aos_operator.backends.lines import Events
from aos_operator.backends.tongue import Asked, items, members, text_of
from aos_operator.backends.upstream import BrokenOff, Upstream, error_words
from aos_operator.errors import WorkerRefused

_DONE = "[DONE]"


class OpenAi:
    """`Tongue` of a server with OpenAI's API, in the dialect of its kind."""

    def __init__(self, upstream: Upstream, dialect: Dialect) -> None:
        self._upstream = upstream
        self._dialect = dialect

    async def names(self) -> Sequence[str]:
        """See `Tongue.names`. DBC's model servers call it `model` what is OpenAI's `id`."""
        listed = members(await self._upstream.get("/models"), "GET /models")
        models = [members(model, "a model of GET /models") for model in items(listed.get("data"), "its data")]
        return [text_of(model.get("id", model.get("model")), "a model's id") for model in models]

    async def fills_in(self, model: str) -> bool:
        """See `Tongue.fills_in`: `suffix` is in OpenAI's API, and next to no server minds it."""
        del model
        return False

    async def run(self, asked: Asked) -> AsyncGenerator[Chunk, None]:
        """See `Tongue.run`."""
        chat = asked.messages is not None
        path = self._dialect.chat if chat else self._dialect.completion
        events = Events()
        async with aclosing(self._upstream.lines(path, self._body(asked))) as lines:
            async for line in lines:
                if line.startswith("{"):
                    raise await self._no_event(line, lines)
                data = events.feed(line)
                if data == _DONE:
                    return
                if data is not None:
                    yield self._chunk(members(self._upstream.read(data), "a chunk"), asked)
        raise BrokenOff(f"{self._upstream.base} ended without {_DONE}")

    def _body(self, asked: Asked) -> dict[str, Any]:
        params, chat = asked.params, asked.messages is not None
        body: dict[str, Any] = {
            "model": asked.model,
            **({"messages": asked.turns()} if chat else {"prompt": asked.prompt}),
            "temperature": params.temperature,
            "top_p": params.top_p,
            "max_tokens": params.max_tokens,
            "seed": asked.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self._dialect.neutral,
        }
        if asked.stops:
            body["stop"] = list(asked.stops)
        if asked.logprobs is not None:
            body |= (
                {"logprobs": True, "top_logprobs": asked.logprobs} if chat else {"logprobs": asked.logprobs}
            )
        return body

    async def _no_event(self, line: str, rest: AsyncIterator[str]) -> WorkerRefused:
        """What is wrong with a stream in which JSON stands that is no event: an error, or the whole answer, in one line or in many."""
        try:
            said = members(self._upstream.read(line), "what it sent")
        except WorkerRefused:
            text = "\n".join([line, *[more async for more in rest]])
            said = members(self._upstream.read(text), "what it sent")
        if said.get("choices"):
            return WorkerRefused(
                f"{self._upstream.base} answers, and does not stream: streams are what most clients ask for; use a server that has them"
            )
        return self._error(said)

    def _error(self, said: dict[str, Any]) -> WorkerRefused:
        return WorkerRefused(f"{self._upstream.base} broke off: {self._upstream.said(error_words(said))}")

    def _chunk(self, said: dict[str, Any], asked: Asked) -> Chunk:
        if said.get("error") is not None or (
            said.get("code") and "choices" not in said
        ):  # the latter is DBC's
            raise self._error(said)
        usage = said.get("usage")
        used = usage if isinstance(usage, dict) else {}
        fingerprint = said.get("system_fingerprint")
        rest: dict[str, Any] = {
            "prompt_tokens": count(used.get("prompt_tokens")),
            "counted": count(used.get("completion_tokens")),
            "engine": fingerprint if isinstance(fingerprint, str) else "",
        }
        choices = items(said.get("choices", []), "the choices of a chunk")
        if not choices:
            return Chunk(**rest)
        choice = members(choices[0], "a choice")
        source = members(choice.get("delta") or {}, "a delta") if asked.messages is not None else choice
        text = source.get("content") if asked.messages is not None else source.get("text")
        return Chunk(
            text=text_of(text, "the text of a chunk"),
            tokens=token_ids(choice.get("token_ids")),
            logprobs=logprobs(choice.get("logprobs")),
            ended=_ended(choice, asked),
            **rest,
        )


def _ended(choice: dict[str, Any], asked: Asked) -> Finish | None:
    """Why the answer ended, if it has. vLLM and SGLang say by which stop sequence or token, others leave it to be guessed."""
    reason = choice.get("finish_reason")
    match reason:
        case None | "":
            return None
        case "length":
            return "length"
        case "stop":
            for name in ("stop_reason", "matched_stop"):
                if name in choice:
                    return "stop" if isinstance(choice[name], str) and choice[name] in asked.stops else "eos"
            return asked.stopped()
        case _:
            raise WorkerRefused(
                f"the server ended the answer for a reason that is none here: {reason!r:.100}"
            )
