"""Redis that ends connections while they are being made: what uvloop raises then is no error of redis-py's."""

import asyncio
from contextlib import suppress

import uvloop

from aos_dispatcher.mesh_bus import RedisBus

_CONNECTIONS = 40


async def _aborted() -> int:
    """Run a bus against a server that accepts and aborts at once; returns how many connections it made."""
    accepted, enough = 0, asyncio.Event()

    def abort(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        writer.transport.abort()
        if accepted >= _CONNECTIONS:
            enough.set()

    async with await asyncio.start_server(abort, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        buses = [RedisBus(f"redis://127.0.0.1:{port}", silence=1) for _ in range(_CONNECTIONS // 2)]
        running = [asyncio.create_task(bus.run(["channel"], print, lambda: None)) for bus in buses]
        ended = asyncio.create_task(enough.wait())
        await asyncio.wait({*running, ended}, return_when=asyncio.FIRST_COMPLETED)
        failed = [task.exception() for task in running if task.done()]
        for task in (*running, ended):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    assert failed == []
    return accepted


def test_connections_that_end_while_they_are_made_are_made_again() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(_aborted()) >= _CONNECTIONS
