"""Measuring a model for its calibration: honest answers under many settings, and answers of operators that cheat.

1. Prompts are drawn: openings that the model itself continues, and, if it has a chat template, questions.
2. Every honest way runs its answers, and the verifier scores them, in other batches than they were made in.
3. So does every alternative: coarser files of the same model, quantised caches, half a prompt, another seed, another temperature.
4. `aos_inference.calibrate.fit` makes the calibration of it all.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeAlias

from aos_inference.calibrate import Run
from aos_inference.chat import ChatFormat
from aos_inference.errors import InvalidField
from aos_inference.llama import Model
from aos_inference.trials import Bench, Setup, Trial, bench

SLOTS: Final = 8
_PARAMS: Final = ((1.0, 1.0), (0.8, 0.95), (0.7, 1.0))
_OPENINGS: Final = (
    "The", "In the beginning", "Once upon a time", "A short guide to", "Yesterday, the", "Question:", "def main():", "It is well known that",
)  # fmt: skip
_QUESTIONS: Final = (
    "What is a computer?",
    "Tell me a story about a fox.",
    "How does the weather change in spring?",
    "Explain why the sky is blue.",
    "Write a list of five animals and what they eat.",
    "What should I cook tonight?",
    "Describe a city that you would like to visit.",
    "How do I learn to play the piano?",
)  # fmt: skip

Twist: TypeAlias = Callable[[Trial], Trial]
Tick: TypeAlias = Callable[[str, int], None]
"""Told the name of a run and how many of its answers are done."""


@dataclass(frozen=True)
class Way:
    """A way to run the model; `twist` is what a cheat changes in its trials."""

    name: str
    honest: bool
    prover: Setup
    verifier: Setup
    twist: Twist = field(default=lambda trial: trial)


def ways(model: Path, files: Mapping[str, Path], threads: int) -> list[Way]:
    """Everything that a calibration measures of a model; `files` are its coarser versions by kind."""
    alone, batched = Setup(model, threads=threads), Setup(model, threads=threads, slots=SLOTS)
    plain = replace(batched, flash_attention=False)
    fewer = replace(batched, threads=max(1, threads // 2) if threads > 1 else 2)
    chunks, pieces = replace(batched, slots=3, rows=32), replace(alone, rows=48)
    honest = [
        Way("alone", True, alone, alone),
        Way("side by side", True, batched, alone),
        Way("side by side, scored in pieces", True, batched, replace(alone, rows=128)),
        Way("other threads", True, fewer, alone),
        Way("no flash attention", True, plain, alone),
        Way("no flash attention, scored without", True, plain, replace(alone, flash_attention=False)),
        Way("reused prefix", True, batched, alone, _reused),
        Way("small batches", True, chunks, pieces),
        Way("small batches, scored in one", True, chunks, alone),
    ]
    return [
        *honest,
        *(Way(f"weights {kind}", False, replace(batched, model=file), alone) for kind, file in files.items()),
        Way("cache Q8_0", False, replace(batched, cache="Q8_0"), alone),
        Way("cache Q4_0", False, replace(batched, cache="Q4_0"), alone),
        Way("shorter prompt", False, batched, alone, _shortened),
        Way("other seed", False, batched, alone, lambda trial: replace(trial, noise=bytes(32))),
        Way("temperature x 0.8", False, batched, alone, _colder),
    ]


def _reused(trial: Trial) -> Trial:
    return replace(trial, reused=len(trial.prompt) // 2)


def _shortened(trial: Trial) -> Trial:
    return replace(trial, prompt=trial.prompt[len(trial.prompt) // 2 :])


def _colder(trial: Trial) -> Trial:
    return replace(trial, temperature=trial.temperature * 0.8)


def draw_prompts(opened: Bench, count: int) -> list[tuple[int, ...]]:
    """Prompts in the model's own manner: openings that it continued by 8 to 40 tokens, and questions in its chat format."""
    rng, model = random.Random(0), opened.model  # noqa: S311 (the same prompts each time, and no secret)
    begun = [_begun(rng, model) for _ in range(count)]
    grown = opened.answers(
        [Trial(start, 1.0, 1.0, rng.randbytes(32), "prompt", rng.randrange(8, 40)) for start in begun]
    )
    texts = [(*start, *answer.tokens.tolist()) for start, answer in zip(begun, grown, strict=True)]
    chats = _chats(rng, model, count // 2)
    return [*chats, *texts[len(chats) :]]


def _begun(rng: random.Random, model: Model) -> tuple[int, ...]:
    first = (model.bos,) if model.adds_bos else ()
    return (*first, *model.tokenize(rng.choice(_OPENINGS)))


def _chats(rng: random.Random, model: Model, count: int) -> list[tuple[int, ...]]:
    """Questions in the chat format; none for a model without a template that takes them."""
    if model.chat_template is None:
        return []
    try:
        chat = ChatFormat(model.chat_template, model)
        asked = [tuple(chat.tokens([{"role": "user", "content": text}])) for text in _QUESTIONS]
    except InvalidField:
        return []
    return [rng.choice(asked) for _ in range(count)]


def draw_trials(prompts: Sequence[tuple[int, ...]], tokens: int, way: str) -> list[Trial]:
    """A job for each prompt, with seeds of its own for each way."""
    rng = random.Random(way)  # noqa: S311 (as above)
    return [
        Trial(
            prompt,
            *_PARAMS[index % len(_PARAMS)],
            rng.randbytes(32),
            f"0x{rng.getrandbits(160):040x}",
            tokens,
        )
        for index, prompt in enumerate(prompts)
    ]


def measure(chosen: Iterable[Way], prompts: Sequence[tuple[int, ...]], tokens: int, tick: Tick) -> list[Run]:
    """Run each way over the prompts, in answers of so many tokens. Raises ModelUnreadable and ContextTooLarge."""
    context = max(map(len, prompts)) + tokens
    return [_measured(way, draw_trials(prompts, tokens, way.name), context, tick) for way in chosen]


def _measured(way: Way, trials: Sequence[Trial], context: int, tick: Tick) -> Run:
    with bench(way.prover, context) as prover:
        answers = prover.answers([way.twist(trial) for trial in trials])
    run = []
    with bench(way.verifier, context) as verifier:
        for done, (trial, answer) in enumerate(zip(trials, answers, strict=True), start=1):
            run.append(verifier.measure(trial, answer))
            tick(way.name, done)
    return Run(way.name, way.honest, run)
