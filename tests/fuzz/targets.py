"""What is fuzzed: genuine documents of each kind, how each is verified, and which bytes mean the same document."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

from aos_protocol.attestation import nitro, snp, tdx
from aos_protocol.attestation.certificates import from_pem
from aos_protocol.attestation.policy import NITRO_ROOT_G1

_QUOTES = ("tdx_quote.bin", "tdx_quote_outdated.bin")
_SNP_AT = 1_700_000_000
_REPORTS = {
    "virtee_milan_report.bin": "virtee_milan_vcek.pem",
    "google_milan_debug_report.bin": "google_milan_debug_vcek.pem",
}


@dataclass(frozen=True)
class Genuine:
    """A document that hardware made, and its verification, to be tried on mutants."""

    name: str
    document: bytes
    verify: Callable[[bytes], object]


@dataclass(frozen=True)
class Target:
    """A kind of document, how many of a hundred mutants are its, and what is spliced in.

    `same` maps a document to what all its accepted encodings have in common. Collateral is no document: much of it nobody signed,
    so mutants `may_pass`, but must not change what is said.
    """

    kind: str
    share: int
    genuine: Sequence[Genuine]
    donors: Sequence[bytes]
    same: Callable[[bytes], bytes] = bytes
    structured: bool = False
    may_pass: bool = False


def targets(vectors: Path) -> list[Target]:
    """All targets, from the published vectors."""
    documents = _nitro(vectors / "nitro")
    quotes, all_quotes, quote_parts = _tdx(vectors / "tdx")
    reports, report_parts = _snp(vectors / "sev_snp")
    tag, padding = b"\xd2", b"\0"
    return [
        Target("nitro", 64, documents, _all(documents), lambda each: each.removeprefix(tag), structured=True),
        Target("tdx", 14, quotes, all_quotes, lambda each: each.rstrip(padding)),
        Target("sev-snp", 14, reports, _all(reports)),
        Target("tdx collateral", 4, quote_parts, _all(quote_parts), may_pass=True),
        Target("sev-snp certificates", 4, report_parts, _all(report_parts), may_pass=True),
    ]


def _all(genuine: Sequence[Genuine]) -> list[bytes]:
    return [each.document for each in genuine]


def _nitro(folder: Path) -> list[Genuine]:
    entries = json.loads((folder / "manifest.json").read_text())["documents"]
    times = {entry["file"]: entry.get("timestamp_ms") for entry in entries}
    return [
        Genuine(
            entry["file"],
            (folder / entry["file"]).read_bytes(),
            partial(
                nitro.verify,
                roots=[NITRO_ROOT_G1],
                at=(times[entry["file"]] or times[entry["origin"]["derived_from"]]) // 1000,
            ),
        )
        for entry in entries
        if not entry["expected"].startswith("INVALID")
    ]


def _tdx(folder: Path) -> tuple[list[Genuine], list[bytes], list[Genuine]]:
    """A good quote and one of version 5, whose platform is refused; all quotes; each text of the good one's collateral."""
    entries = {entry["quote"]: entry for entry in json.loads((folder / "manifest.json").read_text())}
    quotes = {name: (folder / name).read_bytes() for name in entries}
    collateral = {
        name: json.loads((folder / entry["collateral"]).read_text()) for name, entry in entries.items()
    }
    verify = {
        name: partial(tdx.verify, at=entry["verify_at_unix"], tcb=["UpToDate"])
        for name, entry in entries.items()
    }
    genuine = [
        Genuine(name, quotes[name], partial(verify[name], collateral=collateral[name])) for name in _QUOTES
    ]
    good = _QUOTES[0]
    parts = [
        Genuine(
            part,
            text.encode(),
            partial(_with_part, partial(verify[good], quotes[good]), collateral[good], part),
        )
        for part, text in collateral[good].items()
    ]
    return genuine, [*quotes.values()], parts


def _snp(folder: Path) -> tuple[list[Genuine], list[Genuine]]:
    """The reports, and each certificate of the first."""
    reports, parts = [], []
    roots = [sha256(from_pem((folder / "milan_ark.pem").read_text())[0]).hexdigest()]
    for name, vcek in _REPORTS.items():
        files = {"vcek": vcek, "ask": "milan_ask.pem", "ark": "milan_ark.pem"}
        collateral = {part: (folder / file).read_text() for part, file in files.items()}
        verify = partial(snp.verify, roots=roots, at=_SNP_AT)
        report = (folder / name).read_bytes()
        reports.append(Genuine(name, report, partial(verify, collateral=collateral)))
        parts += [
            Genuine(part, text.encode(), partial(_with_part, partial(verify, report), collateral, part))
            for part, text in collateral.items()
        ]
    return reports, parts


def _with_part(
    verify: Callable[[dict[str, str]], object], collateral: dict[str, str], name: str, text: bytes
) -> object:
    return verify(collateral | {name: text.decode("latin-1")})
