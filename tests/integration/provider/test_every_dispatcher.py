"""A model that registers with a node is known to every process of the dispatcher, whichever the node is connected to."""

import asyncio
from typing import Any

import httpx
import pytest

from aos_cli import ports
from aos_cli.provider_run import running
from aos_cli.provider_settings import ProviderSettings
from aos_cli.provider_steps import Steps
from aos_dispatcher.operators import register_operator
from aos_dispatcher.settings import Verification
from integration.dispatcher import several
from integration.dispatcher.conftest import Network
from integration.provider.conftest import PROVIDER, SIGNER
from integration.provider.fake_model_server import FakeModelServer
from integration.provider.test_registered_models import until_served


class Lenient(Network):
    """A dispatcher that takes answers of any level."""

    def __init__(self, url: str, **dispatch: float) -> None:
        super().__init__(url, **dispatch)
        verification = Verification(audit_share=0, least_evidence="text")
        self.settings = self.settings.model_copy(update={"verification": verification})


async def test_registering_and_unregistering_reach_the_other_process(
    new_database: Any, redis_url: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr("aos_cli.provider_run.derive", lambda _secret: SIGNER)
    monkeypatch.setattr(several, "Network", Lenient)
    servers = [FakeModelServer(models=["llama3:8b"]), FakeModelServer(models=["Llama3-70B"])]
    model = {"project": "DecentralGPT", "model": "Llama3-70B", "cid": "c"}
    async with (
        several.several(await new_database("dispatcher"), redis_url) as two,
        servers[0].serving(),
        servers[1].serving(),
        httpx.AsyncClient(trust_env=False) as node,
    ):
        await register_operator(two.b.dispatcher.database, PROVIDER)
        settings = {
            "apiHostname": "127.0.0.1",
            "apiPort": servers[0].port,
            "modelName": "llama3:8b",
            "name": "twinnydotdev",
            "serverUrl": two.b.ws,
            "serverKey": two.b.signer.address,
            "userSecret": "correct horse battery staple",
        }
        with ports.reserve(0) as holder:
            port = ports.number(holder)
            api = f"http://127.0.0.1:{port}/api/v0/ai/model"
            stop = asyncio.Event()
            steps = Steps(watched=False)
            async with (
                running(ProviderSettings.model_validate(settings), steps, None, port) as provider,
                asyncio.TaskGroup() as group,
            ):
                group.create_task(provider.run(stop))
                await until_served(two.a, "llama3:8b")
                where = {"api": f"{servers[1].base}/chat/completions", "type": 0}
                said = await node.post(f"{api}/register", json=model | where)
                assert said.json() == {"code": 0, "message": "ok"}
                await until_served(two.a, "llama3:8b", "Llama3-70B")
                said = await node.post(f"{api}/unregister", json=model)
                assert said.json() == {"code": 0, "message": "ok"}
                await until_served(two.a, "llama3:8b")
                stop.set()
        await until_served(two.a)
