"""Whatever happens in whatever order: the scheduler against a model that knows every job's tokens and every slot's content."""

from typing import Any

from hypothesis import settings
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

small = st.lists(st.integers(1, 3), min_size=1, max_size=40)


class SchedulerMachine(RuleBasedStateMachine):
    """Random requests, cancellations and steps."""

    @initialize(
        slots=st.integers(1, 4),
        rows=st.integers(4, 30),
        outputs=st.integers(4, 10),
        part=st.integers(1, 8),
        untiled=st.integers(4, 20),
        beside=st.integers(1, 8),
        idle=st.integers(0, 60),
        trims=st.booleans(),
    )
    def begin(
        self,
        slots: int,
        rows: int,
        outputs: int,
        part: int,
        untiled: int,
        beside: int,
        idle: int,
        trims: bool,
    ) -> None:
        self.limits = Limits(
            slots,
            requests=3,
            tokens=100,
            rows=rows,
            outputs=outputs,
            part=part,
            untiled=min(untiled, rows),
            beside=beside,
            idle=idle,
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
        self.waited: dict[int, int] = {}
        self.numbers = 0
        self.longest = 0

    def submit(self, tasks: list[Task]) -> None:
        waiting = {self.request[job] for job in self.scheduler.positions()}
        tokens = self.scheduler.queued_tokens
        try:
            self.scheduler.submit(tasks)
        except QueueFull:
            assert len(tasks) > self.limits.slots - self.scheduler.active or self.some_wait(tasks)
            assert len(waiting) >= 3 or tokens + sum(len(task.tokens) for task in tasks) > 100
            return
        for task in tasks:
            self.tokens[task.job] = list(task.tokens)
            self.wanted[task.job], self.share[task.job] = task.wanted, task.share
            self.request[task.job] = tasks[0].job
            self.longest = max(self.longest, len(task.tokens))

    def some_wait(self, tasks: list[Task]) -> bool:
        """Whether some wait for a prompt to be read, though slots may be free."""
        shares = [task.share for task in tasks if task.share is not None]
        resident = set(self.tokens) - set(self.scheduler.positions())
        return len(set(shares)) < len(shares) or bool(set(shares) & {self.share[job] for job in resident})

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
        self.waited.pop(job, None)
        self.writing.discard(job)

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        resident = set(self.tokens) - set(self.scheduler.positions())
        spans = self.scheduler.plan()
        self.forget(spans, resident)
        self.check_budgets(spans)
        self.check_turns(resident, {span.job for span in spans})
        for span in spans:
            self.feed(span)
        for span in spans:
            if span.last:
                self.go_on(span.job, data)

    def check_turns(self, resident: set[int], served: set[int]) -> None:
        """Who writes has a row in every batch, and so has who reads beside writers; otherwise readers wait for each other at most."""
        assert served <= resident
        assert served or not resident
        if self.writing & resident:
            assert served == resident
        for job in resident:
            self.waited[job] = 0 if job in served else self.waited.get(job, 0) + 1
            assert self.waited[job] < self.limits.slots

    def forget(self, spans: tuple[Span, ...], resident: set[int]) -> None:
        """What idle slots keep fits the bound while somebody runs, and no more is forgotten than that takes."""
        idle = set(self.content) - {span.slot for span in spans} - set(self.at.values())
        held = sum(len(self.content[slot]) for slot in idle)
        cuts = self.scheduler.shed()
        assert resident or not cuts
        for slot, length in cuts:
            assert slot in idle
            assert length < len(self.content[slot])
            assert self.trims or length == 0
            del self.content[slot][length:]
        kept = sum(len(self.content[slot]) for slot in idle)
        if resident and resident <= {
            *self.at,
            *(span.job for span in spans),
        }:  # all slots that are held are known
            assert kept <= self.limits.idle
            assert kept == min(held, self.limits.idle) or not self.trims
        assert self.scheduler.shed() == ()

    def check_budgets(self, spans: tuple[Span, ...]) -> None:
        assert len({span.slot for span in spans}) == len(spans)
        sizes = {span.job: len(span.tokens) for span in spans}
        writers = self.writing & set(sizes)
        assert all(sizes[job] == 1 for job in writers)
        assert sum(sizes.values()) <= self.limits.rows
        assert sum(span.outputs for span in spans) <= self.limits.outputs
        if writers:
            readers = len(sizes) - len(writers)
            assert readers > len(writers) or sum(sizes.values()) - len(writers) <= max(
                self.limits.beside, readers
            )
            assert sum(sizes.values()) <= max(self.limits.untiled, len(sizes))
        elif len(sizes) > 1:
            assert max(sizes.values()) <= self.limits.part

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
            self.longest = max(self.longest, len(self.tokens[job]))
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
    def cells_are_never_over_capacity(self) -> None:
        """A slot never holds more than the longest job: a pool of slots times the context is enough, whatever slots remember."""
        if hasattr(self, "scheduler"):
            assert max(map(len, self.content.values())) <= self.longest

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
TestSchedulerMachine.settings = settings(max_examples=100, stateful_step_count=30)
