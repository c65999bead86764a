"""Direct sessions where the client, the round's leader and the operator are at different processes of one dispatcher."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
import pytest_asyncio

from aos_cli import direct
from aos_cli.client import DispatcherClient
from aos_cli.direct import Opened, Wanted, open_session
from aos_cli.errors import CliError
from aos_dispatcher.operators import register_operator
from integration.dispatcher.several import Several, several
from support.direct_operators import LocalOperator
from support.operators import MODEL

WANTED = Wanted(MODEL.name, {}, "somebody", {"prompt": "About eleven metres a second, African or European."})


class Apart:
    """A client at process `a`; an operator, without an address of its own, at process `b`."""

    def __init__(self, cluster: Several) -> None:
        self.cluster = cluster
        self.operator = LocalOperator(cluster.b.ws, cluster.b.signer.address)

    async def start(self) -> None:
        await register_operator(self.cluster.b.dispatcher.database, self.operator.signer.address)
        await self.operator.start()
        await self.cluster.until(
            lambda: all(one.dispatcher.hub.get(self.operator.signer.address) for one in self.cluster.running)
        )

    def client(self, at: Any = None) -> DispatcherClient:
        network = at or self.cluster.a
        return DispatcherClient(str(network.client.base_url), token=network.token)

    async def open(self) -> Opened:
        async with self.client() as client:
            return await open_session(client, WANTED, dispatcher=self.cluster.a.signer.address)

    async def read(self, opened: Opened, at: Any = None) -> str:
        async with self.client(at) as client:
            return "".join([text async for text in direct.answer(client, opened)])


@pytest_asyncio.fixture
async def apart(new_database: Any, redis_url: str) -> AsyncIterator[Apart]:
    async with several(await new_database("dispatcher"), redis_url, reassign_after=60.0) as cluster:
        running = Apart(cluster)
        await running.start()
        yield running
        await running.operator.close()


@pytest.mark.parametrize("leader", ["a", "b"])
async def test_the_ciphertext_passes_between_processes_whoever_leads(apart: Apart, leader: str) -> None:
    _lead_only(apart, leader)
    opened = await apart.open()
    assert await apart.read(opened) == WANTED.said["prompt"]
    async with apart.client() as client:
        checks = await direct.verify(client, opened, dispatcher=apart.cluster.a.signer.address)
    assert not [check for check in checks if check.status == "FAIL"]
    assert "AOS-DIRECT-1" in {check.id for check in checks if check.status == "PASS"}


async def test_a_session_of_one_process_is_taken_by_the_other(apart: Apart) -> None:
    opened = await apart.open()
    assert await apart.read(opened, apart.cluster.b) == WANTED.said["prompt"]


async def test_the_process_that_leads_is_stopped_after_the_session_was_given(apart: Apart) -> None:
    """The other one takes the round up as it was stored: nobody else is asked, and the answer counts."""
    _lead_only(apart, "a")
    opened = await apart.open()
    _lead_only(apart, "b")
    await apart.cluster.a.stop()
    assert await apart.read(opened, apart.cluster.b) == WANTED.said["prompt"]
    detail = await apart.cluster.b.finished(opened.job_id)
    assert detail["status"] == "completed"
    assert [member["operator"] for member in detail["rounds"][0]["members"]] == [opened.session.operator]


async def test_an_operator_that_is_lost_while_it_answers_breaks_the_stream_and_the_job_says_so(
    apart: Apart,
) -> None:
    apart.operator.worker.go.clear()
    opened = await apart.open()
    async with apart.client() as client, aclosing(direct.answer(client, opened)) as texts:
        assert await anext(texts)
        await apart.operator.crash()
        with pytest.raises(CliError, match="cut short"):
            await anext(texts)
    for network in apart.cluster.networks:
        network.patient(0.05)
    detail = await apart.cluster.a.finished(opened.job_id)
    assert detail["status"] == "failed"
    assert "lost while it answered" in detail["reason"]


def _lead_only(apart: Apart, leader: str) -> None:
    """Let one process lease rounds, and the other none."""
    for name, network in (("a", apart.cluster.a), ("b", apart.cluster.b)):
        loop = network.dispatcher.loop
        concurrency = 256 if name == leader else 0
        loop._settings = loop._settings.model_copy(update={"concurrency": concurrency})
