"""`aos chain challenge`, `answer`, `vote`, `close` and `credit`: what an operator that cheats loses, and who wins it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from aos_cli.chain_amounts import ether
from aos_cli.chain_claims import Found, contradiction, read_evidence, result_of
from aos_cli.chain_reading import ask_challenge, job_of
from aos_cli.chain_target import (
    DeploymentFile,
    Keystore,
    Network,
    Rpc,
    can_pay,
    find_network,
    on_chain,
    opened,
    progress,
    said,
)
from aos_cli.chain_words import STATES, states_of
from aos_cli.client import DispatcherClient, JsonObject
from aos_cli.errors import CliError
from aos_cli.failures import ChainRefused, NoChain
from aos_cli.keys import PasswordFile
from aos_cli.target import Data, Dispatcher, JobId, TokenFile, call, checked_address, target_of
from aos_protocol.identity import Signer

if TYPE_CHECKING:
    from aos_chain.challenges import Challenge, SignedResult, Ticket
    from aos_chain.client import Chain
    from aos_chain.transactions import Receipt

_HASHES_KEPT = 256
"""So many blocks back a contract can read a block's hash."""

Ground = Literal["mismatch", "membership", "equivocation", "proof", "key"]
ChallengeId = Annotated[
    int, typer.Argument(metavar="ID", min=1, help="The challenge's number: aos chain status.")
]
EvidenceFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--evidence",
        metavar="FILE",
        help="Take the job's evidence from this file instead of the dispatcher; --ground equivocation may need two.",
        show_default=False,
    ),
]


def challenge(
    *,
    job_id: JobId,
    operator: Annotated[
        str, typer.Argument(metavar="OPERATOR", help="Whose result it is.", callback=checked_address)
    ],
    ground: Annotated[Ground, typer.Option(help="What is wrong with it; see above.")],
    keystore: Keystore,
    evidence: EvidenceFiles = None,
    tag: Annotated[
        Literal["", "suspicion", "malicious"] | None,
        typer.Option(
            help="Under which tag, if the operator answered this job under several.", show_default=False
        ),
    ] = None,
    password_file: PasswordFile = None,
    dispatcher: Dispatcher = None,
    token_file: TokenFile = None,
    rpc: Rpc = None,
    deployment: DeploymentFile = None,
    data: Data = None,
) -> None:
    """Show the chain a result that an operator signed, on one of five grounds; what is won is `aos chain credit`.

    Decided at once, by the contract alone, for gas only: equivocation (two different results for one entry of its clock), proof (its
    ticket does not hold), key (it was signed with another operator's key, which is the one that loses). The whole bond is
    taken, and half of it is yours.

    With a bond of yours and a window: membership (the ticket holds, but selects nobody; the dispatcher's signature over the seat answers
    that), mismatch (the model did not give this answer; once the operator stands by it, a jury of other operators scores it). Who loses
    pays. `aos challenge` has the dispatcher ask a committee first, which costs nothing.
    """
    network, signer = find_network(data, rpc, deployment), opened(keystore, password_file)
    if evidence:
        documents = [read_evidence(file) for file in evidence]
    else:
        target = target_of(data, dispatcher, token_file)
        documents = [call(target, lambda client: client.evidence(job_id))]
    if ground == "equivocation":
        pair: Sequence[Found] = contradiction(documents, operator)
    else:
        of_job = [document for document in documents if document.get("job", {}).get("job_id") == job_id]
        if not of_job:
            raise CliError(f"no file given is the evidence of job {job_id}")
        pair = (result_of(of_job[0], operator, tag),)
    for found in pair:
        _check_network(found, network)

    async def show(chain: "Chain") -> str:
        return await _challenged(chain, network, signer, ground, pair)

    typer.echo(on_chain(network.rpc, show, network.deployment))


def answer(
    *,
    challenge_id: ChallengeId,
    keystore: Keystore,
    seat: Annotated[
        str | None,
        typer.Option(
            metavar="SIGNATURE",
            help="Against a challenge of membership: the dispatcher's signature over the seat (130 hex digits), which came with the dispatch.",
            show_default=False,
        ),
    ] = None,
    operator_config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Against a challenge of membership: read that signature from the database of these operator settings.",
            show_default=False,
        ),
    ] = None,
    password_file: PasswordFile = None,
    rpc: Rpc = None,
    deployment: DeploymentFile = None,
    data: Data = None,
) -> None:
    """Answer a challenge, within its window; who does not has lost.

    Against mismatch, the operator stands by its result: nothing is paid now, and a jury is drawn on the block's hash; if it finds a
    mismatch, half of the operator's bond and the stake are gone, else the challenger pays. Against membership, anybody shows
    the seat that the dispatcher signed, and the challenger has lost: an operator has it in its database, where --operator-config finds it.
    """
    if seat is not None and operator_config is not None:
        raise CliError("give --seat or --operator-config, not both: each gives the dispatcher's signature")
    network, signer = find_network(data, rpc, deployment), opened(keystore, password_file)

    async def send(chain: "Chain") -> str:
        from aos_chain import challenges

        found = await _challenge(chain, network, challenge_id)
        await can_pay(chain, signer, 0, "")
        if found.ground == challenges.Ground.MEMBERSHIP:
            signature = seat
            if operator_config is not None:
                signature = await _seat_of(chain, network, found, operator_config)
            if signature is None:
                raise CliError(
                    "a challenge of membership is answered with the dispatcher's signature: give --operator-config FILE with the "
                    "settings of the operator that it is against, or --seat SIGNATURE"
                )
            with progress().step("answer") as shown:
                receipt = await challenges.answer_seat(
                    chain, network.deployment, signer, challenge_id, signature
                )
                shown.append(said(receipt))
            return f"challenge {challenge_id} is rejected: the seat is the dispatcher's word"
        if found.operator != signer.address:
            raise ChainRefused(
                f"challenge {challenge_id} is against {found.operator}: only its own key answers it, not {signer.address}"
            )
        with progress().step("answer") as shown:
            shown.append(said(await challenges.answer(chain, network.deployment, signer, challenge_id)))
        return f"challenge {challenge_id} is answered: a jury votes now; aos chain status {challenge_id} shows until when"

    typer.echo(on_chain(network.rpc, send, network.deployment))


def vote(
    *,
    challenge_id: ChallengeId,
    keystore: Keystore,
    verdict: Annotated[
        Literal["match", "mismatch", "inconclusive"] | None,
        typer.Option(help="What you found, however you did.", show_default=False),
    ] = None,
    worker: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Find out now: have this worker, with its own copy of the model, score the answer.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="With --worker: judge by the calibration beside this file. Default: by the one that the evidence names.",
            show_default=False,
        ),
    ] = None,
    evidence: EvidenceFiles = None,
    password_file: PasswordFile = None,
    dispatcher: Dispatcher = None,
    token_file: TokenFile = None,
    rpc: Rpc = None,
    deployment: DeploymentFile = None,
    data: Data = None,
) -> None:
    """Vote as a juror on a mismatch challenge that its operator has answered.

    Every operator that was registered before the challenge was opened, and is no party, draws a ticket on a block's hash; the five best of
    those who vote hold the seats, and three of one verdict decide. Jurors of the winning verdict share a quarter of the stake.
    """
    if (verdict is None) == (worker is None):
        raise CliError("give --verdict with what you found, or --worker URL to find it out")
    network, signer = find_network(data, rpc, deployment), opened(keystore, password_file)

    async def cast(chain: "Chain") -> str:
        from aos_chain import challenges

        found = await _challenge(chain, network, challenge_id)
        if found.state != challenges.State.VOTING:
            raise ChainRefused(
                f"challenge {challenge_id} {STATES[found.state.name]}: there is nothing to vote on"
            )
        await can_pay(chain, signer, 0, "")
        if not any(found.seed) and await chain.block_number() - found.draw_block > _HASHES_KEPT:
            with progress().step("draw") as shown:
                shown.append(said(await challenges.draw(chain, network.deployment, signer, challenge_id)))
            return f"nobody voted while the chain still knew the jury's blocks: a new jury is drawn; vote on {challenge_id} in some minutes"
        alpha = await challenges.jury_alpha(chain, network.deployment, challenge_id)
        say: str = verdict or ""
        if worker is not None:
            document = await _evidence_of(chain, network, found, evidence, (data, dispatcher, token_file))
            say = await _found_out(document, found, worker, model)
        ballot = challenges.ballot(
            network.deployment.domain, signer, challenge_id, challenges.Verdict[say.upper()], alpha
        )
        with progress().step("vote") as shown:
            shown.append(said(await challenges.vote(chain, network.deployment, signer, ballot)))
        seats = await challenges.read_seats(chain, network.deployment, challenge_id)
        return f"{signer.address} votes {say}; so far: {states_of(seats)}"

    typer.echo(on_chain(network.rpc, cast, network.deployment))


def close(
    *,
    challenge_id: ChallengeId,
    keystore: Keystore,
    password_file: PasswordFile = None,
    rpc: Rpc = None,
    deployment: DeploymentFile = None,
    data: Data = None,
) -> None:
    """Have a challenge decided whose window is over; anybody may, and whoever wins has a reason to.

    An operator that did not answer has lost. Of a jury, three seats of one verdict decide, else both sides have their bonds back,
    less the jurors' fee.
    """
    network, signer = find_network(data, rpc, deployment), opened(keystore, password_file)

    async def decide(chain: "Chain") -> str:
        from aos_chain import challenges

        await _challenge(chain, network, challenge_id)
        await can_pay(chain, signer, 0, "")
        with progress().step("close") as shown:
            shown.append(said(await challenges.close(chain, network.deployment, signer, challenge_id)))
        decided = await _challenge(chain, network, challenge_id)
        return f"challenge {challenge_id} {STATES[decided.state.name]}"

    typer.echo(on_chain(network.rpc, decide, network.deployment))


def credit(
    *,
    keystore: Keystore,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Have it paid to the key's account.")] = False,
    password_file: PasswordFile = None,
    rpc: Rpc = None,
    deployment: DeploymentFile = None,
    data: Data = None,
) -> None:
    """Show what the Challenge contract owes a key: won bonds, returned stakes, jurors' fees. With --withdraw, it is paid."""
    network, signer = find_network(data, rpc, deployment), opened(keystore, password_file)

    async def pay(chain: "Chain") -> str:
        from aos_chain import challenges

        owed = await challenges.credit(chain, network.deployment, signer.address)
        if not withdraw:
            return f"{ether(owed)} is owed to {signer.address}"
        if not owed:
            raise ChainRefused(f"the contract owes {signer.address} nothing")
        await can_pay(chain, signer, 0, "")
        with progress().step("withdraw") as shown:
            shown.append(said(await challenges.withdraw_credit(chain, network.deployment, signer)))
        return f"{ether(owed)} paid to {signer.address}"

    typer.echo(on_chain(network.rpc, pay, network.deployment))


async def _challenged(
    chain: "Chain", network: Network, signer: Signer, ground: Ground, pair: Sequence[Found]
) -> str:
    from aos_chain import challenges

    deployment, results = network.deployment, [_signed(found) for found in pair]
    stake = int(await ask_challenge(chain, deployment, "bond")) if ground in {"membership", "mismatch"} else 0
    await can_pay(chain, signer, stake, "to stake")
    ticket = _ticket(pair[0])
    with progress().step("challenge") as shown:
        match ground:
            case "mismatch":
                opened_as = await challenges.challenge_mismatch(chain, deployment, signer, results[0])
            case "membership":
                opened_as = await challenges.challenge_membership(
                    chain, deployment, signer, results[0], ticket
                )
            case "equivocation":
                receipt = await challenges.prove_equivocation(
                    chain, deployment, signer, results[0], results[1]
                )
            case "proof":
                receipt = await challenges.prove_invalid_proof(chain, deployment, signer, results[0], ticket)
            case "key":
                receipt = await challenges.prove_foreign_signature(chain, deployment, signer, results[0])
        if stake:
            shown.append(f"{ether(stake)} staked")
    if stake:
        return f"challenge {opened_as} is open: aos chain status {opened_as} shows what it waits for, and until when"
    return _convicted(network, receipt)


def _convicted(network: Network, receipt: "Receipt") -> str:
    from aos_chain.logs import decode_logs

    events = decode_logs("Challenge", network.deployment.challenge, receipt.logs)
    facts: dict[str, Any] = next(event.arguments for event in events if event.name == "Convicted")
    slashed, lost = int(facts["slashed"]), int(facts["burned"])
    return (
        f"{facts['operator']} is convicted: {ether(slashed)} of bond taken, {ether(lost)} of it burned; "
        f"{ether(slashed - lost)} is yours: aos chain credit --withdraw"
    )


async def _challenge(chain: "Chain", network: Network, challenge_id: int) -> "Challenge":
    from aos_chain import challenges

    found = await challenges.read_challenge(chain, network.deployment, challenge_id)
    if found is None:
        raise ChainRefused(f"there is no challenge {challenge_id}: aos chain status lists them")
    return found


async def _job_of(chain: "Chain", network: Network, found: "Challenge") -> str:
    job_id = await job_of(chain, network.deployment, found)
    if job_id is None:
        raise NoChain(
            f"the RPC endpoint does not give the event of challenge {found.id}: name another with --rpc URL"
        )
    return job_id


async def _seat_of(chain: "Chain", network: Network, found: "Challenge", config: Path) -> str:
    # It imports the operator's store, which no other command here needs.
    from aos_cli.chain_seat import stored_seat

    job_id = await _job_of(chain, network, found)
    return await stored_seat(config, network.deployment.domain, found, job_id)


async def _evidence_of(
    chain: "Chain",
    network: Network,
    found: "Challenge",
    files: Sequence[Path] | None,
    where: tuple[Path | None, str | None, Path | None],
) -> JsonObject:
    """The evidence of a challenge's job, from a file or from the dispatcher."""
    if files:
        return read_evidence(files[0])
    data, dispatcher, token_file = where
    target = target_of(data, dispatcher, token_file)
    job_id = await _job_of(chain, network, found)
    async with DispatcherClient(target.url, token=target.token) as client:
        return await client.evidence(job_id)


async def _found_out(document: JsonObject, found: "Challenge", worker: str, model: Path | None) -> str:
    # It imports the operator's worker client, which no other command here needs.
    from aos_cli.chain_jury import challenged_result, rescore

    with progress().step("score") as shown:
        verdict = await rescore(document, challenged_result(document, found.subject), worker, model)
        shown.append(f"{verdict.outcome}: {verdict.reason}")
    return verdict.outcome


def _check_network(found: Found, network: Network) -> None:
    """Raise unless a result was signed for the network that it is to be shown to."""
    domain, own = found.domain, network.deployment.domain
    if domain != own:
        where = (
            f"chain {domain.chain_id}, registry {domain.registry}"
            if domain.chain_id
            else "a network without a chain"
        )
        raise CliError(
            f"the result was signed for {where}, and the deployment is of chain {own.chain_id}, registry {own.registry}: no "
            "contract there counts it"
        )


def _signed(found: Found) -> "SignedResult":
    from aos_chain.challenges import SignedResult

    return SignedResult(found.claim, found.result.signature)


def _ticket(found: Found) -> "Ticket":
    from aos_chain.challenges import Ticket

    drawn = found.result.vrf
    return Ticket(bytes.fromhex(drawn.vrf_verify_pubkey), found.alpha, bytes.fromhex(drawn.vrf_proof))
