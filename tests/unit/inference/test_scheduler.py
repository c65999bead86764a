from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from aos_inference.errors import QueueFull
from aos_inference.scheduler import Limits, Scheduler, Span, Task


def limits(slots: int = 2, requests: int = 8, **others: int) -> Limits:
    return Limits(**{"slots": slots, "requests": requests, "tokens": 10_000, **others})


def generation(job: int, length: int, first: int = 0) -> Task:
    """A prompt of so many tokens that nobody else has, unless they share `first`."""
    return Task(job, [first or 1000 * job + 1, *range(1000 * job + 2, 1000 * job + 1 + length)], length - 1)


def scoring(job: int, prompt: Sequence[int], output: int, share: str | None = None) -> Task:
    tokens = [*prompt, *(100_000 + 1000 * job + place for place in range(output - 1))]
    return Task(job, tokens, len(prompt) - 1, share or str(prompt))


def rows(spans: Sequence[Span]) -> dict[int, int]:
    return {span.job: len(span.tokens) for span in spans}


def run_out(scheduler: Scheduler) -> list[int]:
    """Run everything, each generation for one token; jobs in the order in which they finished."""
    done = []
    while spans := scheduler.plan():
        for span in spans:
            if span.last:
                scheduler.remove(span.job)
                done.append(span.job)
    return done


def test_nothing_to_do() -> None:
    scheduler = Scheduler(limits())
    assert scheduler.plan() == ()
    assert (scheduler.active, scheduler.queued, scheduler.queued_tokens, scheduler.positions()) == (
        0,
        0,
        0,
        {},
    )


def test_a_generation_is_read_then_written() -> None:
    scheduler = Scheduler(limits(rows=4))
    scheduler.submit([Task(7, [5, 6, 7, 8, 9], wanted=4)])
    assert scheduler.plan() == (Span(7, 0, 0, [5, 6, 7, 8], outputs=0, first=True, last=False),)
    assert scheduler.plan() == (Span(7, 0, 4, [9], outputs=1, first=False, last=True),)
    assert scheduler.plan() == ()  # nothing until its token is drawn
    scheduler.write(7, 10)
    assert scheduler.plan() == (Span(7, 0, 5, [10], outputs=1, first=False, last=True),)
    scheduler.remove(7)
    assert scheduler.plan() == ()


def test_a_scoring_pass_wants_logits_from_the_prompts_end_on() -> None:
    scheduler = Scheduler(limits(rows=4))
    scheduler.submit([Task(1, [5, 6, 7, 8, 9, 10, 11], wanted=2)])
    assert [(len(span.tokens), span.outputs, span.last) for span in scheduler.plan()] == [(4, 2, False)]
    assert [(len(span.tokens), span.outputs, span.last) for span in scheduler.plan()] == [(3, 3, True)]


def test_rows_with_logits_are_bounded() -> None:
    scheduler = Scheduler(limits(rows=100, outputs=3))
    scheduler.submit([scoring(1, range(10), output=8)])
    plans = [scheduler.plan()[0] for _ in range(3)]
    assert [(len(span.tokens), span.outputs) for span in plans] == [(12, 3), (3, 3), (2, 2)]


def test_readers_share_what_a_batch_holds() -> None:
    scheduler = Scheduler(limits(slots=3, mixed=30))
    for job, length in ((1, 500), (2, 4), (3, 500)):
        scheduler.submit([generation(job, length)])
    assert rows(scheduler.plan()) == {1: 13, 2: 4, 3: 13}


def test_reading_beside_writers_is_bounded_and_writers_never_wait() -> None:
    scheduler = Scheduler(limits(slots=3, beside=10))
    scheduler.submit([generation(1, 5)])
    scheduler.plan()
    scheduler.write(1, 9)
    scheduler.submit([generation(2, 100)])
    scheduler.submit([scoring(3, range(50), output=50)])
    for step in range(5):
        assert rows(scheduler.plan()) == {1: 1, 2: 5, 3: 5}, step
        scheduler.write(1, 9)


def test_alone_it_reads_as_much_as_a_batch_holds() -> None:
    scheduler = Scheduler(limits(rows=128, mixed=63))
    scheduler.submit([generation(1, 300)])
    assert rows(scheduler.plan()) == {1: 128}
    scheduler.submit([generation(2, 300)])
    assert sum(rows(scheduler.plan()).values()) == 63


def test_spans_come_in_slot_order() -> None:
    scheduler = Scheduler(limits(slots=4))
    for job in range(4):
        scheduler.submit([generation(job, 10)])
    scheduler.remove(0)
    scheduler.submit([generation(9, 10)])
    assert [span.slot for span in scheduler.plan()] == [0, 1, 2, 3]


def test_waiting_jobs_enter_in_order_and_know_their_places() -> None:
    scheduler = Scheduler(limits(slots=1, requests=2))
    for job in (1, 2, 3):
        scheduler.submit([generation(job, 4)])
    assert scheduler.positions() == {2: 1, 3: 2}
    assert scheduler.queued_tokens == 8
    with pytest.raises(QueueFull, match="2 requests with 2 jobs of 8 tokens wait"):
        scheduler.submit([generation(4, 4)])
    scheduler.remove(2)
    assert scheduler.positions() == {3: 1}
    scheduler.submit([generation(4, 4)])
    assert run_out(scheduler) == [1, 3, 4]


def test_the_queue_is_bounded_in_tokens_too() -> None:
    scheduler = Scheduler(limits(slots=1, tokens=100))
    scheduler.submit([generation(1, 500)])
    scheduler.submit([generation(2, 500)])  # one may always wait
    with pytest.raises(QueueFull, match="100 tokens may"):
        scheduler.submit([generation(3, 1)])
    scheduler.remove(2)
    scheduler.submit([generation(4, 60)])
    scheduler.submit([generation(5, 40)])
    with pytest.raises(QueueFull):
        scheduler.submit([generation(6, 1)])


def test_a_request_enters_whole_or_not_at_all() -> None:
    scheduler = Scheduler(limits(slots=1, requests=1))
    scheduler.submit([generation(job, 3) for job in range(64)])
    assert (scheduler.active, scheduler.queued) == (1, 63)
    with pytest.raises(QueueFull):
        scheduler.submit([generation(job, 3) for job in range(64, 66)])
    assert scheduler.queued == 63


def test_a_large_request_lets_others_through() -> None:
    scheduler = Scheduler(limits(slots=1))
    scheduler.submit([generation(job, 3) for job in range(10)])
    scheduler.submit([generation(10, 3)])
    assert scheduler.positions()[10] == 2
    assert run_out(scheduler)[:3] == [0, 1, 10]


def test_others_do_not_hold_up_a_large_request_for_ever() -> None:
    """However many come after it: each of its jobs waits for one round only."""
    scheduler = Scheduler(limits(slots=1))
    scheduler.submit([generation(job, 3) for job in range(5)])
    done: list[int] = []
    for other in range(100, 160, 2):
        scheduler.submit([generation(other, 3)])
        scheduler.submit([generation(other + 1, 3)])
        for _ in range(2):
            spans = scheduler.plan()
            scheduler.remove(spans[0].job)
            done.append(spans[0].job)
        if 4 in done:
            break
    assert {0, 1, 2, 3, 4} <= set(done)
    assert len(done) <= 16


class TestPrefixes:
    def test_what_a_slot_holds_is_not_read_again(self) -> None:
        scheduler = Scheduler(limits())
        scheduler.submit([Task(1, [1, 2, 3, 4], 3)])
        scheduler.plan()
        scheduler.write(1, 50)
        scheduler.plan()
        scheduler.remove(1)
        scheduler.submit([Task(2, [1, 2, 3, 4, 50, 6], 5)])
        assert scheduler.plan() == (Span(2, 0, 5, [6], outputs=1, first=True, last=True),)

    def test_the_token_before_the_first_logits_is_always_fed(self) -> None:
        scheduler = Scheduler(limits(slots=1))
        scheduler.submit([Task(1, [1, 2, 3, 4], 3)])
        scheduler.plan()
        scheduler.remove(1)
        scheduler.submit([Task(2, [1, 2, 3, 4], 3)])
        assert scheduler.plan() == (Span(2, 0, 3, [4], outputs=1, first=True, last=True),)
        scheduler.remove(2)
        scheduler.submit([Task(3, [1, 2, 3, 4], 1)])
        assert scheduler.plan() == (Span(3, 0, 1, [2, 3, 4], outputs=3, first=True, last=True),)

    def test_the_slot_that_agrees_longest_is_taken(self) -> None:
        scheduler = Scheduler(limits(slots=3))
        for job, tokens in enumerate(([1, 2, 9], [1, 2, 3, 9], [1, 8])):
            scheduler.submit([Task(job, tokens, len(tokens) - 1)])
        scheduler.plan()
        for job in range(3):
            scheduler.remove(job)
        scheduler.submit([Task(3, [1, 2, 3, 4], 3)])
        assert [(span.slot, span.start) for span in scheduler.plan()] == [(1, 3)]

    def test_of_equals_the_one_released_first(self) -> None:
        scheduler = Scheduler(limits(slots=3))
        for job in range(3):
            scheduler.submit([generation(job, 4)])
        scheduler.plan()
        for job in (1, 0, 2):
            scheduler.remove(job)
        scheduler.submit([generation(3, 4)])
        assert [span.slot for span in scheduler.plan()] == [1]

    def test_only_what_was_fed_counts(self) -> None:
        scheduler = Scheduler(limits(slots=1, rows=3))
        scheduler.submit([Task(1, range(10), 9)])
        scheduler.plan()
        scheduler.remove(1)
        scheduler.submit([Task(2, range(10), 9)])
        assert scheduler.plan()[0].start == 3

    def test_cancelled_before_its_first_batch_leaves_the_slot_as_it_was(self) -> None:
        scheduler = Scheduler(limits(slots=1))
        scheduler.submit([Task(1, range(10), 9)])
        scheduler.plan()
        scheduler.remove(1)
        scheduler.submit([Task(2, [5, 6, 7], 2)])
        scheduler.remove(2)
        scheduler.submit([Task(3, range(10), 9)])
        assert scheduler.plan()[0].start == 9

    def test_what_a_spoilt_job_left_is_not_used(self) -> None:
        scheduler = Scheduler(limits(slots=1))
        scheduler.submit([Task(1, range(10), 9)])
        scheduler.plan()
        scheduler.remove(1, spoilt=True)
        scheduler.submit([Task(2, range(10), 9)])
        assert scheduler.plan()[0].start == 0

    def test_a_memory_that_cannot_forget_is_only_continued(self) -> None:
        scheduler = Scheduler(limits(slots=1), trims=False)
        scheduler.submit([Task(1, range(10), 9)])
        scheduler.plan()
        scheduler.remove(1)
        scheduler.submit([Task(2, range(12), 11)])
        assert scheduler.plan()[0].start == 10
        scheduler.remove(2)
        scheduler.submit([Task(3, range(11), 10)])
        assert scheduler.plan()[0].start == 0


class TestSharing:
    def test_passes_over_one_prompt_read_it_once(self) -> None:
        scheduler = Scheduler(limits(slots=4))
        prompt = range(200)
        scheduler.submit([scoring(job, prompt, output=5) for job in range(4)])
        assert (scheduler.active, scheduler.queued) == (1, 3)
        fed = 0
        while spans := scheduler.plan():
            for span in spans:
                fed += len(span.tokens)
                if span.last:
                    scheduler.remove(span.job)
        assert fed == 199 + 4 * 5

    def test_across_requests_too_and_others_pass_meanwhile(self) -> None:
        scheduler = Scheduler(limits(slots=2))
        scheduler.submit([scoring(1, range(500), output=5)])
        scheduler.submit([scoring(2, range(500), output=5)])
        scheduler.submit([generation(3, 5)])
        assert {span.job for span in scheduler.plan()} == {1, 3}
        assert scheduler.positions() == {2: 1}

    def test_a_pass_goes_on_where_its_prompt_was_just_read(self) -> None:
        scheduler = Scheduler(limits(slots=1))
        scheduler.submit([scoring(1, range(9), output=5)])
        scheduler.submit([generation(2, 5)])
        scheduler.submit([scoring(3, range(9), output=5)])
        assert run_out(scheduler) == [1, 3, 2]

    def test_but_not_for_ever(self) -> None:
        scheduler = Scheduler(limits(slots=1, requests=100))
        scheduler.submit([scoring(0, range(9), output=5)])
        scheduler.submit([generation(1, 5)])
        for job in range(2, 30):
            scheduler.submit([scoring(job, range(9), output=5)])
        assert run_out(scheduler).index(1) == 9

    def test_a_cancelled_leader_is_followed(self) -> None:
        scheduler = Scheduler(limits(slots=2, mixed=8, rows=8))
        scheduler.submit([scoring(job, range(100), output=5) for job in (1, 2)])
        scheduler.plan()
        scheduler.remove(1)
        assert [(span.job, span.start) for span in scheduler.plan()] == [(2, 8)]


def test_removing_and_writing_what_is_not_there_is_no_error() -> None:
    scheduler = Scheduler(limits())
    scheduler.remove(1)
    scheduler.write(1, 5)
    assert scheduler.plan() == ()


@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=6),
    st.integers(1, 4),
    st.integers(4, 200),
)
def test_every_token_is_read_once_and_in_order(lengths: list[int], slots: int, batch: int) -> None:
    scheduler = Scheduler(limits(slots, rows=batch, outputs=batch, mixed=batch, beside=batch))
    for job, length in enumerate(lengths):
        scheduler.submit([generation(job, length)])
    read: dict[int, list[int]] = {job: [] for job in range(len(lengths))}
    while spans := scheduler.plan():
        for span in spans:
            read[span.job] += span.tokens
            if span.last:
                scheduler.remove(span.job)
    assert read == {job: list(generation(job, length).tokens) for job, length in enumerate(lengths)}


small = st.lists(st.integers(1, 3), min_size=1, max_size=40)


class SchedulerMachine(RuleBasedStateMachine):
    """Random requests, cancellations and steps, against a model that knows every job's tokens and every slot's content."""

    @initialize(
        slots=st.integers(1, 4),
        rows=st.integers(4, 30),
        outputs=st.integers(4, 10),
        beside=st.integers(1, 8),
        trims=st.booleans(),
    )
    def begin(self, slots: int, rows: int, outputs: int, beside: int, trims: bool) -> None:
        self.limits = Limits(
            slots, requests=3, tokens=100, rows=rows, outputs=outputs, mixed=rows, beside=beside
        )
        self.trims = trims
        self.scheduler = Scheduler(self.limits, trims=trims)
        self.content: dict[int, list[int]] = {slot: [] for slot in range(slots)}
        self.tokens: dict[int, list[int]] = {}
        self.wanted: dict[int, int] = {}
        self.share: dict[int, Any] = {}
        self.request: dict[int, int] = {}
        self.at: dict[int, int] = {}  # slots of the jobs that have begun
        self.writing: set[int] = set()
        self.numbers = 0

    def submit(self, tasks: list[Task]) -> None:
        waiting = {self.request[job] for job in self.scheduler.positions()}
        tokens = self.scheduler.queued_tokens
        try:
            self.scheduler.submit(tasks)
        except QueueFull:
            assert len(tasks) > self.limits.slots - self.scheduler.active
            assert len(waiting) >= 3 or tokens + sum(len(task.tokens) for task in tasks) > 100
            return
        for task in tasks:
            self.tokens[task.job] = list(task.tokens)
            self.wanted[task.job], self.share[task.job] = task.wanted, task.share
            self.request[task.job] = tasks[0].job

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    @rule(prompt=small)
    def generate(self, prompt: list[int]) -> None:
        self.submit([Task(self.number(), prompt, len(prompt) - 1)])

    @rule(prompts=st.lists(small, min_size=1, max_size=2), outputs=st.lists(small, min_size=1, max_size=5))
    def score(self, prompts: list[list[int]], outputs: list[list[int]]) -> None:
        pairs = [(prompts[place % len(prompts)], output) for place, output in enumerate(outputs)]
        tasks = [
            Task(self.number(), [*prompt, *output[:-1]], len(prompt) - 1, tuple(prompt))
            for prompt, output in pairs
        ]
        self.submit(tasks)

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.finish(data.draw(st.sampled_from(sorted(self.tokens))))

    def finish(self, job: int) -> None:
        self.scheduler.remove(job)
        for known in (self.tokens, self.wanted, self.share, self.request):
            del known[job]
        self.at.pop(job, None)
        self.writing.discard(job)

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        resident = set(self.tokens) - set(self.scheduler.positions())
        spans = self.scheduler.plan()
        self.check_budgets(spans)
        assert {span.job for span in spans} == resident  # nobody who has a slot goes without a row
        for span in spans:
            self.feed(span)
        for span in spans:
            if span.last:
                self.go_on(span.job, data)

    def check_budgets(self, spans: tuple[Span, ...]) -> None:
        slots = [span.slot for span in spans]
        assert slots == sorted(set(slots))
        sizes = rows(spans)
        writers = self.writing & set(sizes)
        assert all(sizes[job] == 1 for job in writers)
        assert sum(sizes.values()) <= self.limits.rows
        assert sum(span.outputs for span in spans) <= self.limits.outputs
        if writers:
            readers = len(sizes) - len(writers)
            assert sum(sizes.values()) - len(writers) <= max(self.limits.beside, readers)

    def feed(self, span: Span) -> None:
        content, tokens = self.content[span.slot], self.tokens[span.job]
        assert span.first == (span.job not in self.at)
        if span.first:
            self.at[span.job] = span.slot
            assert content[: span.start] == tokens[: span.start]
            assert span.start <= self.wanted[span.job]
            assert self.trims or span.start in {0, len(content)}
            del content[span.start :]
        assert (self.at[span.job], span.start) == (span.slot, len(content))
        content += span.tokens
        assert content == tokens[: len(content)]
        assert span.outputs == max(len(content) - max(self.wanted[span.job], span.start), 0)
        assert span.last == (content == tokens)

    def go_on(self, job: int, data: st.DataObject) -> None:
        generates = self.share[job] is None
        if generates and data.draw(st.booleans()):
            self.tokens[job].append(4)
            self.writing.add(job)
            self.scheduler.write(job, 4)
        else:
            self.finish(job)

    @invariant()
    def nobody_is_lost(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        positions = self.scheduler.positions()
        assert set(positions) <= set(self.tokens)
        assert list(positions.values()) == list(range(1, len(positions) + 1))
        assert self.scheduler.queued == len(positions)
        assert self.scheduler.active == len(self.tokens) - len(positions) <= self.limits.slots

    @invariant()
    def the_queue_is_bounded(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        waiting = {self.request[job] for job in self.scheduler.positions()}
        assert len(waiting) <= 3
        assert len(waiting) <= 1 or self.scheduler.queued_tokens <= 100

    @invariant()
    def a_slot_is_idle_only_if_all_wait_for_a_prompt(self) -> None:
        if not hasattr(self, "scheduler") or self.scheduler.active == self.limits.slots:
            return
        positions = self.scheduler.positions()
        being_read = {self.share[job] for job in self.tokens if job not in positions} - {None}
        assert all(self.share[job] in being_read for job in positions)
        assert len(
            [job for job in self.tokens if self.share[job] in being_read and job not in positions]
        ) == len(being_read)

    def teardown(self) -> None:
        """Whatever is left comes to its end within the batches that its tokens need."""
        if not hasattr(self, "scheduler"):
            return
        for _ in range(sum(map(len, self.tokens.values())) + 1):
            for span in self.scheduler.plan():
                self.feed(span)
                if span.last:
                    self.finish(span.job)
        assert self.tokens == {}


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=150, stateful_step_count=40)
