"""Generation with several jobs at once: the worker over HTTP beside a bare `llama_decode` loop and two servers.

All get the same prompts, threads, slots and output length, in turns, round after round. What counts is the time from the first request to the
last answer, prompts included.
"""

from contextlib import AsyncExitStack

import contenders
from figures import Series, Table
from options import Options

_OURS = "worker"


async def measure(options: Options, jobs: int) -> Table:
    """All contenders in turns, and the ratio of ours to each."""
    setting = options.setting(jobs)
    series = Series()
    async with AsyncExitStack() as stack:
        running: dict[str, contenders.Contender] = {
            _OURS: await stack.enter_async_context(contenders.worker(setting, contenders.Worker)),
            "bare llama_decode": await stack.enter_async_context(contenders.bare(setting, pool=True)),
            "bare, a cache each": await stack.enter_async_context(contenders.bare(setting, pool=False)),
            "xllamacpp Server": await stack.enter_async_context(contenders.xllamacpp(setting)),
            "llama_cpp.server": await stack.enter_async_context(contenders.llama_cpp_server(setting)),
        }
        for contender in running.values():
            await contender.generate(options.prompts(2, 0), 8)
        for number in range(1, 1 + options.rounds):
            for name, contender in running.items():
                spent = await contender.generate(options.prompts(jobs, number), options.output)
                series.add(name, spent / (jobs * options.output))
    return series.table(f"{jobs} jobs at once: output tokens", _OURS, "rate")
