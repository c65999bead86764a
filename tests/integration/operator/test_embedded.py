"""An operator's memory in one SQLite file: it outlasts its process, however that ends, and belongs to one process at a time."""

import asyncio
import sqlite3
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aos_operator.embedded import Embedded, opened
from aos_operator.embedded_queue import SqliteQueue
from aos_operator.embedded_store import SqliteStore
from aos_operator.errors import QueueUnavailable, Refused, StartError, StoreUnavailable
from aos_operator.tasks import Outcome, TaskKey, TaskState
from unit.operator.world import OPERATOR, World

WORLD = World()
ANSWER = Outcome("an answer", "", {"rule": 1}, "ab" * 32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "provider" / "memory.sqlite"


async def test_what_was_kept_is_there_for_the_next_process(path: Path) -> None:
    jobs = [WORLD.job() for _ in range(3)]
    async with opened(path, OPERATOR.address) as file:
        store, queue = SqliteStore(file), SqliteQueue(file)
        await queue.open()
        for job in jobs:
            await store.take(job)
            await queue.add(job)
        await store.finish(jobs[0], ANSWER)
        await store.close(TaskKey.of(jobs[1]), TaskState.ACCEPTED, "success")
        first, second, _ = await queue.read(0)
        await queue.done(second.id)
        assert await store.reserve(1024) == 1024
    async with opened(path, OPERATOR.address) as file:
        store, queue = SqliteStore(file), SqliteQueue(file)
        await queue.open()
        left = await queue.take_over()
        assert [entry.request for entry in left] == [jobs[0], jobs[2]]
        assert left[0].id == first.id
        await queue.add(jobs[1])
        [new] = await queue.read(0)
        assert new.request == jobs[1]
        assert {task.key: task.outcome for task in await store.open_tasks(None, 10)} == {
            TaskKey.of(jobs[0]): ANSWER,
            TaskKey.of(jobs[2]): None,
        }
        assert await store.reserve(1) == 1025


async def test_only_its_owner_can_read_it(path: Path) -> None:
    async with opened(path, OPERATOR.address) as file:
        await SqliteStore(file).take(WORLD.job())
        for kept in (path, path.with_name(path.name + "-wal")):
            assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_every_transaction_is_on_the_disk(path: Path) -> None:
    async with opened(path, OPERATOR.address) as file:
        asked = ("journal_mode", "synchronous")
        said = [
            await file.read(lambda connection, name=name: connection.execute(f"pragma {name}").fetchone()[0])
            for name in asked
        ]
    assert said == ["wal", 2]  # 2: FULL


async def test_a_second_process_is_told_that_there_is_one(path: Path) -> None:
    async with opened(path, OPERATOR.address):
        with pytest.raises(StartError, match="another process uses"):
            async with opened(path, OPERATOR.address):
                pytest.fail("it was opened twice")
    async with opened(path, OPERATOR.address):
        pass


async def test_a_file_belongs_to_one_identity(path: Path) -> None:
    async with opened(path, OPERATOR.address):
        pass
    with pytest.raises(StartError, match="a folder of its own"):
        async with opened(path, "0x" + "99" * 20):
            pytest.fail("it was opened by another")


def _foreign(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)


def _other_program(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("create table bookmarks (url text)")
    connection.close()


def _newer(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.executescript(f"pragma application_id = {0x414F5331}; pragma user_version = 99;")
    connection.close()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_foreign, "restore it from a copy"),
        (_other_program, "another program's file"),
        (_newer, "update this one"),
    ],
)
async def test_a_file_that_cannot_be_ours_stays_as_it_is(path: Path, spoil: object, said: str) -> None:
    assert callable(spoil)
    path.parent.mkdir()
    spoil(path)
    before = path.read_bytes()
    with pytest.raises(StartError, match=said):
        async with opened(path, OPERATOR.address):
            pytest.fail("it was opened")
    assert path.read_bytes() == before


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(StartError, match="taken"):
        async with opened(tmp_path / "taken" / "memory.sqlite", OPERATOR.address):
            pytest.fail("it was opened")


@contextmanager
def _disk_full(file: Embedded) -> Iterator[None]:
    """No page can be added while this is open: what SQLite says then is what a full disk has it say."""
    connection = file._connection
    [pages] = connection.execute("pragma page_count").fetchone()
    connection.execute(f"pragma max_page_count = {pages}")
    try:
        yield
    finally:
        connection.execute("pragma max_page_count = 1000000")


async def test_a_full_disk_is_unavailable_and_later_it_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda *given, **named: connect(*given, **named, check_same_thread=False)
    )
    small, large = WORLD.job(), WORLD.job("x" * 100_000)
    async with opened(path, OPERATOR.address) as file:
        store, queue = SqliteStore(file), SqliteQueue(file)
        await queue.open()
        with _disk_full(file):
            taken = await asyncio.gather(store.take(small), store.take(large), return_exceptions=True)
            assert all(isinstance(outcome, StoreUnavailable) for outcome in taken[1:])
            with pytest.raises(QueueUnavailable, match="check the disk"):
                await queue.add(large)
        assert (await store.take(large)).request == large
        await queue.add(large)
        assert [entry.request for entry in await queue.read(0)] == [large]


async def test_tasks_that_were_closed_long_ago_are_deleted_and_no_others(path: Path) -> None:
    old, new, open_ = (WORLD.job() for _ in range(3))
    async with opened(path, OPERATOR.address) as file:
        store = SqliteStore(file)
        for job in (old, new, open_):
            await store.take(job)
        for job in (old, new):
            await store.close(TaskKey.of(job), TaskState.ACCEPTED, "success")
        change = "update tasks set taken_at = '2020-01-01', closed_at = case when job_id = ? then '2020-01-01' else closed_at end"
        await file.write(lambda connection: connection.execute(change, (old.job_id,)))
    async with opened(path, OPERATOR.address) as file:
        kept = [await SqliteStore(file).load(TaskKey.of(job)) for job in (old, new, open_)]
        assert [task is not None for task in kept] == [False, True, True]


async def test_one_that_is_refused_does_not_spoil_those_beside_it(path: Path) -> None:
    known, other = WORLD.job(), WORLD.job()
    stranger = known.model_copy(update={"user": "somebody else"})
    async with opened(path, OPERATOR.address) as file:
        store = SqliteStore(file)
        await store.take(known)
        taken = await asyncio.gather(*map(store.take, (stranger, other, known)), return_exceptions=True)
        assert isinstance(taken[0], Refused)
        assert [task.key for task in await store.open_tasks(None, 10)] == sorted(
            map(TaskKey.of, (known, other))
        )


async def test_what_is_written_at_once_is_one_transaction(path: Path) -> None:
    begun: list[str] = []
    jobs = [WORLD.job(f"prompt {number}") for number in range(60)]
    async with opened(path, OPERATOR.address) as file:

        def watch(connection: sqlite3.Connection) -> None:
            connection.set_trace_callback(begun.append)

        await file.read(watch)
        await asyncio.gather(*map(SqliteStore(file).take, jobs))
        assert len([statement for statement in begun if statement.startswith("begin")]) <= 3
        assert len(await SqliteStore(file).open_tasks(None, 100)) == 60


_KEEPS_WRITING = """
import asyncio, sys
from pathlib import Path
from aos_operator.embedded import opened
from aos_operator.embedded_store import SqliteStore

async def main():
    async with opened(Path(sys.argv[1]), sys.argv[2]) as file:
        store = SqliteStore(file)
        while True:
            print(await store.reserve(1), flush=True)

asyncio.run(main())
"""


async def test_a_number_that_was_given_is_never_given_again_however_the_process_dies(path: Path) -> None:
    """Killed while it writes, five times over: what a process has said aloud, the next one does not say again."""
    last = 0
    for _ in range(5):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _KEEPS_WRITING, path, OPERATOR.address, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        first = int(await process.stdout.readline())
        assert first > last
        for _ in range(20):
            await process.stdout.readline()
        process.kill()
        said = (await process.stdout.read()).decode().split("\n")[:-1]
        await process.wait()
        last = max([first + 20, *map(int, said)])
