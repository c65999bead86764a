"""The draw of a round: ask for tickets, verify them, and seat the committee by the selection rule."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from aos_dispatcher.errors import PeerGone, ReplyTimeout
from aos_dispatcher.facts import RoundFacts
from aos_dispatcher.hub import Peer
from aos_dispatcher.metrics import TICKETS
from aos_dispatcher.operators import RegistrySnapshot
from aos_dispatcher.tables import JsonObject
from aos_protocol import sortition
from aos_protocol.errors import ProtocolError
from aos_protocol.fields import parse_message
from aos_protocol.frames import Frame
from aos_protocol.messages import Draw, Reply, Ticket
from aos_protocol.sortition import Candidate, Member
from aos_protocol.verification import check_ticket


@dataclass(frozen=True)
class Answer:
    """What one operator of the electorate answered: a verified ticket, or why there is none."""

    operator: str
    frame: str | None
    ticket: Ticket | None
    candidate: Candidate | None
    reason: str

    def to_json(self) -> JsonObject:
        """Return what evidence keeps: the signed frame as it came, so that anybody can verify it again."""
        return {"operator": self.operator, "frame": self.frame, "reason": self.reason}


@dataclass(frozen=True)
class Electorate:
    """Whom a draw asks; `points` say how much each counts for where not all were asked that could be (`aos_protocol.sortition`)."""

    peers: Sequence[Peer]
    points: Mapping[str, int] | None


@dataclass(frozen=True)
class DrawResult:
    """All answers, the whole ranking, and the committee at its head."""

    answers: list[Answer]
    ranking: list[Candidate]
    members: list[Member]

    def tickets(self) -> dict[str, Ticket]:
        """Return the verified tickets by operator."""
        return {answer.operator: answer.ticket for answer in self.answers if answer.ticket}


def call_for(facts: RoundFacts, snapshot: RegistrySnapshot, operator: str, clock: dict[str, str]) -> Draw:
    """Return the call for this operator's ticket."""
    start, end = snapshot.range_of(operator)
    return Draw(
        job_id=facts.job_id,
        tag=facts.tag,
        position=facts.position,
        challenge=facts.challenge,
        job_type=facts.request.job.tag,
        model=facts.model,
        seed=facts.seed,
        seed_proof=facts.seed_proof,
        vrf_prompt_hash=facts.prompt_hash,
        range_start=start,
        range_end=end,
        registry_block=snapshot.block,
        clock=clock,
    )


def electorate(
    peers: Sequence[Peer], facts: RoundFacts, snapshot: RegistrySnapshot, barred: Collection[str]
) -> Electorate:
    """Return whom this draw asks, of the operators that are here: all that it may, or as many as an electorate has, by the seed.

    `barred` may not be asked in this round.
    """

    def may_be_asked(operator: str) -> bool:
        return snapshot.has(operator) and operator not in barred and facts.may_ask(operator)

    most = sortition.electorate_size(facts.tag)
    if len(peers) <= most or facts.readers is not None:
        # A sealed prompt has no more readers than an electorate: looking through them is less than drawing them.
        peers = [peer for peer in peers if may_be_asked(peer.address)]
    if len(peers) < most or len(snapshot.shares.holders) <= most:
        return Electorate(peers, None)
    here = {peer.address: peer for peer in peers}
    seed = bytes.fromhex(facts.seed)
    points = snapshot.shares.holders.electorate(
        seed, lambda operator: operator in here and may_be_asked(operator), most
    )
    asked = [here[operator] for operator in points]
    return Electorate(asked, points if len(asked) == most else None)


async def hold_draw(
    electorate: Electorate,
    facts: RoundFacts,
    snapshot: RegistrySnapshot,
    clock: dict[str, str],
    patience: float,
) -> DrawResult:
    """Ask the whole electorate at once, wait up to `patience` seconds, and rank the tickets that hold."""
    calls = [call_for(facts, snapshot, peer.address, clock) for peer in electorate.peers]
    asked = (_ask(peer, call, patience) for peer, call in zip(electorate.peers, calls, strict=True))
    answers = list(await asyncio.gather(*asked))
    candidates = (answer.candidate for answer in answers if answer.candidate)
    ranking = sortition.rank(candidates, electorate.points)
    return DrawResult(answers, ranking, sortition.committee(ranking, facts.minimum, alone=facts.alone))


async def _ask(peer: Peer, call: Draw, patience: float) -> Answer:
    try:
        frame = await peer.request("draw", call.to_json(), patience)
    except (PeerGone, ReplyTimeout) as error:
        TICKETS.labels("absent").inc()
        return Answer(peer.address, None, None, None, f"absent: {error}")
    return read_answer(peer.address, call, frame)


def read_answer(operator: str, call: Draw, frame: Frame) -> Answer:
    """Verify a reply to a draw; a declined or bad ticket keeps its frame and says why it does not count."""
    try:
        reply = parse_message(Reply, frame.result)
        if reply.code != 200:
            TICKETS.labels("declined").inc()
            return Answer(operator, frame.text, None, None, f"declined: {reply.message}")
        ticket = parse_message(Ticket, reply.ticket)
        candidate = check_ticket(ticket, call, operator)
    except ProtocolError as error:
        TICKETS.labels("invalid").inc()
        return Answer(operator, frame.text, None, None, f"invalid: {error}")
    TICKETS.labels("valid").inc()
    return Answer(operator, frame.text, ticket, candidate, "")
