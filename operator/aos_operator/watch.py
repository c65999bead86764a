"""Watches the worker: which models it serves, and whether it is there at all."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

import structlog

from aos_operator.backends.protocol import Backend
from aos_operator.backoff import Backoff
from aos_operator.errors import WorkerUnavailable
from aos_operator.offer import Offer, select_models
from aos_protocol.fields import WorkerType
from aos_protocol.messages import ServedModel
from aos_protocol.record import named_model_digest

_TOGETHER_S: Final = 0.2
"""How long after a change others are waited for, before the dispatcher is told of them all."""

_log = structlog.get_logger(__name__)


class WorkerWatch:
    """What the worker serves, of the `wanted` model names (all, if empty). `away` says why it serves nothing now."""

    def __init__(
        self, worker: Backend, worker_type: WorkerType, wanted: Sequence[str], interval: float
    ) -> None:
        self._worker = worker
        self._wanted = wanted
        self._interval = interval
        self._served: Sequence[ServedModel] | None = None
        self.offer = Offer(worker_type)
        self.away = "the worker has not answered yet"
        self._nudged = asyncio.Event()

    def nudge(self) -> None:
        """Have the worker asked soon: what it serves has changed. Changes that come together are one."""
        self._nudged.set()

    def pinned(self, name: str) -> bool:
        """Whether a model of this name is served now of which more is known than the name: no other can be served as the same."""
        model = self.offer.models.get(name)
        return model is not None and model.sha256 != named_model_digest(name)

    async def start(self) -> None:
        """Return once the worker has said what it serves, however long that takes."""
        backoff = Backoff()
        while True:
            try:
                await self._look()
            except WorkerUnavailable as error:
                _log.warning(
                    "waiting to try again", attempt="asking the worker for its models", problem=str(error)
                )
            else:
                return
            await self._until_due(backoff.next())

    async def run(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Ask again and again, for ever; call `changed` after the offer has."""
        while True:
            await self._until_due(self._interval)
            try:
                if await self._look():
                    await changed()
            except WorkerUnavailable as error:
                if not self.away:
                    _log.error("the worker is away: draws are declined until it is back", problem=str(error))
                self.away = str(error)

    async def _until_due(self, interval: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(interval):
                await self._nudged.wait()
        if self._nudged.is_set():
            await asyncio.sleep(_TOGETHER_S)
            self._nudged.clear()

    async def _look(self) -> bool:
        served = await self._worker.models()
        if self.away and self._served is not None:
            _log.info("the worker is back")
        self.away = ""
        if served == self._served:
            return False
        self._served = served
        chosen, missing = select_models(served, self._wanted)
        if missing:
            names = ", ".join(sorted(model.name for model in served)) or "none"
            _log.error(
                "node.ai_models names models that the worker does not have: correct the list, or give them to the worker",
                missing=missing,
                worker_has=names,
            )
        _log.info("serving models", models=sorted(chosen))
        before, self.offer = self.offer, Offer(self.offer.worker_type, chosen)
        return self.offer != before
