"""How fast AOS proves, verifies, seals and opens, against what bare coincurve needs for the same.

Usage: python benchmarks/crypto.py [--json] [--rounds N]

Every round times a batch of each operation and, right beside it, a batch of its peer, so that both see
the same machine. The ratio is that of the medians: 0.80 means 80% of the speed of the peer, which does
nothing but the curve arithmetic (no hashing, no JSON, no checks).
"""

from __future__ import annotations

import argparse
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import cycle
from statistics import median

from coincurve import PrivateKey, PublicKey

from aos_protocol import vrf
from aos_protocol.canonical import JsonObject
from aos_protocol.frames import open_frame, seal_request
from aos_protocol.identity import Signer
from aos_protocol.typed_data import Domain, ResultClaim, recover_typed, sign_typed

# Short beside a time slice of the scheduler, so that a busy neighbour does not reach the medians.
BATCH = 4
HEX64 = "5a" * 32
DOMAIN = Domain(31337, "0x" + "5f" * 20)
JOB: JsonObject = {
    "user": "b77f1799de0148c07bc6ef630fb75ac267f31d147cd28797ad145afe72302632",
    "seed": HEX64,
    "tag": "",
    "position": "",
    "clock": {"1": "2"},
    "job_id": HEX64,
    "job": {
        "tag": "opml",
        "prompt": "What is AI?",
        "model": "llama-2-7b-chat.Q4_0.gguf",
        "params": {"temperature": 1.0, "top_p": 0.5, "max_tokens": 1024},
    },
}


@dataclass(frozen=True)
class Case:
    """An operation of ours, its peer, and how many calls of the peer one operation needs."""

    name: str
    ours: Callable[[], object]
    peer_name: str
    peer: Callable[[], object]
    peer_calls: int


@dataclass(frozen=True)
class Figure:
    """Medians of one case: operations a second of ours and of its peer, and their ratio."""

    name: str
    per_second: float
    peer: str
    peer_per_second: float
    ratio: float


def prepare() -> list[Case]:
    """Prepare keys, proofs and frames, so that only the named operation is timed."""
    signer = Signer.generate()
    # Many inputs, because try-and-increment takes longer for some than for others.
    alphas = [secrets.token_bytes(96) for _ in range(256)]
    proofs = cycle([(alpha, vrf.prove(signer, alpha)) for alpha in alphas])
    inputs = cycle(alphas)
    frame = seal_request(signer, "1", "dispatch_job", [JOB])
    claim = ResultClaim(HEX64, signer.address, signer.address, "executor", "", "", 1, 0, *[HEX64] * 7)
    signature = sign_typed(signer, DOMAIN, claim)

    key, digest, scalar = PrivateKey(signer.secret), secrets.token_bytes(32), secrets.token_bytes(32)
    point, bare = key.public_key, key.sign_recoverable(digest, hasher=None)

    def multiply() -> object:
        return point.multiply(scalar)

    def sign() -> object:
        return key.sign_recoverable(digest, hasher=None)

    def recover() -> object:
        return PublicKey.from_signature_and_message(bare, digest, hasher=None)

    return [
        Case("VRF prove", lambda: vrf.prove(signer, next(inputs)), "3 multiplications", multiply, 3),
        Case(
            "VRF verify",
            lambda: vrf.verify(signer.public_key, *next(proofs)),
            "4 multiplications",
            multiply,
            4,
        ),
        Case("frame seal", lambda: seal_request(signer, "1", "dispatch_job", [JOB]), "1 signature", sign, 1),
        Case("frame open", lambda: open_frame(frame.text), "1 recovery", recover, 1),
        Case("result sign", lambda: sign_typed(signer, DOMAIN, claim), "1 signature", sign, 1),
        Case("result recover", lambda: recover_typed(DOMAIN, claim, signature), "1 recovery", recover, 1),
    ]


def measure(cases: list[Case], rounds: int) -> list[Figure]:
    """Time every case and its peer by turns, round after round."""
    ours: list[list[float]] = [[] for _ in cases]
    peers: list[list[float]] = [[] for _ in cases]
    for _ in range(rounds):
        for case, own, others in zip(cases, ours, peers, strict=True):
            own.append(seconds(case.ours, BATCH) / BATCH)
            others.append(seconds(case.peer, BATCH * case.peer_calls) / BATCH)
    return [
        Figure(case.name, 1 / median(own), case.peer_name, 1 / median(others), median(others) / median(own))
        for case, own, others in zip(cases, ours, peers, strict=True)
    ]


def seconds(operation: Callable[[], object], times: int) -> float:
    """Wall time of so many calls."""
    start = time.perf_counter()
    for _ in range(times):
        operation()
    return time.perf_counter() - start


def main() -> None:
    """Measure every case and print a table, or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON list in place of the table")
    parser.add_argument("--rounds", type=int, default=1001, help="rounds over all cases (default 1001)")
    arguments = parser.parse_args()
    cases = prepare()
    measure(cases, 3)  # warm caches
    figures = measure(cases, arguments.rounds)
    if arguments.json:
        print(json.dumps([asdict(figure) for figure in figures]))
        return
    print(
        f"{'operation':<16}{'per second':>12}   {'peer (bare coincurve)':<22}{'per second':>12}{'ratio':>8}"
    )
    for figure in figures:
        print(
            f"{figure.name:<16}{figure.per_second:>12,.0f}   {figure.peer:<22}"
            f"{figure.peer_per_second:>12,.0f}{figure.ratio:>8.2f}"
        )


if __name__ == "__main__":
    main()
