"""A real dispatcher and a real operator, before the fake image server; clients are OpenAI's own, curl and httpx."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest_asyncio
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from aos_dispatcher.operators import register_operator
from aos_operator.backends.images import PATHS, ImagesBackend
from aos_operator.memory import MemoryQueue, MemoryStore
from aos_operator.runner import Operator
from aos_operator.settings import NodeSettings
from aos_protocol.identity import Signer
from integration.dispatcher.conftest import BRIEFLY, Network
from support.fake_image_server import FakeImageServer

MODEL = "SuperImage"
KEY = "not-to-be-told"


class Gallery:
    """A network with an operator that has the fake image server behind it. `operator` starts it, as often as a test stops it."""

    def __init__(self, network: Network, painter: FakeImageServer) -> None:
        self.network = network
        self.painter = painter
        self.signer = Signer.generate()
        self.store, self.queue = MemoryStore(), MemoryQueue()
        self.base = str(network.client.base_url).rstrip("/")
        http = DefaultAsyncHttpxClient(verify=False, limits=BRIEFLY)
        self.openai = AsyncOpenAI(
            base_url=f"{self.base}/v1", api_key=network.token, max_retries=0, timeout=60, http_client=http
        )

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.network.token}"}

    async def post(self, what: str, **body: Any) -> httpx.Response:
        asked = {"model": MODEL, "prompt": "A cute baby sea otter", "size": "64x64"} | body
        return await self.network.client.post(f"/v1/images/{what}", json=asked, headers=self.bearer)

    async def read(self, url: str, *, token: str | None = None) -> httpx.Response:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(verify=False) as client:
            return await client.get(url, headers=headers)

    @asynccontextmanager
    async def operator(self) -> AsyncIterator[None]:
        """Run the operator meanwhile."""
        endpoints = {kind: self.painter.url + path for kind, path in PATHS.items()}
        backend = ImagesBackend(endpoints, {MODEL: "sd-fake"}, _secret(KEY), timeout=60)
        settings = NodeSettings.model_validate(
            {
                "net": {"dispatcher_url": self.network.ws},
                "node": {"dispatcher_address": self.network.signer.address, "heartbeat_interval": 10},
            }
        )
        stop = asyncio.Event()
        operator = Operator(settings, self.signer, self.store, self.queue, backend, registry=None)
        running = asyncio.create_task(operator.run(stop))
        hub = self.network.dispatcher.hub
        async with asyncio.timeout(45):
            while self.signer.address not in hub.connected():
                await asyncio.sleep(0.01)
        try:
            yield
        finally:
            stop.set()
            await running
            await backend.close()


def _secret(text: str) -> Any:
    from pydantic import SecretStr

    return SecretStr(text)


def opened(network: Network, **gateway: Any) -> Network:
    """A network that is not started yet, that takes what image servers show, and fetches from this machine."""
    given = network.settings.model_dump()
    given["database"]["url"] = network.settings.database.url
    given["verification"]["least_evidence"] = "text"
    given["limits"] |= {"frame_bytes": 1 << 20, "body_bytes": 1 << 20}
    given["gateway"] |= gateway
    network.settings = type(network.settings).model_validate(given)
    return network


@pytest_asyncio.fixture
async def painter() -> AsyncIterator[FakeImageServer]:
    async with FakeImageServer().serving() as serving:
        yield serving


@pytest_asyncio.fixture
async def bare(unstarted: Network, painter: FakeImageServer) -> AsyncIterator[Gallery]:
    """A gallery whose operator does not run yet."""
    network = opened(unstarted, fetch_ports=[80, 443, painter.port], fetch_allow=["127.0.0.0/8"])
    await network.start()
    await network.project()
    gallery = Gallery(network, painter)
    await register_operator(network.dispatcher.database, gallery.signer.address)
    yield gallery
    await gallery.openai.close()
    for operator in network.operators:
        await operator.close()
    await network.stop()


@pytest_asyncio.fixture
async def gallery(bare: Gallery) -> AsyncIterator[Gallery]:
    async with bare.operator():
        yield bare
