import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
import redis.asyncio as redis

from aos_cli import embedded
from aos_cli.embedded import EmbeddedPostgres, EmbeddedServer, EmbeddedValkey
from aos_cli.errors import EmbeddedError
from aos_service.database import database_url, ensure_database

both = pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedValkey])
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root's PostgreSQL runs as another user")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux stops servers when we are killed")


@pytest.fixture
def data() -> Iterator[Path]:
    """A data folder in a short path that root's PostgreSQL can reach, with a space and a quote in its name."""
    with tempfile.TemporaryDirectory(prefix="aos ' ") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder) / "server"


async def query(server: EmbeddedPostgres, statement: str) -> object:
    url = database_url(server.url("postgres"))
    connection = await asyncpg.connect(**url.get_dialect()().create_connect_args(url)[1])
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def until_gone(pid: int) -> None:
    async with asyncio.timeout(30):
        while Path(f"/proc/{pid}").exists():
            await asyncio.sleep(0.01)


async def test_postgres_keeps_its_data_from_run_to_run(data: Path) -> None:
    async with EmbeddedPostgres(data, durable=False) as server:
        url = database_url(server.url('a "name"'))
        assert await ensure_database(url) is True
        assert "18." in str(await query(server, "SELECT version()"))
    async with EmbeddedPostgres(data, durable=False) as server:
        assert await ensure_database(database_url(server.url('a "name"'))) is False
    assert "database system is shut down" in (data / "postgres.log").read_text()


async def test_valkey_keeps_its_data_when_it_is_killed(data: Path) -> None:
    server = EmbeddedValkey(data)
    await server.start()
    client = redis.Redis.from_url(server.url(3))
    await client.set("accepted", "job")
    await client.aclose()
    assert server.child.pid is not None
    os.kill(server.child.pid, signal.SIGKILL)
    assert await server.child.until_ended() == -signal.SIGKILL
    await server.stop()
    async with EmbeddedValkey(data) as again:
        client = redis.Redis.from_url(again.url(3))
        assert await client.get("accepted") == b"job"
        await client.aclose()


@pytest.mark.parametrize(("durable", "fsync"), [(True, "on"), (False, "off")])
async def test_only_tests_give_up_durability(data: Path, durable: bool, fsync: str) -> None:
    async with EmbeddedPostgres(data, durable=durable) as server:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            assert await query(server, f"SHOW {setting}") == fsync
    async with EmbeddedValkey(data / "valkey", durable=durable) as valkey:
        client = redis.Redis.from_url(valkey.url())
        assert await client.config_get("appendonly") == {"appendonly": "yes" if durable else "no"}
        await client.aclose()


def listening_ports(pid: int) -> list[str]:
    """The TCP ports that a process listens on."""
    links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
    inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    ]
    return [row[1] for row in rows if row[9] in inodes]


@linux_only
@both
async def test_only_its_owner_reaches_it_and_only_over_a_unix_socket(
    data: Path, kind: type[EmbeddedServer]
) -> None:
    async with kind(data, durable=False) as server:
        assert server.socket.is_socket()
        assert server.socket.parent.stat().st_mode & 0o777 == 0o700
        assert data.stat().st_mode & 0o777 == 0o700
        assert server.child.pid is not None
        assert listening_ports(server.child.pid) == []


@both
async def test_a_data_folder_has_one_server(
    data: Path, kind: type[EmbeddedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_LOCK_TIMEOUT_S", 0.1)
    async with kind(data, durable=False) as server:
        with pytest.raises(
            EmbeddedError, match=f"started by process {os.getpid()}: stop that one, or choose another"
        ):
            await kind(data, durable=False).start()
        with pytest.raises(EmbeddedError, match="is running already"):
            await server.start()
        assert server.child.returncode is None


@both
async def test_a_start_waits_for_a_server_that_is_stopping(data: Path, kind: type[EmbeddedServer]) -> None:
    first = kind(data, durable=False)
    await first.start()
    second = asyncio.create_task(kind(data, durable=False).start())
    await asyncio.sleep(0.1)  # nothing tells that the second has begun to wait
    assert not second.done()
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    third = kind(data, durable=False)
    starting = asyncio.create_task(third.start())
    await first.stop()
    await starting
    await third.stop()


@both
async def test_there_is_no_address_before_the_start_and_after_the_stop(
    data: Path, kind: type[EmbeddedServer]
) -> None:
    server = kind(data, durable=False)
    for _ in range(2):
        with pytest.raises(EmbeddedError, match="has no address before it is started"):
            _ = server.socket
        with pytest.raises(EmbeddedError, match="is not running"):
            _ = server.child
        await server.start()
        await server.stop()
        await server.stop()


@both
async def test_a_path_too_long_for_a_socket(data: Path, kind: type[EmbeddedServer]) -> None:
    async with kind(data / ("x" * 120), durable=False) as server:
        folder = server.socket.parent
        assert len(os.fsencode(server.socket)) <= 100
        assert folder.stat().st_mode & 0o777 == 0o700
        assert server.socket.is_socket()
    assert not folder.exists()


async def test_a_process_id_left_by_a_killed_server_is_not_believed(data: Path) -> None:
    async with EmbeddedPostgres(data, durable=False):
        left = (data / "cluster" / "postmaster.pid").read_text()
    alive = left.replace(left.splitlines()[0], str(os.getpid()), 1)
    (data / "cluster" / "postmaster.pid").write_text(alive)
    async with EmbeddedPostgres(data, durable=False) as server:
        assert await query(server, "SELECT 1") == 1


async def test_an_interrupted_initdb_is_begun_again(data: Path) -> None:
    unfinished = data / "cluster.new"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    async with EmbeddedPostgres(data, durable=False) as server:
        assert await query(server, "SELECT 1") == 1
    assert not unfinished.exists()


async def test_a_failed_initdb_says_why(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data.parent / "wheel" / "pginstall18" / "bin").mkdir(parents=True)
    monkeypatch.setattr(embedded, "_wheel", lambda _package: data.parent / "wheel")
    with pytest.raises(EmbeddedError, match=r"initdb failed on (.|\n)*bin/initdb: No such file or directory"):
        await EmbeddedPostgres(data, durable=False).start()
    assert not (data / "cluster").exists()


async def test_a_server_that_does_not_start_says_why(data: Path) -> None:
    async with EmbeddedPostgres(data, durable=False):
        pass
    with (data / "cluster" / "postgresql.conf").open("a") as file:
        file.write("nonsense = 7\n")
    with pytest.raises(
        EmbeddedError,
        match=r'PostgreSQL does not start(.|\n)*unrecognized configuration parameter "nonsense"',
    ):
        await EmbeddedPostgres(data, durable=False).start()


async def test_data_of_another_version_is_left_alone(data: Path) -> None:
    (data / "cluster").mkdir(parents=True)
    (data / "cluster" / "PG_VERSION").write_text("11\n")
    with pytest.raises(EmbeddedError, match=r"holds PostgreSQL 11 data; installed: \[16, 18\]"):
        await EmbeddedPostgres(data).start()
    assert [entry.name for entry in (data / "cluster").iterdir()] == ["PG_VERSION"]


@both
async def test_a_wheel_that_is_not_installed(
    data: Path, kind: type[EmbeddedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(EmbeddedError, match="is not installed: install aos with the extra `stack`"):
        await kind(data).start()


@root_only
async def test_root_is_told_when_its_server_could_not_reach_the_data(data: Path) -> None:
    data.parent.chmod(0o700)
    with pytest.raises(
        EmbeddedError,
        match=r"runs as nobody, who cannot enter .*choose a data folder elsewhere, such as /var",
    ):
        await EmbeddedPostgres(data).start()
    assert data.parent.stat().st_mode & 0o777 == 0o700


@root_only
async def test_root_s_server_gets_a_copy_of_programs_that_it_cannot_reach(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_others_enter", lambda path: path == data)
    for _ in range(2):
        async with EmbeddedPostgres(data, durable=False) as server:
            program = Path(f"/proc/{server.child.pid}/exe").readlink()
            assert program.is_relative_to(data / "programs")
            assert await query(server, "SELECT 1") == 1
            await query(server, "DO $$ BEGIN NULL; END $$")  # a library of its own is found, too
    assert len(list((data / "programs").iterdir())) == 1


@root_only
async def test_root_s_server_is_not_root(data: Path) -> None:
    async with EmbeddedPostgres(data, durable=False) as server:
        assert Path(f"/proc/{server.child.pid}").stat().st_uid != 0


PARENT = """
import asyncio, json, sys
sys.path[:0] = {path!r}
from pathlib import Path
from aos_cli.embedded import EmbeddedPostgres, EmbeddedValkey

async def main():
    data = Path({data!r})
    async with EmbeddedPostgres(data / "postgres", durable=False) as postgres, EmbeddedValkey(data / "valkey") as valkey:
        print(json.dumps([postgres.child.pid, valkey.child.pid]), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@linux_only
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_nothing_is_left_running(data: Path, how: signal.Signals) -> None:
    for _ in range(2):  # the second run starts on what the first left behind
        parent = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            PARENT.format(path=sys.path, data=str(data)),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert parent.stdout is not None
        pids = json.loads(await parent.stdout.readline())
        parent.send_signal(how)
        await parent.wait()
        for pid in pids:
            await until_gone(pid)
    assert "database system is shut down" in (data / "postgres" / "postgres.log").read_text()
