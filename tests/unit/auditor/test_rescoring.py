"""Answers that the auditor's own worker scores again: a decision against a decision fails, and what cannot be decided is skipped."""

import json
from typing import Any

import httpx
import pytest

from aos_auditor import rescoring
from aos_auditor.rescoring import check_scores_again
from aos_protocol.evidence import Check
from aos_service.transport import WorkerTransport
from support.evidence import CHEATING, HONEST, MODEL, SEEDED, TOKENS, Story


class Worker:
    """Measures the same distance everywhere; keeps what it was asked."""

    def __init__(self, distance: float = HONEST, sha256: str = MODEL.sha256, **bent: Any) -> None:
        self.distance, self.sha256, self.bent = distance, sha256, bent
        self.items: list[dict[str, Any]] = []

    def handle(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"models": [{"name": "mine", "sha256": self.sha256}]})
        body = json.loads(request.content)
        assert body["model"] == "mine"
        self.items += body["items"]
        [item] = body["items"]
        count = len(item["output_tokens"])
        level = "fingerprint" if "fingerprints" in item else "seeded"
        score = {
            "level": level, "subject": item["subject"], "model": self.sha256, "engine": "mine", "positions": count,
            "margins": [0.0] * count, "surprisals": [3.0] * count, "winners": item["output_tokens"],
            "entropy": 9.5, "variance": 0.75,
        }  # fmt: skip
        if level == "fingerprint":
            score["distances"] = [self.distance] * count
        return httpx.Response(200, json={"scores": [score | self.bent]})


@pytest.fixture(autouse=True)
def _without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WorkerTransport, "handle_async_request", None, raising=True)


def use(monkeypatch: pytest.MonkeyPatch, worker: Any) -> None:
    class Transport(httpx.MockTransport):
        base_url = "http://worker"

    monkeypatch.setattr(rescoring, "WorkerTransport", lambda _: Transport(worker))


def told(*, challenge: bool = False, **how: Any) -> dict[str, Any]:
    story = Story(**{"operators": 4} | how)
    story.own()
    if challenge:
        story.challenge()
    return story.document()


async def again(monkeypatch: pytest.MonkeyPatch, worker: Worker, document: dict[str, Any]) -> list[Check]:
    use(monkeypatch, worker.handle)
    return await check_scores_again("http://worker", document)


async def test_a_worker_that_finds_the_same_confirms_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker()
    checks = await again(monkeypatch, worker, told(challenge=True))
    assert [(check.id, check.status) for check in checks] == [("AOS-SCORE-2", "PASS")] * 2
    assert "[challenge 1]" in checks[1].what
    item = worker.items[0]
    assert item["prompt"] == "What is AI?"
    assert item["output_tokens"] == TOKENS
    assert item["params"] == {"temperature": 1.0, "top_p": 0.5, "max_tokens": 1024, "stop": []}
    assert item["answer"] == {
        "text": "a sensible answer", "finish_reason": "eos", "prompt_tokens": [1, 2, 3],
    }  # fmt: skip


@pytest.mark.parametrize(("said", "found"), [(HONEST, CHEATING), (CHEATING, HONEST)])
async def test_a_committee_that_found_the_contrary_is_found(
    monkeypatch: pytest.MonkeyPatch, said: float, found: float
) -> None:
    checks = await again(monkeypatch, Worker(found), told(distance=said, challenge=True))
    assert {check.status for check in checks} == {"FAIL"}


async def test_an_answer_that_nobody_scored_is_judged_here(monkeypatch: pytest.MonkeyPatch) -> None:
    document = told(audit_ppm=0)
    assert [check.status for check in await again(monkeypatch, Worker(HONEST), document)] == ["PASS"]
    [check] = await again(monkeypatch, Worker(CHEATING), document)
    assert check.status == "FAIL"
    assert "nobody had scored it" in check.what


async def test_a_claim_is_scored_again(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker()
    [check] = await again(monkeypatch, worker, told(tag="suspicion", claim=SEEDED))
    assert check.status == "PASS"
    assert (worker.items[0]["seed"], "answer" in worker.items[0]) == ("5" * 64, False)


async def test_what_neither_can_decide_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    [check] = await again(monkeypatch, Worker(), told(calibrated=False))
    assert (check.status, "inconclusive" in check.what) == ("PASS", True)
    [check] = await again(monkeypatch, Worker(), told(calibrated=False, audit_ppm=0))
    assert check.status == "SKIP"


@pytest.mark.parametrize(
    "worker",
    [
        Worker(sha256="0" * 64),
        Worker(subject="0" * 64),
        Worker(positions=1),
        Worker(level="seeded", distances=None),
        Worker(winners="no"),
    ],
)
async def test_a_worker_that_cannot_be_used_skips(monkeypatch: pytest.MonkeyPatch, worker: Worker) -> None:
    [check] = await again(monkeypatch, worker, told())
    assert check.status == "SKIP"


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(503, json={"message": "busy"}),
        httpx.Response(200, text="x"),
        httpx.Response(200, json={}),
    ],
)
async def test_a_worker_that_does_not_answer_skips(
    monkeypatch: pytest.MonkeyPatch, answer: httpx.Response
) -> None:
    use(monkeypatch, lambda _: answer)
    [check] = await check_scores_again("http://worker", told())
    assert check.status == "SKIP"


async def test_a_sealed_answer_is_for_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker()
    [check] = await again(monkeypatch, worker, told(sealed=True))
    assert (check.status, worker.items) == ("SKIP", [])


async def test_scores_that_do_not_hold_are_not_compared_with(monkeypatch: pytest.MonkeyPatch) -> None:
    document = told()
    document["rounds"][0]["scores"][0] = document["rounds"][0]["scores"][0].replace('"3', '"4', 1)
    worker = Worker()
    [check] = await again(monkeypatch, worker, document)
    assert check.status == "FAIL"
    document["rounds"][0]["results"] = []
    [check] = await again(monkeypatch, worker, document)
    assert check.status == "SKIP"
