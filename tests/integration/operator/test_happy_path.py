"""From the draw to the accepted result, on real PostgreSQL and Valkey."""

import redis.asyncio as redis

from aos_operator.stub import stub_answer
from integration.operator.conftest import Running
from integration.operator.fake_dispatcher import FakeDispatcher
from unit.operator.world import MODEL, OPERATOR


async def test_a_job_is_drawn_dispatched_run_and_its_result_accepted(
    running: Running, dispatcher: FakeDispatcher, redis_url: str
) -> None:
    async with running():
        await dispatcher.connected.wait()
        job = dispatcher.world.job("What is AI?")
        await dispatcher.run(job)
        result = await dispatcher.result_of(job)

        assert result.result == stub_answer(job.job, MODEL.sha256, job.seed, OPERATOR.address)["text"]
        assert result.vrf.selected
        assert result.transcript is not None
        async with redis.from_url(redis_url) as client:
            stream = f"aos:{OPERATOR.address}:task"
            while await client.xlen(stream):
                pass
            assert (await client.xpending(stream, "operator-runner"))["pending"] == 0
