"""What a provider puts before a conversation, and says in the answer's record; everything else passes as it came."""

import hashlib
from collections.abc import Sequence
from typing import Any

import pytest

from aos_cli.provider_backend import Provided
from aos_cli.provider_steps import Steps
from aos_operator.backends.protocol import Execution, Hear, Piece
from aos_operator.stub import StubWorker
from aos_protocol.job import ChatMessage, JobSpec
from aos_protocol.messages import ServedModel
from aos_protocol.record import Record, named_model_digest

SYSTEM = "You are a helpful assistant."
USER = ChatMessage(role="user", content="Hello!")
OWN = ChatMessage(role="system", content="Mine")


class Server(StubWorker):
    """A model server as an adapter shows it; keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__({})
        self.asked: list[JobSpec] = []

    async def models(self) -> Sequence[ServedModel]:
        return [
            ServedModel(name=name, sha256=named_model_digest(name), evidence="text") for name in ("m", "n")
        ]

    async def generate(
        self,
        job: JobSpec,
        seed: str,
        prover: str,
        execution: Execution | None = None,
        hear: Hear | None = None,
    ) -> dict[str, Any]:
        self.asked.append(job)
        if hear is not None:
            hear(Piece("Hi"))
        return {"text": "Hi", "record": Record(level="text", backend="openai").to_json()}


async def answer(system: str | None, **prompt: Any) -> tuple[JobSpec, dict[str, Any], list[str]]:
    """What the server was asked, the answer, and what was heard of it."""
    server, heard = Server(), list[str]()
    job = JobSpec(tag="opml", model="m", **prompt)
    hear = lambda piece: heard.append(piece.text)  # noqa: E731
    said = await Provided(server, "m", "me", system).generate(job, "ab" * 32, "0x", hear=hear)
    assert Record.model_validate(said["record"])
    return server.asked[0], said, heard


async def test_it_goes_before_messages_without_one_and_the_record_says_so() -> None:
    asked, said, heard = await answer(SYSTEM, messages=[USER])
    assert asked.messages == [ChatMessage(role="system", content=SYSTEM), USER]
    assert said["record"]["system"] == hashlib.sha256(SYSTEM.encode()).hexdigest()
    assert (said["text"], heard) == ("Hi", ["Hi"])


@pytest.mark.parametrize(
    ("system", "prompt"),
    [
        (SYSTEM, {"messages": [OWN, USER]}),
        (SYSTEM, {"messages": [USER, OWN]}),
        (SYSTEM, {"prompt": "Hello!"}),
        (None, {"messages": [USER]}),
    ],
)
async def test_nothing_else_is_touched(system: str | None, prompt: dict[str, Any]) -> None:
    asked, said, _ = await answer(system, **prompt)
    assert asked == JobSpec(tag="opml", model="m", **prompt)
    assert "system" not in said["record"]


async def test_one_model_is_offered_under_the_provider_s_name() -> None:
    [served] = await Provided(Server(), "m", "twinnydotdev", None).models()
    assert (served.name, [instance.project for instance in served.instances]) == ("m", ["twinnydotdev"])


def test_who_watches_sees_symmetry_s_lines(capsys: pytest.CaptureFixture[str]) -> None:
    steps = Steps(watched=True)
    steps.say("reading the settings", file="/home/me/.config/aos/provider.yaml")
    steps.say("pinned dispatcher", pin="4b4a9cc3")
    steps.say("joining the dispatcher")
    steps.say("reached the dispatcher")
    steps.say("verified the dispatcher")
    steps.say("saying hello to the model server")
    steps.say("sending a test request", url="http://localhost:11434/v1/chat/completions")
    steps.say("checking the stream")
    steps.say("the test call succeeded")
    shown = capsys.readouterr().err.splitlines()
    assert shown == [
        "ℹ️ INFO: 🔗 Initializing client using config file: /home/me/.config/aos/provider.yaml",  # noqa: RUF001
        "ℹ️ INFO: 🔑 Server key: 4b4a9cc3",  # noqa: RUF001
        "ℹ️ INFO: 🔗 Joining server, please wait.",  # noqa: RUF001
        "ℹ️ INFO: 🔗 Connected to server.",  # noqa: RUF001
        "ℹ️ INFO: ✅ Verification successful.",  # noqa: RUF001
        "ℹ️ INFO: 👋 Saying hello to your provider...",  # noqa: RUF001
        "ℹ️ INFO: 🚀 Sending test request to http://localhost:11434/v1/chat/completions",  # noqa: RUF001
        "ℹ️ INFO: 📡 Got response, checking stream...",  # noqa: RUF001
        "ℹ️ INFO: ✅ Test inference call successful!",  # noqa: RUF001
    ]
