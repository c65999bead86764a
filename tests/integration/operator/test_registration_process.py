"""`operator-runner` with no worker of its own: all that it serves has registered, and is remembered in PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest_asyncio

from aos_cli import ports
from integration.operator.fake_dispatcher import FakeDispatcher
from integration.operator.processes import OperatorProcess
from integration.provider.fake_model_server import FakeModelServer


@pytest_asyncio.fixture
async def url(configuration: dict[str, Any]) -> AsyncIterator[str]:
    """Where models register, once the operator runs."""
    with ports.reserve(0) as holder:
        configuration["registration"] = {"port": ports.number(holder)}
        yield f"http://127.0.0.1:{ports.number(holder)}/api/v0/ai/"


async def announced(dispatcher: FakeDispatcher, *names: str) -> None:
    """Wait until the operator is connected with exactly these models."""
    async with asyncio.timeout(50):
        while not dispatcher.connected.is_set() or _names(dispatcher) != sorted(names):
            await asyncio.sleep(0.02)


def _names(dispatcher: FakeDispatcher) -> list[str]:
    return [model.name for model in dispatcher.connects[-1].models]


async def test_models_of_each_type_are_announced_as_what_they_are_also_after_a_crash(
    dispatcher: FakeDispatcher, configuration: dict[str, Any], url: str, tmp_path: Path
) -> None:
    operator = OperatorProcess(tmp_path, configuration)
    server = FakeModelServer(models=["Llama3-70B", "SuperImage", "Editor"])
    paths = {"Llama3-70B": "chat/completions", "SuperImage": "images/generations", "Editor": "images/edits"}
    async with server.serving(), operator.running(), httpx.AsyncClient(base_url=url, trust_env=False) as node:
        await announced(dispatcher)  # with nothing
        models = [
            {"model": name, "api": f"{server.base}/{path}", "type": kind, "cid": "c1"}
            for kind, (name, path) in enumerate(paths.items())
        ]
        said = await node.post("project/register", json={"project": "DBC", "models": models})
        assert said.json() == {"code": 0, "message": "ok"}
        await announced(dispatcher, *paths)
        offered = {model.name: model for model in dispatcher.connects[-1].models}
        assert {name: model.kinds for name, model in offered.items()} == {
            "Llama3-70B": [0],
            "SuperImage": [1],
            "Editor": [2],
        }
        assert {model.evidence for model in offered.values()} == {"text"}
        [instance] = offered["Editor"].instances
        assert (instance.project, instance.cid, instance.kind) == ("DBC", "c1", 2)

        await operator.kill()
        operator.start()
        await announced(dispatcher, *paths)

        ended = await node.post("model/unregister", json={"project": "DBC", "model": "Editor", "cid": "c1"})
        assert ended.json() == {"code": 0, "message": "ok"}
        await announced(dispatcher, "Llama3-70B", "SuperImage")
    assert '"operator stops"' in operator.log()
