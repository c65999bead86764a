"""A worker: one model behind one engine. What comes in is a request, what goes out is an answer with its transcript."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from aos_inference import chat
from aos_inference.engine import Engine, Step
from aos_inference.errors import InvalidField, UnknownModel
from aos_inference.schemas import Answer, GenerateRequest, ModelCard, Usage
from aos_protocol.sampling import RULE_VERSION, sampling_seed
from aos_protocol.transcript import FinishReason, Params, Transcript

_log = structlog.get_logger(__name__)


class Vocabulary(chat.Vocabulary, Protocol):
    """What a worker needs of `llama.Model`."""


@dataclass
class Generation:
    """One request under way: what it needs, and what has come of it."""

    prompt: Sequence[int]
    params: Params
    seed: bytes
    output: list[int] = field(default_factory=list)
    text: str = ""
    finish: FinishReason | None = None

    def add(self, step: Step) -> None:
        """Take in the next step."""
        self.output.append(step.token)
        self.text += step.text
        self.finish = step.finish


class Worker:
    """Serves `card`'s model with `engine`; without a chat format it takes prompts only."""

    def __init__(
        self, card: ModelCard, engine: Engine, vocabulary: Vocabulary, chat_format: chat.ChatFormat | None
    ) -> None:
        self.card = card
        self.engine = engine
        self._vocabulary = vocabulary
        self._chat = chat_format

    async def prepare(self, request: GenerateRequest) -> Generation:
        """Tokenise the request. Raises UnknownModel and InvalidField."""
        if request.model != self.card.name:
            raise UnknownModel(
                f"Unknown model {request.model!r:.200}; this worker serves {self.card.name!r}."
            )
        # In a thread: a long prompt takes the tokeniser a while. llama.cpp's vocabulary is constant, so that is safe.
        prompt = await asyncio.to_thread(self._prompt_tokens, request)
        if not prompt:
            raise InvalidField("prompt: it has no tokens in this model's vocabulary; send more text.")
        params = Params(**request.params.model_dump())
        return Generation(prompt, params, sampling_seed(bytes.fromhex(request.seed)))

    @contextmanager
    def run(self, generation: Generation) -> Iterator[AsyncGenerator[str, None]]:
        """Generate, giving text as it comes; when that ends, `answer` is due. Leaving early cancels.

        Raises what `Engine.generate` raises.
        """
        started = time.monotonic()
        with self.engine.generate(generation.prompt, generation.params, generation.seed) as steps:
            try:
                yield _texts(generation, steps)
            finally:
                _log.info(
                    "generated" if generation.finish else "abandoned",
                    finish_reason=generation.finish,
                    prompt_tokens=len(generation.prompt),
                    completion_tokens=len(generation.output),
                    seconds=round(time.monotonic() - started, 3),
                )

    async def complete(self, generation: Generation) -> Answer:
        """Generate to the end. Raises what `Engine.generate` raises."""
        with self.run(generation) as texts:
            async for _ in texts:
                pass
        return self.answer(generation)

    def answer(self, generation: Generation) -> Answer:
        """The answer to a generation that has finished."""
        if generation.finish is None:
            raise RuntimeError("the generation has not finished")
        transcript = Transcript(
            rule=RULE_VERSION,
            model=self.card.sha256,
            engine=self.card.engine,
            params=generation.params,
            prompt_tokens=tuple(generation.prompt),
            output_tokens=tuple(generation.output),
            finish_reason=generation.finish,
        )
        return Answer(
            text=generation.text,
            finish_reason=generation.finish,
            transcript=transcript,
            commitment=transcript.commitment(),
            usage=Usage(prompt_tokens=len(generation.prompt), completion_tokens=len(generation.output)),
        )

    def _prompt_tokens(self, request: GenerateRequest) -> list[int]:
        if request.prompt is not None:
            start = [self._vocabulary.bos] if self._vocabulary.adds_bos else []
            return start + self._vocabulary.tokenize(request.prompt)
        if self._chat is None:
            raise InvalidField("messages: this model has no chat template; send a prompt.")
        return self._chat.tokens([message.model_dump() for message in request.messages or ()])


async def _texts(generation: Generation, steps: AsyncIterator[Step]) -> AsyncGenerator[str, None]:
    async for step in steps:
        generation.add(step)
        if step.text:
            yield step.text
