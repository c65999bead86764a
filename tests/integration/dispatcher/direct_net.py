"""What the tests of direct sessions share: a dispatcher with operators that take them, and a project's client."""

from typing import Any

from aos_cli import direct
from aos_cli.client import DispatcherClient
from aos_cli.direct import Opened, Wanted, open_session
from aos_dispatcher.operators import register_operator
from support.direct_operators import LocalOperator
from support.operators import MODEL

SECRET = "The swallow flies at eleven metres a second."
SAID = {"messages": [{"role": "user", "content": SECRET}]}
WANTED = Wanted(MODEL.name, {"max_tokens": 500}, "somebody", SAID)


SKIPPED = ("AOS-TRANSCRIPT-1 SKIP", "AOS-MATCH-1 SKIP")
"""What nobody can check of an answer that only its client reads."""


class Direct:
    """A dispatcher with operators that take direct sessions, and a project's client."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.operators: list[LocalOperator] = []

    @property
    def address(self) -> str:
        address: str = self.network.signer.address
        return address

    async def operator(self, **changes: Any) -> LocalOperator:
        operator = LocalOperator(self.network.ws, self.address, **changes)
        await register_operator(self.network.dispatcher.database, operator.signer.address)
        self.operators.append(operator)
        await operator.start()
        return operator

    def client(self) -> DispatcherClient:
        return DispatcherClient(str(self.network.client.base_url), token=self.network.token)

    async def open(self, wanted: Wanted = WANTED) -> Opened:
        async with self.client() as client:
            return await open_session(client, wanted, dispatcher=self.address)

    async def read(self, opened: Opened) -> str:
        async with self.client() as client:
            return "".join([text async for text in direct.answer(client, opened)])

    async def hold(self, opened: Opened) -> None:
        """Every check passes, but those that nobody could make."""
        unpassed = await self.verified(opened)
        assert [said[: len(skip)] for said, skip in zip(unpassed, SKIPPED, strict=False)] == list(SKIPPED)
        assert len(unpassed) == len(SKIPPED), unpassed

    async def verified(self, opened: Opened) -> list[str]:
        async with self.client() as client:
            checks = await direct.verify(client, opened, dispatcher=self.address)
        assert "AOS-DIRECT-1" in {check.id for check in checks}
        return [f"{check.id} {check.status} {check.what}" for check in checks if check.status != "PASS"]
