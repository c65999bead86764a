"""An operator's memory in one SQLite file: for who runs neither PostgreSQL nor Redis.

A thread of its own has the file open, and nobody else can: the operator is one process. What is written at about the same time is
written in one transaction, which is on the disk (WAL, synchronous=FULL) before anybody is told so. Any process may be killed at any time.
"""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

from aos_operator.boundary import keep_cancellation
from aos_operator.errors import OperatorError, StartError, Unavailable
from aos_service.coalesce import Coalescer

R = TypeVar("R")
Change: TypeAlias = Callable[[sqlite3.Connection], R]
"""What is done within a transaction. It raises an `OperatorError` before it has written anything, or not at all."""

_BATCH: Final = 32
"""How many changes one transaction makes at most: each may bring a frame of 4 MiB."""

_APPLICATION: Final = 0x414F5331
"""What tells our files from other programs' (PRAGMA application_id): the letters AOS1."""

_KEPT: Final = "-90 days"
"""How old a closed task becomes; older ones are deleted when the file is opened, and their room is used again."""

_STEPS: Final = (
    """
    create table owner (operator text not null);
    create table clock (reserved integer not null);
    insert into clock values (0);
    create table tasks (
        job_id text not null, tag text not null, challenge integer not null, method text not null,
        state text not null check (state in ('open', 'accepted', 'refused', 'cancelled')),
        request text not null, outcome text, verdict text not null default '',
        taken_at text not null default current_timestamp, finished_at text, closed_at text,
        primary key (job_id, tag, challenge, method)
    );
    create index open_tasks on tasks (job_id, tag, challenge, method) where state = 'open';
    create table queue (id integer primary key autoincrement, method text not null, request text not null);
    create table instances (
        project text not null, model text not null, cid text not null, api text not null, kind integer not null,
        primary key (project, model, cid)
    );
    """,
    """
    create table blobs (job_id text not null, tag text not null, sha256 text not null, data blob not null, primary key (job_id, tag, sha256));
    """,
)
"""What makes a file of one version one of the next; a file's version (PRAGMA user_version) is how many of them it has had."""


class Embedded:
    """An open file, by `opened`."""

    def __init__(self, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._thread = thread
        self._writing: Coalescer[Change[Any], Any] = Coalescer(
            self._write_all, _BATCH, hopeless=sqlite3.OperationalError
        )

    async def write(self, change: Change[R]) -> R:
        """Return what a change gives, once it is on the disk. Raises `sqlite3.OperationalError`, or what the change raises."""
        result: R = await self._writing.submit(change)
        return result

    async def read(self, query: Change[R]) -> R:
        """Return what a query gives, which writes nothing. Raises `sqlite3.OperationalError`."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, query, self._connection)

    async def _write_all(self, changes: Sequence[Change[Any]]) -> list[Any]:
        return await self.read(lambda connection: _transaction(connection, changes))


def _transaction(connection: sqlite3.Connection, changes: Sequence[Change[Any]]) -> list[Any]:
    """What each change gives, or the `OperatorError` that it raises; all of them are on the disk, or none is."""
    outcomes: list[Any] = []
    connection.execute("begin immediate")
    try:
        for change in changes:
            try:
                outcomes.append(change(connection))
            except OperatorError as error:
                outcomes.append(error)
        connection.execute("commit")
    except BaseException:
        if connection.in_transaction:  # SQLite ends it itself when the disk is full
            connection.execute("rollback")
        raise
    return outcomes


@asynccontextmanager
async def opened(path: Path, operator: str) -> AsyncIterator[Embedded]:
    """Keep the file of this operator open; it is made, with its folder, if it is missing, and only its owner can read it.

    Raises `StartError` when another process has it open, or when it cannot be used.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="embedded")
    loop = asyncio.get_running_loop()
    try:
        connection = await loop.run_in_executor(thread, _open, path, operator)
        try:
            yield Embedded(connection, thread)
        finally:
            await asyncio.shield(loop.run_in_executor(thread, connection.close))
    finally:
        thread.shutdown(wait=False)


@asynccontextmanager
async def translated(kind: type[Unavailable]) -> AsyncIterator[None]:
    """Turn what SQLite raises when the disk is full or fails into an error of this kind; what else it raises is our mistake."""
    try:
        yield
        keep_cancellation()
    except sqlite3.OperationalError as error:
        raise kind(
            f"the operator's file cannot be used now ({error}): check the disk that it is on"
        ) from error


def _open(path: Path, operator: str) -> sqlite3.Connection:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StartError(f"{path} cannot be made or written: {error.strerror}") from error
    connection = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        _prepare(connection, path, operator)
    except sqlite3.DatabaseError as error:
        connection.close()
        if error.sqlite_errorname == "SQLITE_BUSY":
            raise StartError(f"another process uses {path}: stop it, one identity is one process") from error
        raise StartError(
            f"{path} cannot be used ({error}): restore it from a copy; or move it away, and a new one is made (a dispatcher "
            "sends the jobs that only it knew again)"
        ) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, operator: str) -> None:
    connection.execute("pragma locking_mode = exclusive")
    connection.execute(
        "begin exclusive"
    )  # from here on nobody else has it; and nothing is written before it is known to be ours
    [application] = connection.execute("pragma application_id").fetchone()
    [version] = connection.execute("pragma user_version").fetchone()
    [objects] = connection.execute("select count(*) from sqlite_schema").fetchone()
    connection.execute("commit")
    if application != _APPLICATION and (objects or version):
        raise StartError(f"{path} is another program's file: name another")
    if version > len(_STEPS):
        raise StartError(f"{path} is of a newer version of this program ({version}): update this one")
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = full")
    for number in range(version, len(_STEPS)):
        connection.executescript(
            f"begin; {_STEPS[number]} pragma application_id = {_APPLICATION}; pragma user_version = {number + 1}; commit;"
        )
    _own(connection, path, operator)
    connection.execute("delete from tasks where state <> 'open' and closed_at < datetime('now', ?)", (_KEPT,))


def _own(connection: sqlite3.Connection, path: Path, operator: str) -> None:
    owner = connection.execute("select operator from owner").fetchone()
    if owner is None:
        connection.execute("insert into owner values (?)", (operator,))
    elif owner != (operator,):
        raise StartError(
            f"{path} is the memory of {owner[0]}, not of {operator}: each has a folder of its own"
        )
