"""The adapters, and `aos doctor --backend`, against model servers that a registry provides, on the demo model."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from llama_cpp import Llama
from pydantic import SecretStr

from aos_cli.doctor_backend import backend_findings
from aos_cli.findings import Finding
from aos_operator.backends.dialects import Source
from aos_operator.backends.settings import BackendSettings
from aos_operator.backends.text import TextBackend
from aos_operator.backoff import until_available
from aos_operator.errors import WorkerRefused, WorkerUnavailable
from aos_protocol.fim import custom
from aos_protocol.job import ChatMessage, JobSpec, Params
from aos_protocol.record import Record, named_model_digest
from integration.operator.model_servers import FakeOllama
from support.model_servers import PROXY_KEY, litellm_proxy, llama_server, python_server

# Most of it is for LiteLLM's proxy to start.
pytestmark = pytest.mark.timeout(180)
SEED, PROVER = "ab" * 32, "0x" + "11" * 20
QUESTION = "What is AI?"
LONG = "a b " * 2000
FINDINGS = ["backend", *(f"backend {part}" for part in ["models", "chat", "streaming", "logprobs"])]


@pytest.fixture(scope="module")
def native(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """llama.cpp's own server."""
    with llama_server(demo_model, tmp_path_factory.mktemp("llama")) as url:
        yield url


@pytest.fixture(scope="module")
def bindings(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """llama-cpp-python's server."""
    with python_server(demo_model, tmp_path_factory.mktemp("python")) as url:
        yield url


@pytest.fixture(scope="module")
def proxy(native: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """LiteLLM's proxy before llama.cpp's own server."""
    with litellm_proxy(native, tmp_path_factory.mktemp("litellm")) as url:
        yield url


@asynccontextmanager
async def backend_on(kind: str, url: str, **more: Any) -> AsyncIterator[TextBackend]:
    backend = TextBackend(Source(kind, url, timeout=30, **more))
    try:
        yield backend
    finally:
        await backend.close()


async def answer_of(backend: TextBackend, **asked: Any) -> tuple[dict[str, Any], list[str]]:
    (model,) = await backend.models()
    asked = {"prompt": QUESTION, "params": Params(max_tokens=24), **asked}
    if "messages" in asked:
        del asked["prompt"]
    seed, hears = asked.pop("seed", SEED), asked.pop("hears", True)
    job = JobSpec(tag="opml", model=model.name, **asked)
    told: list[str] = []
    hear = (lambda piece: told.append(piece.text)) if hears else None
    return await backend.generate(job, seed, PROVER, hear=hear), told


KINDS = ["llamacpp", "openai", "litellm"]


@pytest.fixture
def there(request: pytest.FixtureRequest) -> dict[str, Any]:
    """How to make a backend of the kind that a test is given."""
    kind = request.param
    name = {"llamacpp": "native", "openai": "bindings", "litellm": "proxy"}[kind]
    key = {"key": SecretStr(PROXY_KEY)} if kind == "litellm" else {}
    return {"kind": kind, "url": request.getfixturevalue(name), **key}


@pytest.mark.parametrize("there", KINDS, indirect=True)
@pytest.mark.parametrize(
    "asked", [{}, {"messages": [ChatMessage(role="user", content=QUESTION)]}], ids=["raw", "chat"]
)
async def test_it_answers_and_streams(there: dict[str, Any], asked: dict[str, Any]) -> None:
    async with backend_on(**there) as backend:
        answer, told = await answer_of(backend, **asked)
    record = Record.model_validate(answer["record"])
    assert len(told) > 3
    assert "".join(told) == answer["text"]
    assert (record.backend, record.finish_reason) == (there["kind"], "length")
    assert record.level == ("token_ids" if there["kind"] == "llamacpp" else "text")


@pytest.mark.parametrize("there", KINDS, indirect=True)
async def test_the_draw_hangs_on_the_jobs_seed(there: dict[str, Any]) -> None:
    async with backend_on(**there) as backend:
        seeds = ("01", "01", "01", "02", "03")
        said = [(await answer_of(backend, seed=seed * 32))[0]["text"] for seed in seeds]
    assert said[1] == said[2]  # not the first: what a server remembers of a prompt may turn a token
    assert len(set(said[1:])) > 1


@pytest.mark.parametrize("there", KINDS, indirect=True)
async def test_stops_and_limits_are_kept(there: dict[str, Any]) -> None:
    greedy = Params(temperature=0, max_tokens=24, stop=["intelligence"])
    async with backend_on(**there) as backend:
        answer, _ = await answer_of(backend, params=greedy)
        short, _ = await answer_of(backend, params=Params(temperature=0, max_tokens=1))
    assert "artificial" in answer["text"]
    assert "intelligence" not in answer["text"]
    assert answer["record"]["finish_reason"] == "stop"
    assert len(short["text"]) < 4
    assert short["record"]["finish_reason"] == "length"


@pytest.mark.parametrize("there", KINDS, indirect=True)
async def test_a_gap_is_filled_by_a_template_of_ones_own(there: dict[str, Any]) -> None:
    greedy = Params(temperature=0, max_tokens=8)
    async with backend_on(**there, template=custom("{suffix} {prefix}")) as backend:
        (model,) = await backend.models()
        assert "fim" in model.able
        filled, _ = await answer_of(backend, prompt="is AI?", suffix="What", params=greedy)
        plain, _ = await answer_of(backend, prompt="What is AI?", params=greedy)
    assert filled["text"] == plain["text"] != ""


@pytest.mark.parametrize("there", KINDS, indirect=True)
async def test_a_prompt_that_is_too_long_is_refused(there: dict[str, Any]) -> None:
    async with backend_on(**there) as backend:
        with pytest.raises(WorkerRefused) as refused:
            await answer_of(backend, prompt=LONG)
        # As the operator does: a server that breaks off may end the connection just when the next job is on its way.
        answer, _ = await until_available(lambda: answer_of(backend), "asking it once more")
    if there["kind"] != "openai":  # that one tells its log, and breaks off
        assert "exceeds the available context size" in str(refused.value)
    assert answer["text"] != ""


@pytest.mark.parametrize(
    ("there", "evidence"), [("llamacpp", None), ("openai", "logprobs")], indirect=["there"]
)
async def test_logprobs_are_those_of_the_tokens(there: dict[str, Any], evidence: str | None) -> None:
    async with backend_on(**there, evidence=evidence) as backend:
        (model,) = await backend.models()
        assert (model.evidence, model.able) == ("logprobs", ["chat", "logprobs"])
        greedy = Params(temperature=0, max_tokens=8)
        answer, _ = await answer_of(backend, params=greedy, logprobs=2)
        bare, _ = await answer_of(backend, params=greedy)
    tokens = answer["logprobs"]
    assert "".join(token["token"] for token in tokens) == answer["text"]
    assert all(token["top"][0][1] == token["logprob"] for token in tokens)  # greedy: the likeliest was taken
    assert {len(token["top"]) for token in tokens} <= {1, 2}
    assert bare["record"]["level"] in {"token_ids", "logprobs"}


async def test_token_ids_are_those_of_the_models_own_vocabulary(native: str, demo_model: Path) -> None:
    files = {demo_model.name: demo_model}
    async with backend_on("llamacpp", native, files=files) as backend:
        (model,) = await backend.models()
        answer, told = await answer_of(backend)
    assert model.evidence == "token_ids"
    assert model.sha256 != named_model_digest(model.name)
    vocabulary = Llama(str(demo_model), vocab_only=True, verbose=False)
    said = vocabulary.detokenize(answer["record"]["output_tokens"]).decode()
    vocabulary.close()
    assert said == answer["text"] == "".join(told)


async def test_the_proxys_key_is_asked_for(proxy: str) -> None:
    async with backend_on("litellm", proxy, key=SecretStr("sk-wrong")) as backend:
        with pytest.raises(WorkerUnavailable, match=r"does not list its models: .* refused") as refused:
            await backend.models()
    assert "sk-wrong" not in str(refused.value)


async def findings(url: str, key: Path | None = None) -> dict[str, Finding]:
    return {finding.name: finding async for finding in backend_findings(url, key)}


@pytest.mark.parametrize("there", KINDS, indirect=True)
@pytest.mark.parametrize("prefix", ["", "/v1/"])
async def test_doctor_recognises_it_and_its_settings_work(
    there: dict[str, Any], prefix: str, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text(PROXY_KEY + "\n")
    keyed = there["kind"] == "litellm"
    found = await findings(there["url"] + prefix, key if keyed else None)
    assert [*found] == [*FINDINGS, "backend filling in", "backend settings"]
    shows_none = {"backend logprobs"} if keyed else set()
    assert {name for name, finding in found.items() if finding.status != "PASS"} == {
        "backend filling in",
        *shows_none,
    }
    assert f"is {there['kind']}: GET /" in found["backend"].what
    assert int(re.findall(r"in (\d+) pieces", found["backend streaming"].what)[0]) > 3
    (entry,) = yaml.safe_load(found["backend settings"].what.partition("\n")[2])["backends"]
    assert entry.get("api_key") == ("${BACKEND_KEY}" if keyed else None)
    settings = BackendSettings.model_validate(entry | ({"api_key": PROXY_KEY} if keyed else {}))
    backend = TextBackend(settings.source(30))
    answer, _ = await answer_of(backend)
    await backend.close()
    assert answer["text"] != ""


async def test_doctor_fills_in_where_the_models_name_says_how() -> None:
    async with FakeOllama().serving() as server:
        found = await findings(server.url)
        assert {finding.status for finding in found.values() if finding.name != "backend logprobs"} == {
            "PASS"
        }
        assert found["backend logprobs"].status == "SKIP"
        assert "fills in 'Fire is hot.'" in found["backend filling in"].what
        assert "<PRE> " in server.posts()[-1]["prompt"]


async def test_doctor_says_what_is_wrong(tmp_path: Path) -> None:
    gone = await findings("http://127.0.0.1:1")
    assert [(finding.status, name) for name, finding in gone.items()] == [("FAIL", "backend")]
    async with FakeOllama().serving() as server:
        server.override["/api/tags"] = (200, b'{"models": []}')
        empty = await findings(server.url)
        assert empty["backend models"].what == "it serves no model now: load one"
        del server.override["/api/tags"]
        server.override |= dict.fromkeys(("/api/chat", "/api/generate"), (500, b'{"error": "out of memory"}'))
        broken = await findings(server.url)
    assert "out of memory" in broken["backend chat"].what
    assert "backend settings" not in broken
