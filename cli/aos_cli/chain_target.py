"""Which chain and which contracts `aos chain` talks to, who pays, and how the chain's errors become messages.

What is not given comes from the running `aos up --chain`: its RPC URL, its deployment file. Importing this loads no web3, which
takes 0.7 s: only what talks to a chain does, when it does.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console

from aos_chain.deployment import Deployment, read_deployment
from aos_chain.errors import ChainError, ChainUnavailable, Reverted
from aos_cli.chain_amounts import ether
from aos_cli.errors import CliError
from aos_cli.failures import ChainRefused, NoChain
from aos_cli.keys import ask_password
from aos_cli.progress import Progress
from aos_cli.target import data_folder
from aos_protocol.identity import Signer
from aos_service.keys import open_keystore
from aos_service.logs import configure_logs

if TYPE_CHECKING:
    from aos_chain.client import Chain
    from aos_chain.transactions import Receipt

T = TypeVar("T")

Rpc = Annotated[
    str | None,
    typer.Option(
        "--rpc",
        envvar="AOS_RPC",
        metavar="URL",
        help="The chain's JSON-RPC. Default: that of the running `aos up --chain`.",
        show_default=False,
    ),
]
DeploymentFile = Annotated[
    Path | None,
    typer.Option(
        "--deployment",
        envvar="AOS_DEPLOYMENT",
        metavar="FILE",
        help="Where the network's contracts are, as `aos chain deploy` wrote it. Default: that of the running `aos up --chain`.",
        show_default=False,
    ),
]
Keystore = Annotated[
    Path,
    typer.Option(
        metavar="FILE", help="The key that sends and pays, as `aos keys new` made it.", show_default=False
    ),
]

_WHAT_NOW = {
    "not registered": "register first: aos chain register --width SLOTS",
    "registered: update the range": "this key has a range already: aos chain update moves it",
    "the range overlaps": "aos chain status shows which gaps are free",
    "leave first": "aos chain leave gives up the range, and starts the delay",
    "the leave delay is not over": "aos chain status ADDRESS shows when it is",
    "locked by a challenge": "aos chain status shows the challenge; the bond is free once it is closed",
    "no bond": "it was paid already, or taken",
    "the operator has no bond": "it left with its bond, or lost it: there is nothing to take",
    "challenged already": "aos chain status lists the challenges; a decided one is not decided again",
    "the result is too old": "the contract takes no challenge of it any more",
    "the window is not over": "aos chain status ID shows when it is",
    "the answer window is over": "aos chain close ID decides the challenge now",
    "the vote window is over": "aos chain close ID decides the challenge now",
    "the challenge has no jury": "jurors vote once the operator has answered: aos chain status ID",
    "the challenge waits for no answer": "aos chain status ID shows what it waits for",
    "five better tickets hold the seats": "this juror is not one of the five; nothing is to be done",
    "the juror had no range": "only operators registered before the challenge was opened vote",
    "the juror has voted": "a vote cannot be changed",
    "the jury's blocks are not all there": "jurors are drawn on 17 blocks: try again in some minutes",
    "the log has not grown": "there is nothing new to anchor",
    "the dispatcher has forked its log": "its log is anchored no more, for ever",
    "no credit": "the contract owes this key nothing",
}
"""What to do next, by a part of the contract's reason."""


@dataclass(frozen=True)
class Network:
    """An RPC URL, and where the contracts are there."""

    rpc: str
    deployment: Deployment


def find_rpc(data: Path | None, rpc: str | None) -> str:
    """Return the RPC URL that was given, or that of the running stack.

    Raises:
        NoChain: when there is neither.
    """
    if rpc is not None:
        return rpc
    folder = data_folder(data)
    running = folder.running()
    if running is None or running.rpc is None:
        what = "has no chain" if running else "does not run"
        raise NoChain(
            f"no chain is named, and the stack on {folder.root} {what}: start one with `aos up --chain`, or name one with --rpc URL"
        )
    return running.rpc


def find_network(data: Path | None, rpc: str | None, deployment: Path | None) -> Network:
    """Put together what was given, and for the stack on this machine what its data folder says.

    Raises:
        NoChain: when RPC URL or deployment file is neither given nor known.
        CliError: when the deployment file cannot be read.
    """
    url, folder = find_rpc(data, rpc), data_folder(data)
    if deployment is None:
        running = folder.running()
        if running is None or running.rpc is None or url != running.rpc:
            raise NoChain(
                "where the contracts are is unknown: give --deployment FILE, which `aos chain deploy` wrote"
            )
        deployment = folder.deployment
    with told():
        return Network(url, read_deployment(deployment))


def opened(keystore: Path, password_file: Path | None) -> Signer:
    """Open the keystore of whoever sends. Raises as `open_keystore` and `ask_password` do."""
    configure_logs("aos", level="warning", json=False)
    return open_keystore(keystore, ask_password(password_file))


def on_chain(rpc: str, what: "Callable[[Chain], Awaitable[T]]", deployment: Deployment | None = None) -> T:
    """Connect to a chain, see that it is the deployment's and has its contracts, and do something there.

    Raises:
        CliError: for whatever the chain, a contract or the RPC endpoint refuses.
    """
    configure_logs("aos", level="warning", json=False)  # to stderr, beside what is data
    with told():
        from aos_chain.client import Chain
        from aos_chain.deploy import check_deployment

        async def ask() -> T:
            async with Chain.connect(rpc) as chain:
                if deployment is not None:
                    await check_deployment(chain, deployment)
                return await what(chain)

        return asyncio.run(ask())


async def can_pay(chain: "Chain", signer: Signer, value: int, what: str) -> None:
    """Raise `ChainRefused` unless the signer's account holds `value` wei, for `what`, and something for gas."""
    balance = await chain.balance(signer.address)
    if balance > value:
        return
    needed = f"{ether(value)} {what}, and gas" if value else "gas"
    raise ChainRefused(
        f"{signer.address} has {ether(balance)} on chain {await chain.chain_id()}, and needs {needed}: send it ether first"
    )


def said(receipt: "Receipt") -> str:
    """Say where a transaction is, and what it took."""
    return f"transaction {receipt.transaction} in block {receipt.block}, {receipt.gas_used:,} gas"


@contextmanager
def told() -> Iterator[None]:
    """Turn the chain's errors, and a missing web3, into messages that say what to do next."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"web3", "aiohttp", "eth_typing"}:
            raise
        raise CliError(f"{error.name} is not installed: install aos with the extra `chain`") from error
    except ChainUnavailable as error:
        raise NoChain(f"{error}: start the node, or name another with --rpc URL") from error
    except Reverted as error:
        advice = next((now for reason, now in _WHAT_NOW.items() if reason in str(error)), None)
        raise ChainRefused(f"the contract refuses: {error}" + (f"; {advice}" if advice else "")) from error
    except ChainError as error:
        raise ChainRefused(str(error)) from error


def progress() -> Progress:
    """Return what shows how far transactions are: on stderr, beside what is data."""
    return Progress(Console(stderr=True))
