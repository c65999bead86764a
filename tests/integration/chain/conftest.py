"""A real chain (anvil) for each test, with a network's contracts on it."""

import time
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
import pytest_asyncio

from aos_chain.client import Chain
from aos_chain.deploy import deploy
from support.anvil import Anvil, anvil_program, running_anvil
from support.network import TERMS, Network
from support.rpc_proxy import RpcProxy, rpc_proxy


@pytest.fixture(scope="session", autouse=True)
def _anvil_installed() -> None:
    anvil_program()


@pytest_asyncio.fixture
async def anvil() -> AsyncIterator[Anvil]:
    async with running_anvil() as node:
        yield node


@pytest_asyncio.fixture
async def proxy(anvil: Anvil) -> AsyncIterator[RpcProxy]:
    """An endpoint that the test breaks at will."""
    async with rpc_proxy(anvil.url) as endpoint:
        yield endpoint


@pytest_asyncio.fixture
async def chain(anvil: Anvil) -> AsyncIterator[Chain]:
    async with Chain.connect(anvil.url) as connected:
        yield connected


@pytest_asyncio.fixture
async def proxied(proxy: RpcProxy) -> AsyncIterator[Chain]:
    """The same chain through the proxy."""
    async with Chain.connect(proxy.url) as connected:
        yield connected


class Clock:
    """What the time is for those who follow the registry; it can be put forward."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def forward(self, seconds: float) -> None:
        self._ahead += seconds

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("aos_chain.follower.time", SimpleNamespace(monotonic=made.monotonic))
    return made


@pytest_asyncio.fixture
async def network(anvil: Anvil, chain: Chain) -> Network:
    deployer = await anvil.signer()
    return Network(await deploy(chain, deployer, TERMS), deployer)
