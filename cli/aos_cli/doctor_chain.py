"""Whether a chain answers, with the network's contracts, and whether an operator is registered there; and anvil, for a local one."""

import shutil
from pathlib import Path

from aos_cli.chain_reading import ask_registry
from aos_cli.chain_target import Network, find_network, told
from aos_cli.embedded_chain import SCRIPT
from aos_cli.errors import CliError
from aos_cli.failures import NoChain
from aos_cli.findings import Findings, NotLookedAt, find


async def chain_findings(data: Path | None, rpc: str | None, deployment: Path | None) -> Findings:
    """Look for anvil, and at the chain that is named, or that of the running `aos up --chain`."""

    async def network() -> str:
        try:
            known = find_network(data, rpc, deployment)
        except NoChain as error:
            raise NotLookedAt(str(error)) from None
        return await _contracts(known)

    yield await find("anvil", _anvil)
    yield await find("chain", network)


async def registered(rpc: str, registry: str, operator: str) -> str:
    """Say which range an operator has in a registry contract.

    Raises:
        CliError: when it has none, or the contract cannot be asked.
    """
    with told():
        from aos_chain.client import Chain

        async with Chain.connect(rpc) as chain:
            await chain.require_contract(registry)
            start, end = await chain.call(
                chain.function("OperatorRegistry", registry, "operatorRanges", operator)
            )
    if start == end:
        raise CliError(f"{operator} has no range in {registry}: aos chain register gives it one")
    return f"[{start}, {end}) in {registry}"


async def _anvil() -> str:
    """Say where anvil is, without installing it."""
    if (found := shutil.which("anvil")) is not None:
        return found
    installed = sorted(
        (SCRIPT.parents[1] / ".aos" / "anvil").glob("*/node_modules/@foundry-rs/anvil-*/bin/anvil")
    )
    if installed:
        return str(installed[-1])
    if SCRIPT.is_file() and shutil.which("npm") is not None:
        raise NotLookedAt("not installed yet: aos up --chain has npm install it")
    raise NotLookedAt("aos up --chain needs it: install Node.js 20 or newer with npm, the rest works without")


async def _contracts(network: Network) -> str:
    with told():
        from aos_chain.client import Chain
        from aos_chain.deploy import check_deployment

        async with Chain.connect(network.rpc) as chain:
            await check_deployment(chain, network.deployment)
            count = await ask_registry(chain, network.deployment, "getNumOperators")
            block = await chain.block_number()
    return f"{network.deployment.chain_id} at {chain.name}, block {block}: the contracts are there, operators registered: {count}"
