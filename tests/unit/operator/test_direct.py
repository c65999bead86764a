"""Direct jobs on the operator's side: whose sessions are accepted, who may come, what is told to whom, and what becomes of the job."""

import asyncio
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from aos_operator import direct_relay
from aos_operator.backends.protocol import Execution, Hear, Piece, Queued
from aos_operator.direct import NOBODY_CAME, RESTARTED, STOPPED, DirectDesk, Visit, check_direct
from aos_operator.direct_relay import DirectRelay
from aos_operator.direct_work import LEFT, NO_ANSWER, run_direct
from aos_operator.errors import LinkLost, Refused, WorkerRefused, WorkerUnavailable
from aos_operator.events import DirectCall, JobCall
from aos_operator.jobs import Jobs
from aos_operator.offer import Offer
from aos_operator.session import Session as Link
from aos_operator.stub import StubWorker
from aos_operator.tasks import Outcome, TaskKey
from aos_operator.workshop import Workshop
from aos_protocol.direct import (
    AnswerOpener,
    Bond,
    Commitments,
    Prompt,
    check_answer,
    seal_prompt,
    sign_session,
    unsigned_session,
)
from aos_protocol.errors import ProtocolError
from aos_protocol.fields import parse_message
from aos_protocol.identity import Signer
from aos_protocol.job import Direct, JobSpec
from aos_protocol.messages import DirectChunk, DirectChunks, DirectOffer, Dispatch, JobResult
from aos_protocol.record import Record
from aos_protocol.sealing import SealingKey, seal
from unit.operator.parts import Parts
from unit.operator.steps import refusal, said
from unit.operator.world import MODEL, OFFER, OPERATOR, World

SAID = "About eleven metres a second."
STRANGER = Signer(b"\x33" * 32)


class Client:
    """A client with its prompt and key; `dispatch` is its job, as an operator with this desk gets it."""

    def __init__(self, world: World, desk: DirectDesk, *, seconds: int = 60, said: str = SAID) -> None:
        self.key = SealingKey()
        self.prompt = Prompt.fresh({"prompt": said})
        asked = Direct(client_key=self.key.public, commitment=self.prompt.commitment())
        bare = world.job(direct=asked)
        self.session = unsigned_session(
            job_id=bare.job_id,
            dispatcher=world.signer.address,
            operator=OPERATOR.address,
            model=MODEL,
            seed=bare.seed,
            key=desk.offer.key,
            url=desk.offer.url,
            expires_at=int(time.time()) + seconds,
        )
        self.session = sign_session(world.signer, world.domain, self.session)
        self.dispatch = bare.model_copy(update={"session": self.session})
        self.bond = Bond(bare.job_id, OPERATOR.address, bare.job)
        self.opener = AnswerOpener(self.bond, self.prompt, self.key)

    @property
    def box(self) -> str:
        return seal_prompt(self.prompt, self.bond, self.session.key)

    async def read(self, visit: Visit) -> str:
        async for chunks in visit.chunks():
            for chunk in chunks:
                self.opener.take(chunk)
        return self.opener.text


@pytest.fixture
def desk() -> DirectDesk:
    return DirectDesk(OPERATOR.address, "http://127.0.0.1:7000")


@pytest.fixture
def client(world: World, desk: DirectDesk) -> Client:
    return Client(world, desk)


class TestSessions:
    def offered(self, world: World, desk: DirectDesk) -> Link:
        link = Link(OPERATOR, world.signer.address, Offer("opml", OFFER.models, desk.offer))
        connect = said(link.receive(world.challenge()))
        assert connect.params[0]["direct"] == desk.offer.to_json()
        link.receive(world.welcome(connect))
        return link

    def test_a_good_one_is_taken(self, world: World, desk: DirectDesk, client: Client) -> None:
        link = self.offered(world, desk)
        event = link.receive(world.request("dispatch_job", client.dispatch.to_json()))
        assert isinstance(event, JobCall)
        assert event.request == client.dispatch

    def test_whoever_offers_nothing_direct_takes_none(
        self, world: World, open_session: Link, client: Client
    ) -> None:
        event = open_session.receive(world.request("dispatch_job", client.dispatch.to_json()))
        assert "takes no direct jobs" in refusal(event)

    def test_without_a_session_there_is_nothing_to_accept(
        self, world: World, desk: DirectDesk, client: Client
    ) -> None:
        bare = client.dispatch.model_copy(update={"session": None})
        event = self.offered(world, desk).receive(world.request("dispatch_job", bare.to_json()))
        assert "comes with its session" in refusal(event)

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"operator": STRANGER.address}, "another operator, model or seed"),
            ({"seed": "00" * 32}, "another operator, model or seed"),
            ({"key": "ab" * 32}, "another key or address"),
            ({"url": None}, "another key or address"),
            ({"job_id": "00" * 32}, "is for job"),
            ({"expires_at": 2**40}, "more than 3600 seconds"),
        ],
        ids=str,
    )
    def test_one_that_does_not_fit_is_refused(
        self, world: World, desk: DirectDesk, client: Client, change: dict[str, Any], why: str
    ) -> None:
        bent = sign_session(world.signer, world.domain, client.session.model_copy(update=change))
        dispatch = client.dispatch.model_copy(update={"session": bent})
        with pytest.raises(ProtocolError, match=why):
            check_direct(dispatch, desk.offer, world.domain, world.signer.address, OPERATOR.address)

    def test_one_that_another_signed_is_refused(self, world: World, desk: DirectDesk, client: Client) -> None:
        bent = sign_session(STRANGER, world.domain, client.session)
        dispatch = client.dispatch.model_copy(update={"session": bent})
        with pytest.raises(ProtocolError, match="not by the dispatcher"):
            check_direct(dispatch, desk.offer, world.domain, world.signer.address, OPERATOR.address)

    def test_a_relayed_prompt_arrives(self, world: World, desk: DirectDesk) -> None:
        param = {"job_id": "ab" * 32, "route": "process 7", "box": "AAAA"}
        event = self.offered(world, desk).receive(world.request("direct_prompt", param))
        assert isinstance(event, DirectCall)
        assert event.prompt.route == "process 7"


class TestDesk:
    def test_a_job_that_nobody_took_is_unknown_whatever_comes(self, desk: DirectDesk) -> None:
        assert not desk.waits_for("ab" * 32)
        with pytest.raises(Refused, match="no such job") as refused:
            desk.come("ab" * 32, "no box at all")
        assert refused.value.code == 404

    def test_a_client_comes_once(self, desk: DirectDesk, client: Client) -> None:
        desk.expect(client.dispatch)
        assert desk.waits_for(client.bond.job_id)
        visit = desk.come(client.bond.job_id, client.box)
        assert visit.job.prompt == SAID
        assert not desk.waits_for(client.bond.job_id)
        with pytest.raises(Refused, match="here already") as refused:
            desk.come(client.bond.job_id, client.box)
        assert refused.value.code == 409

    def test_a_box_that_does_not_open_leaves_room_for_the_client(
        self, desk: DirectDesk, client: Client
    ) -> None:
        desk.expect(client.dispatch)
        for box in ("", "no base64", seal(b"{}", desk.offer.key, client.bond.prompt_info())):
            with pytest.raises(Refused) as refused:
                desk.come(client.bond.job_id, box)
            assert refused.value.code == 400
        assert desk.come(client.bond.job_id, client.box).job.prompt == SAID

    def test_after_its_time_nobody_comes(self, world: World, desk: DirectDesk) -> None:
        late = Client(world, desk, seconds=0)
        desk.expect(late.dispatch)
        assert not desk.waits_for(late.bond.job_id)
        with pytest.raises(Refused, match="has expired") as refused:
            desk.come(late.bond.job_id, late.box)
        assert refused.value.code == 410

    def test_clients_that_do_not_come_leave_room_for_other_jobs(self, world: World, desk: DirectDesk) -> None:
        first = Client(world, desk)
        desk.expect(first.dispatch)
        for _ in range(63):
            desk.check_room(first.dispatch)
            desk.expect(Client(world, desk).dispatch)
        another = Client(world, desk)
        with pytest.raises(Refused, match="64 clients of direct sessions") as refused:
            desk.check_room(another.dispatch)
        assert refused.value.code == 429
        desk.check_room(first.dispatch)  # it has its place already
        desk.come(first.bond.job_id, first.box)
        desk.check_room(another.dispatch)

    def test_what_has_expired_is_not_kept_for_ever(
        self, world: World, desk: DirectDesk, client: Client
    ) -> None:
        for _ in range(5):
            desk.expect(Client(world, desk, seconds=0).dispatch)
        desk.expect(client.dispatch)
        assert list(desk._places) == [client.bond.job_id]

    async def test_a_job_waits_for_its_client(self, desk: DirectDesk, client: Client) -> None:
        desk.expect(client.dispatch)
        asyncio.get_running_loop().call_soon(desk.come, client.bond.job_id, client.box)
        async with desk.attending(client.dispatch):
            visit = desk.visit(client.dispatch)
            assert isinstance(visit, Visit)
        assert visit.over
        assert not desk.waits_for(client.bond.job_id)

    async def test_nobody_comes_in_time(self, world: World, desk: DirectDesk) -> None:
        late = Client(world, desk, seconds=0)
        async with desk.attending(late.dispatch):
            assert desk.visit(late.dispatch) == NOBODY_CAME

    async def test_the_session_of_an_earlier_process_is_void_at_once(
        self, desk: DirectDesk, client: Client
    ) -> None:
        after = DirectDesk(OPERATOR.address, desk.offer.url)
        async with after.attending(client.dispatch):
            assert after.visit(client.dispatch) == RESTARTED

    async def test_who_stops_waits_for_nobody(self, desk: DirectDesk, client: Client) -> None:
        asyncio.get_running_loop().call_soon(desk.close)
        async with desk.attending(client.dispatch):
            assert desk.visit(client.dispatch) == STOPPED
        with pytest.raises(Refused):
            desk.come(client.bond.job_id, client.box)

    async def test_a_cancelled_job_tells_its_client(self, desk: DirectDesk, client: Client) -> None:
        desk.expect(client.dispatch)
        visit = desk.come(client.bond.job_id, client.box)
        desk.forget(client.bond.job_id)
        await client.read(visit)
        assert client.opener.ending().error == "the job was cancelled"


class Backend(StubWorker):
    """Says what `pieces` has, then gives an answer of `text`, or of a stub if that is None; `trouble` comes after the pieces."""

    def __init__(self) -> None:
        super().__init__({MODEL.name: MODEL.sha256})
        self.pieces: list[Piece | Queued] = []
        self.answer: dict[str, Any] | None = None
        self.trouble: list[Exception] = []
        self.asked: list[JobSpec] = []

    async def generate(
        self,
        job: JobSpec,
        seed: str,
        prover: str,
        execution: Execution | None = None,
        hear: Hear | None = None,
    ) -> dict[str, Any]:
        self.asked.append(job)
        assert hear is not None
        for piece in self.pieces:
            hear(piece)
        if self.trouble:
            raise self.trouble.pop(0)
        return self.answer or await super().generate(job, seed, prover, execution)


def result_of(client: Client, outcome: Outcome) -> JobResult:
    """What would be signed of an outcome, as far as `check_answer` looks at it."""
    fields = {
        "result": outcome.result,
        "record": outcome.record,
        "model": MODEL,
        "operator": OPERATOR.address,
    }
    return JobResult.model_construct(**fields)


class TestWork:
    async def run(self, desk: DirectDesk, client: Client, backend: Backend) -> Outcome:
        desk.expect(client.dispatch)
        visit = desk.come(client.bond.job_id, client.box)
        async with desk.attending(client.dispatch):
            reading = asyncio.create_task(client.read(visit))
            outcome = await run_direct(backend, desk, client.dispatch, OPERATOR.address)
            await reading
        return outcome

    @pytest.mark.parametrize("pieces", [(), ("About", " eleven"), ("",)])
    async def test_the_client_reads_all_and_the_dispatcher_nothing(
        self, desk: DirectDesk, client: Client, pieces: tuple[str, ...]
    ) -> None:
        backend = Backend()
        backend.pieces = [Queued(2), *map(Piece, pieces)]
        backend.answer = await StubWorker({MODEL.name: MODEL.sha256}).generate(
            client.prompt.in_place(client.dispatch.job), client.dispatch.seed, OPERATOR.address
        )
        outcome = await self.run(desk, client, backend)
        assert client.opener.text == backend.answer["text"] == SAID[:16]
        assert outcome.transcript is None
        assert outcome.logprobs is None
        assert SAID[:5] not in str(outcome.to_json())
        ending = client.opener.ending()
        transcript = check_answer(
            result_of(client, outcome), client.bond, client.dispatch.seed, client.opener.text, ending
        )
        assert transcript is not None
        assert outcome.commitment == parse_message(Record, outcome.record).digest()

    async def test_a_backend_without_transcripts_gives_its_tokens_to_the_client_only(
        self, desk: DirectDesk, client: Client
    ) -> None:
        backend = Backend()
        shown = Record(level="token_ids", backend="openai", output_tokens=[5, 6, 7], completion_tokens=3)
        backend.answer = {"text": "eleven", "record": shown.to_json()}
        outcome = await self.run(desk, client, backend)
        assert outcome.record == shown.model_copy(update={"output_tokens": None}).to_json()
        ending = client.opener.ending()
        assert ending.record == shown
        assert (
            check_answer(result_of(client, outcome), client.bond, client.dispatch.seed, "eleven", ending)
            is None
        )

    @pytest.mark.parametrize("other", ["twelve", "", "eleven."])
    async def test_another_answer_than_the_signed_one_does_not_hold(
        self, desk: DirectDesk, client: Client, other: str
    ) -> None:
        backend = Backend()
        backend.answer = {"text": "eleven", "record": Record(level="text", backend="openai").to_json()}
        outcome = await self.run(desk, client, backend)
        ending = client.opener.ending()
        with pytest.raises(ProtocolError, match="not the one that its operator signed for"):
            check_answer(result_of(client, outcome), client.bond, client.dispatch.seed, other, ending)
        assert Commitments.read(outcome.result).prompt == client.bond.commitment

    async def test_why_there_is_no_answer_is_for_the_client_alone(
        self, desk: DirectDesk, client: Client
    ) -> None:
        backend = Backend()
        backend.trouble = [WorkerRefused(f"{SAID} is nothing that I say")]
        with capture_logs() as lines:
            outcome = await self.run(desk, client, backend)
        assert client.opener.ending().error == f"{SAID} is nothing that I say"
        assert outcome.reason == NO_ANSWER
        assert SAID not in str(lines) + str(outcome)

    async def test_a_backend_that_is_away_is_asked_again_until_it_has_said_something(
        self, desk: DirectDesk, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("aos_operator.backoff.Backoff.next", lambda _: 0.0)
        backend = Backend()
        backend.trouble = [WorkerUnavailable("starting"), WorkerUnavailable("still")]
        assert (await self.run(desk, client, backend)).reason == ""
        assert len(backend.asked) == 3

    async def test_a_backend_that_breaks_off_does_not_begin_another_answer(
        self, desk: DirectDesk, client: Client
    ) -> None:
        backend = Backend()
        backend.pieces, backend.trouble = [Piece("About")], [WorkerUnavailable("gone")]
        assert (await self.run(desk, client, backend)).reason == NO_ANSWER
        assert client.opener.text == "About"
        assert "broke off" in (client.opener.ending().error or "")
        assert len(backend.asked) == 1

    async def test_pieces_that_are_not_the_answer_are_no_answer(
        self, desk: DirectDesk, client: Client
    ) -> None:
        backend = Backend()
        backend.pieces = [Piece("Something else")]
        backend.answer = {"text": "eleven", "record": Record(level="text", backend="openai").to_json()}
        assert (await self.run(desk, client, backend)).reason == NO_ANSWER
        assert "not the beginning of its answer" in (client.opener.ending().error or "")

    async def test_a_client_that_leaves_stops_the_backend(
        self, world: World, desk: DirectDesk, parts: Parts
    ) -> None:
        client = Client(world, desk)
        parts.worker.go.clear()
        desk.expect(client.dispatch)
        visit = desk.come(client.bond.job_id, client.box)
        running = asyncio.create_task(run_direct(parts.worker, desk, client.dispatch, OPERATOR.address))
        await parts.worker.started.wait()
        visit.left.set()
        assert (await running).reason == LEFT
        assert parts.worker.at_once == 0


async def test_clients_that_do_not_come_take_no_place_on_the_worker(world: World, parts: Parts) -> None:
    """A worker that takes two at once is free for others while four direct jobs wait for their clients."""
    desk = DirectDesk(OPERATOR.address, None)
    workshop = Workshop(parts.worker, OPERATOR.address, parts.post.domain, direct=desk)
    jobs = Jobs(parts.store, parts.queue, workshop, parts.post, parts.limits)
    waiting = [Client(world, desk) for _ in range(4)]
    ordinary = world.job()
    running = asyncio.create_task(jobs.run())
    for dispatch in (*(client.dispatch for client in waiting), ordinary):
        await jobs.take(dispatch)
    async with asyncio.timeout(10):
        while TaskKey.of(ordinary) not in parts.post.accepted:
            parts.post.progress.clear()
            await parts.post.progress.wait()
    desk.close()
    async with asyncio.timeout(10):
        await jobs.idle()
    reasons = {parts.post.accepted[TaskKey.of(client.dispatch)][0].reason for client in waiting}
    assert reasons == {STOPPED}
    running.cancel()
    await asyncio.wait([running])


class Notices:
    """`Outbox` as far as a relay uses it; without a connection after `most` notices."""

    def __init__(self, most: int = 1000) -> None:
        self.said: list[DirectChunks] = []
        self._most = most

    async def notice(self, method: str, param: dict[str, Any]) -> None:
        if len(self.said) >= self._most:
            raise LinkLost
        assert method == "direct_chunks"
        self.said.append(parse_message(DirectChunks, param))


class TestRelay:
    async def test_the_answer_goes_back_by_the_route_that_its_prompt_came(
        self, desk: DirectDesk, client: Client
    ) -> None:
        outbox: Any = Notices()
        visit = self.visit(desk, client)
        visit.hear(Piece("About eleven"))
        visit.fail("and no more")
        await DirectRelay(outbox)._send(client.bond.job_id, "process 7", visit)
        assert {said.route for said in outbox.said} == {"process 7"}
        for chunk in (chunk for frame in outbox.said for chunk in frame.chunks):
            client.opener.take(chunk)
        assert (client.opener.text, client.opener.ending().error) == ("About eleven", "and no more")
        assert not visit.left.is_set()

    async def test_a_connection_that_is_lost_is_a_client_that_has_left(
        self, desk: DirectDesk, client: Client
    ) -> None:
        outbox: Any = Notices(most=0)
        visit = self.visit(desk, client)
        visit.hear(Piece("About eleven"))
        await DirectRelay(outbox)._send(client.bond.job_id, "process 7", visit)
        assert visit.left.is_set()

    @given(st.lists(st.integers(1, 36 << 10), max_size=80))
    def test_frames_are_bounded_and_leave_nothing_out(self, sizes: list[int]) -> None:
        chunks = [DirectChunk.model_construct(last=False, box="A" * size) for size in sizes]
        frames = list(direct_relay._frames(chunks))
        assert [chunk for frame in frames for chunk in frame] == chunks
        for frame in frames:
            total = sum(len(chunk.box) for chunk in frame)
            assert len(frame) <= 64
            assert total <= 40 << 10 or len(frame) == 1

    @staticmethod
    def visit(desk: DirectDesk, client: Client) -> Visit:
        desk.expect(client.dispatch)
        return desk.come(client.bond.job_id, client.box)


def test_the_key_is_made_afresh_and_shown_by_nothing() -> None:
    one, two = DirectDesk(OPERATOR.address, None), DirectDesk(OPERATOR.address, None)
    assert one.offer.key != two.offer.key
    assert isinstance(one.offer, DirectOffer)
    assert one._key.secret.hex() not in repr(vars(one))


def test_a_dispatch_keeps_its_session_where_it_is_stored(client: Client) -> None:
    again = Dispatch.model_validate(client.dispatch.to_json())
    assert again.session == client.session
