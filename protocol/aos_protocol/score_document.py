"""A score: what a verifier measured on a claimed answer, position by position, in one pass over prompt and answer.

Lists have one number for each output position; numbers are rounded to 6 digits. `aos_protocol.scoring` defines them.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from aos_protocol.canonical import digest
from aos_protocol.messages import Hex32, Message, ShortText, TokenId

Level = Literal["fingerprint", "seeded", "greedy", "likelihood"]
Contradiction = Literal["prompt", "text", "end"]
Number = Annotated[float, Field(allow_inf_nan=False)]


class Score(Message):
    """One subject's score: a transcript's, named by its commitment, or a claim's, named by its digest.

    `ambiguous` is the first position at which a text claim's tokens could be others. `contradiction` is the part of an answer that is not
    what the model's vocabulary makes of it: its prompt's tokens, the text that its tokens spell, or where and why it ends.
    """

    level: Level
    subject: Hex32
    model: Hex32
    engine: ShortText
    positions: int = Field(ge=1)
    distances: list[Number] | None = None
    margins: list[Number] | None = None
    surprisals: list[Number]
    winners: list[TokenId]
    entropy: Number
    variance: Number
    ambiguous: int | None = None
    contradiction: Contradiction | None = None

    @model_validator(mode="after")
    def _as_long_as_the_answer(self) -> Self:
        for numbers in (self.distances, self.margins, self.surprisals, self.winners):
            if numbers is not None and len(numbers) != self.positions:
                raise ValueError(f"a list of {len(numbers)} entries scores {self.positions} positions")
        if self.level != "likelihood" and self.margins is None:
            raise ValueError(f"a score of level {self.level} needs margins")
        if (self.level == "fingerprint") == (self.distances is None):
            raise ValueError("distances belong to level fingerprint, and to no other")
        return self

    def digest(self) -> str:
        """Return the SHA-256 hex of the score's canonical JSON, which the verifier's signature binds."""
        return digest(self.to_json())
