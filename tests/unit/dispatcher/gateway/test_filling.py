from typing import Any

import pytest

from aos_dispatcher.gateway.filling import taken_apart
from aos_dispatcher.gateway.requests import (
    ChatRequest,
    CompletionRequest,
    parse,
    wanted_chat,
    wanted_completion,
)
from aos_dispatcher.gateway.served import Served
from aos_protocol.fim import TEMPLATES, render


def model(name: str = "codellama:7b-code", *able: Any) -> Served:
    return Served(name, "opml", "ab" * 32, "text", [0], frozenset(able or ("chat", "fim")), [])


def jobs(body: dict[str, Any], served: Served) -> list[dict[str, Any]]:
    wanted = wanted_completion(parse(CompletionRequest, {"model": served.name, **body}))
    return taken_apart(wanted, served).jobs


def test_a_prompt_made_by_the_models_template_becomes_prompt_and_suffix() -> None:
    prompt = render(TEMPLATES["codellama"], "def f(x):\n", "\nprint(f(1))")
    [job] = jobs({"prompt": prompt}, model())
    assert (job["prompt"], job["suffix"]) == ("def f(x):\n", "\nprint(f(1))")


@pytest.mark.parametrize(
    ("prompt", "served"),
    [
        ("def f(x):", model()),
        (render(TEMPLATES["starcoder"], "a", "b"), model()),
        (render(TEMPLATES["codellama"], "a", "b"), model("llama3.1:latest")),
        (render(TEMPLATES["codellama"], "a", "b"), model("codellama:7b-instruct", "chat")),
    ],
    ids=["plain", "another family", "no family", "not able"],
)
def test_any_other_prompt_stays_as_it_is(prompt: str, served: Served) -> None:
    [job] = jobs({"prompt": prompt}, served)
    assert job["prompt"] == prompt
    assert "suffix" not in job


def test_a_prompt_with_a_suffix_of_its_own_stays_as_it_is() -> None:
    prompt = render(TEMPLATES["codellama"], "a", "b")
    [job] = jobs({"prompt": prompt, "suffix": "c"}, model())
    assert (job["prompt"], job["suffix"]) == (prompt, "c")


def test_chats_are_not_looked_at() -> None:
    said = render(TEMPLATES["codellama"], "a", "b")
    body = {"model": "codellama:7b-code", "messages": [{"role": "user", "content": said}]}
    wanted = wanted_chat(parse(ChatRequest, body))
    assert taken_apart(wanted, model()).jobs == wanted.jobs
