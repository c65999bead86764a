"""anvil as `aos up --chain` runs it: found, funded, with a state that outlives it; and the local network's contracts on it."""

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from aos_chain.client import Chain
from aos_chain.deployment import read_deployment
from aos_cli import embedded_chain
from aos_cli.chain_reading import registry_state
from aos_cli.embedded_chain import CHAIN_ID, EmbeddedChain
from aos_cli.errors import EmbeddedError
from aos_cli.failures import ChainRefused
from aos_cli.local_chain import FUNDS, LocalNetwork, prepare
from aos_protocol.identity import Signer
from support.anvil import anvil_program

DISPATCHER = Signer(b"\x21" * 32)
CREW = [Signer(bytes([number]) * 32) for number in range(0x31, 0x35)]


@pytest.fixture(scope="module", autouse=True)
def _anvil_installed() -> None:
    anvil_program()


@pytest_asyncio.fixture
async def chain(tmp_path: Path) -> AsyncIterator[EmbeddedChain]:
    started = EmbeddedChain(tmp_path / "chain", tmp_path / "anvil.log")
    await started.start()
    yield started
    await started.stop()


def network(operators: int, others: int = 0) -> LocalNetwork:
    return LocalNetwork(DISPATCHER, CREW[:operators], CREW[operators : operators + others])


async def ranges(url: str, file: Path) -> list[tuple[str, int, int, int]]:
    async with Chain.connect(url) as connected:
        state = await registry_state(connected, read_deployment(file))
    return [(entry.operator, entry.number, entry.start, entry.end) for entry in state.entries]


async def test_a_network_is_made_once_and_outlives_its_chain_s_process(
    tmp_path: Path, chain: EmbeddedChain
) -> None:
    file = tmp_path / "chain.json"
    made = await prepare(chain, file, network(3))
    assert (made.chain_id, read_deployment(file)) == (CHAIN_ID, made)
    shares = [(CREW[n].address, n + 2, 200_000 * n, 200_000 * (n + 1)) for n in range(3)]
    assert await ranges(chain.url, file) == shares
    async with Chain.connect(chain.url) as connected:
        height = await connected.block_number()
        assert 0 < await connected.balance(CREW[0].address) < FUNDS
    await chain.stop()
    await chain.start()
    assert await prepare(chain, file, network(3)) == made
    assert await ranges(chain.url, file) == shares
    async with Chain.connect(chain.url) as connected:
        assert await connected.block_number() >= height


async def test_more_or_fewer_operators_share_anew(tmp_path: Path, chain: EmbeddedChain) -> None:
    file = tmp_path / "chain.json"
    await prepare(chain, file, network(3))
    await prepare(chain, file, network(4))
    assert [row[1:] for row in await ranges(chain.url, file)] == [
        (n + 2, 150_000 * n, 150_000 * (n + 1)) for n in range(4)
    ]
    await prepare(chain, file, network(2, others=2))
    assert await ranges(chain.url, file) == [
        (CREW[n].address, n + 2, 300_000 * n, 300_000 * (n + 1)) for n in range(2)
    ]


async def test_a_state_that_was_lost_gives_the_same_addresses(tmp_path: Path, chain: EmbeddedChain) -> None:
    file = tmp_path / "chain.json"
    made = await prepare(chain, file, network(1))
    await chain.stop()
    (tmp_path / "chain" / "state.json").unlink()
    await chain.start()
    again = await prepare(chain, file, network(1))
    assert (again.registry, again.anchor, again.challenge) == (made.registry, made.anchor, made.challenge)
    assert [row[2:] for row in await ranges(chain.url, file)] == [(0, 600_000)]


async def test_a_deployment_file_of_other_contracts_is_refused(tmp_path: Path, chain: EmbeddedChain) -> None:
    file = tmp_path / "chain.json"
    made = await prepare(chain, file, network(1))
    file.write_text(made.to_json().replace(made.challenge, made.anchor))
    with pytest.raises(ChainRefused):
        await prepare(chain, file, network(1))


async def test_the_log_holds_no_key(tmp_path: Path, chain: EmbeddedChain) -> None:
    await chain.fund(DISPATCHER.address, 10**18)
    assert (
        "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
        not in (tmp_path / "anvil.log").read_text()
    )


async def test_it_listens_on_loopback_only_until_it_is_stopped(chain: EmbeddedChain) -> None:
    assert chain.url.startswith("http://127.0.0.1:")
    port = int(chain.url.rpartition(":")[2])
    await chain.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


async def test_one_that_ends_at_once_shows_its_log_and_holds_no_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no such state\nexit 3\n")
    broken.chmod(0o755)

    async def program() -> str:
        return str(broken)

    monkeypatch.setattr(embedded_chain, "anvil_program", program)
    chain = EmbeddedChain(tmp_path / "chain", tmp_path / "anvil.log")
    with pytest.raises(
        EmbeddedError, match=r"(?s)anvil does not start on .*no such state.*remove that folder"
    ):
        await chain.start()
    for use in (lambda: chain.url, lambda: chain.child):
        with pytest.raises(EmbeddedError, match="call start"):
            use()
