"""The parts of an evidence document that are made from single rows: the same for the document, and for the log that binds it."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from aos_dispatcher.committee import Seat
from aos_dispatcher.tables import JsonObject

_SEATS = text(
    "select round_id, operator, role, filled, state, reason from assignments where round_id = any(:ids) order by rank"
)


def time(moment: datetime) -> str:
    """Return a time as the API writes it: UTC, `YYYY-MM-DD HH:MM:SS`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def seed_document(value: str, proof: str) -> JsonObject:
    """A seed with the proof that it was not chosen."""
    return {"value": value, "proof": proof}


def policy_document(audit_ppm: int, least_evidence: str | None) -> JsonObject:
    """How the dispatcher verified when the job was submitted, and what answers had to show; a job of before one could say has none of that."""
    policy: JsonObject = {"audit_ppm": audit_ppm}
    return policy if least_evidence is None else policy | {"least_evidence": least_evidence}


def place_document(row: Mapping[str, Any], subject: str | None, plea: JsonObject | None) -> JsonObject:
    """What is fixed about a round when it is opened: `row` is one of `rounds`, with its id, `subject` the challenged result's frame."""
    seed = row.get("seed")
    return {
        "verify_id": str(row["id"]),
        "tag": row["tag"],
        "position": row["position"],
        "challenge": row.get("challenge", 0),
        "cause": row.get("cause"),
        "seed": seed_document(seed, row["seed_proof"]) if seed else None,
        "subject": subject,
        "plea": plea,
        "model": {"name": row["model"], "sha256": row["model_sha256"]},
    }


def plea_document(row: Mapping[str, Any]) -> JsonObject:
    """Who had a result scored again, and why; `row` is one of `challenges`."""
    by = "operator" if row["challenger"] else "project" if row["project"] else "dispatcher"
    return {
        "purpose": row["purpose"],
        "by": by,
        "operator": row["challenger"],
        "reason": row["reason"],
        "signature": row["signature"],
    }


async def committee_documents(
    connection: AsyncConnection, round_ids: Collection[int]
) -> dict[int, list[JsonObject]]:
    """The seats of rounds' committees, by round and in the draw's order; a round that was not drawn has none."""
    committees: dict[int, list[JsonObject]] = {}
    for row in await connection.execute(_SEATS, {"ids": list(round_ids)}):
        committees.setdefault(row.round_id, []).append(_seat(row))
    return committees


def ended_document(
    round_id: int, status: str, committee: Sequence[JsonObject], verdict: JsonObject | None
) -> JsonObject:
    """What is fixed about a round when it ends."""
    return {"verify_id": str(round_id), "status": status, "committee": list(committee), "verdict": verdict}


def seat_document(seat: Seat) -> JsonObject:
    """A seat as it is stored: the same as `committee_documents` reads."""
    state, role = seat.stored or (seat.state, seat.role)
    return {
        "operator": seat.operator,
        "role": role,
        "filled": seat.member.filled,
        "state": str(state),
        "reason": seat.reason,
    }


def _seat(row: Row[Any]) -> JsonObject:
    return {
        "operator": row.operator,
        "role": row.role,
        "filled": row.filled,
        "state": row.state,
        "reason": row.reason,
    }
