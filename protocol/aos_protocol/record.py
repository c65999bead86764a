"""What an answer without a transcript says of how it came about: that of a backend whose tokens and logits nobody sees.

It is its operator's word, signed with the result. Nothing in it can be scored unless it has token ids, so a verdict on it is `inconclusive`.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from aos_protocol.canonical import digest
from aos_protocol.fields import EvidenceLevel, Hex32, Message, ShortText, TokenId, storable


class ImageRecord(Message):
    """One image of an answer: the SHA-256 of its bytes, of which kind and size they are, and its width and height in pixels."""

    sha256: Hex32
    media_type: Literal["image/png", "image/jpeg", "image/webp"]
    size: int = Field(ge=1)
    width: int = Field(ge=1)
    height: int = Field(ge=1)


class Record(Message):
    """How an answer came about, as far as its backend tells.

    `backend` is the kind of server, `engine` what it calls itself. Tokens are counted as the backend does. `system` is the SHA-256 of a system
    message that the operator put before the job's own prompt. An answer of `images` has nothing that could be scored. `transcript` is the
    commitment of one that only the client of a direct prompt has. Which of these belong together, `aos_protocol.shown` checks.
    """

    version: Literal[1] = 1
    level: EvidenceLevel
    backend: ShortText
    engine: Annotated[str, StringConstraints(max_length=1024), AfterValidator(storable)] = ""
    finish_reason: Literal["eos", "stop", "length"] = "eos"
    prompt_tokens: int | None = Field(None, ge=0)
    completion_tokens: int | None = Field(None, ge=0)
    output_tokens: list[TokenId] | None = Field(None, max_length=65_536)
    system: Hex32 | None = None
    images: list[ImageRecord] | None = Field(None, min_length=1)
    transcript: Hex32 | None = None

    def digest(self) -> str:
        """Return the SHA-256 hex of the record's canonical JSON: what the result's signature has in the place of a transcript."""
        return digest(self.to_json())


def named_model_digest(name: str) -> str:
    """Return the SHA-256 hex that stands for a model of whose file nobody knows the digest: it binds the name, and nothing else.

    What was loaded under that name its operator alone can say, so the evidence of such a model is `logprobs` at most.
    """
    return digest({"kind": "named", "model": name})
