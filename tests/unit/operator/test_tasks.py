"""Tasks: what a repeated dispatch changes, and what a reason may hold."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_operator.errors import Refused
from aos_operator.tasks import Outcome, Task, TaskKey, TaskState
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
    assert task.request.role == "verifier"
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
