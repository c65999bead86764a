"""Which sequence gets the next batch: a state machine without I/O, clocks or threads.

A job waits in a bounded queue, takes a slot (its place in llama.cpp's cache), has its prompt read in chunks, and then
gets one token a step together with all others that are writing. That a prompt's chunk is a batch of its own, cut at
fixed places, is half of what makes the logits of a job the same whoever its neighbours are (`llama.Context` does the
other half). Reading and writing take turns, so a long prompt does not stall those who write.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from aos_inference.errors import QueueFull

PREFILL_CHUNK = 128
"""Prompt tokens a batch. Part of what fixes the results: another size gives logits that differ in the last bits."""


@dataclass(frozen=True)
class Prefill:
    """Read prompt tokens `start` to `end` of a job into its slot; `last` when the prompt ends there."""

    job: int
    slot: int
    start: int
    end: int
    last: bool


@dataclass(frozen=True)
class Decode:
    """Feed the latest token of each of these jobs: pairs of job and slot, in slot order."""

    rows: tuple[tuple[int, int], ...]


Work: TypeAlias = Prefill | Decode


@dataclass
class _Resident:
    job: int
    length: int
    read: int = 0


@dataclass
class Scheduler:
    """Jobs are named by integers that the caller chooses; slots are numbered from 0."""

    slots: int
    queue_limit: int
    _waiting: deque[tuple[int, int]] = field(default_factory=deque)
    _resident: dict[int, _Resident] = field(default_factory=dict)
    _wrote_last: bool = True

    @property
    def active(self) -> int:
        """Jobs that hold a slot."""
        return len(self._resident)

    @property
    def queued(self) -> int:
        """Jobs that wait for a slot."""
        return len(self._waiting)

    def submit(self, job: int, prompt_length: int) -> None:
        """Queue a job of `prompt_length` >= 1 tokens. Raises QueueFull."""
        if self.queued >= self.queue_limit and self.active >= self.slots:
            raise QueueFull
        self._waiting.append((job, prompt_length))
        self._admit()

    def remove(self, job: int) -> None:
        """Forget a job, finished or cancelled, wherever it is; one that is not there is no error."""
        self._waiting = deque(entry for entry in self._waiting if entry[0] != job)
        self._resident = {slot: entry for slot, entry in self._resident.items() if entry.job != job}
        self._admit()

    def next_work(self) -> Work | None:
        """What to run now; None when there is nothing to do. The caller is trusted to run it."""
        reading = next(((slot, entry) for slot, entry in self._by_age() if entry.read < entry.length), None)
        rows = tuple(
            (entry.job, slot) for slot, entry in sorted(self._resident.items()) if entry.read == entry.length
        )
        if rows and (reading is None or not self._wrote_last):
            self._wrote_last = True
            return Decode(rows)
        if reading is None:
            return None
        self._wrote_last = False
        return self._read_on(*reading)

    def _read_on(self, slot: int, entry: _Resident) -> Prefill:
        start = entry.read
        entry.read = min(start + PREFILL_CHUNK, entry.length)
        return Prefill(entry.job, slot, start, entry.read, entry.read == entry.length)

    def _by_age(self) -> Iterator[tuple[int, _Resident]]:
        """Slots in the order in which their jobs were admitted (a dict keeps it)."""
        return iter(self._resident.items())

    def _admit(self) -> None:
        free = (slot for slot in range(self.slots) if slot not in self._resident)
        for slot in list(free):
            if not self._waiting:
                return
            job, length = self._waiting.popleft()
            self._resident[slot] = _Resident(job, length)
