"""Calls for scores and the scores that answer them, stepped by hand."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_operator.events import JobCall, Say
from aos_operator.session import Session
from aos_operator.tasks import Outcome, Task
from aos_protocol.errors import ProtocolError
from aos_protocol.fields import parse_message
from aos_protocol.job import Claim
from aos_protocol.messages import JobScore
from aos_protocol.score_document import Score
from unit.operator.steps import STRANGER, refusal, said, scored, ticket_in
from unit.operator.world import EXECUTOR, MODEL, NUMBER, OFFER, OPERATOR, World, opened


class TestCallForAScore:
    @pytest.mark.parametrize("number", [0, 1, 9])
    def test_a_good_one_is_passed_on_as_it_is(self, world: World, open_session: Session, number: int) -> None:
        call = world.call(challenge=number)
        event = open_session.receive(world.request("score_job", call.to_json()))
        assert isinstance(event, JobCall)
        assert event.request == call
        open_session.check_subject(call)

    @pytest.mark.parametrize("subject", [{}, {"subject": None}])
    def test_a_claim_comes_without_a_subject(
        self, world: World, open_session: Session, subject: dict[str, None]
    ) -> None:
        call = world.call(world.job(claim=Claim(text="a claim")))
        event = open_session.receive(world.request("score_job", {**call.to_json(), **subject}))
        assert isinstance(event, JobCall)
        assert event.request == call
        open_session.check_subject(call)

    def test_a_forged_answer_is_found(self, world: World, open_session: Session) -> None:
        job = world.job()
        with pytest.raises(ProtocolError, match="signed its frame"):
            open_session.check_subject(world.call(job, subject=world.answer(job, sealed_by=STRANGER)))

    def test_an_own_answer_is_left_to_others(self, world: World, open_session: Session) -> None:
        job = world.job()
        with pytest.raises(ProtocolError, match="own answer"):
            open_session.check_subject(world.call(job, subject=world.answer(job, OPERATOR)))

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"sequence": 99}, "the receipt is signed by"),
            ({"request_digest": "00" * 32}, "the receipt is signed by"),
            ({"seed": "00" * 32}, "the seed is not the output of its proof"),
            ({"job_seed": "00" * 32}, "the seed is not the output of its proof"),
            ({"job_seed_proof": "00" * 81}, "no compressed point"),
            ({"tag": "malicious"}, "no selection rule"),
            ({"model": MODEL.model_copy(update={"name": "other"})}, "does not serve"),
            ({"model": MODEL.model_copy(update={"sha256": "00" * 32})}, "serves model demo.gguf as abab"),
            ({"range_end": 0}, "no range in the registry"),
            ({"clock": {str(n): "1" for n in range(100, 100 + 4096)}}, "4096"),
        ],
    )
    def test_one_that_does_not_hold_is_refused(
        self, world: World, open_session: Session, changes: dict[str, Any], reason: str
    ) -> None:
        call = world.call(**changes)
        assert reason in refusal(open_session.receive(world.request("score_job", call.to_json())))

    def test_a_committee_that_was_never_drawn_is_refused(self, world: World, open_session: Session) -> None:
        drawn, other = world.call(challenge=1), world.call()
        for changes in (
            {"challenge": 2},  # its seed was not drawn
            {"seed": other.seed, "seed_proof": other.seed_proof},  # drawn for another job
            {"job_id": other.job_id},
        ):
            call = drawn.model_copy(update=changes)
            assert refusal(open_session.receive(world.request("score_job", call.to_json())))

    def test_outside_of_a_challenge_the_seed_is_the_job_s(self, world: World, open_session: Session) -> None:
        job = world.job()
        challenged = world.call(job, challenge=1)
        call = world.call(job, seed=challenged.seed, seed_proof=challenged.seed_proof)
        assert "proof" in refusal(open_session.receive(world.request("score_job", call.to_json())))

    def test_fields_that_are_wrong_are_named(self, world: World, open_session: Session) -> None:
        message = {**world.call().to_json(), "challenge": -1, "role": "verifier", "subject": 7}
        reason = refusal(open_session.receive(world.request("score_job", message)))
        assert all(name in reason for name in ("challenge", "role", "subject"))

    @given(st.sampled_from(sorted(World().call().to_json())), st.none() | st.integers() | st.text(max_size=3))
    def test_a_call_with_any_wrong_member_gets_an_answer(self, member: str, value: object) -> None:
        world = World()
        session = Session(OPERATOR, world.signer.address, OFFER)
        session.receive(world.welcome(said(session.receive(world.challenge()))))
        honest = world.call().to_json()
        event = session.receive(world.request("score_job", {**honest, member: value}))
        assert isinstance(event, Say | JobCall)
        if (
            isinstance(event, JobCall) and value != honest[member]
        ):  # the subject is bound by its own signature, and checked apart
            assert member in {"user", "tag", "position", "range_start", "range_end", "subject"}


class TestScore:
    @pytest.mark.parametrize("number", [0, 4])
    def test_it_satisfies_the_dispatchers_checks(
        self, world: World, open_session: Session, number: int
    ) -> None:
        call = world.call(challenge=number)
        ticket = ticket_in(world, open_session, call)
        _, text = open_session.result(Task(call, outcome=scored(call)), 9)
        said = world.verify_score(opened(text), call, ticket)
        assert (said.challenge, said.subject_operator, said.reason) == (number, EXECUTOR.address, "")
        assert said.clock == {**call.clock, str(NUMBER): "9"}
        assert parse_message(Score, said.score).level == "fingerprint"

    def test_that_of_a_claim_does_too(self, world: World, open_session: Session) -> None:
        call = world.call(world.job(claim=Claim(text="What is BI?")))
        ticket = ticket_in(world, open_session, call)
        _, text = open_session.result(Task(call, outcome=scored(call)), 9)
        assert world.verify_score(opened(text), call, ticket).subject_operator is None

    def test_a_reason_without_a_score_does_too(self, world: World, open_session: Session) -> None:
        call = world.call()
        ticket = ticket_in(world, open_session, call)
        _, text = open_session.result(Task(call, outcome=scored(call).withdrawn("too long")), 9)
        said = world.verify_score(opened(text), call, ticket)
        assert (said.score, said.reason, said.answered) == (None, "too long", False)

    def test_every_sending_is_another_frame_that_says_the_same(
        self, world: World, open_session: Session
    ) -> None:
        call = world.call()
        task = Task(call, outcome=scored(call))
        (first_id, first), (second_id, second) = open_session.result(task, 9), open_session.result(task, 10)
        assert first_id != second_id
        one, two = (parse_message(JobScore, opened(text).params[0]) for text in (first, second))
        assert one.signature != two.signature
        same = {"clock": {}, "signature": ""}
        assert one.model_copy(update=same) == two.model_copy(update=same)

    def test_a_score_too_large_for_a_frame_becomes_a_reason(
        self, world: World, open_session: Session
    ) -> None:
        call = world.call()
        ticket = ticket_in(world, open_session, call)
        honest = scored(call)
        huge = replace(honest, score={**(honest.score or {}), "surprisals": [0.123456] * 600_000})
        _, text = open_session.result(Task(call, outcome=huge), 9)
        assert "does not fit a frame" in world.verify_score(opened(text), call, ticket).reason

    def test_a_score_that_cannot_be_signed_becomes_a_reason(
        self, world: World, open_session: Session
    ) -> None:
        call = world.call()
        ticket = ticket_in(world, open_session, call)
        broken = replace(scored(call), score={"entropy": float("nan")})
        _, text = open_session.result(Task(call, outcome=broken), 9)
        assert "cannot be sent" in world.verify_score(opened(text), call, ticket).reason

    def test_an_answer_is_never_taken_for_a_score(self, world: World, open_session: Session) -> None:
        dispatch, call = world.job(), world.call()
        for task in (Task(dispatch, outcome=scored(call)), Task(call, outcome=Outcome.failed("no"))):
            with pytest.raises(ValueError, match="is no answer to a"):
                open_session.result(task, 9)
