"""What a juror's worker finds: judged here, and only where it is a score of the challenged answer."""

from typing import Any

import pytest

from aos_cli import chain_jury
from aos_cli.chain_claims import Found, result_of
from aos_cli.chain_jury import challenged_result, rescore
from aos_cli.errors import CliError
from aos_cli.failures import BadAnswer, Unreachable
from aos_operator.errors import WorkerRefused, WorkerUnavailable
from support.evidence import CHAIN, CHEATING, HONEST, Story


class Worker:
    """Gives this answer, or raises it; remembers what it was asked."""

    def __init__(self, answer: dict[str, Any] | Exception) -> None:
        self.answer = answer
        self.asked: list[tuple[Any, Any]] = []
        self.closed = False

    async def score(self, job: Any, subject: Any) -> dict[str, Any]:
        self.asked.append((job, subject))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def close(self) -> None:
        self.closed = True


def told(**options: Any) -> tuple[Story, dict[str, Any], Found]:
    story = Story(chain=CHAIN, **options)
    round_ = story.own()
    document = story.document()
    return story, document, result_of(document, round_["committee"][0]["operator"])


def scored(story: Story, document: dict[str, Any], **changes: Any) -> dict[str, Any]:
    numbers = story._numbers(document["rounds"][0]["results"][0])[0]
    return {"scores": [numbers.to_json() | changes]}


@pytest.mark.parametrize(("distance", "outcome"), [(HONEST, "match"), (CHEATING, "mismatch")])
async def test_the_score_is_judged_by_the_evidence_s_calibration(
    monkeypatch: pytest.MonkeyPatch, distance: float, outcome: str
) -> None:
    story, document, found = told(distance=distance)
    worker = Worker(scored(story, document))
    monkeypatch.setattr(chain_jury, "HttpWorker", lambda _url, _timeout: worker)
    assert (await rescore(document, found, "http://worker", None)).outcome == outcome
    [(job, subject)] = worker.asked
    assert (job.prompt, subject.operator, subject.digest) == (
        story.request.job.prompt,
        found.result.operator,
        found.claim.transcript,
    )
    assert worker.closed


async def test_without_a_calibration_nothing_is_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    story, document, found = told(calibrated=False)
    monkeypatch.setattr(chain_jury, "HttpWorker", lambda _url, _timeout: Worker(scored(story, document)))
    assert (await rescore(document, found, "http://worker", None)).outcome == "inconclusive"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"subject": "0" * 64}, "scored 0000"),
        ({"model": "1" * 64}, "has model 1111.* use one that has it"),
        ({"level": "x"}, "no score of this answer"),
    ],
)
async def test_a_score_of_something_else_counts_for_nothing(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], said: str
) -> None:
    story, document, found = told()
    worker = Worker(scored(story, document, **changes))
    monkeypatch.setattr(chain_jury, "HttpWorker", lambda _url, _timeout: worker)
    with pytest.raises(BadAnswer, match=said):
        await rescore(document, found, "http://worker", None)
    assert worker.closed


@pytest.mark.parametrize("answer", [{}, {"scores": []}, {"scores": [{}, {}]}, {"scores": "x"}])
async def test_an_answer_that_is_no_score(monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any]) -> None:
    _, document, found = told()
    monkeypatch.setattr(chain_jury, "HttpWorker", lambda _url, _timeout: Worker(answer))
    with pytest.raises(BadAnswer, match="is no score of this answer"):
        await rescore(document, found, "http://worker", None)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (WorkerUnavailable("it is away"), Unreachable, "http://worker: it is away"),
        (WorkerRefused("too long"), CliError, "cannot score this answer: too long"),
    ],
)
async def test_a_worker_that_cannot(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[Exception], said: str
) -> None:
    _, document, found = told()
    monkeypatch.setattr(chain_jury, "HttpWorker", lambda _url, _timeout: Worker(error))
    with pytest.raises(kind, match=said):
        await rescore(document, found, "http://worker", None)


async def test_a_sealed_answer_is_nobody_s_to_score() -> None:
    _, document, found = told(sealed=True)
    with pytest.raises(CliError, match="a sealed answer cannot be scored by others"):
        await rescore(document, found, "http://worker", None)


def test_the_challenged_result_is_found_by_what_the_contract_keeps() -> None:
    _, document, found = told()
    assert challenged_result(document, found.judged()) == found
    with pytest.raises(CliError, match="does not hold the challenged result"):
        challenged_result(document, bytes(32))
