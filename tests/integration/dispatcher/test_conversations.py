"""Conversations: they grow by whole answers only, one request at a time, belong to one project, and end."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import httpx
import pytest
import pytest_asyncio
from sqlalchemy import func, insert, select, text

from aos_dispatcher.conversations import Conversations, Turn
from aos_dispatcher.errors import Conflict, NotFound, Unprocessable
from aos_dispatcher.projects import create_project
from aos_dispatcher.settings import Gateway
from aos_dispatcher.tables import Conversation
from aos_dispatcher.tokens import Grant, create_token

Network: TypeAlias = Any  # of conftest.py, which is no module to import
HELLO = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
MORE = [{"role": "user", "content": "And what is 2 + 2?"}]


@pytest.fixture
def talks(network: Network) -> Conversations:
    """The conversations of a running dispatcher."""
    kept: Conversations = network.dispatcher.front.conversations
    return kept


async def start(network: Network, id_: str, messages: list[dict[str, Any]]) -> Turn:
    """Begin a request of a conversation of the project."""
    turn: Turn = await network.dispatcher.front.conversations.begin("shop", id_, messages)
    return turn


async def said(network: Network, id_: str, messages: list[dict[str, Any]], answer: str) -> Turn:
    """One request of a conversation, answered."""
    turn = await start(network, id_, messages)
    assert await turn.finish(answer)
    return turn


async def execute(network: Network, statement: str, **values: Any) -> None:
    async with network.dispatcher.database.begin() as connection:
        await connection.execute(text(statement), values)


async def count(network: Network) -> int:
    async with network.dispatcher.database.connect() as connection:
        return (await connection.execute(select(func.count()).select_from(Conversation))).scalar_one()


def bound(network: Network, lease: float = 600, **settings: Any) -> Conversations:
    """What another process of this dispatcher has, under other settings; nobody runs it."""
    return Conversations(network.dispatcher.database, Gateway.model_validate(settings), lease)


@pytest.fixture
def unswept(talks: Conversations, monkeypatch: pytest.MonkeyPatch) -> Conversations:
    """The conversations of the running dispatcher, which deletes nothing by itself."""

    async def leave() -> int:
        return 0

    monkeypatch.setattr(talks, "sweep", leave)
    return talks


async def test_a_request_brings_what_is_new_and_the_prompt_has_all(network: Network) -> None:
    assert (await said(network, "one", HELLO, "Hello!")).messages == HELLO
    turn = await said(network, "one", MORE, "4")
    assert turn.messages == [*HELLO, {"role": "assistant", "content": "Hello!"}, *MORE]
    row = await network.dispatcher.front.conversations.get("shop", "one")
    assert row.messages == [*turn.messages, {"role": "assistant", "content": "4"}]
    assert (row.turns, row.bytes) == (2, len(json.dumps(row.messages, separators=(",", ":"))))
    assert row.lease is None


async def test_an_answer_that_failed_or_was_left_adds_nothing(network: Network, talks: Conversations) -> None:
    await said(network, "one", HELLO, "Hello!")
    async with await start(network, "one", MORE) as turn:
        pass
    assert not await turn.finish("too late")
    async with await start(network, "one", MORE) as again:
        assert again.messages == turn.messages
        turn.drop()
        assert await again.finish("4")
    assert (await talks.get("shop", "one")).turns == 2


async def test_one_that_never_had_an_answer_is_none(network: Network, talks: Conversations) -> None:
    turn = await start(network, "one", HELLO)
    with pytest.raises(NotFound):
        await talks.get("shop", "one")
    turn.drop()
    async with asyncio.timeout(30):
        while await count(network):
            await asyncio.sleep(0.01)


async def test_while_one_request_is_answered_the_next_is_told_to_wait(network: Network) -> None:
    turn = await start(network, "one", HELLO)
    with pytest.raises(Conflict, match="conversation 'one' is being answered") as refused:
        await start(network, "one", MORE)
    assert refused.value.retry_after == 1
    assert await turn.finish("Hello!")
    assert (await said(network, "one", MORE, "4")).messages[-1] == MORE[0]


async def test_of_many_at_once_over_two_processes_one_is_answered(network: Network) -> None:
    both = [network.dispatcher.front.conversations, bound(network)]
    outcomes = await asyncio.gather(
        *(both[n % 2].begin("shop", "new", [{"role": "user", "content": str(n)}]) for n in range(16)),
        return_exceptions=True,
    )
    turns = [outcome for outcome in outcomes if isinstance(outcome, Turn)]
    assert len(turns) == 1
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 15
    assert await turns[0].finish("yes")
    assert await count(network) == 1


async def test_a_lease_is_renewed_while_its_process_lives_and_ends_with_it(network: Network) -> None:
    dying = bound(network, lease=0.3)
    living = asyncio.create_task(dying.run())
    turn = await dying.begin("shop", "one", HELLO)
    before = await _lease_until(network)
    async with asyncio.timeout(30):
        while await _lease_until(network) == before:
            await asyncio.sleep(0.01)
    living.cancel()
    async with asyncio.timeout(30):  # it is killed
        while True:
            try:
                taken = await start(network, "one", HELLO)
                break
            except Conflict:
                await asyncio.sleep(0.02)
    assert not await turn.finish("of a process that came back")
    assert await taken.finish("Hello!")
    assert (await network.dispatcher.front.conversations.get("shop", "one")).turns == 1


async def _lease_until(network: Network) -> Any:
    async with network.dispatcher.database.connect() as connection:
        return (await connection.execute(select(Conversation.lease_until))).scalar_one()


async def test_a_system_message_stands_at_the_start_only(network: Network) -> None:
    with pytest.raises(Unprocessable, match="a system message can only be the first of conversation 'one'"):
        await start(network, "one", [*MORE, *HELLO])
    await said(network, "one", HELLO, "Hello!")
    with pytest.raises(Unprocessable, match="a request brings what is new"):
        await start(network, "one", HELLO)
    assert (await said(network, "one", MORE, "4")).messages[0]["role"] == "system"


@pytest.mark.parametrize(
    ("settings", "stored", "new"),
    [
        ({"conversation_turns": 1}, 1, MORE),
        ({"conversation_bytes": 1024}, 1, [{"role": "user", "content": "x" * 1024}]),
        ({}, 1, MORE * 1023),
        ({}, 0, MORE * 1024),
    ],
)
async def test_a_full_conversation_is_refused_by_name_and_stays_as_it_is(
    network: Network, settings: dict[str, int], stored: int, new: list[dict[str, Any]]
) -> None:
    talks = bound(network, **settings)
    for _ in range(stored):
        assert await (await talks.begin("shop", "one", HELLO)).finish("Hello!")
    with pytest.raises(Unprocessable, match=r"conversation 'one' is full, with .* begin another"):
        await talks.begin("shop", "one", new)
    assert await count(network) == stored
    if stored:
        assert (await talks.get("shop", "one")).lease is None


async def test_a_project_has_only_so_many(network: Network) -> None:
    talks = bound(network, conversations=2)
    for name in ("one", "two"):
        assert await (await talks.begin("shop", name, HELLO)).finish("Hello!")
    with pytest.raises(Unprocessable, match="project 'shop' has 2 conversations, and no more are kept"):
        await talks.begin("shop", "three", HELLO)
    assert (await talks.begin("shop", "two", MORE)).messages[1:] != MORE
    await create_project(network.dispatcher.database, "other", private=False)
    assert (await talks.begin("other", "three", HELLO)).messages == HELLO


async def test_what_has_expired_is_forgotten_at_once_and_deleted_later(
    network: Network, unswept: Conversations
) -> None:
    await said(network, "old", HELLO, "Hello!")
    await said(network, "kept", HELLO, "Hello!")
    await execute(network, "update conversations set expires_at = now() where id = 'old'")
    with pytest.raises(NotFound):
        await unswept.get("shop", "old")
    assert [row.id for row in await unswept.of_project("shop", "", 9)] == ["kept"]
    assert (await said(network, "old", MORE, "4")).messages == MORE
    assert (await unswept.get("shop", "old")).turns == 1
    await execute(network, "update conversations set expires_at = now() where id = 'old'")
    assert await bound(network).sweep() == 1
    assert await count(network) == 1


async def test_each_request_lets_it_live_on(network: Network, talks: Conversations) -> None:
    await said(network, "one", HELLO, "Hello!")
    await execute(network, "update conversations set expires_at = now() + interval '1 minute'")
    await said(network, "one", MORE, "4")
    row = await talks.get("shop", "one")
    assert (row.expires_at - row.used_at).total_seconds() == 24 * 3600


@pytest.mark.usefixtures("unswept")
async def test_a_sweep_is_bounded_and_leaves_what_is_being_answered(network: Network) -> None:
    another = bound(network)
    turn = await start(network, "open", HELLO)
    async with network.dispatcher.database.begin() as connection:
        rows = [{"project_id": "shop", "id": str(n), "messages": []} for n in range(600)]
        await connection.execute(insert(Conversation).values(expires_at=func.now()), rows)
    await execute(network, "update conversations set expires_at = now() - interval '1 day'")
    assert [await another.sweep() for _ in range(3)] == [500, 100, 0]
    assert await turn.finish("Hello!")
    assert await count(network) == 1


class Reader:
    """A project's client of /v1/conversations."""

    def __init__(self, client: httpx.AsyncClient, token: str) -> None:
        self._client = client
        self._headers = {"Authorization": f"Bearer {token}"}

    async def get(self, path: str = "") -> httpx.Response:
        return await self._client.get(f"/v1/conversations{path}", headers=self._headers)

    async def delete(self, path: str) -> httpx.Response:
        return await self._client.delete(f"/v1/conversations{path}", headers=self._headers)


@pytest_asyncio.fixture
async def reader(network: Network) -> AsyncIterator[Reader]:
    yield Reader(network.client, network.token)


async def test_a_conversation_is_listed_read_and_deleted(network: Network, reader: Reader) -> None:
    for name in ("b", "a/1?", "c"):
        await said(network, name, HELLO, "Hello!")
    first = (await reader.get("?limit=2")).json()
    assert (first["code"], first["message"], first["object"]) == (0, "success", "list")
    assert [(one["id"], one["turns"]) for one in first["data"]] == [("a/1?", 1), ("b", 1)]
    assert first["has_more"]
    rest = (await reader.get("?limit=2&after=b")).json()
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == (["c"], False)
    shown = (await reader.get("/a%2F1%3F")).json()
    assert shown["messages"] == [*HELLO, {"role": "assistant", "content": "Hello!"}]
    assert (shown["object"], shown["expires_at"] - shown["used_at"]) == ("conversation", 86_400)
    gone = (await reader.delete("/b")).json()
    assert gone == {
        "id": "b",
        "object": "conversation.deleted",
        "deleted": True,
        "code": 0,
        "message": "success",
    }
    assert (await reader.get("/b")).status_code == (await reader.delete("/b")).status_code == 404


@pytest.mark.parametrize("path", ["/%00", "?after=%00", "/" + "x" * 129, "?limit=0", "?limit=101"])
async def test_what_can_be_no_id_is_refused_before_the_database_sees_it(reader: Reader, path: str) -> None:
    refused = await reader.get(path)
    assert refused.status_code == 422
    assert refused.json()["error"]["type"] == "invalid_request_error"


async def test_an_answer_to_a_deleted_conversation_brings_nothing_back(
    network: Network, reader: Reader
) -> None:
    await said(network, "one", HELLO, "Hello!")
    turn = await start(network, "one", MORE)
    assert (await reader.delete("/one")).status_code == 200
    assert not await turn.finish("4")
    assert await count(network) == 0


async def test_another_projects_conversation_is_the_same_as_none(network: Network, reader: Reader) -> None:
    await said(network, "one", HELLO, "Hello!")
    other = Reader(network.client, await create_project(network.dispatcher.database, "other", private=False))
    for said_of, said_of_none in (
        (await other.get("/one"), await other.get("/two")),
        (await other.delete("/one"), await other.delete("/two")),
    ):
        assert said_of.status_code == said_of_none.status_code == 404
        assert said_of.text.replace("one", "two") == said_of_none.text
    assert (await other.get()).json()["data"] == []
    turn = await network.dispatcher.front.conversations.begin("other", "one", MORE)
    assert turn.messages == MORE
    assert await turn.finish("4")
    assert (await reader.get("/one")).json()["turns"] == 1
    assert (await reader.get("/one")).json()["messages"][1] == HELLO[1]


async def test_who_may_use_is_not_who_may_read_or_delete(network: Network) -> None:
    await said(network, "one", HELLO, "Hello!")
    may = {
        scope: Reader(network.client, await create_token(network.dispatcher.database, Grant("shop", [scope])))
        for scope in ("submit", "read", "manage")
    }
    read = {scope: (await reader.get("/one")).status_code for scope, reader in may.items()}
    assert read == {"submit": 403, "read": 200, "manage": 403}
    assert (await may["submit"].get()).status_code == 403
    deleted = {scope: (await may[scope].delete("/one")).status_code for scope in ("submit", "read", "manage")}
    assert deleted == {"submit": 403, "read": 403, "manage": 200}
    assert (await Reader(network.client, "nobody's").get("/one")).status_code == 401
