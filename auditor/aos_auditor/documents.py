"""The checks that need nothing but an evidence document, and what whoever audits knows beforehand.

To the checks of `aos_protocol.evidence`, this adds

| id | what holds when it passes |
| --- | --- |
| AOS-DOCUMENT-1 | (only when it fails) this is an evidence document, of the job and of the dispatcher that were named |
| AOS-PIN-1 | the dispatcher is the one whose address was known beforehand |
| AOS-CHAIN-1 | (where signatures are valid on a chain) chain, registry and anchor are those that were known beforehand |
| AOS-FILE-1 | (with a model file) that file is the model of every round |
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aos_auditor.errors import NotAuditable
from aos_auditor.http import JsonObject
from aos_protocol.attestation.policy import AttestationPolicy
from aos_protocol.canonical import parse
from aos_protocol.errors import NotCanonical, ProtocolError
from aos_protocol.evidence import Check, check_evidence
from aos_protocol.evidence_document import Evidence
from aos_protocol.fields import parse_message

JOB_ID = re.compile(r"[0-9a-f]{64}")
_DOCUMENT = "AOS-DOCUMENT-1"
_UNPINNED = (
    "no address was given, so this is whoever the document names: give --dispatcher-address with the address of the "
    "dispatcher that you trust to be one"
)
_NO_RPC = "no RPC endpoint was given to ask the chain: give one with --rpc"
_NO_CONTRACTS = "no contracts were given, so these are those that the document names: give --deployment FILE, or --registry and --anchor"


@dataclass(frozen=True)
class Contracts:
    """A network's contracts as the auditor knows them; None: not known. `block` is when the registry was deployed, or before."""

    chain_id: int | None
    registry: str
    anchor: str | None
    block: int = 0


@dataclass(frozen=True)
class Known:
    """What an auditor knows beforehand, to hold a document against."""

    dispatcher: str | None = None
    job_id: str | None = None
    policy: AttestationPolicy | None = None
    model: Path | None = None
    contracts: Contracts | None = None


def read_document(path: Path) -> JsonObject:
    """Read an evidence document's file strictly: what two readers could read differently is none.

    Raises `NotAuditable`.
    """
    try:
        document = parse(path.read_bytes())
    except OSError as error:
        hint = "; a job id is 64 hex digits, in lower case" if isinstance(error, FileNotFoundError) else ""
        raise NotAuditable(f"{path} cannot be read: {error.strerror}{hint}") from error
    except NotCanonical as error:
        raise NotAuditable(f"{path} is no evidence document: {error}") from error
    if not isinstance(document, dict):
        raise NotAuditable(f"{path} is no evidence document: it is no JSON object")
    return document


def check_document(document: JsonObject, known: Known) -> list[Check]:
    """Make every check that needs the document alone; one that is none of this job and dispatcher fails as a whole."""
    try:
        evidence = parse_message(Evidence, document)
        checks = check_evidence(
            document,
            dispatcher=known.dispatcher or evidence.dispatcher.address,
            job_id=known.job_id or evidence.job.job_id,
            policy=known.policy,
        )
    except ProtocolError as error:
        return [Check(_DOCUMENT, "FAIL", str(error))]
    own = [_check_pin(known.dispatcher)]
    if evidence.domain.chain_id or known.contracts is not None:
        own.append(_check_contracts(evidence, known.contracts))
    if known.model is not None:
        own.append(_check_file(evidence, known.model))
    return [*own, *checks]


def is_evidence(checks: Sequence[Check]) -> bool:
    """Whether the document was one at all: else there is nothing more to check."""
    return all(check.id != _DOCUMENT for check in checks)


def needs_chain(document: JsonObject) -> list[Check]:
    """Return the checks of `on_chain` that are skipped for want of a chain; none when the evidence document names none."""
    evidence = parse_message(Evidence, document)
    skipped = []
    if any(round_.registry is not None and round_.registry.chain is not None for round_ in evidence.rounds):
        skipped.append(Check("AOS-REGISTRY-1", "SKIP", _NO_RPC))
    if evidence.log is not None and evidence.log.anchor is not None:
        skipped.append(Check("AOS-ANCHOR-2", "SKIP", _NO_RPC))
    return skipped


def _check_pin(known: str | None) -> Check:
    if known is None:
        return Check("AOS-PIN-1", "SKIP", _UNPINNED)
    return Check("AOS-PIN-1", "PASS", f"the dispatcher is {known}")


def _check_contracts(evidence: Evidence, known: Contracts | None) -> Check:
    domain, anchor = evidence.domain, evidence.log.anchor if evidence.log else None
    what = f"signatures are valid for registry {domain.registry} on chain {domain.chain_id}"
    if known is None:
        return Check("AOS-CHAIN-1", "SKIP", _NO_CONTRACTS)
    if domain.registry != known.registry or known.chain_id not in {None, domain.chain_id}:
        wanted = f"{known.registry} on chain {known.chain_id}" if known.chain_id else known.registry
        return Check("AOS-CHAIN-1", "FAIL", f"{what}, not for {wanted}")
    if anchor is not None and known.anchor not in {None, anchor.contract}:
        return Check(
            "AOS-CHAIN-1", "FAIL", f"the log is anchored in {anchor.contract}, not in {known.anchor}"
        )
    return Check("AOS-CHAIN-1", "PASS", what)


def _check_file(evidence: Evidence, model: Path) -> Check:
    try:
        with model.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise NotAuditable(f"{model} cannot be read: {error.strerror}") from error
    named = {round_.model.sha256 for round_ in evidence.rounds}
    what = f"{model} has the digest {digest}"
    if named != {digest}:
        return Check("AOS-FILE-1", "FAIL", f"{what}, the job was to run on {', '.join(sorted(named))}")
    return Check("AOS-FILE-1", "PASS", what)
