import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest
from numpy.typing import NDArray

from aos_inference.engine import Engine
from aos_inference.errors import (
    EngineFailed,
    EngineStopping,
    PromptTooLong,
    QueueFull,
    UnusableLogits,
)
from aos_inference.jobs import Claim, Names, Queued, Step
from aos_inference.scheduler import Limits
from aos_inference.testing import ByteModel, Misdriven
from aos_protocol import fingerprint, sampling
from aos_protocol.score_document import Score
from aos_protocol.transcript import Params

SEED = bytes(range(32))
PROVER = "0x" + "ab" * 20
NAMES = Names("1" * 64, "2" * 64, "stand-in")
LONG = Params(temperature=1.0, top_p=1.0, max_tokens=2**20, stop=())


def params(max_tokens: int = 20, stop: tuple[str, ...] = (), temperature: float = 1.0) -> Params:
    return Params(temperature=temperature, top_p=0.9, max_tokens=max_tokens, stop=stop)


@asynccontextmanager
async def running(
    model: ByteModel, context: int = 512, slots: int = 4, **limits: int
) -> AsyncIterator[Engine]:
    chosen = {"requests": 2, "tokens": 10_000, **limits}
    engine = Engine(model, model, context, Limits(slots, **chosen))
    engine.start()
    yield engine
    model.open.set()
    engine.stop()
    if engine.alive:
        await engine.wait()


@pytest.fixture
def model() -> ByteModel:
    return ByteModel(cells=4 * 512)


@pytest.fixture
async def engine(model: ByteModel) -> AsyncIterator[Engine]:
    async with running(model) as engine:
        yield engine


async def outcome(
    engine: Engine, prompt: Sequence[int], params: Params, seed: bytes = SEED, prover: str = PROVER
) -> list[Step]:
    with engine.generate(prompt, params, seed, prover) as steps:
        return [step async for step in steps if isinstance(step, Step)]


def busy(engine: Engine) -> tuple[int, int]:
    return engine.load.active, engine.load.queued


async def until_busy(engine: Engine, active: int, queued: int) -> None:
    while busy(engine) != (active, queued):
        await asyncio.sleep(0)


async def until_computing(model: ByteModel) -> None:
    """Wait until the engine's thread is within a batch, where a model that is not `open` holds it."""
    while not model.batches:
        await asyncio.sleep(0)


def logits_by_hand(prompt: Sequence[int], output: Sequence[int]) -> NDArray[np.float32]:
    """Logits that each output token was drawn from."""
    reference = ByteModel()
    reference.keep(0, 0)
    tokens = [*prompt, *output[:-1]]
    return reference.decode(
        [(0, token, place, place >= len(prompt) - 1) for place, token in enumerate(tokens)]
    )


def claim(
    prompt: Sequence[int], steps: Sequence[Step], asked: Params, seed: bytes = SEED, prover: str = PROVER
) -> Claim:
    prints = b"".join(step.fingerprint for step in steps)
    return Claim(NAMES, prompt, [step.token for step in steps], asked, seed, prover, prints)


class TestGenerating:
    async def test_the_output_is_that_of_the_rule(self, engine: Engine) -> None:
        """Each token is the draw from the logits after all before it, and carries their fingerprint."""
        prompt = [256, 5, 6]
        steps = await outcome(engine, prompt, params())
        tokens = [step.token for step in steps]
        logits = logits_by_hand(prompt, tokens)
        seed, along = sampling.sampling_seed(SEED), fingerprint.directions(SEED, PROVER, ByteModel.vocabulary)
        assert tokens == [sampling.sample(row, seed, place, 1.0, 0.9) for place, row in enumerate(logits)]
        claimed = fingerprint.unpack(b"".join(step.fingerprint for step in steps))
        assert fingerprint.distances(claimed, fingerprint.project(logits, along)).max() < 0.01
        assert [step.finish for step in steps[:-1]] == [None] * (len(tokens) - 1)
        assert len(tokens) == 20 or steps[-1].finish == "eos"

    async def test_fingerprints_are_the_provers_own(self, engine: Engine) -> None:
        mine, yours = [await outcome(engine, [1], params(), prover=prover) for prover in ("me", "you")]
        assert [step.token for step in mine] == [step.token for step in yours]
        assert mine[0].fingerprint != yours[0].fingerprint

    async def test_max_tokens_ends_with_length(self, engine: Engine) -> None:
        steps = await outcome(engine, [1], params(max_tokens=1))
        assert [step.finish for step in steps] == ["length"]

    async def test_the_context_ends_with_length(self) -> None:
        async with running(ByteModel(endless=True, cells=12), context=12, slots=1) as engine:
            steps = await outcome(engine, list(range(10)), LONG)
            assert [step.finish for step in steps] == [None, "length"]
            with pytest.raises(PromptTooLong, match=r"12 tokens.* context of 12"):
                await outcome(engine, list(range(12)), LONG)

    async def test_an_end_token_is_part_of_the_output_but_not_of_the_text(
        self, engine: Engine, model: ByteModel
    ) -> None:
        for seed in range(200):
            steps = await outcome(engine, [1], params(max_tokens=400), bytes([seed] * 32))
            if steps[-1].finish == "eos":
                break
        assert model.ends(steps[-1].token)
        assert not any(model.ends(step.token) for step in steps[:-1])
        text = "".join(step.text for step in steps)
        assert text == bytes(step.token for step in steps[:-1] if step.token < 256).decode("utf-8", "replace")

    async def test_a_stop_sequence_ends_the_text_before_it(self, engine: Engine) -> None:
        free = await outcome(engine, [9], params(max_tokens=40))
        text = "".join(step.text for step in free)
        stop = text[len(text) // 2 :][:2]
        stopped = await outcome(engine, [9], params(max_tokens=40, stop=(stop,)))
        assert stopped[-1].finish == "stop"
        assert "".join(step.text for step in stopped) == text[: text.index(stop)]
        assert [step.token for step in stopped] == [step.token for step in free[: len(stopped)]]

    async def test_what_a_slot_was_fed_is_not_read_again(self, engine: Engine, model: ByteModel) -> None:
        prompt = list(range(100))
        first = await outcome(engine, prompt, params(max_tokens=5))
        before = model.fed
        again = await outcome(engine, prompt, params(max_tokens=5))
        assert again == first
        assert model.fed - before == len(again)  # the prompt's last token, and each output token but the last

    async def test_a_memory_that_cannot_forget_is_begun_anew(self) -> None:
        model = ByteModel()
        model.trims = False
        async with running(model, slots=1) as engine:
            first = await outcome(engine, list(range(50)), params())
            assert await outcome(engine, list(range(50)), params()) == first


class TestScoring:
    async def test_an_honest_answer_fits(self, engine: Engine) -> None:
        prompt = [256, *range(30)]
        steps = await outcome(engine, prompt, params())
        (score,) = await engine.score([claim(prompt, steps, params())])
        assert (score.level, score.subject, score.model, score.engine) == (
            "fingerprint",
            *vars(NAMES).values(),
        )
        assert score.winners == [step.token for step in steps]
        assert score.margins == [0.0] * len(steps)
        assert score.distances is not None
        assert max(score.distances) < 0.01
        assert score.ambiguous is None

    async def test_other_claims_do_not(self, engine: Engine) -> None:
        prompt, asked = [256, *range(30)], params(max_tokens=40)
        steps = await outcome(engine, prompt, asked)
        tokens = [step.token for step in steps]
        truth = claim(prompt, steps, asked)
        other_seed, other_prover, other_prompt, edited = await engine.score(
            [
                claim(prompt, steps, asked, seed=bytes(32)),
                claim(prompt, steps, asked, prover="somebody else"),
                claim([256, 7, *range(30)], steps, asked),
                Claim(
                    NAMES,
                    prompt,
                    [(tokens[0] + 1) % 256, *tokens[1:]],
                    asked,
                    SEED,
                    PROVER,
                    truth.fingerprints,
                ),
            ]
        )
        assert np.mean(other_seed.margins or ()) > 0.1
        for score in (other_seed, other_prover, other_prompt):
            assert np.median(score.distances or ()) > 0.3
        assert other_prover.margins == [0.0] * len(steps)
        assert edited.distances is not None
        assert edited.margins is not None
        assert edited.distances[0] < 0.01 < min(edited.distances[1:])
        assert edited.margins[0] > 0

    @pytest.mark.parametrize(
        ("seed", "temperature", "level"),
        [(None, 1.0, "likelihood"), (SEED, 1.0, "seeded"), (None, 0.0, "greedy")],
    )
    async def test_a_bare_claim_is_scored_at_the_level_it_allows(
        self, engine: Engine, seed: bytes | None, temperature: float, level: str
    ) -> None:
        asked = params(temperature=temperature)
        tokens = [step.token for step in await outcome(engine, [1, 2], asked)]
        (score,) = await engine.score([Claim(NAMES, [1, 2], tokens, asked, seed)])
        assert score.level == level
        assert score.distances is None
        assert score.margins == (None if level == "likelihood" else [0.0] * len(tokens))
        assert len(score.surprisals) == len(tokens)

    async def test_a_prompt_that_claims_share_is_read_once(self, engine: Engine, model: ByteModel) -> None:
        prompt = list(range(200))
        asked = [Claim(NAMES, prompt, [number] * 10, params(), SEED) for number in range(6)]
        scores = await engine.score(asked)
        assert model.fed == 199 + 6 * 10
        assert [score.winners[0] for score in scores] == [scores[0].winners[0]] * 6
        assert len({tuple(score.winners) for score in scores}) == 6

    async def test_so_is_one_that_requests_share(self, engine: Engine, model: ByteModel) -> None:
        prompt = list(range(200))
        asked = [Claim(NAMES, prompt, [number] * 10, params(), SEED) for number in range(3)]
        model.open.clear()
        scoring = [asyncio.create_task(engine.score([each])) for each in asked]
        await until_busy(engine, active=1, queued=2)
        model.open.set()
        await asyncio.gather(*scoring)
        assert model.fed == 199 + 3 * 10

    async def test_scoring_and_generating_share_batches(self, engine: Engine, model: ByteModel) -> None:
        model.open.clear()
        writing = [asyncio.create_task(outcome(engine, [0], params(max_tokens=10)))]
        await until_computing(model)
        writing.append(asyncio.create_task(outcome(engine, [1], params(max_tokens=10))))
        asked = [Claim(NAMES, [9, n], [1] * 40, params()) for n in range(2)]
        scoring = asyncio.create_task(engine.score(asked))
        await until_busy(engine, active=4, queued=0)
        model.open.set()
        await asyncio.gather(scoring, *writing)
        sizes = [sorted(batch.values()) for batch in model.batches[:5]]
        assert sizes == [[1], [1, 1, 29, 29], [1, 1, 12, 12], [1, 1], [1, 1]]

    async def test_an_answer_that_does_not_fit_is_named(self, engine: Engine) -> None:
        fits = Claim(NAMES, [1] * 500, [1] * 12, params())
        assert len(await engine.score([fits])) == 1
        with pytest.raises(PromptTooLong, match=r"items\.1: the prompt \(500 tokens\) and the output \(13\)"):
            await engine.score([fits, Claim(NAMES, [1] * 500, [1] * 13, params())])

    async def test_leaving_cancels_what_is_left(self, engine: Engine, model: ByteModel) -> None:
        model.open.clear()
        asked = [Claim(NAMES, [number], [1] * 300, params()) for number in range(6)]
        scoring = asyncio.create_task(engine.score(asked))
        await until_computing(model)
        assert busy(engine) == (4, 2)
        scoring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await scoring
        assert busy(engine) == (0, 0)
        model.open.set()
        assert len(await engine.score([Claim(NAMES, [3], [1] * 5, params())])) == 1
        assert len(model.batches) == 2

    async def test_the_least_temperature_has_a_score(self, engine: Engine) -> None:
        coldest = Params(temperature=5e-324, top_p=1.0, max_tokens=9, stop=())
        (score,) = await engine.score([Claim(NAMES, [1], [1, 2], coldest)])
        assert score.positions == 2


class TestSharing:
    async def test_many_at_once_give_what_each_gives_alone(self, engine: Engine) -> None:
        prompts = [[256, *range(length)] for length in (1, 3, 64, 200, 30, 7)]
        seeds = [bytes([number] * 32) for number in range(6)]
        pairs = list(zip(prompts, seeds, strict=True))
        alone = [await outcome(engine, prompt, params(), seed) for prompt, seed in pairs]
        together = await asyncio.gather(*(outcome(engine, prompt, params(), seed) for prompt, seed in pairs))
        assert together == alone
        assert busy(engine) == (0, 0)

    @pytest.mark.parametrize("trims", [True, False])
    async def test_a_crowd_that_comes_and_goes(self, trims: bool) -> None:
        """Generations, scorings and clients that leave, at random: whoever stays gets what it would get alone."""
        model = ByteModel(cells=3 * 128)
        model.trims = trims
        chance = random.Random(5)
        async with running(model, context=128, slots=3, requests=100) as engine:
            jobs = [_Client(engine, chance) for _ in range(60)]
            await asyncio.gather(*(job.visit() for job in jobs))
            assert busy(engine) == (0, 0)
        async with running(ByteModel(), context=128, slots=1) as quiet:
            for job in jobs:
                await job.compare(quiet)
        assert sum(job.left for job in jobs) > 5

    async def test_those_who_wait_are_told_their_places(self) -> None:
        model = ByteModel()
        async with running(model, slots=1) as engine:
            model.open.clear()
            told: list[list[int]] = [[], []]

            async def wait(place: int) -> None:
                with engine.generate([place], params(max_tokens=3), SEED, PROVER) as steps:
                    async for event in steps:
                        if isinstance(event, Queued):
                            told[place].append(event.position)

            with engine.generate([9], LONG, SEED, PROVER):
                waiting = [asyncio.create_task(wait(place)) for place in range(2)]
                await until_busy(engine, active=1, queued=2)
                while told != [[1], [2]]:
                    await asyncio.sleep(0)
            model.open.set()
            await asyncio.gather(*waiting)
            assert told == [[1], [2, 1]]


class _Client:
    """Someone with a random job, who may leave before it is done."""

    def __init__(self, engine: Engine, chance: random.Random) -> None:
        self._engine = engine
        self._prompt = [chance.randrange(3) for _ in range(chance.randint(1, 60))]
        self._output = [chance.randrange(256) for _ in range(chance.randint(1, 60))]
        self._params = params(max_tokens=chance.randint(1, 60))
        self._seed = chance.randbytes(32)
        self._scores = chance.random() < 0.5
        self._patience = chance.randint(1, 200) if chance.random() < 0.4 else None
        self._result: list[Step] | list[Score] | None = None

    @property
    def left(self) -> bool:
        return self._result is None

    async def _ask(self, engine: Engine) -> list[Step] | list[Score]:
        if self._scores:
            return await engine.score([Claim(NAMES, self._prompt, self._output, self._params, self._seed)])
        return await outcome(engine, self._prompt, self._params, self._seed)

    async def visit(self) -> None:
        asking = asyncio.create_task(self._ask(self._engine))
        if self._patience is not None:
            for _ in range(self._patience):
                await asyncio.sleep(0)
            asking.cancel()
        try:
            self._result = await asking
        except asyncio.CancelledError:
            assert self._patience is not None

    async def compare(self, quiet: Engine) -> None:
        if self._result is not None:
            assert self._result == await self._ask(quiet)


class TestLeaving:
    async def test_it_cancels_at_the_next_step(self) -> None:
        model = ByteModel(endless=True)
        async with running(model, context=10**9, slots=1) as engine:
            with engine.generate([1], LONG, SEED, PROVER) as steps:
                await anext(steps)
                assert busy(engine) == (1, 0)
            assert busy(engine) == (0, 0)
            before = len(model.batches)
            await outcome(engine, [1], params(max_tokens=1))
            assert len(model.batches) - before <= 2  # the step that was under way, and this one

    async def test_leaving_the_queue_frees_its_place(self) -> None:
        model = ByteModel()
        async with running(model, slots=1) as engine:
            model.open.clear()
            with engine.generate([1], LONG, SEED, PROVER):
                with engine.generate([1], LONG, SEED, PROVER), engine.generate([1], LONG, SEED, PROVER):
                    assert busy(engine) == (1, 2)
                    with pytest.raises(QueueFull), engine.generate([1], LONG, SEED, PROVER):
                        pass
                assert busy(engine) == (1, 0)
            assert busy(engine) == (0, 0)

    async def test_a_slot_taken_over_in_the_middle_of_a_step_starts_clean(self) -> None:
        model = ByteModel(endless=True)
        async with running(model, context=10**9, slots=1) as engine:
            expected = await outcome(engine, [3, 4], params())
            with engine.generate([1], LONG, SEED, PROVER) as steps:
                await anext(steps)
                model.open.clear()
            taking_over = asyncio.create_task(outcome(engine, [3, 4], params()))
            await asyncio.sleep(0)
            model.open.set()
            assert await taking_over == expected


class TestFailing:
    async def test_a_failure_reaches_everybody_and_stays_visible(
        self, engine: Engine, model: ByteModel
    ) -> None:
        model.failure = OSError("the machine is on fire")
        asked = Claim(NAMES, [1], [2], params())
        results = await asyncio.gather(
            engine.score([asked]), *(outcome(engine, [1], LONG) for _ in range(5)), return_exceptions=True
        )
        assert [type(result) for result in results] == [EngineFailed] * 6
        assert not engine.alive
        with pytest.raises(OSError, match="on fire"):
            await engine.wait()
        with pytest.raises(EngineFailed), engine.generate([1], LONG, SEED, PROVER):
            pass

    async def test_stopping_fails_what_runs_and_what_comes(self, engine: Engine, model: ByteModel) -> None:
        model.open.clear()
        started = asyncio.create_task(outcome(engine, [1], LONG))
        await asyncio.sleep(0)
        engine.stop()
        with pytest.raises(EngineStopping):
            await started
        with pytest.raises(EngineStopping), engine.generate([1], LONG, SEED, PROVER):
            pass
        model.open.set()
        await engine.wait()
        assert not engine.alive


async def test_idle_slots_forget_what_exceeds_the_bound() -> None:
    """The stand-in has cells for one job and the bound: it would notice two whole ones."""
    async with running(ByteModel(cells=60 + 20), context=60, idle=20) as engine:
        for first in (65, 66, 67):
            assert await outcome(engine, [first] * 50, params())


class Spoilt(ByteModel):
    """After token 66 a slot's logits are unusable, until it forgets it."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self._logit = logit

    def _logits(self, sequence: list[int]) -> NDArray[np.float32]:
        logits = super()._logits(sequence)
        if 66 in sequence:
            logits[:2] = self._logit
        return logits


@pytest.mark.parametrize("logit", [np.nan, np.inf, -np.inf, 1e38])
async def test_unusable_logits_fail_one_job_only_and_are_forgotten(logit: float) -> None:
    async with running(Spoilt(logit), context=64, slots=1) as engine:
        with pytest.raises(UnusableLogits, match="output token 0"):
            await outcome(engine, [65, 66], params())
        if not np.isfinite(logit):
            with pytest.raises(UnusableLogits, match=r"items\.1: .*position 0"):
                await engine.score([Claim(NAMES, prompt, [5], params()) for prompt in ([65], [65, 66])])
        assert len(await outcome(engine, [65], params(max_tokens=2))) >= 1


async def test_the_stand_in_notices_when_it_is_misdriven() -> None:
    model = ByteModel(cells=2)
    model.keep(0, 0)
    for rows in ([(0, 5, 1, True)], [(0, 5, place, True) for place in range(3)]):
        with pytest.raises(Misdriven):
            model.decode(rows)


async def test_steps_are_counted_through_a_long_prompt(model: ByteModel) -> None:
    async with running(model, rows=8) as engine:
        assert engine.steps == 0
        await outcome(engine, [65] * 80, params(max_tokens=1))
        assert engine.steps == len(model.batches) >= 10


async def test_a_private_prompt_is_read_whole_by_everybody(model: ByteModel) -> None:
    async with running(model, slots=1) as engine:
        fed = []
        for private in (False, True, False, False):
            before = model.fed
            with engine.generate(
                b"the same prompt", params(max_tokens=1), SEED, PROVER, private=private
            ) as steps:
                assert [step async for step in steps]
            fed.append(model.fed - before)
    assert fed == [15, 15, 15, 1]
