"""Tasks that are written together: each gets what it would get alone, for fewer statements."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Literal

import pytest
import pytest_asyncio
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from aos_operator.errors import Refused, StoreUnavailable
from aos_operator.store import PostgresStore
from aos_operator.tasks import Outcome, TaskKey, TaskState
from aos_service.database import create_engine, database_url
from unit.operator.world import OPERATOR, World

WORLD = World()
OUTCOMES = [Outcome("an answer", "", {"rule": 1}, f"{number:064x}") for number in range(100)]


@pytest_asyncio.fixture
async def engine(new_database: Callable[[Literal["operator"]], Awaitable[str]]) -> AsyncIterator[AsyncEngine]:
    url = database_url(await new_database("operator"))
    engine = create_engine(url, pool_min=1, pool_max=4, connect_timeout=20, acquire_timeout=20)
    yield engine
    await engine.dispose()


@pytest.fixture
def store(engine: AsyncEngine) -> PostgresStore:
    return PostgresStore(engine, OPERATOR.address)


@pytest.fixture
def statements(engine: AsyncEngine) -> list[str]:
    """What is sent to the server, from now on."""
    sent: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        sent.append(statement)

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    return sent


async def test_a_hundred_tasks_take_a_handful_of_statements(
    store: PostgresStore, statements: list[str]
) -> None:
    jobs = [WORLD.job(f"prompt {number}") for number in range(100)]
    tasks = await asyncio.gather(*map(store.take, jobs))
    assert [task.request for task in tasks] == jobs
    kept = await asyncio.gather(*map(store.finish, jobs, OUTCOMES))
    assert [*kept] == OUTCOMES
    await asyncio.gather(*(store.close(TaskKey.of(job), TaskState.ACCEPTED, "success") for job in jobs))
    assert len(statements) <= 3 * 4  # in groups of 32
    for job, outcome in zip(jobs, OUTCOMES, strict=True):
        task = await store.load(TaskKey.of(job))
        assert task is not None
        assert (task.request, task.state, task.outcome) == (job, TaskState.ACCEPTED, outcome)


async def test_known_and_new_tasks_may_come_together(store: PostgresStore) -> None:
    known, closed, stranger, new = (WORLD.job(clock={"1": "1"}) for _ in range(4))
    for job in (known, closed, stranger):
        await store.take(job)
    await store.close(TaskKey.of(closed), TaskState.ACCEPTED, "success")
    again = known.model_copy(update={"clock": {"1": "5"}})
    other = stranger.model_copy(update={"user": "somebody else"})
    taken = await asyncio.gather(*map(store.take, (again, closed, other, new)), return_exceptions=True)
    assert isinstance(taken[2], Refused)
    tasks: list[Any] = [taken[0], taken[1], taken[3]]
    assert [task.state for task in tasks] == [TaskState.OPEN, TaskState.ACCEPTED, TaskState.OPEN]
    assert tasks[0].request.clock == {"1": "5"}


async def test_two_outcomes_of_one_task_at_once_leave_one(store: PostgresStore) -> None:
    job = WORLD.job()
    await store.take(job)
    kept = await asyncio.gather(*(store.finish(job, outcome) for outcome in OUTCOMES[:8]))
    assert [*kept] == [OUTCOMES[0]] * 8


async def test_a_lost_task_comes_back_beside_others_that_are_there(store: PostgresStore) -> None:
    there, lost = WORLD.job(), WORLD.job()
    await store.take(there)
    kept = await asyncio.gather(store.finish(there, OUTCOMES[0]), store.finish(lost, OUTCOMES[1]))
    assert [*kept] == OUTCOMES[:2]
    tasks = {task.key: task.outcome for task in await store.open_tasks(None, 10)}
    assert tasks == {TaskKey.of(there): OUTCOMES[0], TaskKey.of(lost): OUTCOMES[1]}


async def test_the_first_of_two_ends_counts(store: PostgresStore) -> None:
    job, other = WORLD.job(), WORLD.job()
    for request in (job, other):
        await store.take(request)
    ends = [TaskState.ACCEPTED, TaskState.CANCELLED]
    await asyncio.gather(
        *(store.close(TaskKey.of(job), state, state) for state in ends),
        *(store.close(TaskKey.of(other), state, state) for state in reversed(ends)),
    )
    assert (await store.take(job)).state is TaskState.ACCEPTED
    assert (await store.take(other)).state is TaskState.OPEN  # cancelled, it opens again


async def test_a_server_that_is_away_says_so_to_everybody_at_once() -> None:
    url = database_url("postgres://nobody@127.0.0.1:1/none")
    engine = create_engine(url, pool_min=1, pool_max=1, connect_timeout=20, acquire_timeout=20)
    store = PostgresStore(engine, OPERATOR.address)
    outcomes = await asyncio.gather(
        *(store.take(WORLD.job()) for _ in range(100)),
        *(store.close(TaskKey.of(WORLD.job()), TaskState.ACCEPTED, "") for _ in range(100)),
        return_exceptions=True,
    )
    assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)
    assert len({id(outcome) for outcome in outcomes}) == 2  # one attempt for all that wait for the same
