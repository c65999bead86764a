"""The workshop: what is short is checked at once, what is long in a thread, so that nothing else waits for it."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from aos_operator import workshop
from aos_operator.stub import StubWorker
from aos_operator.tasks import Outcome, Scored
from aos_protocol.job import Params
from unit.operator.world import MODEL, OPERATOR, World

WORLD = World()


class Where:
    """Notes the thread in which a function runs."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.threads: list[threading.Thread] = []

    def __call__(self, *arguments: Any) -> Any:
        self.threads.append(threading.current_thread())
        return self._function(*arguments)


@pytest.fixture
def where(monkeypatch: pytest.MonkeyPatch) -> dict[str, Where]:
    """The checks that a workshop makes, watched."""
    watched = {}
    for name in ("accept_answer", "accept_score", "subject_of"):
        watched[name] = Where(getattr(workshop, name))
        monkeypatch.setattr(workshop, name, watched[name])
    return watched


def made(worker: StubWorker | None = None) -> workshop.Workshop:
    async def domain() -> Any:
        return WORLD.domain

    return workshop.Workshop(worker or StubWorker({MODEL.name: MODEL.sha256}), OPERATOR.address, domain)


def a_job(tokens: int) -> Any:
    job = WORLD.job("x" * tokens)
    return job.model_copy(update={"job": job.job.model_copy(update={"params": Params(max_tokens=tokens)})})


@pytest.mark.parametrize(("tokens", "at_once"), [(1, True), (256, True), (257, False), (4000, False)])
async def test_a_long_transcript_is_checked_in_a_thread(
    where: dict[str, Where], tokens: int, at_once: bool
) -> None:
    outcome = await made().work(a_job(tokens))
    assert isinstance(outcome, Outcome)
    assert outcome.reason == ""
    [thread] = where["accept_answer"].threads
    assert (thread is threading.main_thread()) == at_once


@pytest.mark.parametrize(("tokens", "at_once"), [(8, True), (2000, False)])
async def test_a_long_subject_is_read_in_a_thread(
    where: dict[str, Where], tokens: int, at_once: bool
) -> None:
    scored = await made().work(WORLD.call(a_job(tokens)))
    assert isinstance(scored, Scored)
    assert scored.reason == ""
    threads = where["subject_of"].threads + where["accept_score"].threads
    assert [thread is threading.main_thread() for thread in threads] == [at_once, at_once]


@pytest.mark.parametrize(
    "answer", [{}, {"transcript": None}, {"transcript": {"prompt_tokens": 1, "output_tokens": "2"}}]
)
async def test_an_answer_that_shows_no_tokens_is_read_in_a_thread(
    where: dict[str, Where], answer: dict[str, Any]
) -> None:
    class Odd(StubWorker):
        async def generate(self, *_: Any) -> dict[str, Any]:
            return {"text": "odd", **answer}

    outcome = await made(Odd({MODEL.name: MODEL.sha256})).work(WORLD.job())
    assert isinstance(outcome, Outcome)
    assert "transcript" in outcome.reason
    [thread] = where["accept_answer"].threads
    assert thread is not threading.main_thread()
