"""The table of checks on a job, computed here from its evidence: nothing in it is the dispatcher's word.

To the checks of `aos_protocol.evidence`, this adds what only a client can hold the document against:

| id | what holds when it passes |
| --- | --- |
| AOS-PIN-1 | the dispatcher is the one whose address was known beforehand |
| AOS-REQUEST-1 | the job id and the receipt are those of the request that was sent from here |
| AOS-ANSWER-1 | the answers shown are the ones that operators signed |
| AOS-FILE-1 | the model is the file that lies here |
| AOS-CALIBRATION-1 | (not sealed) answers were judged by the calibration that lies beside that file |
| AOS-SEALED-1 | (with a reply key) the answer opens, and its transcript is of the job's model, parameters, seed and operator |
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from aos_cli.client import JsonObject
from aos_cli.errors import CliError
from aos_cli.failures import ReceiptRefused
from aos_cli.models import calibration_file, read_calibration
from aos_cli.private import check_sealed
from aos_cli.receipts import verify_receipt
from aos_protocol.attestation.policy import AttestationPolicy
from aos_protocol.errors import InvalidEvidence, ProtocolError
from aos_protocol.evidence import Check, answers, check_evidence, round_views, scores
from aos_protocol.evidence_document import Evidence
from aos_protocol.fields import parse_message
from aos_protocol.messages import Receipt
from aos_protocol.sealing import SealingKey
from aos_protocol.typed_data import Domain

_COLOURS = {"PASS": "green", "FAIL": "bold red", "SKIP": "yellow"}
_DOCUMENT = "AOS-DOCUMENT-1"
_UNPINNED = (
    "no address was given, so this is whoever the document names: give --dispatcher-address with the address of the "
    "dispatcher that you trust"
)


@dataclass(frozen=True)
class Submission:
    """What a client knows of a job that it submitted itself."""

    request: JsonObject
    receipt: Receipt


@dataclass(frozen=True)
class Expected:
    """What a job is held against: its id, the dispatcher's address (None: unknown), and what else is known here.

    `policy` says which enclaves are trusted; `key` opens the answer to a sealed prompt.
    """

    job_id: str
    dispatcher: str | None
    rows: Sequence[JsonObject]
    submission: Submission | None = None
    model: Path | None = None
    policy: AttestationPolicy | None = None
    key: SealingKey | None = None


def check_job(document: JsonObject, expected: Expected) -> list[Check]:
    """Make every check on a job's evidence; a document that is none of this job and dispatcher fails as a whole."""
    try:
        named = parse_message(Evidence, document).dispatcher.address
        dispatcher = expected.dispatcher or named
        checks = check_evidence(
            document, dispatcher=dispatcher, job_id=expected.job_id, policy=expected.policy
        )
    except ProtocolError as error:
        return [Check(_DOCUMENT, "FAIL", str(error))]
    table = [_check_pin(expected.dispatcher)]
    if expected.submission is not None:
        table.append(_check_request(document, expected.submission, expected))
    table += checks
    table.append(_check_answers(document, expected.rows))
    if expected.key is not None:
        table.append(check_sealed(document, expected.key))
    if expected.model is not None:
        table.append(_check_file(document, expected.model))
        if not any(view.sealed for view in round_views(document)):  # which nobody can score
            table.append(_check_calibration(document, expected.model))
    return table


def passed(checks: Sequence[Check]) -> bool:
    """True when every single check passed: a skipped one is no pass."""
    return bool(checks) and all(check.status == "PASS" for check in checks)


def refused(checks: Sequence[Check]) -> bool:
    """True when the document is none of this job and dispatcher at all: nothing in it says anything, then."""
    return any(check.id == _DOCUMENT for check in checks)


def table_of(checks: Sequence[Check]) -> Table:
    """Return the checks as a table for a terminal."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        table.add_row(Text(check.status, _COLOURS[check.status]), check.id, Text(check.what))
    return table


def domain_of(document: JsonObject) -> Domain:
    """Return the EIP-712 domain that a dispatcher's evidence names.

    Raises:
        InvalidMessage: when it is no evidence document.
    """
    domain = parse_message(Evidence, document).domain
    return Domain(domain.chain_id, domain.registry)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file in hex, computed now."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_pin(known: str | None) -> Check:
    if known is None:
        return Check("AOS-PIN-1", "SKIP", _UNPINNED)
    return Check("AOS-PIN-1", "PASS", f"the dispatcher is {known}")


def _check_request(document: JsonObject, submission: Submission, expected: Expected) -> Check:
    what = f"the receipt, number {submission.receipt.sequence}, binds the request that was sent from here"
    try:
        if submission.receipt.job_id != expected.job_id:
            raise ReceiptRefused(f"it is for job {submission.receipt.job_id}")
        verify_receipt(
            submission.receipt,
            submission.request,
            dispatcher=expected.dispatcher,
            domain=domain_of(document),
        )
    except (ReceiptRefused, ProtocolError) as error:
        return Check("AOS-REQUEST-1", "FAIL", f"{what}: {error}")
    return Check("AOS-REQUEST-1", "PASS", what)


def _check_answers(document: JsonObject, rows: Sequence[JsonObject]) -> Check:
    try:
        said = [
            (answer.operator, answer.tag, "answer", answer.result, answer.signature)
            for answer in answers(document)
        ]
        executed = {(answer.operator, answer.tag) for answer in answers(document)}
        said += [
            (score.operator, score.tag, "score", "", score.signature)
            for score in scores(document)
            if score.challenge or (score.operator, score.tag) not in executed
        ]
        what = f"what was shown is what operators signed, answers: {len(executed)}, scores: {len(said) - len(executed)}"
        shown = [
            tuple(str(row.get(key)) for key in ("operator", "tag", "signs", "result", "signature"))
            for row in rows
        ]
        if not said and not shown:
            return Check("AOS-ANSWER-1", "SKIP", "there is no answer")
        if sorted(said) != sorted(shown):
            raise InvalidEvidence(f"the evidence has {len(said)} of them, and not these")
    except ProtocolError as error:
        return Check("AOS-ANSWER-1", "FAIL", f"what was shown is not what operators signed: {error}")
    return Check("AOS-ANSWER-1", "PASS", what)


def _check_file(document: JsonObject, model: Path) -> Check:
    digest = file_digest(model)
    named = {round_.model.sha256 for round_ in parse_message(Evidence, document).rounds}
    what = f"{model} has the digest {digest}"
    if named != {digest}:
        return Check("AOS-FILE-1", "FAIL", f"{what}, the job was to run on {', '.join(sorted(named))}")
    return Check("AOS-FILE-1", "PASS", what)


def _check_calibration(document: JsonObject, model: Path) -> Check:
    file = calibration_file(model)
    judged = {round_.calibration for round_ in parse_message(Evidence, document).rounds if round_.scores}
    if not judged:
        return Check("AOS-CALIBRATION-1", "SKIP", "nothing was scored, so nothing was judged")
    try:
        own = read_calibration(model)
    except CliError as error:
        return Check("AOS-CALIBRATION-1", "FAIL", str(error))
    if own is None:
        why = f"there is no {file} to compare with: aos calibrate {model} makes one"
        return Check("AOS-CALIBRATION-1", "SKIP", why)
    what = f"answers were judged by {file}"
    if judged != {own.digest()}:
        return Check("AOS-CALIBRATION-1", "FAIL", f"{what}: by another calibration, or by none")
    return Check("AOS-CALIBRATION-1", "PASS", what)
