"""What can come of a message from the dispatcher: what `Session.receive` returns and `Link` acts upon."""

from dataclasses import dataclass, field
from typing import TypeAlias

from aos_operator.tasks import Request, TaskKey
from aos_protocol.canonical import JsonObject
from aos_protocol.messages import Attest, DirectPrompt, Draw


@dataclass(frozen=True)
class Say:
    """Send this text; nothing else is to be done."""

    text: str


@dataclass(frozen=True)
class Welcomed:
    """The dispatcher let us in; it has seen our counter at `last_seen` (0: never)."""

    last_seen: int


@dataclass(frozen=True)
class DrawCall:
    """A draw that this operator can take part in."""

    frame_id: str
    draw: Draw


@dataclass(frozen=True)
class JobCall:
    """A request for work whose receipt, seeds and model were checked; `Session.check_subject` has the rest, which takes long."""

    frame_id: str
    request: Request


@dataclass(frozen=True)
class CancelCall:
    """Nobody waits any more for what comes of these tasks: all that one round may have asked of this operator."""

    frame_id: str
    keys: tuple[TaskKey, ...]


@dataclass(frozen=True)
class AttestCall:
    """A call for a fresh attestation of the enclave that serves an offered model."""

    frame_id: str
    attest: Attest


@dataclass(frozen=True)
class DirectCall:
    """A client's sealed prompt, which the dispatcher relays."""

    frame_id: str
    prompt: DirectPrompt


@dataclass(frozen=True)
class Settled:
    """The dispatcher's reply to one of our requests; `said` is all of it."""

    frame_id: str
    code: int
    message: str
    said: JsonObject = field(default_factory=dict)


Event: TypeAlias = Say | Welcomed | DrawCall | JobCall | CancelCall | AttestCall | DirectCall | Settled | None
