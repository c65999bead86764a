"""The protocol, stepped by hand."""

import re
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aos_operator.errors import DispatcherRefused, LinkLost, Unavailable, WrongDispatcher, WrongNetwork
from aos_operator.events import CancelCall, DrawCall, JobCall, Say, Settled, Welcomed
from aos_operator.offer import Offer
from aos_operator.session import MAX_BAD_FRAMES, MAX_FRAME_BYTES, MAX_LAST_SEEN, Session
from aos_operator.stub import stub_answer
from aos_operator.tasks import Method, Outcome, Task, TaskKey
from aos_protocol.clock import VectorClock
from aos_protocol.fields import parse_message
from aos_protocol.frames import open_object, param_text, seal_request
from aos_protocol.job import Claim
from aos_protocol.messages import UNSELECTED, Connect, Dispatch, JobResult, Ticket
from aos_protocol.typed_data import ReceiptClaim, sign_typed
from aos_protocol.verification import check_ticket
from unit.operator.steps import STRANGER, refusal, said, ticket_in
from unit.operator.world import MODEL, NUMBER, OFFER, OPERATOR, SERVED, World, opened


def answered(dispatch: Dispatch) -> Outcome:
    answer = stub_answer(dispatch.job, dispatch.model.sha256, dispatch.seed, OPERATOR.address)
    return Outcome(answer["text"], "", answer["transcript"], answer["commitment"])


class TestConnecting:
    def test_a_challenge_is_answered_by_connect_sealed_by_the_operator(
        self, world: World, session: Session
    ) -> None:
        frame = said(session.receive(world.challenge()))
        connect = parse_message(Connect, frame.params[0])
        assert frame.method == "connect"
        assert (connect.operator, connect.nonce, connect.workers) == (OPERATOR.address, world.nonce, ["opml"])
        assert connect.models == [SERVED]
        assert open_object(param_text(frame))[1] == OPERATOR.address

    def test_the_welcome_tells_what_was_last_seen_of_our_own_clock(
        self, world: World, session: Session
    ) -> None:
        connect = said(session.receive(world.challenge()))
        assert session.receive(world.welcome(connect, last_seen=41)) == Welcomed(41)

    def test_a_dispatcher_with_another_key_is_named(self, session: Session) -> None:
        other = World(signer=STRANGER)
        with pytest.raises(WrongDispatcher, match=f"the dispatcher there is {STRANGER.address}"):
            session.receive(other.challenge())

    @pytest.mark.parametrize(
        "lie", [{"dispatcher": STRANGER.address}, {"public_key": STRANGER.public_key.hex()}]
    )
    def test_a_challenge_that_names_somebody_else_is_not_answered(
        self, world: World, session: Session, lie: dict[str, str]
    ) -> None:
        with pytest.raises(WrongDispatcher):
            session.receive(world.challenge(**lie))

    @pytest.mark.parametrize("lie", [{"chain_id": 1}, {"registry": "0x" + "00" * 19 + "02"}])
    def test_a_dispatcher_of_another_network_is_not_answered(self, world: World, lie: dict[str, Any]) -> None:
        session = Session(OPERATOR, world.signer.address, OFFER, world.domain)
        with pytest.raises(WrongNetwork, match="correct the chain block") as caught:
            session.receive(world.challenge(**lie))
        assert all(str(value) in str(caught.value) for value in lie.values())
        assert said(session.receive(world.challenge())).method == "connect"

    def test_a_refusal_carries_the_dispatchers_words(self, world: World, session: Session) -> None:
        connect = said(session.receive(world.challenge()))
        with pytest.raises(DispatcherRefused, match="run: dispatcher operator add"):
            session.receive(world.reply(connect.id, 400, "not registered; run: dispatcher operator add"))

    @pytest.mark.parametrize("code", [429, 503])
    def test_not_now_is_no_refusal(self, world: World, session: Session, code: int) -> None:
        connect = said(session.receive(world.challenge()))
        with pytest.raises(Unavailable, match="no database"):
            session.receive(world.reply(connect.id, code, "no database"))

    def test_a_welcome_without_a_number_is_no_welcome(self, world: World, session: Session) -> None:
        connect = said(session.receive(world.challenge()))
        with pytest.raises(LinkLost, match="number"):
            session.receive(world.reply(connect.id))

    def test_a_last_seen_clock_that_cannot_be_is_not_believed(self, world: World, session: Session) -> None:
        connect = said(session.receive(world.challenge()))
        with pytest.raises(DispatcherRefused, match="cannot be"):
            session.receive(world.welcome(connect, last_seen=MAX_LAST_SEEN + 1))

    def test_requests_wait_for_the_welcome(self, world: World, session: Session) -> None:
        draw = world.request("draw", world.draw(world.job()).to_json())
        assert "must come after the reply to connect" in refusal(session.receive(draw))
        said(session.receive(world.challenge()))
        assert "must come after the reply to connect" in refusal(session.receive(draw))

    def test_a_second_challenge_is_refused(self, world: World, open_session: Session) -> None:
        assert "a challenge first, and once" in refusal(open_session.receive(world.challenge()))

    def test_a_reply_to_nothing_is_ignored_and_counted(self, world: World, session: Session) -> None:
        assert session.receive(world.reply("1")) is None
        said(session.receive(world.challenge()))
        assert session.receive(world.reply("77")) is None
        assert session.refused["frame"] == 2


class TestDraw:
    def test_its_ticket_satisfies_the_dispatchers_checks(self, world: World, open_session: Session) -> None:
        draw = world.draw(world.job())
        call = open_session.receive(world.request("draw", draw.to_json()))
        assert isinstance(call, DrawCall)
        reply = opened(open_session.ticket(call, 5))
        assert reply.result is not None
        ticket = parse_message(Ticket, reply.result["ticket"])
        assert check_ticket(ticket, draw, OPERATOR.address).selected
        assert ticket.clock == {**draw.clock, str(NUMBER): "5"}

    def test_an_operator_without_a_range_is_not_selected(self, world: World, open_session: Session) -> None:
        draw = world.draw(world.job(), range_end=0)
        call = open_session.receive(world.request("draw", draw.to_json()))
        assert isinstance(call, DrawCall)
        result = opened(open_session.ticket(call, 1)).result
        assert result is not None
        ticket = parse_message(Ticket, result["ticket"])
        assert not ticket.vrf.selected
        assert not check_ticket(ticket, draw, OPERATOR.address).selected

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"job_type": "tee"}, "unsupported worker type, need opml, got tee"),
            ({"model": MODEL.model_copy(update={"name": "other"})}, "does not serve model other"),
            ({"model": MODEL.model_copy(update={"sha256": "00" * 32})}, "serves model demo.gguf as abab"),
            ({"seed": "00" * 32}, "seed"),
            ({"seed_proof": "00" * 81}, "no compressed point"),
            ({"job_id": "00" * 32}, "proof"),
            ({"tag": "suspicion"}, "no selection rule"),
            ({"clock": {str(n): "1" for n in range(100, 100 + 4096)}}, "4096"),
        ],
    )
    def test_one_that_does_not_hold_gets_a_reason_and_no_ticket(
        self, world: World, open_session: Session, changes: dict[str, Any], reason: str
    ) -> None:
        draw = world.draw(world.job(), **changes)
        assert reason in refusal(open_session.receive(world.request("draw", draw.to_json())))
        assert open_session.refused["request"] == 1

    def test_a_challenge_is_drawn_on_its_own_seed(self, world: World, open_session: Session) -> None:
        draw = world.draw(world.call(challenge=3))
        call = open_session.receive(world.request("draw", draw.to_json()))
        assert isinstance(call, DrawCall)
        result = opened(open_session.ticket(call, 5)).result
        assert result is not None
        ticket = parse_message(Ticket, result["ticket"])
        assert ticket.challenge == 3
        check_ticket(ticket, draw, OPERATOR.address)

    @pytest.mark.parametrize(("number", "of"), [(0, 3), (2, 3), (3, 0)])
    def test_a_seed_of_another_challenge_is_refused(
        self, world: World, open_session: Session, number: int, of: int
    ) -> None:
        draw = world.draw(world.call(challenge=of), challenge=number)
        answer = open_session.receive(world.request("draw", draw.to_json()))
        assert re.search("proof", refusal(answer))


class TestDispatch:
    def test_a_good_one_is_passed_on_as_it_is(self, world: World, open_session: Session) -> None:
        dispatch = world.job()
        call = open_session.receive(world.request("dispatch_job", dispatch.to_json()))
        assert isinstance(call, JobCall)
        assert call.request == dispatch

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"sequence": 99}, "the receipt is signed by"),
            ({"request_digest": "00" * 32}, "the receipt is signed by"),
            ({"signature": "00" * 65}, "v is 0"),
            ({"seed": "00" * 32}, "the seed is not the output of its proof"),
            ({"tag": "malicious"}, "no selection rule"),
            ({"model": MODEL.model_copy(update={"name": "other"})}, "does not serve"),
            ({"range_end": 0}, "no range in the registry"),
            ({"seat": "00" * 65}, "v is 0"),
            ({"claim": Claim(text="x")}, "a claim is scored, not run"),
        ],
    )
    def test_a_forged_one_is_refused(
        self, world: World, open_session: Session, changes: dict[str, Any], reason: str
    ) -> None:
        dispatch = world.job(**changes)
        assert reason in refusal(open_session.receive(world.request("dispatch_job", dispatch.to_json())))

    def test_a_receipt_of_somebody_else_is_refused(self, world: World, open_session: Session) -> None:
        honest = world.job()
        claim = ReceiptClaim(honest.job_id, honest.sequence, honest.request_digest)
        forged = honest.model_copy(update={"signature": sign_typed(STRANGER, world.domain, claim)})
        answer = open_session.receive(world.request("dispatch_job", forged.to_json()))
        assert f"signed by {STRANGER.address}" in refusal(answer)

    @pytest.mark.parametrize(
        "lie",
        [
            {"operator": STRANGER.address},
            {"role": "verifier"},
            {"tag": "suspicion"},
            {"position": "before"},
            {"registry_block": 8},
            {"job_id": "ab" * 32},
        ],
    )
    def test_a_seat_for_anything_else_is_refused(
        self, world: World, open_session: Session, lie: dict[str, Any]
    ) -> None:
        honest = world.job(tag="malicious", position="after", registry_block=7)
        forged = world.seated(honest, **lie)
        answer = refusal(open_session.receive(world.request("dispatch_job", forged.to_json())))
        assert re.match(r"the seat is signed by 0x[0-9A-Fa-f]{40}, not by the dispatcher", answer)
        assert isinstance(open_session.receive(world.request("dispatch_job", honest.to_json())), JobCall)

    def test_a_seat_that_somebody_else_gives_is_refused(self, world: World, open_session: Session) -> None:
        forged = world.seated(world.job(), signer=STRANGER)
        answer = open_session.receive(world.request("dispatch_job", forged.to_json()))
        assert f"the seat is signed by {STRANGER.address}" in refusal(answer)

    def test_a_job_of_another_type_or_model_than_its_dispatch_is_refused(
        self, world: World, open_session: Session
    ) -> None:
        job = world.job()
        tee = job.model_copy(update={"job": job.job.model_copy(update={"tag": "tee"})})
        answer = open_session.receive(world.request("dispatch_job", tee.to_json()))
        assert refusal(answer) == "unsupported worker type, need opml, got tee"
        swapped = job.model_copy(update={"job": job.job.model_copy(update={"model": "other.gguf"})})
        answer = open_session.receive(world.request("dispatch_job", swapped.to_json()))
        assert "asks for model other.gguf" in refusal(answer)

    def test_fields_that_are_wrong_are_named(self, world: World, open_session: Session) -> None:
        message = {**world.job().to_json(), "sequence": "1", "surprise": 1}
        reason = refusal(open_session.receive(world.request("dispatch_job", message)))
        assert "sequence" in reason
        assert "surprise" in reason

    def test_a_cancellation_names_its_task(self, world: World, open_session: Session) -> None:
        call = open_session.receive(world.request("cancel_job", {"job_id": "ab" * 32, "tag": "malicious"}))
        assert isinstance(call, CancelCall)
        assert set(call.keys) == {
            TaskKey("ab" * 32, "malicious", 0, Method.DISPATCH),
            TaskKey("ab" * 32, "malicious", 0, Method.SCORE),
        }

    @pytest.mark.parametrize(
        "param", [{"job_id": "ab" * 32}, {"job_id": "\0", "tag": ""}, {"job_id": "ab" * 32, "tag": "x"}]
    )
    def test_a_cancellation_of_nothing_is_refused(
        self, world: World, open_session: Session, param: dict[str, Any]
    ) -> None:
        assert "Cancel" in refusal(open_session.receive(world.request("cancel_job", param)))

    def test_an_unknown_method_is_refused(self, world: World, open_session: Session) -> None:
        assert "dispatch_job" in refusal(open_session.receive(world.request("shutdown", {})))


class TestResult:
    def test_it_satisfies_the_dispatchers_checks(self, world: World, open_session: Session) -> None:
        dispatch = world.job()
        ticket = ticket_in(world, open_session, dispatch)
        _, text = open_session.result(Task(dispatch, outcome=answered(dispatch)), 9)
        result = world.verify(opened(text), dispatch, ticket)
        assert result.result == "What is AI?"
        assert result.clock[str(NUMBER)] == "9"

    def test_a_reason_without_an_answer_does_too(self, world: World, open_session: Session) -> None:
        dispatch = world.job()
        ticket = ticket_in(world, open_session, dispatch)
        _, text = open_session.result(Task(dispatch, outcome=Outcome.failed(UNSELECTED)), 9)
        result = world.verify(opened(text), dispatch, ticket)
        assert (result.result, result.reason, result.transcript) == ("", UNSELECTED, None)

    def test_every_sending_is_another_frame_that_says_the_same(
        self, world: World, open_session: Session
    ) -> None:
        task = Task(world.job(), outcome=Outcome.failed("no"))
        (first_id, first), (second_id, second) = open_session.result(task, 9), open_session.result(task, 10)
        assert first_id != second_id
        one, two = (parse_message(JobResult, opened(text).params[0]) for text in (first, second))
        assert one.signature != two.signature
        assert (one.counter, two.counter) == (9, 10)
        same = {"clock": {}, "signature": "", "counter": 1}
        assert one.model_copy(update=same) == two.model_copy(update=same)

    def test_an_answer_too_large_for_a_frame_becomes_a_reason(
        self, world: World, open_session: Session
    ) -> None:
        dispatch = world.job()
        ticket = ticket_in(world, open_session, dispatch)
        huge = Outcome(
            "x" * MAX_FRAME_BYTES, "", answered(dispatch).transcript, answered(dispatch).commitment
        )
        _, text = open_session.result(Task(dispatch, outcome=huge), 9)
        assert "does not fit a frame" in world.verify(opened(text), dispatch, ticket).reason

    def test_an_answer_that_cannot_be_signed_becomes_a_reason(
        self, world: World, open_session: Session
    ) -> None:
        dispatch = world.job()
        ticket = ticket_in(world, open_session, dispatch)
        broken = Outcome("x", "", answered(dispatch).transcript, commitment="not a digest")
        _, text = open_session.result(Task(dispatch, outcome=broken), 9)
        assert "cannot be sent" in world.verify(opened(text), dispatch, ticket).reason

    def test_its_clock_keeps_what_the_dispatch_knew(self, world: World, open_session: Session) -> None:
        dispatch = world.job(clock={"1": "4", "9": "2", str(NUMBER): "3"})
        _, text = open_session.result(Task(dispatch, outcome=Outcome.failed("no")), 9)
        clock = VectorClock.from_map(parse_message(JobResult, opened(text).params[0]).clock)
        assert clock.to_map() == {"1": "4", "7": "9", "9": "2"}

    def test_the_reply_to_it_comes_back_with_its_id(self, world: World, open_session: Session) -> None:
        frame_id, _ = open_session.result(Task(world.job(), outcome=Outcome.failed("no")), 9)
        event = open_session.receive(world.reply(frame_id, 503, "later"))
        assert event == Settled(frame_id, 503, "later", {"code": 503, "message": "later"})

    def test_a_task_without_an_outcome_has_none(self, world: World, open_session: Session) -> None:
        with pytest.raises(ValueError, match="without an outcome"):
            open_session.result(Task(world.job()), 1)


class TestBadFrames:
    def test_a_frame_of_somebody_else_is_refused_and_counted(
        self, world: World, open_session: Session
    ) -> None:
        forged = seal_request(STRANGER, "x", "dispatch_job", [world.job().to_json()]).text
        assert f"signed by {STRANGER.address}" in refusal(open_session.receive(forged))
        assert open_session.refused["frame"] == 1

    def test_a_changed_frame_is_refused(self, world: World, open_session: Session) -> None:
        text = world.request("dispatch_job", world.job(prompt="What is AI?").to_json())
        assert "hash" in refusal(open_session.receive(text.replace("What is AI?", "What is BI?")))

    def test_an_oversized_frame_is_refused(self, world: World, open_session: Session) -> None:
        text = world.request("draw", {"pad": "x" * MAX_FRAME_BYTES})
        assert "bytes" in refusal(open_session.receive(text))

    @pytest.mark.parametrize("text", ["", "[]", "nonsense", '{"id":1}', b"\xff", "[" * 100_000])
    def test_what_is_no_frame_is_ignored_and_counted(self, open_session: Session, text: str | bytes) -> None:
        assert open_session.receive(text) is None
        assert open_session.refused["frame"] == 1

    def test_a_bad_reply_is_never_answered(self, world: World, open_session: Session) -> None:
        text = world.reply("1", 200, "success")
        assert open_session.receive(text.replace("success", "succeed")) is None

    def test_a_reply_without_a_code_is_ignored(self, world: World, open_session: Session) -> None:
        assert open_session.receive(world.reply("1", code=True)) is None
        assert open_session.refused["frame"] == 1

    def test_a_hundred_of_them_end_the_connection(self, open_session: Session) -> None:
        for _ in range(MAX_BAD_FRAMES - 1):
            open_session.receive("nonsense")
        with pytest.raises(LinkLost, match="were not the dispatcher's"):
            open_session.receive("nonsense")

    def test_several_parameters_are_refused(self, world: World, open_session: Session) -> None:
        text = seal_request(world.signer, "x", "draw", [{}, {}]).text
        assert "exactly one parameter" in refusal(open_session.receive(text))

    @given(st.text() | st.binary())
    def test_no_text_makes_it_raise(self, text: str | bytes) -> None:
        session = Session(OPERATOR, World().signer.address, Offer("opml"))
        assert session.receive(text) is None

    @given(
        st.sampled_from(["draw", "dispatch_job", "score_job", "cancel_job", "challenge", "other"]),
        st.dictionaries(
            st.text(max_size=5),
            st.recursive(
                st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5), st.lists, max_leaves=5
            ),
            max_size=4,
        ),
    )
    def test_whatever_the_dispatcher_signs_gets_an_answer(self, method: str, param: dict[str, Any]) -> None:
        world = World()
        session = Session(OPERATOR, world.signer.address, OFFER)
        session.receive(world.welcome(said(session.receive(world.challenge()))))
        assert refusal(session.receive(world.request(method, param)))

    @given(st.sampled_from(sorted(World().job().to_json())), st.none() | st.integers() | st.text(max_size=3))
    def test_a_dispatch_with_any_wrong_member_gets_an_answer(self, member: str, value: object) -> None:
        world = World()
        session = Session(OPERATOR, world.signer.address, OFFER)
        session.receive(world.welcome(said(session.receive(world.challenge()))))
        good = world.job().to_json()
        assume(value != good[member])
        event = session.receive(world.request("dispatch_job", {**good, member: value}))
        assert isinstance(event, Say | JobCall)
        if isinstance(event, JobCall):  # only what nothing binds can be changed freely
            assert member in {"user", "range_start", "range_end"}
