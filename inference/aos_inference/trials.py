"""Trials: one job run under one setup and scored under another, to see how far honest results lie apart, and cheats from them.

`aos calibrate` measures a model's noise with them; the study in benchmarks/detection lets provers cheat in more ways. There is
no scheduler here: slots run in step, so it is known which rows share a batch.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aos_inference.cache import CacheType
from aos_inference.llama import Context, Model, Row
from aos_protocol import fingerprint, sampling
from aos_protocol.fingerprint import Fingerprints
from aos_protocol.scoring import score_token

LIKELIEST_OTHER = -1
"""As a forced token: the likeliest one that was not drawn."""


@dataclass(frozen=True)
class Setup:
    """What computes: a model file, its cache, and how the work is cut into batches of at most `rows` rows over `slots` sequences."""

    model: Path
    cache: CacheType = "F16"
    flash_attention: bool = True
    threads: int = 1
    slots: int = 1
    rows: int = 512


@dataclass(frozen=True)
class Trial:
    """A job of exactly `length` output tokens, whatever the model writes: its end of sequence is a token like others.

    `seed` is the job's (32 bytes). A prover that departs from it has `noise`, its own sampling seed, or `forced`: tokens by output
    position. The first `reused` prompt tokens are computed one by one, as if they came from an earlier answer.
    """

    prompt: tuple[int, ...]
    temperature: float
    top_p: float
    seed: bytes
    prover: str
    length: int
    noise: bytes | None = None
    forced: dict[int, int] = field(default_factory=dict)
    reused: int = 0

    def along(self, vocabulary: int) -> NDArray[np.float32]:
        """The directions of the job's fingerprints, shape (vocabulary, 8)."""
        return fingerprint.directions(self.seed, self.prover, vocabulary)


@dataclass(frozen=True)
class Answer:
    """Tokens, shape (n,), and their fingerprints, shape (n, 8)."""

    tokens: NDArray[np.int32]
    fingerprints: Fingerprints


@dataclass(frozen=True)
class Measures:
    """What the verifier of an answer measured, one number a token, as `aos_protocol.scoring` defines them."""

    distances: NDArray[np.float64]
    margins: NDArray[np.float64]
    surprisals: NDArray[np.float64]
    entropies: NDArray[np.float64]
    variances: NDArray[np.float64]


class Bench:
    """A loaded model and a context, to run and to score trials of at most `context` tokens each."""

    def __init__(self, setup: Setup, model: Model, context: Context) -> None:
        self.model = model
        self._setup = setup
        self._context = context

    def answers(self, trials: Sequence[Trial]) -> list[Answer]:
        """Run the trials, as many side by side as there are slots. Raises DecodeFailed and InvalidSampling."""
        slots = self._setup.slots
        groups = (trials[start : start + slots] for start in range(0, len(trials), slots))
        return [answer for group in groups for answer in self._together(group)]

    def fingerprints(self, trial: Trial, tokens: Sequence[int]) -> Fingerprints:
        """The fingerprints that this setup finds in one pass over prompt and tokens: shape (tokens, 8)."""
        return fingerprint.project(self._prefilled(trial, tokens), trial.along(self.model.vocabulary))

    def measure(self, trial: Trial, answer: Answer) -> Measures:
        """Score an answer as if it were the trial's, in one pass. Raises DecodeFailed and InvalidSampling."""
        tokens = answer.tokens.tolist()
        logits = self._prefilled(trial, tokens)
        own = fingerprint.project(logits, trial.along(self.model.vocabulary))
        seed = sampling.sampling_seed(trial.seed)
        scores = [
            score_token(row, token, seed, position, trial.temperature, trial.top_p)
            for position, (row, token) in enumerate(zip(logits, tokens, strict=True))
        ]
        return Measures(
            fingerprint.distances(answer.fingerprints, own),
            np.array([score.margin for score in scores], dtype=np.float64),
            np.array([score.surprisal for score in scores]),
            np.array([score.entropy for score in scores]),
            np.array([score.variance for score in scores]),
        )

    def _prefilled(self, trial: Trial, tokens: Sequence[int]) -> NDArray[np.float32]:
        """The logits that each of the tokens is drawn from: shape (tokens, vocabulary)."""
        fed, silent = [*trial.prompt, *tokens[:-1]], len(trial.prompt) - 1
        self._context.keep(0, 0)
        return self._decoded([(0, token, place, place >= silent) for place, token in enumerate(fed)])

    def _together(self, trials: Sequence[Trial]) -> list[Answer]:
        logits = self._begin(trials)
        runs = [_Run(trial, self.model.vocabulary) for trial in trials]
        active = list(enumerate(runs))
        while True:
            for (_, run), row in zip(active, logits, strict=True):
                run.take(row)
            active = [(slot, run) for slot, run in active if len(run.tokens) < run.trial.length]
            if not active:
                return [run.answer() for run in runs]
            logits = self._decoded([(slot, run.tokens[-1], run.place, True) for slot, run in active])

    def _begin(self, trials: Sequence[Trial]) -> NDArray[np.float32]:
        """Prefill the prompts, side by side; the logits after each."""
        for slot in range(len(trials)):
            self._context.keep(slot, 0)
        for place in range(max(trial.reused for trial in trials)):
            self._decoded(
                [
                    (slot, trial.prompt[place], place, False)
                    for slot, trial in enumerate(trials)
                    if place < trial.reused
                ]
            )
        return self._decoded(
            [
                (slot, trial.prompt[place], place, place == len(trial.prompt) - 1)
                for slot, trial in enumerate(trials)
                for place in range(trial.reused, len(trial.prompt))
            ]
        )

    def _decoded(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        step = self._setup.rows
        return np.concatenate(
            [self._context.decode(rows[start : start + step]).copy() for start in range(0, len(rows), step)]
        )


class _Run:
    """One answer as it is written."""

    def __init__(self, trial: Trial, vocabulary: int) -> None:
        self.trial = trial
        self.tokens: list[int] = []
        self._along = trial.along(vocabulary)
        self._seed = sampling.sampling_seed(trial.seed) if trial.noise is None else trial.noise
        self._fingerprints: list[Fingerprints] = []

    @property
    def place(self) -> int:
        """Where the last token stands, the prompt counted."""
        return len(self.trial.prompt) + len(self.tokens) - 1

    def take(self, row: NDArray[np.float32]) -> None:
        """Write the next token."""
        trial, position = self.trial, len(self.tokens)
        self._fingerprints.append(fingerprint.project(row[None], self._along))
        token = sampling.sample(row, self._seed, position, trial.temperature, trial.top_p)
        forced = trial.forced.get(position, token)
        if forced == LIKELIEST_OTHER:
            others = row.copy()
            others[token] = -np.inf
            forced = int(others.argmax())
        self.tokens.append(forced)

    def answer(self) -> Answer:
        return Answer(np.array(self.tokens, np.int32), np.concatenate(self._fingerprints))


@contextmanager
def bench(setup: Setup, context: int) -> Iterator[Bench]:
    """Load a setup's model for trials of at most `context` tokens. Raises ModelUnreadable and ContextTooLarge."""
    model = Model(setup.model)
    try:
        opened = Context(
            model,
            context,
            setup.slots,
            setup.threads,
            cache_type=setup.cache,
            flash_attention=setup.flash_attention,
            rows=setup.rows,
            outputs=setup.rows,
        )
        try:
            yield Bench(setup, model, opened)
        finally:
            opened.close()
    finally:
        model.close()
