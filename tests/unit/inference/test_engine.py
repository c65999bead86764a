import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from aos_inference.engine import Engine, Step
from aos_inference.errors import (
    EngineFailed,
    EngineStopping,
    PromptTooLong,
    QueueFull,
    UnusableLogits,
)
from aos_inference.scheduler import PREFILL_CHUNK
from aos_inference.testing import ByteModel
from aos_protocol import sampling
from aos_protocol.transcript import Params

SEED = sampling.sampling_seed(b"engine tests")
LONG = Params(temperature=1.0, top_p=1.0, max_tokens=2**20, stop=())


def params(max_tokens: int = 20, stop: tuple[str, ...] = (), temperature: float = 1.0) -> Params:
    return Params(temperature=temperature, top_p=0.9, max_tokens=max_tokens, stop=stop)


@asynccontextmanager
async def running(model: ByteModel, context: int, slots: int, queue_limit: int) -> AsyncIterator[Engine]:
    engine = Engine(model, model, context, slots, queue_limit)
    engine.start()
    yield engine
    model.open.set()
    engine.stop()
    if engine.alive:
        await engine.wait()


@pytest.fixture
def model() -> ByteModel:
    return ByteModel()


@pytest.fixture
async def engine(model: ByteModel) -> AsyncIterator[Engine]:
    async with running(model, context=512, slots=4, queue_limit=2) as engine:
        yield engine


async def outcome(engine: Engine, prompt: list[int], params: Params, seed: bytes = SEED) -> list[Step]:
    with engine.generate(prompt, params, seed) as steps:
        return [step async for step in steps]


async def test_the_output_is_that_of_the_rule(engine: Engine) -> None:
    """Against a loop that calls model and sampling rule by hand."""
    prompt, reference, expected = [256, 5, 6], ByteModel(), list[int]()
    logits = reference.prefill(0, prompt, 0, last=True)
    assert logits is not None
    while len(expected) < 20 and not (expected and reference.ends(expected[-1])):
        expected.append(sampling.sample(logits, SEED, len(expected), 1.0, 0.9))
        logits = reference.decode([(0, expected[-1], len(prompt) + len(expected) - 1)])[0]
    steps = await outcome(engine, prompt, params())
    assert [step.token for step in steps] == expected
    assert [step.finish for step in steps[:-1]] == [None] * (len(expected) - 1)


async def test_many_at_once_give_what_each_gives_alone(engine: Engine) -> None:
    prompts = [[256, *range(length)] for length in (1, 3, PREFILL_CHUNK, 200, 30, 7)]
    seeds = [sampling.sampling_seed(bytes([n])) for n in range(6)]
    alone = [
        await outcome(engine, prompt, params(), seed) for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    together = await asyncio.gather(
        *(outcome(engine, prompt, params(), seed) for prompt, seed in zip(prompts, seeds, strict=True))
    )
    assert together == alone
    assert engine.load == (0, 0)


async def test_max_tokens_ends_with_length(engine: Engine) -> None:
    steps = await outcome(engine, [1], params(max_tokens=1))
    assert [step.finish for step in steps] == ["length"]


async def test_the_context_ends_with_length() -> None:
    async with running(ByteModel(endless=True), context=12, slots=1, queue_limit=0) as engine:
        steps = await outcome(engine, list(range(10)), LONG)
        assert [step.finish for step in steps] == [None, "length"]
        with pytest.raises(PromptTooLong, match=r"12 tokens.* context of 12"):
            await outcome(engine, list(range(12)), LONG)


async def test_an_end_token_is_part_of_the_output_but_not_of_the_text(
    engine: Engine, model: ByteModel
) -> None:
    for seed in range(200):
        steps = await outcome(engine, [1], params(max_tokens=400), sampling.sampling_seed(bytes([seed])))
        if steps[-1].finish == "eos":
            break
    assert model.ends(steps[-1].token)
    assert not any(model.ends(step.token) for step in steps[:-1])
    text = "".join(step.text for step in steps)
    assert text == bytes(step.token for step in steps[:-1] if step.token < 256).decode("utf-8", "replace")


async def test_a_stop_sequence_ends_the_text_before_it(engine: Engine) -> None:
    free = await outcome(engine, [9], params(max_tokens=40))
    text = "".join(step.text for step in free)
    stop = text[len(text) // 2 :][:2]
    stopped = await outcome(engine, [9], params(max_tokens=40, stop=(stop,)))
    assert stopped[-1].finish == "stop"
    assert "".join(step.text for step in stopped) == text[: text.index(stop)]
    assert [step.token for step in stopped] == [step.token for step in free[: len(stopped)]]


async def test_leaving_cancels_at_the_next_step() -> None:
    model = ByteModel(endless=True)
    async with running(model, context=10**9, slots=1, queue_limit=0) as engine:
        with engine.generate([1], LONG, SEED) as steps:
            await anext(steps)
            assert engine.load == (1, 0)
        assert engine.load == (0, 0)
        before = model.calls
        await outcome(engine, [1], params(max_tokens=1))
        assert model.calls - before <= 2  # the step that was under way, and this one


async def test_leaving_the_queue_frees_its_place(engine: Engine, model: ByteModel) -> None:
    model.open.clear()
    with engine.generate([1], LONG, SEED), engine.generate([1], LONG, SEED), engine.generate([1], LONG, SEED):
        with (
            engine.generate([1], LONG, SEED),
            engine.generate([1], LONG, SEED),
            engine.generate([1], LONG, SEED),
        ):
            assert engine.load == (4, 2)
            with pytest.raises(QueueFull), engine.generate([1], LONG, SEED):
                pass
        assert engine.load == (3, 0)
    assert engine.load == (0, 0)


async def test_a_slot_taken_over_in_the_middle_of_a_step_starts_clean() -> None:
    model = ByteModel(endless=True)
    async with running(model, context=10**9, slots=1, queue_limit=1) as engine:
        expected = await outcome(engine, [3, 4], params())
        with engine.generate([1], LONG, SEED) as steps:
            await anext(steps)
            model.open.clear()
        taking_over = asyncio.create_task(outcome(engine, [3, 4], params()))
        await asyncio.sleep(0)
        model.open.set()
        assert await taking_over == expected


async def test_a_failure_reaches_everybody_and_stays_visible(engine: Engine, model: ByteModel) -> None:
    model.failure = OSError("the machine is on fire")
    results = await asyncio.gather(*(outcome(engine, [1], LONG) for _ in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [EngineFailed] * 5
    assert not engine.alive
    with pytest.raises(OSError, match="on fire"):
        await engine.wait()
    with pytest.raises(EngineFailed), engine.generate([1], LONG, SEED):
        pass


async def test_stopping_fails_what_runs_and_what_comes(engine: Engine, model: ByteModel) -> None:
    model.open.clear()
    started = asyncio.create_task(outcome(engine, [1], LONG))
    await asyncio.sleep(0)
    engine.stop()
    with pytest.raises(EngineStopping):
        await started
    with pytest.raises(EngineStopping), engine.generate([1], LONG, SEED):
        pass
    model.open.set()
    await engine.wait()
    assert not engine.alive


class NanModel(ByteModel):
    """Gives NaN to prompts that begin with 66."""

    def prefill(self, slot: int, tokens: list[int], start: int, *, last: bool) -> np.ndarray | None:  # type: ignore[override]
        logits = super().prefill(slot, tokens, start, last=last)
        return logits if logits is None or tokens[0] != 66 else logits * np.nan


async def test_unusable_logits_fail_one_job_only() -> None:
    async with running(NanModel(), context=64, slots=2, queue_limit=0) as engine:
        with pytest.raises(UnusableLogits, match="output token 0"):
            await outcome(engine, [66], params())
        assert len(await outcome(engine, [65], params(max_tokens=2))) >= 1
