"""The gateway of a real dispatcher, before operators that say what a test wants, as OpenAI's own client sees it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from aos_protocol.messages import Dispatch, ServedModel
from integration.dispatcher.conftest import BRIEFLY, Network
from support.operators import MODEL, ScriptedOperator

ANSWER = "one two three"


class Door:
    """A network with one operator, which answers nothing by itself, and OpenAI's client of its gateway."""

    def __init__(self, network: Network, operator: ScriptedOperator) -> None:
        self.network = network
        self.operator = operator
        self.base = str(network.client.base_url).rstrip("/") + "/v1"
        http = DefaultAsyncHttpxClient(verify=False, limits=BRIEFLY)
        self.openai = AsyncOpenAI(
            base_url=self.base, api_key=network.token, max_retries=0, timeout=60, http_client=http
        )
        self.model = MODEL.name

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.network.token}"}

    async def asked(self, count: int = 1) -> list[Dispatch]:
        """Wait until the operator has so many jobs."""
        await self.operator.wait(lambda: len(self.operator.dispatched) >= count)
        return self.operator.dispatched

    async def tell(self, dispatch: Dispatch, **delta: Any) -> None:
        """Stream something of a job."""
        named = {"job_id": dispatch.job_id, "tag": dispatch.tag}
        await self.operator.send(self.operator.request("job_stream", {"deltas": [named | delta]}).text)

    async def answer(self, dispatch: Dispatch, text: str = ANSWER) -> None:
        """Answer a job."""
        self.operator.answer = text
        await self.operator.send_result(dispatch)
        self.operator.answer = None

    async def cancelled(self, job_id: str) -> dict[str, Any]:
        """Wait until the operator is told that nobody wants a job any more; the job's detail."""
        await self.operator.wait(lambda: any(each["job_id"] == job_id for each in self.operator.cancelled))
        return await self.network.finished(job_id)

    async def post(self, path: str, **body: Any) -> Any:
        return await self.network.client.post(f"/v1/{path}", json=body, headers=self.bearer)


async def serving(network: Network, *models: ServedModel) -> ScriptedOperator:
    """An operator with these models that answers nothing by itself."""
    operator = await network.operator(connect=False)
    operator.models, operator.answer = list(models), None
    reply = await operator.connect()
    assert reply["code"] == 200, reply
    return operator


@pytest_asyncio.fixture
async def door(network: Network) -> AsyncIterator[Door]:
    able = ServedModel(name=MODEL.name, sha256=MODEL.sha256, able=["chat", "fim", "logprobs"])
    opened = Door(network, await serving(network, able))
    yield opened
    await opened.openai.close()
