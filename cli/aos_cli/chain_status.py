"""`aos chain status`: what is on the chain, and what each party can do next."""

import asyncio
import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aos_chain.deployment import Deployment
from aos_cli.chain_reading import ask_challenge, ask_registry, job_of, registry_state
from aos_cli.chain_registry import gaps
from aos_cli.chain_show import show_challenge, show_operator, show_status
from aos_cli.chain_target import DeploymentFile, Network, Rpc, find_network, on_chain
from aos_cli.chain_words import GROUNDS, next_steps
from aos_cli.client import DispatcherClient, JsonObject
from aos_cli.errors import CliError
from aos_cli.failures import ChainRefused, NoDispatcher
from aos_cli.show import make_console
from aos_cli.target import Data, Dispatcher, DispatcherAddress, Target, checked_address, find_target
from aos_protocol.identity import checksum_address

if TYPE_CHECKING:
    from aos_chain.client import Chain

_CHALLENGES = 20


def status(
    *,
    subject: Annotated[
        str | None,
        typer.Argument(
            metavar="[ADDRESS|ID]", help="An operator's address, or a challenge's number.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    dispatcher: Dispatcher = None,
    dispatcher_address: DispatcherAddress = None,
    rpc: Rpc = None,
    deployment: DeploymentFile = None,
    data: Data = None,
) -> None:
    """Show what is on the chain: contracts and terms, who serves with which range and bond, anchored logs, and challenges.

    Of a challenge, it says until when which window is open, and what each party can do next. Of an operator: its range, its bond,
    and when it can have that back. With --dispatcher (that of the running `aos up` is known), the newest anchor is held against the
    dispatcher's log as it is now.
    """
    network = find_network(data, rpc, deployment)
    console = make_console()
    if subject is None:
        target = _target(data, dispatcher, dispatcher_address)
        found = on_chain(network.rpc, lambda chain: _all(chain, network, target), network.deployment)
        show = show_status
    elif subject.isdecimal():
        found = on_chain(
            network.rpc, lambda chain: _one(chain, network.deployment, int(subject)), network.deployment
        )
        show = show_challenge
    else:
        address = checked_address(subject)
        found = on_chain(
            network.rpc, lambda chain: _operator(chain, network.deployment, str(address)), network.deployment
        )
        show = show_operator
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        show(console, found)


def _target(data: Any, dispatcher: str | None, address: str | None) -> Target | None:  # noqa: ANN401 (typer's option)
    try:
        return find_target(data, dispatcher, address=address)
    except NoDispatcher:
        return None


async def _all(chain: "Chain", network: Network, target: Target | None) -> JsonObject:
    deployment = network.deployment
    state = await registry_state(chain, deployment)
    bonds = await asyncio.gather(*(_bond(chain, deployment, entry.operator) for entry in state.entries))
    operators = [
        {"operator": entry.operator, "number": entry.number, "start": entry.start, "end": entry.end, **bond}
        for entry, bond in zip(state.entries, bonds, strict=True)
    ]
    return {
        "chain_id": deployment.chain_id,
        "rpc": chain.name,
        "block": state.block,
        "contracts": {
            name: getattr(deployment, name) for name in ("registry", "sortition", "anchor", "challenge")
        },
        "terms": await _terms(chain, deployment),
        "operators": operators,
        "free": [list(gap) for gap in gaps(state.entries)],
        "anchors": await _anchors(chain, deployment, target),
        "challenges": await _challenges(chain, deployment),
    }


async def _terms(chain: "Chain", deployment: Deployment) -> JsonObject:
    terms = {
        "bond_per_slot": ask_registry(chain, deployment, "bondPerSlot"),
        "leave_delay": ask_registry(chain, deployment, "leaveDelay"),
        "challenge_bond": ask_challenge(chain, deployment, "bond"),
        "answer_window": ask_challenge(chain, deployment, "answerWindow"),
        "vote_window": ask_challenge(chain, deployment, "voteWindow"),
        "max_age": ask_challenge(chain, deployment, "maxAge"),
    }
    return {
        name: int(value) for name, value in zip(terms, await asyncio.gather(*terms.values()), strict=True)
    }


async def _bond(chain: "Chain", deployment: Deployment, address: str) -> JsonObject:
    asked = (ask_registry(chain, deployment, name, address) for name in ("bondOf", "locks"))
    bond, locks = await asyncio.gather(*asked)
    return {"bond": int(bond), "locks": int(locks)}


async def _anchors(chain: "Chain", deployment: Deployment, target: Target | None) -> list[JsonObject]:
    """The newest anchor of each dispatcher, and how far the log of the dispatcher that is asked has come since."""
    from aos_chain import anchoring

    events = await chain.logs(
        "Anchor", deployment.anchor, deployment.block, await chain.block_number(), ["Anchored"]
    )
    newest = {checksum_address(event.arguments["dispatcher"]): event for event in events}
    now, found = int(time.time()), []
    for address, event in newest.items():
        size, since = int(event.arguments["size"]), await chain.timestamp(event.block)
        known: JsonObject = {
            "dispatcher": address,
            "size": size,
            "root": bytes(event.arguments["root"]).hex(),
            "block": event.block,
            "age": max(now - since, 0),
            "forked": await anchoring.is_forked(chain, deployment, address),
            "log_size": None,
        }
        found.append(known)
    if target is not None and target.address is not None:
        async with DispatcherClient(target.url) as client:
            size = (await client.log_head()).size
        none = {
            "dispatcher": target.address,
            "size": 0,
            "root": None,
            "block": None,
            "age": None,
            "forked": False,
        }
        its = next((known for known in found if known["dispatcher"] == target.address), None)
        if its is None:
            found.append(its := none)
        its["log_size"] = size
    return found


async def _challenges(chain: "Chain", deployment: Deployment) -> list[JsonObject]:
    last = int(await ask_challenge(chain, deployment, "lastChallenge"))
    newest = range(last, max(last - _CHALLENGES, 0), -1)
    return list(await asyncio.gather(*(_one(chain, deployment, number) for number in newest)))


async def _one(chain: "Chain", deployment: Deployment, number: int) -> JsonObject:
    from aos_chain import challenges

    found = await challenges.read_challenge(chain, deployment, number)
    if found is None:
        raise ChainRefused(f"there is no challenge {number}: aos chain status lists them")
    seats = await challenges.read_seats(chain, deployment, number)
    # What the chain takes for the time is that of its blocks; a quiet test chain's next one is now.
    now = max(await chain.timestamp(), int(time.time()))
    return {
        "id": number,
        "ground": GROUNDS[found.ground.name],
        "state": found.state.name.lower(),
        "job_id": await job_of(chain, deployment, found),
        "operator": found.operator,
        "challenger": found.challenger,
        "dispatcher": found.dispatcher,
        "deadline": found.deadline,
        "left": max(found.deadline - now, 0),
        "votes": [{"juror": seat.juror, "verdict": seat.verdict.name.lower()} for seat in seats],
        "next": next_steps(found, now),
    }


async def _operator(chain: "Chain", deployment: Deployment, address: str) -> JsonObject:
    number = int(await ask_registry(chain, deployment, "operatorNumber", address))
    if not number:
        raise CliError(f"{address} was never registered: aos chain register does that")
    start, end = await ask_registry(chain, deployment, "operatorRanges", address)
    leaves_at = int(await ask_registry(chain, deployment, "leavesAt", address))
    credit = await ask_challenge(chain, deployment, "credit", address)
    now = max(await chain.timestamp(), int(time.time()))
    against = [
        challenge for challenge in await _challenges(chain, deployment) if challenge["operator"] == address
    ]
    return {
        "operator": address,
        "number": number,
        "start": int(start),
        "end": int(end),
        **await _bond(chain, deployment, address),
        "balance": await chain.balance(address),
        "credit": int(credit),
        "withdrawable_in": max(leaves_at - now, 0) if leaves_at else None,
        "challenges": against,
    }
