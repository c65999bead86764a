"""Several dispatchers with one identity, in this process: each a real one, over one PostgreSQL and one Valkey."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pydantic import SecretStr

from aos_dispatcher.mesh import Mesh
from aos_dispatcher.operators import register_operator
from aos_dispatcher.settings import Cluster
from aos_protocol.attestation.policy import AttestationPolicy
from aos_protocol.identity import Signer
from integration.dispatcher.conftest import Network
from support.operators import ScriptedOperator

QUICK_S = 0.4
"""A heartbeat for tests in which a process has to be missed: with it, one that is held up for 1.4 s is missed, too."""


class Several:
    """Dispatchers `a`, `b` and so on, and the operators that a test connects to them."""

    def __init__(self, networks: list[Network]) -> None:
        self.networks = networks
        self.operators: list[ScriptedOperator] = []

    @property
    def a(self) -> Network:
        return self.networks[0]

    @property
    def b(self) -> Network:
        return self.networks[1]

    async def operator(self, at: Network) -> ScriptedOperator:
        """Register an operator and connect it to one of them; when this returns, all of them know it."""
        operator = ScriptedOperator(Signer.generate(), at.ws)
        await register_operator(at.dispatcher.database, operator.signer.address)
        self.operators.append(operator)
        await self.connect(operator, at)
        return operator

    async def connect(self, operator: ScriptedOperator, at: Network) -> None:
        operator.url = at.ws
        assert (await operator.connect())["code"] == 200
        await self.until(lambda: all(self.knows(network, operator) for network in self.running))

    async def move(self, operator: ScriptedOperator, to: Network) -> None:
        """Close an operator's connection, and connect it to another dispatcher."""
        await operator.close()
        await self.connect(operator, to)

    @property
    def running(self) -> list[Network]:
        return [network for network in self.networks if not network.dispatcher.leaving.is_set()]

    def knows(self, network: Network, operator: ScriptedOperator) -> bool:
        """Whether this dispatcher can ask the operator, on its newest connection."""
        peers = [one.dispatcher.hub.get(operator.signer.address) for one in self.running]
        newest = max((peer.epoch for peer in peers if peer), default=0)
        peer = network.dispatcher.hub.get(operator.signer.address)
        return peer is not None and peer.epoch == newest

    async def until(self, true: Any) -> None:
        """Wait for what another process brings about, which sets no event of ours."""
        async with asyncio.timeout(45):
            while not true():
                await asyncio.sleep(0.01)


def mesh_of(network: Network) -> Mesh:
    mesh = network.dispatcher.mesh
    assert mesh is not None
    return mesh


@asynccontextmanager
async def several(
    database: str,
    redis_url: str,
    count: int = 2,
    *,
    heartbeat: float = 1.0,
    policy: AttestationPolicy | None = None,
    **settings: float,
) -> AsyncIterator[Several]:
    """Run so many dispatchers, with a project and a calibrated model; each says every `heartbeat` seconds that it is there."""
    signer = Signer.generate()
    networks = [Network(database, **settings) for _ in range(count)]
    for network in networks:
        network.signer, network.policy = signer, policy
        cluster = Cluster(redis_url=SecretStr(redis_url), heartbeat=heartbeat)
        network.settings = network.settings.model_copy(update={"cluster": cluster})
        await network.start()
    running = Several(networks)
    token = await running.a.project()
    await running.a.calibrate()
    for network in networks:
        network.token = token
    await running.until(lambda: all(len(mesh_of(network)._others) == count - 1 for network in networks))
    try:
        yield running
    finally:
        for operator in running.operators:
            await operator.close()
        for network in networks:
            if not network.dispatcher.leaving.is_set():
                await network.stop()
