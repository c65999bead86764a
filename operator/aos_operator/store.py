"""The operator's memory in PostgreSQL: its clock counter, and its tasks until what came of them is accepted."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol, TypeAlias

from sqlalchemy import ColumnElement, RowMapping, TextClause, and_, func, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from aos_operator.blob_store import BlobStore, PostgresBlobs
from aos_operator.counter import CounterStore
from aos_operator.errors import StoreUnavailable
from aos_operator.postgres_errors import translated
from aos_operator.registration_postgres import PostgresInstances
from aos_operator.tables import ClockRow, TaskRow
from aos_operator.tasks import (
    Product,
    Request,
    Task,
    TaskKey,
    TaskState,
    read_outcome,
    read_request,
    request_text,
)
from aos_service.coalesce import Coalescer


class Store(CounterStore, Protocol):
    """What an operator remembers. Every method raises `StoreUnavailable` when it cannot."""

    @property
    def blobs(self) -> BlobStore:
        """The images that its open tasks have to bring to the dispatcher."""
        ...

    async def take(self, request: Request) -> Task:
        """Keep a request as an open task, or merge it into the task that it repeats (`Task.retaken`)."""
        ...

    async def load(self, key: TaskKey) -> Task | None:
        """Return a task as it stands; None when it is not known."""
        ...

    async def open_tasks(self, after: TaskKey | None, limit: int) -> Sequence[Task]:
        """Return up to `limit` open tasks, ordered by key, that come after `after`."""
        ...

    async def finish(self, request: Request, outcome: Product) -> Product:
        """Keep the outcome of a task, which may be new here; return the one that was kept first."""
        ...

    async def close(self, key: TaskKey, state: TaskState, verdict: str) -> None:
        """Close an open task with what the dispatcher said about it; a closed one stays as it is."""
        ...


_KEY = (TaskRow.job_id, TaskRow.tag, TaskRow.challenge, TaskRow.method)
"""The columns of a `TaskKey`, in its order."""

_BATCH: Final = 32
"""How many tasks one statement writes at most: each may bring a frame of 4 MiB."""

_TAKE = text(
    """
    insert into tasks (operator, job_id, tag, challenge, method, state, request)
    select :operator, job_id, tag, challenge, method, 'open', cast(request as json)
    from unnest(cast(:job_ids as text[]), cast(:tags as text[]), cast(:challenges as bigint[]), cast(:methods as text[]),
                cast(:requests as text[])) as one(job_id, tag, challenge, method, request)
    on conflict do nothing
    returning job_id, tag, challenge, method
    """
)
_FINISH = text(
    """
    update tasks task set outcome = cast(one.outcome as json), finished_at = now()
    from unnest(cast(:job_ids as text[]), cast(:tags as text[]), cast(:challenges as bigint[]), cast(:methods as text[]),
                cast(:outcomes as text[])) as one(job_id, tag, challenge, method, outcome)
    where task.operator = :operator and task.job_id = one.job_id and task.tag = one.tag
      and task.challenge = one.challenge and task.method = one.method and task.outcome is null
    returning task.job_id, task.tag, task.challenge, task.method
    """
)
_CLOSE = text(
    """
    update tasks task set state = one.state, verdict = one.verdict, closed_at = now()
    from unnest(cast(:job_ids as text[]), cast(:tags as text[]), cast(:challenges as bigint[]), cast(:methods as text[]),
                cast(:states as text[]), cast(:verdicts as text[]))
         as one(job_id, tag, challenge, method, state, verdict)
    where task.operator = :operator and task.job_id = one.job_id and task.tag = one.tag
      and task.challenge = one.challenge and task.method = one.method and task.state = 'open'
    returning task.job_id, task.tag, task.challenge, task.method
    """
)

_Row: TypeAlias = tuple[TaskKey, tuple[str, ...]]
"""A task's key, and what a statement writes of the task."""


class PostgresStore:
    """`Store` on PostgreSQL, for one operator address.

    Nearly everything is one statement, which commits by itself. What every task goes through (`take`, `finish`, `close`) is
    written for many tasks together: while one statement is on its way, the tasks that come meanwhile wait for the next.
    """

    def __init__(self, engine: AsyncEngine, operator: str) -> None:
        self._engine = engine
        self._committing = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._operator = operator
        self.blobs = PostgresBlobs(engine, operator)
        self.instances = PostgresInstances(engine, operator)
        self._taking = Coalescer(self._take_all, _BATCH, hopeless=StoreUnavailable)
        self._finishing = Coalescer(self._finish_all, _BATCH, hopeless=StoreUnavailable)
        self._closing = Coalescer(self._close_all, _BATCH, hopeless=StoreUnavailable)

    async def reserve(self, count: int) -> int:
        """See `CounterStore.reserve`."""
        row = insert(ClockRow).values(operator=self._operator, reserved=count)
        raised = row.on_conflict_do_update(
            index_elements=[ClockRow.operator], set_={"reserved": ClockRow.reserved + count}
        ).returning(ClockRow.reserved)
        async with self._statement() as connection:
            return (await connection.execute(raised)).scalar_one()

    async def lift(self, floor: int) -> None:
        """See `CounterStore.lift`."""
        row = insert(ClockRow).values(operator=self._operator, reserved=floor)
        lifted = row.on_conflict_do_update(
            index_elements=[ClockRow.operator], set_={"reserved": func.greatest(ClockRow.reserved, floor)}
        )
        async with self._statement() as connection:
            await connection.execute(lifted)

    async def take(self, request: Request) -> Task:
        """See `Store.take`."""
        if await self._taking.submit(request):
            return Task(request)
        return await self._take_again(request, TaskKey.of(request))

    async def _take_all(self, requests: Sequence[Request]) -> list[bool | Exception]:
        """Which of these requests are tasks that were not known."""
        rows = [(TaskKey.of(request), (request_text(request),)) for request in requests]
        return await self._write(_TAKE, rows, "requests")

    async def _take_again(self, request: Request, key: TaskKey) -> Task:
        async with translated(), self._engine.begin() as connection:
            known = await self._select(connection, key, lock=True)
            if known is None:
                raise StoreUnavailable("the task was deleted while it was taken; it is taken again")
            again = known.retaken(request)
            if again != known:
                change = {"request": again.request.to_json(), "state": again.state, "closed_at": None}
                await connection.execute(update(TaskRow).where(self._is(key)).values(change))
            return again

    async def load(self, key: TaskKey) -> Task | None:
        """See `Store.load`."""
        async with self._statement() as connection:
            return await self._select(connection, key, lock=False)

    async def open_tasks(self, after: TaskKey | None, limit: int) -> Sequence[Task]:
        """See `Store.open_tasks`."""
        query = select(TaskRow.__table__).where(
            TaskRow.operator == self._operator, TaskRow.state == TaskState.OPEN
        )
        if after is not None:
            query = query.where(tuple_(*_KEY) > tuple_(*after))
        async with self._statement() as connection:
            rows = await connection.execute(query.order_by(*_KEY).limit(limit))
            return [_task(row) for row in rows.mappings()]

    async def finish(self, request: Request, outcome: Product) -> Product:
        """See `Store.finish`."""
        if await self._finishing.submit((TaskKey.of(request), outcome)):
            return outcome
        return await self._finish_again(request, outcome)

    async def _finish_all(self, finished: Sequence[tuple[TaskKey, Product]]) -> list[bool | Exception]:
        """Which of these tasks are known, and had no outcome before."""
        rows = [(key, (json.dumps(outcome.to_json()),)) for key, outcome in finished]
        return await self._write(_FINISH, rows, "outcomes")

    async def _finish_again(self, request: Request, outcome: Product) -> Product:
        """Bring a lost task back with its outcome, or find the one that was kept first."""
        row = insert(TaskRow).values(
            **self._names(TaskKey.of(request)),
            state=TaskState.OPEN,
            request=request.to_json(),
            outcome=outcome.to_json(),
            finished_at=func.now(),
        )
        first = {
            name: func.coalesce(getattr(TaskRow, name), row.excluded[name])
            for name in ("outcome", "finished_at")
        }
        kept = row.on_conflict_do_update(index_elements=[TaskRow.operator, *_KEY], set_=first).returning(
            TaskRow.__table__
        )
        async with self._statement() as connection:
            stored = _task((await connection.execute(kept)).mappings().one())
        return stored.outcome or outcome

    async def close(self, key: TaskKey, state: TaskState, verdict: str) -> None:
        """See `Store.close`."""
        await self._closing.submit((key, (state, verdict)))

    async def _close_all(self, ended: Sequence[_Row]) -> list[bool | Exception]:
        """Which of these tasks were open."""
        return await self._write(_CLOSE, ended, "states", "verdicts")

    async def _write(
        self, statement: TextClause, rows: Sequence[_Row], *columns: str
    ) -> list[bool | Exception]:
        """Write the first row that came for each task; which of all rows the statement has written."""
        first: dict[TaskKey, tuple[str, ...]] = {}
        for key, values in rows:
            first.setdefault(key, values)
        names = ("job_ids", "tags", "challenges", "methods", *columns)
        cells = zip(*((*key, *values) for key, values in first.items()), strict=True)
        parameters = {name: list(column) for name, column in zip(names, cells, strict=True)}
        async with self._statement() as connection:
            returned = await connection.execute(statement, {"operator": self._operator, **parameters})
            written = {tuple(row) for row in returned}
        done: list[bool | Exception] = []
        for key, _ in rows:
            done.append(key in written)
            written.discard(key)
        return done

    @asynccontextmanager
    async def _statement(self) -> AsyncIterator[AsyncConnection]:
        async with translated(), self._committing.connect() as connection:
            yield connection

    async def _select(self, connection: AsyncConnection, key: TaskKey, *, lock: bool) -> Task | None:
        query = select(TaskRow.__table__).where(self._is(key))
        rows = await connection.execute(query.with_for_update() if lock else query)
        row = rows.mappings().first()
        return None if row is None else _task(row)

    def _names(self, key: TaskKey) -> dict[str, Any]:
        return {"operator": self._operator, **key._asdict()}

    def _is(self, key: TaskKey) -> ColumnElement[bool]:
        of_key = (column == part for column, part in zip(_KEY, key, strict=True))
        return and_(TaskRow.operator == self._operator, *of_key)


def _task(row: RowMapping) -> Task:
    outcome = row["outcome"]
    return Task(
        read_request(row["method"], row["request"]),
        TaskState(row["state"]),
        None if outcome is None else read_outcome(row["method"], outcome),
    )
