"""Which tokens go into the next batch: a state machine without I/O, clocks or threads.

A job is a sequence of tokens that are fed to one slot (the cache of one sequence in llama.cpp), with logits wanted from some position
on. A generation wants them after its prompt and then grows by a token a step: it *writes*. A scoring pass wants them after its
prompt and every later token, and never grows. Whatever is not writing is *reading*.

One batch serves all: a row for every job that writes, and beside these a bounded number, so that they never stall, shared out
equally among those that read. While nobody writes, readers take turns at parts that llama.cpp computes fastest. So a short prompt does
not wait for a long one. A slot remembers what it was fed: a job takes the free slot that agrees with it longest and reads only
what follows. While others run, idle slots together remember only so many tokens, for llama.cpp looks at all of them in every step.

Jobs come in requests and wait in a bounded queue. They are admitted in rounds: a request's first job belongs to the next
round, its second to the one after that, so that a large request does not keep others waiting. Scoring passes with the same
prompt go through one slot, one after another: a pass whose prompt is being read waits for it and then goes first, a limited
number of times in a row.
"""

from bisect import insort
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from aos_inference.errors import QueueFull

_MOST_FOLLOWERS: Final = 8
"""Passes that may go ahead of the queue in a row because a slot has just read their prompt."""

_ROWS_AT_ONCE: Final = 4
"""llama.cpp multiplies repacked weights by so many rows at once; each row that is left over costs about three times as much."""


@dataclass(frozen=True)
class Limits:
    """So many `requests` and `tokens` may wait. A batch has at most `rows`, of them `outputs` with logits (at least one a slot).

    While a job writes, a batch has at most `untiled` rows (but at least one a slot), and those who read have together at most `beside`,
    unless they are more than those who write. While none does, several that read have at most `part` rows each. Slots that nobody
    holds remember together at most `idle` tokens while somebody runs.
    """

    slots: int
    requests: int
    tokens: int
    rows: int = 128
    outputs: int = 128
    # llama.cpp computes the attention of a batch of 64 rows and more in tiles of 64. That is up to a third faster than row by row
    # if all rows of a tile are of one sequence, and four times slower if they are of several long ones.
    part: int = 64
    untiled: int = 63
    beside: int = 32
    # Each 512 tokens that lie idle make a step of 8 jobs up to 2% longer and reading up to 4% on a model of 1.1B parameters (8% and 9% on
    # one of 4.5M, the worst case).
    idle: int = 512


@dataclass(frozen=True)
class Task:
    """A job to submit: `tokens` to feed, of which those from index `wanted` on (at least the last) want logits.

    `share` marks a scoring pass whose prompt others may have, too: theirs is equal. A `private` job reads all of its tokens, whatever
    its slot remembers, and leaves nothing there: otherwise the time that jobs take would tell who else asked what.
    """

    job: int
    tokens: Sequence[int]
    wanted: int
    share: Hashable = None
    private: bool = False


@dataclass(frozen=True)
class Span:
    """A job's part in a batch: `tokens` at positions from `start` on in `slot`, logits wanted after the last `outputs` of them.

    At the job's `first` span the slot must forget what it holds from `start` on. `last`: the job has been fed whole.
    """

    job: int
    slot: int
    start: int
    tokens: Sequence[int]
    outputs: int
    first: bool
    last: bool


class Cut(NamedTuple):
    """A slot is to forget all but its first `length` tokens."""

    slot: int
    length: int


@dataclass(eq=False)
class _Sequence:
    job: int
    tokens: list[int]
    wanted: int
    share: Hashable
    request: int
    round: int
    private: bool
    fed: int = 0
    served: int = 0
    started: bool = False
    writes: bool = False

    @property
    def order(self) -> tuple[int, int]:
        return self.round, self.job

    @property
    def unfed(self) -> int:
        return len(self.tokens) - self.fed

    @property
    def unwanted(self) -> int:
        """Tokens to be fed next that want no logits."""
        return max(self.wanted - self.fed, 0)


@dataclass(eq=False)
class _Slot:
    number: int
    holder: _Sequence | None = None
    cached: list[int] = field(default_factory=list)
    share: Hashable = None
    followers: int = 0
    released: int = 0


_Held: TypeAlias = tuple[_Slot, _Sequence]


class Scheduler:
    """Jobs are named by integers that the caller chooses, rising; slots are numbered from 0.

    `trims` says whether a slot can forget the end of what it holds; if not, it is reused only for a continuation.
    """

    def __init__(self, limits: Limits, *, trims: bool = True) -> None:
        self._limits = limits
        self._trims = trims
        self._slots = [_Slot(number) for number in range(limits.slots)]
        self._resident: dict[int, _Slot] = {}
        self._waiting: list[_Sequence] = []
        self._requests = 0
        self._round = 0
        self._releases = 0
        self._plans = 0

    @property
    def active(self) -> int:
        """Jobs that hold a slot."""
        return len(self._resident)

    @property
    def queued(self) -> int:
        """Jobs that wait for a slot."""
        return len(self._waiting)

    @property
    def queued_tokens(self) -> int:
        """Tokens of the jobs that wait."""
        return sum(sequence.unfed for sequence in self._waiting)

    def positions(self) -> dict[int, int]:
        """Where each waiting job stands, from 1; jobs before it that wait for a prompt count, too."""
        return {sequence.job: place for place, sequence in enumerate(self._waiting, 1)}

    def submit(self, tasks: Sequence[Task]) -> None:
        """Queue the jobs of one request, all or none. Raises QueueFull with what it would take."""
        self._check_room(tasks)
        self._requests += 1
        for later, task in enumerate(tasks, 1):
            sequence = _Sequence(
                task.job,
                list(task.tokens),
                task.wanted,
                task.share,
                self._requests,
                self._round + later,
                task.private,
            )
            insort(self._waiting, sequence, key=lambda each: each.order)
        self._admit()

    def write(self, job: int, token: int) -> None:
        """Add the token that a generation drew; it is fed in the next batch. A job that was removed meanwhile is no error."""
        if slot := self._resident.get(job):
            sequence = self._holder(slot)
            sequence.tokens.append(token)
            sequence.writes = True

    def remove(self, job: int, *, spoilt: bool = False) -> None:
        """Forget a job, finished or cancelled, wherever it is; one that is not there is no error.

        What its slot was fed is kept for others, unless `spoilt`.
        """
        slot = self._resident.pop(job, None)
        if slot is None:
            self._waiting = [sequence for sequence in self._waiting if sequence.job != job]
        else:
            self._release(slot, spoilt)
        self._admit()

    def shed(self) -> tuple[Cut, ...]:
        """What idle slots must forget before the next batch: whoever was released first forgets first, and each from its end.

        Nothing while nobody runs, for then it costs nothing. The caller is trusted to do it.
        """
        if not self._resident:
            return ()
        left, cuts = self._limits.idle, []
        idle = (slot for slot in self._slots if slot.holder is None and slot.cached)
        for slot in sorted(idle, key=lambda slot: slot.released, reverse=True):
            kept = min(len(slot.cached), left)
            if kept < len(slot.cached):
                kept = kept if self._trims else 0
                del slot.cached[kept:]
                cuts.append(Cut(slot.number, kept))
            left -= kept
        return tuple(cuts)

    def plan(self) -> tuple[Span, ...]:
        """The next batch, largest spans first; empty when there is nothing to do. The caller is trusted to run it."""
        self._plans += 1
        held = [(slot, self._holder(slot)) for slot in self._resident.values()]
        writers = [(slot, sequence, 1) for slot, sequence in held if sequence.writes and sequence.unfed]
        readers = [(slot, sequence) for slot, sequence in held if not sequence.writes and sequence.unfed]
        shares = [*writers, *self._shares(readers, len(writers))] if writers else list(self._turns(readers))
        for _, sequence, _ in shares:
            sequence.served = self._plans
        shares.sort(key=lambda share: (-share[2], share[0].number))  # so that whole parts fill whole tiles
        return tuple(_span(*share) for share in shares)

    def _shares(self, readers: list[_Held], writers: int) -> Iterator[tuple[_Slot, _Sequence, int]]:
        """Rows for each that reads beside writers: equal shares, and what one has no use for goes to the others."""
        rows = self._limits.untiled - writers
        if len(readers) <= writers:
            rows = min(rows, self._limits.beside)
        rows -= (writers + rows) % _ROWS_AT_ONCE
        outputs = self._limits.outputs - writers
        readers = sorted(readers, key=lambda reader: reader[1].unfed)
        for left, (slot, sequence) in zip(range(len(readers), 0, -1), readers, strict=True):
            count = min(sequence.unfed, max(rows // left, 1), sequence.unwanted + max(outputs // left, 1))
            rows -= count
            outputs -= max(count - sequence.unwanted, 0)
            yield slot, sequence, count

    def _turns(self, readers: list[_Held]) -> Iterator[tuple[_Slot, _Sequence, int]]:
        """Rows for those whose turn it is while nobody writes: who was served longest ago comes first."""
        rows, outputs = self._limits.rows, self._limits.outputs
        part = self._limits.part if len(readers) > 1 else rows
        for slot, sequence in sorted(readers, key=lambda reader: (reader[1].served, reader[1].unfed)):
            count = min(sequence.unfed, part, rows, sequence.unwanted + outputs)
            rows -= count
            outputs -= max(count - sequence.unwanted, 0)
            if count:
                yield slot, sequence, count

    def _check_room(self, tasks: Sequence[Task]) -> None:
        shares = [task.share for task in tasks if task.share is not None]
        together = len(set(shares)) < len(shares) or not self._being_read().isdisjoint(shares)
        if not together and len(tasks) <= self._limits.slots - self.active:
            return  # nobody will wait
        waiting = len({sequence.request for sequence in self._waiting})
        tokens = self.queued_tokens
        room = not self._waiting or tokens + sum(len(task.tokens) for task in tasks) <= self._limits.tokens
        if waiting >= self._limits.requests or not room:
            raise QueueFull(
                f"{self.active} of {self._limits.slots} slots are busy, and {waiting} requests with {self.queued} jobs of {tokens:,} "
                f"tokens wait (at most {self._limits.requests} requests and {self._limits.tokens:,} tokens may). Send the request again later."
            )

    def _admit(self) -> None:
        while (found := self._next_admission()) is not None:
            sequence, slot, follows = found
            self._waiting.remove(sequence)
            self._round = max(self._round, sequence.round)
            slot.followers = slot.followers + 1 if follows else 0
            slot.holder, slot.share = sequence, sequence.share
            sequence.fed, sequence.served = self._agreement(slot, sequence), self._plans
            self._resident[sequence.job] = slot

    def _next_admission(self) -> tuple[_Sequence, _Slot, bool] | None:
        """Who enters next, where, and whether it goes ahead because its prompt has just been read there."""
        free = [slot for slot in self._slots if slot.holder is None]
        if not free:
            return None
        for slot in free:
            if slot.share is not None and slot.followers < _MOST_FOLLOWERS:
                for sequence in self._waiting:
                    if sequence.share == slot.share:
                        return sequence, slot, True
        being_read = self._being_read()
        for sequence in self._waiting:
            if sequence.share not in being_read:
                return sequence, self._best(free, sequence), False
        return None

    def _being_read(self) -> set[Hashable]:
        """Shares of the jobs that hold a slot."""
        return {slot.share for slot in self._resident.values()} - {None}

    def _best(self, free: list[_Slot], sequence: _Sequence) -> _Slot:
        """The slot that agrees longest; of equals the one that was released first."""
        return max(free, key=lambda slot: (self._agreement(slot, sequence), -slot.released))

    def _agreement(self, slot: _Slot, sequence: _Sequence) -> int:
        """Tokens of the sequence that the slot holds and that need not be fed again."""
        if sequence.private:
            return 0
        most = min(len(slot.cached), sequence.wanted)
        pairs = zip(slot.cached, sequence.tokens, strict=False)
        agreed = next((place for place, (old, new) in enumerate(pairs) if old != new or place == most), most)
        return agreed if self._trims or agreed == len(slot.cached) else 0

    def _release(self, slot: _Slot, spoilt: bool) -> None:
        sequence = self._holder(slot)
        self._releases += 1
        slot.holder, slot.released = None, self._releases
        if sequence.started:
            slot.cached = [] if spoilt or sequence.private else sequence.tokens[: sequence.fed]

    @staticmethod
    def _holder(slot: _Slot) -> _Sequence:
        if slot.holder is None:
            raise RuntimeError(f"slot {slot.number} is free")
        return slot.holder


def _span(slot: _Slot, sequence: _Sequence, count: int) -> Span:
    start, end = sequence.fed, sequence.fed + count
    first, sequence.started = not sequence.started, True
    sequence.fed = end
    return Span(
        job=sequence.job,
        slot=slot.number,
        start=start,
        tokens=sequence.tokens[start:end],
        outputs=max(end - max(sequence.wanted, start), 0),
        first=first,
        last=end == len(sequence.tokens),
    )
