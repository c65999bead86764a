"""Store and queue in memory: what tests and benchmarks put in the place of PostgreSQL and Redis."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count

from aos_operator.queue import Entry
from aos_operator.tasks import Product, Request, Task, TaskKey, TaskState


class MemoryBlobs:
    """`BlobStore` beside the tasks of a `MemoryStore`."""

    def __init__(self, tasks: Mapping[TaskKey, Task]) -> None:
        self.kept: dict[TaskKey, dict[str, bytes]] = {}
        self._tasks = tasks

    async def keep(self, key: TaskKey, blobs: Mapping[str, bytes]) -> None:
        """See `BlobStore.keep`."""
        self.kept.setdefault(key, {}).update(blobs)

    async def load(self, key: TaskKey, sha256: str) -> bytes | None:
        """See `BlobStore.load`."""
        return self.kept.get(key, {}).get(sha256)

    async def sweep(self) -> None:
        """See `BlobStore.sweep`."""
        for key in [key for key in self.kept if not (key in self._tasks and self._tasks[key].open)]:
            del self.kept[key]


class MemoryStore:
    """`Store` that lasts as long as it is referenced."""

    def __init__(self) -> None:
        self.reserved = 0
        self.tasks: dict[TaskKey, Task] = {}
        self.verdicts: dict[TaskKey, str] = {}
        self.blobs = MemoryBlobs(self.tasks)

    async def reserve(self, count: int) -> int:
        """See `CounterStore.reserve`."""
        self.reserved += count
        return self.reserved

    async def lift(self, floor: int) -> None:
        """See `CounterStore.lift`."""
        self.reserved = max(self.reserved, floor)

    async def take(self, request: Request) -> Task:
        """See `Store.take`."""
        known = self.tasks.get(TaskKey.of(request))
        task = Task(request) if known is None else known.retaken(request)
        self.tasks[task.key] = task
        return task

    async def load(self, key: TaskKey) -> Task | None:
        """See `Store.load`."""
        return self.tasks.get(key)

    async def open_tasks(self, after: TaskKey | None, limit: int) -> Sequence[Task]:
        """See `Store.open_tasks`."""
        keys = sorted(key for key, task in self.tasks.items() if task.open and (after is None or key > after))
        return [self.tasks[key] for key in keys[:limit]]

    async def finish(self, request: Request, outcome: Product) -> Product:
        """See `Store.finish`."""
        task = self.tasks.get(TaskKey.of(request), Task(request))
        kept = task.outcome or outcome
        self.tasks[task.key] = replace(task, outcome=kept)
        return kept

    async def close(self, key: TaskKey, state: TaskState, verdict: str) -> None:
        """See `Store.close`."""
        task = self.tasks.get(key)
        if task is not None and task.open:
            self.tasks[key] = replace(task, state=state)
            self.verdicts[key] = verdict


class MemoryQueue:
    """`Queue` that lasts as long as it is referenced; entries stay in `pending` until they are done."""

    def __init__(self) -> None:
        self.unread: list[Entry] = []
        self.pending: dict[str, Entry] = {}
        self._ids = count(1)
        self._added = asyncio.Event()

    async def open(self) -> None:
        """See `Queue.open`."""

    async def add(self, request: Request) -> None:
        """See `Queue.add`."""
        self.unread.append(Entry(f"{next(self._ids)}-0", request))
        self._added.set()

    async def take_over(self) -> Sequence[Entry]:
        """See `Queue.take_over`."""
        return list(self.pending.values())

    async def read(self, block_s: float) -> Sequence[Entry]:
        """See `Queue.read`."""
        if not self.unread and block_s:
            self._added.clear()
            await self._added.wait()
        entries, self.unread = self.unread, []
        self.pending.update((entry.id, entry) for entry in entries)
        return entries

    async def done(self, entry_id: str) -> None:
        """See `Queue.done`."""
        self.pending.pop(entry_id, None)
