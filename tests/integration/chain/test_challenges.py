"""Challenges on a real chain, through the calls that operators, jurors and auditors make; the rules are tested on py-evm."""

from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import count

import pytest
import pytest_asyncio

from aos_chain import challenges
from aos_chain.challenges import Ground, SignedResult, State, Ticket, Verdict
from aos_chain.client import Chain
from aos_chain.deployment import Deployment
from aos_chain.errors import ChainError, Reverted
from aos_chain.follower import RegistryFollower
from aos_chain.operators import register
from aos_chain.registry import RegistryState
from aos_protocol import vrf
from aos_protocol.identity import Signer
from aos_protocol.sortition import ticket_threshold, ticket_value
from aos_protocol.typed_data import ResultClaim, SeatClaim, sign_typed
from support.anvil import Anvil
from support.network import TERMS, Network

WIDTH = 60_000
JURY_BLOCKS = 17
DISPATCHER = Signer(b"\x11" * 32)


@dataclass(frozen=True)
class Court:
    """Operators with ranges (the first is challenged), and a challenger without one."""

    chain: Chain
    deployment: Deployment
    operators: list[Signer]
    challenger: Signer
    block: int

    @property
    def accused(self) -> Signer:
        return self.operators[0]

    def ticket(self, *, selected: bool) -> Ticket:
        """An honest ticket of the accused that selects it, or does not."""
        threshold = ticket_threshold(0, WIDTH, "", "")
        for number in count():
            alpha = number.to_bytes(32, "big") + bytes(64)
            proof = vrf.prove(self.accused, alpha)
            output = vrf.verify(self.accused.public_key, alpha, proof)
            if (ticket_value(output) < threshold) is selected:
                return Ticket(self.accused.public_key, alpha, proof)
        raise AssertionError

    def result(
        self, ticket: Ticket, signer: Signer | None = None, *, answer: str = "1b" * 32
    ) -> SignedResult:
        claim = ResultClaim(
            job_id="0a" * 32,
            dispatcher=DISPATCHER.address,
            operator=self.accused.address,
            role="executor",
            tag="",
            position="",
            counter=17,
            registry_block=self.block,
            answer=answer,
            transcript="2c" * 32,
            model="3d" * 32,
            params="4e" * 32,
            vrf_proof=sha256(ticket.alpha + ticket.proof).hexdigest(),
            clock="6a" * 32,
            attestation="00" * 32,
        )
        return SignedResult(claim, sign_typed(signer or self.accused, self.deployment.domain, claim))

    async def state(self, challenge_id: int) -> challenges.Challenge:
        found = await challenges.read_challenge(self.chain, self.deployment, challenge_id)
        assert found is not None
        return found

    async def registry(self) -> RegistryState:
        follower = RegistryFollower(
            self.chain,
            self.deployment.registry,
            self.deployment.block,
            confirmations=0,
            poll_interval=1,
            maximum_age=10,
        )
        return await follower.start()


@pytest_asyncio.fixture
async def court(anvil: Anvil, chain: Chain, network: Network) -> Court:
    operators = [await anvil.signer() for _ in range(6)]
    for index, operator in enumerate(operators):
        await register(chain, network.deployment, operator, index * WIDTH, (index + 1) * WIDTH)
    block = await anvil.head()
    await anvil.mine()
    return Court(chain, network.deployment, operators, await anvil.signer(), block)


async def _credit(court: Court, account: Signer) -> int:
    return await challenges.credit(court.chain, court.deployment, account.address)


async def test_equivocation_takes_the_bond_and_the_range(court: Court) -> None:
    ticket = court.ticket(selected=True)
    results = court.result(ticket), court.result(ticket, answer="ff" * 32)
    await challenges.prove_equivocation(court.chain, court.deployment, court.challenger, *results)

    bond = WIDTH * TERMS.bond_per_slot
    assert await _credit(court, court.challenger) == bond // 2
    assert (await court.registry()).range_of(court.accused.address) == (0, 0)
    before = await court.chain.balance(court.challenger.address)
    await challenges.withdraw_credit(court.chain, court.deployment, court.challenger)
    assert await court.chain.balance(court.challenger.address) > before
    assert await _credit(court, court.challenger) == 0


async def test_the_same_result_twice_is_no_equivocation(court: Court) -> None:
    result = court.result(court.ticket(selected=True))
    with pytest.raises(Reverted, match="it is the same result"):
        await challenges.prove_equivocation(court.chain, court.deployment, court.challenger, result, result)


async def test_an_invalid_proof(court: Court) -> None:
    honest = court.ticket(selected=True)
    forged = replace(honest, proof=honest.proof[:-1] + bytes((honest.proof[-1] ^ 1,)))
    with pytest.raises(Reverted, match="the proof holds"):
        await challenges.prove_invalid_proof(
            court.chain, court.deployment, court.challenger, court.result(honest), honest
        )
    await challenges.prove_invalid_proof(
        court.chain, court.deployment, court.challenger, court.result(forged), forged
    )
    assert (await court.registry()).number_of(court.accused.address) is None


async def test_a_result_under_somebody_elses_name(court: Court) -> None:
    liar = court.operators[1]
    result = court.result(court.ticket(selected=True), signer=liar)
    await challenges.prove_foreign_signature(court.chain, court.deployment, court.challenger, result)
    state = await court.registry()
    assert state.number_of(liar.address) is None
    assert state.number_of(court.accused.address) == 2


async def test_a_seat_that_nobody_gave(anvil: Anvil, court: Court) -> None:
    ticket = court.ticket(selected=False)
    challenge_id = await challenges.challenge_membership(
        court.chain, court.deployment, court.challenger, court.result(ticket), ticket
    )
    opened = await court.state(challenge_id)
    assert (opened.ground, opened.state) == (Ground.MEMBERSHIP, State.OPEN)
    assert (opened.operator, opened.challenger) == (court.accused.address, court.challenger.address)
    assert opened.dispatcher == DISPATCHER.address
    with pytest.raises(Reverted, match="the window is not over"):
        await challenges.close(court.chain, court.deployment, court.challenger, challenge_id)

    await anvil.travel(TERMS.answer_window + 1)
    await challenges.close(court.chain, court.deployment, court.challenger, challenge_id)
    assert (await court.state(challenge_id)).state is State.UPHELD
    assert await _credit(court, court.challenger) > TERMS.challenge_bond


async def test_a_seat_that_the_dispatcher_signed(court: Court) -> None:
    ticket = court.ticket(selected=False)
    result = court.result(ticket)
    challenge_id = await challenges.challenge_membership(
        court.chain, court.deployment, court.challenger, result, ticket
    )
    seat = SeatClaim(result.claim.job_id, court.accused.address, "executor", "", "", court.block)
    signature = sign_typed(DISPATCHER, court.deployment.domain, seat)
    await challenges.answer_seat(court.chain, court.deployment, court.accused, challenge_id, signature)

    assert (await court.state(challenge_id)).state is State.REJECTED
    assert await _credit(court, court.accused) == TERMS.challenge_bond // 2


async def test_a_ticket_that_selects_needs_no_seat(court: Court) -> None:
    ticket = court.ticket(selected=True)
    with pytest.raises(Reverted, match="the ticket selects the operator"):
        await challenges.challenge_membership(
            court.chain, court.deployment, court.challenger, court.result(ticket), ticket
        )


@pytest.mark.parametrize(
    ("verdict", "outcome"), [(Verdict.MISMATCH, State.UPHELD), (Verdict.MATCH, State.REJECTED)]
)
async def test_a_jury_decides_a_mismatch(
    anvil: Anvil, court: Court, verdict: Verdict, outcome: State
) -> None:
    chain, deployment = court.chain, court.deployment
    result = court.result(court.ticket(selected=True))
    challenge_id = await challenges.challenge_mismatch(chain, deployment, court.challenger, result)
    await challenges.answer(chain, deployment, court.accused, challenge_id)
    assert (await court.state(challenge_id)).state is State.VOTING
    await anvil.mine(JURY_BLOCKS)
    await challenges.draw(chain, deployment, court.challenger, challenge_id)
    assert (await court.state(challenge_id)).seed != bytes(32)

    alpha = await challenges.jury_alpha(chain, deployment, challenge_id)
    jurors = court.operators[1:4]
    for juror in jurors:
        cast = challenges.ballot(deployment.domain, juror, challenge_id, verdict, alpha)
        await challenges.vote(chain, deployment, court.challenger, cast)
    seats = await challenges.read_seats(chain, deployment, challenge_id)
    assert {(seat.juror, seat.verdict) for seat in seats} == {(juror.address, verdict) for juror in jurors}

    await anvil.travel(TERMS.vote_window + 1)
    await challenges.close(chain, deployment, court.challenger, challenge_id)
    assert (await court.state(challenge_id)).state is outcome
    assert all([await _credit(court, juror) > 0 for juror in jurors])


async def test_who_is_no_juror_has_no_vote(anvil: Anvil, court: Court) -> None:
    chain, deployment = court.chain, court.deployment
    result = court.result(court.ticket(selected=True))
    challenge_id = await challenges.challenge_mismatch(chain, deployment, court.challenger, result)
    await challenges.answer(chain, deployment, court.accused, challenge_id)
    await anvil.mine(JURY_BLOCKS)
    alpha = await challenges.jury_alpha(chain, deployment, challenge_id)
    own = challenges.ballot(deployment.domain, court.accused, challenge_id, Verdict.MATCH, alpha)
    with pytest.raises(Reverted, match="the operator is a party"):
        await challenges.vote(chain, deployment, court.accused, own)
    stolen = replace(own, claim=replace(own.claim, operator=court.operators[1].address))
    with pytest.raises(Reverted, match="the signature is another key's"):
        await challenges.vote(chain, deployment, court.accused, stolen)


async def test_there_is_no_jury_before_its_blocks(anvil: Anvil, court: Court) -> None:
    chain, deployment = court.chain, court.deployment
    result = court.result(court.ticket(selected=True))
    challenge_id = await challenges.challenge_mismatch(chain, deployment, court.challenger, result)
    await challenges.answer(chain, deployment, court.accused, challenge_id)
    await anvil.mine()
    with pytest.raises(Reverted, match="not all there yet"):
        await challenges.jury_alpha(chain, deployment, challenge_id)


async def test_without_votes_nobody_loses(anvil: Anvil, court: Court) -> None:
    chain, deployment = court.chain, court.deployment
    result = court.result(court.ticket(selected=True))
    challenge_id = await challenges.challenge_mismatch(chain, deployment, court.challenger, result)
    await challenges.answer(chain, deployment, court.accused, challenge_id)
    assert await challenges.read_seats(chain, deployment, challenge_id) == []
    await anvil.travel(TERMS.vote_window + 1)
    await challenges.close(chain, deployment, court.challenger, challenge_id)
    assert (await court.state(challenge_id)).state is State.UNDECIDED
    assert await _credit(court, court.challenger) > TERMS.challenge_bond // 2


async def test_a_challenge_that_is_none(chain: Chain, network: Network) -> None:
    assert await challenges.read_challenge(chain, network.deployment, 77) is None


async def test_nothing_is_sent_to_another_chain(court: Court) -> None:
    elsewhere = replace(court.deployment, chain_id=1)
    with pytest.raises(ChainError, match="on chain 1"):
        await challenges.close(court.chain, elsewhere, court.challenger, 1)
