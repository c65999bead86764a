"""A score: what a verifier measured on a claimed answer, position by position, in one pass over prompt and answer.

    level       what there was to compare: "fingerprint" (fingerprints and a seed), "greedy" (temperature 0), "seeded", else "likelihood"
    subject     digest of what was scored: a transcript's commitment, or that of a claim
    model, engine    SHA-256 of the GGUF file, and the build that computed
    distances   of the fingerprints, with level "fingerprint" only
    margins     in logits, with every level but "likelihood"
    surprisals  of the claimed tokens, in nats
    winners     the tokens that the verifier draws itself
    entropy, variance    the mean and variance that an honest answer's sum of surprisals has
    ambiguous   for a claimed text: the first position from which on it might have been other tokens
    contradiction    what of an answer is not what the model's vocabulary makes of it: its prompt's tokens ("prompt"), the text that its
                tokens spell ("text"), where and why it ends ("end"), or an end for want of room that the verifier has ("context")

Lists have one number for each output position, at most MAX_POSITIONS; numbers are rounded to 6 digits. `aos_protocol.scoring` defines them.
"""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from aos_protocol.canonical import digest
from aos_protocol.fields import Hex32, Message, ShortText, TokenId

FORBIDDEN: Final = 100.0
"""Stands for a margin or surprisal without bound; also the greatest that is reported."""

MAX_POSITIONS: Final = 65_536
"""As many as a job may ask for."""

Level = Literal["fingerprint", "seeded", "greedy", "likelihood"]
Contradiction = Literal["prompt", "text", "end", "context"]
Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Numbers = Annotated[list[Number], Field(max_length=MAX_POSITIONS)]
Bounded = Annotated[list[Annotated[Number, Field(le=FORBIDDEN)]], Field(max_length=MAX_POSITIONS)]


class Score(Message):
    """One subject's score, as the module's docstring describes it."""

    level: Level
    subject: Hex32
    model: Hex32
    engine: ShortText
    positions: int = Field(ge=1, le=MAX_POSITIONS)
    distances: Numbers | None = None
    margins: Bounded | None = None
    surprisals: Bounded
    winners: Annotated[list[TokenId], Field(max_length=MAX_POSITIONS)]
    entropy: Number
    variance: Number
    ambiguous: Annotated[int, Field(ge=0)] | None = None
    contradiction: Contradiction | None = None

    @model_validator(mode="after")
    def _as_long_as_the_answer(self) -> Self:
        for name in ("distances", "margins", "surprisals", "winners"):
            numbers = getattr(self, name)
            if numbers is not None and len(numbers) != self.positions:
                raise ValueError(f"{name} has {len(numbers)} entries for {self.positions} positions")
        if self.ambiguous is not None and self.ambiguous >= self.positions:
            raise ValueError(f"ambiguous is {self.ambiguous}, which is none of {self.positions} positions")
        return self

    @model_validator(mode="after")
    def _has_what_its_level_compares(self) -> Self:
        if (self.distances is not None) != (self.level == "fingerprint"):
            raise ValueError("distances belong to level fingerprint, and to no other")
        if (self.margins is not None) != (self.level != "likelihood"):
            raise ValueError("margins belong to every level but likelihood")
        return self

    def digest(self) -> str:
        """Return the SHA-256 hex of the score's canonical JSON, which the verifier's signature binds."""
        return digest(self.to_json())
