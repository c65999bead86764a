"""`aos chain anchor`: put the newest head of a dispatcher's log on the chain, whoever one is."""

from typing import TYPE_CHECKING

import typer

from aos_cli.chain_target import (
    DeploymentFile,
    Keystore,
    Rpc,
    can_pay,
    find_network,
    on_chain,
    opened,
    progress,
    said,
)
from aos_cli.client import DispatcherClient
from aos_cli.errors import CliError
from aos_cli.failures import BadAnswer
from aos_cli.keys import PasswordFile
from aos_cli.target import Data, Dispatcher, DispatcherAddress, Target, target_of
from aos_protocol.errors import ProtocolError
from aos_protocol.log import TreeHead, check_growth, check_head, head_claim
from aos_protocol.typed_data import Domain

if TYPE_CHECKING:
    from aos_chain.client import Chain


def anchor(
    *,
    keystore: Keystore,
    password_file: PasswordFile = None,
    dispatcher: Dispatcher = None,
    dispatcher_address: DispatcherAddress = None,
    rpc: Rpc = None,
    deployment: DeploymentFile = None,
    data: Data = None,
) -> None:
    """Put the newest head of a dispatcher's log on the chain; the key pays the gas, and may be anybody's.

    A dispatcher with a chain does so by itself. Who does not trust it to anchors what it showed him: the head is signed, and the
    contract takes it only with the proof that the log before is its beginning. A dispatcher that shows others another log can never
    anchor that one. Signature and proof are checked here first.
    """
    network, target = (
        find_network(data, rpc, deployment),
        target_of(data, dispatcher, None, address=dispatcher_address),
    )
    address = target.address
    if address is None:
        raise CliError("whose log that is must be known beforehand: give --dispatcher-address 0x...")
    signer = opened(keystore, password_file)

    async def post(chain: "Chain") -> str:
        from aos_chain import anchoring

        last = await anchoring.latest_head(chain, network.deployment, address)
        head, proof = await _fetched(
            target, address, network.deployment.domain, (last.size, last.root) if last else None
        )
        if last is not None and head.size == last.size:
            return f"all {head.size} entries of the log of {address} are anchored already, since block {last.block}"
        await can_pay(chain, signer, 0, "")
        with progress().step("anchor") as shown:
            receipt = await anchoring.post_head(
                chain,
                network.deployment,
                signer,
                head_claim(address, head),
                signature=head.signature,
                proof=[bytes.fromhex(node) for node in proof],
            )
            shown.append(said(receipt))
        return f"{head.size} entries of the log of {address} are anchored in block {receipt.block}, root {head.root}"

    typer.echo(on_chain(network.rpc, post, network.deployment))


async def _fetched(
    target: Target, address: str, domain: Domain, last: tuple[int, str] | None
) -> tuple[TreeHead, list[str]]:
    """Fetch the head, and the proof that the log grew from `last` to it; both hold. The proof is empty where there is none to give.

    Raises:
        BadAnswer: when they do not hold.
    """
    async with DispatcherClient(target.url) as client:
        head = await client.log_head()
        try:
            check_head(address, domain, head)
            if last is None or head.size == last[0]:
                return head, []
            if head.size < last[0]:
                raise BadAnswer(
                    f"the log has {head.size} entries, and the chain knows of {last[0]}: the dispatcher hides entries, or lost them"
                )
            proof = await client.log_growth(last[0], head.size)
            check_growth(last, (head.size, head.root), proof)
        except ProtocolError as error:
            raise BadAnswer(f"the log of {target.url} is not to be anchored: {error}") from error
    return head, proof
