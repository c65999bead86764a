"""What every `migrations/<program>/env.py` does:

from aos_dispatcher.tables import metadata
from aos_service.alembic_env import run

run(metadata)
"""

from alembic import context
from sqlalchemy import MetaData


def run(metadata: MetaData | None = None) -> None:
    """Run the revisions on the connection that `aos_service.revisions` opened, inside its transaction."""
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=metadata,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()
