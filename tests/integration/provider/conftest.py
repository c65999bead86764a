"""A provider as its user runs it: the process `aos provider`, beside a model server, on a real dispatcher."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from sysconfig import get_path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from aos_cli.provider_secret import derive
from aos_dispatcher.operators import register_operator
from aos_dispatcher.settings import Verification
from aos_protocol.frames import open_frame
from aos_service.child import Child
from integration.dispatcher.conftest import Network
from integration.provider.fake_model_server import FakeModelServer

SECRET = "correct horse battery staple"
SIGNER = derive(SECRET)
PROVIDER = SIGNER.address
KEY = "sk-never-leaves-this-machine-0123456789"
AOS = f"{get_path('scripts')}/aos"
PATIENCE_S = 50
"""How long a busy machine may take for anything; a little less than a test has."""


class ProviderProcess:
    """`aos provider` with these settings; everything that it keeps lies below `folder`."""

    def __init__(
        self, folder: Path, settings: dict[str, Any], *options: str, data: Path | None = None
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.file = folder / "provider.yaml"
        self.options = options
        self.write()
        environment = os.environ | {"XDG_DATA_HOME": str(data or folder / "data"), "HOME": str(folder)}
        command = [AOS, "provider", "-c", str(self.file), *options]
        self.child = Child("provider", command, log=folder / "provider.log", environment=environment)

    def write(self) -> None:
        """Write the settings file anew."""
        self.file.write_text(yaml.safe_dump(self.settings))
        self.file.chmod(0o600)

    @property
    def memory(self) -> Path:
        return self.folder / "data/aos/provider" / PROVIDER / "memory.sqlite"

    def log(self) -> str:
        return self.child.log.read_text()

    async def said(self, event: str, times: int = 1) -> None:
        """Wait until it has logged this so many times; fails at once if it ends before."""

        async def seen() -> bool:
            return self.log().count(event) >= times

        await self.child.until_ready(seen, timeout_s=PATIENCE_S)

    async def failed(self) -> str:
        """Wait until it gives up; what it said last."""
        status = await self.child.until_ended()
        assert status == 1, self.log()
        return re.sub(r"\s+", " ", self.log().rpartition("error: ")[2])

    async def kill(self) -> None:
        assert self.child.pid is not None
        os.kill(self.child.pid, signal.SIGKILL)
        await self.child.until_ended()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["ProviderProcess"]:
        self.child.start()
        try:
            yield self
        finally:
            await self.child.stop()


@pytest_asyncio.fixture
async def network(new_database: Any) -> AsyncIterator[Network]:
    """A dispatcher that takes answers of any level, with the provider registered and a project."""
    running = Network(await new_database("dispatcher"))
    running.settings = running.settings.model_copy(
        update={"verification": Verification(audit_share=0, least_evidence="text")}
    )
    await running.start()
    await running.project()
    await register_operator(running.dispatcher.database, PROVIDER)
    yield running
    await running.stop()


@pytest_asyncio.fixture
async def server() -> AsyncIterator[FakeModelServer]:
    async with FakeModelServer().serving() as serving:
        yield serving


@pytest.fixture
def settings(network: Network, server: FakeModelServer) -> dict[str, Any]:
    """What `provider.yaml` has, for this test's servers."""
    return {
        "apiHostname": "127.0.0.1",
        "apiPort": server.port,
        "modelName": "llama3:8b",
        "name": "twinnydotdev",
        "serverUrl": network.ws,
        "serverKey": network.signer.public_key.hex()[2:],
        "userSecret": SECRET,
    }


async def ask(network: Network, model: str = "llama3:8b", **job: Any) -> dict[str, Any]:
    """Submit a job and return its evidence once it is completed."""
    body = {"messages": [{"role": "user", "content": "one two three"}]} if "prompt" not in job else {}
    spec = {"tag": "opml", "model": model, "params": {"max_tokens": 8}, **body, **job}
    request = {"from": "shop", "tag": "", "user": "ann", "job": spec, "verify": network.token}
    submitted = await network.client.post("/api/job/submit", json=request)
    assert submitted.status_code == 200, submitted.text
    job_id = submitted.json()["result"]
    async with asyncio.timeout(PATIENCE_S):
        while True:
            detail = (await network.client.post("/api/job/detail", json={"job_id": job_id})).json()["result"]
            if detail["status"] in {"completed", "failed", "cancelled"}:
                break
            await asyncio.sleep(0.02)
    assert detail["status"] == "completed", detail
    evidence: dict[str, Any] = (await network.client.get(f"/api/job/evidence/{job_id}")).json()
    return evidence


def result_of(evidence: dict[str, Any]) -> dict[str, Any]:
    """The only result in a job's evidence, as its operator signed it."""
    [round_] = evidence["rounds"]
    [result] = round_["results"]
    signed: dict[str, Any] = open_frame(result if isinstance(result, str) else result["frame"]).params[0]
    return signed
