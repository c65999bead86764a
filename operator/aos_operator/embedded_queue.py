"""The operator's queue in an SQLite file (`embedded`): what is in it stays until it is done.

What is there when a process starts, an earlier one may have read: it is taken over. What comes later is read in order.
"""

import asyncio
import json
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from aos_operator.embedded import Embedded, translated
from aos_operator.errors import QueueUnavailable
from aos_operator.queue import Entry
from aos_operator.tasks import Method, Request, read_request, request_text

_PAGE = 100


class SqliteQueue:
    """`Queue` on an open file."""

    def __init__(self, file: Embedded) -> None:
        self._file = file
        self._read_up_to: int | None = None
        self._added = asyncio.Event()

    async def open(self) -> None:
        """See `Queue.open`."""
        if self._read_up_to is None:
            async with translated(QueueUnavailable):
                self._read_up_to = await self._file.read(_last)

    async def add(self, request: Request) -> None:
        """See `Queue.add`."""
        row = str(Method.of(request)), request_text(request)
        async with translated(QueueUnavailable):
            await self._file.write(
                lambda connection: connection.execute(
                    "insert into queue (method, request) values (?, ?)", row
                )
            )
        self._added.set()

    async def take_over(self) -> Sequence[Entry]:
        """See `Queue.take_over`."""
        async with translated(QueueUnavailable):
            return await self._file.read(
                lambda connection: _entries(connection, "id <= ?", self._read_up_to or 0, limit=-1)
            )

    async def read(self, block_s: float) -> Sequence[Entry]:
        """See `Queue.read`."""
        self._added.clear()  # before looking: what is added while we look is seen by the next look
        entries = await self._next()
        if entries or not block_s:
            return entries
        with suppress(TimeoutError):
            async with asyncio.timeout(block_s):
                await self._added.wait()
        return await self._next()

    async def done(self, entry_id: str) -> None:
        """See `Queue.done`."""
        async with translated(QueueUnavailable):
            await self._file.write(
                lambda connection: connection.execute("delete from queue where id = ?", (int(entry_id),))
            )

    async def _next(self) -> list[Entry]:
        async with translated(QueueUnavailable):
            entries = await self._file.read(
                lambda connection: _entries(connection, "id > ?", self._read_up_to or 0, limit=_PAGE)
            )
        if entries:
            self._read_up_to = int(entries[-1].id)
        return entries


def _last(connection: sqlite3.Connection) -> int:
    last: int
    [last] = connection.execute("select coalesce(max(id), 0) from queue").fetchone()
    return last


def _entries(connection: sqlite3.Connection, which: str, bound: int, *, limit: int) -> list[Entry]:
    query = f"select id, method, request from queue where {which} order by id limit ?"  # noqa: S608
    return [_entry(row) for row in connection.execute(query, (bound, limit))]


def _entry(row: tuple[Any, ...]) -> Entry:
    entry_id, method, text = row
    try:
        return Entry(str(entry_id), read_request(method, json.loads(text)))
    except ValueError:
        return Entry(str(entry_id), None)
