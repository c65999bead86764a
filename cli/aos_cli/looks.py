"""Who did what in each look at a job, and with which verdict: read and computed from signed evidence, not the dispatcher's word."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from aos_cli.client import JsonObject
from aos_cli.show import COLOURS, printable, verdict_text
from aos_protocol.attestation.statement import EnclaveStatement
from aos_protocol.errors import InvalidMessage, ProtocolError
from aos_protocol.evidence import round_views
from aos_protocol.evidence_verdict import verdict_of, verdicts_of
from aos_protocol.evidence_view import RoundView
from aos_protocol.fields import EvidenceLevel, parse_message
from aos_protocol.record import Record
from aos_protocol.shown import level_of
from aos_protocol.verdict import Verdict


@dataclass(frozen=True)
class Member:
    """One seat: its operator's role, how far it came, and the verdict on its score; None for who did not score."""

    operator: str
    role: str
    state: str
    verdict: Verdict | None


@dataclass(frozen=True)
class Look:
    """One round: which, its members, and its verdict; None when nobody scored, or what is there does not hold.

    `kind` is what the enclave that answered calls itself, None without one; nobody can score a `sealed` answer. `evidence` is what the answer
    shows, and `backend` the kind of server that gave it where that shows no transcript; None of a claim.
    """

    name: str
    members: Sequence[Member]
    verdict: Verdict | None
    kind: str | None = None
    sealed: bool = False
    evidence: EvidenceLevel | None = None
    backend: str | None = None

    def to_json(self) -> JsonObject:
        """Return the look as `aos verify --json` prints it."""
        members = [
            {
                "operator": member.operator,
                "role": member.role,
                "state": member.state,
                "verdict": member.verdict.outcome if member.verdict else None,
                "reason": member.verdict.reason if member.verdict else "",
            }
            for member in self.members
        ]
        verdict = self.verdict
        return {
            "round": self.name,
            "enclave": self.kind,
            "evidence": self.evidence,
            "backend": self.backend,
            "verdict": verdict.outcome if verdict else None,
            "reason": verdict.reason if verdict else "",
            "statistics": dict(verdict.statistics) if verdict else {},
            "members": members,
        }


def looks_of(document: JsonObject) -> list[Look]:
    """Return the looks of an evidence document, none for what is no such document: the checks say what does not hold."""
    try:
        return [_look(view) for view in round_views(document)]
    except ProtocolError:
        return []


def show_looks(console: Console, looks: Sequence[Look]) -> None:
    """Print each look as a table of its members, and its verdict in words."""
    for look in looks:
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for member in look.members:
            state = "" if member.state == "answered" else member.state
            said = member.verdict.outcome if member.verdict else state
            reason = member.verdict.reason if member.verdict else ""
            table.add_row(member.operator, member.role, Text(said, COLOURS.get(said, "")), Text(reason))
        console.print(Text(look.name, "bold"))
        console.print(table)
        outcome = look.verdict.outcome if look.verdict else None
        console.print(Text(verdict_text(outcome, look.kind, sealed=look.sealed)), soft_wrap=True)
        if look.backend is not None:
            console.print(Text(_weaker(look)), soft_wrap=True)
        console.print()


def _weaker(look: Look) -> str:
    backend = printable(look.backend or "")
    said = f"the answer came from {backend}, which shows {look.evidence} of it and no transcript"
    if look.evidence == "token_ids":
        return f"{said}: how it was sampled, nobody can check"
    return f"{said}: it is its operator's word, and nothing but the signature can be checked"


def outcome_of(detail: JsonObject) -> str | None:
    """Return the verdict that a dispatcher's detail of a job states; None without one."""
    verdict = detail.get("verdict")
    outcome = verdict.get("outcome") if isinstance(verdict, dict) else None
    return outcome if isinstance(outcome, str) else None


def said_of(detail: JsonObject) -> str:
    """Return the verdict that a dispatcher's detail of a job states, in a sentence; `aos verify` computes it anew."""
    kind, job, verdict = detail.get("attestation"), detail.get("job"), detail.get("verdict")
    sealed = isinstance(job, dict) and job.get("sealed") is not None
    said = verdict_text(outcome_of(detail), kind if isinstance(kind, str) else None, sealed=sealed)
    reason = printable(str(verdict.get("reason") or "")) if isinstance(verdict, dict) else ""
    return f"{said} ({reason})" if reason else said


def _look(view: RoundView) -> Look:
    verdicts: dict[str, Verdict] = {}
    verdict: Verdict | None = None
    try:
        if view.document.scores:
            verdicts, verdict = dict(verdicts_of(view)), verdict_of(view)
    except (ProtocolError, KeyError):
        verdicts = {}
    members = [
        Member(seat.operator, seat.role, seat.state, verdicts.get(seat.operator))
        for seat in view.document.committee
    ]
    evidence, backend = _shown(view)
    return Look(_name(view), members, verdict, _kind(view), view.sealed, evidence, backend)


def _shown(view: RoundView) -> tuple[EvidenceLevel | None, str | None]:
    """What the answer shows, and the kind of server that gave it without a transcript."""
    try:
        shown = view.subject.shown if view.has_subject else None
    except ProtocolError:
        return None, None
    if shown is None:
        return None, None
    return level_of(shown), shown.backend if isinstance(shown, Record) else None


def _kind(view: RoundView) -> str | None:
    """What the enclave calls itself that answered last; whether it is one is for the checks to say."""
    for result in reversed(view.results):
        try:
            return parse_message(EnclaveStatement, result.enclave).attestation.kind
        except InvalidMessage:
            continue
    return None


def _name(view: RoundView) -> str:
    document = view.document
    if document.challenge:
        return f"challenge {document.challenge}"
    if not document.tag:
        return "the job, audited" if view.audited else "the job"
    return f"{document.tag}, {'looked at again' if document.position == 'before' else 'the job'}"
