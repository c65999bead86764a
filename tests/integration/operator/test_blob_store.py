"""What a store of images promises: on PostgreSQL, in an SQLite file, and in memory. Each test is of all of them, and each has large images."""

from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from aos_operator import embedded
from aos_operator.blob_store import CHUNK_BYTES, PostgresBlobs
from aos_operator.embedded import opened
from aos_operator.embedded_store import SqliteStore
from aos_operator.store import Store
from aos_operator.tasks import Task, TaskKey, TaskState
from integration.operator.test_store import engine, file, store  # noqa: F401
from unit.operator.world import OPERATOR, World

WORLD = World()
LARGE = bytes(range(256)) * (2 * CHUNK_BYTES // 256) + b"end"
SMALL = b"\0small"


async def taken(store: Store) -> Task:  # noqa: F811
    return await store.take(WORLD.job())


async def test_images_are_kept_as_they_are_by_task_and_digest(store: Store) -> None:  # noqa: F811
    one, other = (await taken(store)).key, (await taken(store)).key
    await store.blobs.keep(one, {"a": LARGE, "b": SMALL})
    await store.blobs.keep(other, {"a": SMALL})
    assert await store.blobs.load(one, "a") == LARGE
    assert await store.blobs.load(one, "b") == SMALL
    assert await store.blobs.load(other, "a") == SMALL
    assert await store.blobs.load(other, "b") is None
    assert await store.blobs.load(TaskKey("9" * 64, ""), "a") is None


async def test_keeping_them_again_changes_nothing(store: Store) -> None:  # noqa: F811
    key = (await taken(store)).key
    for _ in range(2):
        await store.blobs.keep(key, {"a": LARGE})
    await store.blobs.keep(key, {"b": SMALL})
    assert await store.blobs.load(key, "a") == LARGE


async def test_they_go_with_their_task_and_no_other(store: Store) -> None:  # noqa: F811
    open_, accepted, cancelled = [(await taken(store)).key for _ in range(3)]
    for key in (open_, accepted, cancelled):
        await store.blobs.keep(key, {"a": SMALL})
    await store.close(accepted, TaskState.ACCEPTED, "success")
    await store.close(cancelled, TaskState.CANCELLED, "cancelled")
    await store.blobs.sweep()
    found = [await store.blobs.load(key, "a") for key in (open_, accepted, cancelled)]
    assert found == [SMALL, None, None]


async def test_of_two_operators_in_one_database_each_has_its_own(engine: AsyncEngine) -> None:  # noqa: F811
    mine, theirs = PostgresBlobs(engine, OPERATOR.address), PostgresBlobs(engine, "0x" + "99" * 20)
    key = TaskKey("1" * 64, "")
    await mine.keep(key, {"a": SMALL})
    assert await theirs.load(key, "a") is None
    await theirs.sweep()
    assert await mine.load(key, "a") == SMALL
    await mine.sweep()  # there is no such task
    assert await mine.load(key, "a") is None


async def test_they_outlast_the_process(tmp_path: Path) -> None:
    path = tmp_path / "memory.sqlite"
    async with opened(path, OPERATOR.address) as first:
        key = (await taken(SqliteStore(first))).key
        await SqliteStore(first).blobs.keep(key, {"a": LARGE})
    async with opened(path, OPERATOR.address) as second:
        await SqliteStore(second).blobs.sweep()
        assert await SqliteStore(second).blobs.load(key, "a") == LARGE


async def test_a_file_of_before_there_were_images_has_room_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = embedded._STEPS
    monkeypatch.setattr(embedded, "_STEPS", steps[:1])
    async with opened(tmp_path / "memory.sqlite", OPERATOR.address) as before:
        key = (await taken(SqliteStore(before))).key
    monkeypatch.setattr(embedded, "_STEPS", steps)
    async with opened(tmp_path / "memory.sqlite", OPERATOR.address) as after:
        await SqliteStore(after).blobs.keep(key, {"a": SMALL})
        assert await SqliteStore(after).blobs.load(key, "a") == SMALL
