"""What a store promises: the one on PostgreSQL, the one in an SQLite file, and the one in memory that stands in for them elsewhere."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Literal

import pytest
import pytest_asyncio
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

from aos_operator.backends.protocol import Execution
from aos_operator.embedded import Embedded, opened
from aos_operator.embedded_store import SqliteStore
from aos_operator.errors import Refused, StoreUnavailable
from aos_operator.memory import MemoryStore
from aos_operator.store import PostgresStore, Store
from aos_operator.tables import Base
from aos_operator.tasks import Outcome, Request, Scored, TaskKey, TaskState
from aos_protocol.job import ChatMessage, Claim, JobSpec, Params
from aos_service.database import create_engine, database_url, migrate
from aos_service.revisions import alembic_config
from support.enclave_workers import SimulatedEnclave
from unit.operator.private import private_job
from unit.operator.world import MODEL, OPERATOR, World

WORLD = World()
SCORE = Scored("ab" * 32, "0x" + "99" * 20, {"level": "greedy", "surprisals": [0.5, 1.0, 1e-6]})
ANSWER = Outcome('an answer with \0 and "quotes" and é', "", {"rule": 1, "output_tokens": [1, 2]}, "ab" * 32)


@pytest_asyncio.fixture
async def engine(new_database: Callable[[Literal["operator"]], Awaitable[str]]) -> AsyncIterator[AsyncEngine]:
    url = database_url(await new_database("operator"))
    engine = create_engine(url, pool_min=1, pool_max=4, connect_timeout=20, acquire_timeout=20)
    yield engine
    await engine.dispose()


@pytest_asyncio.fixture
async def file(tmp_path: Path) -> AsyncIterator[Embedded]:
    async with opened(tmp_path / "memory.sqlite", OPERATOR.address) as file:
        yield file


@pytest.fixture(params=["postgres", "sqlite", "memory"])
def store(request: pytest.FixtureRequest) -> Store:
    match request.param:
        case "memory":
            return MemoryStore()
        case "sqlite":
            return SqliteStore(request.getfixturevalue("file"))
        case _:
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


async def test_a_private_job_and_what_its_enclave_says_come_back_as_they_were(
    store: Store, enclave: SimulatedEnclave
) -> None:
    dispatch = private_job(WORLD, enclave)
    answer = await enclave.generate(
        dispatch.job, dispatch.seed, OPERATOR.address, Execution(dispatch.job_id, WORLD.domain)
    )
    outcome = Outcome(answer["sealed"], "", None, enclave=answer["enclave"])
    await store.take(dispatch)
    assert await store.finish(dispatch, outcome) == outcome
    task = await store.load(TaskKey.of(dispatch))
    assert task is not None
    assert (task.request, task.outcome) == (dispatch, outcome)


@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize("claim", [None, Claim(text="é\u2028💡")])
async def test_a_call_comes_back_as_it_was_taken(store: Store, number: int, claim: Claim | None) -> None:
    call = WORLD.call(WORLD.job(claim=claim), challenge=number)
    task = await store.take(call)
    assert task == await store.load(TaskKey.of(call))
    assert task.request == call


async def test_running_and_scoring_a_job_in_every_challenge_are_tasks_of_their_own(store: Store) -> None:
    job = WORLD.job(tag="suspicion", position="after")
    requests: list[Request] = [job, *(WORLD.call(job, challenge=number) for number in range(3))]
    for request in requests:
        await store.take(request)
    await store.finish(job, ANSWER)
    await store.finish(requests[2], SCORE)
    await store.close(TaskKey.of(requests[1]), TaskState.ACCEPTED, "success")
    open_ = {task.key: task.outcome for task in await store.open_tasks(None, 10)}
    assert open_ == {
        TaskKey.of(job): ANSWER,
        TaskKey.of(requests[2]): SCORE,
        TaskKey.of(requests[3]): None,
    }


async def test_the_first_score_stays(store: Store) -> None:
    call = WORLD.call()
    await store.take(call)
    assert await store.finish(call, SCORE) == SCORE
    assert await store.finish(call, SCORE.withdrawn("later")) == SCORE
    known = await store.load(TaskKey.of(call))
    assert known is not None
    assert known.outcome == SCORE


async def test_a_score_of_a_lost_task_brings_it_back(store: Store) -> None:
    call = WORLD.call(challenge=1)
    assert await store.finish(call, SCORE) == SCORE
    [task] = await store.open_tasks(None, 10)
    assert (task.request, task.outcome) == (call, SCORE)


async def test_a_call_with_another_subject_changes_nothing(store: Store) -> None:
    job = WORLD.job()
    call = WORLD.call(job)
    await store.take(call)
    with pytest.raises(Refused, match="another content"):
        await store.take(call.model_copy(update={"subject": WORLD.answer(job, result="another")}))
    known = await store.load(TaskKey.of(call))
    assert known is not None
    assert known.request == call


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
    calls = [WORLD.call(job, challenge=number) for job in jobs[:2] for number in (0, 2, 10)]
    requests: list[Request] = [*jobs, *tagged, *calls]
    for request in requests:
        await store.take(request)
    seen: list[TaskKey] = []
    while page := await store.open_tasks(seen[-1] if seen else None, 3):
        assert len(page) <= 3
        seen += [task.key for task in page]
    assert seen == sorted(map(TaskKey.of, requests))


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
    engine = create_engine(url, pool_min=1, pool_max=1, connect_timeout=20, acquire_timeout=20)
    with pytest.raises(StoreUnavailable, match="check its service"):
        await PostgresStore(engine, OPERATOR.address).reserve(1)


async def test_tasks_of_an_older_version_are_dispatches(
    new_database: Callable[[Literal["operator"] | None], Awaitable[str]],
) -> None:
    """An operator that is updated with open tasks works on them."""
    url = database_url(await new_database(None))
    await migrate(url, "operator", "operator_0001")
    engine = create_engine(url, pool_min=1, pool_max=1, connect_timeout=20, acquire_timeout=20)
    dispatch = WORLD.job()
    old = {
        "operator": OPERATOR.address,
        "job_id": dispatch.job_id,
        "dispatch": json.dumps(dispatch.to_json()),
    }
    columns = "operator, job_id, tag, state, dispatch, outcome"
    row = f"insert into tasks ({columns}) values (:operator, :job_id, '', 'open', :dispatch, :outcome)"
    async with engine.begin() as connection:
        await connection.execute(text(row), {**old, "outcome": json.dumps(ANSWER.to_json())})
    await migrate(url, "operator")
    store = PostgresStore(engine, OPERATOR.address)
    [task] = await store.open_tasks(None, 10)
    assert (task.key, task.request, task.outcome) == (TaskKey(dispatch.job_id, ""), dispatch, ANSWER)
    await store.take(WORLD.call(dispatch))
    assert len(await store.open_tasks(None, 10)) == 2
    await engine.dispose()


async def test_an_older_version_gets_its_dispatches_back(engine: AsyncEngine) -> None:
    dispatch, config = WORLD.job(), alembic_config("operator")
    store = PostgresStore(engine, OPERATOR.address)
    requests: list[Request] = [dispatch, WORLD.call(dispatch), WORLD.call(dispatch, challenge=1)]
    for request in requests:
        await store.take(request)

    def downgrade(connection: Connection) -> None:
        config.attributes["connection"] = connection
        command.downgrade(config, "operator_0001")

    async with engine.begin() as connection:
        await connection.run_sync(downgrade)
        rows = (await connection.execute(text("select job_id, dispatch from tasks"))).all()
    assert [tuple(row) for row in rows] == [(dispatch.job_id, dispatch.to_json())]


async def test_migrations_and_tables_are_the_same(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        differences = await connection.run_sync(
            lambda sync: compare_metadata(
                MigrationContext.configure(sync, opts={"compare_server_default": True}), Base.metadata
            )
        )
    assert differences == []
