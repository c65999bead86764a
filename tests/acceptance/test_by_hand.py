"""The parts started one by one, and killed in the middle of a job: before its answer, and between answer and score."""

import socket
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio

from acceptance.parts import IMPATIENT_S, PUBLISHED, Parts, started
from support.otlp import Received, Receiver, receiving

pytestmark = pytest.mark.asyncio(loop_scope="module")

_D, _O, _W = "aos-dispatcher", "aos-operator-runner", "aos-inference-worker"
TRACED = {
    (_D, "submit"): [None],
    (_D, "round"): [(_D, "submit")],
    (_D, "draw"): [(_D, "round")],
    (_D, "dispatch_job"): [(_D, "round")],
    (_D, "score_job"): [(_D, "round")],
    (_D, "end"): [(_D, "round")],
    (_O, "task"): [(_D, "dispatch_job"), (_D, "score_job")],
    (_O, "worker"): [(_O, "task")],
    (_O, "send"): [(_O, "task")],
    (_W, "generate"): [(_O, "worker")],
    (_W, "score"): [(_O, "worker")],
    (_D, "result"): [(_O, "task")],
    (_D, "score"): [(_O, "task")],
}
"""What a job's trace is made of, by service and name, and what each may be below."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def parts(demo_model: Path, receiver: Receiver) -> AsyncIterator[Parts]:
    with tempfile.TemporaryDirectory(prefix="aos-test-") as place, closing(socket.socket()) as holder:
        folder = Path(place)
        folder.chmod(0o711)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))  # kept, so that a restarted dispatcher finds its port free
        async with started(folder, holder.getsockname()[1], demo_model, telemetry=receiver.url) as network:
            yield network


async def test_the_published_bodies(parts: Parts) -> None:
    """The submit needs a token of this network's; everything else is posted as it was published."""
    assert (await parts.post("/api/job/submit", PUBLISHED)).status_code == 401
    job_id = await parts.submit()
    await parts.completed(job_id)
    unknown = {"job_id": "5814075a7a4b7bc4db5450e7bc3ee2893562e3b2d9deb66a14da4e99d7276e0a"}
    for path in ("/api/job/result", "/api/job/detail"):
        answer = await parts.post(path, unknown)
        assert answer.status_code == 404
        assert answer.json() == {"code": 404, "message": f"there is no job {unknown['job_id']} here"}

    rows = (await parts.post("/api/job/result", {"job_id": job_id})).json()["result"]
    assert sorted(row["role"] for row in rows)[:2] == ["executor", "verifier"]
    for row in rows:
        assert row["id"] == f"{row['operator']}_{job_id}_"
        assert {key: type(value) for key, value in row.items()}.items() >= {
            "id": str,
            "job_id": str,
            "operator": str,
            "result": str,
            "verify_id": str,
            "vrf": dict,
            "clock": dict,
            "signature": str,
            "job_type": str,
            "tag": str,
            "created_at": str,
        }.items()
        assert list(row["vrf"]) == [
            "selected",
            "vrf_prompt_hash",
            "vrf_random_value",
            "vrf_verify_pubkey",
            "vrf_proof",
        ]
        assert row["verdict"] == "match"
    detail = (await parts.post("/api/job/detail", {"job_id": job_id})).json()["result"]
    assert detail["job"] == PUBLISHED["job"]
    assert (detail["id"], detail["user"], detail["status"]) == (job_id, PUBLISHED["user"], "completed")
    assert {"job_type", "tag", "clock", "created_at"} <= set(detail)
    (verified,) = (await parts.post("/api/job/verify", {"user": PUBLISHED["user"]})).json()["result"]
    assert (verified["job_id"], verified["purpose"], verified["verdict"]) == (job_id, "audit", "match")


async def test_one_job_is_one_trace_over_all_processes(parts: Parts, receiver: Receiver) -> None:
    job_id = await parts.submit()
    await parts.completed(job_id)
    members = set(await parts.seats(job_id))

    def whole() -> bool:
        spans = receiver.of(job_id)
        parents = {one.parent for one in spans} - {one.id for one in spans}
        tasks = {one.attributes["aos.operator"] for one in spans if one.name == "task"}
        return parents == {""} and tasks == members and names(spans) >= TRACED.keys()

    await receiver.until(whole)
    spans = {one.id: one for one in receiver.of(job_id)}
    assert names(spans.values()) == TRACED.keys()
    for one in spans.values():
        above = spans.get(one.parent)
        assert (above and (above.service, above.name)) in TRACED[one.service, one.name], one
        assert not one.failed


def names(spans: Iterable[Received]) -> set[tuple[str, str]]:
    return {(one.service, one.name) for one in spans}


async def test_no_trace_holds_what_was_asked_or_by_whom(parts: Parts, receiver: Receiver) -> None:
    prompt, user = "What does the fox say to the postman?", "somebody nobody knows"
    greedy = {"params": {"temperature": 0, "max_tokens": 64}}
    job_id = await parts.submit(job=parts.job | greedy | {"prompt": prompt}, user=user)
    await parts.completed(job_id)
    await receiver.until(lambda: "end" in {one.name for one in receiver.of(job_id)})
    for secret in (prompt, user, parts.token, job_id):
        assert secret.encode() not in receiver.raw


async def test_a_killed_executor_is_replaced(parts: Parts) -> None:
    with parts.all_held():
        job_id, (executor, following, *_) = await parts.dispatched_with_reserves()
        await parts.kill_operator(executor)
    await parts.completed(job_id)
    seats = await parts.seats(job_id)
    assert seats[executor] == ("executor", "lost")
    assert seats[following] == ("executor", "answered")
    await parts.start_again(executor)


async def test_who_died_between_execution_and_scoring_is_replaced_or_no_longer_needed(parts: Parts) -> None:
    with parts.all_held():
        job_id, (executor, verifier) = await parts.dispatched_with_reserves()
        parts.release(executor)
        await parts.answered(job_id, 1)
        await parts.kill_operator(executor)
        await parts.kill_operator(verifier)
    await parts.completed(job_id)
    (third,) = set(parts.operators) - {executor, verifier}
    assert await parts.seats(job_id) == {
        executor: ("executor", "answered"),
        verifier: ("verifier", "lost"),
        third: ("verifier", "answered"),
    }
    await parts.start_again(executor, verifier)


async def test_an_operator_that_died_between_executing_and_scoring_goes_on(parts: Parts) -> None:
    """Verifiers of a malicious user execute before they score; nobody can replace one of all operators."""
    with parts.all_held():
        job_id = await parts.submit(tag="malicious", user="mallory")
        executor, died, other = await parts.dispatched(job_id)
        parts.release(died, other)
        await parts.answered(job_id, 2)
        parts.hold(died)
        parts.release(executor)
        await parts.answered(job_id, 3)
        await parts.kill_operator(died)
    await parts.start_again(died)
    await parts.completed(job_id)
    assert await parts.seats(job_id) == {
        executor: ("executor", "answered"),
        died: ("verifier", "answered"),
        other: ("verifier", "answered"),
    }
    assert len((await parts.evidence(job_id))["rounds"][0]["scores"]) == 2


async def test_a_killed_dispatcher_goes_on_where_it_was(parts: Parts) -> None:
    """It dies between execution and scoring: the answer is stored, and nobody has to give it twice."""
    with parts.all_held():
        job_id = await parts.submit()
        members = await parts.dispatched(job_id)
        parts.release(members[0])
        await parts.answered(job_id, 1)
        await parts.kill("dispatcher")
    parts.start_dispatcher_again()
    await parts.ready(3)
    await parts.completed(job_id)
    assert list(await parts.seats(job_id)) == members
    assert {state for _, state in (await parts.seats(job_id)).values()} == {"answered"}


async def test_an_operator_that_died_with_its_dispatcher_is_replaced(parts: Parts) -> None:
    """Whoever has not found the dispatcher again in time is replaced, too: maybe nobody is left to score."""
    with parts.all_held():
        job_id, members = await parts.dispatched_with_reserves()
        await parts.kill("dispatcher")
        await parts.kill_operator(members[0])
    parts.start_dispatcher_again(IMPATIENT_S)
    await parts.ready(2)
    await parts.completed(job_id, scored=False)
    assert (await parts.seats(job_id))[members[0]] == ("executor", "lost")
    await parts.start_again(members[0])
