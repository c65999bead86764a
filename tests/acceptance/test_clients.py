"""Programs of others, set up as docs/clients.md says, before a whole network. `scripts/clients.sh` installs them; what is not there is skipped."""

import asyncio
import json
import os
import re
import subprocess
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.pages import DOCS
from acceptance.processes import ANSWER_S, COMMAND_S, SCRIPTS, Network
from aos_cli import ports
from integration.operator.model_servers import FakeOllama

CLIENTS = Path(__file__).parents[2] / ".aos" / "clients"
LLM = CLIENTS / "llm" / "bin" / "llm"
CONTINUE = CLIENTS / "npm" / "node_modules" / ".bin" / "cn"
OPEN_WEBUI = CLIENTS / "open-webui" / "bin" / "open-webui"
QUESTION = "What is AI?"
GREEDY = {"max_tokens": 12, "temperature": 0}
REFUSED = "tools is not supported here but []"
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": QUESTION}], **GREEDY}


def needs(program: Path, option: str = "") -> pytest.MarkDecorator:
    """Skip where a program is not installed."""
    return pytest.mark.skipif(
        not program.exists(), reason=f"{program.name} is not installed: scripts/clients.sh{option}"
    )


def settings(heading: str, network: Network) -> str:
    """The first block of settings below a heading of the page, for this network."""
    section = (DOCS / "clients.md").read_text().partition(f"\n## {heading}\n")[2]
    found = re.search(r"^```(?:yaml|text)\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert found
    text = found[1].replace("http://127.0.0.1:8000", network.url).replace("aos_...", network.token)
    return re.sub(r"llama3\.1:latest|codellama:7b-code", network.model, text)


def run(program: Path, *arguments: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program that has nothing of its user's, to its end."""
    quiet = {"DO_NOT_TRACK": "1", "CONTINUE_TELEMETRY_ENABLED": "0", "HOME": str(home)}
    return subprocess.run(
        [str(program), *arguments],
        cwd=home,
        env=os.environ | quiet | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_S,
    )


def submitted(network: Network) -> float:
    """How many jobs the dispatcher has taken."""
    said = httpx.get(f"{network.url}/metrics", trust_env=False, timeout=ANSWER_S).text
    found = re.search(r"^aos_jobs_submitted_total (\S+)$", said, re.MULTILINE)
    assert found
    return float(found[1])


def greedy(network: Network) -> str:
    """What the model answers to `QUESTION`, whoever asks."""
    answer = network.ask("/v1/chat/completions", {"model": network.model, **ASK})
    return str(answer["choices"][0]["message"]["content"])


@needs(LLM)
def test_llm(network: Network, tmp_path: Path) -> None:
    (tmp_path / "extra-openai-models.yaml").write_text(settings("llm", network))
    own = {"LLM_USER_PATH": str(tmp_path)}
    assert run(LLM, "keys", "set", "aos", "--value", network.token, home=tmp_path, **own).returncode == 0
    options = [word for name, value in GREEDY.items() for word in ("-o", name, str(value))]
    streamed = run(LLM, "-m", "aos", *options, QUESTION, home=tmp_path, **own)
    whole = run(LLM, "-m", "aos", "--no-stream", *options, QUESTION, home=tmp_path, **own)
    assert streamed.stdout == whole.stdout == greedy(network) + "\n", streamed.stderr + whole.stderr


@needs(CONTINUE)
def test_continue_s_command_line_without_its_tools(network: Network, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(settings("Continue", network))
    before = submitted(network)
    done = run(CONTINUE, "--config", str(config), "--exclude", "*", "-p", QUESTION, home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "error" not in done.stdout.lower()
    assert submitted(network) == before + 1


@needs(CONTINUE)
def test_continue_s_command_line_shows_that_tools_are_refused(network: Network, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(settings("Continue", network))
    done = run(CONTINUE, "--config", str(config), "-p", QUESTION, home=tmp_path)
    assert REFUSED in done.stdout + done.stderr


class OpenWebUi:
    """A running Open WebUI, and the account of its administrator."""

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self.url = url
        self.client = client

    async def ask(self, path: str, body: Any = None) -> Any:
        """The JSON that a path answers: to a POST if there is a body."""
        method = "GET" if body is None else "POST"
        answer = await self.client.request(method, self.url + path, json=body)
        assert answer.is_success, answer.text
        return answer.json()

    async def chat(self, model: str, **params: Any) -> Any:
        """Ask `QUESTION` in a new chat as its page does; the message that the page shows then."""
        asked, told = str(uuid.uuid4()), str(uuid.uuid4())
        question = {"id": asked, "parentId": None, "childrenIds": [told], "role": "user", "content": QUESTION}
        answer = {"id": told, "parentId": asked, "childrenIds": [], "role": "assistant", "content": ""}
        history = {"messages": {asked: question, told: answer}, "currentId": told}
        chat = await self.ask(
            "/api/v1/chats/new", {"chat": {"title": "AI", "models": [model], "history": history}}
        )
        body = {"model": model, "stream": True, "messages": ASK["messages"], "params": GREEDY | params}
        place = {"chat_id": chat["id"], "session_id": "a-page", "id": told, "parent_id": asked}
        await self.ask("/api/chat/completions", body | place)
        while True:
            shown = (await self.ask(f"/api/v1/chats/{chat['id']}"))["chat"]["history"]["messages"][told]
            if shown.get("done") or shown.get("error"):
                return shown
            await asyncio.sleep(0.1)  # its page is told by a WebSocket, we ask


@asynccontextmanager
async def open_webui(given: dict[str, str], folder: Path) -> AsyncIterator[OpenWebUi]:
    """A new Open WebUI with these settings, without what it would fetch from elsewhere."""
    local = {"HF_HUB_OFFLINE": "1", "RAG_EMBEDDING_ENGINE": "openai", "ENABLE_VERSION_UPDATE_CHECK": "False"}
    quiet = {"ANONYMIZED_TELEMETRY": "False", "DO_NOT_TRACK": "true"}
    own = {
        "DATA_DIR": str(folder),
        "HOME": str(folder),
        "WEBUI_SECRET_KEY": "of-a-test",
        "ENABLE_API_KEYS": "true",
    }
    with closing(ports.reserve(0)) as holder, (folder / "log").open("wb") as log:
        url = f"http://127.0.0.1:{ports.number(holder)}"
        command = [str(OPEN_WEBUI), "serve", "--host", "127.0.0.1", "--port", str(ports.number(holder))]
        process = await asyncio.create_subprocess_exec(
            *command, env=os.environ | local | quiet | own | given, stdout=log, stderr=log
        )
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
                while not await _answers(client, f"{url}/health"):
                    assert process.returncode is None, (folder / "log").read_text()
                    await asyncio.sleep(0.2)  # it tells nobody when it is ready
                served = OpenWebUi(url, client)
                account = {"name": "A", "email": "a@example.org", "password": "only-on-Loopback-1"}
                token = (await served.ask("/api/v1/auths/signup", account))["token"]
                client.headers["Authorization"] = f"Bearer {token}"
                yield served
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _answers(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).is_success
    except httpx.TransportError:
        return False


@needs(OPEN_WEBUI, " --open-webui")
@pytest.mark.timeout(240)
async def test_open_webui(network: Network, tmp_path: Path) -> None:
    """As a client of the gateway, and before an Ollama (a fake) as a server for an operator's backend."""
    given = dict(line.split("=", 1) for line in settings("Open WebUI", network).splitlines())
    ollama = FakeOllama()
    async with (
        ollama.serving(),
        open_webui(given | {"OLLAMA_BASE_URL": ollama.url}, tmp_path) as served,
    ):
        models = {entry["id"] for entry in (await served.ask("/api/models"))["data"]}
        assert models == {network.model, ollama.model}
        await _is_a_client(served, network)
        await _is_a_server(served, tmp_path)


async def _is_a_client(served: OpenWebUi, network: Network) -> None:
    said = await asyncio.to_thread(greedy, network)
    asked = {"model": network.model, **ASK}
    whole = await served.ask("/api/chat/completions", asked)
    assert whole["choices"][0]["message"]["content"] == said
    assert (await asyncio.to_thread(network.settled, whole["aos"]["job_id"]))["status"] == "completed"
    streamed = await served.client.post(f"{served.url}/api/chat/completions", json=asked | {"stream": True})
    *lines, last = [line.removeprefix("data: ") for line in streamed.text.splitlines() if line]
    assert last == "[DONE]"
    assert "".join(json.loads(line)["choices"][0]["delta"].get("content", "") for line in lines) == said
    assert (await served.chat(network.model))["content"] == said
    with_tools = await served.chat(network.model, function_calling="native")
    assert REFUSED in json.dumps(with_tools["error"])


async def _is_a_server(served: OpenWebUi, folder: Path) -> None:
    key = folder / "key"
    key.touch(mode=0o600)
    key.write_text((await served.ask("/api/v1/auths/api_key", {}))["api_key"])
    command = [SCRIPTS / "aos", "doctor", "--backend", served.url, "--api-key-file", key]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    report = (await process.communicate())[0].decode()
    assert process.returncode == 0, report
    passed = [line.split()[2] for line in report.splitlines() if line.startswith("PASS  backend ")]
    assert passed[1:] == ["models", "chat", "streaming", "filling", "settings"]
    assert f"kind: openwebui\n  url: {served.url}" in report
