"""API tokens: what one looks like, and how they are made, listed, rotated and revoked.

A token is `aos_` + its public id (12 characters) + `_` + its secret (43, more than 256 bits) + the CRC-32 of all before (6), in the
digits 0-9A-Za-z. So a scanner of source code finds one by its look and is sure by its checksum, and a mistyped one costs no query. Only
its SHA-256 is stored: the secret is random, so nobody can search for it. Tokens of before this form are still taken, by their digest.
"""

import hashlib
import re
import secrets
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias, get_args

from sqlalchemy import Row, Select, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_dispatcher.database import Database
from aos_dispatcher.errors import DispatcherError
from aos_dispatcher.tables import ApiToken, Project

Scope: TypeAlias = Literal["submit", "read", "manage"]
"""What a token may do: submit jobs; read what a private project has; cancel jobs and challenge results."""

SCOPES: tuple[Scope, ...] = get_args(Scope)

shown_id = func.coalesce(ApiToken.id, func.left(ApiToken.digest, 12)).label("shown_id")
"""What a token is called in commands: its id, and of one of before this form the first digits of its digest."""

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID, _SECRET, _CHECK = 12, 43, 6
_FORM = re.compile(rf"aos_([0-9A-Za-z]{{{_ID}}})_[0-9A-Za-z]{{{_SECRET + _CHECK}}}")
_OLD_FORM = re.compile(r"aos_[0-9A-Za-z_-]{43}")


@dataclass(frozen=True)
class Presented:
    """A token as somebody sent it: its `digest`, and the `id` in it; None for the form of before."""

    digest: str
    id: str | None


@dataclass(frozen=True)
class Grant:
    """What a new token is for: its project, scopes, and when it ends, if it does."""

    project: str
    scopes: Collection[str] = SCOPES
    expires_at: datetime | None = None


def present(text: str) -> Presented | None:
    """Read a token; None for what cannot be one, whoever made it."""
    found = _FORM.fullmatch(text)
    if found:
        body, check = text[:-_CHECK], text[-_CHECK:]
        return Presented(_digest(text), found[1]) if _checksum(body) == check else None
    return Presented(_digest(text), None) if _OLD_FORM.fullmatch(text) else None


async def add_token(connection: AsyncConnection, grant: Grant) -> str:
    """Store a new token's digest and return the token, which nobody can show again."""
    public = "".join(secrets.choice(_DIGITS) for _ in range(_ID))
    secret = "".join(secrets.choice(_DIGITS) for _ in range(_SECRET))
    body = f"aos_{public}_{secret}"
    token = body + _checksum(body)
    scopes = [scope for scope in SCOPES if scope in grant.scopes]
    row = insert(ApiToken).values(id=public, digest=_digest(token), project_id=grant.project)
    await connection.execute(row.values(scopes=scopes, expires_at=grant.expires_at))
    return token


async def create_token(database: Database, grant: Grant) -> str:
    """Make one more token of a project and return it. Raises `DispatcherError` for an unknown project, a scope that is none, or none."""
    unknown = sorted(set(grant.scopes) - set(SCOPES))
    if unknown or not grant.scopes:
        raise DispatcherError(
            f"there is no scope {', '.join(unknown) or 'given'}: choose of {', '.join(SCOPES)}"
        )
    async with database.begin() as connection:
        known = await connection.execute(select(Project.id).where(Project.id == grant.project))
        if known.scalar() is None:
            raise DispatcherError(
                f"there is no project {grant.project!r}: make it with 'dispatcher project create'"
            )
        return await add_token(connection, grant)


async def list_tokens(database: Database, project: str | None) -> list[Row[Any]]:
    """Return all tokens, or those of one project, oldest first, without anything secret."""
    query: Select[Any] = select(ApiToken.__table__, shown_id).order_by(ApiToken.created_at, shown_id)
    if project is not None:
        query = query.where(ApiToken.project_id == project)
    async with database.connect() as connection:
        return list((await connection.execute(query)).all())


async def rotate_token(
    database: Database, public: str, grace: timedelta, expires_at: datetime | None = None
) -> str:
    """Make a token that may do the same, and let the old one end after `grace`; return the new one.

    Without `expires_at`, the new one lives as long as the old one was meant to. Raises `DispatcherError` for a token that is
    not known, or does not work any more.
    """
    async with database.begin() as connection:
        now = await _now(connection)
        old = await _existing(connection, public)
        if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= now):
            raise DispatcherError(
                f"token {public} does not work any more: make one with 'dispatcher token create'"
            )
        if expires_at is None and old.expires_at is not None:
            expires_at = now + (old.expires_at - old.created_at)
        ends = now + grace if old.expires_at is None else min(old.expires_at, now + grace)
        await connection.execute(
            update(ApiToken).where(ApiToken.digest == old.digest).values(expires_at=ends)
        )
        return await add_token(connection, Grant(old.project_id, old.scopes, expires_at))


async def revoke_token(database: Database, public: str) -> None:
    """Let a token work no more, for ever. Raises `DispatcherError` for one that is not known."""
    async with database.begin() as connection:
        token = await _existing(connection, public)
        revoked = update(ApiToken).where(ApiToken.digest == token.digest, ApiToken.revoked_at.is_(None))
        await connection.execute(revoked.values(revoked_at=func.now()))


def standing(row: Row[Any]) -> Literal["active", "expired", "revoked"]:
    """Tell whether a token works, or why it does not."""
    if row.revoked_at is not None:
        return "revoked"
    if row.expires_at is not None and row.expires_at <= datetime.now(UTC):
        return "expired"
    return "active"


async def _existing(connection: AsyncConnection, public: str) -> Row[Any]:
    query = select(ApiToken.__table__).where(shown_id == public).with_for_update()
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        # It may be a whole token: nothing may quote it.
        raise DispatcherError("there is no token of this id; 'dispatcher token list' shows the ids")
    return row


async def _now(connection: AsyncConnection) -> datetime:
    now: datetime = (await connection.execute(select(func.now()))).scalar_one()
    return now


def _checksum(body: str) -> str:
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(_CHECK):
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
