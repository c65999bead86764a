"""A worker: one model behind one engine. What comes in is a request, what goes out is an answer with its transcript."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol

import structlog
from pydantic import BaseModel

from aos_inference import chat, claims, filling, likelihood, writing
from aos_inference.engine import Engine
from aos_inference.errors import InvalidField, UnknownModel
from aos_inference.jobs import Claim, Names, Queued, Step
from aos_inference.schemas import (
    Answer,
    GenerateRequest,
    ModelCard,
    Said,
    ScoreAnswer,
    ScoreItem,
    ScoreRequest,
    Usage,
)
from aos_protocol import fingerprint
from aos_protocol.messages import TokenLogprob
from aos_protocol.sampling import RULE_VERSION
from aos_protocol.score_document import Contradiction, Score
from aos_protocol.transcript import FinishReason, Params, Transcript

_log = structlog.get_logger(__name__)


class Vocabulary(
    chat.Vocabulary,
    claims.Vocabulary,
    filling.Vocabulary,
    likelihood.Vocabulary,
    writing.Vocabulary,
    Protocol,
):
    """What a worker needs of `llama.Model`."""


class Piece(NamedTuple):
    """Some more text of a generation, which may be none yet, and how likely the tokens were that it came of, if that was asked for."""

    text: str
    logprobs: list[TokenLogprob]


@dataclass
class Generation:
    """One request under way: what it needs, and what has come of it. A `private` one shares no slot's memory with others."""

    prompt: Sequence[int]
    params: Params
    seed: bytes
    prover: str
    private: bool = False
    wanted: int | None = None
    output: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    fingerprints: bytearray = field(default_factory=bytearray)
    text: str = ""
    finish: FinishReason | None = None

    def add(self, step: Step) -> None:
        """Take in the next step."""
        self.output.append(step.token)
        self.fingerprints += step.fingerprint
        self.text += step.text
        self.finish = step.finish


class Worker:
    """Serves `card`'s model with `engine`; without a chat format it takes prompts only, and no suffix unless it knows how to fill in.

    `asked` is what a generation's body must be, and `answers` what may come of it.
    """

    asked: ClassVar[type[GenerateRequest]] = GenerateRequest
    answers: ClassVar[tuple[type[BaseModel], ...]] = (Answer,)

    def __init__(
        self,
        card: ModelCard,
        engine: Engine,
        vocabulary: Vocabulary,
        chat_format: chat.ChatFormat | None,
        filled: filling.Filling | None = None,
    ) -> None:
        self.card = card
        self.engine = engine
        self._vocabulary = vocabulary
        self._chat = chat_format
        self._filled = filled

    async def prepare(self, request: GenerateRequest) -> Generation:
        """Tokenise the request. Raises UnknownModel and InvalidField."""
        self._check_model(request.model)
        # In a thread: a long prompt takes the tokeniser a while. llama.cpp's vocabulary is constant, so that is safe.
        prompt = await asyncio.to_thread(self._prompt_tokens, request)
        params = Params(**request.params.model_dump())
        seed = bytes.fromhex(request.seed)
        return Generation(prompt, params, seed, request.prover, wanted=request.logprobs)

    async def score(self, request: ScoreRequest) -> ScoreAnswer:
        """Score the request's items. Raises UnknownModel, InvalidField, and what `Engine.score` raises."""
        self._check_model(request.model)
        started = time.monotonic()
        asked = await asyncio.to_thread(self._claims, request.items)
        scored = await self.engine.score(asked)
        # Off the event loop, like all that takes time in proportion to an answer's length.
        scores = await asyncio.to_thread(
            lambda: [self._read(*each) for each in zip(request.items, asked, scored, strict=True)]
        )
        _log.info(
            "scored",
            items=len(asked),
            positions=sum(len(claim.output) for claim in asked),
            seconds=round(time.monotonic() - started, 3),
        )
        return ScoreAnswer(scores=scores)

    @contextmanager
    def run(self, generation: Generation) -> Iterator[AsyncGenerator[Piece | Queued, None]]:
        """Generate, giving text as it comes, and before it the job's places in the queue; when that ends, `answer` is due.

        Leaving early cancels.

        Raises what `Engine.generate` raises.
        """
        started = time.monotonic()
        job = generation
        with self.engine.generate(
            job.prompt, job.params, job.seed, job.prover, private=job.private, logprobs=job.wanted
        ) as steps:
            try:
                yield self._pieces(generation, steps)
            finally:
                _log.info(
                    "generated" if generation.finish else "abandoned",
                    finish_reason=generation.finish,
                    prompt_tokens=len(generation.prompt),
                    completion_tokens=len(generation.output),
                    seconds=round(time.monotonic() - started, 3),
                )

    async def complete(self, generation: Generation) -> BaseModel:
        """Generate to the end. Raises what `Engine.generate` raises."""
        with self.run(generation) as texts:
            async for _ in texts:
                pass
        return await asyncio.to_thread(self.answer, generation)

    def answer(self, generation: Generation) -> BaseModel:
        """What is sent once a generation has finished: one of `answers`. Takes a while, hence is called in a thread."""
        return self.plain_answer(generation)

    def plain_answer(self, generation: Generation) -> Answer:
        """The answer to a generation that has finished."""
        if generation.finish is None:
            raise RuntimeError("the generation has not finished")
        transcript = Transcript(
            rule=RULE_VERSION,
            model=self.card.sha256,
            engine=self.card.engine,
            params=generation.params,
            seed=generation.seed.hex(),
            prover=generation.prover,
            prompt_tokens=tuple(generation.prompt),
            output_tokens=tuple(generation.output),
            fingerprints=fingerprint.to_text(bytes(generation.fingerprints)),
            finish_reason=generation.finish,
        )
        return Answer(
            text=generation.text,
            finish_reason=generation.finish,
            transcript=transcript,
            commitment=transcript.commitment(),
            usage=Usage(prompt_tokens=len(generation.prompt), completion_tokens=len(generation.output)),
            logprobs=None if generation.wanted is None else generation.logprobs,
        )

    async def _pieces(
        self, generation: Generation, steps: AsyncIterator[Step | Queued]
    ) -> AsyncGenerator[Piece | Queued, None]:
        async for step in steps:
            if isinstance(step, Queued):
                yield step
                continue
            generation.add(step)
            # The token that ends a sequence is not written, so it is none of the answer's.
            shown = step.likely is not None and step.finish != "eos"
            told = [likelihood.named(self._vocabulary, step.likely)] if shown and step.likely else []
            generation.logprobs += told
            if step.text or told:
                yield Piece(step.text, told)

    def _check_model(self, name: str) -> None:
        if name != self.card.name:
            raise UnknownModel(f"Unknown model {name!r:.200}; this worker serves {self.card.name!r}.")

    def _prompt_tokens(self, request: GenerateRequest | ScoreItem) -> list[int]:
        if request.prompt is None:
            if self._chat is None:
                raise InvalidField("messages: this model has no chat template; send a prompt.")
            return self._chat.tokens([message.model_dump() for message in request.messages or ()])
        if request.suffix is not None:
            if self._filled is None:
                raise InvalidField("suffix: this model does not fill in; send a prompt alone.")
            return self._filled(request.prompt, request.suffix)
        start = [self._vocabulary.bos] if self._vocabulary.adds_bos else []
        prompt = start + self._vocabulary.tokenize(request.prompt)
        if not prompt:
            raise InvalidField("prompt: it has no tokens in this model's vocabulary; send more text.")
        return prompt

    def _claims(self, items: Sequence[ScoreItem]) -> list[Claim]:
        found = []
        for place, item in enumerate(items):
            try:
                found.append(self._claim(item))
            except InvalidField as error:
                raise InvalidField(f"items.{place}.{error}") from error
        return found

    def _claim(self, item: ScoreItem) -> Claim:
        output = claims.spelling(self._vocabulary, item.text) if item.text else item.output_tokens or ()
        self._check_tokens("output_tokens", output)
        self._check_tokens("prompt_tokens", item.prompt_tokens or ())
        packed = item.fingerprints and fingerprint.from_text(item.fingerprints, len(output))
        return Claim(
            names=Names(item.subject, self.card.sha256, self.card.engine),
            prompt=item.prompt_tokens or self._prompt_tokens(item),
            output=output,
            params=Params(**item.params.model_dump()),
            seed=bytes.fromhex(item.seed) if item.seed else None,
            prover=item.prover,
            fingerprints=packed or None,
        )

    def _check_tokens(self, name: str, tokens: Sequence[int]) -> None:
        wrong = next((token for token in tokens if token >= self.card.vocabulary), None)
        if wrong is not None:
            raise InvalidField(
                f"{name}: token {wrong} is not in this model's vocabulary of {self.card.vocabulary:,}."
            )

    def _read(self, item: ScoreItem, claim: Claim, score: Score) -> Score:
        """The score with what text and tokens say of each other."""
        if item.text:
            ambiguous = claims.ambiguous_from(self._vocabulary, claim.output, score.winners)
            return score.model_copy(update={"ambiguous": ambiguous})
        if item.answer:
            return score.model_copy(update={"contradiction": self._contradiction(item.answer, claim)})
        return score

    def _contradiction(self, said: Said, claim: Claim) -> Contradiction | None:
        if said.prompt_tokens is None:
            # Whoever wrote it has rules of its own for where an answer ends, and need not write half a character.
            output = writing.Writing(self._vocabulary, claim.params, len(claim.prompt), self.engine.context)
            return None if _trimmed(said.text) == _trimmed(output.spelt(claim.output)) else "text"
        if said.prompt_tokens != tuple(claim.prompt):
            return "prompt"
        text, finish = self._written(claim, self.engine.context)
        if (text, finish) == (said.text, said.finish_reason):
            return None
        # The prover's context may be shorter than ours, which it need not have meant ill.
        if self._written(claim, len(claim.prompt) + len(claim.output)) == (said.text, said.finish_reason):
            return "context"
        return "text" if text != said.text else "end"

    def _written(self, claim: Claim, context: int) -> tuple[str, FinishReason | None]:
        output = writing.Writing(self._vocabulary, claim.params, len(claim.prompt), context)
        return output.whole(claim.output)


def _trimmed(text: str) -> str:
    return text.rstrip("\ufffd")
