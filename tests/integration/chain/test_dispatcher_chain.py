"""A dispatcher that draws by a contract's registry: on anvil, with real sockets and a real database."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml
from sqlalchemy import text
from structlog.testing import capture_logs

from aos_chain import operators
from aos_chain.client import Chain
from aos_dispatcher.chain_registry import check_chain
from aos_dispatcher.errors import DispatcherError
from aos_dispatcher.operators import register_operator
from aos_dispatcher.settings import Chain as ChainSettings
from integration.chain.conftest import Clock
from integration.chain.dispatching import ChainNetwork
from support.anvil import Anvil
from support.network import Network
from support.rpc_proxy import RpcProxy

Running: TypeAlias = Callable[..., AbstractAsyncContextManager[ChainNetwork]]
WIDTHS = ((0, 1_000), (1_000, 200_000), (200_001, 600_000))


@pytest.fixture
def running(
    new_database: Callable[[str], Awaitable[str]], anvil: Anvil, chain: Chain, network: Network
) -> Running:
    """Run a dispatcher on this test's contracts, while the context is open."""

    @asynccontextmanager
    async def run(**settings: Any) -> AsyncIterator[ChainNetwork]:
        url, signer = await new_database("dispatcher"), await anvil.signer()
        made = ChainNetwork(url, anvil, chain, network.deployment, signer, **settings)
        await made.start()
        await made.calibrate()
        await made.project()
        try:
            yield made
        finally:
            anvil.resume()
            for operator in made.operators:
                await operator.close()
            await made.stop()

    return run


async def _kept(net: ChainNetwork) -> tuple[int, int]:
    """How many registries are stored, and how many rounds that were drawn by them."""
    count = text(
        "select (select count(*) from registries), count(*) from rounds where registry_digest is not null"
    )
    async with net.dispatcher.database.connect() as connection:
        registries, rounds = (await connection.execute(count)).one()
    return registries, rounds


class TestDraws:
    async def test_a_whole_job_by_unequal_ranges_passes_every_check(self, running: Running) -> None:
        async with running() as net:
            for share in WIDTHS:
                await net.registered(*share)
            job_id = await net.done()
            await net.anchor()
            assert await net.unpassed(job_id) == []
            assert "AOS-COMMITTEE-1" in {check.id for check in await net.checks(job_id)}
            registry = await net.registry_of(job_id)
            shares = [(entry["number"], entry["start"], entry["end"]) for entry in registry["operators"]]
            assert shares == [(number, *share) for number, share in enumerate(WIDTHS, 2)]
            assert registry["chain"]["registry"] == net.deployment.registry
            block = registry["chain"]["block"]
            assert "0x" + registry["chain"]["block_hash"] == await net.chain.block_hash(block)
            dispatched = [dispatch for operator in net.operators for dispatch in operator.dispatched]
            assert {dispatch.registry_block for dispatch in dispatched} == {block}

    async def test_many_blocks_with_the_same_operators_are_kept_once(self, running: Running) -> None:
        """Each round keeps its own block, and its evidence is whole; who is registered is stored and digested again when it changes only."""
        async with running() as net:
            operator = await net.registered(0, 300_000)
            jobs, seen = [], []
            for _ in range(3):
                jobs.append(await net.done())
                seen.append(await net.dispatcher.operators.snapshot())
                await net.confirm()
            blocks = [(await net.registry_of(job_id))["chain"]["block"] for job_id in jobs]
            assert len(set(blocks)) == 3
            assert seen[0].shares is seen[1].shares is seen[2].shares
            assert await _kept(net) == (1, 3)

            await operators.update_range(net.chain, net.deployment, operator.signer, 0, 400_000)
            await net.confirm()
            jobs.append(await net.done())
            assert await _kept(net) == (2, 4)
            await net.anchor()
            assert [await net.failed(job_id) for job_id in jobs] == [[], [], [], []]

    async def test_a_range_is_a_chance(self, running: Running) -> None:
        """Whoever has nearly everything is the executor of nearly every job; the order says who is next."""
        async with running() as net:
            small = await net.registered(599_999, 600_000)
            large = await net.registered(0, 599_999)
            for _ in range(8):
                await net.done()
            executed = [sum(d.role == "executor" for d in who.dispatched) for who in (small, large)]
            assert executed == [0, 8]

    async def test_a_registration_is_picked_up_without_a_restart(self, running: Running) -> None:
        async with running() as net:
            first = await net.registered(0, 300_000)
            late = await net.anvil.signer()
            refusal = await net.reply_to(late)
            assert refusal["code"] == 400
            assert "has no range in the registry" in refusal["message"]
            assert "register it with: aos chain register" in refusal["message"]

            await operators.register(net.chain, net.deployment, late, 300_000, 600_000)
            unconfirmed = await net.reply_to(late)
            assert unconfirmed["code"] == 503
            assert "2 confirmations" in unconfirmed["message"]

            await net.confirm()
            await net.connected(late)
            registry = await net.registry_of(await net.done())
            assert [entry["operator"] for entry in registry["operators"]] == [
                first.signer.address,
                late.address,
            ]

    async def test_the_range_of_the_draws_block_holds_for_what_was_drawn(self, running: Running) -> None:
        """A range that moves between draw and result changes nothing about them, not even after a restart."""
        async with running() as net:
            operator = await net.registered(0, 400_000)
            operator.answer = None
            job_id = await net.submit()
            await operator.wait(lambda: bool(operator.dispatched))
            drawn_at = operator.dispatched[0].registry_block
            await operators.update_range(net.chain, net.deployment, operator.signer, 500_000, 600_000)
            await net.confirm()
            await operator.close()
            await net.stop()
            await net.start()

            again = await net.connected(operator.signer, counter=operator.counter)
            await again.wait(lambda: bool(again.dispatched))
            assert (await net.finished(job_id))["status"] == "completed"
            redone = again.dispatched[0]
            assert (redone.registry_block, redone.range_start, redone.range_end) == (drawn_at, 0, 400_000)
            assert (await net.registry_of(job_id))["operators"][0]["end"] == 400_000

            later = await net.done()
            assert (await net.registry_of(later))["operators"][0]["start"] == 500_000
            await net.anchor()
            assert await net.failed(job_id) == await net.failed(later) == []

    async def test_who_leaves_the_registry_is_asked_for_no_ticket(self, running: Running) -> None:
        async with running() as net:
            leaver, stays = await net.registered(0, 300_000), await net.registered(300_000, 600_000)
            await operators.leave(net.chain, net.deployment, leaver.signer)
            await net.confirm()
            job_id = await net.done()
            round_ = (await net.evidence(job_id))["rounds"][0]
            assert [answer["operator"] for answer in round_["electorate"]] == [stays.signer.address]
            assert (await net.client.get("/readyz")).json()["operators"] == 2

            await operators.register(net.chain, net.deployment, leaver.signer, 0, 10)
            await net.confirm()
            entries = (await net.registry_of(await net.done()))["operators"]
            assert [(entry["number"], entry["end"]) for entry in entries] == [(2, 10), (3, 600_000)]

    async def test_a_database_with_other_numbers_is_not_mixed_with_the_contracts(
        self, running: Running
    ) -> None:
        async with running() as net:
            earlier, operator = await net.anvil.signer(), await net.anvil.signer()
            await register_operator(net.dispatcher.database, earlier.address)
            await operators.register(net.chain, net.deployment, operator, 0, 10)
            await net.confirm()
            refusal = await net.reply_to(operator)
            assert refusal["code"] == 400
            assert "begins with a fresh database" in refusal["message"]


class TestOutage:
    async def test_an_endpoint_that_hangs_stops_draws_at_the_maximum_age_and_no_job_is_lost(
        self, running: Running, clock: Clock
    ) -> None:
        async with running(maximum_age=100) as net:
            await net.registered(0, 600_000)
            await net.done()
            net.anvil.pause()
            clock.forward(101)
            ready = (await net.client.get("/readyz")).json()
            assert not ready["registry"]["fresh"]
            assert ready["registry"]["age"] >= 101
            with capture_logs() as logs:
                job_id = await net.submit()
                async with asyncio.timeout(20):
                    while not (
                        waits := [entry for entry in logs if entry["event"] == "draws wait for the chain"]
                    ):
                        await asyncio.sleep(0.02)
            assert waits[0]["job_id"] == job_id
            assert "more than the 100 s allowed" in waits[0]["why"]
            assert (await net.detail(job_id))["status"] == "created"
            metrics = (await net.client.get("/metrics")).text
            assert f"aos_registry_block {float(ready['registry']['block'])}" in metrics
            assert "aos_registry_age_seconds" in metrics

            net.anvil.resume()
            assert (await net.finished(job_id))["status"] == "completed"

    async def test_a_short_one_changes_nothing(self, running: Running, proxy: RpcProxy) -> None:
        async with running(rpc_url=proxy.url) as net:
            await net.registered(0, 600_000)
            before = await net.registry_of(await net.done())
            proxy.cut()
            await net.anvil.mine(5)
            during = await net.registry_of(await net.done())
            assert during["operators"] == before["operators"]
            head = await net.anvil.head()
            assert during["chain"]["block"] < head - 2
            proxy.mend()
            await net.until(lambda state: state.block == head - 2)

    async def test_a_job_whose_time_is_over_says_what_it_waited_for(
        self, running: Running, proxy: RpcProxy, clock: Clock
    ) -> None:
        async with running(rpc_url=proxy.url) as net:
            await net.registered(0, 600_000)
            net.settings = net.settings.model_copy(
                update={"dispatch": net.settings.dispatch.model_copy(update={"job_timeout": 1.0})}
            )
            await net.stop()
            await net.start()
            await net.connected(net.operators[0].signer)
            proxy.cut()
            clock.forward(1000)
            detail = await net.finished(await net.submit())
            assert detail["status"] == "failed"
            assert "its draw waited for the chain" in detail["reason"]
            proxy.mend()


class TestReorganisation:
    async def test_one_within_the_depth_is_never_seen(self, running: Running) -> None:
        async with running() as net:
            await net.registered(0, 300_000)
            undone = await net.anvil.signer()
            await operators.register(net.chain, net.deployment, undone, 300_000, 600_000)
            await net.anvil.mine(1)
            with capture_logs() as logs:
                await net.anvil.reorganise(2)
                head = await net.anvil.head()
                await net.anvil.mine(4)
                state = await net.until(lambda state: state.block >= head)
            assert state.number_of(undone.address) is None
            assert not [entry for entry in logs if "reorganised" in entry["event"]]
            registry = await net.registry_of(await net.done())
            assert len(registry["operators"]) == 1

    async def test_a_deeper_one_has_everything_read_again(self, running: Running) -> None:
        async with running() as net:
            await net.registered(0, 300_000)
            undone = await net.registered(300_000, 600_000)
            with capture_logs() as logs:
                await net.anvil.reorganise(3)
                await net.anvil.mine(3)
                await net.until(lambda state: state.number_of(undone.signer.address) is None)
            levels = {entry["log_level"] for entry in logs if "reorganised more deeply" in entry["event"]}
            assert levels == {"warning"}
            job_id = await net.done()
            registry = await net.registry_of(job_id)
            assert len(registry["operators"]) == 1
            block = registry["chain"]["block"]
            assert "0x" + registry["chain"]["block_hash"] == await net.chain.block_hash(block)
            assert undone.signer.address not in [
                answer["operator"] for answer in (await net.evidence(job_id))["rounds"][0]["electorate"]
            ]


class TestStart:
    def settings(self, network: Network, url: str, **changes: Any) -> ChainSettings:
        deployment = network.deployment
        right = {
            "chain_id": deployment.chain_id,
            "registry": deployment.registry,
            "anchor": deployment.anchor,
        }
        return ChainSettings.model_validate(right | {"rpc_url": url} | changes)

    async def test_the_right_place_is_fine(self, anvil: Anvil, network: Network) -> None:
        await check_chain(self.settings(network, anvil.url))

    async def test_a_process_ends_with_one_line(
        self, new_database: Callable[[str], Awaitable[str]], anvil: Anvil, network: Network, tmp_path: Path
    ) -> None:
        file = tmp_path / "config.yaml"
        place = {"chain_id": 1, "registry": network.deployment.registry, "rpc_url": anvil.url}
        settings = {"database": {"url": await new_database("dispatcher")}, "chain": place}
        file.write_text(yaml.safe_dump(settings | {"identity": {"signer_key": "11" * 32}}))
        file.chmod(0o600)
        command = [str(Path(sys.executable).with_name("dispatcher")), "run", "-c", str(file)]
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        _, said = await process.communicate()
        assert process.returncode == 1
        assert said.decode().splitlines()[-1].startswith("dispatcher: the chain cannot be used: ")
        assert "serves chain 31337, and the contracts are on chain 1" in said.decode()

    async def test_the_command_lists_who_is_registered(
        self, anvil: Anvil, chain: Chain, network: Network, tmp_path: Path
    ) -> None:
        signer = await anvil.signer()
        await operators.register(chain, network.deployment, signer, 5, 600)
        await anvil.mine(2)
        file = tmp_path / "config.yaml"
        place = self.settings(network, anvil.url).model_dump(mode="json") | {"rpc_url": anvil.url}
        file.write_text(yaml.safe_dump({"database": {"url": "x"}, "identity": {}, "chain": place}))
        command = [str(Path(sys.executable).with_name("dispatcher")), "operator", "list", "-c", str(file)]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        listed, _ = await process.communicate()
        assert process.returncode == 0
        assert listed.decode() == f"2\t{signer.address}\t5\t600\n"

    async def test_another_chain_is_named(self, anvil: Anvil, network: Network) -> None:
        with pytest.raises(DispatcherError, match=r"serves chain 31337, and the contracts are on chain 1\b"):
            await check_chain(self.settings(network, anvil.url, chain_id=1))

    @pytest.mark.parametrize("key", ["registry", "anchor"])
    async def test_an_empty_address_is_named(self, anvil: Anvil, network: Network, key: str) -> None:
        nobody = "0x" + "00" * 19 + "77"
        with pytest.raises(DispatcherError, match=f"no contract is at {nobody}"):
            await check_chain(self.settings(network, anvil.url, **{key: nobody}))

    async def test_another_contract_is_named(self, anvil: Anvil, network: Network) -> None:
        other = network.deployment.sortition
        with pytest.raises(DispatcherError, match=f"{other} is no OperatorRegistry: correct its address"):
            await check_chain(self.settings(network, anvil.url, registry=other))

    async def test_an_anchor_of_another_registry_is_named(
        self, anvil: Anvil, chain: Chain, network: Network
    ) -> None:
        stranger = await chain.send(
            chain.creation("Anchor", network.deployment.challenge), await anvil.signer()
        )
        with pytest.raises(DispatcherError, match=f"belongs to the registry {network.deployment.challenge}"):
            await check_chain(self.settings(network, anvil.url, anchor=stranger.contract))

    async def test_an_endpoint_that_is_away_is_named_without_its_key(self, network: Network) -> None:
        with pytest.raises(DispatcherError, match=r"http://127\.0\.0\.1:1 cannot be reached") as caught:
            await check_chain(self.settings(network, "http://user:hidden@127.0.0.1:1/v2/hidden"))
        assert "hidden" not in str(caught.value)
