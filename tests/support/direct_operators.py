"""Real operators in this process, on memory for PostgreSQL and Redis, whose worker a test drives: for what is between their clients and them."""

import asyncio
from typing import Any

from aos_cli import ports
from aos_operator.backends.protocol import Execution, Hear, Piece
from aos_operator.errors import WorkerRefused
from aos_operator.memory import MemoryQueue, MemoryStore
from aos_operator.runner import Operator
from aos_operator.settings import NodeSettings
from aos_operator.stub import StubWorker
from aos_protocol.identity import Signer
from aos_protocol.job import JobSpec
from support.operators import MODEL


class HeldWorker(StubWorker):
    """Says its first words at once and the rest when `go` is set; `refuses` is why it does not say anything."""

    def __init__(self) -> None:
        super().__init__({MODEL.name: MODEL.sha256})
        self.asked: list[JobSpec] = []
        self.go = asyncio.Event()
        self.go.set()
        self.stopped = asyncio.Event()
        self.refuses = ""

    async def generate(
        self,
        job: JobSpec,
        seed: str,
        prover: str,
        execution: Execution | None = None,
        hear: Hear | None = None,
    ) -> dict[str, Any]:
        """See `Backend.generate`."""
        self.asked.append(job)
        if self.refuses:
            raise WorkerRefused(self.refuses)
        answer = await super().generate(job, seed, prover, execution)
        text = answer["text"]
        assert hear is not None
        hear(Piece(text[:4]))
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.stopped.set()
            raise
        hear(Piece(text[4:]))
        return answer


class LocalOperator:
    """An `Operator` that runs beside the test; one that is `reachable` has a port of its own, and announces `outer` or that port's address."""

    def __init__(
        self, url: str, dispatcher: str, *, reachable: bool = False, outer: str | None = None
    ) -> None:
        self.signer = Signer.generate()
        self.worker = HeldWorker()
        self.store, self.queue = MemoryStore(), MemoryQueue()
        net: dict[str, Any] = {"dispatcher_url": url}
        self._port = ports.reserve(0) if reachable else None
        if self._port is not None:
            address = f"{ports.LOOPBACK}:{ports.number(self._port)}"
            net |= {"rest_url": address, "outer_url": outer or f"http://{address}"}
        node = {"dispatcher_address": dispatcher, "heartbeat_interval": 5}
        self.settings = NodeSettings.model_validate({"net": net, "node": node})
        self._stop = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start, and return once the dispatcher has let it in."""
        self._stop = asyncio.Event()
        self.operator = Operator(
            self.settings, self.signer, self.store, self.queue, self.worker, registry=None
        )
        self._running = asyncio.create_task(self.operator.run(self._stop))
        welcomed = asyncio.create_task(self.operator.welcomed.wait())
        await asyncio.wait({self._running, welcomed}, return_when=asyncio.FIRST_COMPLETED)
        if self._running.done():
            self._running.result()

    async def close(self) -> None:
        """Stop in good order, and give the port back."""
        if self._running is not None:
            self._stop.set()
            await self._running
            self._running = None
        if self._port is not None:
            self._port.close()

    async def crash(self) -> None:
        """End at once, as a process that is killed, whose memory is gone."""
        assert self._running is not None
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        self._running = None
