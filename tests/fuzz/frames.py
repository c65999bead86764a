"""Fuzzes both ends of `/ws` with real processes: hostile operators against a dispatcher, a hostile dispatcher against an operator.

Usage, from the project's root: python -m tests.fuzz.frames --frames 200000 [--seed N] [--against dispatcher|operator]

Frames are mutated, truncated, nested, oversized, fragmented, replayed, signed by the wrong key, and signed well over nonsense; some are no
WebSocket at all. Meanwhile honest peers do jobs. The exit status is 1 when a process ends, keeps memory or files, logs a traceback, or an honest job does
not complete.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from aos_cli.embedded import EmbeddedPostgres, EmbeddedValkey
from fuzz.attack_dispatcher import Attacker, Honest
from fuzz.attack_operator import OperatorAttack, operator_under_attack
from support.dispatcher_process import DispatcherProcess, dispatcher_process
from support.logs import marks
from support.process_facts import open_files, resident

MEMORY_BOUND = 96 << 20
"""Bytes by which a process may grow while it is attacked: caches and the allocator's slack, nothing that grows with the frames."""
FILES_BOUND = 24
_ATTACKERS = 3
_BREAKS = 2


@dataclass
class Outcome:
    """What was sent, and how the process fared."""

    target: str
    sent: Counter[str] = field(default_factory=Counter)
    told: Counter[int] = field(default_factory=Counter)
    honest: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    memory: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def look(self, pid: int | None) -> None:
        """Note how much the process holds now."""
        if pid is not None and Path(f"/proc/{pid}").exists():
            self.memory.append(resident(pid))
            self.files.append(open_files(pid))

    def judge(self, ended: int | None, log: str) -> None:
        """Note all that is wrong in the end. The first stage warms up: what is held after it is what may be held."""
        if ended is not None:
            self.problems.append(f"it ended with status {ended}")
        self.problems += marks(log)
        if self.memory and max(self.memory[1:]) - self.memory[1] > MEMORY_BOUND:
            self.problems.append(f"it grew by {(max(self.memory) - self.memory[1]) >> 20} MiB")
        if self.files and self.files[-1] - self.files[0] > FILES_BOUND:
            self.problems.append(f"it keeps {self.files[-1] - self.files[0]} more files open")
        if not self.honest["completed"] or set(self.honest) != {"completed"}:
            self.problems.append(f"honest jobs ended otherwise: {dict(self.honest)}")

    def __str__(self) -> str:
        mebibytes = ", ".join(str(each >> 20) for each in self.memory)
        return "\n".join(
            [
                f"{self.target}: {self.sent.total():,} messages on {self.connections:,} connections in {self.seconds:.0f} s",
                *(f"  {many:>9,}  {name}" for name, many in self.sent.most_common()),
                f"  answers by code (-1: cut off): {dict(self.told.most_common())}",
                f"  honest jobs meanwhile: {dict(self.honest)}",
                f"  resident MiB, from before the first message on: {mebibytes}; open files {self.files[0]} to {self.files[-1]}",
                *(f"  FAILED: {problem}" for problem in self.problems),
            ]
        )


async def attack_dispatcher(dispatcher: DispatcherProcess, frames: int, seed: int) -> Outcome:
    """Have three hostile operators send this many messages in all, while two honest ones work."""
    outcome, began = Outcome("dispatcher"), time.monotonic()
    honest, stop = Honest(dispatcher), asyncio.Event()
    await honest.start(2)
    signers = [await dispatcher.register() for _ in range(_ATTACKERS)]
    attackers = [Attacker(dispatcher, each, f"{seed}/{number}") for number, each in enumerate(signers)]
    outcome.look(dispatcher.child.pid)
    working = asyncio.create_task(honest.work(stop))
    stages = _stages(frames)
    for stage in range(1, stages + 1):
        share = frames * stage // stages // _ATTACKERS
        await asyncio.gather(*(each.run(share) for each in attackers))
        outcome.look(dispatcher.child.pid)
    stop.set()
    await working
    for each in attackers:
        each.leave()
    if not await honest.close():
        outcome.problems.append("an honest operator was disconnected")
    for each in attackers:
        outcome.sent += each.sent
        outcome.told.update(each.told)
        outcome.connections += each.connections
    outcome.honest, outcome.seconds = honest.ends, time.monotonic() - began
    outcome.judge(dispatcher.child.returncode, dispatcher.log())
    return outcome


async def attack_operator(attack: OperatorAttack, frames: int, seed: int) -> Outcome:
    """Have a hostile dispatcher send this many messages in all, with honest jobs between them."""
    outcome, began = Outcome("operator"), time.monotonic()
    outcome.look(attack.pid)
    stages = _stages(frames)
    for stage in range(stages):
        # The operator takes its time to come back after each break, longer every time.
        await attack.run(frames // stages, f"{seed}/{stage}", wire_too=stage < _BREAKS)
        outcome.look(attack.pid)
    outcome.sent, outcome.told, outcome.connections = attack.sent, attack.told, attack.connections
    outcome.honest, outcome.seconds = attack.ends, time.monotonic() - began
    outcome.judge(attack.returncode, attack.log())
    return outcome


def _stages(frames: int) -> int:
    """After how many parts of an attack memory is looked at."""
    return 10 if frames >= 5000 else 3


@asynccontextmanager
async def _servers() -> AsyncIterator[tuple[Path, EmbeddedPostgres, EmbeddedValkey]]:
    with tempfile.TemporaryDirectory(prefix="aos-fuzz-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        async with (
            EmbeddedPostgres(folder / "postgres", durable=False) as postgres,
            EmbeddedValkey(folder / "valkey", durable=False) as valkey,
        ):
            yield folder, postgres, valkey


async def run(frames: int, seed: int, against: list[str]) -> list[Outcome]:
    """Attack both, on servers of their own."""
    outcomes = []
    async with _servers() as (folder, postgres, valkey):
        if "dispatcher" in against:
            async with dispatcher_process(folder, postgres.url("dispatcher")) as dispatcher:
                outcomes.append(await attack_dispatcher(dispatcher, frames, seed))
        if "operator" in against:
            database = postgres.url("operator")
            async with operator_under_attack(folder, database, valkey.url()) as attack:
                outcomes.append(await attack_operator(attack, frames, seed))
    return outcomes


def main() -> int:
    """Attack; the exit status is 1 when something was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=200_000, help="how many against each (default 200000)")
    parser.add_argument("--seed", type=int, default=1, help="which frames (default 1)")
    parser.add_argument("--against", choices=["dispatcher", "operator"], action="append")
    arguments = parser.parse_args()
    against = arguments.against or ["dispatcher", "operator"]
    outcomes = asyncio.run(run(arguments.frames, arguments.seed, against))
    sys.stdout.write("\n".join([*map(str, outcomes), ""]))
    return 1 if any(outcome.problems for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
