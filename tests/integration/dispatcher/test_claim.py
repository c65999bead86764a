"""Which rounds a process leases, and that those it cannot work on cost nothing, however many wait."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import text

from aos_dispatcher.database import Database
from aos_dispatcher.rounds_store import _CLAIM, RoundsStore
from aos_service.database import create_engine, database_url

SERVED = [("opml", "tiny"), ("tee", "large")]
WAITING = 3_000
LEASE_S = 600.0  # none runs out while a test runs


@pytest_asyncio.fixture
async def database(new_database: Any) -> AsyncIterator[Database]:
    url = database_url(await new_database("dispatcher"))
    engine = create_engine(url, pool_min=1, pool_max=2, connect_timeout=20, acquire_timeout=20)
    database = Database(engine)
    await run(database, "insert into projects (id, private) values ('p', false)")
    yield database
    await engine.dispose()


async def run(database: Database, statement: str, **values: object) -> None:
    async with database.begin() as connection:
        await connection.execute(text(statement), values)


async def add(
    database: Database,
    first: int,
    last: int | None = None,
    *,
    model: str = "tiny",
    job_type: str = "opml",
    **more: str,
) -> None:
    """Put jobs of these numbers, each with its round of the same number, into the tables; `more` are columns of the rounds, in SQL."""
    columns = {"status": "'created'", "deadline": "now() + interval '1 hour'"} | more
    numbers = {"first": first, "last": last or first}
    await run(
        database,
        "insert into jobs (id, sequence, project_id, user_id, request, request_digest, receipt, seed, seed_proof, status, clock, deadline) "
        "select 'job ' || n, n, 'p', 'u', '{}', '', '', '', '', 'created', '{}', now() from generate_series(cast(:first as int), cast(:last as int)) n",
        **numbers,
    )
    await run(
        database,
        f"insert into rounds (id, job_id, tag, position, job_type, model, model_sha256, {', '.join(columns)}) "
        f"select n, 'job ' || n, '', '', :job_type, :model, '', {', '.join(columns.values())} from generate_series(cast(:first as int), cast(:last as int)) n",
        model=model,
        job_type=job_type,
        **numbers,
    )


async def claimed(database: Database, count: int = 100, owner: str = "me") -> list[int]:
    """The numbers of the rounds that a process leases now."""
    return [one.row.id for one in await RoundsStore(database, owner, LEASE_S).claim(SERVED, count)]


async def test_the_oldest_rounds_of_what_is_served_are_leased(database: Database) -> None:
    await add(database, 1, 4)
    await add(database, 5, 6, model="away")
    await add(database, 7, model="large", job_type="tee")
    await add(database, 8, model="large")
    await add(database, 9, model="tiny")
    assert await claimed(database, 3) == [1, 2, 3]
    assert await claimed(database) == [4, 7, 9]
    assert await claimed(database) == []


async def test_what_is_late_is_leased_to_be_closed_whoever_serves_it(database: Database) -> None:
    await add(database, 1, model="away")
    await add(database, 2, model="away", deadline="now() - interval '1 second'")
    assert await claimed(database) == [2]


@pytest.mark.parametrize("status", ["created", "dispatched"])
async def test_a_round_whose_lease_ran_out_is_leased_again(database: Database, status: str) -> None:
    await add(
        database,
        1,
        status=f"'{status}'",
        lease_until="now() - interval '1 second'",
        electorate="'[]'",
        size="1",
    )
    await add(database, 2, status=f"'{status}'", lease_until="now() + interval '1 hour'")
    await add(database, 3, status=f"'{status}'", not_before="now() + interval '1 hour'")
    async with database.begin() as connection:
        picked = await connection.execute(_CLAIM, parameters("me"))
        assert list(picked.scalars()) == [1]


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
async def test_what_has_ended_is_not_leased(database: Database, status: str) -> None:
    await add(database, 1, status=f"'{status}'", deadline="now() - interval '1 second'")
    assert await claimed(database) == []


async def test_no_round_is_leased_to_two(database: Database) -> None:
    await add(database, 1, 6)
    async with database.begin() as connection:
        first = list((await connection.execute(_CLAIM, parameters("me", 3))).scalars())
        second = await claimed(database, owner="you")
    assert (sorted(first), second) == ([1, 2, 3], [4, 5, 6])


def parameters(owner: str, count: int = 100) -> dict[str, Any]:
    types, models = zip(*SERVED, strict=True)
    return {"types": list(types), "models": list(models), "count": count, "owner": owner, "lease": LEASE_S}


async def test_rounds_that_wait_for_others_are_not_even_looked_at(database: Database) -> None:
    """However many: each part of the query goes to the rows that it wants, and to no others."""
    await add(database, 1, WAITING, model="away")
    # Statistics know of no other model then, and make the primary key look like a short way to any.
    await run(database, "analyze")
    await add(database, WAITING + 1, WAITING + 2)
    async with database.begin() as connection:
        # A table so small would be read whole; one that is as large as it may become is not.
        await connection.execute(text("set local enable_seqscan = off"))
        explained = text("explain (analyze, format json) " + str(_CLAIM))
        [plan] = (await connection.execute(explained, parameters("me"))).scalar_one()
    nodes = list(_nodes(plan["Plan"]))
    assert "open_by_model" in {node.get("Index Name") for node in nodes}
    assert max(node.get("Rows Removed by Filter", 0) for node in nodes) == 0, json.dumps(plan, indent=1)


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", []):
        yield from _nodes(inner)
