"""How long a submission takes at half of the maximum rate: median and 99th percentile, beside two peers at the same rate.

    python benchmarks/latency.py [--seconds 10] [--rounds 3] [--operators 4] [--json]

The maximum comes first, in the same run: jobs a second from submission to end, with as many clients as it takes and simulated operators
(`one_dispatcher`). Then submissions arrive at half of that, evenly spaced, whoever is still waiting for an answer: a latency counts from when its
submission was due. The peers get as many at the same rate, in turns: an insert of the same body, committed alone, behind the same HTTP
server (uvicorn, FastAPI) on the same PostgreSQL with fsync on, and a task deferred with procrastinate from this process.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import procrastinate
from one_dispatcher import Client, OneDispatcher, burst, child, one_dispatcher, own_postgres
from operators import CrowdProcess

from aos_cli.embedded import EmbeddedPostgres
from aos_cli.ports import number, reserve
from aos_service.database import database_url, ensure_database

BOUND_S = 900.0
KEPT_S = 1.0
WARM_UP = 50
Send = Callable[[int], Awaitable[None]]


def serve_inserts(url: str, port: int) -> None:
    """Be the first peer: FastAPI on uvicorn, where a request is one insert in a transaction of its own."""
    import uvicorn
    from fastapi import FastAPI, Request

    app = FastAPI()
    pool: list[asyncpg.Pool] = []

    @app.post("/api/job/submit")
    async def submit(request: Request) -> dict[str, Any]:
        if not pool:
            pool.append(await asyncpg.create_pool(url, min_size=10, max_size=20))
        body = json.dumps(await request.json())
        row = await pool[0].fetchval("insert into plain (body) values ($1) returning id", body)
        return {"code": 200, "result": {"id": row}}

    uvicorn.run(app, port=port, log_level="error", access_log=False)


async def paced(send: Send, rate: float, count: int) -> list[float]:
    """Have submissions sent at this rate, and return how long each took in ms, from when it was due."""
    began = asyncio.get_running_loop().time() + 0.05
    took: list[float] = []

    async def one(index: int) -> None:
        due = began + index / rate
        await asyncio.sleep(due - asyncio.get_running_loop().time())
        await send(index)
        took.append(1e3 * (asyncio.get_running_loop().time() - due))

    await asyncio.gather(*map(one, range(count)))
    return took


class Pool:
    """Connections to one server, each used by one submission at a time and kept alive for the next, unless that is long in coming."""

    def __init__(self, url: str, body: Callable[[int], bytes]) -> None:
        self._url, self._body = url, body
        self._free: list[tuple[float, Client]] = []

    async def send(self, index: int) -> None:
        """Submit one; anything but 200 ends the benchmark."""
        client = self._kept() or await Client.to(self._url)
        status = await client.post("/api/job/submit", self._body(index))
        self._free.append((time.monotonic(), client))
        if status != 200:
            raise RuntimeError(f"a submission was answered {status}")

    def _kept(self) -> Client | None:
        """The connection that was used last, if the server has it still; those that it may have closed are forgotten."""
        since, client = self._free.pop() if self._free else (0.0, None)
        if client is None or time.monotonic() - since < KEPT_S:
            return client
        for _, old in [(since, client), *self._free]:
            old.close()
        self._free.clear()
        return None


async def maximum(here: OneDispatcher, seconds: float) -> float:
    """Jobs a second, from the first submission to the last end."""
    jobs, rate = WARM_UP, 0.0
    while True:
        began = time.perf_counter()
        await burst(here, jobs)
        await here.until_ended(0.02)
        took = time.perf_counter() - began
        rate = jobs / took
        if took >= seconds / 2:
            return rate
        jobs = max(2 * jobs, int(rate * seconds))


async def peers(stack: AsyncExitStack, postgres: EmbeddedPostgres, here: OneDispatcher) -> dict[str, Send]:
    """Start both peers, and return how to send something to each."""
    for name in ("plain", "procrastinate"):
        await ensure_database(database_url(postgres.url(name)))
    connection = await asyncpg.connect(postgres.url("plain"))
    await connection.execute(
        "create table plain (id bigserial primary key, body text, at timestamptz default now())"
    )
    await connection.close()
    with reserve(0) as reserved:
        port = number(reserved)
    url = f"http://127.0.0.1:{port}"
    log = postgres.data.parent / "plain.log"
    await child(stack, log, sys.executable, __file__, "--serve", postgres.url("plain"), str(port))
    await _listening(port)
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=postgres.url("procrastinate")))

    @app.task(name="nothing")
    async def nothing(body: str) -> None:
        del body

    await stack.enter_async_context(app.open_async())
    await app.schema_manager.apply_schema_async()

    async def defer(index: int) -> None:
        await app.configure_task("nothing").defer_async(body=here.body(index).decode())

    return {"insert over HTTP": Pool(url, here.body).send, "procrastinate": defer}


async def _listening(port: int) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


def percentiles(took: list[float]) -> dict[str, float]:
    """Median and 99th percentile."""
    cut = statistics.quantiles(took, n=100, method="inclusive")
    return {"p50": cut[49], "p99": cut[98]}


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Find the maximum, then pace all three in turns."""
    async with AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(own_postgres())
        here = await stack.enter_async_context(one_dispatcher(postgres, options.operators))
        crowd = await CrowdProcess.start(stack, here.url)
        await crowd.do("connect", options.operators)
        most = await maximum(here, options.seconds)
        rate = most / 2
        senders = {"aos": Pool(here.url, here.body).send} | await peers(stack, postgres, here)
        count = max(WARM_UP, int(rate * options.seconds))
        for send in senders.values():
            await paced(send, rate, WARM_UP)
        await here.until_ended()
        found: dict[str, list[dict[str, float]]] = {name: [] for name in senders}
        for _ in range(options.rounds):
            for name, send in senders.items():
                found[name].append(percentiles(await paced(send, rate, count)))
                await here.until_ended()
        medians = {
            name: {which: statistics.median(run[which] for run in runs) for which in runs[0]}
            for name, runs in found.items()
        }
        return {
            "maximum": most,
            "rate": rate,
            "submissions": count,
            "rounds": options.rounds,
            "latency_ms": medians,
            "load": os.getloadavg(),
        }


def main() -> None:
    """Parse the command line, measure within a time bound, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement (default: 10)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each side (default: 3)")
    parser.add_argument("--operators", type=int, default=4, help="simulated operators (default: 4)")
    parser.add_argument("--json", action="store_true", help="print figures for machines")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve_inserts(options.serve[0], int(options.serve[1]))
        return
    result = asyncio.run(asyncio.wait_for(measure(options), BOUND_S))
    if options.json:
        print(json.dumps(result))
        return
    print(
        f"maximum {result['maximum']:.0f} jobs a second; {result['rounds']} rounds of {result['submissions']} submissions at {result['rate']:.0f} a second"
    )
    ours = result["latency_ms"]["aos"]
    print(f"{'':20}{'p50 ms':>10}{'p99 ms':>10}{'ratio p50':>12}{'ratio p99':>12}")
    for name, took in result["latency_ms"].items():
        print(
            f"{name:20}{took['p50']:>10.1f}{took['p99']:>10.1f}{ours['p50'] / took['p50']:>12.2f}{ours['p99'] / took['p99']:>12.2f}"
        )
    print("load average " + ", ".join(f"{one:.1f}" for one in result["load"]))


if __name__ == "__main__":
    main()
