"""API tokens on a real database: made, listed, rotated and revoked by commands, and what they may do over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from sqlalchemy import event, text, update
from sqlalchemy.ext.asyncio import create_async_engine
from structlog.testing import capture_logs
from typer.testing import CliRunner

from aos_dispatcher.attempts import caller_address
from aos_dispatcher.database import Database
from aos_dispatcher.errors import Forbidden, TooManyGuesses, Unauthorized
from aos_dispatcher.main import app
from aos_dispatcher.projects import CACHE_S, Projects, create_project
from aos_dispatcher.settings import Limits
from aos_dispatcher.tables import ApiToken
from aos_dispatcher.tokens import Grant, create_token, present, revoke_token
from aos_service.database import database_url, migrate
from support.tokens import token as token_of

MOST = Limits().wrong_tokens
OLD = "aos_" + "x_-" * 14 + "y"
"""A token of the form of before."""


class Console:
    """Runs `dispatcher` commands on a network's database."""

    def __init__(self, network: Any, folder: Path) -> None:
        self._config = folder / "config.yaml"
        self._config.write_text(
            yaml.safe_dump(
                {
                    "database": {"url": network.settings.database.url.get_secret_value()},
                    "identity": {"signer_key": "11" * 32},
                }
            )
        )

    async def __call__(self, *arguments: str, status: int = 0) -> str:
        """What a command printed, to stderr when it is to fail."""
        line = [*arguments, "-c", str(self._config)]
        with capture_logs():  # what the dispatcher of this process logs meanwhile would stand in the output
            ran = await asyncio.to_thread(CliRunner().invoke, app, line)
        assert ran.exit_code == status, ran.output
        return (ran.stderr if status else ran.stdout).strip()

    async def rows(self, *project: str) -> list[list[str]]:
        return [line.split("\t") for line in (await self("token", "list", *project)).splitlines()]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def console(network: Any, tmp_path: Path) -> Console:
    return Console(network, tmp_path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def projects(network: Any, clock: Clock) -> Projects:
    """Another dispatcher's view of the same database, on a clock of its own."""
    return Projects(network.dispatcher.database, MOST, clock)


@asynccontextmanager
async def queries(network: Any) -> AsyncIterator[list[str]]:
    """Every statement meanwhile that reads or writes tokens."""
    seen: list[str] = []

    def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
        if "api_tokens" in statement:
            seen.append(statement.split(maxsplit=1)[0])

    engine = network.dispatcher.database._engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


def id_of(token: str) -> str:
    presented = present(token)
    assert presented is not None
    assert presented.id is not None
    return presented.id


async def change(network: Any, token: str, **values: Any) -> None:
    presented = present(token)
    assert presented is not None
    async with network.dispatcher.database.begin() as connection:
        await connection.execute(update(ApiToken).where(ApiToken.digest == presented.digest).values(**values))


async def test_a_token_of_a_project_is_made_listed_and_used(network: Any, console: Console) -> None:
    await network.operator()
    made = await console("token", "create", "shop", "--scope", "submit", "--days", "90")
    first, second = await console.rows("shop")
    assert first[:4] == [id_of(network.token), "shop", "submit,read,manage", "active"]
    assert first[5:] == ["-", "-"]
    assert second[:4] == [id_of(made), "shop", "submit", "active"]
    end = datetime.strptime(second[5], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    assert timedelta(days=89.9) < end - datetime.now(UTC) <= timedelta(days=90)
    await network.submit(verify=made)
    assert (await console.rows("shop"))[1][6] != "-"
    assert await console.rows("nobody") == []
    listed = await console("token", "list")
    assert made not in listed
    assert made[-49:] not in listed


async def test_only_digests_are_stored(network: Any, console: Console) -> None:
    made = await console("token", "create", "shop")
    async with network.dispatcher.database.connect() as connection:
        rows = (await connection.execute(text("select t::text from api_tokens t"))).scalars().all()
    assert len(rows) == 2
    assert not any(made[17:] in row or network.token[17:] in row for row in rows)


async def test_scopes_are_kept_apart(network: Any, console: Console) -> None:
    await network.operator()
    await network.project("quiet", private=True)
    job_id = await network.submit(**{"from": "quiet"})
    tokens = {
        scope: await console("token", "create", "quiet", "--scope", scope)
        for scope in ("submit", "read", "manage")
    }
    for scope, token in tokens.items():
        bearer = {"Authorization": f"Bearer {token}"}
        job, submitted = {"job_id": job_id}, network.body(**{"from": "quiet"}, verify=token)
        answers = {
            "submit": await network.post("/api/job/submit", submitted),
            "read": await network.post("/api/job/detail", job, headers=bearer),
            "manage": await network.post("/api/job/cancel", job, headers=bearer),
        }
        for what, answer in answers.items():
            assert answer.status_code == (200 if what == scope else 403), (scope, what, answer.text)
            if what != scope:
                assert answer.json()["message"] == f"the API token may not {what}: its scopes are {scope}"


async def test_a_rotated_token_works_for_its_grace_and_the_new_one_may_do_the_same(
    network: Any, console: Console, projects: Projects
) -> None:
    old = await console("token", "create", "shop", "--scope", "read", "--days", "10")
    new = await console("token", "rotate", id_of(old), "--grace", "2")
    for token in (old, new):
        await projects.authorise(token, "shop", "read")
    _, was, now = await console.rows()
    assert now[2] == "read"
    ends = [datetime.strptime(row[5], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC) for row in (was, now)]
    assert timedelta(hours=1.9) < ends[0] - datetime.now(UTC) <= timedelta(hours=2)
    assert timedelta(days=9.9) < ends[1] - datetime.now(UTC) <= timedelta(days=10)
    at_once = await console("token", "rotate", id_of(new), "--grace", "0")
    with pytest.raises(Unauthorized, match="has expired"):
        await Projects(network.dispatcher.database, MOST).authorise(new, "shop", "read")
    await projects.authorise(at_once, "shop", "read")
    assert "does not work any more" in await console("token", "rotate", id_of(new), status=1)


async def test_an_expired_token_is_refused_at_once_although_it_is_remembered(
    network: Any, projects: Projects, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = datetime.now(UTC) + timedelta(hours=1)
    token = await create_token(network.dispatcher.database, Grant("shop", expires_at=ends))
    await projects.authorise(token, "shop", "submit")
    monkeypatch.setattr("aos_dispatcher.projects.datetime", SimpleNamespace(now=lambda _zone: ends))
    async with queries(network) as asked:
        with pytest.raises(Unauthorized, match="the API token has expired"):
            await projects.authorise(token, "shop", "submit")
    assert asked == []


async def test_a_revoked_token_is_refused_when_what_is_remembered_is_old(
    network: Any, console: Console, projects: Projects, clock: Clock
) -> None:
    await projects.authorise(network.token, "shop", "submit")
    said = await console("token", "revoke", id_of(network.token))
    assert said == f"revoked; every dispatcher refuses it within {CACHE_S:g} seconds"
    await projects.authorise(network.token, "shop", "submit")
    clock.now += CACHE_S
    for _ in range(MOST + 1):  # who has the secret does not guess
        with pytest.raises(Unauthorized, match="the API token was revoked"):
            await projects.authorise(network.token, "shop", "submit")
    assert (await console.rows())[0][3] == "revoked"
    assert "does not work any more" in await console("token", "rotate", id_of(network.token), status=1)
    answer = await network.post("/api/job/submit", network.body())
    assert answer.status_code == 401


async def test_a_busy_project_costs_a_query_in_some_seconds_and_a_write_in_an_hour(
    network: Any, projects: Projects, clock: Clock
) -> None:
    async with queries(network) as asked:
        for _ in range(50):
            await projects.authorise(network.token, "shop", "submit")
        assert asked == ["SELECT", "UPDATE"]
        clock.now += CACHE_S
        await projects.authorise(network.token, "shop", "submit")
        assert asked == ["SELECT", "UPDATE", "SELECT"]
        await change(network, network.token, last_used_at=datetime.now(UTC) - timedelta(hours=1))
        clock.now += CACHE_S
        del asked[:]
        await projects.authorise(network.token, "shop", "submit")
        assert asked == ["SELECT", "UPDATE"]


async def test_a_token_of_before_works_and_can_be_listed_rotated_and_revoked(
    network: Any, console: Console, projects: Projects
) -> None:
    presented = present(OLD)
    assert presented is not None
    async with network.dispatcher.database.begin() as connection:
        # As a dispatcher of before makes it.
        await connection.execute(
            text("insert into api_tokens (digest, project_id) values (:digest, 'shop')"),
            {"digest": presented.digest},
        )
    for scope in ("submit", "read", "manage"):
        await projects.authorise(OLD, "shop", scope)
    shown = next(row for row in await console.rows() if row[0] != id_of(network.token))
    assert shown[:4] == [presented.digest[:12], "shop", "submit,read,manage", "active"]
    new = await console("token", "rotate", shown[0])
    await projects.authorise(new, "shop", "manage")
    await console("token", "revoke", shown[0])
    with pytest.raises(Unauthorized, match="was revoked"):
        await Projects(network.dispatcher.database, MOST).authorise(OLD, "shop", "read")


async def test_the_right_id_with_another_secret_is_nobody_s(network: Any, projects: Projects) -> None:
    """Its checksum is good, and the database has the id: only the digest tells."""
    made = token_of(id_of(network.token), "g" * 43)
    with pytest.raises(Unauthorized, match="is not known here"):
        await projects.authorise(made, "shop", "submit")
    await projects.authorise(network.token, "shop", "submit")


async def test_guessing_is_answered_429_and_asks_the_database_nothing(network: Any) -> None:
    made = token_of(id_of(network.token), "g" * 43)
    for _ in range(MOST):
        answer = await network.post("/api/job/submit", network.body(verify=made))
        assert answer.status_code == 401
    async with queries(network) as asked:
        for token in (made, network.token):
            answer = await network.post("/api/job/submit", network.body(verify=token))
            assert answer.status_code == 429
            assert 1 <= int(answer.headers["Retry-After"]) <= 60
            assert answer.json() == {"code": 429, "message": answer.json()["message"]}
    assert asked == []
    public = await network.client.get("/api/log/head")
    assert public.status_code == 200


async def test_another_address_is_not_punished(projects: Projects, network: Any) -> None:
    caller_address.set("192.0.2.1")
    for _ in range(MOST):
        with pytest.raises(Unauthorized):
            await projects.authorise("aos_guess", "shop", "submit")
    with pytest.raises(TooManyGuesses):
        await projects.authorise(network.token, "shop", "submit")
    caller_address.set("192.0.2.2")
    await projects.authorise(network.token, "shop", "submit")


async def test_a_token_of_another_project_is_forbidden(network: Any, projects: Projects) -> None:
    other = network.token
    await network.project("elsewhere")
    with pytest.raises(Forbidden, match="is not one of a project 'elsewhere'"):
        await projects.authorise(other, "elsewhere", "submit")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create", "nobody"), "there is no project 'nobody'"),
        (("create", "shop", "--scope", "all"), "there is no scope all: choose of submit, read, manage"),
        (("rotate", "nothing"), "there is no token of this id"),
        (("revoke", "aos_4fzNqS0bX9aT_" + "s" * 49), "there is no token of this id"),
    ],
)
async def test_what_cannot_be_done_is_told_in_one_line(
    console: Console, arguments: tuple[str, ...], said: str
) -> None:
    told = await console("token", *arguments, status=1)
    assert told.startswith(f"dispatcher: {said}")
    assert len(told.splitlines()) == 1
    assert "s" * 49 not in told


async def test_going_back_to_a_version_without_scopes_gives_no_token_more_than_it_had(
    new_database: Any,
) -> None:
    url = database_url(await new_database("dispatcher"))
    database = Database(create_async_engine(url))
    whole = await create_project(database, "shop", private=False)
    ends = datetime.now(UTC) + timedelta(days=1)
    await create_token(database, Grant("shop", ("submit",)))
    await create_token(database, Grant("shop", expires_at=ends))
    await revoke_token(database, id_of(await create_token(database, Grant("shop"))))
    await migrate(url, "dispatcher", "0004")
    async with database.connect() as connection:
        left = (await connection.execute(text("select digest from api_tokens"))).scalars().all()
    presented = present(whole)
    assert presented is not None
    assert left == [presented.digest]
    await migrate(url, "dispatcher")
    await Projects(database, MOST).authorise(whole, "shop", "manage")
    await database.close()
