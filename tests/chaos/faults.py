"""Does to a network what a plan says, each fault once so many jobs were accepted."""

import asyncio
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import structlog

from chaos.network import Network
from chaos.plan import Deed, Fault, Kind
from chaos.processes import signal_family
from support.tcp_proxy import Harm

log = structlog.get_logger()


@dataclass
class Conductor:
    """Performs faults; two at a time may be in force, but not on the same part. `done` counts them by kind and deed."""

    network: Network
    done: Counter[tuple[Kind, str]] = field(default_factory=Counter)
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)

    async def run(self, faults: Sequence[Fault], accepted: Callable[[int], Awaitable[None]]) -> None:
        """Perform all faults; `accepted(n)` returns once n jobs were accepted. Returns when everything is as before."""
        async with asyncio.TaskGroup() as tasks:
            for fault in faults:
                await accepted(fault.after)
                tasks.create_task(self._perform(fault))

    async def _perform(self, fault: Fault) -> None:
        names = self.network.named(fault.kind) or [fault.kind]
        name = names[int(fault.pick * len(names))]
        async with self._locks.setdefault(name, asyncio.Lock()):
            log.info("fault", part=name, deed=str(fault.deed), seconds=fault.seconds, after=fault.after)
            if isinstance(fault.deed, Harm):
                with self.network.proxies[name].harmed(fault.deed):
                    await asyncio.sleep(fault.seconds)
            elif name in self.network.processes:
                await self._to_process(name, fault)
            else:
                await self._to_server(fault)
            self.done[fault.kind, str(fault.deed)] += 1

    async def _to_process(self, name: str, fault: Fault) -> None:
        process = self.network.processes[name]
        if fault.deed is not Deed.STOP:
            await (process.kill() if fault.deed is Deed.KILL else process.finish())
            await asyncio.sleep(fault.seconds)
            process.start()
            return
        process.signal(signal.SIGSTOP)
        await asyncio.sleep(fault.seconds)
        process.signal(signal.SIGCONT)

    async def _to_server(self, fault: Fault) -> None:
        """PostgreSQL is many processes, which are stopped and resumed together."""
        server = self.network.postgres if fault.kind is Kind.POSTGRES else self.network.valkey
        if fault.deed is Deed.KILL:
            await self.network.restart_server(server, fault.seconds)
            return
        pid = server.child.pid
        assert pid is not None
        signal_family(pid, signal.SIGSTOP)
        await asyncio.sleep(fault.seconds)
        signal_family(pid, signal.SIGCONT)
