"""How a committee member's statement is taken in, be it a result or a score: once, from its own connection, into its own seat."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar, Generic, TypeVar

from aos_dispatcher.committee import Seat, Task
from aos_dispatcher.desk import NEVER, NOT_NOW, Desk
from aos_dispatcher.errors import LeaseLost, Refused, Unavailable
from aos_dispatcher.facts import RoundKey
from aos_dispatcher.hub import Peer
from aos_dispatcher.round import ActiveRound
from aos_dispatcher.rounds_store import RoundsStore
from aos_protocol.errors import InvalidMessage, ProtocolError
from aos_protocol.fields import Message, parse_message
from aos_protocol.frames import Frame
from aos_protocol.messages import JobResult, JobScore
from aos_protocol.typed_data import Domain
from aos_service.tracing import span, where

Said = TypeVar("Said", bound=JobResult | JobScore)


class Intake(ABC, Generic[Said]):
    """Accepts verified statements of one kind into their rounds; a repetition gets the same answer and changes nothing."""

    what: ClassVar[str]
    """The kind, as operators are told of it."""

    answers: ClassVar[Task]
    """What a member was asked to do that says this."""

    def __init__(self, store: RoundsStore, desk: Desk, domain: Domain, kind: type[Said]) -> None:
        self._store = store
        self._desk = desk
        self._domain = domain
        self._kind = kind

    async def accept(self, peer: Peer, frame: Frame) -> None:
        """Verify and store one statement. Raises `Refused`, or `ProtocolError` for one of the wrong form."""
        try:
            said = parse_message(self._kind, frame.params[0])
        except InvalidMessage as error:
            # The operator is told never to send this again, so nobody need wait for it.
            self._desk.give_up(self._desk.at_work(_key(frame.params[0])), peer, error)
            raise
        if said.operator != peer.address:
            raise Refused(
                NEVER, f"the {self.what} names operator {said.operator}, but {peer.address} sent it"
            )
        key = _key(frame.params[0])
        open_here = self._desk.awaits(key, peer)
        if not open_here and await self._is_repetition(said):
            return
        round_ = await self._desk.round_of(key)
        made = where(*key, self.answers, peer.address, "task")
        try:
            with span(self.what, parent=made, kind="consumer", operator=peer.address):
                await self._verify_and_store(round_, peer, frame, said)
        except ProtocolError as error:
            self._desk.give_up(round_, peer, error)
            raise
        except Unavailable:
            round_.unsure = True
            round_.poke.set()
            raise

    @abstractmethod
    async def _stored(self, said: Said) -> Said | None:
        """Return what this operator has said already in this place."""

    @abstractmethod
    async def _verify_and_store(self, round_: ActiveRound, peer: Peer, frame: Frame, said: Said) -> None:
        """Make every check, then store. Raises `Refused` or `ProtocolError`."""

    async def _is_repetition(self, said: Said) -> bool:
        stored = await self._stored(said)
        if stored is None:
            return False
        if _content(stored) != _content(said):
            raise Refused(NEVER, f"another {self.what} of this operator for this round is stored already")
        return True


@contextmanager
def receiving(seat: Seat) -> Iterator[None]:
    """Keep the seat from being given up while its statement is stored. Raises `Refused` when the round's lease is lost."""
    if seat.receiving:
        raise Refused(NOT_NOW, "what you sent before is being stored; send this again")
    seat.receiving = True
    try:
        yield
    except LeaseLost as error:
        raise Refused(NOT_NOW, str(error)) from None
    finally:
        seat.receiving = False


def _content(said: Message) -> Message:
    """Return a statement without what changes at each sending."""
    afresh: dict[str, object] = {"clock": {}, "signature": ""}
    if isinstance(said, JobResult):
        afresh["counter"] = 0
    return said.model_copy(update=afresh)


def _key(said: Mapping[str, object]) -> RoundKey:
    """Return the round that a statement is about, also of one that has not been checked; results are of no challenge."""
    challenge = said.get("challenge")
    return str(said.get("job_id")), str(said.get("tag")), challenge if isinstance(challenge, int) else 0
