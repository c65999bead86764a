"""What listeners on /ws/stats cost a dispatcher: its processor time and memory with 0, 100 and 1,000 of them, in turns, in one run.

    python benchmarks/listeners.py [--steps 0,100,1000] [--operators 20] [--rate 5] [--seconds 10] [--rounds 3] [--json]

Meanwhile simulated operators (`one_dispatcher`) work on jobs that come at a steady rate, so that what is shown changes every second.
Listeners are all in one other process, and count what they hear. Each round takes all steps, one after the other; figures are
medians over rounds. Memory is what the dispatcher has at the end of a step of the first round.
"""

import argparse
import asyncio
import base64
import json
import os
import resource
import statistics
import sys
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

from one_dispatcher import Client, OneDispatcher, one_dispatcher, own_postgres
from operators import CrowdProcess, said_so_far

BOUND_S = 900.0
SETTLE_S = 2.0


class Listener(asyncio.Protocol):
    """A WebSocket that was asked for by hand, and counts the messages and bytes that come; as cheap as there can be."""

    def __init__(self, host: str) -> None:
        self.messages = self.bytes = 0
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._host = host
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        assert isinstance(transport, asyncio.Transport)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = (
            "GET /ws/stats HTTP/1.1",
            f"host: {self._host}",
            "connection: Upgrade",
            "upgrade: websocket",
            "sec-websocket-version: 13",
            f"sec-websocket-key: {key}",
        )
        transport.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`: the answer's head first, then frames (RFC 6455, section 5.2), which a server does not mask."""
        self.bytes += len(data)
        self._rest += data
        if not self.opened.done():
            head, found, self._rest = self._rest.partition(b"\r\n\r\n")
            if not found:
                self._rest = head
                return
            if not head.startswith(b"HTTP/1.1 101"):
                raise RuntimeError(f"a listener was answered {head[:60]!r}")
            self.opened.set_result(None)
        while (frame := self._frame()) is not None:
            opcode, body = frame
            self.messages += opcode == 1
            if opcode == 9:
                self.transport.write(bytes((0x8A, 0x80 | len(body), 0, 0, 0, 0)) + body)

    def _frame(self) -> tuple[int, bytes] | None:
        rest = self._rest
        if len(rest) < 2:
            return None
        begin, length = 2, rest[1] & 127
        if length > 125:
            wide = 2 if length == 126 else 8
            begin, length = 2 + wide, int.from_bytes(rest[2 : 2 + wide], "big")
        if len(rest) < begin + length:
            return None
        self._rest = rest[begin + length :]
        return rest[0] & 15, rest[begin : begin + length]


class Audience:
    """The process that is all listeners: it does what lines on its input say, and answers each with a line."""

    def __init__(self, url: str) -> None:
        self._where = urlsplit(url)
        self._listeners: list[Listener] = []

    async def listen(self, count: int) -> dict[str, Any]:
        """Have so many listeners in all."""
        loop, host, port = asyncio.get_running_loop(), self._where.hostname, self._where.port
        while len(self._listeners) > count:
            self._listeners.pop().transport.abort()
        while len(self._listeners) < count:
            _, listener = await loop.create_connection(lambda: Listener(self._where.netloc), host, port)
            await listener.opened
            self._listeners.append(listener)
        return {"listening": len(self._listeners)}

    def heard(self) -> dict[str, Any]:
        """Return what was heard since the last time: messages of the least and the most lucky listener, and bytes of all."""
        messages = [listener.messages for listener in self._listeners] or [0]
        total = sum(listener.bytes for listener in self._listeners)
        for listener in self._listeners:
            listener.messages = listener.bytes = 0
        return {"least": min(messages), "most": max(messages), "bytes": total}

    async def run(self) -> None:
        """Obey until the input ends."""
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := (await reader.readline()).decode().split():
            answer = await self.listen(int(line[1])) if line[0] == "listen" else self.heard()
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


async def steady(here: OneDispatcher, rate: float) -> None:
    """Submit jobs at this rate, for ever."""
    client, number = await Client.to(here.url), 0
    while True:
        await client.post("/api/job/submit", here.body(number))
        number += 1
        await asyncio.sleep(1 / rate)


async def step(
    here: OneDispatcher, audience: CrowdProcess, listeners: int, seconds: float
) -> dict[str, float]:
    """What so many listeners cost: percent of a core of the dispatcher and of PostgreSQL, and its memory; and what they heard."""
    await audience.do("listen", listeners)
    await asyncio.sleep(SETTLE_S)
    await audience.do("heard")
    before = here.cpu()
    await asyncio.sleep(seconds)
    used, heard = here.cpu() - before, await audience.do("heard")
    return {
        "dispatcher_percent": 100 * used.dispatcher / seconds,
        "postgres_percent": 100 * used.postgres / seconds,
        "rss_mib": here.rss() / 2**20,
        "least_messages_per_second": heard["least"] / seconds,
        "most_messages_per_second": heard["most"] / seconds,
        "bytes_per_message": heard["bytes"] / max(1, heard["most"] * listeners),
    }


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Take all steps, in turns."""
    gateway = {"listeners": max(options.steps) or 1, "listeners_per_address": max(options.steps) or 1}
    async with AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(own_postgres())
        here = await stack.enter_async_context(one_dispatcher(postgres, options.operators, gateway=gateway))
        crowd = await CrowdProcess.start(stack, here.url)
        await crowd.do("connect", options.operators)
        await here.until_connected(options.operators)
        audience = await CrowdProcess.start(stack, here.url, __file__, "--audience", here.url)
        working = asyncio.create_task(steady(here, options.rate))
        runs: dict[int, list[dict[str, float]]] = {count: [] for count in options.steps}
        for _ in range(options.rounds):
            for count in options.steps:
                runs[count].append(await step(here, audience, count, options.seconds))
                said_so_far(count, runs[count][-1])
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    medians = {
        count: {name: statistics.median(one[name] for one in each) for name in each[0]}
        | {"rss_mib": each[0]["rss_mib"]}  # later rounds have what earlier ones have needed
        for count, each in runs.items()
    }
    return {"listeners": medians, "load": os.getloadavg()}


def main() -> None:
    """Parse the command line, measure within a time bound, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--steps", default="0,100,1000", help="how many listen (default: 0,100,1000)")
    parser.add_argument("--operators", type=int, default=20, help="operators connected (default: 20)")
    parser.add_argument("--rate", type=float, default=5, help="jobs a second (default: 5)")
    parser.add_argument(
        "--seconds", type=float, default=10, help="how long each step is measured (default: 10)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often all steps are taken (default: 3)")
    parser.add_argument("--json", action="store_true", help="print figures for machines")
    parser.add_argument("--audience", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.audience is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))
        asyncio.run(Audience(options.audience).run())
        return
    options.steps = [int(each) for each in options.steps.split(",")]
    result = asyncio.run(asyncio.wait_for(measure(options), BOUND_S))
    print(json.dumps(result, indent=None if options.json else 1))


if __name__ == "__main__":
    main()
