"""Direct sessions on the dispatcher's side, without a database: whom a session names, who can take its place, and what passes through."""

import asyncio
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from aos_dispatcher.committee import Committee, Patience, Plan, SeatState, Task
from aos_dispatcher.errors import Refused
from aos_dispatcher.round import Author
from aos_dispatcher.sessions import Sessions
from aos_dispatcher.sessions_relay import MOST_WAITING, Relay, Relays
from aos_dispatcher.settings import Sessions as Settings
from aos_protocol.canonical import digest
from aos_protocol.direct import Unpacker, check_session, pack
from aos_protocol.errors import ProtocolError
from aos_protocol.frames import Frame, seal_reply, seal_request
from aos_protocol.identity import Signer
from aos_protocol.messages import DirectChunk, DirectChunks, DirectOffer, ModelOffer
from aos_protocol.sortition import Candidate, committee, rank
from aos_protocol.typed_data import Domain

DISPATCHER, OPERATOR, OTHER = (Signer(bytes([number]) * 32) for number in (1, 2, 3))
DOMAIN = Domain(31337, "0x" + "00" * 19 + "01")
JOB_ID = "ab" * 32
OFFER = DirectOffer(key="cd" * 32, url="http://127.0.0.1:7000")
CHUNKS = [DirectChunk(last=False, box="AAAA"), DirectChunk(last=True, box="BBBB")]


class TestCommittee:
    def drawn(self) -> Committee:
        ranking = rank(Candidate(name, 500_000 + at, 100_000) for at, name in enumerate("abc"))
        members = committee(ranking, 1, alone=True)
        plan = Plan(executes=True, blind=False, minimum=1, needed=1)
        return Committee.drawn(members, ranking[1:], plan, Patience(away=10, answer=50), 200.0)

    def test_nobody_takes_the_place_of_whom_the_client_has_a_session_with(self) -> None:
        seats = self.drawn()
        assert [task for _, task in seats.step(0.0, {"a", "b", "c"}).calls] == [Task.EXECUTE]
        seats.bind()
        seats.refused("a", "the client did not come")
        step = seats.step(1.0, {"a", "b", "c"})
        assert step.calls == []
        assert step.closed is not None
        assert "a refused: the client did not come" in step.closed
        assert [seat.operator for seat in seats.seats] == ["a"]

    def test_before_that_the_next_of_the_draw_does(self) -> None:
        seats = self.drawn()
        seats.step(0.0, {"a", "b", "c"})
        seats.refused("a", "it does not take it")
        ((seat, task),) = seats.step(1.0, {"a", "b", "c"}).calls
        assert (seat.operator, task) == ("b", Task.EXECUTE)

    def test_an_operator_that_is_away_is_waited_for_as_long_as_for_an_answer(self) -> None:
        """Its client may have the answer by now, and the log wants what it signed; but nobody waits until the deadline."""
        seats = self.drawn()
        seats.step(0.0, {"a"})
        seats.bind()
        assert seats.step(1.0, set()).wake_at == 50.0
        assert seats.step(40.0, {"a"}).closed is None
        step = seats.step(50.0, set())
        assert seats.seats[0].state is SeatState.LOST
        assert step.closed is not None


class Store:
    """`RoundsStore` as far as sessions use it."""

    owner = "this process"

    def __init__(self) -> None:
        self.given: list[Any] = []

    async def session_given(self, facts: Any, session: Any) -> None:
        self.given.append((facts.job_id, session))


def active() -> Any:
    facts = SimpleNamespace(job_id=JOB_ID, model=ModelOffer(name="m", sha256="12" * 32), job_seed="34" * 32)
    bound: list[bool] = []
    committee_ = SimpleNamespace(bind=lambda: bound.append(True), bound=bound)
    return SimpleNamespace(facts=facts, author=Author(DISPATCHER, DOMAIN), session=None, committee=committee_)


def peer(direct: DirectOffer | None = OFFER) -> Any:
    return SimpleNamespace(address=OPERATOR.address, direct=direct)


class TestOffers:
    @pytest.fixture
    def store(self) -> Store:
        return Store()

    @pytest.fixture
    def sessions(self, store: Any) -> Sessions:
        unused: Any = None
        return Sessions(Settings(), unused, store, Relays(None, "this process", 65_536))

    def accepted(self, session: Any, signer: Signer = OPERATOR) -> Frame:
        result = {"code": 200, "message": "success", "accepted": digest(session.to_json())}
        return seal_reply(signer, "1", result)

    def test_a_session_is_signed_for_the_key_that_the_operator_announced(self, sessions: Sessions) -> None:
        session = sessions.offer(active(), peer())
        check_session(session, DOMAIN, dispatcher=DISPATCHER.address, job_id=JOB_ID)
        assert (session.operator, session.key, session.url) == (OPERATOR.address, OFFER.key, OFFER.url)

    def test_who_announces_nothing_any_more_gets_none(self, sessions: Sessions) -> None:
        with pytest.raises(ProtocolError, match="no direct jobs any more"):
            sessions.offer(active(), peer(None))

    async def test_what_is_accepted_is_kept_and_binds_the_committee(
        self, sessions: Sessions, store: Store
    ) -> None:
        round_ = active()
        session = sessions.offer(round_, peer())
        await sessions.accepted(round_, {"session": session.to_json()}, self.accepted(session))
        assert round_.session == session
        assert round_.committee.bound == [True]
        assert sessions.offer(round_, peer()) == session
        await sessions.accepted(round_, {"session": session.to_json()}, self.accepted(session))
        assert [job_id for job_id, _ in store.given] == [JOB_ID]

    async def test_an_acceptance_of_somebody_else_is_none(self, sessions: Sessions, store: Store) -> None:
        round_ = active()
        session = sessions.offer(round_, peer())
        with pytest.raises(ProtocolError, match="not by its operator"):
            await sessions.accepted(round_, {"session": session.to_json()}, self.accepted(session, OTHER))
        assert (round_.session, store.given) == (None, [])

    async def test_an_operator_with_another_key_has_no_session_any_more(self, sessions: Sessions) -> None:
        round_ = active()
        round_.session = sessions.offer(round_, peer())
        with pytest.raises(ProtocolError, match="its session is void"):
            sessions.offer(round_, peer(DirectOffer(key="ef" * 32)))


def frame(signer: Signer = OPERATOR, route: str = "here", job_id: str = JOB_ID) -> Frame:
    said = DirectChunks(job_id=job_id, route=route, chunks=CHUNKS)
    return seal_request(signer, "1", "direct_chunks", [said.to_json()])


async def gathered(relay: Relay) -> bytes:
    return b"".join([packed async for packed in relay.packed()])


class Mesh:
    """`mesh.Mesh` as far as relays use it."""

    def __init__(self) -> None:
        self.passed: list[tuple[str, str]] = []

    def direct(self, process: str, said: Frame) -> None:
        self.passed.append((process, said.text))


class TestRelays:
    @pytest.fixture
    def mesh(self) -> Any:
        return Mesh()

    @pytest.fixture
    def relays(self, mesh: Any) -> Relays:
        return Relays(mesh, "here", 65_536)

    async def test_pieces_pass_as_they_came(self, relays: Relays) -> None:
        with relays.open(JOB_ID, OPERATOR.address) as relay:
            relays.accept(frame())
            packed = await gathered(relay)
            assert relay.whole
        assert packed == b"".join(map(pack, CHUNKS))
        assert Unpacker().feed(packed) == CHUNKS

    async def test_pieces_for_a_client_elsewhere_are_passed_on_as_they_were_signed(
        self, relays: Relays, mesh: Any
    ) -> None:
        relays.accept(frame(route="there"))
        ((process, text),) = mesh.passed
        assert process == "there"
        there = Relays(None, "there", 65_536)
        with there.open(JOB_ID, OPERATOR.address) as relay:
            there.passed_on(text)
            assert await gathered(relay) == b"".join(map(pack, CHUNKS))

    async def test_pieces_of_whoever_is_not_the_session_s_operator_are_nothing(self, relays: Relays) -> None:
        with relays.open(JOB_ID, OPERATOR.address) as relay:
            relays.accept(frame(OTHER))
            relays.accept(frame(job_id="00" * 32))
            relays.lost(OTHER.address)
            relays.accept(frame())
            assert await gathered(relay) == b"".join(map(pack, CHUNKS))

    @pytest.mark.parametrize("text", ["", "{}", "no frame"])
    def test_what_is_no_frame_is_refused(self, relays: Relays, text: str) -> None:
        with pytest.raises(ProtocolError):
            relays.passed_on(text)

    def test_a_notice_of_another_form_is_refused(self, relays: Relays) -> None:
        with pytest.raises(ProtocolError):
            relays.accept(seal_request(OPERATOR, "1", "direct_chunks", [{"job_id": JOB_ID}]))

    def test_one_client_at_a_time(self, relays: Relays) -> None:
        with relays.open(JOB_ID, OPERATOR.address), pytest.raises(Refused, match="another client"):
            ExitStack().enter_context(relays.open(JOB_ID, OPERATOR.address))
        with relays.open(JOB_ID, OPERATOR.address):
            pass

    async def test_an_operator_that_is_lost_breaks_its_answers(self, relays: Relays) -> None:
        with relays.open(JOB_ID, OPERATOR.address) as relay:
            relay.take(CHUNKS[:1])
            relays.lost(OPERATOR.address)
            assert await gathered(relay) == pack(CHUNKS[0])
            assert (relay.whole, relay.broken) == (False, "its operator was lost while it answered")

    async def test_a_process_that_ends_breaks_all_answers(self, relays: Relays) -> None:
        with relays.open(JOB_ID, OPERATOR.address) as relay:
            relays.close()
            assert await gathered(relay) == b""
            assert "was stopped" in relay.broken

    async def test_a_client_that_takes_nothing_costs_a_bounded_amount(self, relays: Relays) -> None:
        large = DirectChunk.model_construct(last=False, box="A" * (36 << 10))
        with relays.open(JOB_ID, OPERATOR.address) as relay:
            for _ in range(2 * MOST_WAITING // len(large.box)):
                relay.take([large])
            assert sum(len(chunk.box) for chunk in relay._chunks) <= MOST_WAITING
            assert relay.broken == "its client did not take its answer"

    async def test_a_slow_client_gets_what_came_meanwhile_together(self, relays: Relays) -> None:
        with relays.open(JOB_ID, OPERATOR.address) as relay:
            reading = asyncio.create_task(gathered(relay))
            await asyncio.sleep(0)
            relay.take(CHUNKS[:1])
            relay.take(CHUNKS[1:])
            assert await reading == b"".join(map(pack, CHUNKS))
