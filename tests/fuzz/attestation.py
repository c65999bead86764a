"""Fuzzes the verification of attestations: of mutants, none may be accepted, nothing but InvalidAttestation may come out, none may hang.

Usage, from the project's root: python -m tests.fuzz.attestation --documents 200000 [--seed N] [--processes 2]

Mutant number I of a seed is always the same: mutant(targets, seed, I) makes it again.
"""

import argparse
import multiprocessing
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import SynchronizedArray
from pathlib import Path

from aos_protocol.errors import InvalidAttestation

from .mutations import mutate
from .targets import Genuine, Target, targets

DEADLINE_S = 10.0
"""What no document may take, on however busy a machine; most take a thousandth of a second."""


@dataclass(frozen=True)
class Mutant:
    """A document that no hardware made."""

    index: int
    target: Target
    parent: Genuine
    mutations: tuple[str, ...]
    document: bytes

    def __str__(self) -> str:
        return f"mutant {self.index} of {self.target.kind} ({self.parent.name}: {', '.join(self.mutations)})"


@dataclass
class Tally:
    """What became of the mutants; times in seconds."""

    documents: Counter[str] = field(default_factory=Counter)
    mutations: Counter[str] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    unchanged: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, str] = (0.0, "")
    failures: list[str] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        for mine, its in (
            (self.documents, other.documents),
            (self.mutations, other.mutations),
            (self.unchanged, other.unchanged),
            (self.seconds, other.seconds),
        ):
            mine.update(its)
        self.reasons.update(other.reasons)
        self.slowest = max(self.slowest, other.slowest)
        self.failures += other.failures


def mutant(kinds: Sequence[Target], seed: int, index: int) -> Mutant:
    """Make a mutant that is none of the genuine documents in another encoding that is allowed."""
    rng = random.Random(f"{seed}/{index}")
    (target,) = rng.choices(kinds, [each.share for each in kinds])
    known = {target.same(each) for each in (*target.donors, *(each.document for each in target.genuine))}
    while True:
        parent = rng.choice(target.genuine)
        document, names = mutate(rng, parent.document, target.donors, structured=target.structured)
        if target.same(document) not in known:
            return Mutant(index, target, parent, tuple(names), document)


def examine(tried: Mutant, tally: Tally) -> None:
    """Verify a mutant, and note what came of it."""
    kind = tried.target.kind
    tally.documents[kind] += 1
    tally.mutations.update(tried.mutations)
    start = time.perf_counter()
    try:
        said = tried.parent.verify(tried.document)
    except InvalidAttestation as error:
        tally.reasons[kind, _general(str(error))] += 1
    except BaseException as error:  # noqa: BLE001 - whatever else comes out, be it a panic of Rust's, is a finding
        tally.failures.append(f"{tried} raised {type(error).__name__}: {error}")
    else:
        if tried.target.may_pass and said == tried.parent.verify(tried.parent.document):
            tally.unchanged[kind] += 1
        else:
            tally.failures.append(f"{tried} was accepted")
    took = time.perf_counter() - start
    tally.seconds[kind] += took
    tally.slowest = max(tally.slowest, (took, str(tried)))


def _general(reason: str) -> str:
    """What a reason has in common with others of its sort: no numbers, no certificates' names."""
    reason = re.sub(r"\([^()]*\)", "(...)", reason)
    reason = reason.removeprefix("the TDX quote does not verify: ")
    return re.sub(r"[0-9a-f]*[0-9][0-9a-fx]*|(?<=character ).*", "#", reason)[:110]


def examine_all(kinds: Sequence[Target], seed: int, indices: Iterable[int]) -> Tally:
    """Examine mutants by their numbers, in this process and without a watchdog."""
    tally = Tally()
    for index in indices:
        examine(mutant(kinds, seed, index), tally)
    return tally


class Worker:
    """A process that examines every so-manieth mutant, watched from outside, for no signal of Python's interrupts C code."""

    def __init__(self, vectors: Path, seed: int, indices: range) -> None:
        self._now: SynchronizedArray[float] = multiprocessing.Array("d", [-1.0, 0.0])
        self._results, sender = multiprocessing.Pipe(duplex=False)
        self._process = multiprocessing.Process(target=self._run, args=(sender, vectors, seed, indices))
        self._process.start()
        sender.close()

    def _run(self, sender: Connection, vectors: Path, seed: int, indices: range) -> None:
        kinds, tally = targets(vectors), Tally()
        for index in indices:
            self._now[:] = [float(index), time.monotonic()]
            examine(mutant(kinds, seed, index), tally)
        sender.send(tally)

    def result(self) -> Tally:
        """Wait for the end; a process that hangs or dies is a failure of the mutant that it was at."""
        while not self._results.poll(0.2):
            index, since = self._now[:]
            if since and time.monotonic() - since > DEADLINE_S:
                self._process.kill()
                return Tally(failures=[f"mutant {index:.0f} took more than {DEADLINE_S} s"])
        try:
            tally: Tally = self._results.recv()
        except EOFError:
            return Tally(failures=[f"the process died at mutant {self._now[0]:.0f}"])
        self._process.join()
        return tally


def summary(tally: Tally, seconds: float) -> str:
    """The whole outcome as text."""
    total = tally.documents.total()
    lines = [f"{total:,} mutants in {seconds:.1f} s: {total / seconds:,.0f} a second in all"]
    for kind, count in tally.documents.most_common():
        rate = count / tally.seconds[kind]
        unchanged = f", {tally.unchanged[kind]:,} without effect" if tally.unchanged[kind] else ""
        lines.append(f"\n{kind}: {count:,} mutants, {rate:,.0f} a second on one processor{unchanged}")
        reasons = Counter({reason: many for (its, reason), many in tally.reasons.items() if its == kind})
        lines += [f"  {many:>8,}  {reason}" for reason, many in reasons.most_common(25)]
        if len(reasons) > 25:
            lines.append(f"  {sum(sorted(reasons.values())[:-25]):>8,}  of {len(reasons) - 25} further sorts")
    lines.append(
        "\nmutations: " + ", ".join(f"{name} {many:,}" for name, many in tally.mutations.most_common())
    )
    lines.append(f"slowest: {tally.slowest[0] * 1000:.1f} ms, {tally.slowest[1]}")
    lines += [f"FAILED: {each}" for each in tally.failures]
    return "\n".join([*lines, f"{len(tally.failures)} failures"])


def main() -> int:
    """Run as many mutants as are asked for; the exit status is 1 when any of them fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=200_000, help="how many mutants (default 200000)")
    parser.add_argument("--seed", type=int, default=1, help="which mutants (default 1)")
    parser.add_argument("--processes", type=int, default=2, help="how many at a time (default 2)")
    arguments = parser.parse_args()
    vectors = Path(__file__).resolve().parents[3] / "shared" / "vectors"
    if not vectors.is_dir():
        parser.error(f"the published test vectors are not at {vectors}")
    start = time.monotonic()
    workers = [
        Worker(vectors, arguments.seed, range(first, arguments.documents, arguments.processes))
        for first in range(arguments.processes)
    ]
    tally = Tally()
    for worker in workers:
        tally.add(worker.result())
    sys.stdout.write(summary(tally, time.monotonic() - start) + "\n")
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
