"""From a project's job to its signed result: a dispatcher, and an operator whose models run on servers that are not ours."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio

from aos_dispatcher.operators import register_operator
from aos_operator.runner import run_operator
from aos_operator.settings import OperatorSettings
from aos_protocol.identity import Signer
from aos_protocol.record import named_model_digest
from integration.dispatcher.conftest import Network
from integration.operator.model_servers import KEY, FakeOllama, FakeOpenWebUi

MODEL = "codellama:7b-code"


class Served:
    """A network with one operator in front of an Ollama and an Open WebUI, both with the same model."""

    def __init__(self, network: Network, ollama: FakeOllama, webui: FakeOpenWebUi) -> None:
        self.network = network
        self.ollama = ollama
        self.webui = webui

    async def run(self, **job: Any) -> tuple[dict[str, Any], dict[str, Any], str]:
        """Have a job done; its detail, its one result and its id."""
        asked = {"tag": "opml", "model": MODEL, "params": {"max_tokens": 16}, "prompt": "What is fire?"} | job
        job_id = await self.network.submit(job=asked)
        detail = await self.network.finished(job_id)
        (row,) = await self.network.results(job_id)
        return detail, row, job_id


@pytest_asyncio.fixture
async def served(new_database: Any, redis_url: str) -> AsyncIterator[Served]:
    network, key, stop = Network(await new_database("dispatcher")), os.urandom(32), asyncio.Event()
    async with AsyncExitStack() as stack:
        await network.start()
        stack.push_async_callback(network.stop)
        await network.restart(least_evidence="text")
        await network.project()
        address = Signer(key).address
        await register_operator(network.dispatcher.database, address)
        ollama, webui = FakeOllama(), FakeOpenWebUi()
        await stack.enter_async_context(ollama.serving())
        await stack.enter_async_context(webui.serving())
        settings = OperatorSettings.model_validate(
            {
                "db": {"pg_db_url": await new_database("operator"), "min_connect_pool": 1},
                "queue": {"queue_url": redis_url},
                "net": {"dispatcher_url": network.ws},
                "node": {
                    "signer_key": "0x" + key.hex(),
                    "dispatcher_address": network.signer.address,
                },
                "backends": [
                    {"kind": "ollama", "url": ollama.url},
                    {"kind": "openwebui", "url": webui.url, "api_key": KEY},
                ],
            }
        )
        running = asyncio.create_task(run_operator(settings, stop))
        stack.push_async_callback(lambda: running)
        stack.callback(stop.set)
        while address not in network.dispatcher.hub.connected():
            await asyncio.sleep(0.02)
        yield Served(network, ollama, webui)


async def test_an_answer_of_text_alone_is_signed_and_says_so(served: Served) -> None:
    detail, row, job_id = await served.run()
    assert (row["result"], row["evidence"], row["backend"]) == ("Fire is hot.", "text", "ollama")
    assert (detail["status"], row["verdict"]) == ("completed", "inconclusive")
    (frame,) = [asked for asked in served.ollama.asked if asked.path == "/api/generate"]
    assert (frame.body["prompt"], frame.body["raw"]) == ("What is fire?", True)
    evidence = await served.network.evidence(job_id)
    assert named_model_digest(MODEL) in str(evidence)
    left = {" ".join(check.split()[:2]) for check in await served.network.unpassed(job_id)}
    assert left == {"AOS-MATCH-1 SKIP", "AOS-TRANSCRIPT-1 SKIP"}
    assert KEY not in str(evidence)


async def test_a_gap_is_filled_and_the_result_binds_both_its_sides(served: Served) -> None:
    detail, row, job_id = await served.run(prompt="def f(", suffix="): pass")
    assert (detail["status"], row["result"]) == ("completed", "Fire is hot.")
    assert served.ollama.posts()[-1]["prompt"] == "<PRE> def f( <SUF>): pass <MID>"
    assert {check.status for check in await served.network.checks(job_id)} == {"PASS", "SKIP"}


async def test_the_other_server_takes_what_one_cannot(served: Served) -> None:
    served.ollama.override["/api/generate"] = (503, b'{"error": "server busy, please try again"}')
    detail, row, _ = await served.run()
    assert (detail["status"], row["result"], row["backend"]) == ("completed", "Fire is hot.", "openwebui")
    assert served.webui.asked[-1].headers["authorization"] == f"Bearer {KEY}"


async def test_what_the_server_refuses_becomes_the_reason_in_its_words(served: Served) -> None:
    said = b'{"error": "the input length exceeds the context length"}'
    served.ollama.override["/api/generate"] = (400, said)
    job_id = await served.network.submit(
        job={"tag": "opml", "model": MODEL, "params": {"max_tokens": 16}, "prompt": "x" * 9000}
    )
    detail = await served.network.finished(job_id)
    assert detail["status"] == "failed"
    assert "the input length exceeds the context length" in detail["reason"]


OTHERS = "# File: a.py\nx = 1\n\n"
EDITORS = {
    "twinny, lmstudio": {
        "prompt": f"<PRE> {OTHERS}def f( <SUF> ): pass <MID>",
        "temperature": 0.2,
        "max_tokens": 16,
        "stop": ["<EOT>"],
    },
    "twinny, openai-compatible": {
        "prompt": f"<PRE> {OTHERS}def f( <SUF> ): pass <MID>",
        "keep_alive": "5m",
        "options": {"temperature": 0.2, "num_predict": 16, "stop": ["<EOT>"]},
    },
    "continue": {
        "prompt": f"<PRE> {OTHERS}def f( <SUF>): pass <MID>",
        "temperature": 0.01,
        "max_tokens": 16,
        "stop": ["<PRE>", "<SUF>", "<MID>", "<EOT>", "\n\n", "\r\n\r\n", "/src/", "#- coding: utf-8", "```"],
    },
}
"""What they ask for a gap between `def f(` and `): pass`, by the template of Code Llama; Twinny has a space more."""


@pytest.mark.parametrize("editor", EDITORS)
async def test_what_an_editor_has_rendered_reaches_the_model_as_its_template(
    served: Served, editor: str
) -> None:
    asked = EDITORS[editor] | {"model": MODEL, "stream": True}
    bearer = {"Authorization": f"Bearer {served.network.token}"}
    answer = await served.network.client.post("/v1/completions", json=asked, headers=bearer)
    *chunks, last = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert last == "[DONE]", answer.text
    assert "".join(json.loads(chunk)["choices"][0]["text"] for chunk in chunks) == "Fire is hot."
    (sent,) = served.ollama.posts()
    space = " " if editor.startswith("twinny") else ""
    assert (sent["prompt"], sent["raw"]) == (f"<PRE> {OTHERS}def f( <SUF>{space}): pass <MID>", True)
    job = (await served.network.finished(json.loads(chunks[-1])["aos"]["job_id"]))["job"]
    assert (job["prompt"], job["suffix"]) == (f"{OTHERS}def f(", f"{space}): pass")
