"""What a challenge on chain is made of, found in a job's evidence: the result that an operator signed, its ticket, its seat.

Results that the dispatcher refused count, too: a cheat signed them all the same.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eth_abi.abi import encode
from eth_hash.auto import keccak

from aos_cli.client import JsonObject
from aos_cli.errors import CliError
from aos_protocol.errors import InvalidMessage, InvalidSignature, ProtocolError
from aos_protocol.evidence import round_views
from aos_protocol.evidence_document import Evidence
from aos_protocol.evidence_view import domain_of, open_any
from aos_protocol.fields import parse_message
from aos_protocol.job import SubmitRequest
from aos_protocol.messages import JobResult
from aos_protocol.shown import read_shown
from aos_protocol.typed_data import Domain, ResultClaim, recover_typed
from aos_protocol.verification import result_claim

_JUDGED = ("bytes32", "address", "bytes32", "bytes32", "bytes32", "bytes32")


@dataclass(frozen=True)
class Found:
    """A result in a job's evidence: what was signed, by which signature, and what its ticket was drawn on.

    `accepted` is False for one that the dispatcher refused; `seed` is that of the round, in hex.
    """

    result: JobResult
    claim: ResultClaim
    seed: str
    domain: Domain
    accepted: bool

    @property
    def alpha(self) -> bytes:
        """The 96 bytes that the ticket was drawn on: the seed, then SHA-512 of the prompt."""
        return bytes.fromhex(self.seed + self.result.vrf.vrf_prompt_hash)

    def signer(self) -> str:
        """Return who signed the claim. Raises `CliError` for a signature that is nobody's."""
        try:
            return recover_typed(self.domain, self.claim, self.result.signature)
        except InvalidSignature as error:
            raise CliError(f"the result's signature is nobody's: {error}") from error

    def judged(self) -> bytes:
        """Return the hash by which a mismatch challenge names what its jury judges: what stays the same however often it is signed."""
        claim = self.claim
        values = (
            bytes.fromhex(claim.job_id),
            claim.operator,
            *(bytes.fromhex(value) for value in (claim.answer, claim.transcript, claim.model, claim.params)),
        )
        return keccak(encode(_JUDGED, values))


def read_evidence(file: Path) -> JsonObject:
    """Read an evidence document from a file. Raises `CliError` that names it."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise CliError(f"the evidence in {file} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise CliError(f"{file} is no evidence: it must hold the JSON of GET /api/job/evidence/JOB_ID")
    return document


def results_of(document: JsonObject) -> list[Found]:
    """Return every result that an evidence document holds, those that were refused last.

    Raises:
        CliError: when it is no evidence document.
    """
    try:
        evidence = parse_message(Evidence, document)
        request = parse_message(SubmitRequest, evidence.job.request)
        found = [
            _found(evidence, request, result, view.seed.value, accepted=True)
            for view in round_views(document)
            for result in view.results
        ]
        refused = [_refused(rejection.frame) for rejection in evidence.rejections]
        found += [
            _found(evidence, request, result, evidence.seed.value, accepted=False)
            for result in refused
            if result
        ]
    except ProtocolError as error:
        raise CliError(f"this evidence cannot be read: {error}") from error
    return found


def result_of(document: JsonObject, operator: str, tag: str | None = None) -> Found:
    """Return the result of an operator, under this tag where it gave several.

    Raises:
        CliError: when there is none, or more than one that is meant.
    """
    job_id = document.get("job", {}).get("job_id")
    of_it = [found for found in results_of(document) if found.result.operator == operator]
    tagged = [found for found in of_it if tag in {None, found.result.tag}]
    if not tagged:
        others = ", ".join(sorted({found.result.operator for found in results_of(document)})) or "nobody"
        raise CliError(f"operator {operator} signed no result of job {job_id}; results are of {others}")
    return _only(tagged)


def contradiction(documents: Sequence[JsonObject], operator: str) -> tuple[Found, Found]:
    """Return two results that an operator signed with one counter for one dispatcher: equivocation.

    Raises:
        CliError: when no two of these documents' contradict each other.
    """
    found = [
        each for document in documents for each in results_of(document) if each.result.operator == operator
    ]
    for index, first in enumerate(found):
        for second in found[index + 1 :]:
            same_entry = (first.claim.counter, first.claim.dispatcher) == (
                second.claim.counter,
                second.claim.dispatcher,
            )
            if same_entry and first.claim != second.claim:
                return first, second
    counters = ", ".join(str(each.claim.counter) for each in found) or "none"
    raise CliError(
        f"{operator} signed no two different results for one entry of its clock here (entries: {counters}); give the two files "
        "in which they stand"
    )


def _only(found: list[Found]) -> Found:
    accepted = [each for each in found if each.accepted] or found
    tags = sorted({each.result.tag for each in accepted})
    if len(tags) > 1:
        raise CliError(f"the operator answered under several tags: choose one of {tags} with --tag")
    return accepted[0]


def _found(
    evidence: Evidence, request: SubmitRequest, result: JobResult, seed: str, *, accepted: bool
) -> Found:
    claim = result_claim(result, request.job.params.digest(), read_shown(result), seed=seed)
    return Found(result, claim, seed, domain_of(evidence), accepted)


def _refused(frame: str) -> JobResult | None:
    """A refused frame's result; None for a frame that holds something else."""
    opened = open_any(frame)
    if opened.method != "job_result" or len(opened.params) != 1:
        return None
    try:
        return parse_message(JobResult, opened.params[0])
    except InvalidMessage:  # refused for that, perhaps: nothing was signed that a contract could read
        return None
