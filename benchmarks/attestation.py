"""How fast AOS verifies attestations, against the bare signature checks that each needs.

Usage: python benchmarks/attestation.py [--json] [--rounds N]

The documents are genuine, from the published vectors. Cold: no certificate has been seen before; warm: a further document of the same
enclave, whose chain is remembered (TDX has nothing to remember). Every round times each verification and, right beside it, its limit: as many
bare signature checks by OpenSSL, through `cryptography`, with parsed keys and on ready digests. The ratio is that of the medians: 0.80 means
80% of the speed that would be possible if all the rest (CBOR, DER, hashes, rules) took no time.
"""

from __future__ import annotations

import argparse
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from statistics import median

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256, SHA384

from aos_protocol.attestation import certificates, nitro, snp, tdx
from aos_protocol.attestation.policy import NITRO_ROOT_G1

VECTORS = Path(__file__).resolve().parents[2] / "shared" / "vectors"
BATCH = 4
SNP_AT = 1_700_000_000
Operation = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """A verification, the bare signature checks that it needs, and whether certificates are forgotten before each."""

    name: str
    ours: Operation
    limit_name: str
    limit: list[Operation]
    cold: bool = False


@dataclass(frozen=True)
class Figure:
    """Medians of one case: verifications a second, how many the limit allows, and their ratio."""

    name: str
    per_second: float
    limit: str
    limit_per_second: float
    ratio: float


def prepare() -> list[Case]:
    """Read the documents, and make keys and signatures for the limits."""
    p384, p256, rsa4096 = (
        bare_ecdsa(ec.SECP384R1(), SHA384()),
        bare_ecdsa(ec.SECP256R1(), SHA256()),
        bare_rsa(),
    )
    document, quote, report = nitro_case(), tdx_case(), snp_case()
    # Of TDX: the platform's certificate and its issuer's, Intel's certificate for what it states, two revocation lists, TCB and identity
    # of the quoting enclave as stated, that enclave's report, and the quote.
    return [
        Case("Nitro, cold", document, "5 P-384", [p384] * 5, cold=True),
        Case("Nitro, warm", document, "1 P-384", [p384]),
        Case("SEV-SNP, cold", report, "1 P-384, 2 RSA-4096", [p384, rsa4096, rsa4096], cold=True),
        Case("SEV-SNP, warm", report, "1 P-384", [p384]),
        Case("TDX", quote, "9 P-256", [p256] * 9),
    ]


def nitro_case() -> Operation:
    """Verification of a production document, at the time that it was made."""
    folder = VECTORS / "nitro"
    entries = json.loads((folder / "manifest.json").read_text())["documents"]
    (entry,) = [each for each in entries if each["file"] == "dstack_prod_20251225.bin"]
    document = (folder / entry["file"]).read_bytes()
    return partial(nitro.verify, document, roots=[NITRO_ROOT_G1], at=entry["timestamp_ms"] // 1000)


def tdx_case() -> Operation:
    """Verification of a quote with collateral of its day."""
    folder = VECTORS / "tdx"
    entry = json.loads((folder / "manifest.json").read_text())[0]
    collateral = json.loads((folder / entry["collateral"]).read_text())
    quote = (folder / entry["quote"]).read_bytes()
    return partial(tdx.verify, quote, collateral, at=entry["verify_at_unix"], tcb=["UpToDate"])


def snp_case() -> Operation:
    """Verification of a report from a Milan chip."""
    folder = VECTORS / "sev_snp"
    names = {"vcek": "virtee_milan_vcek.pem", "ask": "milan_ask.pem", "ark": "milan_ark.pem"}
    collateral = {name: (folder / file).read_text() for name, file in names.items()}
    root = sha256(certificates.from_pem(collateral["ark"])[0]).hexdigest()
    report = (folder / "virtee_milan_report.bin").read_bytes()
    return partial(snp.verify, report, collateral, roots=[root], at=SNP_AT)


def bare_ecdsa(curve: ec.EllipticCurve, algorithm: SHA256 | SHA384) -> Operation:
    """One ECDSA check on a ready digest."""
    key, scheme = ec.generate_private_key(curve), ec.ECDSA(Prehashed(algorithm))
    digest = secrets.token_bytes(algorithm.digest_size)
    return partial(key.public_key().verify, key.sign(digest, scheme), digest, scheme)


def bare_rsa() -> Operation:
    """One RSASSA-PSS check with 4096 bits on a ready digest."""
    key = rsa.generate_private_key(65537, 4096)
    scheme, digest = padding.PSS(padding.MGF1(SHA384()), 48), secrets.token_bytes(48)
    signature = key.sign(digest, scheme, Prehashed(SHA384()))
    return partial(key.public_key().verify, signature, digest, scheme, Prehashed(SHA384()))


def forget() -> None:
    """Forget all certificates."""
    certificates._issued.cache_clear()
    certificates._root.cache_clear()


def measure(cases: list[Case], rounds: int) -> list[Figure]:
    """Time every case and its limit by turns, round after round."""
    ours: list[list[float]] = [[] for _ in cases]
    limits: list[list[float]] = [[] for _ in cases]
    for _ in range(rounds):
        for case, own, bare in zip(cases, ours, limits, strict=True):
            case.ours()
            for _ in range(BATCH):
                if case.cold:
                    forget()
                own.append(seconds([case.ours]))
                bare.append(seconds(case.limit))
    return [
        Figure(case.name, 1 / median(own), case.limit_name, 1 / median(bare), median(bare) / median(own))
        for case, own, bare in zip(cases, ours, limits, strict=True)
    ]


def seconds(operations: list[Operation]) -> float:
    """Processor time of these calls, one after the other: they wait for nothing, and neighbours are kept out of it."""
    start = time.thread_time()
    for operation in operations:
        operation()
    return time.thread_time() - start


def main() -> None:
    """Measure every case and print a table, or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON list in place of the table")
    parser.add_argument("--rounds", type=int, default=201, help="rounds over all cases (default 201)")
    arguments = parser.parse_args()
    if not VECTORS.is_dir():
        parser.error(f"the published test vectors are not at {VECTORS}")
    cases = prepare()
    measure(cases, 3)  # load what is loaded late
    figures = measure(cases, arguments.rounds)
    if arguments.json:
        print(json.dumps([asdict(figure) for figure in figures]))
        return
    print(
        f"{'verification':<16}{'per second':>12}   {'limit (bare OpenSSL)':<22}{'per second':>12}{'ratio':>8}"
    )
    for figure in figures:
        print(
            f"{figure.name:<16}{figure.per_second:>12,.0f}   {figure.limit:<22}"
            f"{figure.limit_per_second:>12,.0f}{figure.ratio:>8.2f}"
        )


if __name__ == "__main__":
    main()
