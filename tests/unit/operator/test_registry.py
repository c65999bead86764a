"""What an operator makes of a range that a dispatcher names, by a chain that answers, lags, hangs or is gone."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from aos_chain.errors import ChainError, ChainUnavailable, Reverted
from aos_chain.registry import RegistryEntry, RegistryState
from aos_operator import registry as module
from aos_operator.errors import Refused, RegistryUnavailable, StartError
from aos_operator.registry import Registry, open_registry
from aos_operator.settings import Chain as ChainSettings
from aos_protocol.typed_data import Domain
from unit.operator.world import OPERATOR, World

CONTRACT = "0x" + "00" * 19 + "01"
OTHER = "0x" + "00" * 19 + "09"


def state(block: int, *shares: tuple[str, int, int]) -> RegistryState:
    entries = tuple(RegistryEntry(who, number, *share) for number, (who, *share) in enumerate(shares, 2))
    return RegistryState(31337, CONTRACT, block, "0x" + f"{block:064x}", entries)


class FakeChain:
    """A chain and its follower: `states` by block, `head` beyond them, `trouble` for every request."""

    def __init__(self) -> None:
        self.states = {10: state(10, (OTHER, 0, 5), (OPERATOR.address, 5, 105))}
        self.state = self.states[10]
        self.age = 0.0
        self.head = 12
        self.trouble: Exception | None = None
        self.hangs = False
        self.at_head = (5, 105)
        self.readings = 0
        self.callback: Any = None

    async def start(self) -> RegistryState:
        await self._answer()
        return self.state

    async def state_at(self, block: int) -> RegistryState:
        if block in self.states:
            return self.states[block]
        await self._answer()
        if block > self.state.block:
            raise ChainUnavailable(f"block {block} has not 1 confirmations yet")
        self.states[block] = state(block, (OPERATOR.address, 5, 105))
        return self.states[block]

    def on_change(self, callback: Any) -> None:
        self.callback = callback

    async def block_number(self) -> int:
        await self._answer()
        return self.head

    def function(self, *asked: Any) -> Any:
        assert asked[:3] == ("OperatorRegistry", CONTRACT, "rangeAt")
        assert asked[3] == OPERATOR.address
        return asked

    async def call(self, _: Any) -> list[int]:
        await self._answer()
        return list(self.at_head)

    async def _answer(self) -> None:
        self.readings += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.trouble is not None:
            self.age += 1
            raise self.trouble
        self.age = 0.0
        await asyncio.sleep(0)


@pytest.fixture
def chain() -> FakeChain:
    return FakeChain()


@pytest.fixture
async def registry(chain: FakeChain) -> Registry:
    made = made_of(chain)
    await made.start()
    return made


def made_of(chain: FakeChain, operator: str = OPERATOR.address) -> Registry:
    return Registry(cast("Any", chain), cast("Any", chain), operator, 300)


def draw(block: int, start: int = 5, end: int = 105) -> Any:
    world = World()
    return world.draw(world.job(), registry_block=block, range_start=start, range_end=end)


def dispatch(block: int, start: int = 5, end: int = 105) -> Any:
    return World().job(registry_block=block, range_start=start, range_end=end)


async def refused(registry: Registry, call: Any) -> tuple[int, str]:
    with pytest.raises(Refused) as caught:
        await registry.check(call)
    return caught.value.code, str(caught.value)


class TestStart:
    async def test_it_tells_its_range_and_the_domain(self, registry: Registry) -> None:
        assert registry.domain == Domain(31337, CONTRACT)

    async def test_who_is_not_registered_is_told_how_to(self, chain: FakeChain) -> None:
        with pytest.raises(StartError, match="register it with: aos chain register") as caught:
            await made_of(chain, "0x" + "00" * 19 + "77").start()
        assert all(
            part in str(caught.value)
            for part in ("0x" + "00" * 19 + "77", CONTRACT, "chain 31337", "block 10")
        )

    async def test_an_endpoint_that_is_away_may_come_back(self, chain: FakeChain) -> None:
        chain.trouble = ChainUnavailable("http://h cannot be reached")
        with pytest.raises(RegistryUnavailable, match="http://h cannot be reached"):
            await made_of(chain).start()

    @pytest.mark.parametrize(
        ("trouble", "said"),
        [
            (ChainError("no contract is at that address"), "no contract is at that address"),
            (Reverted("the contract gives no reason"), "is no OperatorRegistry: correct its address"),
        ],
    )
    async def test_what_is_no_registry_ends_it(self, chain: FakeChain, trouble: Exception, said: str) -> None:
        chain.trouble = trouble
        with pytest.raises(StartError, match=said):
            await made_of(chain).start()


class TestRange:
    @pytest.mark.parametrize("call", [draw(10), dispatch(10), draw(9), dispatch(9)])
    async def test_the_chains_own_is_accepted(self, registry: Registry, call: Any) -> None:
        await registry.check(call)

    @pytest.mark.parametrize("make", [draw, dispatch])
    @pytest.mark.parametrize("lie", [(5, 104), (6, 105), (0, 0), (0, 600_000), (105, 205)])
    async def test_another_is_refused_with_both(
        self, registry: Registry, make: Any, lie: tuple[int, int]
    ) -> None:
        code, said = await refused(registry, make(10, *lie))
        assert code == 400
        assert said == (
            f"this operator's range at block 10 of the registry is [5, 105), not [{lie[0]}, {lie[1]}) as the dispatcher says"
        )

    async def test_each_block_has_its_own(self, chain: FakeChain, registry: Registry) -> None:
        chain.state = chain.states[11] = state(11, (OPERATOR.address, 200, 300))
        await registry.check(dispatch(10))
        await registry.check(draw(11, 200, 300))
        assert (await refused(registry, dispatch(11)))[0] == 400
        assert (await refused(registry, draw(10, 200, 300)))[0] == 400

    async def test_a_block_without_confirmations_is_asked_of_the_contract(
        self, chain: FakeChain, registry: Registry
    ) -> None:
        chain.at_head = (7, 8)
        await registry.check(draw(12, 7, 8))
        assert (await refused(registry, draw(11)))[0] == 400

    async def test_a_block_that_does_not_exist_yet_is_declined(
        self, chain: FakeChain, registry: Registry
    ) -> None:
        code, said = await refused(registry, draw(13))
        assert (code, chain.head) == (503, 12)
        assert "block 13 has not" in said

    async def test_calls_for_scores_name_no_block(self, chain: FakeChain, registry: Registry) -> None:
        chain.trouble = ChainUnavailable("away")
        before = chain.readings
        await registry.check(World().call())
        assert chain.readings == before

    async def test_many_draws_read_the_chain_once(self, chain: FakeChain, registry: Registry) -> None:
        before = chain.readings
        await asyncio.gather(*(registry.check(draw(8)) for _ in range(50)))
        assert chain.readings == before + 1

    async def test_an_endpoint_that_contradicts_itself_is_not_believed(
        self, chain: FakeChain, registry: Registry
    ) -> None:
        chain.trouble = ChainError("events are missing")
        assert (await refused(registry, draw(9)))[0] == 503


class TestOutage:
    @pytest.mark.parametrize("trouble", [ChainUnavailable("http://h cannot be reached"), None])
    async def test_the_last_known_state_decides_and_its_age_is_told(
        self, chain: FakeChain, registry: Registry, monkeypatch: pytest.MonkeyPatch, trouble: Exception | None
    ) -> None:
        monkeypatch.setattr(module, "_ANSWER_S", 0.01)
        chain.trouble, chain.hangs, chain.age = trouble, trouble is None, 41.0
        with capture_logs() as logs:
            for block in (8, 9, 99):
                await registry.check(draw(block))
        assert len(logs) == 1  # once for many draws
        assert (logs[0]["log_level"], logs[0]["block"]) == ("warning", 10)
        assert logs[0]["age_s"] >= 41
        assert str(trouble or "no answer within 0.01 s") in logs[0]["problem"]

    async def test_what_it_does_not_show_is_declined_and_not_called_a_lie(
        self, chain: FakeChain, registry: Registry
    ) -> None:
        chain.trouble, chain.age = ChainUnavailable("away"), 5.0
        code, said = await refused(registry, draw(99, 200, 300))
        assert code == 503
        assert "[200, 300) is this operator's range at block 99 cannot be told now" in said

    async def test_a_known_block_is_known_without_the_chain(
        self, chain: FakeChain, registry: Registry
    ) -> None:
        chain.trouble, chain.age = ChainUnavailable("away"), 5.0
        await registry.check(draw(10))
        assert (await refused(registry, draw(10, 0, 1)))[0] == 400

    async def test_beyond_the_maximum_age_draws_are_declined(
        self, chain: FakeChain, registry: Registry
    ) -> None:
        chain.trouble, chain.age = ChainUnavailable("away"), 299.0
        await registry.check(draw(10))
        chain.age = 301.0
        code, said = await refused(registry, draw(10))
        assert code == 503
        assert "301 s old, more than 300 s" in said

    async def test_a_dispatch_after_its_draw_is_taken_however_old_the_state_is(
        self, chain: FakeChain, registry: Registry
    ) -> None:
        chain.trouble, chain.age = ChainUnavailable("away"), 301.0
        await registry.check(dispatch(10))
        assert (await refused(registry, dispatch(9)))[0] == 503


class TestChange:
    async def test_a_new_range_is_told(self, chain: FakeChain, registry: Registry) -> None:
        with capture_logs() as logs:
            chain.callback(state(11, (OTHER, 0, 5), (OPERATOR.address, 300, 400)))
            chain.callback(state(12, (OPERATOR.address, 300, 400)))
        assert [(entry["event"], entry["start"], entry["block"]) for entry in logs] == [
            ("the range in the registry changed", 300, 11)
        ]
        assert registry.domain.registry == CONTRACT

    async def test_a_lost_range_is_an_error_that_says_what_to_do(
        self, chain: FakeChain, registry: Registry
    ) -> None:
        with capture_logs() as logs:
            chain.callback(state(11, (OTHER, 0, 5)))
        [entry] = logs
        assert (entry["log_level"], registry.domain.chain_id) == ("error", 31337)
        assert "aos chain register" in entry["event"]


class TestOpening:
    async def test_without_a_chain_there_is_none(self) -> None:
        async with AsyncExitStack() as stack:
            assert await open_registry(ChainSettings(), OPERATOR.address, stack) is None

    async def test_a_missing_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "aos_chain.follower", None)
        settings = ChainSettings.model_validate(
            {"chain_rpc_url": "http://127.0.0.1:1", "vrf_range_contract": CONTRACT}
        )
        async with AsyncExitStack() as stack:
            with pytest.raises(StartError, match=r"not installed: install aos with the extra `chain`"):
                await open_registry(settings, OPERATOR.address, stack)
