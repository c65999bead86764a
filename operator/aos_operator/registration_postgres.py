"""The registered models of a node in PostgreSQL."""

from collections.abc import Sequence
from typing import cast

from sqlalchemy import delete, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from aos_operator.postgres_errors import translated
from aos_operator.registration_store import InstanceKey, Registered
from aos_operator.tables import InstanceRow
from aos_protocol.fields import ModelKind

_KEY = (InstanceRow.project, InstanceRow.model, InstanceRow.cid)


class PostgresInstances:
    """`InstanceStore` on PostgreSQL, for one operator address."""

    def __init__(self, engine: AsyncEngine, operator: str) -> None:
        self._engine = engine
        self._operator = operator

    async def instances(self) -> Sequence[Registered]:
        """See `InstanceStore.instances`."""
        query = select(*_KEY, InstanceRow.api, InstanceRow.kind).where(InstanceRow.operator == self._operator)
        async with translated(), self._engine.connect() as connection:
            rows = await connection.execute(query)
            return [Registered(InstanceKey(*key), api, cast("ModelKind", kind)) for *key, api, kind in rows]

    async def keep_instances(self, instances: Sequence[Registered]) -> None:
        """See `InstanceStore.keep_instances`."""
        rows = [
            {"operator": self._operator, **one.key._asdict(), "api": one.api, "kind": one.kind}
            for one in instances
        ]
        row = insert(InstanceRow).values(rows)
        kept = row.on_conflict_do_update(
            index_elements=[InstanceRow.operator, *_KEY],
            set_={"api": row.excluded.api, "kind": row.excluded.kind},
        )
        async with translated(), self._engine.begin() as connection:
            await connection.execute(kept)

    async def drop_instances(self, keys: Sequence[InstanceKey]) -> None:
        """See `InstanceStore.drop_instances`."""
        which = (InstanceRow.operator == self._operator, tuple_(*_KEY).in_(list(keys)))
        async with translated(), self._engine.begin() as connection:
            await connection.execute(delete(InstanceRow).where(*which))
