"""One dispatcher as two real processes: one is killed, stopped for a while, or restarted, and nobody notices but its log."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from aos_operator.backends.protocol import Execution, Hear
from aos_operator.stub import StubWorker
from aos_protocol.evidence import check_evidence
from aos_protocol.job import JobSpec
from integration.dispatcher.processes import OneDispatcher, one_dispatcher, operator
from support.balancer import balancing
from support.operators import MODEL

DRAIN_S = 600
"""As long as a test is patient; it ends that time itself."""


class HeldWorker(StubWorker):
    """A stub that answers once `go` is set."""

    def __init__(self) -> None:
        super().__init__({MODEL.name: MODEL.sha256})
        self.go = asyncio.Event()
        self.asked = asyncio.Semaphore(0)

    async def generate(
        self,
        job: JobSpec,
        seed: str,
        prover: str,
        execution: Execution | None = None,
        hear: Hear | None = None,
    ) -> dict[str, Any]:
        self.asked.release()
        await self.go.wait()
        return await super().generate(job, seed, prover, execution, hear)


class Network:
    """The dispatcher, and what its operators need."""

    def __init__(
        self, dispatcher: OneDispatcher, database: str, redis_url: str, stack: AsyncExitStack
    ) -> None:
        self.dispatcher = dispatcher
        self.worker = HeldWorker()
        self._database = database
        self._redis_url = redis_url
        self._stack = stack

    async def operator(self, at: int) -> str:
        """Run an operator, connected to process `at` first; all share one worker."""
        running = operator(self.dispatcher, self._database, self._redis_url, at=at, worker=self.worker)
        return await self._stack.enter_async_context(running)

    async def operators(self, *at: int) -> list[str]:
        found = [await self.operator(number) for number in at]
        for number in range(2):
            await self.dispatcher.operators_known(number, len(at))
        return found

    async def whole(self, number: int, jobs: list[str]) -> None:
        """Every job completes, its evidence checks, and their numbers have no gap."""
        sequence = []
        for job_id in jobs:
            detail = await self.dispatcher.ended(number, job_id)
            assert (detail["status"], detail["reason"]) == ("completed", "")
            document = await self.dispatcher.evidence(number, job_id)
            checks = check_evidence(document, dispatcher=self.dispatcher.signer.address, job_id=job_id)
            assert [check for check in checks if check.status == "FAIL"] == []
            sequence.append(document["job"]["sequence"])
        assert sorted(sequence) == list(range(1, len(jobs) + 1))


@pytest_asyncio.fixture
async def network(tmp_path: Path, new_database: Any, redis_url: str) -> AsyncIterator[Network]:
    async with AsyncExitStack() as stack:
        running = one_dispatcher(tmp_path, await new_database("dispatcher"), redis_url, drain=DRAIN_S)
        dispatcher = await stack.enter_async_context(running)
        made = Network(dispatcher, await new_database("operator"), redis_url, stack)
        yield made
        made.worker.go.set()
        for number in (0, 1):
            if dispatcher.children[number].returncode is None:
                dispatcher.signal(number, signal.SIGTERM)  # the first; the second ends the draining


async def test_a_killed_process_leaves_its_rounds_and_operators_to_the_other(network: Network) -> None:
    dispatcher = network.dispatcher
    await network.operators(0, 0, 1)
    jobs = [await dispatcher.submit(number % 2, user=f"user {number}") for number in range(6)]
    for _ in jobs:
        await network.worker.asked.acquire()
    await dispatcher.kill(0)
    network.worker.go.set()
    jobs.append(await dispatcher.submit(1))
    await network.whole(1, jobs)
    await dispatcher.operators_known(1, 3)


async def test_a_process_that_was_stopped_beyond_its_lease_does_no_harm(network: Network) -> None:
    """Its rounds are led by the other when it wakes up, and so are its operators' new connections."""
    dispatcher = network.dispatcher
    await network.operators(0, 1, 1)
    jobs = [await dispatcher.submit(0, user=f"user {number}") for number in range(4)]
    for _ in jobs:
        await network.worker.asked.acquire()
    dispatcher.signal(0, signal.SIGSTOP)
    await dispatcher.said(1, "another process of this dispatcher is gone")
    network.worker.go.set()
    for job_id in jobs:
        await dispatcher.ended(1, job_id)
    dispatcher.signal(0, signal.SIGCONT)
    await dispatcher.operators_known(0, 3)
    jobs.append(await dispatcher.submit(0, user="afterwards"))
    await network.whole(0, jobs)
    assert "internal error" not in dispatcher.log(0) + dispatcher.log(1)


@pytest.mark.timeout(120)  # four processes are started one after the other, beside their load
async def test_both_are_restarted_under_load_and_no_request_fails(network: Network) -> None:
    dispatcher = network.dispatcher
    await network.operators(0, 0, 1)
    network.worker.go.set()
    restarted, jobs = asyncio.Event(), list[str]()

    async def customer(name: int, url: str) -> None:
        """Submit a job and ask for its end, again and again; each customer keeps its connection, as clients do."""
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as client:
            while not restarted.is_set():
                body = dispatcher.body(user=f"user {name}")
                answer = await client.post("/api/job/submit", json=body)
                assert answer.status_code == 200, answer.text
                jobs.append(answer.json()["result"])
                status = "created"
                while status in {"created", "dispatched"}:
                    answer = await client.post("/api/job/detail", json={"job_id": jobs[-1]})
                    assert answer.status_code == 200, answer.text
                    status = answer.json()["result"]["status"]
                    await asyncio.sleep(0.02)

    async with balancing(dispatcher.urls) as balancer, asyncio.TaskGroup() as customers:
        for name in range(3):
            customers.create_task(customer(name, balancer.url))
        for number in (0, 1):
            served = len(jobs)
            while len(jobs) < served + 3:
                await asyncio.sleep(0.01)
            dispatcher.signal(number, signal.SIGTERM)
            await balancer.left(dispatcher.urls[number])
            dispatcher.signal(number, signal.SIGTERM)
            await dispatcher.children[number].until_ended()
            assert "draining: requests are served" in dispatcher.log(number)
            assert "request failed" not in dispatcher.log(number)
            await dispatcher.start(number)
        restarted.set()
    assert min(balancer.passed.values()) > 1
    await network.whole(0, jobs)
