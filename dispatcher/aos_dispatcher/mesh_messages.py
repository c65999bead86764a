"""What the processes of one dispatcher say to each other (docs/protocol.md), and the seal by which they know that it is they.

A message travels as 64 hex digits of HMAC-SHA-256 over the JSON that follows them, which says who sent it, to whom, when, and as its how many-th message.
"""

import hmac
import time
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aos_protocol.identity import Signer
from aos_protocol.messages import Delta, DirectOffer, ServedModel

ALL: Final = "*"
"""Whom a message is for that is for everybody."""

_MAC_DIGITS: Final = 64
_MOST_AGE_S: Final = 60  # by the clocks of two machines; what is older was kept back by somebody
_LABEL: Final = b"aos/mesh/1"


class _Part(BaseModel):
    # A newer version may say more than this one understands.
    model_config = ConfigDict(frozen=True, extra="ignore")


class Presence(_Part):
    """An operator that is connected to the sender: since which epoch, the models that it serves, each with its job type, and how clients reach it."""

    address: str
    number: int
    epoch: int
    serves: list[tuple[str, ServedModel]]
    direct: DirectOffer | None = None


class State(_Part):
    """Every operator that is connected to the sender: what was lost of all that it said before is mended by this."""

    kind: Literal["state"] = "state"
    operators: list[Presence]


class Here(_Part):
    """An operator has connected to the sender."""

    kind: Literal["here"] = "here"
    operator: Presence


class Gone(_Part):
    """An operator is not connected to the sender any more."""

    kind: Literal["gone"] = "gone"
    address: str
    epoch: int


class Wake(_Part):
    """There are open rounds that nobody has a lease of."""

    kind: Literal["wake"] = "wake"


class Cancelled(_Part):
    """A job was cancelled; whoever leads its round tells the members."""

    kind: Literal["cancelled"] = "cancelled"
    job_id: str


class Call(_Part):
    """A request of the dispatcher's for an operator that is connected to the receiver, sealed by the sender."""

    kind: Literal["call"] = "call"
    operator: str
    text: str


class Reply(_Part):
    """The operator's reply to a `Call`, as it came; None when there will be none."""

    kind: Literal["reply"] = "reply"
    id: str
    operator: str
    text: str | None


class Statement(_Part):
    """An operator's result or score, as it came, for the receiver, who leads its round."""

    kind: Literal["statement"] = "statement"
    id: str
    text: str


class Taken(_Part):
    """What the operator is to be told about its `Statement`."""

    kind: Literal["taken"] = "taken"
    id: str
    code: int
    message: str


class Stream(_Part):
    """An operator's `job_stream`, as it came, for whoever leads some of the rounds (job id and tag) that it names."""

    kind: Literal["stream"] = "stream"
    rounds: list[tuple[str, str]]
    text: str


class Deltas(_Part):
    """What the executor of jobs has said of them, by the word of their leader, for whoever follows them."""

    kind: Literal["deltas"] = "deltas"
    operator: str
    deltas: list[Delta]


class GivenUp(_Part):
    """A streamed job's round goes on without this operator, for whoever has given out something of its."""

    kind: Literal["given-up"] = "given-up"
    job_id: str
    operator: str
    reason: str


class Direct(_Part):
    """An operator's `direct_chunks`, as they came, for the receiver, who has the client."""

    kind: Literal["direct"] = "direct"
    text: str


class Ended(_Part):
    """A job has its answer, or its end: whoever follows it finds that in the database."""

    kind: Literal["ended"] = "ended"
    job_id: str


Message = (
    State
    | Here
    | Gone
    | Wake
    | Cancelled
    | Call
    | Reply
    | Statement
    | Taken
    | Stream
    | Direct
    | Deltas
    | GivenUp
    | Ended
)


class Envelope(_Part):
    """A message with its sender's process, its receiver's (or `ALL`), its number, and Unix seconds."""

    origin: str
    to: str
    count: int
    at: float
    said: Annotated[Message, Field(discriminator="kind")]


class InvalidMeshMessage(Exception):
    """What came over Redis is not a message of this dispatcher's processes for this one; it is ignored."""


@dataclass
class Seal:
    """Makes and opens the messages of one process. Only who holds the dispatcher's own key can do either."""

    signer: Signer
    process: str
    _count: int = 0
    _heard: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # A key of its own: whatever is made with it signs nothing and draws nothing.
        self._key = hmac.digest(self.signer.secret, _LABEL + self.signer.address.encode(), sha256)

    def close(self, to: str, said: Message) -> str:
        """Return a message as it travels."""
        self._count += 1
        envelope = Envelope(origin=self.process, to=to, count=self._count, at=time.time(), said=said)
        text = envelope.model_dump_json()
        return self._mac(text) + text

    def open(self, text: str) -> Envelope:
        """Return a message of another process to this one. Raises `InvalidMeshMessage`, also for one that came before or is old."""
        mac, body = text[:_MAC_DIGITS], text[_MAC_DIGITS:]
        if not hmac.compare_digest(mac.encode(), self._mac(body).encode()):
            raise InvalidMeshMessage("it was not made with this dispatcher's key")
        try:
            envelope = Envelope.model_validate_json(body)
        except ValidationError as error:
            raise InvalidMeshMessage(f"it is of another version: {error.error_count()} problems") from None
        if envelope.to not in {ALL, self.process}:
            raise InvalidMeshMessage("it is for another process")
        age = time.time() - envelope.at
        if abs(age) > _MOST_AGE_S:
            raise InvalidMeshMessage(
                f"it is {age:.0f} s old: somebody kept it back, or the machines' clocks differ"
            )
        if envelope.count <= self._heard.get(envelope.origin, 0):
            raise InvalidMeshMessage("it came before")
        self._heard[envelope.origin] = envelope.count
        return envelope

    def _mac(self, body: str) -> str:
        return hmac.digest(self._key, body.encode(), sha256).hex()
