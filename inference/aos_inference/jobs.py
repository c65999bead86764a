"""What the engine's thread does with the logits of a job: draw the next token of a generation, or score a claim."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aos_inference.errors import RequestError, UnusableLogits
from aos_inference.scheduler import Task
from aos_inference.text import TextStream
from aos_protocol import fingerprint, sampling
from aos_protocol.errors import InvalidSampling
from aos_protocol.scoring import Accumulator
from aos_protocol.transcript import FinishReason, Params

Logits: TypeAlias = NDArray[np.float32]


class Vocabulary(Protocol):
    """What tokens mean: `llama.Model`, or a stand-in for tests."""

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to the text."""
        ...

    def ends(self, token: int) -> bool:
        """Whether the token ends a generation."""
        ...


@dataclass(frozen=True)
class Step:
    """One output token with its fingerprint (16 bytes), the text that it settled, and why the output ends here, if it does."""

    token: int
    fingerprint: bytes
    text: str
    finish: FinishReason | None


@dataclass(frozen=True)
class Queued:
    """The job waits for a slot, at this position from 1."""

    position: int


@dataclass(frozen=True)
class Claim:
    """Output tokens said to follow a prompt: with the job's `seed` (32 bytes) the draw is checked, with packed `fingerprints` of
    `prover` the model, too. Fingerprints need both others.
    """

    prompt: Sequence[int]
    output: Sequence[int]
    params: Params
    seed: bytes | None = None
    prover: str | None = None
    fingerprints: bytes | None = None


Event: TypeAlias = Step | Queued | Accumulator | RequestError


@dataclass(eq=False)
class Generation:
    """Draws a token from the logits of every step, in at most `context` tokens with the prompt."""

    number: int
    prompt: Sequence[int]
    params: Params
    seed: bytes
    prover: str
    vocabulary: Vocabulary
    context: int
    output: list[int] = field(default_factory=list)
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    position: int = 0

    def __post_init__(self) -> None:
        self._text = TextStream(self.params.stop)
        self._sampling_seed = sampling.sampling_seed(self.seed)
        self._along: NDArray[np.float32] | None = None

    def task(self) -> Task:
        """The prompt, with logits after its last token."""
        return Task(self.number, self.prompt, len(self.prompt) - 1)

    def advance(self, logits: Logits) -> Step:
        """Draw from logits of shape (1, vocabulary). Raises UnusableLogits."""
        place, params = len(self.output), self.params
        if self._along is None:
            self._along = fingerprint.directions(self.seed, self.prover, logits.shape[1])
        try:
            token = sampling.sample(logits[0], self._sampling_seed, place, params.temperature, params.top_p)
        except InvalidSampling as error:
            raise UnusableLogits(
                f"The model gave no usable probabilities at output token {place}: {error}"
            ) from error
        with np.errstate(invalid="ignore", over="ignore"):
            projected = fingerprint.project(logits, self._along)
        if not np.isfinite(projected).all():
            raise UnusableLogits(
                f"The model's logits at output token {place} have no fingerprint: some are infinite or huge."
            )
        self.output.append(token)
        return self._step(token, fingerprint.pack(projected))

    def _step(self, token: int, print_: bytes) -> Step:
        if self.vocabulary.ends(token):
            return Step(token, print_, self._text.finish(), "eos")
        text = self._text.feed(self.vocabulary.piece(token))
        if self._text.stopped:
            return Step(token, print_, text, "stop")
        full = len(self.prompt) + len(self.output) >= self.context
        if full or len(self.output) >= self.params.max_tokens:
            return Step(token, print_, text + self._text.finish(), "length")
        return Step(token, print_, text, None)


@dataclass(eq=False)
class Scoring:
    """Reduces the logits of a claim's positions as they come."""

    number: int
    claim: Claim
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    position: int = 0
    _accumulator: Accumulator | None = None

    def task(self) -> Task:
        """Prompt and output but its last token, with logits from the prompt's last token on."""
        claim = self.claim
        tokens = [*claim.prompt, *claim.output[:-1]]
        return Task(
            self.number, tokens, len(claim.prompt) - 1, share=np.array(claim.prompt, np.int32).tobytes()
        )

    def advance(self, logits: Logits) -> Accumulator | None:
        """Take in the next logits, shape (rows, vocabulary); the whole, once there are none left. Raises UnusableLogits."""
        if self._accumulator is None:
            self._accumulator = self._begin(logits.shape[1])
        if not np.isfinite(logits).all():
            place = len(self._accumulator.winners)
            raise UnusableLogits(
                f"The model's logits at output token {place} or soon after are not all finite."
            )
        self._accumulator.add(logits)
        return self._accumulator if self._accumulator.done else None

    def _begin(self, vocabulary: int) -> Accumulator:
        claim = self.claim
        along = claimed = None
        if claim.fingerprints is not None and claim.seed is not None and claim.prover is not None:
            along = fingerprint.directions(claim.seed, claim.prover, vocabulary)
            claimed = fingerprint.unpack(claim.fingerprints)
        return Accumulator(
            claim.output,
            claim.params.temperature,
            claim.params.top_p,
            seed=None if claim.seed is None else sampling.sampling_seed(claim.seed),
            along=along,
            claimed=claimed,
        )


Job: TypeAlias = Generation | Scoring
