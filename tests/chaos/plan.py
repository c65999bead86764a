"""What a run does, all of it from its seed: the jobs that clients submit, and the faults that come meanwhile."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from support.tcp_proxy import Harm

STUB_MODEL = "stub.gguf"
REAL_MODEL = "aos-demo-5m.F16.gguf"
_LONGEST = {"kill": 1.5, "stop": 9.0}
"""Seconds, other harms take up to 2.5: some stops last longer than a lease, and than a dispatcher waits for a member that is away."""

_WORDS = ("What", "is", "a", "verifiable", "answer", "when", "the", "power", "fails", "now")


@dataclass(frozen=True)
class Options:
    """How large a run is; `seconds` bounds all of it up to the last job's end, `pace` multiplies how long faults last."""

    jobs: int = 2000
    seed: int = 1
    operators: int = 4
    real_operators: int = 2
    dispatchers: int = 1
    faults: int = 90
    clients: int = 16
    waiting: int = 64
    seconds: float = 1800.0
    pace: float = 1.0


class Kind(StrEnum):
    """Parts of the network that faults are aimed at: processes, and the links that have a proxy."""

    DISPATCHER = "dispatcher"
    OPERATOR = "operator"
    WORKER = "worker"
    POSTGRES = "postgres"
    VALKEY = "valkey"
    TO_CLIENTS = "clients-dispatcher"
    TO_OPERATOR = "operator-dispatcher"
    TO_POSTGRES = "postgres-link"
    TO_REDIS = "redis-link"


PROCESSES = (Kind.DISPATCHER, Kind.OPERATOR, Kind.WORKER, Kind.POSTGRES, Kind.VALKEY)
LINKS = (Kind.TO_CLIENTS, Kind.TO_OPERATOR, Kind.TO_POSTGRES, Kind.TO_REDIS)


class Deed(StrEnum):
    """What is done to a process: SIGKILL and started again, SIGSTOP and SIGCONT, or SIGTERM and started again once it has ended."""

    KILL = "kill"
    STOP = "stop"
    RESTART = "restart"


DEEDS = {Deed.KILL: PROCESSES, Deed.STOP: PROCESSES, Deed.RESTART: (Kind.DISPATCHER, Kind.OPERATOR)}


@dataclass(frozen=True)
class Fault:
    """Once `after` jobs were accepted, `deed` is done for `seconds` to one part of a kind: the one that `pick` (0 to 1) falls on."""

    after: int
    deed: Deed | Harm
    kind: Kind
    pick: float
    seconds: float


@dataclass(frozen=True)
class PlannedJob:
    """What a client submits, under `key`, and whether it cancels the job or submits it once more afterwards."""

    key: str
    body: dict[str, Any]
    cancelled: bool
    repeated: bool


def faults(options: Options) -> list[Fault]:
    """Return the faults of a run in their order, spread evenly over its jobs."""
    chance = random.Random(f"faults {options.seed}")
    deck = _deck(chance)
    after = [options.jobs * (number + 1) // (options.faults + 1) for number in range(options.faults)]
    return [_fault(chance, options.pace, place, *next(deck)) for place in after]


def jobs(options: Options) -> list[PlannedJob]:
    """Return all jobs of a run; without real operators, all are for the stub."""
    chance = random.Random(f"jobs {options.seed}")
    return [_job(chance, options, number) for number in range(options.jobs)]


def _deck(chance: random.Random) -> Iterator[tuple[Deed | Harm, Kind]]:
    """Every deed and every harm comes once before anything comes twice, then every one with every kind that it fits."""
    deeds: list[tuple[Deed | Harm, Kind]] = [(deed, kind) for deed, kinds in DEEDS.items() for kind in kinds]
    first: list[tuple[Deed | Harm, Kind]] = [*deeds, *((harm, chance.choice(LINKS)) for harm in Harm)]
    everything: list[tuple[Deed | Harm, Kind]] = [*deeds, *((harm, kind) for harm in Harm for kind in LINKS)]
    yield from _shuffled(chance, first)
    while True:
        yield from _shuffled(chance, everything)


def _shuffled(
    chance: random.Random, cards: Sequence[tuple[Deed | Harm, Kind]]
) -> list[tuple[Deed | Harm, Kind]]:
    return chance.sample(cards, len(cards))


def _fault(chance: random.Random, pace: float, after: int, deed: Deed | Harm, kind: Kind) -> Fault:
    longest = _LONGEST.get(deed, 2.5)
    return Fault(after, deed, kind, chance.random(), round(pace * chance.uniform(0.2, longest), 2))


def _job(chance: random.Random, options: Options, number: int) -> PlannedJob:
    real = options.real_operators > 0 and chance.random() < 0.03
    prompt = f"{' '.join(chance.choices(_WORDS, k=chance.randint(3, 8)))} {number}?"
    params = {
        "temperature": chance.choice([0.0, 0.7, 1.0]),
        "top_p": chance.choice([0.5, 1.0]),
        "max_tokens": 24,
    }
    tag = chance.choices(["", "suspicion", "malicious"], [0.985, 0.008, 0.007])[0]
    body = {
        "from": "chaos",
        "tag": "" if real else tag,
        "user": f"user {chance.randrange(max(8, options.jobs // 12))}",
        "job": {
            "tag": "opml",
            "prompt": prompt,
            "model": REAL_MODEL if real else STUB_MODEL,
            "params": params,
        },
    }
    return PlannedJob(f"{options.seed}-{number}", body, chance.random() < 0.03, chance.random() < 0.05)
