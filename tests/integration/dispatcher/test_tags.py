"""Tags and positions on a real database: which rounds a user's jobs get, in which order, under concurrency."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text

from aos_dispatcher.jobs import Submission
from aos_protocol.canonical import digest
from aos_protocol.fields import parse_message
from aos_protocol.job import SubmitRequest

USER = "device 1"


async def rows(network: Any, query: str, **parameters: Any) -> list[Any]:
    async with network.dispatcher.database.begin() as connection:
        return list((await connection.execute(text(query), parameters)).all())


async def rounds_of(network: Any, job_id: str) -> list[tuple[Any, ...]]:
    """(tag, position, cause, purpose) of a job's rounds, in the order they were opened."""
    query = "select tag, position, cause, purpose from rounds where job_id = :job order by id"
    return [tuple(row) for row in await rows(network, query, job=job_id)]


async def remaining(network: Any, user: str = USER, project: str = "shop") -> int | None:
    query = "select remaining from user_tags where project_id = :project and user_id = :user"
    found = await rows(network, query, project=project, user=user)
    return found[0].remaining if found else None


@pytest.fixture
async def quiet(network: Any) -> Any:
    """A dispatcher that knows the model, audits nothing, and has nobody connected: rounds stay as they were opened."""
    operator = await network.operator()
    await operator.close()
    while len(network.dispatcher.hub):
        await asyncio.sleep(0.01)
    network.dispatcher.jobs._audit_ppm = 0
    return network


@pytest.fixture
async def twin(quiet: Any) -> AsyncIterator[Any]:
    """A second dispatcher of the same identity on the same database."""
    other = type(quiet)(quiet.settings.database.url.get_secret_value())
    other.signer = quiet.signer
    await other.start()
    other.dispatcher.jobs._audit_ppm = 0
    yield other
    await other.stop()


async def test_a_tagged_job_brings_rounds_to_what_preceded_it(quiet: Any) -> None:
    earlier = [await quiet.submit(user=USER) for _ in range(3)]
    other = await quiet.submit(user="device 2")
    tagged = await quiet.submit(user=USER, tag="suspicion")
    for job_id in earlier:
        assert await rounds_of(quiet, job_id) == [
            ("", "", None, "job"),
            ("suspicion", "before", tagged, "before"),
        ]
    assert await rounds_of(quiet, other) == [("", "", None, "job")]
    assert await rounds_of(quiet, tagged) == [("suspicion", "after", None, "job")]


async def test_at_most_ten_jobs_are_looked_at_again_the_newest_ones(quiet: Any) -> None:
    earlier = [await quiet.submit(user=USER) for _ in range(13)]
    await quiet.submit(user=USER, tag="malicious")
    assert [len(await rounds_of(quiet, job_id)) for job_id in earlier] == [1] * 3 + [2] * 10


async def test_the_newest_job_is_dispatched_again_first(quiet: Any) -> None:
    earlier = [await quiet.submit(user=USER) for _ in range(3)]
    await quiet.submit(user=USER, tag="suspicion")
    again = await rows(quiet, "select job_id from rounds where position = 'before' order by id")
    assert [row.job_id for row in again] == earlier[::-1]


async def test_a_user_stays_tagged_for_ten_jobs_and_is_then_clear(quiet: Any) -> None:
    tagged = await quiet.submit(user=USER, tag="malicious")
    after = [await quiet.submit(user=USER) for _ in range(11)]
    rounds = [await rounds_of(quiet, job_id) for job_id in after]
    assert rounds == [[("malicious", "after", tagged, "job")]] * 10 + [[("", "", None, "job")]]
    assert await remaining(quiet) is None


async def test_a_stronger_tag_takes_over_and_a_weaker_one_does_not(quiet: Any) -> None:
    suspected = await quiet.submit(user=USER, tag="suspicion")
    malicious = await quiet.submit(user=USER, tag="malicious")
    weaker = await quiet.submit(user=USER, tag="suspicion")
    assert await rounds_of(quiet, suspected) == [
        ("suspicion", "after", None, "job"),
        ("malicious", "before", malicious, "before"),
    ]
    assert await rounds_of(quiet, weaker) == [("malicious", "after", malicious, "job")]
    assert await remaining(quiet) == 9


async def test_tagging_again_opens_no_second_round_under_the_same_tag(quiet: Any) -> None:
    first = await quiet.submit(user=USER)
    await quiet.submit(user=USER, tag="suspicion")
    followed = await quiet.submit(user=USER)
    await quiet.submit(user=USER, tag="suspicion")
    assert [len(await rounds_of(quiet, job_id)) for job_id in (first, followed)] == [2, 1]
    assert await remaining(quiet) == 10


async def test_cancelled_jobs_are_not_dispatched_again(quiet: Any) -> None:
    cancelled, kept = await quiet.submit(user=USER), await quiet.submit(user=USER)
    headers = {"Authorization": f"Bearer {quiet.token}"}
    assert (await quiet.post("/api/job/cancel", {"job_id": cancelled}, headers=headers)).status_code == 200
    await quiet.submit(user=USER, tag="suspicion")
    assert [len(await rounds_of(quiet, job_id)) for job_id in (cancelled, kept)] == [1, 2]


async def test_nobody_tags_another_projects_users(quiet: Any) -> None:
    theirs = await quiet.submit(user=USER)
    await quiet.project("other")
    await quiet.submit(user=USER, tag="malicious", **{"from": "other"})
    assert await rounds_of(quiet, theirs) == [("", "", None, "job")]
    assert (await remaining(quiet), await remaining(quiet, project="other")) == (None, 10)


async def test_before_rounds_have_a_deadline_of_their_own(quiet: Any) -> None:
    early = await quiet.submit(user=USER)
    await rows(quiet, "update rounds set deadline = now() - interval '1 day' returning id")
    await quiet.submit(user=USER, tag="suspicion")
    query = "select deadline > now() as ahead from rounds where job_id = :job and position = 'before'"
    assert [row.ahead for row in await rows(quiet, query, job=early)] == [True]


async def test_jobs_of_one_batch_see_each_other(quiet: Any) -> None:
    """Group commit writes several jobs in one transaction; their order counts there as it does across transactions."""
    asked = ["", "suspicion", "", "malicious", "suspicion"]
    jobs = quiet.dispatcher.jobs
    receipts = await jobs._store([submission(quiet, tag) for tag in asked])
    first, suspected, followed, malicious, weaker = (accepted.receipt.job_id for accepted in receipts)
    again = ("malicious", "before", malicious, "before")
    assert await rounds_of(quiet, first) == [
        ("", "", None, "job"),
        ("suspicion", "before", suspected, "before"),
        again,
    ]
    assert await rounds_of(quiet, suspected) == [("suspicion", "after", None, "job"), again]
    assert await rounds_of(quiet, followed) == [("suspicion", "after", suspected, "job"), again]
    assert await rounds_of(quiet, malicious) == [("malicious", "after", None, "job")]
    assert await rounds_of(quiet, weaker) == [("malicious", "after", malicious, "job")]
    assert await remaining(quiet) == 9


def submission(network: Any, tag: str, key: str | None = None) -> Submission:
    body = {name: value for name, value in network.body(user=USER, tag=tag).items() if name != "verify"}
    return Submission(parse_message(SubmitRequest, body), body, digest(body), "ab" * 32, key)


async def test_a_repeated_submission_counts_once(quiet: Any) -> None:
    await quiet.submit(user=USER, tag="suspicion")
    headers = {"Idempotency-Key": "order 1"}
    for _ in range(3):
        answer = await quiet.post("/api/job/submit", quiet.body(user=USER), headers=headers)
        assert answer.status_code == 200
    assert await remaining(quiet) == 9


async def test_every_job_counts_exactly_once_under_concurrency(quiet: Any, twin: Any) -> None:
    """Two dispatchers on one database take in jobs of one user at the same time."""
    tagged = await quiet.submit(user=USER, tag="suspicion")
    bodies = [quiet.body(user=USER) for _ in range(24)]
    clients = [quiet.client, twin.client]
    answers = await asyncio.gather(
        *(clients[n % 2].post("/api/job/submit", json=b) for n, b in enumerate(bodies))
    )
    assert {answer.status_code for answer in answers} == {200}
    placed = await rows(
        quiet, "select tag, cause, sequence from rounds join jobs on jobs.id = job_id order by sequence"
    )
    assert Counter(row.tag for row in placed) == {"suspicion": 11, "": 14}
    assert [row.tag for row in placed] == ["suspicion"] * 11 + [""] * 14
    assert {row.cause for row in placed[1:11]} == {tagged}
    assert await remaining(quiet) is None


async def test_the_sequence_is_the_causal_order(quiet: Any, twin: Any) -> None:
    """Creation events of one counter, taken in the order of the sequence, whichever dispatcher took the job."""
    sending = [client.post("/api/job/submit", json=quiet.body(user=f"device {n}"))
               for n in range(30) for client in (quiet.client, twin.client)]  # fmt: skip
    await asyncio.gather(*sending)
    created = await rows(quiet, "select clock ->> '1' as tick from jobs order by sequence")
    ticks = [int(row.tick) for row in created]
    assert len(ticks) == 60
    assert ticks == sorted(set(ticks))


async def test_a_tag_outlives_its_dispatcher(quiet: Any) -> None:
    tagged = await quiet.submit(user=USER, tag="malicious")
    await quiet.stop()
    await quiet.start()
    quiet.dispatcher.jobs._audit_ppm = 0
    assert await rounds_of(quiet, await quiet.submit(user=USER)) == [("malicious", "after", tagged, "job")]


async def test_the_share_of_audited_jobs_is_chosen_by_the_seed(quiet: Any) -> None:
    quiet.dispatcher.jobs._audit_ppm = 1_000_000
    assert await rounds_of(quiet, await quiet.submit(user=USER)) == [("", "", None, "audit")]
    tagged = await quiet.submit(user=USER, tag="suspicion")
    assert await rounds_of(quiet, tagged) == [("suspicion", "after", None, "job")]
