"""Which chain a command talks to, who can pay, and what the chain's errors say."""

import os
from pathlib import Path
from typing import Any

import pytest

from aos_chain.deployment import Deployment, write_deployment
from aos_chain.errors import ChainError, ChainUnavailable, Reverted
from aos_cli.chain_target import can_pay, find_network, find_rpc, told
from aos_cli.data import DataFolder, Running
from aos_cli.errors import CliError
from aos_cli.failures import ChainRefused, NoChain
from aos_protocol.identity import Signer

DEPLOYMENT = Deployment(31337, *(f"0x{number:040x}" for number in range(1, 5)), 7)
SIGNER = Signer(b"\x05" * 32)


@pytest.fixture
def data(tmp_path: Path) -> DataFolder:
    folder = DataFolder(tmp_path / "data")
    folder.make()
    write_deployment(folder.deployment, DEPLOYMENT)
    return folder


def running(rpc: str | None) -> Running:
    return Running(pid=os.getpid(), url="http://127.0.0.1:8000", project="demo", model="tiny.gguf", rpc=rpc)


def test_what_is_given_is_taken(data: DataFolder, tmp_path: Path) -> None:
    file = tmp_path / "chain.json"
    write_deployment(file, DEPLOYMENT)
    found = find_network(data.root, "http://elsewhere:8545", file)
    assert (found.rpc, found.deployment) == ("http://elsewhere:8545", DEPLOYMENT)


def test_the_running_stack_s_chain_is_the_default(data: DataFolder) -> None:
    with data.announced(running("http://127.0.0.1:8545")):
        found = find_network(data.root, None, None)
    assert (found.rpc, found.deployment) == ("http://127.0.0.1:8545", DEPLOYMENT)


def test_another_chain_s_contracts_are_not_the_running_stack_s(data: DataFolder) -> None:
    with (
        data.announced(running("http://127.0.0.1:8545")),
        pytest.raises(NoChain, match="give --deployment FILE"),
    ):
        find_network(data.root, "http://elsewhere:8545", None)


def test_no_chain_anywhere(data: DataFolder) -> None:
    with pytest.raises(
        NoChain,
        match=r"the stack on .* does not run: start one with `aos up --chain`, or name one with --rpc URL",
    ):
        find_rpc(data.root, None)
    with data.announced(running(None)), pytest.raises(NoChain, match=r"the stack on .* has no chain"):
        find_rpc(data.root, None)


def test_a_deployment_file_that_is_none(data: DataFolder, tmp_path: Path) -> None:
    file = tmp_path / "chain.json"
    file.write_text("{}")
    with pytest.raises(ChainRefused, match="a deployment is a JSON object of"):
        find_network(data.root, "http://elsewhere:8545", file)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (
            ChainUnavailable("http://a cannot be reached"),
            NoChain,
            r"cannot be reached: start the node, or name another with --rpc",
        ),
        (
            Reverted("not registered"),
            ChainRefused,
            r"^the contract refuses: not registered; register first: aos chain register",
        ),
        (Reverted("some reason"), ChainRefused, r"^the contract refuses: some reason$"),
        (ChainError("it is another chain"), ChainRefused, r"^it is another chain$"),
        (ModuleNotFoundError("no web3", name="web3.types"), CliError, r"install aos with the extra `chain`"),
    ],
)
def test_errors_of_the_chain_say_what_to_do(error: Exception, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said), told():
        raise error


def test_a_module_of_ours_that_is_missing_is_a_defect() -> None:
    with pytest.raises(ModuleNotFoundError), told():
        raise ModuleNotFoundError("no such module", name="aos_chain.nothing")


class Account:
    """A chain on which everybody has this balance."""

    def __init__(self, balance: int) -> None:
        self._balance = balance

    async def balance(self, _address: str) -> int:
        return self._balance

    async def chain_id(self) -> int:
        return 31337


async def test_who_has_enough_can_pay() -> None:
    chain: Any = Account(10**18)
    await can_pay(chain, SIGNER, 10**18 - 1, "of bond")


@pytest.mark.parametrize(
    ("balance", "value", "said"),
    [
        (0, 0, f"^{SIGNER.address} has 0 ETH on chain 31337, and needs gas: send it ether first$"),
        (10**17, 10**17, r"has 0.1 ETH on chain 31337, and needs 0.1 ETH of bond, and gas"),
    ],
)
async def test_who_has_not_is_told_what_is_missing(balance: int, value: int, said: str) -> None:
    chain: Any = Account(balance)
    with pytest.raises(ChainRefused, match=said):
        await can_pay(chain, SIGNER, value, "of bond")
