"""The operator's store in an SQLite file (`embedded`)."""

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from aos_operator.embedded import Change, Embedded, R, translated
from aos_operator.embedded_blobs import SqliteBlobs
from aos_operator.embedded_instances import SqliteInstances
from aos_operator.errors import StoreUnavailable
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

_IS: Final = "job_id = ? and tag = ? and challenge = ? and method = ?"
_COLUMNS: Final = "method, request, state, outcome"


class SqliteStore:
    """`Store` on an open file."""

    def __init__(self, file: Embedded) -> None:
        self._file = file
        self.blobs = SqliteBlobs(file)
        self.instances = SqliteInstances(file)

    async def reserve(self, count: int) -> int:
        """See `CounterStore.reserve`."""
        return await self._write(
            lambda connection: _number(
                connection, "update clock set reserved = reserved + ? returning reserved", count
            )
        )

    async def lift(self, floor: int) -> None:
        """See `CounterStore.lift`."""
        await self._write(
            lambda connection: _number(
                connection, "update clock set reserved = max(reserved, ?) returning reserved", floor
            )
        )

    async def take(self, request: Request) -> Task:
        """See `Store.take`."""
        return await self._write(lambda connection: _take(connection, request))

    async def load(self, key: TaskKey) -> Task | None:
        """See `Store.load`."""
        async with translated(StoreUnavailable):
            return await self._file.read(lambda connection: _load(connection, key))

    async def open_tasks(self, after: TaskKey | None, limit: int) -> Sequence[Task]:
        """See `Store.open_tasks`."""
        async with translated(StoreUnavailable):
            return await self._file.read(lambda connection: _open_tasks(connection, after, limit))

    async def finish(self, request: Request, outcome: Product) -> Product:
        """See `Store.finish`."""
        return await self._write(lambda connection: _finish(connection, request, outcome))

    async def close(self, key: TaskKey, state: TaskState, verdict: str) -> None:
        """See `Store.close`."""
        change = f"update tasks set state = ?, verdict = ?, closed_at = current_timestamp where {_IS} and state = 'open'"  # noqa: S608
        await self._write(lambda connection: connection.execute(change, (state, verdict, *key)))

    async def _write(self, change: Change[R]) -> R:
        async with translated(StoreUnavailable):
            return await self._file.write(change)


def _number(connection: sqlite3.Connection, statement: str, given: int) -> int:
    number: int
    [(number,)] = connection.execute(statement, (given,)).fetchall()
    return number


def _take(connection: sqlite3.Connection, request: Request) -> Task:
    key = TaskKey.of(request)
    known = _load(connection, key)
    if known is None:
        _insert(connection, request, None)
        return Task(request)
    again = known.retaken(request)
    if again != known:
        connection.execute(
            f"update tasks set request = ?, state = ?, closed_at = null where {_IS}",  # noqa: S608
            (request_text(again.request), again.state, *key),
        )
    return again


def _finish(connection: sqlite3.Connection, request: Request, outcome: Product) -> Product:
    """Keep the outcome, of a lost task with the task; or find the one that was kept first."""
    key = TaskKey.of(request)
    known = _load(connection, key)
    text = json.dumps(outcome.to_json())
    if known is None:
        _insert(connection, request, text)
    elif known.outcome is None:
        connection.execute(
            f"update tasks set outcome = ?, finished_at = current_timestamp where {_IS}",  # noqa: S608
            (text, *key),
        )
    else:
        return known.outcome
    return outcome


def _insert(connection: sqlite3.Connection, request: Request, outcome: str | None) -> None:
    connection.execute(
        "insert into tasks (job_id, tag, challenge, method, state, request, outcome, finished_at) values "
        "(?, ?, ?, ?, 'open', ?, ?, iif(? is null, null, current_timestamp))",
        (*TaskKey.of(request), request_text(request), outcome, outcome),
    )


def _load(connection: sqlite3.Connection, key: TaskKey) -> Task | None:
    row = connection.execute(f"select {_COLUMNS} from tasks where {_IS}", key).fetchone()  # noqa: S608
    return None if row is None else _task(row)


def _open_tasks(connection: sqlite3.Connection, after: TaskKey | None, limit: int) -> list[Task]:
    query = f"select {_COLUMNS} from tasks where state = 'open'"  # noqa: S608
    if after is not None:
        query += " and (job_id, tag, challenge, method) > (?, ?, ?, ?)"
    query += " order by job_id, tag, challenge, method limit ?"
    return [_task(row) for row in connection.execute(query, (*(after or ()), limit))]


def _task(row: tuple[Any, ...]) -> Task:
    method, request, state, outcome = row
    return Task(
        read_request(method, json.loads(request)),
        TaskState(state),
        None if outcome is None else read_outcome(method, json.loads(outcome)),
    )
