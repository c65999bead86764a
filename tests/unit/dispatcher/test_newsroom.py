"""Who hears what comes of a job: followers here, processes elsewhere, and what is looked for in the database."""

import asyncio
from collections.abc import Callable, Iterable

import pytest
from structlog.testing import capture_logs

from aos_dispatcher.errors import Refused
from aos_dispatcher.hub import Hub
from aos_dispatcher.mesh import Mesh
from aos_dispatcher.mesh_messages import Deltas, Ended, GivenUp, Stream
from aos_dispatcher.newsroom import Follower, Newsroom
from aos_dispatcher.reading import Answered, Broken, News, Piece
from aos_protocol.frames import seal_request
from aos_protocol.messages import Delta, JobResult, TokenLogprob
from unit.dispatcher.test_mesh import DISPATCHER, OPERATOR, MemoryBus, Node

JOB, OTHER = "ab" * 32, "cd" * 32
TOLD = Delta(
    job_id=JOB, tag="", text="one", logprobs=[TokenLogprob(token="one", logprob=-0.5, top=[("two", -1.5)])]
)
FRAME = seal_request(OPERATOR, "1", "job_stream", [{"deltas": [TOLD.to_json()]}])


class Streaming(Node):
    """A process with followers."""

    def __init__(self, bus: MemoryBus, name: str) -> None:
        super().__init__(bus, name)
        self.newsroom = Newsroom(self.mesh, most=1000)
        self.heard: list[Stream | Deltas | GivenUp | Ended] = []
        self.refusal: Exception | None = None

    def streamed(self, said: Stream | Deltas | GivenUp | Ended) -> None:
        self.heard.append(said)
        if self.refusal is not None:
            raise self.refusal
        match said:
            case Deltas():
                self.newsroom.hear_deltas(said.operator, said.deltas)
            case GivenUp():
                self.newsroom.hear_given_up(said.job_id, said.operator, said.reason)
            case Ended():
                self.newsroom.look_at(said.job_id)


def given(follower: Follower) -> list[News]:
    """All that a follower is given by now."""
    found: list[News] = []
    while (news := follower.reading.next()) is not None:
        found.append(news)
        if isinstance(news, Answered | Broken):
            break
    return found


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.001)


@pytest.fixture
def alone() -> Newsroom:
    return Newsroom(None, most=1000)


def test_followers_of_a_job_hear_of_it_and_nobody_else_does(alone: Newsroom) -> None:
    with alone.following(JOB) as one, alone.following(JOB) as two, alone.following(OTHER) as other:
        alone.deltas(OPERATOR.address, [TOLD])
        assert [given(follower) for follower in (one, two, other)] == [
            [Piece("one", tuple(TOLD.logprobs or ()))]
        ] * 2 + [[]]
        assert (one.news.is_set(), other.news.is_set()) == (True, False)
        alone.ended(JOB, "no operator is left", "failed")
        assert given(one) == [Broken("no operator is left", 502)]
        alone.ended(OTHER, "cancelled by the project", "cancelled")
        assert given(other) == [Broken("cancelled by the project", 409)]
    alone.answered(JobResult.model_construct(job_id=JOB, result="one"))
    assert alone._followers == {}


def test_jobs_are_looked_at_when_due_or_when_nothing_was_heard_of_them(alone: Newsroom) -> None:
    def due(*, all_quiet: bool = False) -> Iterable[str]:
        return sorted(alone.to_look_at(all_quiet=all_quiet))

    with alone.following(JOB), alone.following(OTHER):
        assert due() == []
        alone.look_at(OTHER)
        alone.look_at("ef" * 32)  # nobody follows it here
        assert alone.look.is_set()
        assert (due(), due()) == ([OTHER], [])
        alone.deltas(OPERATOR.address, [TOLD])
        assert due(all_quiet=True) == [OTHER]
        assert due(all_quiet=True) == [JOB, OTHER]
    assert due(all_quiet=True) == []


async def test_what_a_leader_tells_reaches_followers_elsewhere_as_it_was_said() -> None:
    bus = MemoryBus()
    a, b = Streaming(bus, "a"), Streaming(bus, "b")
    async with a.running(), b.running():
        await until(lambda: a.mesh._others and b.mesh._others)
        with b.newsroom.following(JOB) as follower:
            a.newsroom.deltas(OPERATOR.address, [TOLD])
            await until(lambda: b.heard)
            assert given(follower) == [Piece("one", tuple(TOLD.logprobs or ()))]
            a.newsroom.given_up(JOB, OPERATOR.address, "away for too long")
            await until(lambda: follower.reading.over)
            [broken] = given(follower)
            assert isinstance(broken, Broken)
            assert follower.reading.gave_up
            a.newsroom.ended(JOB, "failed", "failed")
            await until(b.newsroom.look.is_set)
    assert b.heard[-1] == Ended(job_id=JOB)
    assert a.heard == []


async def test_an_operator_s_notice_is_passed_on_as_it_was_signed_and_one_that_is_refused_harms_nobody() -> (
    None
):
    bus = MemoryBus()
    a, b = Streaming(bus, "a"), Streaming(bus, "b")
    b.refusal = Refused(400, "another process passed nonsense on")
    async with a.running(), b.running():
        await until(lambda: a.mesh._others and b.mesh._others)
        with capture_logs() as logs:
            a.mesh.stream({(JOB, "")}, FRAME)
            await until(lambda: b.heard)
        assert b.heard == [Stream(rounds=[(JOB, "")], text=FRAME.text)]
        assert [entry["why"] for entry in logs] == ["another process passed nonsense on"]
        b.refusal = None
        a.mesh.ended(JOB)
        await until(lambda: len(b.heard) > 1)


def test_whoever_is_alone_says_nothing() -> None:
    bus = MemoryBus()
    mesh = Mesh(bus, Hub(), DISPATCHER, "a", heartbeat=1, patience=1, frame_bytes=1 << 16)
    room = Newsroom(mesh, most=1000)
    room.deltas(OPERATOR.address, [TOLD])
    room.given_up(JOB, OPERATOR.address, "lost")
    room.ended(JOB, "failed", "failed")
    assert bus.said == []
