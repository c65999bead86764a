"""Projects, and who may do what by their API tokens (`tokens`). A token is shown once; only its SHA-256 is stored."""

import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

from sqlalchemy import Row, and_, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from aos_dispatcher.aged import AgedCache
from aos_dispatcher.attempts import Attempts, caller_address
from aos_dispatcher.database import Database
from aos_dispatcher.errors import DispatcherError, Forbidden, NotFound, Unauthorized
from aos_dispatcher.tables import ApiToken, Project
from aos_dispatcher.tokens import Grant, Presented, Scope, add_token, present

CACHE_S = 5.0
"""How long a dispatcher may go on taking a token after it was revoked, at most, in seconds. An expired one is refused at once."""

_CACHED = 4096
_LAST_USE = timedelta(hours=1)  # the grain in which a token's last use is written down
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


async def create_project(database: Database, name: str, *, private: bool) -> str:
    """Create a project and return its first token, for everything and for ever. Raises `DispatcherError` for a bad or taken name."""
    if not _NAME.fullmatch(name):
        raise DispatcherError(
            f"{name!r} is no project name: use up to 64 letters, digits, dots, dashes or underscores"
        )
    async with database.begin() as connection:
        row = insert(Project).values(id=name, private=private).on_conflict_do_nothing().returning(Project.id)
        if (await connection.execute(row)).scalar() is None:
            raise DispatcherError(f"there is already a project {name!r}")
        return await add_token(connection, Grant(name))


@dataclass(frozen=True)
class _Known:
    """What a token that was found stands for."""

    project: str
    scopes: frozenset[str]
    expires_at: datetime | None

    def check(self, scope: Scope) -> None:
        """Raise `Unauthorized` when it has ended, `Forbidden` when it is not for this."""
        if self.expires_at is not None and self.expires_at <= datetime.now(UTC):
            raise Unauthorized("the API token has expired; 'dispatcher token create PROJECT' makes another")
        if scope not in self.scopes:
            raise Forbidden(f"the API token may not {scope}: its scopes are {', '.join(sorted(self.scopes))}")


class Projects:
    """Who may do what. What the database says is remembered for `CACHE_S` seconds: so a busy project costs no query a request.

    `wrong_tokens` is how many tokens that nobody has one address may present within a minute.
    """

    def __init__(self, database: Database, wrong_tokens: int, clock: Callable[[], float] = monotonic) -> None:
        self._database = database
        self._attempts = Attempts(wrong_tokens, clock)
        self._known: AgedCache[str, _Known] = AgedCache(CACHE_S, _CACHED, clock)
        self._private: AgedCache[str, bool] = AgedCache(CACHE_S, _CACHED, clock)

    async def authorise(self, token: str | None, project: str, scope: Scope) -> None:
        """Raise `Unauthorized`, `Forbidden` or `TooManyGuesses` unless this token is one of this project's, and for this."""
        if await self.owner(token, scope) != project:
            raise Forbidden(f"the API token is not one of a project {project!r}; 'from' is the project's id")

    async def may_read(self, token: str | None, project: str) -> None:
        """Raise unless the project's results are public, or the token is its own."""
        private = self._private.get(project)
        if private is None:
            query = select(Project.private).where(Project.id == project)
            async with self._database.connect() as connection:
                private = (await connection.execute(query)).scalar()
            if private is None:
                raise NotFound(f"there is no project {project!r} here")
            self._private.put(project, private)
        if private:
            await self.authorise(token, project, "read")

    async def owner(self, token: str | None, scope: Scope = "read") -> str:
        """Return the project that this token is one of. Raises `Unauthorized`, `Forbidden` or `TooManyGuesses`."""
        if not token:
            raise Unauthorized(
                "an API token is required: 'verify' in a submit, 'Authorization: Bearer' elsewhere"
            )
        address = caller_address.get()
        self._attempts.check(address)
        presented = present(token)
        known = await self._look_up(presented) if presented else None
        if known is None:
            self._attempts.failed(address)
            raise Unauthorized("the API token is not known here; 'dispatcher token create PROJECT' makes one")
        known.check(scope)
        return known.project

    async def _look_up(self, presented: Presented) -> _Known | None:
        known = self._known.get(presented.digest)
        if known is not None:
            return known
        row = await self._find(presented)
        if row is None or not hmac.compare_digest(row.digest, presented.digest):
            return None
        if row.revoked_at is not None:
            raise Unauthorized("the API token was revoked; 'dispatcher token create PROJECT' makes another")
        known = _Known(row.project_id, frozenset(row.scopes), row.expires_at)
        self._known.put(presented.digest, known)
        await self._note_use(row)
        return known

    async def _find(self, presented: Presented) -> Row[Any] | None:
        without_id = and_(ApiToken.id.is_(None), ApiToken.digest == presented.digest)
        query = select(ApiToken.__table__).where(or_(ApiToken.id == presented.id, without_id))
        async with self._database.connect() as connection:
            return (await connection.execute(query)).one_or_none()

    async def _note_use(self, row: Row[Any]) -> None:
        now = datetime.now(UTC)
        if row.last_used_at is not None and now - row.last_used_at < _LAST_USE:
            return
        async with self._database.begin() as connection:
            used = update(ApiToken).where(ApiToken.digest == row.digest)
            await connection.execute(used.values(last_used_at=now))
