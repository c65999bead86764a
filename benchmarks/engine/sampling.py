"""Sampling's share of a step: 8 jobs, each step one `llama_decode` of 8 rows, then the draws, then the fingerprints.

The draws run on one processor while the others wait. Where other programs take part of the machine, decoding waits for its slowest thread and
seems to take longer than it does, so the share is also given of the least time that decoding can take: its processor time
shared out evenly over its threads.
"""

from dataclasses import asdict, dataclass
from statistics import median
from typing import Final

import numpy as np
from figures import Spent, now
from numpy.typing import NDArray
from options import Options

from aos_inference import llama
from aos_protocol import fingerprint, sampling
from aos_service.logs import configure_logs

_TEMPERATURE: Final = 0.8
_TOP_P: Final = 0.95
_SEED: Final = bytes(32)


@dataclass(frozen=True)
class Share:
    """Milliseconds of a step, by the clock, and the draws' share of it: as measured, and of the least that a step can take."""

    jobs: int
    vocabulary: int
    decode: float
    draws: float
    fingerprints: float
    share: float
    share_of_least: float

    def to_json(self) -> dict[str, object]:
        """As a JSON object."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"a step of {self.jobs} jobs, {self.vocabulary:,} tokens: decode {self.decode:.1f} ms, draws {self.draws:.2f} ms,"
            f" fingerprints {self.fingerprints:.2f} ms\n  the draws' share: {self.share:.1%} as measured,"
            f" {self.share_of_least:.1%} of the least that a step can take"
        )


def measure(options: Options, jobs: int) -> Share:
    """Step by step, medians over `output` steps a round."""
    configure_logs("benchmark", level="warning")
    model = llama.Model(options.path())
    context = llama.Context(model, 4 * options.prompt + options.output, jobs, options.threads)
    try:
        steps = [step for _ in range(options.rounds) for step in _round(model, context, options, jobs)]
    finally:
        context.close()
        model.close()
    decodes, draws, fingerprints = zip(*steps, strict=True)
    decode, draw, print_ = (median(spent.wall for spent in each) for each in (decodes, draws, fingerprints))
    least = median(spent.cpu for spent in decodes) / options.threads
    return Share(
        jobs=jobs,
        vocabulary=model.vocabulary,
        decode=1000 * decode,
        draws=1000 * draw,
        fingerprints=1000 * print_,
        share=draw / (decode + draw + print_),
        share_of_least=draw / (least + draw + print_),
    )


def _round(
    model: llama.Model, context: llama.Context, options: Options, jobs: int
) -> list[tuple[Spent, Spent, Spent]]:
    """What decode, draws and fingerprints took in each step but the first, for jobs with prompts of their own."""
    prompts = [model.tokenize(prompt) for prompt in options.prompts(jobs, 1)]
    along = [fingerprint.directions(_SEED, str(job), model.vocabulary) for job in range(jobs)]
    tokens = []
    for job, prompt in enumerate(prompts):
        context.keep(job, 0)
        silent = len(prompt) - 1
        rows = [(job, token, place, place == silent) for place, token in enumerate(prompt)]
        last = [
            context.decode(rows[start : start + context.rows]) for start in range(0, len(rows), context.rows)
        ][-1]
        tokens.append(_draw(last[0], job, 0))
    steps = []
    for step in range(options.output):
        rows = [
            (job, token, len(prompt) + step, True)
            for job, (prompt, token) in enumerate(zip(prompts, tokens, strict=True))
        ]
        start = now()
        logits = context.decode(rows)
        decoded = now()
        tokens = [_draw(row, job, 1 + step) for job, row in enumerate(logits)]
        drawn = now()
        for job in range(jobs):
            fingerprint.project(logits[job : job + 1], along[job])
        steps.append((decoded - start, drawn - decoded, now() - drawn))
    return steps[1:]


def _draw(logits: NDArray[np.float32], job: int, place: int) -> int:
    seed = sampling.sampling_seed(job.to_bytes(32, "big"))
    return sampling.sample(logits, seed, place, _TEMPERATURE, _TOP_P)
