"""2,000 operators connected to one dispatcher: memory of a connection, cost of a job as operators grow, and a storm of reconnections.

    python benchmarks/operators.py [--operators 2000] [--steps 10,100,1000,2000] [--jobs 100] [--rounds 3] [--storm-jobs 200] [--json]

Operators are simulated (`one_dispatcher`), all in one other process. At each step the dispatcher works on bursts of jobs, in turns with a
dispatcher that asks everybody for a ticket, as draws did before there were electorates (docs/adr/0024). Costs are processor time of
the dispatcher and its PostgreSQL, which others on the machine move less than the clock. In the storm all connections are aborted
at once, and every operator comes back at once, without the pause that a real one makes first.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from contextlib import AsyncExitStack
from typing import Any

from one_dispatcher import OneDispatcher, burst, one_dispatcher, own_postgres, signer_of

from aos_operator.backoff import Backoff

BOUND_S = 1500.0
RETRY_LIMIT_S = 8.0  # as aos_operator.link


class Crowd:
    """The process that is all operators: it does what lines on its input say, and answers each with a line."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._operators: list[Any] = []
        self._kept: list[asyncio.Task[None]] = []
        self._here = 0
        self._tries = self._left = 0
        self._changed = asyncio.Event()

    async def connect(self, count: int) -> dict[str, Any]:
        """Have so many operators connected in all."""
        from support.operators import ScriptedOperator

        began = time.perf_counter()
        while len(self._operators) < count:
            fresh = range(len(self._operators), min(count, len(self._operators) + 50))
            for index in fresh:
                operator = ScriptedOperator(signer_of(index), self._url)
                self._operators.append(operator)
                self._kept.append(asyncio.create_task(self._keep(operator)))
            await self._all_here()
        return {"connected": self._here, "seconds": time.perf_counter() - began}

    async def storm(self) -> dict[str, Any]:
        """Abort every connection, and have every operator come back at once."""
        began, self._tries, self._left = time.perf_counter(), 0, 0
        for operator in self._operators:
            operator._socket.transport.abort()
        while self._left < len(self._operators):
            self._changed.clear()
            await self._changed.wait()
        await self._all_here()
        return {"seconds": time.perf_counter() - began, "tries": self._tries}

    async def _all_here(self) -> None:
        while self._here < len(self._operators):
            self._changed.clear()
            await self._changed.wait()

    async def _keep(self, operator: Any) -> None:  # noqa: ANN401 - a ScriptedOperator
        """Keep one operator connected: at once after a connection that held, else after the pauses of a real one."""
        from websockets.exceptions import WebSocketException

        backoff = Backoff(limit=RETRY_LIMIT_S)
        while True:
            self._tries += 1
            try:
                async with asyncio.timeout(30):
                    came = (await operator.connect())["code"] == 200
            except (OSError, TimeoutError, WebSocketException):
                came = False
            if not came:
                await backoff.wait()
                continue
            backoff.reset()
            self._here += 1
            self._changed.set()
            await asyncio.gather(operator._reader, return_exceptions=True)
            self._here -= 1
            self._left += 1
            self._changed.set()

    async def run(self) -> None:
        """Obey until the input ends."""
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := (await reader.readline()).decode().split():
            answer = await (self.storm() if line[0] == "storm" else self.connect(int(line[1])))
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


class CrowdProcess:
    """Drives the other process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, stack: AsyncExitStack, url: str, *program: str) -> "CrowdProcess":
        """Start it, or another `program` that is driven like it; it ends with the stack."""
        command = program or (__file__, "--crowd", url.replace("http", "ws") + "/ws")
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )

        async def stop() -> None:
            process.kill()
            await process.wait()

        stack.push_async_callback(stop)
        return cls(process)

    async def do(self, *words: object) -> dict[str, Any]:
        """Have it do something, and return what it says."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write((" ".join(map(str, words)) + "\n").encode())
        answer: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return answer


async def cost(here: OneDispatcher, jobs: int) -> dict[str, float]:
    """What a burst of jobs costs: ms of processor time a job, and jobs a second."""
    await burst(here, 2)
    await here.until_ended()
    before, began = here.cpu(), time.perf_counter()
    await burst(here, jobs)
    await here.until_ended()
    took = time.perf_counter() - began
    return (here.cpu() - before).of(jobs) | {"jobs_per_second": jobs / took}


async def idle(here: OneDispatcher, seconds: float = 5.0) -> float:
    """How much of a core the dispatcher takes for connections on which nothing happens but pings, in percent."""
    before = here.cpu()
    await asyncio.sleep(seconds)
    return 100 * (here.cpu() - before).dispatcher / seconds


def said_so_far(*words: object) -> None:
    """Tell whoever watches; a run takes its time."""
    print(*words, file=sys.stderr, flush=True)


async def measure_growth(options: argparse.Namespace, everybody: bool) -> dict[str, Any]:
    """Memory and cost of a job at each step."""
    command = [sys.executable, __file__, "--everybody", "run", "--log-level", "error"] if everybody else None
    async with AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(own_postgres())
        here = await stack.enter_async_context(
            one_dispatcher(postgres, options.operators, command=command, dispatch={"draw_timeout": 60.0})
        )
        crowd = await CrowdProcess.start(stack, here.url)
        found: dict[str, Any] = {"memory": {0: here.rss()}, "cost": {}, "connecting": {}, "idle": {}}
        for step in options.steps:
            before = here.cpu()
            said = await crowd.do("connect", step)
            await here.until_connected(step)
            used = here.cpu() - before
            found["connecting"][step] = {
                "seconds": said["seconds"],
                "dispatcher": used.dispatcher,
                "postgres": used.postgres,
            }
            found["memory"][step] = here.rss()
            found["idle"][step] = await idle(here)
            jobs = options.jobs if not everybody else max(3, options.jobs * 16 // max(step, 16))
            runs = [await cost(here, jobs) for _ in range(options.rounds)]
            found["cost"][step] = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
            said_so_far(
                step, "everybody" if everybody else "electorate", found["cost"][step], found["idle"][step]
            )
        if not everybody:
            found["storm"] = await measure_storm(here, crowd, options)
            said_so_far("storm", found["storm"])
        return found


async def measure_storm(
    here: OneDispatcher, crowd: CrowdProcess, options: argparse.Namespace
) -> dict[str, Any]:
    """All connections end at once while jobs are at work and come in."""
    jobs = options.storm_jobs
    known = (await here.query("select count(*) from jobs"))[0][0]
    before, began = here.cpu(), time.perf_counter()
    working = asyncio.create_task(burst(here, jobs, clients=4))
    await asyncio.sleep(0.3)
    ended_before = (await here.query("select count(*) from jobs where finished_at is not null"))[0][0]
    said = await crowd.do("storm")
    await here.until_connected(options.operators)
    ended_at_return = (await here.query("select count(*) from jobs where finished_at is not null"))[0][0]
    again = await working
    await here.until_ended()
    used = here.cpu() - before
    [[total, failed]] = await here.query(
        "select count(*), count(*) filter (where status <> 'completed') from jobs"
    )
    return {
        **said,
        "dispatcher_cpu": used.dispatcher,
        "postgres_cpu": used.postgres,
        "accepted": jobs,
        "answered_503": again,
        "ended_during_the_storm": ended_at_return - ended_before,
        "lost": known + jobs - total,
        "not_completed": failed,
        "seconds_until_all_ended": time.perf_counter() - began,
        "rss": here.rss(),
    }


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Both kinds of draws, one after the other, and the storm."""
    found = {"electorate": await measure_growth(options, everybody=False)}
    if not options.no_before:
        found["everybody"] = await measure_growth(options, everybody=True)
    return found | {"load": os.getloadavg()}


def ask_everybody() -> None:
    """Be a dispatcher without electorates."""
    from aos_dispatcher.main import app
    from aos_protocol import sortition

    sortition.electorate_size = lambda _tag: 1 << 30
    sys.argv.remove("--everybody")
    app()


def main() -> None:
    """Parse the command line, measure within a time bound, and print."""
    if "--everybody" in sys.argv:
        ask_everybody()
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--operators", type=int, default=2000, help="operators registered (default: 2000)")
    parser.add_argument("--steps", default="10,100,1000,2000", help="how many are connected, step by step")
    parser.add_argument("--jobs", type=int, default=100, help="jobs of a burst (default: 100)")
    parser.add_argument("--rounds", type=int, default=3, help="bursts at each step (default: 3)")
    parser.add_argument("--storm-jobs", type=int, default=200, help="jobs during the storm (default: 200)")
    parser.add_argument("--no-before", action="store_true", help="leave out the draws that ask everybody")
    parser.add_argument("--json", action="store_true", help="print figures for machines")
    parser.add_argument("--crowd", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.crowd is not None:
        asyncio.run(Crowd(options.crowd).run())
        return
    options.steps = [int(step) for step in options.steps.split(",")]
    result = asyncio.run(asyncio.wait_for(measure(options), BOUND_S))
    print(json.dumps(result, indent=None if options.json else 1))


if __name__ == "__main__":
    main()
