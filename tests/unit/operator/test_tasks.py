"""Tasks: what a repeated dispatch changes, and what a reason may hold."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_operator.errors import Refused
from aos_operator.tasks import (
    Method,
    Outcome,
    Request,
    Scored,
    Task,
    TaskKey,
    TaskState,
    read_outcome,
    read_request,
)
from aos_protocol.job import Claim
from aos_protocol.messages import NO_DIGEST
from unit.operator.world import World

OUTCOME = Outcome("text", "", {"rule": 1}, "ab" * 32)


def test_a_repetition_merges_the_clocks() -> None:
    first = World().job(clock={"1": "5", "3": "1"})
    task = Task(first).retaken(first.model_copy(update={"clock": {"1": "4", "9": "2"}}))
    assert task.request.clock == {"1": "5", "3": "1", "9": "2"}


def test_the_last_word_on_role_and_position_counts() -> None:
    first = World().job()
    task = Task(first, outcome=OUTCOME).retaken(first.model_copy(update={"role": "verifier"}))
    assert task.request == first.model_copy(update={"role": "verifier"})
    assert task.outcome == OUTCOME


@pytest.mark.parametrize("member", ["job", "user", "seed", "model"])
def test_another_content_under_the_same_job_is_refused(member: str) -> None:
    world = World()
    first, other = world.job(), world.job("another prompt", user="v", model=World().job().model)
    changed = {"model": first.model.model_copy(update={"name": "x"})}.get(member, getattr(other, member))
    with pytest.raises(Refused, match="another content") as refused:
        Task(first).retaken(first.model_copy(update={member: changed}))
    assert refused.value.code == 400


def test_a_cancelled_task_opens_again_and_keeps_its_outcome() -> None:
    dispatch = World().job()
    task = Task(dispatch, TaskState.CANCELLED, OUTCOME).retaken(dispatch)
    assert task.open
    assert task.outcome == OUTCOME


@pytest.mark.parametrize("state", [TaskState.ACCEPTED, TaskState.REFUSED])
def test_a_closed_task_stays_as_it_is(state: TaskState) -> None:
    dispatch = World().job()
    task = Task(dispatch, state, OUTCOME)
    assert task.retaken(dispatch.model_copy(update={"clock": {"1": "99"}})) is task


def test_a_task_is_named_by_job_and_tag() -> None:
    dispatch = World().job()
    assert Task(dispatch).key == TaskKey(dispatch.job_id, "")
    assert not replace(Task(dispatch), state=TaskState.ACCEPTED).open


def test_an_outcome_survives_storing() -> None:
    assert Outcome(**OUTCOME.to_json()) == OUTCOME


@given(st.text(max_size=5000))
def test_any_reason_can_be_sent(reason: str) -> None:
    said = Outcome.failed(reason + "\ud800").reason
    assert 0 < len(said) <= 4096
    assert "\0" not in said
    said.encode()


def test_a_failure_has_neither_answer_nor_transcript() -> None:
    failed = Outcome.failed("")
    assert (failed.result, failed.transcript, failed.commitment) == ("", None, NO_DIGEST)
    assert failed.reason == "no answer, and no reason was given"


SCORED = Scored("cd" * 32, "0x" + "99" * 20, {"level": "greedy", "surprisals": [0.5, 1.0]})


def test_a_score_is_a_task_of_its_own_in_every_challenge() -> None:
    world = World()
    job = world.job(tag="suspicion", position="after")
    requests: list[Request] = [
        job,
        world.call(job),
        world.call(job, challenge=1),
        world.call(job, challenge=2),
    ]
    keys = [TaskKey.of(request) for request in requests]
    assert len(set(keys)) == 4
    assert [key.method for key in keys] == [Method.DISPATCH, Method.SCORE, Method.SCORE, Method.SCORE]
    assert keys == sorted(keys, key=lambda key: (key.challenge, key.method))


def test_a_repeated_call_merges_the_clocks() -> None:
    call = World().call(clock={"1": "5", "3": "5"})
    task = Task(call, outcome=SCORED).retaken(call.model_copy(update={"clock": {"1": "4", "9": "2"}}))
    assert task.request.clock == {"1": "5", "3": "5", "9": "2"}
    assert task.outcome == SCORED


@pytest.mark.parametrize("member", ["job", "user", "seed", "model", "job_seed", "subject"])
def test_a_call_with_another_content_is_refused(member: str) -> None:
    world = World()
    call, other = world.call(), world.call(world.job("another prompt", user="v"))
    changed = {"model": call.model.model_copy(update={"name": "x"})}.get(member, getattr(other, member))
    with pytest.raises(Refused, match="another content"):
        Task(call).retaken(call.model_copy(update={member: changed}))


@pytest.mark.parametrize("claim", [None, Claim(text="What is AI?"), Claim(output_tokens=[1], seed="ab" * 32)])
@pytest.mark.parametrize("number", [0, 3])
def test_a_call_survives_storing(claim: Claim | None, number: int) -> None:
    world = World()
    call = world.call(world.job(claim=claim), challenge=number)
    assert read_request("score_job", call.to_json()) == call


def test_a_dispatch_survives_storing() -> None:
    dispatch = World().job()
    assert read_request("dispatch_job", dispatch.to_json()) == dispatch


@pytest.mark.parametrize(
    ("method", "value"),
    [
        ("score_job", World().job().to_json()),
        ("dispatch_job", World().call().to_json()),
        ("cancel_job", World().job().to_json()),
        ("score_job", []),
        ("dispatch_job", None),
    ],
)
def test_what_is_no_request_of_its_method_is_not_read(method: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_request(method, value)


@pytest.mark.parametrize("product", [SCORED, SCORED.withdrawn("no"), Scored("cd" * 32, None, None, "why")])
def test_a_score_survives_storing(product: Scored) -> None:
    assert read_outcome("score_job", product.to_json()) == product


def test_an_outcome_that_was_stored_before_there_were_enclaves_is_read() -> None:
    stored = OUTCOME.to_json()
    assert stored.pop("enclave") is None
    assert read_outcome("dispatch_job", stored) == OUTCOME


def test_an_enclave_s_statement_survives_storing() -> None:
    signed = replace(OUTCOME, enclave={"attestation": {"kind": "nitro"}, "signature": "00"})
    assert read_outcome("dispatch_job", signed.to_json()) == signed
    assert (signed.attestation, OUTCOME.attestation) == ("nitro", None)


def test_an_answer_is_not_read_as_a_score() -> None:
    assert read_outcome("dispatch_job", OUTCOME.to_json()) == OUTCOME
    with pytest.raises(TypeError):
        read_outcome("score_job", OUTCOME.to_json())


@given(st.text(max_size=5000))
def test_a_withdrawn_score_has_a_reason_that_can_be_sent(reason: str) -> None:
    withdrawn = SCORED.withdrawn(reason + "\ud800")
    assert 0 < len(withdrawn.reason) <= 4096
    assert "\0" not in withdrawn.reason
    withdrawn.reason.encode()
    assert (withdrawn.subject, withdrawn.subject_operator, withdrawn.score) == (*subject_of_scored(), None)


def test_no_reason_at_all_is_said_in_words() -> None:
    assert SCORED.withdrawn("").reason == "no score, and no reason was given"


def subject_of_scored() -> tuple[str, str | None]:
    return SCORED.subject, SCORED.subject_operator
