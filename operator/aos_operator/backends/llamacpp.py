"""llama.cpp's own API, as `llama-server` has it: `/completion`, `/infill`, and `/apply-template` for chat; it shows token ids."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from aos_operator.backends.chunks import Chunk, Finish, count, logprobs, token_ids
from aos_operator.backends.dialects import Dialect
from aos_operator.backends.lines import Events
from aos_operator.backends.tongue import Asked, items, members, text_of
from aos_operator.backends.upstream import QUICK_S, BrokenOff, Upstream, error_words
from aos_operator.errors import WorkerRefused, WorkerUnavailable

_ENDS: dict[str, Finish] = {"eos": "eos", "word": "stop", "limit": "length"}


class LlamaCpp:
    """`Tongue` of a llama.cpp server. It samples in the order of our own rule, temperature first, and with nothing beside it.

    A stream shows only the last token of a character that several make up, so all token ids come only with an answer as a `whole`.
    """

    def __init__(self, upstream: Upstream, dialect: Dialect) -> None:
        self._upstream = upstream
        self._dialect = dialect
        self._engine = ""
        self._fills_in: dict[str, bool] = {}

    async def names(self) -> Sequence[str]:
        """See `Tongue.names`."""
        build = members(await self._upstream.get("/props"), "GET /props").get("build_info")
        self._engine = f"llama.cpp {build}"[:100]
        listed = members(await self._upstream.get("/v1/models"), "GET /v1/models")
        models = [
            members(model, "a model of GET /v1/models") for model in items(listed.get("data"), "its data")
        ]
        return [text_of(model.get("id"), "a model's id") for model in models]

    async def fills_in(self, model: str) -> bool:
        """See `Tongue.fills_in`: asked for one token until it has answered once, since nothing that it tells of itself says it."""
        if model in self._fills_in:
            return self._fills_in[model]
        probe = {"model": model, "input_prefix": "a", "input_suffix": "b", "prompt": "", "n_predict": 1}
        try:
            await self._upstream.post("/infill", probe, QUICK_S)
        except WorkerUnavailable:
            return False  # all its slots may be taken: asked again the next time
        except WorkerRefused:
            self._fills_in[model] = False
        else:
            self._fills_in[model] = True
        return self._fills_in[model]

    async def run(self, asked: Asked) -> AsyncGenerator[Chunk, None]:
        """See `Tongue.run`."""
        path = "/infill" if asked.suffix is not None else self._dialect.completion
        body = self._body(asked) | await self._prompt(asked)
        if asked.whole:
            yield self._chunk(members(await self._upstream.post(path, body), "the answer"))
            return
        events = Events()
        async with aclosing(self._upstream.lines(path, body)) as lines:
            async for line in lines:
                data = line if line.startswith("{") else events.feed(line)  # some errors are no event
                if data is None:
                    continue
                said = members(self._upstream.read(data), "a chunk")
                yield self._chunk(said)
                if said.get("stop") is True:
                    return
        raise BrokenOff(f"{self._upstream.base} ended before it said stop")

    async def _prompt(self, asked: Asked) -> dict[str, Any]:
        if asked.suffix is not None:
            return {"input_prefix": asked.prompt, "input_suffix": asked.suffix, "prompt": ""}
        if asked.messages is None:
            return {"prompt": asked.prompt}
        said = await self._upstream.post("/apply-template", {"messages": asked.turns()})
        return {"prompt": text_of(members(said, "the prompt").get("prompt"), "the prompt of the messages")}

    def _body(self, asked: Asked) -> dict[str, Any]:
        params = asked.params
        return {
            **self._dialect.neutral,
            "model": asked.model,
            "samplers": ["temperature", "top_p"],
            "temperature": params.temperature,
            "top_p": params.top_p,
            "n_predict": params.max_tokens,
            "seed": asked.seed,
            "stop": list(asked.stops),
            "stream": not asked.whole,
            "return_tokens": True,
            "n_probs": asked.logprobs or 0,
        }

    def _chunk(self, said: dict[str, Any]) -> Chunk:
        if said.get("error") is not None:
            raise WorkerRefused(f"{self._upstream.base} broke off: {self._upstream.said(error_words(said))}")
        ended: Finish | None = None
        if said.get("stop") is True:
            ended = _ENDS.get(str(said.get("stop_type")))
            if ended is None:
                raise WorkerRefused(
                    f"{self._upstream.base} does not say why it stopped: llama.cpp's server does since the end of 2024, update it"
                )
        return Chunk(
            text=text_of(said.get("content"), "the content of a chunk"),
            tokens=token_ids(said.get("tokens")),
            logprobs=logprobs(said.get("completion_probabilities")),
            ended=ended,
            prompt_tokens=count(said.get("tokens_evaluated")),
            counted=count(said.get("tokens_predicted")),
            engine=self._engine,
        )
