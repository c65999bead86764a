"""Conversations: what was said and answered before, so that a request brings only what is new.

1. `begin` takes a conversation for one request, by a lease that is renewed while its process lives, and returns the whole prompt.
2. `Turn.finish` adds what was asked and answered; `Turn.drop` nothing. Whoever begins meanwhile is told to wait.
3. What was not used for some hours is deleted, here and there a few hundred at a time.

One belongs to its project: every look-up names both, so that nobody learns whether another project has one of the same id.
"""

import asyncio
import json
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import structlog
from sqlalchemy import ColumnElement, Row, delete, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_dispatcher.database import Database
from aos_dispatcher.errors import Conflict, NotFound, Unavailable, Unprocessable
from aos_dispatcher.settings import Gateway
from aos_dispatcher.tables import Conversation, JsonObject

log = structlog.get_logger()

MOST_MESSAGES: Final = 1024
"""How many messages a job takes."""

_SWEEP_S: Final = 60.0
_SWEEP_ROWS: Final = 500

_TAKE = text(
    """
    update conversations set lease = :lease, lease_until = now() + make_interval(secs => :seconds), used_at = now(),
        expires_at = now() + make_interval(secs => :keep)
    where project_id = :project and id = :id
    """
)
_FORGET = text(
    "update conversations set messages = '[]', turns = 0, bytes = 2, created_at = now() where project_id = :project and id = :id"
)
_FINISH = text(
    """
    update conversations set messages = :messages, turns = turns + 1, bytes = :bytes, lease = null, lease_until = null, used_at = now(),
        expires_at = now() + make_interval(secs => :keep)
    where project_id = :project and id = :id and lease = :lease
    """
)
_RENEW = text(
    "update conversations set lease_until = now() + make_interval(secs => :seconds) "
    "from unnest(cast(:projects as text[]), cast(:ids as text[]), cast(:leases as text[])) as held(project, name, token) "
    "where project_id = held.project and id = held.name and lease = held.token"
)
_LET_GO = text(
    "update conversations set lease = null, lease_until = null "
    "from unnest(cast(:projects as text[]), cast(:ids as text[]), cast(:leases as text[])) as held(project, name, token) "
    "where project_id = held.project and id = held.name and lease = held.token and turns > 0"
)
_UNBEGIN = text(
    "delete from conversations "
    "using unnest(cast(:projects as text[]), cast(:ids as text[]), cast(:leases as text[])) as held(project, name, token) "
    "where project_id = held.project and id = held.name and lease = held.token and turns = 0"
)
_SWEEP = text(
    """
    delete from conversations where (project_id, id) in (
        select project_id, id from conversations where expires_at < now() and (lease_until is null or lease_until < now())
        order by expires_at limit :rows for update skip locked
    )
    """
)


class Turn:
    """One request of a conversation: `messages` is its whole prompt. It must end by `finish` or `drop`; as a context, it drops by itself."""

    def __init__(self, home: "Conversations", lease: "_Lease", messages: list[JsonObject]) -> None:
        self.messages = messages
        self._home = home
        self._lease = lease

    async def finish(self, answer: str) -> bool:
        """Keep what was asked, and this answer; returns False when the conversation was deleted meanwhile, or the lease was lost."""
        return await self._home._finish(
            self._lease, [*self.messages, {"role": "assistant", "content": answer}]
        )

    def drop(self) -> None:
        """Add nothing. The row follows; calling this again, or after `finish`, does nothing."""
        self._home._drop(self._lease)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.drop()


@dataclass(frozen=True)
class _Lease:
    project: str
    id: str
    token: str


class Conversations:
    """The conversations of one dispatcher. `run` it: it keeps leases, which last for `lease` seconds, and deletes what has expired."""

    def __init__(self, database: Database, settings: Gateway, lease: float) -> None:
        self._database = database
        self._settings = settings
        self._lease = lease
        self._keep = settings.conversation_hours * 3600
        self._open: dict[str, _Lease] = {}
        self._dropped: dict[str, _Lease] = {}
        self._some_dropped = asyncio.Event()

    async def begin(self, project: str, id_: str, new: Sequence[JsonObject]) -> Turn:
        """Take a conversation, which is made if there is none, for a request with these messages.

        Raises `Conflict` while another request of it is being answered, `Unprocessable` when it is full or has a system message in its middle.
        """
        lease = _Lease(project, id_, secrets.token_hex(16))
        async with self._database.begin() as connection:
            row = await self._locked(connection, lease)
            if row.busy and row.lease not in self._dropped:
                refusal = Conflict(
                    f"conversation {id_!r} is being answered: send this again after that answer"
                )
                refusal.retry_after = 1
                raise refusal
            if row.expired:
                await connection.execute(_FORGET, {"project": project, "id": id_})
            before: list[JsonObject] = [] if row.expired else row.messages
            messages = self._continued(id_, before, 0 if row.expired else row.turns, new)
            taken = {"lease": lease.token, "seconds": self._lease, "keep": self._keep}
            await connection.execute(_TAKE, {"project": project, "id": id_} | taken)
        self._open[lease.token] = lease
        return Turn(self, lease, messages)

    async def of_project(self, project: str, after: str, count: int) -> list[Row[Any]]:
        """Return up to so many conversations in the order of their ids, from behind `after` on, without what was said in them."""
        columns = [column for column in Conversation.__table__.columns if column.name != "messages"]
        query = select(*columns).where(
            Conversation.project_id == project, Conversation.id > after, Conversation.turns > 0, _lives()
        )
        async with self._database.connect() as connection:
            return list((await connection.execute(query.order_by(Conversation.id).limit(count))).all())

    async def get(self, project: str, id_: str) -> Row[Any]:
        """Return a conversation. Raises `NotFound`, also for one that has no answer yet."""
        query = select(Conversation.__table__).where(
            Conversation.project_id == project, Conversation.id == id_, Conversation.turns > 0, _lives()
        )
        async with self._database.connect() as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is None:
            raise _unknown(id_)
        return row

    async def delete(self, project: str, id_: str) -> None:
        """Delete a conversation; an answer that is under way is not kept. Raises `NotFound`."""
        statement = delete(Conversation).where(Conversation.project_id == project, Conversation.id == id_)
        async with self._database.begin() as connection:
            if (await connection.execute(statement)).rowcount == 0:
                raise _unknown(id_)

    async def run(self) -> None:
        """Keep the leases of this process, let those go that were dropped, and delete what has expired, for ever."""
        clock = asyncio.get_running_loop().time
        sweep_at = clock()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._lease / 3):
                    await self._some_dropped.wait()
            self._some_dropped.clear()
            try:
                await self._let_go()
                await self._renew()
                if clock() >= sweep_at:
                    sweep_at = clock() + (0 if await self.sweep() == _SWEEP_ROWS else _SWEEP_S)
            except Unavailable as error:
                log.warning("conversations are not looked after", why=str(error))

    async def sweep(self) -> int:
        """Delete some of those that have expired, 500 at most, and return how many."""
        async with self._database.begin() as connection:
            return (await connection.execute(_SWEEP, {"rows": _SWEEP_ROWS})).rowcount

    def _drop(self, lease: _Lease) -> None:
        if self._open.pop(lease.token, None) is not None:
            self._dropped[lease.token] = lease
            self._some_dropped.set()

    async def _finish(self, lease: _Lease, messages: list[JsonObject]) -> bool:
        if self._open.pop(lease.token, None) is None:
            return False
        said = _json(messages)
        row = {"messages": said, "bytes": len(said.encode()), "keep": self._keep}
        row |= {"project": lease.project, "id": lease.id, "lease": lease.token}
        async with self._database.begin() as connection:
            return (await connection.execute(_FINISH, row)).rowcount == 1

    async def _locked(self, connection: AsyncConnection, lease: _Lease) -> Row[Any]:
        """Return the conversation's row, locked, made if there is none; beside its columns, whether it is `busy` and `expired`."""
        columns = (
            Conversation.__table__,
            func.coalesce(Conversation.lease_until > func.now(), False).label("busy"),
            (Conversation.expires_at <= func.now()).label("expired"),
        )
        named = (Conversation.project_id == lease.project, Conversation.id == lease.id)
        query = select(*columns).where(*named).with_for_update()
        known: Row[Any] | None = (await connection.execute(query)).one_or_none()
        if known is not None:
            return known
        await self._room(connection, lease.project)
        fresh = {"messages": [], "expires_at": func.now() + text("interval '1 hour'")}
        made = insert(Conversation).values(project_id=lease.project, id=lease.id, **fresh)
        # Somebody else may make it meanwhile: then this locks theirs.
        same = made.on_conflict_do_update(index_elements=["project_id", "id"], set_={"id": made.excluded.id})
        row: Row[Any] = (await connection.execute(same.returning(*columns))).one()
        return row

    async def _room(self, connection: AsyncConnection, project: str) -> None:
        most = self._settings.conversations
        some = select(Conversation.id).where(Conversation.project_id == project).limit(most).subquery()
        if (await connection.execute(select(func.count()).select_from(some))).scalar_one() >= most:
            raise Unprocessable(
                f"project {project!r} has {most} conversations, and no more are kept: delete some (DELETE /v1/conversations/ID)"
            )

    def _continued(
        self, id_: str, before: list[JsonObject], turns: int, new: Sequence[JsonObject]
    ) -> list[JsonObject]:
        if any(message["role"] == "system" for message in (new if before else new[1:])):
            raise Unprocessable(
                f"messages: a system message can only be the first of conversation {id_!r}; a request brings what is new"
            )
        messages, most = [*before, *new], self._settings
        size = len(_json(messages).encode())
        if (
            turns >= most.conversation_turns
            or size > most.conversation_bytes
            or len(messages) >= MOST_MESSAGES
        ):
            raise Unprocessable(
                f"conversation {id_!r} is full, with {turns} answers and {size} bytes: at most {most.conversation_turns} answers, "
                f"{most.conversation_bytes} bytes and {MOST_MESSAGES - 1} messages are kept; begin another, with what still matters"
            )
        return messages

    async def _let_go(self) -> None:
        if not self._dropped:
            return
        leases = dict(self._dropped)
        async with self._database.begin() as connection:
            await connection.execute(_LET_GO, _columns(leases))
            await connection.execute(_UNBEGIN, _columns(leases))
        for token in leases:
            del self._dropped[token]

    async def _renew(self) -> None:
        if self._open:
            async with self._database.begin() as connection:
                await connection.execute(_RENEW, _columns(self._open) | {"seconds": self._lease})


def _columns(leases: dict[str, _Lease]) -> dict[str, Any]:
    held = sorted(leases.values(), key=lambda lease: (lease.project, lease.id))
    return {
        "projects": [lease.project for lease in held],
        "ids": [lease.id for lease in held],
        "leases": [lease.token for lease in held],
    }


def _json(messages: Sequence[JsonObject]) -> str:
    return json.dumps(messages, ensure_ascii=False, separators=(",", ":"))


def _lives() -> ColumnElement[bool]:
    return Conversation.expires_at > func.now()


def _unknown(id_: str) -> NotFound:
    return NotFound(f"there is no conversation {id_!r} here")
