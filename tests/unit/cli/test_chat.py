"""`aos chat`: what it asks, what it shows, and what it says when something goes wrong."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from aos_cli import chat, direct_wire
from aos_cli.chat_gateway import GatewayAnswer
from aos_cli.client import DispatcherClient
from aos_cli.direct import DIRECT, Opened
from aos_cli.errors import CliError
from aos_cli.failures import BadAnswer, Interrupted
from aos_cli.main import app
from aos_protocol.evidence import Check

runner = CliRunner()
WHERE = ["--dispatcher", "http://127.0.0.1:8000", "--model", "tiny.gguf"]
JOB = "ab" * 32
FACTS = {"job_id": JOB, "evidence": f"/api/job/evidence/{JOB}", "operator": "0x1111"}


def event(said: object) -> str:
    return f"data: {json.dumps(said)}\n\n"


def piece(text: str) -> str:
    return event({"choices": [{"index": 0, "delta": {"content": text}}]})


ROLE = event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
LAST = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "aos": FACTS})
DONE = "data: [DONE]\n\n"


class Gateway:
    """A dispatcher's gateway as a transport: `answers` are the bodies that it gives, one after the other."""

    def __init__(self, *answers: str, status: int = 200) -> None:
        self.asked: list[dict[str, Any]] = []
        self.tokens: list[str | None] = []
        self._answers: Iterator[str] = iter(answers)
        self._status = status

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert (request.method, request.url.path) == ("POST", "/v1/chat/completions")
        self.asked.append(json.loads(request.content))
        self.tokens.append(request.headers.get("Authorization"))
        return httpx.Response(self._status, text=next(self._answers))


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AOS_DATA", str(tmp_path))
    monkeypatch.setenv("AOS_TOKEN", "aos_token")


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Gateway]:
    def serve(*answers: str, status: int = 200) -> Gateway:
        gateway = Gateway(*answers, status=status)
        made = partial(DispatcherClient, transport=httpx.MockTransport(gateway))
        monkeypatch.setattr(chat, "DispatcherClient", made)
        return gateway

    return serve


def test_one_question_is_streamed_and_names_its_evidence(served: Callable[..., Gateway]) -> None:
    gateway = served(ROLE + ": waiting\n\n" + piece("About ") + piece("eleven.") + LAST + DONE)
    shown = runner.invoke(app, ["chat", "How fast?", "--temperature", "0.5", "--max-tokens", "9", *WHERE])
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.splitlines()[0] == "About eleven."
    assert f"0x1111; evidence: http://127.0.0.1:8000/api/job/evidence/{JOB}" in shown.stdout
    (asked,) = gateway.asked
    assert asked == {
        "model": "tiny.gguf",
        "messages": [{"role": "user", "content": "How fast?"}],
        "user": "aos-cli",
        "temperature": 0.5,
        "max_tokens": 9,
        "stream": True,
    }
    assert gateway.tokens == ["Bearer aos_token"]


def test_a_question_may_come_on_standard_input(served: Callable[..., Gateway]) -> None:
    gateway = served(piece("yes") + LAST + DONE)
    assert runner.invoke(app, ["chat", "-", *WHERE], input="Is it?\n").exit_code == 0
    assert gateway.asked[0]["messages"][0]["content"] == "Is it?"


def test_a_conversation_remembers_what_was_said_until_somebody_leaves(served: Callable[..., Gateway]) -> None:
    answers = [piece(text) + LAST + DONE for text in ("one", "two")]
    gateway = served(*answers)
    shown = runner.invoke(app, ["chat", *WHERE], input="first\n\nsecond\n/exit\nnever\n")
    assert shown.exit_code == 0, shown.output
    said = [[(turn["role"], turn["content"]) for turn in asked["messages"]] for asked in gateway.asked]
    first = [("user", "first")]
    assert said == [first, [*first, ("assistant", "one"), ("user", "second")]]
    assert "/exit or Ctrl-D leaves" in shown.stdout


def test_the_end_of_the_input_is_goodbye(served: Callable[..., Gateway]) -> None:
    served(piece("one") + LAST + DONE)
    assert runner.invoke(app, ["chat", *WHERE], input="first\n").exit_code == 0


def test_an_answer_that_fails_ends_no_conversation_and_is_not_remembered(
    served: Callable[..., Gateway],
) -> None:
    broken = piece("half") + event({"error": {"message": "the operator was lost", "code": 502}, "code": 502})
    gateway = served(broken, piece("whole") + LAST + DONE)
    shown = runner.invoke(app, ["chat", *WHERE], input="first\nsecond\n")
    assert shown.exit_code == 0
    assert "error: the answer broke off: the operator was lost" in shown.stdout
    assert [turn["content"] for turn in gateway.asked[1]["messages"]] == ["second"]


def test_ctrl_c_stops_an_answer_and_not_the_program(
    served: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = served(piece("whole") + LAST + DONE)
    run, stopped = chat.Interrupts.run, iter([True])

    def interrupted(self: Any, main: Any) -> Any:
        if next(stopped, False):
            main.close()
            raise Interrupted(2)
        return run(self, main)

    monkeypatch.setattr(chat.Interrupts, "run", interrupted)
    shown = runner.invoke(app, ["chat", *WHERE], input="first\nsecond\n")
    assert shown.exit_code == 0
    assert "stopped" in shown.stdout
    assert [turn["content"] for turn in gateway.asked[0]["messages"]] == ["second"]


@pytest.mark.parametrize("arguments", [["chat"], ["chat", "first"]])
def test_being_told_to_end_ends_it(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    def terminated(_self: Any, main: Any) -> Any:
        main.close()
        raise Interrupted(15)

    monkeypatch.setattr(chat.Interrupts, "run", terminated)
    assert runner.invoke(app, [*arguments, *WHERE], input="first\nsecond\n").exit_code == 143


def test_what_the_gateway_refuses_is_said(served: Callable[..., Gateway]) -> None:
    served(
        json.dumps({"error": {"message": "no"}, "code": 401, "message": "an API token is required"}),
        status=401,
    )
    shown = runner.invoke(app, ["chat", "first", *WHERE])
    assert shown.exit_code == 1
    assert "an API token is required (401)" in shown.stderr


def test_control_characters_of_a_model_do_not_reach_the_terminal(served: Callable[..., Gateway]) -> None:
    served(piece("\x1b[2Jgone") + LAST + DONE)
    assert "\x1b" not in runner.invoke(app, ["chat", "first", *WHERE]).stdout


@pytest.mark.parametrize(
    ("body", "error", "said"),
    [
        (ROLE + piece("half"), CliError, "before its end"),
        ("data: {", BadAnswer, "not JSON"),
        ("data: [1]", BadAnswer, "no JSON object"),
        (event({"error": {"message": "why"}}), CliError, "broke off: why"),
    ],
)
async def test_a_stream_that_is_not_whole_is_no_answer(body: str, error: type[Exception], said: str) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, text=body))
    async with DispatcherClient("http://127.0.0.1:8000", transport=transport) as client:
        with pytest.raises(error, match=said):
            [text async for text in GatewayAnswer().texts(client, {})]


def test_a_direct_answer_says_by_which_way_it_came_and_what_was_checked() -> None:
    opened: Any = Opened.__new__(Opened)
    checks = [
        Check(DIRECT, "PASS", "it is"),
        Check("AOS-JOB-1", "PASS", ""),
        Check("AOS-MATCH-1", "SKIP", ""),
    ]
    opened.way = "straight to http://127.0.0.1:7000"
    assert chat._stands(opened, checks) == (
        "straight to http://127.0.0.1:7000, encrypted from end to end; signed by the operator: 2 checks pass, 1 cannot be made"
    )
    opened.way = direct_wire.RELAYED
    assert chat._stands(opened, checks).startswith("relayed by the dispatcher, which can read neither")


@pytest.mark.parametrize(
    "checks",
    [
        [],
        [Check(DIRECT, "SKIP", "")],
        [Check(DIRECT, "PASS", ""), Check("AOS-JOB-1", "FAIL", "the id is another")],
    ],
)
def test_a_direct_answer_that_does_not_hold_is_not_to_be_relied_on(checks: list[Check]) -> None:
    opened: Any = Opened.__new__(Opened)
    opened.way = direct_wire.RELAYED
    with pytest.raises(CliError, match="do not rely on this answer"):
        chat._stands(opened, checks)
