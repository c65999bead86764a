"""Projects and their API tokens. A token is shown once; only its SHA-256 is stored."""

import hashlib
import re
import secrets

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from aos_dispatcher.database import Database
from aos_dispatcher.errors import DispatcherError, Forbidden, NotFound, Unauthorized
from aos_dispatcher.tables import ApiToken, Project

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


async def create_project(database: Database, name: str, *, private: bool) -> str:
    """Create a project and return its first token. Raises `DispatcherError` for a bad or taken name."""
    if not _NAME.fullmatch(name):
        raise DispatcherError(
            f"{name!r} is no project name: use up to 64 letters, digits, dots, dashes or underscores"
        )
    token = f"aos_{secrets.token_urlsafe(32)}"
    async with database.begin() as connection:
        row = insert(Project).values(id=name, private=private).on_conflict_do_nothing().returning(Project.id)
        if (await connection.execute(row)).scalar() is None:
            raise DispatcherError(f"there is already a project {name!r}")
        await connection.execute(insert(ApiToken).values(digest=_digest(token), project_id=name))
    return token


class Projects:
    """Who may do what, read from the database at each request so that a change counts at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def authorise(self, token: str | None, project: str) -> None:
        """Raise `Unauthorized` or `Forbidden` unless this token is one of this project's."""
        owner = await self.owner(token)
        if owner != project:
            raise Forbidden(f"the API token is not one of a project {project!r}; 'from' is the project's id")

    async def may_read(self, token: str | None, project: str) -> None:
        """Raise unless the project's results are public, or the token is its own."""
        query = select(Project.private).where(Project.id == project)
        async with self._database.connect() as connection:
            private = (await connection.execute(query)).scalar()
        if private is None:
            raise NotFound(f"there is no project {project!r} here")
        if private:
            await self.authorise(token, project)

    async def owner(self, token: str | None) -> str:
        """Return the project that this token is one of. Raises `Unauthorized`."""
        if not token:
            raise Unauthorized(
                "an API token is required: 'verify' in a submit, 'Authorization: Bearer' elsewhere"
            )
        query = select(ApiToken.project_id).where(ApiToken.digest == _digest(token))
        async with self._database.connect() as connection:
            owner = (await connection.execute(query)).scalar()
        if owner is None:
            raise Unauthorized("the API token is not known here; 'dispatcher project create NAME' makes one")
        return owner


def _digest(token: str) -> str:
    # A token has 256 random bits, so a plain digest cannot be searched; surrogates cannot be stored either.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
