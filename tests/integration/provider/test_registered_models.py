"""Models that register with a provider or an operator are served to the network, and gone when they go, with nobody saying so."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from aos_cli import ports
from integration.dispatcher.conftest import Network
from integration.provider.conftest import ProviderProcess, ask
from integration.provider.fake_model_server import FakeModelServer

OK = {"code": 0, "message": "ok"}


async def models(network: Network) -> dict[str, dict[str, Any]]:
    """What the dispatcher says that it serves, by name."""
    answer = await network.client.get("/v1/models", headers={"authorization": f"Bearer {network.token}"})
    assert answer.status_code == 200, answer.text
    return {model["id"]: model for model in answer.json()["data"]}


async def until_served(network: Network, *names: str) -> None:
    """Wait until the dispatcher serves exactly these."""
    async with asyncio.timeout(20):
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


async def test_a_model_registers_with_a_provider_is_asked_and_goes(
    network: Network, settings: dict[str, Any], tmp_path: Path, node: Port
) -> None:
    other = FakeModelServer(models=["Llama3-70B"])
    provider = ProviderProcess(tmp_path, settings, "--registration-port", str(node.number))
    async with provider.running(), other.serving():
        await provider.said('"serving"')
        await node.register(other, "Llama3-70B")
        await until_served(network, "llama3:8b", "Llama3-70B")
        evidence = await ask(network, "Llama3-70B")
        assert evidence["job"]["request"]["job"]["model"] == "Llama3-70B"
        assert other.asked[-1]["model"] == "Llama3-70B"

        taken = await node.say(
            "model/register", project="p", model="llama3:8b", api=f"{other.base}/chat/completions", cid=""
        )
        assert taken["code"] == 409

        gone = await node.say("project/unregister", project="DecentralGPT")
        assert gone == OK
        await until_served(network, "llama3:8b")


async def test_a_model_that_ends_is_gone_without_a_word_and_a_restarted_provider_finds_it(
    network: Network, settings: dict[str, Any], tmp_path: Path, node: Port
) -> None:
    other = FakeModelServer(models=["Llama3-70B"])
    provider = ProviderProcess(tmp_path, settings, "--registration-port", str(node.number))
    async with provider.running():
        await provider.said('"serving"')
        async with other.serving():
            await node.register(other, "Llama3-70B")
            await until_served(network, "llama3:8b", "Llama3-70B")
        await until_served(network, "llama3:8b")
        async with other.serving(other.port):
            await until_served(network, "llama3:8b", "Llama3-70B")
            await provider.kill()
            await until_served(network)
            provider.child.start()
            await until_served(network, "llama3:8b", "Llama3-70B")


async def test_containers_of_one_model_share_its_jobs(
    network: Network, settings: dict[str, Any], tmp_path: Path, node: Port
) -> None:
    servers = [FakeModelServer(models=["Llama3-70B"]) for _ in range(2)]
    provider = ProviderProcess(tmp_path, settings, "--registration-port", str(node.number))
    async with provider.running(), servers[0].serving(), servers[1].serving():
        await provider.said('"serving"')
        for number, server in enumerate(servers):
            await node.register(server, "Llama3-70B", f"cid{number}")
        async with asyncio.timeout(20):
            while True:
                serving = (await network.client.get("/api/network/providers")).json()
                cids = sorted(_cids(serving, "Llama3-70B"))
                if cids == ["cid0", "cid1"]:
                    break
                await asyncio.sleep(0.05)
        for _ in range(4):
            await ask(network, "Llama3-70B")
        assert [len(server.asked) for server in servers] == [2, 2]


def _cids(serving: Any, model: str) -> list[str]:
    """Every `cid` below a model of this name, wherever the document has it."""
    match serving:
        case {"name": name, "instances": [*instances]} if name == model:
            return [instance["cid"] for instance in instances]
        case dict():
            return [cid for part in serving.values() for cid in _cids(part, model)]
        case list():
            return [cid for part in serving for cid in _cids(part, model)]
        case _:
            return []
