"""What a store promises: the one on PostgreSQL, and the one in memory that stands in for it elsewhere."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Literal

import pytest
import pytest_asyncio
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy.ext.asyncio import AsyncEngine

from aos_operator.errors import Refused, StoreUnavailable
from aos_operator.memory import MemoryStore
from aos_operator.store import PostgresStore, Store
from aos_operator.tables import Base
from aos_operator.tasks import Outcome, TaskKey, TaskState
from aos_protocol.messages import ChatMessage, JobSpec, Params
from aos_service.database import create_engine, database_url
from unit.operator.world import MODEL, OPERATOR, World

WORLD = World()
ANSWER = Outcome('an answer with \0 and "quotes" and é', "", {"rule": 1, "output_tokens": [1, 2]}, "ab" * 32)


@pytest_asyncio.fixture
async def engine(new_database: Callable[[Literal["operator"]], Awaitable[str]]) -> AsyncIterator[AsyncEngine]:
    url = database_url(await new_database("operator"))
    engine = create_engine(url, pool_min=1, pool_max=4, connect_timeout=5, acquire_timeout=5)
    yield engine
    await engine.dispose()


@pytest.fixture(params=["postgres", "memory"])
def store(request: pytest.FixtureRequest) -> Store:
    if request.param == "memory":
        return MemoryStore()
    return PostgresStore(request.getfixturevalue("engine"), OPERATOR.address)


async def test_reserved_numbers_never_overlap(store: Store) -> None:
    assert [await store.reserve(10), await store.reserve(5)] == [10, 15]
    ends = await asyncio.gather(*(store.reserve(3) for _ in range(10)))
    assert sorted(ends) == list(range(18, 46, 3))


async def test_a_floor_lifts_and_never_lowers(store: Store) -> None:
    await store.lift(100)
    await store.lift(50)
    assert await store.reserve(1) == 101


async def test_a_task_comes_back_as_it_was_taken(store: Store) -> None:
    chat = JobSpec(
        tag="opml",
        messages=[ChatMessage(role="user", content="é\u2028💡")],
        model=MODEL.name,
        params=Params(temperature=1.0, top_p=0.1, stop=["\n\n"]),
    )
    for dispatch in (WORLD.job("What is AI?"), WORLD.job(job=chat)):
        task = await store.take(dispatch)
        assert task == await store.load(task.key)
        assert (task.request, task.state, task.outcome) == (dispatch, TaskState.OPEN, None)


async def test_what_was_never_taken_is_not_there(store: Store) -> None:
    assert await store.load(TaskKey("ab" * 32, "")) is None


async def test_the_same_job_under_another_tag_is_another_task(store: Store) -> None:
    dispatch = WORLD.job()
    tagged = dispatch.model_copy(update={"tag": "suspicion", "position": "before"})
    await store.take(dispatch)
    await store.take(tagged)
    assert len(await store.open_tasks(None, 10)) == 2


async def test_a_repetition_merges_the_clock_for_good(store: Store) -> None:
    dispatch = WORLD.job(clock={"1": "1", "5": "5"})
    await store.take(dispatch)
    again = await store.take(dispatch.model_copy(update={"clock": {"1": "9"}}))
    assert again.request.clock == {"1": "9", "5": "5"}
    assert await store.load(again.key) == again


async def test_another_content_is_refused_and_changes_nothing(store: Store) -> None:
    dispatch = WORLD.job()
    await store.take(dispatch)
    with pytest.raises(Refused, match="another content"):
        await store.take(dispatch.model_copy(update={"user": "somebody else"}))
    known = await store.load(TaskKey.of(dispatch))
    assert known is not None
    assert known.request == dispatch


async def test_dispatches_at_once_make_one_task(store: Store) -> None:
    dispatch = WORLD.job(clock={"1": "1"})
    clocks = [{"1": str(number)} for number in range(1, 9)]
    await asyncio.gather(*(store.take(dispatch.model_copy(update={"clock": clock})) for clock in clocks))
    [task] = await store.open_tasks(None, 10)
    assert task.request.clock == {"1": "8"}


async def test_the_first_outcome_stays(store: Store) -> None:
    dispatch = WORLD.job()
    await store.take(dispatch)
    assert await store.finish(dispatch, ANSWER) == ANSWER
    assert await store.finish(dispatch, Outcome.failed("later")) == ANSWER
    known = await store.load(TaskKey.of(dispatch))
    assert known is not None
    assert known.outcome == ANSWER


async def test_an_outcome_of_a_lost_task_brings_it_back(store: Store) -> None:
    dispatch = WORLD.job()
    assert await store.finish(dispatch, ANSWER) == ANSWER
    [task] = await store.open_tasks(None, 10)
    assert (task.request, task.outcome) == (dispatch, ANSWER)


@pytest.mark.parametrize("state", [TaskState.ACCEPTED, TaskState.REFUSED])
async def test_a_closed_task_is_open_no_more_and_stays_closed(store: Store, state: TaskState) -> None:
    dispatch = WORLD.job()
    await store.take(dispatch)
    await store.close(TaskKey.of(dispatch), state, "because")
    await store.close(TaskKey.of(dispatch), TaskState.CANCELLED, "too late")
    assert (await store.take(dispatch)).state is state
    assert await store.open_tasks(None, 10) == []


async def test_a_cancelled_task_can_be_taken_again(store: Store) -> None:
    dispatch = WORLD.job()
    await store.take(dispatch)
    await store.finish(dispatch, ANSWER)
    await store.close(TaskKey.of(dispatch), TaskState.CANCELLED, "cancelled")
    task = await store.take(dispatch)
    assert task.open
    assert task.outcome == ANSWER
    assert len(await store.open_tasks(None, 10)) == 1


async def test_open_tasks_come_in_pages_without_gaps(store: Store) -> None:
    jobs = [WORLD.job() for _ in range(7)]
    tagged = [job.model_copy(update={"tag": "suspicion", "position": "after"}) for job in jobs[:3]]
    for dispatch in jobs + tagged:
        await store.take(dispatch)
    seen: list[TaskKey] = []
    while page := await store.open_tasks(seen[-1] if seen else None, 3):
        assert len(page) <= 3
        seen += [task.key for task in page]
    assert seen == sorted(TaskKey.of(dispatch) for dispatch in jobs + tagged)


async def test_operators_that_share_a_database_do_not_meet(engine: AsyncEngine) -> None:
    one, two = PostgresStore(engine, OPERATOR.address), PostgresStore(engine, "0x" + "99" * 20)
    dispatch = WORLD.job()
    await one.take(dispatch)
    await one.reserve(100)
    assert await two.load(TaskKey.of(dispatch)) is None
    assert await two.open_tasks(None, 10) == []
    assert await two.reserve(1) == 1


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    url = database_url("postgres://nobody@127.0.0.1:1/none")
    engine = create_engine(url, pool_min=1, pool_max=1, connect_timeout=5, acquire_timeout=5)
    with pytest.raises(StoreUnavailable, match="check its service"):
        await PostgresStore(engine, OPERATOR.address).reserve(1)


async def test_migrations_and_tables_are_the_same(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        differences = await connection.run_sync(
            lambda sync: compare_metadata(
                MigrationContext.configure(sync, opts={"compare_server_default": True}), Base.metadata
            )
        )
    assert differences == []
