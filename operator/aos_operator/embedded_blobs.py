"""The images of open tasks in an SQLite file (`embedded`)."""

import sqlite3
from collections.abc import Mapping
from typing import Final

from aos_operator.embedded import Embedded, translated
from aos_operator.errors import StoreUnavailable
from aos_operator.tasks import TaskKey

_OF: Final = "job_id = ? and tag = ?"


class SqliteBlobs:
    """`BlobStore` on an open file. An image is one row: SQLite reads and writes large ones piece by piece by itself."""

    def __init__(self, file: Embedded) -> None:
        self._file = file

    async def keep(self, key: TaskKey, blobs: Mapping[str, bytes]) -> None:
        """See `BlobStore.keep`."""
        rows = [(key.job_id, key.tag, sha256, data) for sha256, data in blobs.items()]

        def change(connection: sqlite3.Connection) -> None:
            connection.executemany("insert or replace into blobs values (?, ?, ?, ?)", rows)

        async with translated(StoreUnavailable):
            await self._file.write(change)

    async def load(self, key: TaskKey, sha256: str) -> bytes | None:
        """See `BlobStore.load`."""

        def query(connection: sqlite3.Connection) -> bytes | None:
            select = f"select data from blobs where {_OF} and sha256 = ?"  # noqa: S608 - a constant
            row = connection.execute(select, (key.job_id, key.tag, sha256)).fetchone()
            return None if row is None else bytes(row[0])

        async with translated(StoreUnavailable):
            return await self._file.read(query)

    async def sweep(self) -> None:
        """See `BlobStore.sweep`."""

        def change(connection: sqlite3.Connection) -> None:
            connection.execute(
                "delete from blobs where not exists "
                "(select 1 from tasks where tasks.job_id = blobs.job_id and tasks.tag = blobs.tag and tasks.state = 'open')"
            )

        async with translated(StoreUnavailable):
            await self._file.write(change)
