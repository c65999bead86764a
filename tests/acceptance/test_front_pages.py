"""docs/conversations.md and docs/network.md are executed, and what they say of the network is so."""

import json
from pathlib import Path

import pytest

from acceptance.pages import DOCS, examples, form, run_page
from acceptance.processes import Network
from aos_dispatcher.network_documents import NetworkAnswer


def test_conversations_answer_as_their_page_shows(network: Network, tmp_path: Path) -> None:
    page = DOCS / "conversations.md"
    outputs = run_page(page, network, tmp_path)
    shown = [answer for _, answer in examples(page)]
    assert len(outputs) == len(shown) == 4
    for output, answer in zip(outputs, shown, strict=True):
        if answer is not None:
            assert form(json.loads(output)) == form(answer)
    kept = json.loads(outputs[1])
    assert [message["role"] for message in kept["messages"]] == ["user", "assistant"] * 2
    assert [kept["turns"], kept["expires_at"] - kept["used_at"]] == [2, 86_400]
    last = json.loads((tmp_path / "answer.json").read_text())
    assert kept["messages"][-1]["content"] == last["choices"][0]["message"]["content"]
    job = network.ask("/api/job/detail", {"job_id": last["aos"]["job_id"]})["result"]["job"]
    assert job["messages"] == kept["messages"][:3]


def test_the_network_is_as_its_page_says(network: Network, tmp_path: Path) -> None:
    _, printed = run_page(DOCS / "network.md", network, tmp_path)
    told = NetworkAnswer.model_validate_json((tmp_path / "network.json").read_text()).result
    assert len(told.providers) == told.connected >= 1
    lines = [
        f"{provider.address} {' '.join(model.name for model in provider.models)}"
        for provider in told.providers
    ]
    assert printed.split("\n")[:-1] == lines
    assert told.dispatcher == network.ask("/api/log/head")["result"]["dispatcher"]


@pytest.mark.parametrize("name", ["conversations.md", "network.md"])
def test_every_setting_of_the_page_is_in_the_template_with_the_same_default(name: str) -> None:
    template = (DOCS / "template" / "config-dispatcher.yaml").read_text()
    gateway = template.partition("\ngateway:\n")[2].partition("\n\n")[0]
    page = (DOCS / name).read_text()
    for line in gateway.splitlines():
        setting, _, value = line.strip().partition(": ")
        if f"`{setting}`" in page:
            assert value in page, setting
