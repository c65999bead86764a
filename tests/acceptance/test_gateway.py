"""The gateway of a whole network: OpenAI's own client, LiteLLM and curl, and audits of what they got."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from acceptance.pages import DOCS, examples, form, run_page
from acceptance.processes import ANSWER_S, CHECKS, COMMAND_S, Network, command

ROOT = Path(__file__).parents[2]
PEERS = ROOT / ".aos" / "peers" / "bin" / "python"
PAGE = DOCS / "gateway.md"
ASK: Any = [{"role": "user", "content": "What is AI?"}]
GREEDY: Any = {"max_tokens": 12, "temperature": 0}


@pytest.fixture
def client(network: Network) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{network.url}/v1", api_key=network.token, max_retries=0, timeout=ANSWER_S
    ) as made:
        yield made


def audit(network: Network, job_id: str) -> dict[str, str]:
    """What aos-audit finds of a job once nobody works on it any more: the status of each check."""
    network.settled(job_id)
    done = subprocess.run(
        command("aos-audit", job_id, "--json", "--dispatcher", network.url),
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {check["id"]: check["status"] for check in json.loads(done.stdout)["checks"]}


def test_what_openai_s_client_streams_is_the_signed_answer_and_passes_the_audit(
    network: Network, client: openai.OpenAI
) -> None:
    stream = client.chat.completions.create(model=network.model, messages=ASK, stream=True, **GREEDY)
    chunks: list[Any] = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    whole: Any = client.chat.completions.create(model=network.model, messages=ASK, **GREEDY)
    assert whole.choices[0].message.content == text
    facts = chunks[-1].aos
    checks = audit(network, facts["job_id"])
    assert {name for name in CHECKS if checks.get(name) != "PASS"} == {"AOS-PIN-1", "AOS-ANSWER-1"}
    rows = network.ask("/api/job/result", {"job_id": facts["job_id"]})["result"]
    executor = next(row for row in rows if row["role"] == "executor")
    assert (executor["result"], executor["operator"]) == (text, facts["operator"])
    assert network.settled(facts["job_id"])["job"]["stream"] is True


def test_each_choice_can_be_audited(network: Network, client: openai.OpenAI) -> None:
    """Each is drawn with a seed of its own, by which two are the same once in some thousand times."""
    for _ in range(5):
        answer: Any = client.completions.create(model=network.model, prompt="AI is", n=2, max_tokens=8)
        texts = {choice.text for choice in answer.choices}
        if len(texts) > 1:
            break
    assert len(texts) == len(answer.choices) == 2
    assert len({facts["job_id"] for facts in answer.aos["jobs"]}) == 2
    for facts in answer.aos["jobs"]:
        assert "FAIL" not in audit(network, facts["job_id"]).values()


def test_a_stop_sequence_ends_an_answer_and_is_told(network: Network, client: openai.OpenAI) -> None:
    answer: Any = client.chat.completions.create(model=network.model, messages=ASK, stop=" for", **GREEDY)
    choice = answer.choices[0]
    assert (choice.finish_reason, choice.stop_reason) == ("stop", " for")
    assert " for" not in choice.message.content


def test_logprobs_are_those_of_the_tokens_that_were_said(network: Network, client: openai.OpenAI) -> None:
    asked: Any = {"model": network.model, "messages": ASK, "logprobs": True, "top_logprobs": 3} | GREEDY
    answer: Any = client.chat.completions.create(**asked)
    tokens = answer.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == answer.choices[0].message.content
    assert len(tokens) == answer.usage.completion_tokens == 12
    for token in tokens:
        assert token.top_logprobs[0].token == token.token  # temperature 0
        assert token.top_logprobs[0].logprob == token.logprob <= 0
        assert len(token.top_logprobs) == 3
    streamed: list[Any] = list(client.chat.completions.create(**asked, stream=True))
    parts = [chunk.choices[0].logprobs for chunk in streamed if chunk.choices[0].logprobs]
    assert [token for part in parts for token in part.content] == tokens
    assert "FAIL" not in audit(network, answer.aos["job_id"]).values()


def test_litellm_is_a_client(network: Network) -> None:
    if not PEERS.exists() and "CI" not in os.environ:
        pytest.skip("there is no .aos/peers: scripts/peers.sh makes it")
    script = Path(__file__).with_name("litellm_client.py")
    done = subprocess.run(
        [str(PEERS), str(script), f"{network.url}/v1", network.token, network.model],
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_S,
        env=os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
    )
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout.splitlines()[-1])
    assert got["whole"] == got["streamed"] == got["later"]
    assert (got["finish_reason"], got["usage"], got["streamed_usage"]) == ("length", 23, 23)
    assert got["text"]
    assert got["then"] > 2 * 11  # what was said, and asked again, behind it
    assert "there is no model 'nowhere' here" in got["refused"]
    assert "FAIL" not in audit(network, got["id"].removeprefix("chatcmpl-")).values()


@pytest.fixture(scope="module")
def outputs(network: Network, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """What each block of the page's commands printed, and the folder that they were run in."""
    folder = tmp_path_factory.mktemp("gateway")
    return run_page(PAGE, network, folder), folder


def test_every_answer_has_the_form_that_the_page_shows(outputs: tuple[list[str], Path]) -> None:
    shown = [answer for _, answer in examples(PAGE)]
    assert len(outputs[0]) == len(shown) == 7
    for output, answer in zip(outputs[0], shown, strict=True):
        if answer is not None:
            assert form(json.loads(output)) == form(answer)


def test_what_the_page_s_stream_and_audit_say(outputs: tuple[list[str], Path]) -> None:
    said = (outputs[1] / "stream.txt").read_text().split("\n\n")
    assert said[-2:] == ["data: [DONE]", ""]
    assert said[0].endswith('"delta":{"role":"assistant","content":""}}]}')
    audited = (outputs[1] / "audit.txt").read_text()
    assert "PASS" in audited
    assert "FAIL" not in audited


def test_every_request_of_the_page_is_one_that_openapi_describes(network: Network) -> None:
    described = {
        f"{method.upper()} {path}"
        for path, methods in network.ask("/openapi.json")["paths"].items()
        for method in methods
    }
    listed = re.findall(r"^\| `(POST|GET) (/v1/[a-z/]+)", PAGE.read_text(), re.MULTILINE)
    assert {f"{method} {path}" for method, path in listed} <= described
    assert len(listed) >= 4
