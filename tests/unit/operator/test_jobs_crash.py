"""A crash before and after every step of a task."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from aos_operator.jobs import Jobs
from aos_operator.tasks import Request, TaskKey, TaskState
from aos_operator.workshop import Workshop
from aos_protocol.job import Claim
from support.enclave_workers import SimulatedEnclave
from unit.operator.parts import Parts, Worker
from unit.operator.world import OPERATOR, World

WORLD = World()


class Crash:
    """Stops a process for good at its n-th call across a boundary, before or after the call has its effect."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.left = at
        self.after = after
        self.happened = asyncio.Event()

    def around(self, boundary: Any) -> Any:
        """The same boundary, whose methods may never return."""
        crash = self

        class Fragile:
            def __getattr__(self, name: str) -> Any:
                method = getattr(boundary, name)

                async def call(*arguments: Any) -> Any:
                    crash.left -= 1
                    if crash.left < 0 or (crash.left == 0 and not crash.after):
                        await crash.die()
                    outcome = await method(*arguments)
                    if crash.left <= 0:
                        await crash.die()
                    return outcome

                return call

        return Fragile()

    async def die(self) -> None:
        self.happened.set()
        await asyncio.Event().wait()


STEPS = 13
"""Calls across a boundary from the dispatch to the end: 2 to take it, 4 to recover, 7 to run, send and close it."""


REQUESTS: dict[str, Callable[[], Request]] = {
    "dispatch": WORLD.job,
    "dispatch to an enclave": lambda: WORLD.job(kind="tee"),
    "call": WORLD.call,
    "call in a challenge": lambda: WORLD.call(challenge=1),
    "call for a claim": lambda: WORLD.call(WORLD.job(claim=Claim(text="What is AI?"))),
}


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", range(1, STEPS + 1))
async def test_a_crash_at_any_step_loses_nothing_and_accepts_one_answer(
    parts: Parts, enclave: SimulatedEnclave, at: int, after: bool, kind: str
) -> None:
    if kind == "dispatch to an enclave":
        parts.worker = Worker(enclave)
    crash, request = Crash(at, after=after), REQUESTS[kind]()
    store, queue, worker, post = map(crash.around, (parts.store, parts.queue, parts.worker, parts.post))
    first = Jobs(store, queue, Workshop(worker, OPERATOR.address, parts.post.domain), post, parts.limits)
    running, taking = asyncio.create_task(first.run()), asyncio.create_task(first.take(request))
    await crash.happened.wait()
    acknowledged = taking.done()
    stored = parts.store.tasks.get(TaskKey.of(request))
    work_before = parts.worker.runs + parts.worker.scorings
    for process in (running, taking):
        process.cancel()
    await asyncio.wait([running, taking])

    async with parts.running() as second:
        if not acknowledged:
            await second.take(request)
        while parts.queue.pending or parts.queue.unread or not parts.post.accepted:
            await asyncio.sleep(0)
        await second.idle()
    assert parts.state(request) is TaskState.ACCEPTED
    accepted = parts.post.accepted[TaskKey.of(request)]
    assert all(outcome == accepted[0] for outcome in accepted)
    if stored is not None and stored.outcome is not None:
        assert parts.worker.runs + parts.worker.scorings == work_before
