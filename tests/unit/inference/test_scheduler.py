import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from aos_inference.errors import QueueFull
from aos_inference.scheduler import PREFILL_CHUNK, Decode, Prefill, Scheduler


def test_nothing_to_do() -> None:
    scheduler = Scheduler(slots=2, queue_limit=1)
    assert scheduler.next_work() is None
    assert (scheduler.active, scheduler.queued) == (0, 0)


def test_a_prompt_is_read_in_fixed_chunks_then_written_to() -> None:
    scheduler = Scheduler(slots=1, queue_limit=0)
    scheduler.submit(7, PREFILL_CHUNK + 1)
    assert scheduler.next_work() == Prefill(7, 0, 0, PREFILL_CHUNK, last=False)
    assert scheduler.next_work() == Prefill(7, 0, PREFILL_CHUNK, PREFILL_CHUNK + 1, last=True)
    assert scheduler.next_work() == Decode(((7, 0),))
    assert scheduler.next_work() == Decode(((7, 0),))
    scheduler.remove(7)
    assert scheduler.next_work() is None


def test_reading_and_writing_take_turns() -> None:
    scheduler = Scheduler(slots=2, queue_limit=0)
    scheduler.submit(1, 5)
    assert scheduler.next_work() == Prefill(1, 0, 0, 5, last=True)
    scheduler.submit(2, 3 * PREFILL_CHUNK)
    kinds = [type(scheduler.next_work()) for _ in range(7)]
    assert kinds == [Decode, Prefill, Decode, Prefill, Decode, Prefill, Decode]
    assert scheduler.next_work() == Decode(((1, 0), (2, 1)))


def test_the_eldest_prompt_is_read_first() -> None:
    scheduler = Scheduler(slots=2, queue_limit=1)
    scheduler.submit(1, 2 * PREFILL_CHUNK)
    scheduler.submit(2, 10)
    scheduler.submit(3, 10)
    assert [
        work.job for work in (scheduler.next_work(), scheduler.next_work()) if isinstance(work, Prefill)
    ] == [1, 1]


def test_waiting_jobs_enter_in_order_as_slots_come_free() -> None:
    scheduler = Scheduler(slots=1, queue_limit=2)
    for job in (1, 2, 3):
        scheduler.submit(job, 4)
    with pytest.raises(QueueFull):
        scheduler.submit(4, 4)
    scheduler.remove(2)
    scheduler.submit(4, 4)
    scheduler.remove(1)
    work = scheduler.next_work()
    assert isinstance(work, Prefill)
    assert (work.job, work.slot, work.start) == (3, 0, 0)
    assert scheduler.queued == 1


def test_a_freed_slot_starts_over() -> None:
    scheduler = Scheduler(slots=1, queue_limit=1)
    scheduler.submit(1, 2 * PREFILL_CHUNK)
    scheduler.next_work()
    scheduler.remove(1)
    scheduler.submit(2, 3)
    assert scheduler.next_work() == Prefill(2, 0, 0, 3, last=True)


def test_removing_what_is_not_there_is_no_error() -> None:
    scheduler = Scheduler(slots=1, queue_limit=1)
    scheduler.remove(1)
    assert scheduler.next_work() is None


@given(st.lists(st.integers(1, 400), min_size=1, max_size=6), st.integers(1, 4))
def test_every_prompt_is_read_once_and_whole(lengths: list[int], slots: int) -> None:
    scheduler = Scheduler(slots, queue_limit=len(lengths))
    for job, length in enumerate(lengths):
        scheduler.submit(job, length)
    chunks: dict[int, list[tuple[int, int]]] = {job: [] for job in range(len(lengths))}
    while (work := scheduler.next_work()) is not None:
        if isinstance(work, Prefill):
            chunks[work.job].append((work.start, work.end))
        else:
            scheduler.remove(work.rows[0][0])
    for job, length in enumerate(lengths):
        starts = range(0, length, PREFILL_CHUNK)
        assert chunks[job] == [(start, min(start + PREFILL_CHUNK, length)) for start in starts]


class SchedulerMachine(RuleBasedStateMachine):
    """Random submissions, removals and steps, against a model that knows only what was read of each job."""

    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(slots=3, queue_limit=2)
        self.lengths: dict[int, int] = {}
        self.read: dict[int, int] = {}
        self.order: list[int] = []
        self.next_job = 0
        self.turns_without_writing = 0

    @rule(target=jobs, length=st.integers(1, 300))
    def submit(self, length: int) -> int:
        job = self.next_job
        self.next_job += 1
        if len(self.lengths) == 5:
            with pytest.raises(QueueFull):
                self.scheduler.submit(job, length)
            return job
        self.scheduler.submit(job, length)
        self.lengths[job], self.read[job] = length, 0
        self.order.append(job)
        return job

    @rule(job=consumes(jobs))
    def remove(self, job: int) -> None:
        self.scheduler.remove(job)
        if job in self.lengths:
            del self.lengths[job], self.read[job]
            self.order.remove(job)

    @rule()
    def step(self) -> None:
        work = self.scheduler.next_work()
        ready = {job for job in self.read if self.read[job] == self.lengths[job]}
        if work is None:
            assert not self.lengths
        elif isinstance(work, Prefill):
            assert work.start == self.read[work.job]
            assert 0 < work.end - work.start <= PREFILL_CHUNK
            assert work.last == (work.end == self.lengths[work.job])
            self.read[work.job] = work.end
            self.turns_without_writing = self.turns_without_writing + 1 if ready else 0
            assert self.turns_without_writing <= 1
        else:
            assert {job for job, _ in work.rows} == ready
            assert len({slot for _, slot in work.rows}) == len(work.rows)
            assert all(0 <= slot < 3 for _, slot in work.rows)
            self.turns_without_writing = 0

    @invariant()
    def no_slot_is_idle_while_a_job_waits(self) -> None:
        assert self.scheduler.active == min(3, len(self.lengths))
        assert self.scheduler.queued == max(0, len(self.lengths) - 3)

    @invariant()
    def jobs_start_in_order(self) -> None:
        begun = [job for job in self.order if self.read[job]]
        assert begun == [job for job in self.order[:3] if self.read[job]]


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=60, stateful_step_count=40)
