"""Lets models register with a node for as long as it runs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aos_operator.registration import Pool, Registrations
from aos_operator.registration_backends import registered_backend
from aos_operator.registration_health import HttpProbe, probe_client
from aos_operator.registration_server import listening
from aos_operator.registration_store import InstanceStore


@asynccontextmanager
async def registering(
    port: int,
    store: InstanceStore,
    pool: Pool,
    changed: Callable[[], None],
    *,
    taken: Callable[[str], bool],
    ready: asyncio.Event,
) -> AsyncIterator[int]:
    """Take registrations on this port of the loopback (0: any free one), and look after what is registered; give the port's number.

    Nothing that is registered is offered before `ready`: when the dispatcher refuses it then, the node is served without it. The rest is as for
    `Registrations`. Raises `StartError` when the port is taken.
    """
    async with probe_client() as client, asyncio.TaskGroup() as group:
        registrations = Registrations(
            store, pool, registered_backend, HttpProbe(client), changed, taken=taken
        )
        async with listening(registrations, port) as number:
            await registrations.start()
            running = group.create_task(_after(ready, registrations))
            try:
                yield number
            finally:
                running.cancel()


async def _after(ready: asyncio.Event, registrations: Registrations) -> None:
    await ready.wait()
    await registrations.run()
