"""What taking in an operator's message has in common: finding its round, giving up a seat, keeping what was refused."""

from time import monotonic
from typing import Final

import structlog

from aos_dispatcher.committee import Seat, SeatState
from aos_dispatcher.driver import Active
from aos_dispatcher.errors import Refused
from aos_dispatcher.facts import RoundKey
from aos_dispatcher.hub import Peer
from aos_dispatcher.metrics import RESULTS_REJECTED
from aos_dispatcher.round import ActiveRound
from aos_dispatcher.rounds_store import RoundsStore
from aos_protocol.errors import ProtocolError
from aos_protocol.frames import Frame

log = structlog.get_logger()

MOST_KEPT: Final = 1000
"""Refused frames of one operator that each process stores within an hour: evidence of the first ones is enough."""

_HOUR_S: Final = 3600.0

NOT_NOW = 503
NEVER = 400
"""Codes of `Refused`: whether the operator shall send its message again."""


class Desk:
    """Holds messages of operators against the rounds at work in this process."""

    def __init__(self, store: RoundsStore, active: Active) -> None:
        self._store = store
        self._active = active
        self._kept: dict[str, tuple[float, int]] = {}

    def at_work(self, key: RoundKey) -> ActiveRound | None:
        """Return the round of this key, if this process works on it."""
        return self._active.get(key)

    def awaits(self, key: RoundKey, peer: Peer) -> bool:
        """Return whether this process works on the round, and nothing that this operator sent for it is stored."""
        round_ = self._active.get(key)
        seat = round_.seat_of(peer.address) if round_ else None
        return seat is not None and seat.state is SeatState.ASSIGNED and not seat.executed

    async def round_of(self, key: RoundKey) -> ActiveRound:
        """Return the round of this key. Raises `Refused`, saying whether trying again makes sense."""
        round_ = self._active.get(key)
        if round_ is not None:
            return round_
        job_id, tag, challenge = key
        if await self._store.is_open(*key):
            raise Refused(NOT_NOW, "the job is between two dispatchers; send this again")
        which = f" and challenge {challenge}" if challenge else ""
        raise Refused(NEVER, f"no open job {job_id} with tag {tag!r}{which}: it has ended, or never was")

    def open_seat(self, round_: ActiveRound, peer: Peer) -> Seat:
        """Return the seat of this operator. Raises `Refused` when it has none, or none any more."""
        seat = round_.seat_of(peer.address)
        if seat is None or seat.state is not SeatState.ASSIGNED:
            raise Refused(NEVER, "not (or no longer) a member of this job's committee")
        return seat

    def give_up(self, round_: ActiveRound | None, peer: Peer, error: ProtocolError | str) -> None:
        """Take a seat from whoever sent what fails a check, or nothing; the next in the draw's order takes it."""
        if round_ is not None:
            round_.committee.refused(peer.address, str(error)[:1000])
            round_.poke.set()

    async def keep(self, frame: Frame, reason: str) -> None:
        """Store what an operator signed and was refused, unless that was enough of it for this hour."""
        RESULTS_REJECTED.inc()
        if self._is_enough(frame.address):
            return
        await self._store.reject(_job_of(frame), frame.address, reason, frame.text)

    def _is_enough(self, operator: str) -> bool:
        """Count what is kept of an operator, so that none fills the disk with what it knows to be refused."""
        until, kept = self._kept.get(operator, (0.0, 0))
        now = monotonic()
        if until <= now:
            until, kept = now + _HOUR_S, 0
        self._kept[operator] = until, kept + 1
        if kept == MOST_KEPT:
            log.warning(
                "what this operator has refused is not kept for the rest of the hour", operator=operator
            )
        return kept >= MOST_KEPT


def _job_of(frame: Frame) -> str | None:
    said = frame.params[0] if frame.params else (frame.result or {}).get("ticket")
    job_id = said.get("job_id") if isinstance(said, dict) else None
    return job_id if isinstance(job_id, str) and len(job_id) == 64 and job_id.isalnum() else None
