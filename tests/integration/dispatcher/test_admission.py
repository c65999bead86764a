"""Operators at the door, many in one transaction: each is let in or refused for itself."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from aos_dispatcher.admission import Admitted, Arrival, admit
from aos_dispatcher.database import Database
from aos_dispatcher.errors import DispatcherError
from aos_dispatcher.operators import Operators, list_models, pin_model, register_operator
from aos_dispatcher.rounds_store import RoundsStore
from aos_protocol.messages import ServedModel
from aos_service.database import create_engine, database_url

TINY = ServedModel(name="tiny", sha256="a" * 64)
OTHER = ServedModel(name="tiny", sha256="b" * 64)
LARGE = ServedModel(name="large", sha256="c" * 64)


@pytest_asyncio.fixture
async def engine(new_database: Any) -> AsyncIterator[AsyncEngine]:
    url = database_url(await new_database("dispatcher"))
    engine = create_engine(url, pool_min=1, pool_max=4, connect_timeout=20, acquire_timeout=20)
    yield engine
    await engine.dispose()


@pytest.fixture
def database(engine: AsyncEngine) -> Database:
    return Database(engine)


def arrival(address: str, *models: ServedModel, number: int | None = None) -> Arrival:
    return Arrival.of(address, number, ["opml"], models)


async def outcomes(database: Database, *arrivals: Arrival) -> list[Admitted | str]:
    """What becomes of operators that come together."""
    async with database.begin() as connection:
        said = await admit(connection, arrivals)
    return [str(one) if isinstance(one, Exception) else one for one in said]


async def files(database: Database) -> dict[str, str]:
    async with database.connect() as connection:
        return {row["name"]: row["sha256"] for row in await list_models(connection)}


async def test_each_of_a_batch_is_let_in_or_refused_for_itself(database: Database) -> None:
    numbers = [await register_operator(database, address) for address in ("0xa", "0xb", "0xc")]
    said = await outcomes(
        database,
        arrival("0xa", TINY),
        arrival("0xz", TINY),
        arrival("0xb", OTHER, LARGE),
        arrival("0xc", TINY),
    )
    assert [said[0], said[3]] == [(numbers[0], 0), (numbers[2], 0)]
    assert str(said[1]).startswith("operator 0xz is not registered here")
    assert str(said[2]).startswith(f"model tiny has the digest {TINY.sha256} here, not {OTHER.sha256}")
    assert await files(database) == {"tiny": TINY.sha256}


async def test_what_a_refused_operator_brings_is_not_pinned(database: Database) -> None:
    await register_operator(database, "0xa")
    await pin_model(database, "opml", TINY)
    await outcomes(database, arrival("0xa", OTHER, LARGE), arrival("0xz", LARGE))
    assert await files(database) == {"tiny": TINY.sha256}


async def test_numbers_of_the_chain_are_kept_for_ever(database: Database) -> None:
    assert await outcomes(database, arrival("0xa", number=7), arrival("0xb", number=9)) == [(7, 0), (9, 0)]
    said = await outcomes(
        database, arrival("0xa", number=7), arrival("0xa", number=8), arrival("0xc", number=9)
    )
    assert said[0] == (7, 0)
    assert str(said[1]).startswith(
        "operator 0xa is number 8 in the registry, and this database has the numbers"
    )
    assert str(said[2]).startswith("operator 0xc is number 9 in the registry")


async def test_the_last_clock_seen_comes_with_the_number(database: Database) -> None:
    await register_operator(database, "0xa")
    async with database.begin() as connection:
        await connection.execute(text("update operators set clock = 41"))
    assert await outcomes(database, arrival("0xa"), arrival("0xa")) == [(2, 41), (2, 41)]


async def test_two_processes_that_announce_the_same_name_agree_on_one_file(database: Database) -> None:
    """The second waits for the first, and is refused by what the first has pinned."""
    for address in ("0xa", "0xb"):
        await register_operator(database, address)
    first = Operators(database)
    async with database.begin() as connection:
        assert await admit(connection, [arrival("0xa", TINY)]) == [(2, 0)]
        second = asyncio.create_task(first.admit("0xb", ["opml"], [OTHER, LARGE]))
        await _waits_for_a_lock(database)
    with pytest.raises(DispatcherError, match="model tiny has the digest a"):
        await second


async def test_a_crowd_takes_one_connection_from_the_others(database: Database) -> None:
    addresses = [f"0x{n}" for n in range(60)]
    for address in addresses:
        await register_operator(database, address)
    operators = Operators(database)
    begun = 0
    begin = database.begin

    def counted() -> Any:
        nonlocal begun
        begun += 1
        return begin()

    database.begin = counted  # type: ignore[method-assign]
    numbers = await asyncio.gather(*(operators.admit(address, ["opml"], [TINY]) for address in addresses))
    assert sorted(number for number, _ in numbers) == list(range(2, 62))
    assert begun == 1


async def test_leases_are_renewed_in_the_order_in_which_rounds_are_written(
    database: Database, engine: AsyncEngine
) -> None:
    """Else one who writes about two rounds and one who renews their leases may wait for each other for ever."""
    await _two_rounds(database)
    await engine.dispose()  # settings of the database are those of new connections
    store = RoundsStore(database, "me", 15)
    for change in (store.renew([2, 1]), store.release_all()):
        async with database.begin() as writing:
            await writing.execute(text("select id from rounds where id = 1 for no key update"))
            changing = asyncio.create_task(change)
            await _waits_for_a_lock(database)
            await writing.execute(text("select id from rounds where id = 2 for no key update nowait"))
        await changing


async def _two_rounds(database: Database) -> None:
    job = (
        "insert into jobs (id, sequence, project_id, user_id, request, request_digest, receipt, seed, seed_proof, status, clock, deadline) "
        "values ('j', 1, 'p', 'u', '{}', '', '', '', '', 'created', '{}', now())"
    )
    round_ = (
        "insert into rounds (job_id, tag, position, challenge, job_type, model, model_sha256, status, deadline, lease_owner) "
        "select 'j', '', '', n, 'opml', 'tiny', '', 'created', now(), 'me' from generate_series(0, 1) n"
    )
    async with database.begin() as connection:
        await connection.execute(text("insert into projects (id, private) values ('p', false)"))
        await connection.execute(text(job))
        await connection.execute(text(round_))
    async with database.begin() as connection:
        # The first row now stands behind the second, where a scan comes upon it last.
        await connection.execute(text("update rounds set reason = 'moved' where id = 1"))
        name = (await connection.execute(text("select current_database()"))).scalar_one()
        for access in ("indexscan", "indexonlyscan", "bitmapscan"):
            await connection.execute(text(f'alter database "{name}" set enable_{access} = off'))


async def _waits_for_a_lock(database: Database) -> None:
    """Return when some transaction of this database waits for another."""
    waiting = text(
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    )
    while True:
        async with database.connect() as connection:
            if (await connection.execute(waiting)).scalar_one():
                return
        await asyncio.sleep(0.01)
