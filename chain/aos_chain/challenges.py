"""Challenges on the chain: showing that an operator cheated, answering, voting, deciding.

The calls of the contract `Challenge`, with the protocol's own types; docs/challenges.md says who pays whom what.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from aos_chain.client import Chain, ContractFunction
from aos_chain.deployment import Deployment
from aos_chain.hints import coordinates, hints
from aos_chain.transactions import Receipt
from aos_protocol import vrf
from aos_protocol.identity import Signer, parse_signature
from aos_protocol.typed_data import Domain, ResultClaim, VoteClaim, sign_typed


class Ground(IntEnum):
    """What an operator is challenged for."""

    MEMBERSHIP = 1
    MISMATCH = 2
    EQUIVOCATION = 3
    INVALID_PROOF = 4
    FOREIGN_SIGNATURE = 5


class State(IntEnum):
    """How far a challenge is: it waits for the answer, for votes, or is decided."""

    OPEN = 1
    VOTING = 2
    UPHELD = 3
    REJECTED = 4
    INCONCLUSIVE = 5
    UNDECIDED = 6


class Verdict(IntEnum):
    """What a juror says of a result."""

    INCONCLUSIVE = 0
    MATCH = 1
    MISMATCH = 2


@dataclass(frozen=True)
class SignedResult:
    """A result as its operator signed it: 130 hex digits of EIP-712 signature."""

    claim: ResultClaim
    signature: str


@dataclass(frozen=True)
class Ticket:
    """What a result's `vrf_proof` binds: the operator's key (33 bytes), what it drew on (96) and the proof (81)."""

    public_key: bytes
    alpha: bytes
    proof: bytes


@dataclass(frozen=True)
class Ballot:
    """A juror's vote, which anybody may bring in: its key (33 bytes), its signature over the vote, its proof on the jury's alpha."""

    claim: VoteClaim
    signature: str
    public_key: bytes
    alpha: bytes
    proof: bytes


@dataclass(frozen=True)
class Challenge:
    """A challenge as the chain has it. `deadline` is in Unix seconds.

    Jurors had a range after `jury_block`; they are drawn on the hashes of `draw_block` (0: not yet) and of some after it.
    """

    id: int
    ground: Ground
    state: State
    operator: str
    challenger: str
    dispatcher: str
    subject: bytes
    deadline: int
    jury_block: int
    draw_block: int
    seed: bytes


@dataclass(frozen=True)
class Seat:
    """A juror's seat with its verdict; of more than five jurors those with the lowest scores have seats."""

    juror: str
    verdict: Verdict
    score: int


async def prove_equivocation(
    chain: Chain, deployment: Deployment, signer: Signer, first: SignedResult, second: SignedResult
) -> Receipt:
    """Show two results that one operator signed for one entry of its clock. Raises `Reverted` where they show nothing."""
    signed = [part for result in (first, second) for part in _signed(result)]
    return await _send(chain, deployment, signer, "proveEquivocation", signed)


async def prove_invalid_proof(
    chain: Chain, deployment: Deployment, signer: Signer, result: SignedResult, ticket: Ticket
) -> Receipt:
    """Show a result whose ticket does not hold. Raises `Reverted` where it holds."""
    return await _send(chain, deployment, signer, "proveInvalidProof", [*_signed(result), *_shown(ticket)])


async def prove_foreign_signature(
    chain: Chain, deployment: Deployment, signer: Signer, result: SignedResult
) -> Receipt:
    """Show a result that another operator signed than the one it names. Raises `Reverted` where that one signed it."""
    return await _send(chain, deployment, signer, "proveForeignSignature", _signed(result))


async def challenge_membership(
    chain: Chain, deployment: Deployment, signer: Signer, result: SignedResult, ticket: Ticket
) -> int:
    """Stake the contract's bond on an operator having had no seat; return the challenge's id."""
    return await _open(chain, deployment, signer, "challengeMembership", [*_signed(result), *_shown(ticket)])


async def challenge_mismatch(
    chain: Chain, deployment: Deployment, signer: Signer, result: SignedResult
) -> int:
    """Stake the contract's bond on a result not being what the model gave; return the challenge's id."""
    return await _open(chain, deployment, signer, "challengeMismatch", _signed(result))


async def answer(chain: Chain, deployment: Deployment, signer: Signer, challenge_id: int) -> Receipt:
    """As the challenged operator, stand by the result: a jury is drawn. Raises `Reverted` once the window is over."""
    return await _send(chain, deployment, signer, "answer", [challenge_id])


async def answer_seat(
    chain: Chain, deployment: Deployment, signer: Signer, challenge_id: int, signature: str
) -> Receipt:
    """Answer a challenge of membership with the dispatcher's signature over the `SeatClaim`; anybody may."""
    return await _send(chain, deployment, signer, "answerSeat", [challenge_id, parse_signature(signature)])


async def draw(chain: Chain, deployment: Deployment, signer: Signer, challenge_id: int) -> Receipt:
    """Fix the jury's seed while the chain knows its blocks' hashes; later, have later blocks draw a jury."""
    return await _send(chain, deployment, signer, "draw", [challenge_id])


async def jury_alpha(chain: Chain, deployment: Deployment, challenge_id: int) -> bytes:
    """Return what jurors draw their tickets on.

    Raises `Reverted` until the blocks that draw the jury are all there, and when the chain has forgotten them: see `draw`.
    """
    return bytes(await chain.call(_function(chain, deployment, "juryAlpha", challenge_id)))


def ballot(domain: Domain, signer: Signer, challenge_id: int, verdict: Verdict, alpha: bytes) -> Ballot:
    """Make a juror's vote; `alpha` comes from `jury_alpha`."""
    claim = VoteClaim(challenge_id, signer.address, int(verdict))
    return Ballot(
        claim, sign_typed(signer, domain, claim), signer.public_key, alpha, vrf.prove(signer, alpha)
    )


async def vote(chain: Chain, deployment: Deployment, signer: Signer, cast: Ballot) -> Receipt:
    """Bring in a vote. Raises `Reverted` where the juror may not vote, or five others have better tickets."""
    shown = hints(cast.public_key, cast.alpha, cast.proof).abi()
    key = list(coordinates(cast.public_key))
    claim, signature = cast.claim, parse_signature(cast.signature)
    arguments = [claim.challenge, claim.operator, claim.verdict, signature, key, cast.proof, shown]
    return await _send(chain, deployment, signer, "vote", arguments)


async def close(chain: Chain, deployment: Deployment, signer: Signer, challenge_id: int) -> Receipt:
    """Have a challenge decided whose window is over; anybody may."""
    return await _send(chain, deployment, signer, "close", [challenge_id])


async def withdraw_credit(chain: Chain, deployment: Deployment, signer: Signer) -> Receipt:
    """Have the contract pay what it owes the signer."""
    return await _send(chain, deployment, signer, "withdraw", [])


async def credit(chain: Chain, deployment: Deployment, account: str) -> int:
    """Return the wei that the contract owes an account."""
    return int(await chain.call(_function(chain, deployment, "credit", account)))


async def read_challenge(chain: Chain, deployment: Deployment, challenge_id: int) -> Challenge | None:
    """Return a challenge, `None` where there is none of this id."""
    ground, state, *rest = await chain.call(_function(chain, deployment, "challenge", challenge_id))
    return Challenge(challenge_id, Ground(ground), State(state), *rest) if state else None


async def read_seats(chain: Chain, deployment: Deployment, challenge_id: int) -> list[Seat]:
    """Return the jury as far as it has voted, in no order."""
    found = await chain.call(_function(chain, deployment, "seats", challenge_id))
    return [Seat(juror, Verdict(verdict), score) for juror, verdict, score in found]


def claim_tuple(claim: ResultClaim) -> tuple[Any, ...]:
    """Return a claim as web3 takes the contract's struct `Claim`: digests as bytes."""
    values = ((kind, getattr(claim, field)) for _, kind, field in claim.fields)
    return tuple(bytes.fromhex(value) if kind == "bytes32" else value for kind, value in values)


def _signed(result: SignedResult) -> list[Any]:
    return [claim_tuple(result.claim), parse_signature(result.signature)]


def _shown(ticket: Ticket) -> list[Any]:
    given = hints(ticket.public_key, ticket.alpha, ticket.proof).abi()
    return [list(coordinates(ticket.public_key)), ticket.alpha, ticket.proof, given]


async def _open(
    chain: Chain, deployment: Deployment, signer: Signer, function: str, arguments: Sequence[Any]
) -> int:
    bond = int(await chain.call(_function(chain, deployment, "bond")))
    receipt = await _send(chain, deployment, signer, function, arguments, value=bond)
    events = chain.decode("Challenge", deployment.challenge, receipt.logs)
    return next(int(event.arguments["id"]) for event in events if event.name == "ChallengeOpened")


async def _send(
    chain: Chain,
    deployment: Deployment,
    signer: Signer,
    function: str,
    arguments: Sequence[Any],
    *,
    value: int = 0,
) -> Receipt:
    await chain.require_chain(deployment.chain_id)
    call = _function(chain, deployment, function, *arguments)
    return await chain.send(call, signer, value)


def _function(chain: Chain, deployment: Deployment, name: str, *arguments: Any) -> ContractFunction:  # noqa: ANN401
    return chain.function("Challenge", deployment.challenge, name, *arguments)
