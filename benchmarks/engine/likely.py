"""What it costs to say of each output token how likely it and so many others were (`logprobs`), beside not asking for it."""

from contextlib import AsyncExitStack
from typing import Any, Final

import contenders
from figures import Series, Table
from options import Options

_COUNTS: Final = (0, 5, 20)
_OFF: Final = "not asked for"


class Asking(contenders.Worker):
    """The worker, asked for so many alternatives of each token, or with None not at all."""

    wanted: int | None = None

    def _body(self, prompt: str, output: int, index: int) -> dict[str, Any]:
        body = super()._body(prompt, output, index)
        return body if self.wanted is None else body | {"logprobs": self.wanted}


async def measure(options: Options, jobs: int) -> Table:
    """One worker, asked in turns; which way begins changes from round to round."""
    setting, series = options.setting(jobs), Series()
    ways: dict[str, int | None] = {_OFF: None} | {f"{count} others": count for count in _COUNTS}
    async with AsyncExitStack() as stack:
        worker = await stack.enter_async_context(contenders.worker(setting, Asking))
        await worker.generate(options.prompts(2, 0), 8)
        for number in range(1, 1 + options.rounds):
            for name, worker.wanted in list(ways.items())[:: 1 if number % 2 else -1]:
                spent = await worker.generate(options.prompts(jobs, number), options.output)
                series.add(name, spent / (jobs * options.output))
    return series.table(f"{jobs} jobs at once: output tokens with logprobs", _OFF, "rate")
