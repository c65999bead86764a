"""An operator that reads its registry from a contract on anvil: what it accepts, what it refuses, and what it does without the chain."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from aos_chain import operators
from aos_chain.client import Chain
from aos_chain.deploy import deploy
from aos_chain.deployment import Deployment
from aos_operator import registry as module
from aos_operator.errors import RegistryUnavailable, StartError, WrongNetwork
from aos_operator.runner import run_operator
from aos_operator.settings import OperatorSettings
from aos_operator.stub import StubWorker
from aos_protocol.typed_data import Domain
from integration.chain.conftest import Clock, clock  # noqa: F401
from integration.chain.dispatching import ChainNetwork
from integration.operator.conftest import Running
from integration.operator.fake_dispatcher import FakeDispatcher
from integration.operator.processes import OperatorProcess
from support.anvil import CHAIN_ID, ETHER, Anvil, running_anvil
from support.network import TERMS
from support.operators import MODEL as NETWORK_MODEL
from unit.operator.world import MODEL, OPERATOR, World

OWN = (1_000, 400_000)
Databases = Callable[[Literal["dispatcher", "operator"]], Awaitable[str]]


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, a chain that answers may take its time."""
    monkeypatch.setattr(module, "_ANSWER_S", 20.0)


@pytest_asyncio.fixture
async def anvil() -> AsyncIterator[Anvil]:
    async with running_anvil() as node:
        await node.rpc("anvil_setBalance", OPERATOR.address, hex(1000 * ETHER))
        yield node
        node.resume()


@pytest_asyncio.fixture
async def chain(anvil: Anvil) -> AsyncIterator[Chain]:
    async with Chain.connect(anvil.url) as connected:
        yield connected


@pytest_asyncio.fixture
async def deployment(anvil: Anvil, chain: Chain) -> Deployment:
    return await deploy(chain, await anvil.signer(), TERMS)


@pytest_asyncio.fixture
async def dispatcher(deployment: Deployment) -> AsyncIterator[FakeDispatcher]:
    """A dispatcher of the contracts' network, which may lie about ranges."""
    world = World(domain=Domain(CHAIN_ID, deployment.registry))
    async with FakeDispatcher(world).serving() as serving:
        yield serving
        assert serving.problems == []


@pytest_asyncio.fixture
async def configuration(
    configuration: dict[str, Any], anvil: Anvil, deployment: Deployment
) -> dict[str, Any]:
    """The configuration file's content, with a chain."""
    place = {"chain_rpc_url": anvil.url, "vrf_range_contract": deployment.registry}
    return configuration | {"chain": place | {"deployed_at": deployment.block}}


@pytest_asyncio.fixture
async def registered(chain: Chain, anvil: Anvil, deployment: Deployment) -> int:
    """Register the operator; the block from which its range holds, with the confirmation that it needs."""
    receipt = await operators.register(chain, deployment, OPERATOR, *OWN)
    await anvil.mine(1)
    return receipt.block


def job(dispatcher: FakeDispatcher, block: int, share: tuple[int, int] = OWN) -> Any:
    start, end = share
    return dispatcher.world.job(registry_block=block, range_start=start, range_end=end)


async def said(dispatcher: FakeDispatcher, block: int, share: tuple[int, int] = OWN) -> tuple[int, str]:
    """What the operator answers to a draw."""
    reply = await dispatcher.draw(job(dispatcher, block, share))
    return reply["code"], reply["message"]


class TestStart:
    async def run(self, configuration: dict[str, Any]) -> None:
        settings = OperatorSettings.model_validate(configuration)
        async with asyncio.timeout(20):
            worker = StubWorker({MODEL.name: MODEL.sha256})
            await run_operator(settings, asyncio.Event(), worker=worker)

    async def test_who_is_not_registered_is_told_how_to(self, configuration: dict[str, Any]) -> None:
        with pytest.raises(StartError, match="register it with: aos chain register"):
            await self.run(configuration)

    async def test_a_process_ends_with_one_line(self, configuration: dict[str, Any], tmp_path: Path) -> None:
        async with OperatorProcess(tmp_path, configuration).running() as process:
            assert await process.until_ended() == 2
        last = process.log().splitlines()[-1]
        assert last.startswith(f"operator-runner: operator {OPERATOR.address} has no range in the registry")

    async def test_an_address_without_a_contract_is_named(self, configuration: dict[str, Any]) -> None:
        nobody = "0x" + "00" * 19 + "77"
        configuration["chain"]["vrf_range_contract"] = nobody
        with pytest.raises(StartError, match=f"no contract is at {nobody}"):
            await self.run(configuration)

    async def test_another_contract_is_named(
        self, configuration: dict[str, Any], deployment: Deployment
    ) -> None:
        configuration["chain"]["vrf_range_contract"] = deployment.anchor
        with pytest.raises(StartError, match="is no OperatorRegistry: correct its address"):
            await self.run(configuration)

    async def test_an_endpoint_that_is_away_is_named_without_its_key(
        self, configuration: dict[str, Any]
    ) -> None:
        configuration["chain"]["chain_rpc_url"] = "http://127.0.0.1:1/v2/hidden"
        with pytest.raises(RegistryUnavailable, match=r"http://127\.0\.0\.1:1 cannot be reached") as caught:
            await self.run(configuration)
        assert "hidden" not in str(caught.value)

    async def test_a_dispatcher_of_another_network_is_refused(
        self, configuration: dict[str, Any], dispatcher: FakeDispatcher, registered: int
    ) -> None:
        dispatcher.world.domain = Domain(CHAIN_ID, "0x" + "00" * 19 + "01")
        with pytest.raises(ExceptionGroup) as caught:
            await self.run(configuration)
        error: BaseException = caught.value
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        assert isinstance(error, WrongNetwork), registered
        assert configuration["chain"]["vrf_range_contract"] in str(error)


class TestRange:
    async def test_the_contracts_range_is_drawn_by_and_worked_for(
        self, running: Running, dispatcher: FakeDispatcher, registered: int
    ) -> None:
        async with running():
            await dispatcher.connected.wait()
            good = job(dispatcher, registered)
            await dispatcher.run(good)
            result = await dispatcher.result_of(good)
            assert result.registry_block == registered

    @pytest.mark.parametrize("lie", [(1_000, 399_999), (0, 600_000), (0, 0)])
    async def test_a_dispatcher_that_lies_about_it_is_refused(
        self, running: Running, dispatcher: FakeDispatcher, registered: int, lie: tuple[int, int]
    ) -> None:
        async with running():
            await dispatcher.connected.wait()
            code, message = await said(dispatcher, registered, lie)
            assert code == 400
            assert f"is [1000, 400000), not [{lie[0]}, {lie[1]})" in message
            if lie[1]:
                reply = await dispatcher.dispatch(job(dispatcher, registered, lie))
                assert (reply["code"], "not [" in reply["message"]) == (400, True)
            assert (await said(dispatcher, registered))[0] == 200

    async def test_a_block_before_its_registration_gave_it_nothing(
        self, running: Running, dispatcher: FakeDispatcher, registered: int
    ) -> None:
        async with running():
            await dispatcher.connected.wait()
            assert (await said(dispatcher, registered - 1))[0] == 400
            assert (await said(dispatcher, registered - 1, (0, 0)))[0] == 200

    async def test_a_new_range_is_followed_and_the_old_one_holds_for_its_blocks(
        self,
        running: Running,
        dispatcher: FakeDispatcher,
        registered: int,
        chain: Chain,
        anvil: Anvil,
        deployment: Deployment,
    ) -> None:
        async with running():
            await dispatcher.connected.wait()
            drawn = job(dispatcher, registered)
            assert (await dispatcher.draw(drawn))["code"] == 200
            moved = await operators.update_range(chain, deployment, OPERATOR, 500_000, 600_000)
            assert (await said(dispatcher, moved.block, (500_000, 600_000)))[
                0
            ] == 200  # unconfirmed, but asked of the contract
            await anvil.mine(1)
            assert (await said(dispatcher, moved.block, (500_000, 600_000)))[0] == 200
            assert (await said(dispatcher, moved.block))[0] == 400
            assert (await said(dispatcher, registered, (500_000, 600_000)))[0] == 400
            assert (await dispatcher.dispatch(drawn))["code"] == 200
            await dispatcher.done(drawn)

    async def test_a_block_that_is_not_there_yet_is_declined(
        self, running: Running, dispatcher: FakeDispatcher, registered: int, anvil: Anvil
    ) -> None:
        async with running():
            await dispatcher.connected.wait()
            beyond = await anvil.head() + 1
            assert (await said(dispatcher, beyond))[0] == 503
            assert (await said(dispatcher, registered))[0] == 200

    async def test_a_reorganisation_that_undoes_the_registration_is_seen(
        self,
        running: Running,
        dispatcher: FakeDispatcher,
        registered: int,
        anvil: Anvil,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(module, "_POLL_S", 0.05)
        with capture_logs() as logs:
            async with running():
                await dispatcher.connected.wait()
                assert (await said(dispatcher, registered))[0] == 200
                await anvil.reorganise(3)
                await anvil.mine(4)
                async with asyncio.timeout(20):
                    while not [
                        entry for entry in logs if "no range in the registry any more" in entry["event"]
                    ]:
                        await asyncio.sleep(0.02)
                assert (await said(dispatcher, registered))[0] == 400
                assert (await said(dispatcher, registered, (0, 0)))[0] == 200


class TestOutage:
    async def test_a_hanging_endpoint_is_survived_up_to_the_maximum_age(
        self,
        running: Running,
        dispatcher: FakeDispatcher,
        registered: int,
        anvil: Anvil,
        monkeypatch: pytest.MonkeyPatch,
        clock: Clock,  # noqa: F811
    ) -> None:
        monkeypatch.setattr(module, "_POLL_S", 0.1)
        with capture_logs() as logs:
            async with running():
                await dispatcher.connected.wait()
                taken = job(dispatcher, registered)
                assert (await dispatcher.draw(taken))["code"] == 200
                anvil.pause()
                monkeypatch.setattr(module, "_ANSWER_S", 0.1)
                ahead = registered + 50  # what the dispatcher may have read elsewhere
                assert (await said(dispatcher, ahead))[0] == 200
                assert (await said(dispatcher, ahead, (0, 5)))[0] == 503
                warnings = [entry for entry in logs if "last known state of the registry" in entry["event"]]
                assert (len(warnings), warnings[0]["log_level"]) == (1, "warning")
                assert warnings[0]["age_s"] >= 0

                assert (await said(dispatcher, registered))[0] == 200
                clock.forward(module.MAXIMUM_AGE_S)
                code, message = await said(dispatcher, registered)
                assert code == 503
                assert "s old, more than 300 s" in message
                # What was drawn is worked on all the same.
                assert (await dispatcher.dispatch(taken))["code"] == 200
                await dispatcher.done(taken)

                anvil.resume()
                monkeypatch.setattr(module, "_ANSWER_S", 20.0)
                async with asyncio.timeout(20):
                    while (await said(dispatcher, registered))[0] != 200:
                        await asyncio.sleep(0.05)


async def test_operator_and_dispatcher_agree_about_a_whole_job(
    new_database: Databases,
    redis_url: str,
    anvil: Anvil,
    chain: Chain,
    deployment: Deployment,
    registered: int,
) -> None:
    """Both read the contract, each with confirmations of its own, and what comes of it passes every check."""
    signer = await anvil.signer()
    net = ChainNetwork(await new_database("dispatcher"), anvil, chain, deployment, signer)
    await net.start()
    await net.project()
    settings = OperatorSettings.model_validate(
        {
            "db": {"pg_db_url": await new_database("operator"), "min_connect_pool": 1},
            "queue": {"queue_url": redis_url},
            "net": {"dispatcher_url": net.ws},
            "node": {"signer_key": "0x" + "11" * 32, "dispatcher_address": signer.address},
            "chain": {"chain_rpc_url": anvil.url, "vrf_range_contract": deployment.registry},
        }
    )
    stop, worker = asyncio.Event(), StubWorker({NETWORK_MODEL.name: NETWORK_MODEL.sha256})
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(run_operator(settings, stop, worker=worker))
            # Before the dispatcher's second confirmation it is told to come again, and does.
            async with asyncio.timeout(20):
                while OPERATOR.address not in net.dispatcher.hub.connected():
                    await anvil.mine(1)
                    await asyncio.sleep(0.1)
            job_id = await net.done()
            await net.anchor()
            assert await net.failed(job_id) == []
            entries = (await net.registry_of(job_id))["operators"]
            assert [(entry["operator"], entry["start"], entry["end"]) for entry in entries] == [
                (OPERATOR.address, *OWN)
            ]
            assert (await net.registry_of(job_id))["chain"]["block"] >= registered
            stop.set()
    finally:
        await net.stop()
