"""What verifying costs: `/v1/score` beside a bare prefill with the same logits, and beside generating the same job.

Two workers take turns as executor and verifier, so that no verifier has a prompt in its cache. Each round measures

- scoring transcripts together beside `llama_decode` over the same tokens with logits at the output's positions, which nobody reads;
- that scoring beside the generation of the same jobs together, and the like for one job that has no company;
- what scoring adds to a burst of as many other jobs that are generated meanwhile, beside the burst alone.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import contenders
from figures import Series, Spent, Table
from options import Options

_OURS: Final = "scoring"
_ASKED: Final = ("output_tokens", "params", "seed", "prover", "fingerprints")


async def measure(options: Options, jobs: int) -> list[Table]:
    """Four tables."""
    setting = options.setting(2 * jobs)
    async with AsyncExitStack() as stack:
        one, other = [
            await stack.enter_async_context(contenders.worker(setting, contenders.Worker)) for _ in range(2)
        ]
        bench = _Bench(
            options, jobs, one, other, await stack.enter_async_context(contenders.bare(setting, pool=False))
        )
        await one.generate(options.prompts(2, 0), 8)
        await other.generate(options.prompts(2, 0), 8)
        for number in range(options.rounds):
            await bench.round(number)
    return [
        bench.passes.table(f"{jobs} transcripts together: tokens read", _OURS, "rate"),
        bench.together.table(f"{jobs} jobs together: one job", _OURS, "cost"),
        bench.alone.table("one job without company", _OURS, "cost"),
        bench.loaded.table(f"{jobs} jobs beside {jobs} others: one job, added time", _OURS, "cost"),
    ]


class _Bench:
    """`one` generates what `other` scores, and the other way round."""

    def __init__(
        self,
        options: Options,
        jobs: int,
        one: contenders.Worker,
        other: contenders.Worker,
        bare: contenders.Bare,
    ) -> None:
        self._options, self._jobs = options, jobs
        self._one, self._other, self._bare = one, other, bare
        self.passes, self.together, self.alone, self.loaded = Series(), Series(), Series(), Series()

    async def round(self, number: int) -> None:
        """All measurements once."""
        jobs, ask, output = self._jobs, self._options.prompts, self._options.output
        first, second, third, single = (
            ask(jobs, 4 * number + 1),
            ask(jobs, 4 * number + 2),
            ask(jobs, 4 * number + 3),
            ask(1, 4 * number + 4),
        )

        generating = await self._one.generate(first, output)
        answers = self._one.answers
        scoring = await _score(self._other, first, answers)
        floor = await self._prefill(answers)
        tokens = sum(map(_length, answers))
        self.passes.add(_OURS, scoring / tokens)
        self.passes.add("bare prefill, same logits", floor / tokens)
        self.together.add(_OURS, scoring / jobs)
        self.together.add("generating", generating / jobs)

        burst = await self._other.generate(second, output)
        answers = self._other.answers
        start = self._one.now()
        await asyncio.gather(self._one.generate(third, output), _score(self._one, second, answers))
        added = self._one.now() - start - burst
        self.loaded.add(_OURS, added / jobs)
        self.loaded.add("generating", burst / jobs)

        self.alone.add("generating", await self._one.generate(single, output))
        self.alone.add(_OURS, await _score(self._other, single, self._one.answers))

    async def _prefill(self, answers: Sequence[dict[str, Any]]) -> Spent:
        transcripts = [answer["transcript"] for answer in answers]
        return await self._bare.score(
            [transcript["prompt_tokens"] for transcript in transcripts],
            [transcript["output_tokens"] for transcript in transcripts],
        )


async def _score(
    worker: contenders.Worker, prompts: Sequence[str], answers: Sequence[dict[str, Any]]
) -> Spent:
    """One request with all of these answers' transcripts."""
    items = [
        {name: answer["transcript"][name] for name in _ASKED}
        | {"prompt": prompt, "subject": answer["commitment"]}
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    start = worker.now()
    scored = await worker.post("/v1/score", {"model": "m", "items": items})
    spent = worker.now() - start
    for score, item in zip(scored["scores"], items, strict=True):
        if score["positions"] != len(item["output_tokens"]) or max(score["distances"]) > 1:
            raise contenders.Failed(f"not the score of an honest answer: {score}")
    return spent


def _length(answer: dict[str, Any]) -> int:
    """Tokens that a pass over the answer reads: all but the last."""
    return len(answer["transcript"]["prompt_tokens"]) + len(answer["transcript"]["output_tokens"]) - 1
