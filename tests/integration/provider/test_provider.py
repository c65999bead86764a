"""`aos provider`, from its settings to signed answers, on a real dispatcher."""

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from integration.dispatcher.conftest import Network
from integration.provider.conftest import KEY, PATIENCE_S, PROVIDER, ProviderProcess, ask, result_of
from integration.provider.fake_model_server import FakeModelServer
from integration.provider.tap import Tap

pytestmark = pytest.mark.timeout(180)  # each of its processes takes seconds to start
STEPS = [
    "reading the settings",
    "initialized",
    "identity",
    "pinned dispatcher",
    "joining the dispatcher",
    "reached the dispatcher",
    "verified the dispatcher",
    "saying hello to the model server",
    "sending a test request",
    "checking the stream",
    "the test call succeeded",
    "serving",
]


async def test_a_provider_says_each_step_and_serves_with_its_system_message(
    network: Network, server: FakeModelServer, settings: dict[str, Any], tmp_path: Path
) -> None:
    settings["systemMessage"] = "Im a system message"
    digest = hashlib.sha256(b"Im a system message").hexdigest()
    async with ProviderProcess(tmp_path, settings).running() as provider:
        await provider.said('"serving"')
        events = [json.loads(line)["event"] for line in provider.log().splitlines()]
        assert [event for event in events if event in STEPS] == STEPS
        assert server.asked[0]["stream"] is True

        result = result_of(await ask(network))
        assert (result["operator"], result["result"]) == (PROVIDER, "one two three")
        assert server.asked[-1]["messages"] == [
            {"role": "system", "content": "Im a system message"},
            {"role": "user", "content": "one two three"},
        ]
        assert (result["record"]["level"], result["record"]["system"]) == ("text", digest)

        own = [{"role": "system", "content": "Mine"}, {"role": "user", "content": "one two"}]
        result = result_of(await ask(network, messages=own))
        assert server.asked[-1]["messages"] == own
        assert "system" not in result["record"]


async def test_the_key_of_the_model_server_goes_there_and_nowhere_else(
    network: Network, server: FakeModelServer, settings: dict[str, Any], tmp_path: Path
) -> None:
    server.key = KEY
    async with Tap(network.ws).listening() as tap:
        settings |= {"apiKey": KEY, "serverUrl": tap.url, "systemMessage": "be brief"}
        async with ProviderProcess(tmp_path, settings, "--log-level", "debug").running() as provider:
            await provider.said('"serving"')
            await ask(network)
            server.key = "another"  # the server's refusal may repeat what it was sent
            assert provider.child.pid is not None
            process = Path(f"/proc/{provider.child.pid}")
            shown = [(process / name).read_bytes() for name in ("cmdline", "environ")]
            kept = [path.read_bytes() for path in provider.memory.parent.iterdir()]
        assert set(server.authorizations) == {f"Bearer {KEY}"}
        assert any("one two three" in text for text in tap.told)  # so it does hear what is said
        assert any("job_result" in text for text in tap.heard)
        assert any(b"one two three" in content for content in kept)
        everywhere = [
            *(text.encode() for text in tap.heard),
            *shown,
            *kept,
            *(path.read_bytes() for path in provider.memory.parent.iterdir()),
            provider.log().encode(),
        ]
        for secret in (KEY, settings["userSecret"]):
            assert not any(secret.encode() in content for content in everywhere)


async def test_a_provider_that_is_killed_while_the_model_runs_answers_after_its_next_start(
    network: Network, server: FakeModelServer, settings: dict[str, Any], tmp_path: Path
) -> None:
    async with ProviderProcess(tmp_path, settings).running() as provider:
        await provider.said('"serving"')
        first = result_of(await ask(network))
        server.go.clear()
        before = len(server.asked)
        asking = asyncio.create_task(ask(network))
        async with asyncio.timeout(PATIENCE_S):
            while len(server.asked) == before:
                await asyncio.sleep(0.02)
        await provider.kill()
        server.go.set()
        provider.child.start()
        second = result_of(await asking)
    assert first["operator"] == second["operator"] == PROVIDER
    assert second["result"] == "one two three"
    assert second["counter"] > first["counter"]


async def test_a_second_process_with_the_same_identity_is_refused(
    network: Network, settings: dict[str, Any], tmp_path: Path
) -> None:
    async with ProviderProcess(tmp_path, settings).running() as provider:
        await provider.said('"serving"')
        (tmp_path / "second").mkdir()
        second = ProviderProcess(tmp_path / "second", settings, data=provider.folder / "data")
        async with second.running():
            assert "another process uses" in await second.failed()
