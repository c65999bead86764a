"""The field types of all that is said, and the strict model that messages are made of."""

import base64
import binascii
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from aos_protocol.clock import VectorClock
from aos_protocol.errors import InvalidAddress, InvalidClock, InvalidMessage
from aos_protocol.identity import checksum_address


def storable(text: str) -> str:
    """Return a text that PostgreSQL and UTF-8 have a form for. Raises `ValueError` for any other."""
    if "\0" in text:
        raise ValueError("must not contain U+0000")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must not contain half of a surrogate pair") from None
    return text


def _address(text: str) -> str:
    try:
        checksummed = checksum_address(text)
    except InvalidAddress as error:
        raise ValueError(str(error)) from None
    if checksummed != text:
        raise ValueError(f"is not in EIP-55 form; write {checksummed}")
    return text


def _clock(value: dict[str, str]) -> dict[str, str]:
    try:
        VectorClock.from_map(value)
    except InvalidClock as error:
        raise ValueError(str(error)) from None
    return value


def _base64(text: str) -> str:
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not base64 (RFC 4648, section 4)") from None
    if base64.b64encode(decoded).decode() != text:
        raise ValueError("is not the one base64 form of its bytes")
    return text


Text = Annotated[str, AfterValidator(storable)]
Base64 = Annotated[str, AfterValidator(_base64)]
ShortText = Annotated[str, StringConstraints(min_length=1, max_length=256), AfterValidator(storable)]
Hex32 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Hex64 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]
PublicKey = Annotated[str, StringConstraints(pattern=r"^0[23][0-9a-f]{64}$")]
Proof = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{162}$")]
Signature = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{130}$")]
Address = Annotated[str, AfterValidator(_address)]
ClockMap = Annotated[dict[str, str], AfterValidator(_clock)]
Tag = Literal["", "suspicion", "malicious"]
Position = Literal["", "before", "after"]
WorkerType = Literal["opml", "tee"]
Role = Literal["executor", "verifier"]
EvidenceLevel = Literal["fingerprints", "token_ids", "logprobs", "text"]
"""What whoever serves a model can show of an answer, from the strongest to the weakest."""

EVIDENCE_LEVELS: tuple[EvidenceLevel, ...] = get_args(EvidenceLevel)

ModelKind = Literal[0, 1, 2]
"""What a model makes: 0 text from text, 1 images from text, 2 images from images and text."""

Ability = Literal["chat", "fim", "logprobs"]
"""What a text model takes beside a plain prompt: `messages`, a `suffix`, a wish for `logprobs`."""

TokenId = Annotated[int, Field(ge=0, lt=2**24)]
Block = Annotated[int, Field(ge=0, lt=2**53)]
"""The number of a block of the chain that the registry is on; 0 where there is none."""
Challenged = Annotated[int, Field(ge=0, lt=2**31)]
"""Which challenge of a job's result a round decides; 0 for a round that none asked for."""


class Message(BaseModel):
    """Base of everything said: strict types, no unknown fields, immutable."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, populate_by_name=True)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that travels, with the published field names."""
        return self.model_dump(by_alias=True, exclude_none=True)


M = TypeVar("M", bound=Message)


def parse_message(kind: type[M], value: object) -> M:
    """Validate a received JSON object as a message of this kind.

    Raises `InvalidMessage` that names every offending field.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise InvalidMessage(f"{kind.__name__}: {describe(error)}") from None


def describe(error: ValidationError) -> str:
    """Put a pydantic error into one line: each field's path and what is wrong with it, no input echoed."""
    parts = []
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        where = ".".join(str(step) for step in problem["loc"])
        said = problem["msg"].removeprefix("Value error, ")
        parts.append(f"{where}: {said}" if where else said)
    return "; ".join(parts)
