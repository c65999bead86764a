"""The registered models of a node in an SQLite file (`embedded`)."""

from collections.abc import Sequence

from aos_operator.embedded import Embedded, translated
from aos_operator.errors import StoreUnavailable
from aos_operator.registration_store import InstanceKey, Registered


class SqliteInstances:
    """`InstanceStore` on an open file."""

    def __init__(self, file: Embedded) -> None:
        self._file = file

    async def instances(self) -> Sequence[Registered]:
        """See `InstanceStore.instances`."""
        query = "select project, model, cid, api, kind from instances"
        async with translated(StoreUnavailable):
            rows = await self._file.read(lambda connection: connection.execute(query).fetchall())
        return [Registered(InstanceKey(*row[:3]), *row[3:]) for row in rows]

    async def keep_instances(self, instances: Sequence[Registered]) -> None:
        """See `InstanceStore.keep_instances`."""
        rows = [(*one.key, one.api, one.kind) for one in instances]
        change = "insert or replace into instances values (?, ?, ?, ?, ?)"
        async with translated(StoreUnavailable):
            await self._file.write(lambda connection: connection.executemany(change, rows))

    async def drop_instances(self, keys: Sequence[InstanceKey]) -> None:
        """See `InstanceStore.drop_instances`."""
        change = "delete from instances where (project, model, cid) = (?, ?, ?)"
        async with translated(StoreUnavailable):
            await self._file.write(lambda connection: connection.executemany(change, keys))
