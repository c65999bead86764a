"""What every `migrations/<program>/env.py` does, and what its revisions need beyond alembic.

from aos_dispatcher.tables import metadata
from aos_service.alembic_env import run

run(metadata)
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from alembic import context, op
from sqlalchemy import MetaData, text


def run(metadata: MetaData | None = None) -> None:
    """Run the revisions on the connection that `aos_service.revisions` opened, each in a transaction of its own."""
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=metadata,
        compare_server_default=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def build_index(name: str, table: str, columns: Sequence[str], *, where: str | None = None) -> None:
    """Make an index on a table that is in use, whose writers go on meanwhile. To be the only step of its revision.

    It cannot be part of a transaction: what an attempt that was broken off has left behind is made anew.
    """
    with _outside_transactions():
        op.drop_index(name, table_name=table, postgresql_concurrently=True, if_exists=True)
        condition = None if where is None else text(where)
        op.create_index(name, table, list(columns), postgresql_concurrently=True, postgresql_where=condition)


def drop_index(name: str, table: str) -> None:
    """Drop an index of a table that is in use, without holding up whoever uses it. To be the only step of its revision."""
    with _outside_transactions():
        op.drop_index(name, table_name=table, postgresql_concurrently=True, if_exists=True)


@contextmanager
def _outside_transactions() -> Iterator[None]:
    """Leave the revision's transaction for a while, in which waiting for locks holds up nobody and so may take its time."""
    with op.get_context().autocommit_block():
        op.execute("set lock_timeout = 0")
        yield
        op.execute("reset lock_timeout")
