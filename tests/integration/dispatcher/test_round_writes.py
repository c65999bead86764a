"""A batch of changes is one statement: who is left out of it, what fails alone, in which order rows are locked and events logged."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import text

from aos_dispatcher.database import Database
from aos_dispatcher.errors import LeaseLost
from aos_dispatcher.round_writes import Change, write
from aos_dispatcher.tables import JsonObject
from aos_service.database import create_engine, database_url

ME = "me"
ROUNDS = 6
OPERATORS = ("0xa", "0xb")
_JOBS = (
    "insert into jobs (id, sequence, project_id, user_id, request, request_digest, receipt, seed, seed_proof, status, clock, deadline) "
    "select 'job ' || n, n, 'p', 'u', '{}', '', '', '', '', 'created', '{}', now() from generate_series(1, :rounds) n"
)
_ROUNDS = (
    "insert into rounds (id, job_id, tag, position, job_type, model, model_sha256, status, deadline, lease_owner, fencing_token) "
    "select n, 'job ' || n, '', '', 'opml', 'tiny', '', 'created', now(), :me, 7 from generate_series(1, :rounds) n"
)


@pytest_asyncio.fixture
async def database(new_database: Any) -> AsyncIterator[Database]:
    url = database_url(await new_database("dispatcher"))
    engine = create_engine(url, pool_min=4, pool_max=8, connect_timeout=20, acquire_timeout=20)
    database = Database(engine)
    async with database.begin() as connection:
        await connection.execute(text("insert into projects (id, private) values ('p', false)"))
        await connection.execute(text(_JOBS), {"rounds": ROUNDS})
        await connection.execute(text(_ROUNDS), {"rounds": ROUNDS, "me": ME})
        for number, address in enumerate(OPERATORS, 2):
            row = {"address": address, "number": number}
            await connection.execute(
                text("insert into operators (address, number) values (:address, :number)"), row
            )
    yield database
    await engine.dispose()


def change(number: int, **written: Any) -> Change:
    """A change of the round of this number, under the lease that it has."""
    return Change(number, 7, f"job {number}", **written)


def answer(number: int, operator: str = "0xa", counter: int = 1) -> Change:
    """What an answer brings."""
    row: JsonObject = {
        "id": f"{operator}_{number}",
        "job_id": f"job {number}",
        "round_id": number,
        "operator": operator,
    }
    row |= {"frame": "{}", "attestation": None, "tokens": 3}
    said = {
        "results": [row],
        "answered": [operator],
        "heard": [(operator, counter)],
        "entries": [f"answer {number}"],
    }
    return change(number, **said)


def seat(number: int, operator: str = "0xa", state: str = "assigned") -> JsonObject:
    """A row of a committee."""
    row = {"round_id": number, "operator": operator, "rank": 0, "role": "verifier", "filled": False}
    return row | {"state": state, "reason": ""}


async def rows(database: Database, statement: str) -> Sequence[Any]:
    async with database.connect() as connection:
        return (await connection.execute(text(statement))).all()


async def entries(database: Database) -> list[str]:
    return [row.entry for row in await rows(database, "select entry from log_pending order by id")]


async def test_a_batch_writes_all_that_its_changes_bring(database: Database) -> None:
    drawn = {
        "own": True,
        "registry_digest": None,
        "registry_chain": None,
        "draw_clock": {"1": "1"},
        "size": 1,
    }
    drawn |= {"dispatch_clock": {"1": "2"}, "electorate": [{"frame": "a \x00"}], "calibration": None}
    batch = [
        change(1, drawn=drawn, seats=[seat(1), seat(1, "0xb")], entries=["tickets 1", "more of 1"]),
        change(2, session={"key": "k"}),
        answer(3, counter=9),
        answer(4, counter=8),
    ]
    assert await write(database, batch, owner=ME) == [None] * 4
    [first, second, *_] = await rows(database, "select * from rounds order by id")
    assert (first.status, first.electorate, first.registry_chain) == ("dispatched", drawn["electorate"], None)
    assert (second.status, second.session) == ("created", {"key": "k"})
    [job, other] = await rows(database, "select status, clock from jobs where sequence < 3 order by sequence")
    assert (tuple(job), other.status) == (("dispatched", {"1": "2"}), "created")
    assert [
        row.operator for row in await rows(database, "select operator from assignments order by operator")
    ] == list(OPERATORS)
    assert [row.clock for row in await rows(database, "select clock from operators order by number")] == [
        9,
        0,
    ]
    assert await entries(database) == ["tickets 1", "more of 1", "answer 3", "answer 4"]


async def test_whoever_lost_a_lease_is_left_out_and_nobody_else(database: Database) -> None:
    async with database.begin() as connection:
        await connection.execute(text("update rounds set lease_owner = 'you' where id = 1"))
        await connection.execute(text("update rounds set fencing_token = 8 where id = 2"))
        await connection.execute(text("update rounds set status = 'cancelled' where id = 3"))
    batch = [answer(number, counter=number) for number in (3, 4, 2, 1)]
    outcomes = await write(database, batch, owner=ME)
    assert [type(outcome) for outcome in outcomes] == [LeaseLost, type(None), LeaseLost, LeaseLost]
    assert [row.id for row in await rows(database, "select id from results")] == ["0xa_4"]
    assert [row.clock for row in await rows(database, "select clock from operators order by number")] == [
        4,
        0,
    ]
    assert await entries(database) == ["answer 4"]


async def test_what_cannot_be_written_fails_alone(database: Database) -> None:
    assert await write(database, [answer(2)], owner=ME) == [None]
    first, again, last = await write(database, [answer(1), answer(2), answer(3)], owner=ME)
    assert (first, last) == (None, None)
    assert isinstance(again, Exception)
    assert "results_pkey" in str(again)
    assert await entries(database) == ["answer 2", "answer 1", "answer 3"]


async def test_two_changes_of_a_round_are_written_one_after_the_other(database: Database) -> None:
    """In one statement the second would not see the row that the first brings."""
    batch = [
        change(1, seats=[seat(1)]),
        answer(2),
        answer(1),
        change(1, ended=_end("completed"), entries=["end 1"]),
    ]
    assert await write(database, batch, owner=ME) == [None] * 4
    assert [row.state for row in await rows(database, "select state from assignments")] == ["answered"]
    assert await entries(database) == ["answer 2", "answer 1", "end 1"]
    [job] = await rows(database, "select status, reason, verdict, final_at from jobs where sequence = 1")
    assert tuple(job) == ("completed", "why", None, None)


def _end(status: str) -> JsonObject:
    return {
        "own": True,
        "status": status,
        "reason": "why",
        "clock": {"1": "5"},
        "finished_at": None,
        "final_at": None,
    }


async def test_events_are_logged_when_every_row_is_locked(database: Database) -> None:
    """Else what happened later, to a row that was waited for, would stand before it in the log."""
    async with database.begin() as connection:
        await connection.execute(text("select 1 from rounds where id = 2 for update"))
        writing = asyncio.create_task(write(database, [answer(1), answer(2)], owner=ME))
        await _waits_for_a_lock(database)
        await connection.execute(text("insert into log_pending (entry) values ('before')"))
    assert await writing == [None, None]
    assert await entries(database) == ["before", "answer 1", "answer 2"]


@pytest.mark.parametrize("table", ["jobs", "operators"])
async def test_jobs_are_locked_before_rounds_and_rounds_before_operators(
    database: Database, table: str
) -> None:
    """While it waits for a job it has no round yet; while it waits for an operator it has them all."""
    key = "id = 'job 1'" if table == "jobs" else "address = '0xa'"
    ending = change(1, ended=_end("failed"), heard=[("0xa", 5)])
    async with database.begin() as connection:
        await connection.execute(text(f"select 1 from {table} where {key} for update"))
        writing = asyncio.create_task(write(database, [ending], owner=ME))
        await _waits_for_a_lock(database)
        async with database.begin() as other:
            free = await other.execute(text("select 1 from rounds where id = 1 for update skip locked"))
            assert (free.scalar() == 1) == (table == "jobs")
    assert await writing == [None]


async def test_batches_over_the_same_rows_do_not_wait_for_each_other_in_a_circle(database: Database) -> None:
    """Two processes, one lease each; the operators that both heard, in opposite orders, are locked in one."""
    async with database.begin() as connection:
        await connection.execute(text("update rounds set lease_owner = 'you' where id > 3"))

    async def batch(owner: str, numbers: Sequence[int], operators: Sequence[str], counter: int) -> list[Any]:
        changes = [change(number, heard=[(who, counter)]) for number in numbers for who in operators]
        return await write(database, changes, owner=owner)

    for counter in range(1, 20):
        mine = batch(ME, (1, 2, 3), OPERATORS, counter)
        yours = batch("you", (6, 5, 4), OPERATORS[::-1], counter)
        assert await asyncio.gather(mine, yours) == [[None] * 6] * 2
    assert [row.clock for row in await rows(database, "select clock from operators")] == [19, 19]


async def _waits_for_a_lock(database: Database) -> None:
    waiting = "select count(*) as waiting from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    async with asyncio.timeout(20):
        while (await rows(database, waiting))[0].waiting == 0:
            await asyncio.sleep(0.01)
