from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_inference.errors import QueueFull
from aos_inference.scheduler import Cut, Limits, Scheduler, Span, Task


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


def test_readers_take_turns_at_whole_parts() -> None:
    scheduler = Scheduler(limits(slots=4, rows=60, part=30))
    for job, length in ((1, 90), (2, 10), (3, 90), (4, 90)):
        scheduler.submit([generation(job, length)])
    plans = [[(span.job, len(span.tokens)) for span in scheduler.plan()] for _ in range(6)]
    assert plans == [
        [(1, 30), (3, 20), (2, 10)],
        [(1, 30), (4, 30)],
        [(1, 30), (3, 30)],
        [(3, 30), (4, 30)],
        [(4, 30), (3, 10)],
        [],
    ]


def test_a_newcomer_has_its_turn_after_those_who_wait() -> None:
    """Otherwise a stream of short jobs would keep a long one from being read."""
    scheduler = Scheduler(limits(slots=3, rows=10, part=10, requests=100))
    scheduler.submit([generation(0, 100)])
    scheduler.submit([generation(1, 10)])
    served = []
    for job in range(2, 32):
        scheduler.submit([generation(job, 10)])
        (span,) = scheduler.plan()
        served.append(span.job)
        if span.last:
            scheduler.remove(span.job)
    assert served.count(0) == 10


def test_rows_beside_writers_come_in_fours() -> None:
    scheduler = Scheduler(limits(slots=4, beside=32))
    for job in range(3):
        scheduler.submit([generation(job, 1)])
    scheduler.plan()
    for job in range(3):
        scheduler.write(job, 9)
    scheduler.submit([generation(3, 100)])
    assert rows(scheduler.plan()) == {0: 1, 1: 1, 2: 1, 3: 29}


def test_reading_beside_writers_is_bounded_and_writers_never_wait() -> None:
    scheduler = Scheduler(limits(slots=4, beside=10))
    for job in (1, 4):
        scheduler.submit([generation(job, 5)])
    scheduler.plan()
    scheduler.write(1, 9)
    scheduler.write(4, 9)
    scheduler.submit([generation(2, 100)])
    scheduler.submit([scoring(3, range(50), output=50)])
    for step in range(5):
        assert rows(scheduler.plan()) == {1: 1, 4: 1, 2: 5, 3: 5}, step
        scheduler.write(1, 9)
        scheduler.write(4, 9)


def test_readers_that_outnumber_writers_read_more() -> None:
    """Otherwise a few that begin early write nearly alone, at nearly the cost of full batches."""
    scheduler = Scheduler(limits(slots=3, beside=10, untiled=42))
    scheduler.submit([generation(1, 5)])
    scheduler.plan()
    scheduler.write(1, 9)
    for job in (2, 3):
        scheduler.submit([generation(job, 100)])
    sizes = rows(scheduler.plan())
    assert sizes.pop(1) == 1
    assert sorted(sizes.values()) == [19, 20]


def test_alone_it_reads_as_much_as_a_batch_holds() -> None:
    scheduler = Scheduler(limits(rows=128))
    scheduler.submit([generation(1, 300)])
    assert rows(scheduler.plan()) == {1: 128}
    scheduler.submit([generation(2, 300)])
    assert rows(scheduler.plan()) == {1: 64, 2: 64}


def test_a_batch_begins_with_whole_parts() -> None:
    scheduler = Scheduler(limits(slots=3))
    for job, length in ((1, 10), (2, 300), (3, 20)):
        scheduler.submit([generation(job, length)])
    assert [len(span.tokens) for span in scheduler.plan()] == [64, 20, 10]


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


class TestIdle:
    def left(self, lengths: Sequence[int], *, idle: int, trims: bool = True) -> Scheduler:
        """Slots 0, 1, ... were left in this order with so many tokens; one more is free."""
        scheduler = Scheduler(limits(slots=len(lengths) + 1, idle=idle, rows=1000, part=1000), trims=trims)
        for job, length in enumerate(lengths):
            scheduler.submit([generation(job, length)])
        scheduler.plan()
        for job in range(len(lengths)):
            scheduler.remove(job)
        return scheduler

    def test_who_was_left_first_forgets_first_and_from_its_end(self) -> None:
        scheduler = self.left([100, 50, 30], idle=60)
        scheduler.submit([generation(9, 10)])
        assert scheduler.shed() == (Cut(1, 30), Cut(0, 0))
        assert scheduler.shed() == ()

    def test_what_is_left_can_be_used(self) -> None:
        scheduler = self.left([100, 50, 30], idle=60)
        scheduler.submit([generation(9, 10)])
        scheduler.shed()
        scheduler.submit([generation(1, 50)])
        assert [(span.slot, span.start) for span in scheduler.plan() if span.job == 1] == [(1, 30)]

    def test_a_memory_that_cannot_be_cut_goes_whole(self) -> None:
        scheduler = self.left([20, 50, 30], idle=60, trims=False)
        scheduler.submit([generation(9, 10)])
        assert scheduler.shed() == (Cut(1, 0),)

    def test_nothing_is_forgotten_while_nobody_runs(self) -> None:
        """So a conversation that has the worker for itself is never read again."""
        scheduler = self.left([1000], idle=60)
        assert scheduler.shed() == ()
        scheduler.submit([Task(1, generation(0, 1000).tokens, 999)])
        assert scheduler.shed() == ()
        assert scheduler.plan()[0].start == 999

    def test_followers_find_the_prompt_whole(self) -> None:
        scheduler = Scheduler(limits(slots=2, idle=10, rows=1000))
        scheduler.submit([scoring(job, range(500), output=5) for job in range(3)])
        starts = []
        while spans := scheduler.plan():
            assert scheduler.shed() == ()
            starts += [span.start for span in spans]
            scheduler.remove(spans[0].job)
        assert starts == [0, 499, 499]


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

    def test_those_who_wait_for_a_prompt_are_bounded_though_slots_are_free(self) -> None:
        scheduler = Scheduler(limits(slots=4, requests=2))
        for job in range(3):
            scheduler.submit([scoring(job, range(500), output=5)])
        assert (scheduler.active, scheduler.queued) == (1, 2)
        with pytest.raises(QueueFull, match="1 of 4 slots are busy, and 2 requests with 2 jobs"):
            scheduler.submit([scoring(3, range(500), output=5)])
        scheduler.submit([generation(4, 5)])
        assert (scheduler.active, scheduler.queued) == (2, 2)

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
        scheduler = Scheduler(limits(slots=2, rows=8))
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
    scheduler = Scheduler(limits(slots, rows=batch, outputs=batch, part=max(batch // 2, 1)))
    for job, length in enumerate(lengths):
        scheduler.submit([generation(job, length)])
    read: dict[int, list[int]] = {job: [] for job in range(len(lengths))}
    while spans := scheduler.plan():
        for span in spans:
            read[span.job] += span.tokens
            if span.last:
                scheduler.remove(span.job)
    assert read == {job: list(generation(job, length).tokens) for job, length in enumerate(lengths)}


def test_a_private_prompt_uses_no_memory_and_leaves_none() -> None:
    """Neither the time of others tells that a private prompt began like theirs, nor its own that it began like one of theirs."""
    scheduler = Scheduler(limits(slots=1, rows=64))
    prompt = [5, 6, 7, 8]

    def read(job: int, *, private: bool) -> Span:
        scheduler.submit([Task(job, prompt, wanted=3, private=private)])
        (span,) = scheduler.plan()
        scheduler.remove(job)
        return span

    known = read(0, private=False)
    assert (known.start, known.first) == (0, True)
    assert read(1, private=False).start == 3
    assert read(2, private=True).start == 0
    after = read(3, private=False)
    assert (after.start, after.first) == (0, True)
    assert read(4, private=False).start == 3


def test_a_private_prompt_that_was_never_read_takes_nothing_from_its_slot() -> None:
    scheduler = Scheduler(limits(slots=1))
    scheduler.submit([Task(0, [5, 6, 7], wanted=2)])
    scheduler.plan()
    scheduler.remove(0)
    scheduler.submit([Task(1, [5, 6, 7], wanted=2, private=True)])
    scheduler.remove(1)
    scheduler.submit([Task(2, [5, 6, 7], wanted=2)])
    assert scheduler.plan()[0].start == 2
