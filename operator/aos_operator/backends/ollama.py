"""Ollama's own API, and Open WebUI's way to it: `/api/generate` and `/api/chat`, one JSON object a line."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from aos_operator.backends.chunks import Chunk, Finish, count, logprobs
from aos_operator.backends.dialects import Dialect
from aos_operator.backends.tongue import Asked, items, members, text_of
from aos_operator.backends.upstream import BrokenOff, Upstream, error_words
from aos_operator.errors import WorkerRefused


class Ollama:
    """`Tongue` of an Ollama. Prompts are given raw, so that no template of the model's is put around them.

    `truncate` and `shift` are off: a prompt that is too long is refused by servers that know these, where Ollama would cut it silently.
    """

    def __init__(self, upstream: Upstream, dialect: Dialect) -> None:
        self._upstream = upstream
        self._dialect = dialect
        self._engine = ""

    async def names(self) -> Sequence[str]:
        """See `Tongue.names`."""
        version = members(await self._upstream.get("/api/version"), "GET /api/version").get("version")
        self._engine = f"Ollama {version}"[:100]
        listed = members(await self._upstream.get("/api/tags"), "GET /api/tags")
        models = [
            members(model, "a model of GET /api/tags") for model in items(listed.get("models"), "its models")
        ]
        return [text_of(model.get("name"), "a model's name") for model in models]

    async def fills_in(self, model: str) -> bool:
        """See `Tongue.fills_in`: prompts are given raw, and so are those for filling in."""
        del model
        return False

    async def run(self, asked: Asked) -> AsyncGenerator[Chunk, None]:
        """See `Tongue.run`."""
        path = self._dialect.chat if asked.messages is not None else self._dialect.completion
        async with aclosing(self._upstream.lines(path, self._body(asked))) as lines:
            async for line in lines:
                if not line:
                    continue
                said = members(self._upstream.read(line), "a line")
                yield self._chunk(said, asked)
                if said.get("done") is True:
                    return
        raise BrokenOff(f"{self._upstream.base} ended before it was done")

    def _body(self, asked: Asked) -> dict[str, Any]:
        params = asked.params
        options = {
            **self._dialect.neutral,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "num_predict": params.max_tokens,
            "seed": asked.seed,
        }
        if asked.stops:
            options["stop"] = list(asked.stops)
        body: dict[str, Any] = {"model": asked.model, "stream": True, "options": options}
        body |= {"truncate": False, "shift": False}
        body |= (
            {"messages": asked.turns()}
            if asked.messages is not None
            else {"prompt": asked.prompt, "raw": True}
        )
        if asked.logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": asked.logprobs}
        return body

    def _chunk(self, said: dict[str, Any], asked: Asked) -> Chunk:
        if said.get("error") is not None:
            raise WorkerRefused(f"{self._upstream.base} broke off: {self._upstream.said(error_words(said))}")
        if asked.messages is not None:
            text = members(said.get("message", {}), "a message").get("content")
        else:
            text = said.get("response")
        return Chunk(
            text=text_of(text, "the text of a line"),
            logprobs=logprobs(said.get("logprobs")),
            ended=_ended(said, asked),
            prompt_tokens=count(said.get("prompt_eval_count")),
            counted=count(said.get("eval_count")),
            engine=self._engine,
        )


def _ended(said: dict[str, Any], asked: Asked) -> Finish | None:
    if said.get("done") is not True:
        return None
    reason = said.get("done_reason", "stop")
    if reason == "length":
        return "length"
    if reason == "stop":
        return asked.stopped()
    raise WorkerRefused(f"Ollama ended the answer for a reason that is none here: {reason!r:.100}")
