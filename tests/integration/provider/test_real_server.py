"""A provider in front of a real model server: llama.cpp's own, from llama-cpp-python, with the demo model."""

import hashlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from aos_cli import ports
from aos_service.child import Child
from integration.dispatcher.conftest import Network
from integration.provider.conftest import KEY, PATIENCE_S, PROVIDER, ProviderProcess, result_of

pytestmark = pytest.mark.timeout(180)  # each of its processes takes seconds to start
MODEL = "llama3:8b"
"""The name under which the demo model is served here: names are all that is known of such a model."""


@pytest_asyncio.fixture
async def llama_server(demo_model: Path, tmp_path: Path) -> AsyncIterator[str]:
    """The base URL of a running `llama_cpp.server`, which wants a key."""
    with ports.reserve(0) as holder:
        origin = f"http://127.0.0.1:{ports.number(holder)}"
        options = {
            "--model": demo_model,
            "--model_alias": MODEL,
            "--port": ports.number(holder),
            "--n_ctx": 512,
            "--n_threads": 1,
            "--api_key": KEY,
            "--chat_format": "chatml",
        }
        flat = [str(part) for option in options.items() for part in option]
        child = Child("llama", [sys.executable, "-m", "llama_cpp.server", *flat], log=tmp_path / "llama.log")
        child.start()

        async def answers() -> bool:
            async with httpx.AsyncClient(trust_env=False) as client:
                try:
                    return (await client.get(f"{origin}/v1/models")).status_code in {200, 401}
                except httpx.TransportError:
                    return False

        try:
            await child.until_ready(answers, timeout_s=PATIENCE_S)
            yield origin
        finally:
            await child.stop()


async def test_a_chat_through_the_dispatcher_streams_from_the_model_server(
    network: Network, llama_server: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "apiHostname": "127.0.0.1",
        "apiPort": int(llama_server.rpartition(":")[2]),
        "apiKey": KEY,
        "modelName": MODEL,
        "name": "twinnydotdev",
        "serverUrl": network.ws,
        "serverKey": network.signer.public_key.hex()[2:],
        "systemMessage": "You are a helpful assistant.",
        "userSecret": "correct horse battery staple",
    }
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Tell me a long story about a king."}],
        "max_tokens": 200,
        "temperature": 0,
        "stream": True,
    }
    async with ProviderProcess(tmp_path, settings).running() as provider:
        await provider.said('"serving"')
        chunks = await _streamed(network, body)
        assert KEY not in provider.log()
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    job_id = chunks[0]["id"].removeprefix("chatcmpl-")
    evidence = (await network.client.get(f"/api/job/evidence/{job_id}")).json()
    rows = (await network.client.post("/api/job/result", json={"job_id": job_id})).json()["result"]
    assert [(row["operator"], row["result"]) for row in rows] == [(PROVIDER, text)]
    assert text
    record = result_of(evidence)["record"]
    system = hashlib.sha256(settings["systemMessage"].encode()).hexdigest()
    assert (record["backend"], record["level"], record["system"]) == ("openai", "text", system)


async def _streamed(network: Network, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The chunks of a streamed chat; fails unless it ended well."""
    chunks = []
    headers = {"authorization": f"Bearer {network.token}"}
    async with network.client.stream(
        "POST", "/v1/chat/completions", json=body, headers=headers, timeout=PATIENCE_S
    ) as answer:
        lines = [line async for line in answer.aiter_lines() if line.startswith("data: ")]
    assert answer.status_code == 200, lines
    assert lines[-1] == "data: [DONE]"
    for line in lines[:-1]:
        chunk = json.loads(line.removeprefix("data: "))
        assert "error" not in chunk, chunk
        chunks.append(chunk)
    return chunks
