"""`operator-runner` as people use it: setting up, mistakes, and what they are told."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from aos_protocol.identity import Signer
from integration.operator.fake_dispatcher import FakeDispatcher
from integration.operator.fake_worker import FakeWorker
from integration.operator.processes import OperatorProcess, run_command

NewDatabase = Callable[[None], Awaitable[str]]


async def rows(address: str, query: str) -> list[Any]:
    connection = await asyncpg.connect(address)
    try:
        return [row[0] for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def execute(address: str, statement: str) -> None:
    connection = await asyncpg.connect(address)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


class TestInit:
    async def test_it_creates_the_database_and_its_tables_and_again_changes_nothing(
        self, new_database: NewDatabase
    ) -> None:
        address = await new_database(None)
        await execute(address.rsplit("/", 1)[0] + "/postgres" + self.query(address), self.drop(address))
        first = await run_command("-i", address)
        assert (first.status, "was created and is up to date" in first.out) == (0, True), first.err
        await execute(address, "INSERT INTO clocks VALUES ('0x', 7)")
        second = await run_command("-i", address)
        assert (second.status, "is up to date" in second.out) == (0, True)
        assert await rows(address, "SELECT reserved FROM clocks") == [7]

    @pytest.mark.parametrize("name", ["", "another_database"])
    async def test_a_reset_without_the_right_name_drops_nothing(
        self, new_database: Callable[[str], Awaitable[str]], name: str
    ) -> None:
        address = await new_database("operator")
        await execute(address, "INSERT INTO clocks VALUES ('0x', 7)")
        ended = await run_command("-i", address, "--reset", stdin=f"{name}\n")
        assert ended.status == 2
        assert "nothing was dropped" in ended.err
        assert await rows(address, "SELECT reserved FROM clocks") == [7]

    async def test_a_confirmed_reset_empties_the_tables(
        self, new_database: Callable[[str], Awaitable[str]]
    ) -> None:
        address = await new_database("operator")
        name = (await rows(address, "SELECT current_database()"))[0]
        for confirm in ({"stdin": f"{name}\n"}, {"environment": {"AOS_CONFIRM_RESET": name}}):
            await execute(address, "INSERT INTO clocks VALUES ('0x', 7)")
            ended = await run_command("-i", address, "--reset", **confirm)
            assert ended.status == 0, ended.err
            assert await rows(address, "SELECT reserved FROM clocks") == []

    async def test_another_programs_tables_are_never_dropped(
        self, new_database: Callable[[str], Awaitable[str]]
    ) -> None:
        address = await new_database("dispatcher")
        name = (await rows(address, "SELECT current_database()"))[0]
        before = await rows(address, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
        ended = await run_command("-i", address, "--reset", environment={"AOS_CONFIRM_RESET": name})
        assert ended.status == 2
        assert "does not hold an operator's tables" in ended.err
        assert await rows(address, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == before

    async def test_a_server_that_is_not_there_is_named_without_the_password(self) -> None:
        ended = await run_command("-i", "postgres://somebody:secretpw@127.0.0.1:1/operator_db")
        assert ended.status == 1
        assert "no PostgreSQL server at postgresql://somebody:***@127.0.0.1:1/operator_db" in ended.err
        assert "secretpw" not in ended.err + ended.out

    def query(self, address: str) -> str:
        return "?" + address.split("?", 1)[1] if "?" in address else ""

    def drop(self, address: str) -> str:
        return f"DROP DATABASE {address.rsplit('/', 1)[1].split('?', maxsplit=1)[0]}"


class TestRun:
    async def test_it_works_with_a_keystore(
        self, tmp_path: Path, configuration: dict[str, Any], dispatcher: FakeDispatcher
    ) -> None:
        signer = Signer.from_hex(configuration["node"].pop("signer_key"))
        (tmp_path / "keystore.json").write_text(await asyncio.to_thread(signer.to_keystore, "pw"))
        (tmp_path / "password").write_text("pw\n")
        for name in ("keystore.json", "password"):
            (tmp_path / name).chmod(0o600)
        configuration["node"] |= {
            "keystore": str(tmp_path / "keystore.json"),
            "keystore_password_file": str(tmp_path / "password"),
        }
        async with FakeWorker().serving() as worker:
            configuration["net"]["worker_url"] = worker.url
            async with OperatorProcess(tmp_path, configuration).running():
                await dispatcher.run(dispatcher.world.job())

    async def test_who_is_not_registered_is_told_what_to_ask_for(
        self, tmp_path: Path, configuration: dict[str, Any], dispatcher: FakeDispatcher
    ) -> None:
        dispatcher.refuse = (
            "operator 0x19E7 is not registered here; ask the owner to run: dispatcher operator add"
        )
        async with FakeWorker().serving() as worker:
            configuration["net"]["worker_url"] = worker.url
            async with OperatorProcess(tmp_path, configuration).running() as operator:
                assert await operator.until_ended() == 3
                assert (
                    operator.log()
                    .splitlines()[-1]
                    .startswith("operator-runner: the dispatcher refuses operator 0x19E7")
                )
                assert "dispatcher operator add" in operator.log().splitlines()[-1]

    @pytest.mark.parametrize(
        ("group", "key", "value", "status", "said"),
        [
            ("queue", "queue_url", "redis://127.0.0.1:1/0", 1, "Redis"),
            ("db", "pg_db_url", "postgres://u:secretpw@127.0.0.1:1/x", 1, "no PostgreSQL server at"),
            ("net", "worker_url", "vsock://2:5005", 2, "has CID 2: an enclave's is 3 to 4294967295"),
        ],
    )
    async def test_what_is_missing_at_the_start_is_named(
        self,
        tmp_path: Path,
        configuration: dict[str, Any],
        group: str,
        key: str,
        value: str,
        status: int,
        said: str,
    ) -> None:
        configuration[group][key] = value
        async with OperatorProcess(tmp_path, configuration).running() as operator:
            assert await operator.until_ended() == status
            assert said in operator.log().splitlines()[-1]
            assert "secretpw" not in operator.log()

    async def test_a_database_without_tables_says_how_to_make_them(
        self, tmp_path: Path, configuration: dict[str, Any], new_database: NewDatabase
    ) -> None:
        configuration["db"]["pg_db_url"] = await new_database(None)
        async with OperatorProcess(tmp_path, configuration).running() as operator:
            assert await operator.until_ended() == 2
            assert "has no tables yet: run operator-runner -i" in operator.log().splitlines()[-1]

    async def test_tables_of_a_newer_version_are_left_alone(
        self, tmp_path: Path, configuration: dict[str, Any]
    ) -> None:
        await execute(
            configuration["db"]["pg_db_url"], "UPDATE alembic_version SET version_num = 'operator_9999'"
        )
        async with OperatorProcess(tmp_path, configuration).running() as operator:
            assert await operator.until_ended() == 2
            assert "update this program" in operator.log().splitlines()[-1]

    async def test_secrets_are_not_in_the_log(
        self, tmp_path: Path, configuration: dict[str, Any], dispatcher: FakeDispatcher
    ) -> None:
        async with FakeWorker().serving() as worker:
            configuration["net"]["worker_url"] = worker.url
            async with OperatorProcess(tmp_path, configuration).running() as operator:
                job = dispatcher.world.job("a prompt of somebody's own")
                await dispatcher.run(job)
                assert job.job_id in operator.log()
                assert "11" * 32 not in operator.log()
                assert "a prompt of somebody's own" not in operator.log()
