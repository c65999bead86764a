"""`aos chain deploy`, `register`, `update`, `leave` and `withdraw`: a network's contracts, and who serves with which range."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aos_chain.deployment import Deployment, write_deployment
from aos_chain.registry import RegistryEntry, RegistryState
from aos_cli.chain_amounts import ether, seconds, span, wei
from aos_cli.chain_reading import ask_registry, registry_state
from aos_cli.chain_target import (
    DeploymentFile,
    Keystore,
    Network,
    Rpc,
    can_pay,
    find_network,
    find_rpc,
    on_chain,
    opened,
    progress,
    said,
    told,
)
from aos_cli.errors import CliError
from aos_cli.failures import ChainRefused
from aos_cli.keys import PasswordFile
from aos_cli.target import Data
from aos_protocol.identity import Signer
from aos_protocol.sortition import MAX_RANGE

if TYPE_CHECKING:
    from aos_chain.client import Chain

Start = Annotated[
    int | None, typer.Option(min=0, max=MAX_RANGE, help="The range's first slot.", show_default=False)
]
End = Annotated[
    int | None, typer.Option(min=1, max=MAX_RANGE, help="The slot behind its last one.", show_default=False)
]
Width = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MAX_RANGE,
        help="Take the first gap of this many slots, instead of naming one.",
        show_default=False,
    ),
]


def deploy(
    *,
    keystore: Keystore,
    deployment: Annotated[
        Path,
        typer.Option("--deployment", metavar="FILE", help="The deployment file to write; it must not exist."),
    ] = Path("chain.json"),
    bond_per_slot: Annotated[
        str, typer.Option(metavar="ETHER", help="Bond of an operator for each slot of its range.")
    ] = "0.00001",
    challenge_bond: Annotated[
        str, typer.Option(metavar="ETHER", help="What a challenge with a window costs until it is decided.")
    ] = "0.05",
    leave_delay: Annotated[
        str, typer.Option(metavar="TIME", help="From leaving until the bond is paid.")
    ] = "14d",
    answer_window: Annotated[
        str, typer.Option(metavar="TIME", help="How long a challenged operator may take to answer.")
    ] = "1d",
    vote_window: Annotated[
        str, typer.Option(metavar="TIME", help="How long jurors may take to vote.")
    ] = "1d",
    max_age: Annotated[
        int, typer.Option(min=1, metavar="BLOCKS", help="How long after its draw a result can be challenged.")
    ] = 50_400,
    password_file: PasswordFile = None,
    rpc: Rpc = None,
    data: Data = None,
) -> None:
    """Put a network's four contracts on a chain, and write the deployment file that everybody in the network needs.

    Nobody can change them later, not even this key: all terms are fixed here. A range of all 600,000 slots costs 6 ETH of bond with the
    usual --bond-per-slot. --leave-delay should be longer than --max-age blocks take, and the windows besides: else a cheat
    leaves with its bond before anybody has challenged it.
    """
    if deployment.exists():
        raise CliError(
            f"{deployment} exists and is not overwritten: it says where another network is; choose another name"
        )
    slot, stake = wei(bond_per_slot), wei(challenge_bond)
    delay, to_answer, to_vote = map(seconds, (leave_delay, answer_window, vote_window))
    url, signer = find_rpc(data, rpc), opened(keystore, password_file)

    async def create(chain: "Chain") -> Deployment:
        from aos_chain.deploy import Terms
        from aos_chain.deploy import deploy as create_contracts

        await can_pay(chain, signer, 0, "")
        terms = Terms(slot, delay, stake, to_answer, to_vote, max_age)
        with progress().step("contracts") as shown:
            made = await create_contracts(chain, signer, terms)
            shown.append(f"on chain {made.chain_id} from block {made.block}")
        return made

    made = on_chain(url, create)
    with told():
        write_deployment(deployment, made)
    typer.echo(json.dumps(json.loads(made.to_json()), indent=2))
    typer.echo(
        f"{deployment} says where they are: give it to operators, the dispatcher and auditors", err=True
    )


def register(
    *,
    keystore: Keystore,
    start: Start = None,
    end: End = None,
    width: Width = None,
    password_file: PasswordFile = None,
    rpc: Rpc = None,
    deployment: DeploymentFile = None,
    data: Data = None,
) -> None:
    """Register this key as an operator, with a range of the 600,000 slots; its bond is paid along.

    How often an operator is drawn depends on how wide its range is, and so does the bond; where the range lies does not matter, and no two
    may overlap. So --width is the usual way. The bond comes back some time after `aos chain leave`, unless a challenge takes it.
    """
    _place(
        "register", find_network(data, rpc, deployment), opened(keystore, password_file), (start, end, width)
    )


def update(
    *,
    keystore: Keystore,
    start: Start = None,
    end: End = None,
    width: Width = None,
    password_file: PasswordFile = None,
    rpc: Rpc = None,
    deployment: DeploymentFile = None,
    data: Data = None,
) -> None:
    """Move this operator to another range, wider or narrower; what the bond lacks is paid along.

    The next draws go by the new range once the dispatcher has seen enough blocks on top. Narrowing gives nothing of the bond back:
    only leaving does.
    """
    _place(
        "update", find_network(data, rpc, deployment), opened(keystore, password_file), (start, end, width)
    )


def leave(
    *,
    keystore: Keystore,
    password_file: PasswordFile = None,
    rpc: Rpc = None,
    deployment: DeploymentFile = None,
    data: Data = None,
) -> None:
    """Give up this operator's range, at once. `aos chain withdraw` has the bond paid after the network's delay.

    Until then it can still be taken for what this operator signed before. The number stays this key's for ever: who comes back has
    it again.
    """
    network, signer = find_network(data, rpc, deployment), opened(keystore, password_file)

    async def go(chain: "Chain") -> int:
        from aos_chain import operators

        await can_pay(chain, signer, 0, "")
        with progress().step("leave") as shown:
            shown.append(said(await operators.leave(chain, network.deployment, signer)))
        left = (
            int(await ask_registry(chain, network.deployment, "leavesAt", signer.address))
            - await chain.timestamp()
        )
        return max(left, 0)

    left = on_chain(network.rpc, go, network.deployment)
    typer.echo(f"{signer.address} has no range any more; its bond can be withdrawn in {span(left)}")


def withdraw(
    *,
    keystore: Keystore,
    password_file: PasswordFile = None,
    rpc: Rpc = None,
    deployment: DeploymentFile = None,
    data: Data = None,
) -> None:
    """Have the registry pay the bond that this operator left behind: after the delay, and when no challenge is open.

    What the Challenge contract owes (won bonds, jurors' fees) is another purse: `aos chain credit`.
    """
    network, signer = find_network(data, rpc, deployment), opened(keystore, password_file)

    async def take(chain: "Chain") -> int:
        from aos_chain import operators

        await can_pay(chain, signer, 0, "")
        bond = int(await ask_registry(chain, network.deployment, "bondOf", signer.address))
        with progress().step("withdraw") as shown:
            shown.append(said(await operators.withdraw(chain, network.deployment, signer)))
        return bond

    paid = on_chain(network.rpc, take, network.deployment)
    typer.echo(f"{ether(paid)} paid to {signer.address}")


def gaps(entries: Sequence[RegistryEntry]) -> Iterator[tuple[int, int]]:
    """Yield the ranges `[start, end)` that nobody holds, in order."""
    free = 0
    for entry in sorted(entries, key=lambda entry: entry.start):
        if entry.start > free:
            yield free, entry.start
        free = entry.end
    if free < MAX_RANGE:
        yield free, MAX_RANGE


def chosen_range(
    entries: Sequence[RegistryEntry], start: int | None, end: int | None, width: int | None
) -> tuple[int, int]:
    """Return the range that was asked for, none of which any of these operators holds.

    Raises:
        CliError: when it is taken, or no gap is wide enough; the message says which are free.
    """
    if (width is None) == (start is None) or (start is None) != (end is None):
        raise CliError("give --width SLOTS, or --start and --end, not both")
    free = list(gaps(entries))
    if width is not None:
        for first, behind in free:
            if behind - first >= width:
                return first, first + width
        raise ChainRefused(
            f"no gap has {width} slots: {_listed(free)}; ask for fewer, or wait until somebody leaves"
        )
    assert start is not None and end is not None  # noqa: S101, PT018 (see above)
    if start >= end:
        raise CliError(f"[{start}, {end}) is no range: --start must be below --end")
    taken = next((entry for entry in entries if entry.start < end and start < entry.end), None)
    if taken is not None:
        held = f"[{taken.start}, {taken.end}) is that of {taken.operator}"
        raise ChainRefused(f"[{start}, {end}) is taken: {held}; {_listed(free)}")
    return start, end


def _place(
    what: str, network: Network, signer: Signer, wanted: tuple[int | None, int | None, int | None]
) -> None:
    deployment = network.deployment

    async def place(chain: "Chain") -> tuple[int, int, int]:
        from aos_chain import operators

        state = await registry_state(chain, deployment)
        _check_registered(what, state, signer.address)
        others = [entry for entry in state.entries if entry.operator != signer.address]
        start, end = chosen_range(others, *wanted)
        bond = await operators.bond_lacking(chain, deployment, signer.address, end - start)
        await can_pay(chain, signer, bond, "of bond")
        send = operators.register if what == "register" else operators.update_range
        with progress().step(what) as shown:
            shown.append(said(await send(chain, deployment, signer, start, end)))
        return start, end, bond

    start, end, bond = on_chain(network.rpc, place, deployment)
    typer.echo(
        f"{signer.address} has [{start}, {end}), {100 * (end - start) / MAX_RANGE:.2f}% of the range; {ether(bond)} of bond paid"
    )


def _check_registered(what: str, state: RegistryState, address: str) -> None:
    start, end = state.range_of(address)
    if what == "register" and end:
        raise ChainRefused(f"{address} is registered, with [{start}, {end}): aos chain update moves it")
    if what == "update" and not end:
        raise ChainRefused(f"{address} is not registered: aos chain register does that")


def _listed(free: Sequence[tuple[int, int]]) -> str:
    if not free:
        return "nothing is free"
    return (
        "free: "
        + ", ".join(f"[{start}, {end})" for start, end in free[:8])
        + (" and more" if len(free) > 8 else "")
    )
