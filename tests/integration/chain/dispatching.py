"""A dispatcher whose registry is a contract on anvil, with operators that register there."""

import asyncio
from collections.abc import Callable
from typing import Any

from aos_chain import operators
from aos_chain.client import Chain
from aos_chain.deployment import Deployment
from aos_chain.registry import RegistryState
from aos_dispatcher.anchoring import Anchoring
from aos_dispatcher.errors import RegistryStale
from aos_dispatcher.settings import Chain as ChainSettings
from aos_protocol.identity import Signer
from aos_protocol.log import TreeHead
from integration.dispatcher.conftest import Network
from support.anvil import Anvil
from support.operators import ScriptedOperator


class ChainNetwork(Network):
    """`Network` on a chain; `settings` replace single ones of its chain block."""

    def __init__(
        self, url: str, anvil: Anvil, chain: Chain, deployment: Deployment, signer: Signer, **settings: Any
    ) -> None:
        super().__init__(url, audit_share=1)
        self.anvil = anvil
        self.chain = chain
        self.deployment = deployment
        self.signer = signer
        place = {
            "chain_id": deployment.chain_id,
            "registry": deployment.registry,
            "anchor": deployment.anchor,
            "rpc_url": anvil.url,
            "deployed_at": deployment.block,
            "poll_interval": 0.05,
            "anchor_interval": 0,
        }
        self.place = ChainSettings.model_validate(place | settings)
        self.settings = self.settings.model_copy(update={"chain": self.place})

    async def registered(self, start: int, end: int, signer: Signer | None = None) -> ScriptedOperator:
        """An operator with this range, confirmed and connected."""
        signer = signer or await self.anvil.signer()
        await operators.register(self.chain, self.deployment, signer, start, end)
        await self.confirm()
        return await self.connected(signer)

    async def connected(self, signer: Signer, *, counter: int = 0) -> ScriptedOperator:
        """Connect a key, whose clock goes on from `counter`."""
        operator = ScriptedOperator(signer, self.ws)
        operator.counter = counter
        self.operators.append(operator)
        assert (await operator.connect())["code"] == 200
        return operator

    async def reply_to(self, signer: Signer) -> dict[str, Any]:
        """What a key is told that connects."""
        operator = ScriptedOperator(signer, self.ws)
        self.operators.append(operator)
        return await operator.connect()

    async def confirm(self) -> None:
        """Mine what confirmations need, and wait until the dispatcher draws by it."""
        head = await self.anvil.head()
        await self.anvil.mine(self.place.confirmations)
        await self.until(lambda state: state.block >= head)

    async def until(self, wanted: Callable[[RegistryState], bool]) -> RegistryState:
        """Wait until the dispatcher's registry is as wanted."""
        async with asyncio.timeout(20):
            while True:
                try:
                    if wanted(state := self.link.registry.state()):
                        return state
                except RegistryStale:
                    pass
                await asyncio.sleep(0.02)

    async def done(self, **changes: Any) -> str:
        """Submit a job, and wait for its end."""
        job_id = await self.submit(**changes)
        assert (await self.finished(job_id))["status"] == "completed"
        return job_id

    async def registry_of(self, job_id: str) -> dict[str, Any]:
        """The registry in a job's evidence."""
        registry: dict[str, Any] = (await self.evidence(job_id))["rounds"][0]["registry"]
        return registry

    async def failed(self, job_id: str) -> list[str]:
        """Every check on the job's evidence that fails."""
        return [f"{check.id} {check.what}" for check in await self.checks(job_id) if check.status == "FAIL"]

    @property
    def link(self) -> Any:
        assert self.dispatcher.chain is not None
        return self.dispatcher.chain

    async def anchor(self) -> TreeHead | None:
        """Log what happened so far, and anchor the head over it."""
        await self.dispatcher.sequencer.step()
        return await self.anchoring().step()

    def anchoring(self, interval: float = 0.05) -> Anchoring:
        """Anchoring by hand: its `step` is taken when the test says so."""
        return Anchoring(
            self.dispatcher.database, self.link.registry.chain, self.deployment, self.signer, interval
        )
