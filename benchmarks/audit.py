"""How many audits a second one core makes offline, against the bare signature and VRF verifications that the documents need.

Usage: python benchmarks/audit.py [--json] [--rounds N] [--tokens N] [FILE ...]

Without files, jobs are told by tests/support: honest ones, of several kinds, with answers of `--tokens` tokens. An audit begins with the
document's text: it is read strictly, and every check of `aos-audit FILE` is made. The peer makes, on the same values, what no
auditor can do without: each distinct VRF proof verified once, and the signer of each distinct signature recovered once, by coincurve from its digest. Each round
times both, one after the other; figures are medians.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

from coincurve import PublicKey

from aos_auditor.documents import Known, check_document
from aos_protocol import frames, identity, typed_data, vrf
from aos_protocol.canonical import parse
from aos_protocol.evidence_view import Planned

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

_BREAKDOWNS = 10
Proof = tuple[bytes, bytes, bytes]
Signed = tuple[bytes, bytes]


@dataclass(frozen=True)
class Figure:
    """One document's: sizes, what it needs, audits and peers a second, and the ratio; `share` of the time of the dearest checks, in %."""

    name: str
    kilobytes: float
    proofs: int
    signatures: int
    audits: float
    parsed: float
    peer: float
    ratio: float
    share: dict[str, float]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=65)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    texts = {file.name: file.read_bytes() for file in arguments.files} or stories(arguments.tokens)
    figures = [measure(name, text, arguments.rounds) for name, text in texts.items()]
    if arguments.json:
        print(json.dumps([asdict(figure) for figure in figures], indent=1))
        return
    print("document                KiB  proofs  signatures  audits/s  from JSON  peer/s  ratio  of the time")
    for figure in figures:
        dearest = ", ".join(f"{name} {share:.0f}%" for name, share in figure.share.items())
        print(
            f"{figure.name:<22}{figure.kilobytes:>5.0f}{figure.proofs:>8}{figure.signatures:>12}{figure.audits:>10.1f}"
            f"{figure.parsed:>11.1f}{figure.peer:>8.1f}{figure.ratio:>7.2f}  {dearest}"
        )


def stories(tokens: int) -> dict[str, bytes]:
    """Honest jobs of several kinds, as texts."""
    from support import actors, evidence

    long = [4 + place % 7 for place in range(tokens)]
    with patch.object(actors, "TOKENS", long), patch.object(evidence, "TOKENS", long):
        told = {
            "unaudited": evidence.Story(audit_ppm=0, operators=3),
            "audited": evidence.Story(operators=3),
            "malicious, 6 operators": evidence.Story("malicious", operators=6),
            "in an enclave": evidence.Story(operators=3, enclaves=True),
        }
        for story in told.values():
            story.own()
        return {name: json.dumps(story.document()).encode() for name, story in told.items()}


def measure(name: str, text: bytes, rounds: int) -> Figure:
    """Time the audit of a document, from its text and from its JSON, beside its peer."""
    document: Any = parse(text)
    proofs, signatures = needs(document)

    def peer() -> None:
        for key, alpha, proof in proofs:
            vrf.verify(key, alpha, proof)
        for digest, signature in signatures:
            PublicKey.from_signature_and_message(signature, digest, hasher=None)

    def audit() -> None:
        check_document(document, Known())

    def from_text() -> None:
        check_document(parse(text), Known())  # type: ignore[arg-type]

    cases: tuple[Callable[[], None], ...] = (from_text, audit, peer)
    times: list[list[float]] = [[], [], []]
    for _ in range(rounds + 2):
        for case, found in zip(cases, times, strict=True):
            found.append(seconds(case))
    whole, parsed, bare = (median(found[2:]) for found in times)
    share = breakdown(document, whole - parsed)
    return Figure(
        name,
        len(text) / 1024,
        len(proofs),
        len(signatures),
        1 / whole,
        1 / parsed,
        1 / bare,
        bare / whole,
        share,
    )


def needs(document: Any) -> tuple[list[Proof], list[Signed]]:  # noqa: ANN401 - JSON
    """The distinct proofs and signatures that an audit verifies: key, input and proof; digest and r, s, v with v from 0."""
    proofs: dict[Proof, None] = {}
    signed: dict[Signed, None] = {}
    verify, recover = vrf.verify, identity.recover_digest

    def seen_proof(key: bytes, alpha: bytes, proof: bytes) -> bytes:
        proofs[key, alpha, proof] = None
        return verify(key, alpha, proof)

    def seen_signature(digest: bytes, signature: bytes) -> str:
        signed[digest, signature[:64] + bytes((signature[64] - 27,))] = None
        return recover(digest, signature)

    with (
        patch.object(vrf, "verify", seen_proof),
        patch.object(identity, "recover_digest", seen_signature),
        patch.object(typed_data, "recover_digest", seen_signature),
        patch.object(frames, "recover_message", identity.recover_message),
    ):
        check_document(document, Known())
    return list(proofs), list(signed)


def breakdown(document: Any, reading: float) -> dict[str, float]:  # noqa: ANN401 - JSON
    """The share, in per cent, of reading the text and of the four dearest checks, of which the first to look at a frame opens it."""
    spent: Counter[str] = Counter({"reading": int(reading * 1e9) * _BREAKDOWNS})
    make = Planned.make

    def timed(planned: Planned, where: str = "") -> Any:  # noqa: ANN401 - a Check
        began = time.perf_counter_ns()
        try:
            return make(planned, where)
        finally:
            spent[planned.id] += time.perf_counter_ns() - began

    began = time.perf_counter_ns()
    with patch.object(Planned, "make", timed):
        for _ in range(_BREAKDOWNS):
            check_document(document, Known())
    total = time.perf_counter_ns() - began + spent["reading"]
    return {name: 100 * nanoseconds / total for name, nanoseconds in spent.most_common(4)}


def seconds(operation: Callable[[], None]) -> float:
    """The processor time of one call: another process that runs meanwhile does not count."""
    began = time.process_time()
    operation()
    return time.process_time() - began


if __name__ == "__main__":
    main()
