"""Who leads which rounds, of all processes of a dispatcher: read only. `RoundsStore` writes leases."""

from collections.abc import Collection

from sqlalchemy import text

from aos_dispatcher.database import Database
from aos_dispatcher.facts import RoundKey

_LEADER = text(
    "select lease_owner from rounds where job_id = :job and tag = :tag and challenge = :challenge "
    "and status in ('created', 'dispatched') and lease_until > now()"
)
_LOST = text(
    "select id from rounds where id = any(:rounds) and lease_owner is distinct from :owner and status in ('created', 'dispatched')"
)


class Leases:
    """The leases as PostgreSQL has them now."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def leader(self, key: RoundKey) -> str | None:
        """Return the process that leads an open round; None for a round that nobody leads, has ended, or never was."""
        job_id, tag, challenge = key
        async with self._database.connect() as connection:
            found = await connection.execute(_LEADER, {"job": job_id, "tag": tag, "challenge": challenge})
            return found.scalar()

    async def lost(self, rounds: Collection[int], owner: str) -> set[int]:
        """Return which of these rounds are open and not led by the process any more."""
        async with self._database.connect() as connection:
            found = await connection.execute(_LOST, {"rounds": list(rounds), "owner": owner})
            return set(found.scalars())
