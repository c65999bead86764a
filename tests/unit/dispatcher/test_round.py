"""A round in memory: what members are sent, what their words are held against, and how it is rebuilt from what was stored."""

from typing import Any

import pytest

from aos_dispatcher.committee import Committee, Patience, SeatState
from aos_dispatcher.facts import RoundFacts
from aos_dispatcher.round import ActiveRound, Answer, Author, stored_result
from aos_protocol import sortition
from aos_protocol.fields import parse_message
from aos_protocol.frames import seal_request
from aos_protocol.identity import Signer
from aos_protocol.job import SubmitRequest
from aos_protocol.messages import Dispatch, ModelOffer, ScoreCall
from aos_protocol.sortition import Candidate
from aos_protocol.transcript import Transcript
from aos_protocol.typed_data import Domain
from support.operators import MODEL, ScriptedOperator

JOB: dict[str, Any] = {"tag": "opml", "prompt": "What is AI?", "model": MODEL.name, "params": {"top_p": 0.5}}
OPERATORS = [Signer(bytes([n]) * 32) for n in (2, 3, 4)]
SEED = "11" * 32
AUTHOR = Author(Signer(b"\x11" * 32), Domain(0, "0x" + "0" * 40))


def facts(job: dict[str, Any] | None = None, **changes: Any) -> RoundFacts:
    body = {"from": "shop", "tag": "suspicion", "user": "device", "job": JOB | (job or {})}
    request = parse_message(SubmitRequest, body)
    known: dict[str, Any] = {
        "round_id": 7,
        "fencing_token": 1,
        "job_id": "ab" * 32,
        "tag": "suspicion",
        "position": "after",
        "challenge": 0,
        "audited": False,
        "subject": None,
        "subject_frame": None,
        "request": request,
        "body": body,
        "sequence": 3,
        "request_digest": "cd" * 32,
        "receipt": "0" * 130,
        "seed": SEED,
        "seed_proof": "02" * 81,
        "job_seed": SEED,
        "job_seed_proof": "02" * 81,
        "model": ModelOffer(name=MODEL.name, sha256=MODEL.sha256),
        "prompt_hash": request.job.prompt_hash(),
        "clock": {"1": "1"},
        "deadline": 1000.0,
    }
    return RoundFacts(**known | changes)


def active(of: RoundFacts) -> ActiveRound:
    """A round of three members, in the order of `OPERATORS`."""
    ranking = [Candidate(signer.address, place, 300_000) for place, signer in enumerate(OPERATORS)]
    members = sortition.committee(ranking, 3)
    return ActiveRound(
        facts=of,
        author=AUTHOR,
        registry_block=0,
        ranges={signer.address: (0, 200_000) for signer in OPERATORS},
        tickets={},
        dispatch_clock={"1": "5"},
        committee=Committee.drawn(members, [], of.plan(3), Patience(10, 50), of.deadline),
        calibration=None,
    )


def answer_of(round_: ActiveRound, place: int) -> Answer:
    """The answer of a member to its dispatch, in the frame that it signed."""
    operator = ScriptedOperator(OPERATORS[place], "")
    operator.number = place + 2
    dispatch = parse_message(Dispatch, round_.dispatch_to(round_.committee.seats[place]))
    said = operator.result(dispatch)
    frame = seal_request(operator.signer, "1", "job_result", [said]).text
    return Answer(frame, stored_result(frame))


def executed(round_: ActiveRound) -> Answer:
    """Let the executor's answer be accepted."""
    answer = answer_of(round_, 0)
    round_.answers[answer.said.operator] = answer
    round_.committee.executed(answer.said.operator)
    return answer


def test_a_dispatch_says_its_members_role_and_the_job_as_it_was_sent() -> None:
    round_ = active(facts(tag="malicious"))
    dispatches = [parse_message(Dispatch, round_.dispatch_to(seat)) for seat in round_.committee.seats]
    assert [dispatch.role for dispatch in dispatches] == ["executor", "verifier", "verifier"]
    sent = round_.dispatch_to(round_.committee.seats[0])
    assert sent["job"] == JOB
    assert (sent["clock"], sent["seed"]) == ({"1": "5"}, SEED)


def test_there_is_nothing_to_score_before_the_executor_has_answered() -> None:
    round_ = active(facts())
    assert round_.subject() is None
    answer = executed(round_)
    subject = round_.subject()
    assert subject is not None
    assert subject.frame == answer.frame
    assert subject.operator == OPERATORS[0].address
    assert subject.digest == Transcript.from_json(answer.said.transcript).commitment()
    assert subject.shown == Transcript.from_json(answer.said.transcript)


def test_a_score_call_carries_the_executors_frame_as_it_was_signed() -> None:
    round_ = active(facts())
    answer = executed(round_)
    subject = round_.subject()
    assert subject is not None
    sent = round_.score_call_to(round_.committee.seats[1], subject, {"1": "9"})
    call = parse_message(ScoreCall, sent)
    assert (call.subject, call.clock, call.challenge) == (answer.frame, {"1": "9"}, 0)
    assert sent["job"] == JOB


@pytest.mark.parametrize("claim", [{"text": "so they say"}, {"output_tokens": [4, 5, 6]}])
def test_a_claim_is_its_own_subject(claim: dict[str, Any]) -> None:
    of = facts({"claim": claim})
    round_ = active(of)
    subject = round_.subject()
    assert subject is not None
    assert of.request.job.claim is not None
    assert (subject.digest, subject.operator, subject.frame) == (of.request.job.claim.digest(), None, None)
    assert subject.shown is None
    call = parse_message(ScoreCall, round_.score_call_to(round_.committee.seats[0], subject, {"1": "6"}))
    assert call.subject is None


def test_a_challenge_scores_the_challenged_result_on_a_seed_of_its_own() -> None:
    own = active(facts())
    answer = executed(own)
    challenge = active(facts(challenge=1, seed="33" * 32, subject="result", subject_frame=answer.frame))
    subject = challenge.subject()
    assert subject is not None
    assert subject.frame == answer.frame
    seat = challenge.committee.seats[1]
    call = parse_message(ScoreCall, challenge.score_call_to(seat, subject, {"1": "9"}))
    assert (call.seed, call.job_seed, call.challenge) == ("33" * 32, SEED, 1)
    terms = challenge.terms(subject.clock)
    assert (terms.seed, terms.challenge) == (SEED, 1)


def test_scores_must_have_seen_what_they_score() -> None:
    round_ = active(facts())
    executed(round_)
    subject = round_.subject()
    assert subject is not None
    assert round_.terms().dispatch_clock == {"1": "5"}
    assert dict(round_.terms(subject.clock).dispatch_clock) == {"1": "5", "2": "1"}


def test_seats_are_found_by_operator() -> None:
    round_ = active(facts())
    assert round_.seat_of("0xnobody") is None
    seat = round_.seat_of(OPERATORS[1].address)
    assert seat is not None
    assert (seat.role, seat.state) == ("verifier", SeatState.ASSIGNED)
