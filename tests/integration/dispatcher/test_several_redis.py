"""The Redis (Valkey) between two dispatchers goes away and comes back, hangs, and has strangers writing to it."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio
import redis.asyncio as redis
from structlog.testing import capture_logs

from aos_cli.embedded import EmbeddedValkey
from integration.dispatcher.several import QUICK_S, Several, several


@pytest_asyncio.fixture
async def valkey(server_data: Path) -> AsyncIterator[EmbeddedValkey]:
    """A server of this test's own, to be stopped and started."""
    async with EmbeddedValkey(server_data / "valkey-mesh", durable=False) as server:
        yield server


@pytest_asyncio.fixture
async def two(new_database: Any, valkey: EmbeddedValkey) -> AsyncIterator[Several]:
    async with several(await new_database("dispatcher"), valkey.url()) as running:
        yield running


@pytest_asyncio.fixture
async def quick(new_database: Any, valkey: EmbeddedValkey) -> AsyncIterator[Several]:
    """Two that soon miss each other."""
    async with several(await new_database("dispatcher"), valkey.url(), heartbeat=QUICK_S) as running:
        yield running


async def both_serve(two: Several) -> None:
    """A job submitted to either completes."""
    for network in two.networks:
        assert (await network.finished(await network.submit()))["status"] == "completed"


async def apart(two: Several) -> None:
    """Wait until each knows its own operators only."""
    await two.until(lambda: all(len(network.dispatcher.hub) == 1 for network in two.networks))


async def together(two: Several) -> None:
    await two.until(lambda: all(len(network.dispatcher.hub) == 2 for network in two.networks))


async def test_without_redis_each_goes_on_with_its_own_operators(
    quick: Several, valkey: EmbeddedValkey
) -> None:
    for network in quick.networks:
        await quick.operator(network)
    with capture_logs() as logs:
        await valkey.stop()
        await apart(quick)
        await both_serve(quick)
        told = [entry for entry in logs if entry["event"].startswith("redis is away")]
        assert len(told) == 2  # one of each process, however long it lasts
        await valkey.start()
        await together(quick)
    assert len([entry for entry in logs if entry["event"] == "redis is back"]) == 2
    await both_serve(quick)


async def test_a_redis_that_hangs_is_a_redis_that_is_away(quick: Several, valkey: EmbeddedValkey) -> None:
    for network in quick.networks:
        await quick.operator(network)
    pid = valkey.child.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        await apart(quick)
        await both_serve(quick)
    finally:
        os.kill(pid, signal.SIGCONT)
    await together(quick)


async def test_what_strangers_write_to_redis_changes_nothing(two: Several, valkey: EmbeddedValkey) -> None:
    for network in two.networks:
        await two.operator(network)
    channel = f"aos:mesh:{two.a.signer.address}"
    async with redis.from_url(valkey.url()) as stranger:
        for channel_ in (
            channel,
            *(f"{channel}:{network.dispatcher.store.owner}" for network in two.networks),
        ):
            for message in (b"", b"\xff\xfe", b"{}", b"0" * 64 + b"{}", b"[" * 100_000):
                assert await stranger.publish(channel_, message) >= 1
    await both_serve(two)
    assert all(len(network.dispatcher.hub) == 2 for network in two.networks)
