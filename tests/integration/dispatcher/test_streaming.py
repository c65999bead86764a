"""Streams from the executor to whoever follows the job: real dispatcher, real PostgreSQL, operators that say what a test wants."""

import asyncio
from typing import Any

from sqlalchemy import text
from structlog.testing import capture_logs

from aos_dispatcher.following import Answered, Broken, News, Piece, Queued
from aos_protocol.frames import Frame
from aos_protocol.identity import Signer
from integration.dispatcher.conftest import Network
from support.operators import ScriptedOperator

ANSWER = "one two three"


def streamed_body(network: Network, **job: Any) -> dict[str, Any]:
    body = network.body()
    return body | {"job": body["job"] | {"stream": True} | job}


def told(operator: ScriptedOperator, *deltas: dict[str, Any], of: ScriptedOperator | None = None) -> Frame:
    """A `job_stream` frame for the operator's last dispatch, or that `of` another one."""
    last = (of or operator).dispatched[-1]
    named = {"job_id": last.job_id, "tag": last.tag}
    return operator.request("job_stream", {"deltas": [named | delta for delta in deltas]})


class Reader:
    """Follows a job in the background and keeps what it was given; `some` is set with everything that comes."""

    def __init__(self, network: Network, job_id: str) -> None:
        self.news: list[News] = []
        self.some = asyncio.Event()
        self._following = network.dispatcher.following
        self.job_id = job_id
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async with self._following.follow(self.job_id) as news:
            async for one in news:
                self.news.append(one)
                self.some.set()

    @property
    def text(self) -> str:
        return "".join(one.text for one in self.news if isinstance(one, Piece))

    @property
    def end(self) -> News:
        return self.news[-1]

    async def has(self, said: str) -> None:
        """Wait until so much was given out, and nothing else."""
        async with asyncio.timeout(45):
            while self.text != said:
                self.some.clear()
                await self.some.wait()

    async def ended(self) -> News:
        await asyncio.wait_for(self.task, 45)
        return self.end


async def begin(
    network: Network, *operators: ScriptedOperator, **job: Any
) -> tuple[Reader, ScriptedOperator]:
    """Submit a streamed job whose executor waits, and follow it; the reader, and the executor once it has the job."""
    for operator in operators:
        operator.answer = None
    answer = await network.client.post("/api/job/submit", json=streamed_body(network, **job))
    assert answer.status_code == 200, answer.text
    reader = Reader(network, answer.json()["result"])
    async with asyncio.timeout(45):
        while not (asked := [one for one in operators if _has(one, reader.job_id)]):
            await asyncio.sleep(0.01)
    return reader, asked[0]


def _has(operator: ScriptedOperator, job_id: str) -> bool:
    return any(dispatch.job_id == job_id for dispatch in operator.dispatched)


async def answer(operator: ScriptedOperator, said: str = ANSWER) -> None:
    operator.answer = said
    await operator.send_result(operator.dispatched[-1])


async def test_text_comes_as_it_is_told_and_all_of_it_is_the_answer(network: Network) -> None:
    reader, operator = await begin(network, await network.operator())
    await operator.send(told(operator, {"position": 2}).text)
    await asyncio.wait_for(reader.some.wait(), 45)
    await operator.send(told(operator, {"start": 0, "text": "one"}).text)
    await reader.has("one")
    await operator.send(told(operator, {"start": 3, "text": " two"}).text)
    await reader.has("one two")
    await answer(operator)
    end = await reader.ended()
    assert isinstance(end, Answered)
    assert reader.text == end.result.result == ANSWER
    assert reader.news[0] == Queued(2)
    assert (await network.finished(reader.job_id))["status"] == "completed"
    assert [check for check in await network.checks(reader.job_id) if check.status == "FAIL"] == []


async def test_a_job_that_does_not_stream_is_one_piece(network: Network) -> None:
    await network.operator()
    reader = Reader(network, await network.submit())
    end = await reader.ended()
    assert reader.news == [Piece("a sensible answer"), end]
    assert isinstance(end, Answered)


async def test_only_the_executor_is_heard_and_only_of_its_own_jobs(network: Network) -> None:
    operators = [await network.operator(), await network.operator()]
    reader, operator = await begin(network, *operators)
    [other] = [one for one in operators if one is not operator]
    other.dispatched = operator.dispatched
    await other.send(told(other, {"start": 0, "text": "I say"}).text)
    last = operator.dispatched[-1]
    for foreign in ({"job_id": "ab" * 32, "tag": ""}, {"job_id": last.job_id, "tag": "malicious"}):
        await operator.send(operator.request("job_stream", {"deltas": [foreign | {"text": "x"}]}).text)
    await operator.send(told(operator, {"start": 4, "text": "gap"}, {"start": 0, "text": "one"}).text)
    await reader.has("one")
    await answer(operator)
    assert isinstance(await reader.ended(), Answered)
    assert reader.text == ANSWER


async def test_what_is_no_stream_is_refused_without_a_reply_and_not_kept(network: Network) -> None:
    """A notice that is refused counts against its connection like any other frame; but there is nobody to answer to."""
    reader, operator = await begin(network, await network.operator())
    forged = told(ScriptedOperator(Signer.generate(), network.ws), {"text": "x"}, of=operator)
    wrong = [
        operator.request("job_stream", said) for said in ({"deltas": []}, {"deltas": [{}]}, {"clock": {}})
    ]
    with capture_logs() as logs:
        for frame in (*wrong, forged):
            await operator.send(frame.text)
        await operator.send(told(operator, {"start": 0, "text": "one"}).text)
        await reader.has("one")
    refused = [entry["why"] for entry in logs if entry["event"] == "frame refused"]
    assert len(refused) == 4
    assert "belongs to" in refused[-1]
    assert operator.replies == []
    await answer(operator)
    assert isinstance(await reader.ended(), Answered)
    async with network.dispatcher.database.connect() as connection:
        assert (await connection.execute(text("select count(*) from rejections"))).scalar() == 0


async def test_a_stream_that_does_not_belong_to_a_streamed_job_is_not_passed_on(network: Network) -> None:
    operator = await network.operator()
    operator.answer = None
    reader = Reader(network, await network.submit())
    await operator.wait(lambda: bool(operator.dispatched))
    await operator.send(told(operator, {"start": 0, "text": "unasked"}).text)
    await answer(operator, "asked")
    end = await reader.ended()
    assert reader.news == [Piece("asked"), end]


async def test_the_next_executor_is_followed_when_nothing_was_given_out(network: Network) -> None:
    operators = [await network.operator(), await network.operator()]
    reader, lost = await begin(network, *operators)
    [next_] = [one for one in operators if one is not lost]
    next_.answer = ANSWER
    await lost.close()
    assert isinstance(await reader.ended(), Answered)
    assert reader.text == ANSWER
    detail = await network.finished(reader.job_id)
    assert (detail["status"], detail["reason"]) == ("completed", "")


async def test_an_executor_that_is_lost_in_mid_stream_ends_the_job_and_the_log_says_so(
    network: Network,
) -> None:
    operators = [await network.operator(), await network.operator()]
    reader, lost = await begin(network, *operators)
    [next_] = [one for one in operators if one is not lost]
    await lost.send(told(lost, {"start": 0, "text": "one"}).text)
    await reader.has("one")
    await lost.close()
    end = await reader.ended()
    assert isinstance(end, Broken)
    assert end.status == 502
    assert "the operator that streamed the answer was given up" in end.reason
    detail = await network.finished(reader.job_id)
    assert (detail["status"], detail["reason"]) == ("failed", end.reason)
    assert [check for check in await network.checks(reader.job_id) if check.status == "FAIL"] == []
    if next_.dispatched:
        await next_.wait(lambda: bool(next_.cancelled))


async def test_an_operator_that_gives_up_in_mid_stream_ends_the_job(network: Network) -> None:
    reader, operator = await begin(network, await network.operator())
    await operator.send(told(operator, {"start": 0, "text": "one"}).text)
    await reader.has("one")
    operator.reason = "the worker has no memory left"
    await answer(operator, "")
    end = await reader.ended()
    assert isinstance(end, Broken)
    assert "no memory left" in end.reason
    assert (await network.finished(reader.job_id))["status"] == "failed"


async def test_an_answer_that_is_not_what_was_streamed_is_refused_for_good(network: Network) -> None:
    reader, operator = await begin(network, await network.operator())
    await operator.send(told(operator, {"start": 0, "text": "one"}).text)
    await reader.has("one")
    await answer(operator, "two")
    await operator.wait(lambda: bool(operator.replies))
    assert operator.replies[-1]["code"] == 400
    assert "does not begin with what was streamed" in operator.replies[-1]["message"]
    end = await reader.ended()
    assert isinstance(end, Broken)
    assert (await network.finished(reader.job_id))["status"] == "failed"


async def test_a_job_that_is_run_again_with_another_answer_breaks_the_stream(network: Network) -> None:
    """As after a restart of its operator that found no outcome in its store."""
    reader, operator = await begin(network, await network.operator())
    await operator.send(told(operator, {"start": 0, "text": "one"}).text)
    await reader.has("one")
    await operator.send(told(operator, {"start": 0, "text": "another"}).text)
    end = await reader.ended()
    assert isinstance(end, Broken)
    assert "did the job again" in end.reason
    await operator.wait(lambda: bool(operator.cancelled))
    assert (await network.finished(reader.job_id))["status"] == "failed"


async def test_a_client_that_leaves_has_its_job_cancelled_and_the_operator_told(network: Network) -> None:
    reader, operator = await begin(network, await network.operator())
    await operator.send(told(operator, {"start": 0, "text": "one"}).text)
    await reader.has("one")
    following = network.dispatcher.following
    assert await following.abandon(reader.job_id, "its client has left", failed=False)
    await operator.wait(lambda: bool(operator.cancelled))
    end = await reader.ended()
    assert end == Broken("its client has left", 409)
    assert not await following.abandon(reader.job_id, "once more", failed=False)
    detail = await network.finished(reader.job_id)
    assert (detail["status"], detail["reason"]) == ("cancelled", "its client has left")
    assert [check for check in await network.checks(reader.job_id) if check.status == "FAIL"] == []


async def test_a_job_that_the_project_cancels_or_nobody_can_do_ends_for_its_followers(
    network: Network,
) -> None:
    reader, operator = await begin(network, await network.operator())
    token = {"Authorization": f"Bearer {network.token}"}
    await network.post("/api/job/cancel", {"job_id": reader.job_id}, headers=token)
    assert await reader.ended() == Broken("cancelled by the project", 409)
    failed, operator = await begin(network, operator)
    operator.reason = "the worker has no memory left"
    await answer(operator, "")
    end = await failed.ended()
    assert isinstance(end, Broken)
    assert (end.status, "no memory left" in end.reason) == (502, True)


async def test_whoever_comes_late_finds_the_answer_in_the_database(network: Network) -> None:
    await network.operator()
    job_id = await network.submit()
    await network.finished(job_id)
    reader = Reader(network, job_id)
    assert isinstance(await reader.ended(), Answered)
    assert reader.text == "a sensible answer"


async def test_an_answer_that_is_damaged_in_the_database_is_given_to_nobody(network: Network) -> None:
    await network.operator()
    job_id = await network.submit()
    await network.finished(job_id)
    async with network.dispatcher.database.begin() as connection:
        await connection.execute(text("update results set frame = replace(frame, 'sensible', 'sensitive')"))
    end = await Reader(network, job_id).ended()
    assert end == Broken("the stored answer is damaged", 500)


async def test_a_process_that_stops_breaks_the_streams_that_are_left(network: Network) -> None:
    reader, operator = await begin(network, await network.operator())
    await operator.send(told(operator, {"start": 0, "text": "one"}).text)
    await reader.has("one")
    network.dispatcher.following.close()
    end = await reader.ended()
    assert isinstance(end, Broken)
    assert (end.status, "being stopped" in end.reason) == (503, True)
    assert (await network.finished(reader.job_id))["status"] == "failed"
