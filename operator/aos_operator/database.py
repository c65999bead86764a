"""Makes, migrates, checks and (only when asked twice) empties an operator's database."""

from alembic.script import ScriptDirectory
from sqlalchemy import URL, text

from aos_operator.errors import StartError
from aos_operator.tables import Base
from aos_service.database import create_engine, current_revision, describe, ensure_database, migrate
from aos_service.revisions import alembic_config


async def prepare_database(url: URL) -> bool:
    """Create the database if it is missing, and bring its tables up to date; True if it was created. Drops nothing.

    Raises `DatabaseError` when that cannot be done.
    """
    created = await ensure_database(url)
    await migrate(url, "operator")
    return created


async def empty_database(url: URL) -> None:
    """Drop the operator's own tables, with all that they hold, and nothing else.

    Raises `StartError` when the database holds another program's tables, or `DatabaseError`.
    """
    revision = await current_revision(url)
    if revision is None:
        return
    if revision not in _revisions():
        raise StartError(
            f"{describe(url)} does not hold an operator's tables (revision {revision}): nothing was dropped"
        )
    engine = create_engine(url, pool_min=1, pool_max=1, connect_timeout=30, acquire_timeout=30)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.drop_all)
            await connection.execute(text("DROP TABLE alembic_version"))
    finally:
        await engine.dispose()


async def check_tables(url: URL) -> None:
    """Raise `StartError` unless the tables are at this program's revision, `DatabaseError` when nobody can tell."""
    revision = await current_revision(url)
    known = _revisions()
    if revision == known[0]:
        return
    if revision is None or revision in known:
        what = "has no tables yet" if revision is None else f"has tables of an older version ({revision})"
        raise StartError(
            f"{describe(url)} {what}: run operator-runner -i with this address, with its password"
        )
    raise StartError(
        f"{describe(url)} has tables of revision {revision}, unknown to this version: update this program"
    )


def _revisions() -> list[str]:
    """Every revision of the operator's tables, the newest first."""
    scripts = ScriptDirectory.from_config(alembic_config("operator"))
    return [script.revision for script in scripts.walk_revisions()]
