"""Where the images of an answer are from the moment that they are made until the dispatcher has accepted the answer.

They are where the task is, so that whoever takes the task up after a crash, on whichever machine, has them. They go when it is closed.
"""

from collections.abc import Mapping
from typing import Final, Protocol

from sqlalchemy import ColumnElement, delete, exists, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from aos_operator.postgres_errors import translated
from aos_operator.tables import BlobRow, TaskRow
from aos_operator.tasks import TaskKey, TaskState

CHUNK_BYTES: Final = 1 << 20
"""How many bytes of an image one row has: a row is written and read in one piece."""


class BlobStore(Protocol):
    """Keeps images by task and digest. Every method raises `StoreUnavailable` when it cannot."""

    async def keep(self, key: TaskKey, blobs: Mapping[str, bytes]) -> None:
        """Keep images of a task, by digest, before its outcome names them; all of them, or none."""
        ...

    async def load(self, key: TaskKey, sha256: str) -> bytes | None:
        """Return an image of a task; None when it is not kept (any more)."""
        ...

    async def sweep(self) -> None:
        """Forget the images of tasks that are not open."""
        ...


class PostgresBlobs:
    """`BlobStore` on PostgreSQL, for one operator address."""

    def __init__(self, engine: AsyncEngine, operator: str) -> None:
        self._engine = engine
        self._operator = operator

    async def keep(self, key: TaskKey, blobs: Mapping[str, bytes]) -> None:
        """See `BlobStore.keep`."""
        named = {"operator": self._operator, "job_id": key.job_id, "tag": key.tag}
        rows = [
            named | {"sha256": sha256, "start": start, "data": data[start : start + CHUNK_BYTES]}
            for sha256, data in blobs.items()
            for start in range(0, len(data), CHUNK_BYTES)
        ]
        same = delete(BlobRow).where(*self._of(key), BlobRow.sha256.in_(blobs))
        async with translated(), self._engine.begin() as connection:
            await connection.execute(same)
            for row in rows:  # one by one: together they would be one message of many megabytes
                await connection.execute(insert(BlobRow), row)

    async def load(self, key: TaskKey, sha256: str) -> bytes | None:
        """See `BlobStore.load`."""
        chunks = select(BlobRow.data).where(*self._of(key), BlobRow.sha256 == sha256)
        async with translated(), self._engine.connect() as connection:
            found = (await connection.execute(chunks.order_by(BlobRow.start))).scalars().all()
        return b"".join(found) if found else None

    async def sweep(self) -> None:
        """See `BlobStore.sweep`."""
        open_task = exists().where(
            TaskRow.operator == BlobRow.operator,
            TaskRow.job_id == BlobRow.job_id,
            TaskRow.tag == BlobRow.tag,
            TaskRow.state == TaskState.OPEN,
        )
        async with translated(), self._engine.begin() as connection:
            await connection.execute(delete(BlobRow).where(BlobRow.operator == self._operator, ~open_task))

    def _of(self, key: TaskKey) -> tuple[ColumnElement[bool], ...]:
        return BlobRow.operator == self._operator, BlobRow.job_id == key.job_id, BlobRow.tag == key.tag
