"""What the engine's thread does with the logits of a job: draw the next token of a generation, or score a claim."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from aos_inference import likelihood
from aos_inference.errors import RequestError, UnusableLogits
from aos_inference.scheduler import Task
from aos_inference.writing import Vocabulary, Writing
from aos_protocol import fingerprint, sampling
from aos_protocol.errors import InvalidSampling
from aos_protocol.score_document import Score
from aos_protocol.scoring import Accumulator
from aos_protocol.transcript import FinishReason, Params

Logits: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class Step:
    """One output token with its fingerprint (16 bytes), the text that it settled, and why the output ends here, if it does.

    If that was asked for, `likely` has the token and then the likeliest in its place, each with its logprob.
    """

    token: int
    fingerprint: bytes
    text: str
    finish: FinishReason | None
    likely: likelihood.Likely | None = None


@dataclass(frozen=True)
class Queued:
    """The job waits for a slot, at this position from 1."""

    position: int


@dataclass(frozen=True)
class Names:
    """What a score will say that it is of: the digests of its subject and of the model, and the build that computes."""

    subject: str
    model: str
    engine: str


@dataclass(frozen=True)
class Claim:
    """Output tokens said to follow a prompt: with the job's `seed` (32 bytes) the draw is checked, with packed `fingerprints` of
    `prover` the model, too. Fingerprints need both others.
    """

    names: Names
    prompt: Sequence[int]
    output: Sequence[int]
    params: Params
    seed: bytes | None = None
    prover: str | None = None
    fingerprints: bytes | None = None


Event: TypeAlias = Step | Queued | Score | RequestError


@dataclass(eq=False)
class Generation:
    """Draws a token from the logits of every step, in at most `context` tokens with the prompt; says how likely it and `logprobs` others were."""

    number: int
    prompt: Sequence[int]
    params: Params
    seed: bytes
    prover: str
    vocabulary: Vocabulary
    context: int
    private: bool = False
    logprobs: int | None = None
    output: list[int] = field(default_factory=list)
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    position: int = 0

    def __post_init__(self) -> None:
        self._writing = Writing(self.vocabulary, self.params, len(self.prompt), self.context)
        self._sampling_seed = sampling.sampling_seed(self.seed)
        self._along: NDArray[np.float32] | None = None

    def task(self) -> Task:
        """The prompt, with logits after its last token."""
        return Task(self.number, self.prompt, len(self.prompt) - 1, private=self.private)

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
        text, finish = self._writing.add(token)
        likely = None if self.logprobs is None else likelihood.likely(logits[0], token, self.logprobs)
        return Step(token, fingerprint.pack(projected), text, finish, likely)


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

    def advance(self, logits: Logits) -> Score | None:
        """Take in the next logits, shape (rows, vocabulary); the score, once there are none left. Raises UnusableLogits."""
        if self._accumulator is None:
            self._accumulator = self._begin(logits.shape[1])
        try:
            self._accumulator.add(logits)
        except InvalidSampling as error:
            raise UnusableLogits(f"The model gave no logits that can be scored: {error}") from error
        if not self._accumulator.done:
            return None
        names = self.claim.names
        score = self._accumulator.score(names.subject, names.model, names.engine)
        # Its directions take 32 bytes a token of the vocabulary: too much to keep until the other claims are done.
        self._accumulator = None
        return score

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
