"""Limits of submissions: exact over two dispatchers on one PostgreSQL, counted once for a repeated submission, and cheap."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import pytest
import pytest_asyncio
from prometheus_client import REGISTRY
from sqlalchemy import event, func, select, text
from typer.testing import CliRunner

from aos_dispatcher import limits
from aos_dispatcher.limits import count_waiting, set_quota
from aos_dispatcher.main import app
from aos_dispatcher.projects import create_project
from aos_dispatcher.quotas import Quota
from aos_dispatcher.tables import Job, Round

Network: TypeAlias = Any  # of conftest.py, which is no module to import
HOURLY = 1 / 3600
"""A rate that brings nothing back while a test runs."""
TOMORROW = int(time.time()) // 86_400 + 1
"""As PostgreSQL's clock counts days: what is used of it is used today, too, whenever today ends."""


@pytest_asyncio.fixture
async def pair(network: Network) -> AsyncIterator[tuple[Network, Network]]:
    """Two dispatchers of one identity over one PostgreSQL."""
    other = type(network)(network.settings.database.url.get_secret_value())
    other.signer, other.token = network.signer, network.token
    await other.start()
    yield network, other
    await other.stop()


async def limit(network: Network, **changes: float) -> None:
    """Set limits of the project, for this and any dispatcher from its next submission on; midnight brings nothing back."""
    await set_quota(network.dispatcher.database, "shop", changes)
    async with network.dispatcher.database.begin() as connection:
        await connection.execute(
            text("update project_limits set day = greatest(day, :day)"), {"day": TOMORROW}
        )


def forget(*networks: Network) -> None:
    """Have dispatchers read anew which projects have limits, as they do once a second."""
    for network in networks:
        network.dispatcher.jobs._limits._read_at = None


async def storm(networks: tuple[Network, ...], count: int, **headers: str) -> list[httpx.Response]:
    """Submit to each in turn, all at the same time."""
    return await asyncio.gather(
        *(
            networks[n % len(networks)].post(
                "/api/job/submit", networks[n % len(networks)].body(user=f"user {n}"), headers=headers
            )
            for n in range(count)
        )
    )


async def stored(network: Network) -> list[int]:
    """The numbers of the jobs that are stored."""
    async with network.dispatcher.database.connect() as connection:
        return list((await connection.execute(select(Job.sequence).order_by(Job.sequence))).scalars())


def statuses(answers: list[httpx.Response]) -> Counter[int]:
    return Counter(answer.status_code for answer in answers)


@pytest.mark.parametrize(
    ("quota", "named"),
    [({"rate": HOURLY, "burst": 7}, "rate"), ({"daily": 7}, "daily"), ({"waiting": 7}, "waiting")],
)
async def test_two_dispatchers_let_in_exactly_what_is_allowed(
    pair: tuple[Network, Network], quota: dict[str, float], named: str
) -> None:
    await limit(pair[0], **quota)
    refused = REGISTRY.get_sample_value("aos_submissions_refused_total", {"limit": named}) or 0
    answers = await storm(pair, 24)
    assert statuses(answers) == {200: 7, 429: 17}
    assert await stored(pair[0]) == list(range(1, 8))
    accepted = [answer.json()["receipt"]["sequence"] for answer in answers if answer.status_code == 200]
    assert sorted(accepted) == list(range(1, 8))
    for answer in answers:
        if answer.status_code == 429:
            assert (answer.json()["code"], answer.json()["limit"]) == (429, named)
            assert int(answer.headers["retry-after"]) >= 1
    assert REGISTRY.get_sample_value("aos_submissions_refused_total", {"limit": named}) == refused + 17


async def test_the_whole_dispatchers_queue_is_full_for_everybody(pair: tuple[Network, Network]) -> None:
    for network in pair:
        network.dispatcher.jobs._limits._most_waiting = 9
    other = await create_project(pair[0].dispatcher.database, "other", private=False)
    assert statuses(await storm(pair, 20)) == {200: 9, 429: 11}
    refused = await pair[1].post("/api/job/submit", pair[1].body(**{"from": "other"}, verify=other))
    assert refused.json()["limit"] == "dispatcher"
    assert refused.json()["position"] == 9
    assert "this dispatcher has 9 jobs waiting, and at most 9 may wait" in refused.json()["message"]


async def test_a_full_queue_has_room_again_when_a_job_leaves_it(pair: tuple[Network, Network]) -> None:
    await limit(pair[0], waiting=2)
    answers = await storm(pair, 4)
    assert statuses(answers) == {200: 2, 429: 2}
    full = next(answer for answer in answers if answer.status_code == 429)
    assert full.json()["position"] == 2
    bearer = {"Authorization": f"Bearer {pair[0].token}"}
    job_id = next(answer.json()["result"] for answer in answers if answer.status_code == 200)
    cancelled = await pair[0].post("/api/job/cancel", {"job_id": job_id}, headers=bearer)
    assert cancelled.status_code == 200
    assert statuses(await storm(pair, 4)) == {200: 1, 429: 3}


async def test_a_job_that_has_a_committee_waits_no_more(network: Network) -> None:
    operator = await network.operator()
    await limit(network, waiting=1)
    for _ in range(3):
        await network.finished(await network.submit())
    operator.answer = None
    job_id = await network.submit()
    await operator.wait(lambda: any(call.job_id == job_id for call in operator.dispatched))
    async with network.dispatcher.database.connect() as connection:
        assert await count_waiting(connection, "shop") == 0


async def test_a_repeated_submission_counts_once(pair: tuple[Network, Network]) -> None:
    await limit(pair[0], rate=HOURLY, burst=2, daily=2, waiting=2)
    body, key = pair[0].body(), {"Idempotency-Key": "order-1"}
    posts = [pair[n % 2].post("/api/job/submit", body, headers=key) for n in range(10)]
    answers = await asyncio.gather(*posts)
    assert statuses(answers) == {200: 10}
    assert len({answer.json()["result"] for answer in answers}) == 1
    told = [a.headers["x-ratelimit-remaining"] for a in answers if "x-ratelimit-remaining" in a.headers]
    assert told == ["1"]
    assert statuses(await storm(pair, 3)) == {200: 1, 429: 2}
    # Also when nothing is left, what was accepted is said again.
    assert (await pair[1].post("/api/job/submit", body, headers=key)).json() == answers[0].json()


async def test_a_refused_key_is_not_used_up(network: Network) -> None:
    await limit(network, waiting=1)
    await network.submit()
    key = {"Idempotency-Key": "order-2"}
    two = [network.post("/api/job/submit", network.body(user="u"), headers=key) for _ in range(2)]
    assert statuses(list(await asyncio.gather(*two))) == {429: 2}
    await limit(network, waiting=0)
    assert (await network.post("/api/job/submit", network.body(user="v"), headers=key)).status_code == 200


async def test_what_an_answer_says_about_the_rate(network: Network) -> None:
    answer = await network.post("/api/job/submit", network.body())
    assert "x-ratelimit-limit" not in answer.headers
    forget(network)
    await limit(network, rate=HOURLY, burst=2)
    said = []
    for _ in range(3):
        answer = await network.post("/api/job/submit", network.body())
        names = ("limit", "remaining", "reset")
        said.append([int(answer.headers[f"x-ratelimit-{name}"]) for name in names])
    assert [(size, left) for size, left, _ in said] == [(2, 1), (2, 0), (2, 0)]
    assert 3540 <= said[0][2] <= 3600 < 7140 <= said[1][2] <= 7200
    assert 3540 <= int(answer.headers["retry-after"]) <= 3600
    message = "project 'shop' submits faster than 0.000277778 jobs a second, 2 at once"
    assert answer.json() == {"code": 429, "message": message, "limit": "rate"}


async def test_limits_are_of_one_project_and_change_at_once(network: Network) -> None:
    shop = network.token
    other = await network.project("other")
    network.token = shop
    await limit(network, daily=1)
    assert statuses(await storm((network,), 3)) == {200: 1, 429: 2}
    free = network.body(**{"from": "other"}, verify=other)
    assert [(await network.post("/api/job/submit", free)).status_code for _ in range(3)] == [200] * 3
    await limit(network, daily=3)
    assert statuses(await storm((network,), 4)) == {200: 2, 429: 2}
    await limit(network, daily=0)
    assert statuses(await storm((network,), 4)) == {200: 4}


async def test_without_limits_a_submission_asks_nothing_more_of_the_database(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But which projects have limits, once a second: that second lasts for long here."""
    monkeypatch.setattr(limits, "_READ_EVERY_S", 3600.0)
    await network.submit()
    asked: list[str] = []
    engine = network.dispatcher.database._engine.sync_engine
    event.listen(engine, "before_cursor_execute", lambda *said: asked.append(said[2]))
    for _ in range(5):
        await network.submit()
    assert [statement for statement in asked if "insert into jobs" in statement.lower()]
    assert [s for s in asked if "project_limits" in s or "count(" in s] == []


async def test_waiting_jobs_are_counted_when_they_might_be_too_many_only(
    pair: tuple[Network, Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another dispatcher has taken in is known without counting."""
    counted: list[str | None] = []

    async def count(connection: Any, project: str | None) -> int:
        counted.append(project)
        return await count_waiting(connection, project)

    monkeypatch.setattr(limits, "count_waiting", count)
    await limit(pair[0], waiting=10)
    for n in range(10):
        await pair[n % 2].submit()
    assert Counter(counted) == {None: 2, "shop": 2}
    for n, network in enumerate(pair, start=3):
        assert (await network.post("/api/job/submit", network.body())).status_code == 429
        assert Counter(counted) == {None: 2, "shop": n}


async def test_counting_reads_an_index_of_what_waits(network: Network) -> None:
    """However many rounds have ended: they are in none of those that fit."""
    query = select(func.count()).where(Round.status == "created", Round.project_id == "shop")
    statement = str(query.compile(compile_kwargs={"literal_binds": True}))
    async with network.dispatcher.database.begin() as connection:
        await connection.execute(text("set local enable_seqscan = off"))
        plan = (await connection.execute(text(f"explain (format json) {statement}"))).scalar_one()
    assert '"Index Name": "waiting_' in json.dumps(plan)


async def test_a_failed_transaction_counts_nothing(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    await limit(network, rate=HOURLY, burst=3, daily=3, waiting=3)
    placing = network.dispatcher.jobs._place

    async def fail(*said: Any) -> Any:
        await placing(*said)
        raise TimeoutError

    monkeypatch.setattr(network.dispatcher.jobs, "_place", fail)
    assert statuses(await storm((network,), 3)) == {503: 3}
    assert await stored(network) == []
    monkeypatch.undo()
    assert statuses(await storm((network,), 5)) == {200: 3, 429: 2}


async def test_the_command_line(network: Network, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        f"database:\n  url: {network.settings.database.url.get_secret_value()}\nidentity: {{}}\n"
    )

    def project_limit(*arguments: str) -> str:
        ran = CliRunner().invoke(app, ["project", "limit", *arguments, "-c", str(config)])
        return ran.output.strip()

    lines = [
        ((), "no limits"),
        (("--rate", "2.5", "--burst", "10"), "2.5 jobs a second, 10 at once"),
        (("--daily", "1000", "--waiting", "50"), "2.5 jobs a second, 10 at once; 1000 a day; 50 waiting"),
        (("--rate", "0"), "1000 a day; 50 waiting"),
        ((), "1000 a day; 50 waiting"),
    ]
    for arguments, line in lines:
        assert await asyncio.to_thread(project_limit, "shop", *arguments) == line
    said = await asyncio.to_thread(project_limit, "nobody", "--daily", "1")
    assert said.startswith("dispatcher: there is no project 'nobody'")
    assert (await set_quota(network.dispatcher.database, "shop", {})) == Quota(None, 10, 1000, 50)
