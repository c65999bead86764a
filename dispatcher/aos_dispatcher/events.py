"""Waiting for something to happen, or for time to pass."""

import asyncio


async def wait(event: asyncio.Event, timeout: float) -> None:  # noqa: ASYNC109 - waking up early is the point
    """Wait for the event, for at most `timeout` seconds; either is fine."""
    try:
        async with asyncio.timeout(max(0.0, timeout)):
            await event.wait()
    except TimeoutError:
        return
