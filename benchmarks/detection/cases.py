# ruff: noqa: ARG001, ARG005 (whatever a case does to trials or answers has one signature, used or not)
"""The cases of the study: which setup proves, which verifies, and what a cheat does in between.

A cheat changes the trial that it runs (`twist`), or the answer after it (`forge`); `repair` is the setup that makes fingerprints
anew, over the cheat's own tokens. `truth` names the pinned model: F16 for the main tables. `sampling` is every job's temperature and
top_p, where they are not drawn.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from prompts import draw_prompt, invented_text

from aos_inference.llama import Model
from aos_inference.trials import LIKELIEST_OTHER, Answer, Setup, Trial

TOKENS: Final = 300
EDITABLE: Final = 64
"""Single edits fall among the first 64 tokens, since the aim for edits is stated for 64."""
OPEN: Final = (1.3, 1.0)
"""Temperature and top_p at which the demo model has about 2 nats of entropy a token, as base models have in open-ended writing."""

Twist = Callable[[random.Random, Trial, Model], Trial]
Forge = Callable[[random.Random, Answer, Model], Answer]


def setup(model: str = "F16", **options: object) -> Setup:
    """A setup of a model file by its name; what runs 16 jobs side by side, unless told otherwise."""
    return replace(Setup(Path(f"{model}.gguf"), slots=16), **options)  # type: ignore[arg-type]


VERIFIER: Final = setup(slots=1)


@dataclass(frozen=True)
class Case:
    """One kind of prover against one kind of verifier, in `jobs` jobs."""

    name: str
    jobs: int
    prover: Setup = field(default_factory=setup)
    verifier: Setup = VERIFIER
    honest: bool = False
    truth: str = "F16"
    twist: Twist | None = None
    forge: Forge | None = None
    repair: Setup | None = None
    hidden: bool = False
    sampled: bool = False
    reuse: bool = False
    elsewhere: bool = False
    sampling: tuple[float, float] | None = None
    length: int = TOKENS

    @property
    def group(self) -> str:
        """The study that the case is part of: one for each pinned model, and one of open jobs."""
        return self.truth if self.sampling is None else "open"

    @property
    def label(self) -> str:
        """The name without the group of cases that it belongs to."""
        return self.name.rpartition(": ")[2]


def draw_trial(case: Case, index: int, model: Model) -> tuple[Trial, Trial]:
    """Job `index` of a case: as ordered, and as the prover runs it."""
    rng = random.Random(f"{case.name} {index}")
    state = rng.getstate()
    prompt = draw_prompt(rng, model)
    temperature, top_p = case.sampling or draw_params(rng, sampled=case.sampled)
    trial = Trial(
        prompt, temperature, top_p, rng.randbytes(32), f"0x{rng.getrandbits(160):040x}", case.length
    )
    run = trial
    if case.hidden:
        rng.setstate(state)
        run = replace(run, prompt=draw_prompt(rng, model, hidden=True))
    if case.reuse:
        run = replace(run, reused=rng.randrange(1, len(prompt)))
    return trial, run if case.twist is None else case.twist(rng, run, model)


def draw_params(rng: random.Random, *, sampled: bool) -> tuple[float, float]:
    """Temperature and top_p; greedy jobs are one in ten, and none where `sampled`."""
    choices = [(1.0, 1.0), (0.8, 0.95), (0.7, 1.0), (0.0, 1.0)]
    return rng.choices(choices, weights=(4, 3, 2, 0 if sampled else 1))[0]


def _temperature(factor: float) -> Twist:
    return lambda rng, trial, model: replace(trial, temperature=trial.temperature * factor)


def _top_p(rng: random.Random, trial: Trial, model: Model) -> Trial:
    return replace(trial, top_p=trial.top_p * 0.9)


def _seed(rng: random.Random, trial: Trial, model: Model) -> Trial:
    return replace(trial, noise=rng.randbytes(32))


def _dropped(share: float) -> Twist:
    return lambda rng, trial, model: replace(
        trial, prompt=trial.prompt[max(1, int(len(trial.prompt) * share)) :]
    )


def _edited(count: int) -> Twist:
    def edit(rng: random.Random, trial: Trial, model: Model) -> Trial:
        return replace(trial, forced=dict.fromkeys(rng.sample(range(EDITABLE), count), LIKELIEST_OTHER))

    return edit


def _random_edit(rng: random.Random, trial: Trial, model: Model) -> Trial:
    return replace(trial, forced={rng.randrange(EDITABLE): rng.randrange(6, model.vocabulary)})


def _edited_after(rng: random.Random, answer: Answer, model: Model) -> Answer:
    tokens = answer.tokens.copy()
    place = rng.randrange(EDITABLE)
    tokens[place] = (tokens[place] + rng.randrange(1, model.vocabulary)) % model.vocabulary
    return replace(answer, tokens=tokens)


def _other_prover(rng: random.Random, trial: Trial, model: Model) -> Trial:
    return replace(trial, prover=f"0x{rng.getrandbits(160):040x}")


def _ends(rng: random.Random, trial: Trial, model: Model) -> Trial:
    return replace(trial, forced={0: model.eos})


def _made_up(rng: random.Random, answer: Answer, model: Model) -> Answer:
    """Fluent text instead of a run; fingerprints as large as real ones."""
    tokens = np.array(model.tokenize(invented_text(rng, 8 * TOKENS))[: len(answer.tokens)], np.int32)
    spread = answer.fingerprints.astype(np.float64).std()
    noise = np.random.default_rng(rng.getrandbits(64)).normal(0, spread, answer.fingerprints.shape)
    return Answer(tokens, noise.astype(np.float16))


def _empty(rng: random.Random, answer: Answer, model: Model) -> Answer:
    return Answer(np.array([model.eos], np.int32), np.zeros((1, 8), np.float16))


_HONEST: Final = (
    Case("alone", 300, setup(slots=1)),
    Case("batch of 16", 400),
    Case("batch of 16, verifier in chunks of 128", 200, verifier=setup(slots=1, rows=128)),
    Case("2 threads", 150, setup(threads=2), setup(slots=1, threads=2)),
    Case("no flash attention", 300, setup(flash_attention=False)),
    Case("no flash attention in the verifier", 100, setup(), setup(slots=1, flash_attention=False)),
    Case("reused prefix", 200, reuse=True),
    Case("chunks of 32", 200, setup(slots=5, rows=32), setup(slots=1, rows=48)),
    Case("AVX2 build", 300, elsewhere=True),
    Case("AVX2 build, no flash attention", 100, setup(flash_attention=False), elsewhere=True),
)

_WEIGHTS: Final = ("Q8_0", "Q6_K", "Q4_K_M", "Q4_0")

_CHEATS: Final = (
    *(Case(f"weights {name}", 200, setup(name)) for name in _WEIGHTS),
    Case("cache Q8_0", 200, setup(cache="Q8_0")),
    Case("cache Q4_0", 200, setup(cache="Q4_0")),
    Case("checkpoint at step 1200", 200, setup("step1200")),
    Case("checkpoint at step 850", 150, setup("step850"), length=64),
    Case("checkpoint at step 500", 150, setup("step500"), length=64),
    Case("hidden system prompt", 200, hidden=True),
    Case("prompt without its first half", 200, twist=_dropped(0.5)),
    Case("prompt without its first token", 200, twist=_dropped(0.0), length=64),
    Case("other seed", 200, sampled=True, twist=_seed),
    Case("temperature x 0.8", 200, sampled=True, twist=_temperature(0.8)),
    Case("temperature x 0.9", 200, sampled=True, twist=_temperature(0.9)),
    Case("temperature x 1.25", 200, sampled=True, twist=_temperature(1.25)),
    Case("top_p x 0.9", 200, sampled=True, twist=_top_p),
    Case("1 token edited, the likeliest other", 200, twist=_edited(1)),
    Case("1 token edited, any other", 200, twist=_random_edit, length=64),
    Case("4 tokens edited, the likeliest others", 200, twist=_edited(4)),
    Case("1 token edited afterwards", 200, forge=_edited_after, length=128),
    Case("copied answer", 200, twist=_other_prover, length=64),
    Case("made-up transcript", 200, forge=_made_up, length=64),
    Case("empty answer", 200, forge=_empty, length=1),
    Case("empty answer, right fingerprint", 200, twist=_ends, length=1),
    *(Case(f"weights {name}, repaired fingerprints", 200, setup(name), repair=setup()) for name in _WEIGHTS),
    Case("cache Q4_0, repaired fingerprints", 200, setup(cache="Q4_0"), repair=setup()),
    Case("checkpoint at step 1200, repaired fingerprints", 200, setup("step1200"), repair=setup()),
)


def _of_other_models() -> tuple[Case, ...]:
    """Each quantised file as the pinned model: honest in mixed ways, and the next coarser file as a cheat."""
    cases: list[Case] = []
    for truth, coarser in zip(_WEIGHTS, (*_WEIGHTS[1:], "Q4_K_M"), strict=True):
        verifier = setup(truth, slots=1)
        cases += [
            Case(f"pinned {truth}: batch of 16", 80, setup(truth), verifier, honest=True, truth=truth),
            Case(
                f"pinned {truth}: no flash attention",
                60,
                setup(truth, flash_attention=False),
                verifier,
                honest=True,
                truth=truth,
            ),
            Case(
                f"pinned {truth}: AVX2 build",
                60,
                setup(truth),
                verifier,
                honest=True,
                truth=truth,
                elsewhere=True,
            ),
            Case(f"pinned {truth}: weights {coarser}", 100, setup(coarser), verifier, truth=truth),
            Case(
                f"pinned {truth}: cache Q4_0",
                60,
                setup(truth, cache="Q4_0"),
                verifier,
                truth=truth,
                length=64,
            ),
        ]
    return tuple(cases)


def _open() -> tuple[Case, ...]:
    """What is hardest to tell when the model is sure of its words, again where it is not."""
    honest = (
        Case("alone", 150, setup(slots=1)),
        Case("batch of 16", 200),
        Case("batch of 16, verifier in chunks of 128", 150, verifier=setup(slots=1, rows=128)),
        Case("no flash attention", 100, setup(flash_attention=False)),
        Case("AVX2 build", 100, elsewhere=True),
    )
    cheats = (
        *(Case(f"weights {name}", 100, setup(name)) for name in ("Q8_0", "Q6_K")),
        *(Case(f"weights {name}", 200, setup(name)) for name in ("Q4_K_M", "Q4_0")),
        Case("other seed", 200, twist=_seed, length=64),
        Case("temperature x 0.8", 200, twist=_temperature(0.8)),
        Case("temperature x 0.9", 200, twist=_temperature(0.9)),
        Case("1 token edited, the likeliest other", 200, twist=_edited(1), length=64),
        *(
            Case(f"weights {name}, repaired fingerprints", 200, setup(name), repair=setup())
            for name in _WEIGHTS
        ),
        Case("cache Q4_0, repaired fingerprints", 200, setup(cache="Q4_0"), repair=setup()),
    )
    cases = (*(replace(case, honest=True) for case in honest), *cheats)
    return tuple(replace(case, name=f"open: {case.name}", sampling=OPEN) for case in cases)


CASES: Final = (*(replace(case, honest=True) for case in _HONEST), *_CHEATS, *_of_other_models(), *_open())
