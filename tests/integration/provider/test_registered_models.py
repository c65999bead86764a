"""Models that register with a provider or an operator are served to the network, and gone when they go, with nobody saying so."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from aos_cli import ports
from integration.dispatcher.conftest import Network
from integration.provider.conftest import PATIENCE_S, ProviderProcess, ask
from integration.provider.fake_model_server import FakeModelServer
from support.fake_image_server import FakeImageServer
from support.pictures import png

pytestmark = pytest.mark.timeout(180)  # each of its processes takes seconds to start
OK = {"code": 0, "message": "ok"}


async def models(network: Network) -> dict[str, dict[str, Any]]:
    """What the dispatcher says that it serves, by name."""
    answer = await network.client.get("/v1/models", headers={"authorization": f"Bearer {network.token}"})
    assert answer.status_code == 200, answer.text
    return {model["id"]: model for model in answer.json()["data"]}


async def until_served(network: Network, *names: str) -> None:
    """Wait until the dispatcher serves exactly these."""
    async with asyncio.timeout(PATIENCE_S):
        while set(await models(network)) != set(names):
            await asyncio.sleep(0.02)


class Port:
    """A provider's registration port."""

    def __init__(self, port: int) -> None:
        self.number = port
        self.url = f"http://127.0.0.1:{port}/api/v0/ai"

    async def say(self, path: str, **body: Any) -> dict[str, Any]:
        async with httpx.AsyncClient(trust_env=False) as client:
            answer: dict[str, Any] = (await client.post(f"{self.url}/{path}", json=body)).json()
            return answer

    async def register(self, server: FakeModelServer, model: str, cid: str = "d15c4007271b") -> None:
        api = f"{server.base}/chat/completions"
        said = await self.say("model/register", project="DecentralGPT", model=model, api=api, type=0, cid=cid)
        assert said == OK


@pytest.fixture
def node() -> Iterator[Port]:
    """A port that nobody else gets meanwhile."""
    with ports.reserve(0) as holder:
        yield Port(ports.number(holder))


async def test_containers_of_a_model_register_share_its_jobs_and_unregister(
    network: Network, settings: dict[str, Any], tmp_path: Path, node: Port
) -> None:
    servers = [FakeModelServer(models=["Llama3-70B"]) for _ in range(2)]
    provider = ProviderProcess(tmp_path, settings, "--registration-port", str(node.number))
    async with provider.running(), servers[0].serving(), servers[1].serving():
        await provider.said('"serving"')
        for number, server in enumerate(servers):
            await node.register(server, "Llama3-70B", f"cid{number}")
        await until_served(network, "llama3:8b", "Llama3-70B")
        async with asyncio.timeout(PATIENCE_S):
            while await _cids(network, "Llama3-70B") != ["cid0", "cid1"]:
                await asyncio.sleep(0.05)
        for _ in range(4):
            await ask(network, "Llama3-70B")
        assert [len(server.asked) for server in servers] == [2, 2]

        api = f"{servers[0].base}/chat/completions"
        taken = await node.say("model/register", project="p", model="llama3:8b", api=api, cid="")
        assert taken["code"] == 409

        assert await node.say("project/unregister", project="DecentralGPT") == OK
        await until_served(network, "llama3:8b")


async def test_a_model_that_ends_is_gone_without_a_word_and_a_restarted_provider_finds_it(
    network: Network, settings: dict[str, Any], tmp_path: Path, node: Port
) -> None:
    other = FakeModelServer(models=["Llama3-70B"])
    provider = ProviderProcess(tmp_path, settings, "--registration-port", str(node.number))
    with ports.reserve(0) as holder:
        port = ports.number(holder)
        await _ends_and_comes_back(network, provider, other, port, node)


async def _ends_and_comes_back(
    network: Network, provider: ProviderProcess, other: FakeModelServer, port: int, node: Port
) -> None:
    async with provider.running():
        await provider.said('"serving"')
        async with other.serving(port):
            await node.register(other, "Llama3-70B")
            await until_served(network, "llama3:8b", "Llama3-70B")
        await until_served(network, "llama3:8b")
        async with other.serving(port):
            await until_served(network, "llama3:8b", "Llama3-70B")
            await provider.kill()
            await until_served(network)
            provider.child.start()
            await until_served(network, "llama3:8b", "Llama3-70B")


async def _cids(network: Network, model: str) -> list[str]:
    """The containers of a model as `GET /api/network/providers` lists them."""
    shown = (await network.client.get("/api/network/providers")).json()
    [provider] = shown["result"]["providers"] if "result" in shown else shown["providers"]
    [instances] = [served["instances"] for served in provider["models"] if served["name"] == model]
    return sorted(instance["cid"] for instance in instances)


async def test_a_model_that_paints_and_edits_registers_for_both(
    network: Network, settings: dict[str, Any], tmp_path: Path, node: Port
) -> None:
    """Types 1 and 2 are told apart by their containers, as DBC's identity has it."""
    name = "sd-fake"
    provider = ProviderProcess(tmp_path, settings, "--registration-port", str(node.number))
    asked = {"model": name, "prompt": "A cute baby sea otter", "size": "64x64"}
    headers = {"authorization": f"Bearer {network.token}"}
    async with provider.running(), FakeImageServer().serving() as server:
        await provider.said('"serving"')
        for kind, path in ((1, "generations"), (2, "edits")):
            api = f"{server.url}/v1/images/{path}"
            said = await node.say(
                "model/register", project="SuperImage", model=name, api=api, type=kind, cid=path
            )
            assert said == OK
        async with asyncio.timeout(PATIENCE_S):
            while (await models(network)).get(name, {}).get("kinds") != [1, 2]:
                await asyncio.sleep(0.02)
        made = await network.client.post("/v1/images/generations", json=asked, headers=headers)
        assert made.status_code == 200, made.text
        source = png(64, 64, (1, 2, 3))
        files = {"image": ("otter.png", source, "image/png")}
        edited = await network.client.post("/v1/images/edits", data=asked, files=files, headers=headers)
        assert edited.status_code == 200, edited.text
        assert server.uploads == [source]
        assert [len(answer.json()["data"]) for answer in (made, edited)] == [1, 1]
