"""PostgreSQL stopped, killed, exhausted, closed or full: 503 in time, nothing half-written, and on without a restart."""

import asyncio
import os
import pwd
import secrets
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import httpx
import pytest
import pytest_asyncio
from sqlalchemy import text

from aos_cli.embedded import EmbeddedPostgres
from aos_dispatcher.console import open_database
from aos_dispatcher.database import Database as Store
from aos_dispatcher.errors import Unavailable
from aos_dispatcher.operators import pin_model, register_operator
from aos_dispatcher.projects import create_project
from aos_dispatcher.settings import Database
from aos_protocol.evidence import check_evidence
from aos_protocol.identity import Signer
from aos_service.database import database_url, ensure_database, migrate
from support.calibration import calibration
from support.operators import MODEL, ScriptedOperator
from support.stopping import stopped

Network: TypeAlias = Any  # of conftest.py, which is no module to import

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATIENCE_S = 20
"""A request that has no answer by then hangs: the settings below bound every wait by 2 s."""
WAITS = {"connect_timeout": 1, "acquire_timeout": 0.5, "statement_timeout": 1}
POOL = {"min_connect_pool": 1, "max_connect_pool": 2}
ORDERS = 6
"""More than connections, fewer than would take long."""
JOB_ID = "ab" * 32
READS = [
    "/readyz",
    f"/api/job/evidence/{JOB_ID}",
    "/api/log/head",
    "/api/operator/list",
    "/api/model/list",
    f"/api/operator/standing/0x{'12' * 20}",
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(server_data: Path) -> AsyncIterator[EmbeddedPostgres]:
    """A PostgreSQL of this module's own, which it may mistreat; what it has committed survives that."""
    async with EmbeddedPostgres(server_data / "mistreated") as postgres:
        url = database_url(postgres.url("template"))
        await ensure_database(url)
        await migrate(url, "dispatcher")
        yield postgres


async def run(server: EmbeddedPostgres, *statements: str) -> None:
    """Run statements outside a transaction, as the server's administrator."""
    url = database_url(server.url("postgres"))
    connection = await asyncpg.connect(**url.get_dialect()().create_connect_args(url)[1])
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@asynccontextmanager
async def patiently(network: Network) -> AsyncIterator[Store]:
    """A network's database, which is waited for; the dispatcher itself waits for nothing for long."""
    patience = {"connect_timeout": PATIENCE_S, "acquire_timeout": PATIENCE_S, "statement_timeout": PATIENCE_S}
    database = network.settings.database.model_copy(update=patience)
    store = open_database(network.settings.model_copy(update={"database": database}))
    try:
        yield store
    finally:
        await store.close()


@pytest_asyncio.fixture(loop_scope="module")
async def network(server: EmbeddedPostgres, make_network: Any) -> AsyncIterator[Network]:
    """A dispatcher on that server that waits for nothing for long, and an operator."""
    name = f"away_{secrets.token_hex(4)}"
    await run(server, f"CREATE DATABASE {name} TEMPLATE template")
    running = make_network(server.url(name))
    database = Database.model_validate({"url": server.url(name)} | WAITS | POOL)
    running.settings = running.settings.model_copy(update={"database": database})
    operator = ScriptedOperator(Signer.generate(), "")
    async with patiently(running) as store:
        running.token = await create_project(store, "shop", private=False)
        await pin_model(store, "opml", MODEL, calibration(MODEL.sha256))
        await register_operator(store, operator.signer.address)
    await running.start()
    running.client.timeout = httpx.Timeout(PATIENCE_S)
    operator.url = running.ws
    while (await operator.connect())["code"] != 200:  # a slow machine may take the database for away
        await operator.close()
    yield running
    await operator.close()
    await running.stop()


async def answered(network: Network, path: str) -> httpx.Response:
    """Ask until the database answers so impatient a dispatcher."""
    while (answer := await network.client.get(path)).status_code == 503:
        await asyncio.sleep(0.02)
    assert answer.status_code == 200, answer.text
    whole: httpx.Response = answer
    return whole


async def order(network: Network, n: int, **job: Any) -> httpx.Response:
    """Submit the n-th job, which however often it is submitted is one."""
    body = network.body(user=f"user {n}")
    body["job"] |= job
    key = {"Idempotency-Key": f"order-{n}"}
    answer: httpx.Response = await network.post("/api/job/submit", body, headers=key)
    return answer


async def ordered(network: Network, n: int, **job: Any) -> str:
    """Submit the n-th job until it is accepted; its id."""
    while (answer := await order(network, n, **job)).status_code == 503:
        assert int(answer.headers["retry-after"]) >= 1
        await asyncio.sleep(0.05)
    assert answer.status_code == 200, answer.text
    job_id: str = answer.json()["result"]
    return job_id


async def everything(network: Network) -> list[httpx.Response]:
    """Ask for all that needs the database, at the same time, more than it has connections."""
    bearer = {"Authorization": f"Bearer {network.token}"}
    named = {"job_id": JOB_ID}
    posts = [network.post(f"/api/job/{path}", named) for path in ("result", "detail")]
    posts += [network.post("/api/job/cancel", named, headers=bearer)]
    gets = [network.client.get(path) for path in READS]
    return await asyncio.gather(*posts, *gets, *(order(network, n) for n in range(ORDERS)))


def assert_away(answers: list[httpx.Response]) -> None:
    for answer in answers:
        assert answer.status_code == 503, (answer.url, answer.text)
        assert answer.json()["code"] == 503
        assert int(answer.headers["retry-after"]) >= 1


async def ended(network: Network, job_id: str) -> str:
    """The status that a job ends with; a slow machine may take the database for away now and then."""
    while True:
        answer = await network.post("/api/job/detail", {"job_id": job_id})
        if answer.status_code == 200 and answer.json()["result"]["finished_at"]:
            status: str = answer.json()["result"]["status"]
            return status
        assert answer.status_code in {200, 503}, answer.text
        await asyncio.sleep(0.02)


async def assert_whole(network: Network, job_ids: list[str]) -> None:
    """Exactly these jobs are stored, gapless, each with its round and its entries in the log, and each comes to its end."""
    assert len(set(job_ids)) == len(job_ids)
    for job_id in job_ids:
        assert await ended(network, job_id) == "completed"
    async with patiently(network) as store, store.connect() as connection:
        jobs = (await connection.execute(text("select id from jobs order by sequence"))).scalars().all()
        numbers = (await connection.execute(text("select sequence from jobs order by 1"))).scalars().all()
        rounds = (await connection.execute(text("select job_id from rounds order by 1"))).scalars().all()
        events = text("select job_id, entry from log_entries union all select job_id, entry from log_pending")
        entries = (await connection.execute(events)).all()
    assert sorted(jobs) == sorted(job_ids) == rounds
    assert numbers == list(range(1, len(jobs) + 1))
    logged = Counter(job_id for job_id, entry in entries if '"kind":"job"' in entry)
    assert logged == Counter(job_ids)
    document = (await answered(network, f"/api/job/evidence/{job_ids[-1]}")).json()
    checks = check_evidence(document, dispatcher=network.signer.address, job_id=job_ids[-1])
    unpassed = [check for check in checks if check.status != "PASS"]
    assert [check for check in unpassed if "nobody was asked to score" not in check.what] == []


async def test_a_server_that_is_stopped_costs_503_in_time(network: Network, server: EmbeddedPostgres) -> None:
    first = await ordered(network, 100)
    assert await ended(network, first) == "completed"
    assert server.child.pid is not None
    with stopped(server.child.pid):
        assert_away(await everything(network))
        assert_away(await everything(network))
        assert (await network.client.get("/healthz")).status_code == 200
        assert (await network.client.get("/metrics")).status_code == 200
    rest = await asyncio.gather(*(ordered(network, n) for n in range(ORDERS)))
    await answered(network, "/readyz")
    await assert_whole(network, [first, *rest])


async def test_a_server_that_is_killed_and_started_again_loses_nothing(
    network: Network, server: EmbeddedPostgres
) -> None:
    accepted: list[str] = []

    async def client(first: int) -> None:
        for n in range(first, first + 4):
            job_id = await ordered(network, n)
            accepted.append(job_id)

    clients = [asyncio.create_task(client(n)) for n in (0, 4, 8)]
    while not accepted:
        await asyncio.sleep(0.01)
    assert server.child.pid is not None
    os.kill(server.child.pid, signal.SIGKILL)
    await server.stop()
    assert_away([await network.client.get("/readyz"), await order(network, 0)])
    await server.start()
    await asyncio.gather(*clients)
    await assert_whole(network, accepted)


async def test_when_all_connections_are_taken_others_are_told_to_come_again(network: Network) -> None:
    async with AsyncExitStack() as taken:
        for _ in range(POOL["max_connect_pool"]):
            await take(network, taken)
        assert_away(await everything(network))
    rest = await asyncio.gather(*(ordered(network, n) for n in range(ORDERS)))
    await assert_whole(network, list(rest))


async def take(network: Network, taken: AsyncExitStack) -> None:
    """Take one of the dispatcher's connections, whatever it does itself just now."""
    while True:
        with suppress(Unavailable):
            await taken.enter_async_context(network.dispatcher.database.connect())
            return


async def test_a_server_that_takes_no_connections_is_away_too(
    network: Network, server: EmbeddedPostgres
) -> None:
    """As while it starts, shuts down or has too many: PostgreSQL's own errors, when a connection is opened."""
    name = database_url(network.settings.database.url.get_secret_value()).database
    ended = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    await run(server, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false", ended)
    while (await network.client.get("/readyz")).status_code == 200:  # by one that was being opened
        await run(server, ended)
    assert_away(await everything(network))
    await run(server, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    rest = await asyncio.gather(*(ordered(network, n) for n in range(ORDERS)))
    await assert_whole(network, list(rest))


_IDLE = "idle_in_transaction_session_timeout"


async def test_a_process_that_stands_still_holds_up_the_others_for_a_while_only(network: Network) -> None:
    """As a dispatcher does that is stopped, or whose machine sleeps, in the middle of storing jobs."""
    stored = [await ordered(network, 100)]
    still = open_database(network.settings)

    async def stand_still() -> None:
        async with still.begin() as connection:
            bound = (await connection.execute(text(f"show {_IDLE}"))).scalar_one()
            await connection.execute(text(f"set local {_IDLE} = 0"))
            await connection.execute(text("select * from counters where name = 'jobs' for update"))
            assert_away([await order(network, 0)])
            await connection.execute(text(f"set local {_IDLE} = '{bound}'"))
            stored.extend(await asyncio.gather(*(ordered(network, n) for n in range(ORDERS))))

    with pytest.raises(Unavailable):
        await stand_still()
    await still.close()
    await assert_whole(network, stored)


@contextmanager
def tight(folder: Path) -> Iterator[Path]:
    """A file system of 384 KiB for the server, in memory."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=384k", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        folder.rmdir()
        pytest.skip(f"a small file system needs the right to mount one: {mounted.stderr.decode().strip()}")
    try:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


async def test_a_disk_that_is_full_stores_a_job_wholly_or_not_at_all(
    network: Network, server: EmbeddedPostgres, server_data: Path
) -> None:
    """The jobs lie on a disk of their own, since a full one under the write-ahead log would stop the server."""
    prompts = [secrets.token_hex(14_000) for _ in range(16)]
    with tight(server_data / "tight") as folder:
        await run(server, f"CREATE TABLESPACE tight LOCATION '{folder}'")
        await move(network, "tight")
        answers = [await order(network, n, prompt=prompt) for n, prompt in enumerate(prompts)]
        assert {answer.status_code for answer in answers} == {200, 503}
        assert_away([answer for answer in answers if answer.status_code != 200])
        await move(network, "pg_default")
        rest = [await ordered(network, n, prompt=prompt) for n, prompt in enumerate(prompts)]
        told = [answer.json()["result"] for answer in answers if answer.status_code == 200]
        assert set(told) < set(rest)
        await assert_whole(network, rest)
        await run(server, "DROP TABLESPACE tight")


async def move(network: Network, tablespace: str) -> None:
    """Move the jobs to another disk, as somebody who makes room does."""
    async with patiently(network) as store, store.begin() as connection:
        await connection.execute(text(f"alter table jobs set tablespace {tablespace}"))
