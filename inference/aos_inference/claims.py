"""Claims as the engine scores them, and where a text that was claimed could have been other tokens.

A text is tokenised anew, and the model may have drawn other tokens that spell the same. So at the first position where the
verifier's own draw differs and yet goes on with the same text, everything after it may follow from another tokenisation, and
nothing can be held against the claim. A text claim never says how the answer ended: no end token is scored. A U+FFFD may stand for
bytes that are no character; what follows such a place is open, too.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Final, Protocol

from aos_inference.errors import InvalidField

_REPLACEMENT: Final = "\ufffd".encode()


class Vocabulary(Protocol):
    """What spelling needs of `llama.Model`."""

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text in which control tokens are mere text, without BOS."""
        ...

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to the text."""
        ...


def spelling(vocabulary: Vocabulary, text: str) -> list[int]:
    """Tokens whose pieces join to exactly this text, as the tokeniser chooses them. Raises InvalidField if there are none.

    Some tokenisers put a space before what they take for the beginning of a text: a line break before it keeps them from that.
    """
    wanted = text.encode()
    lead = vocabulary.tokenize("\n")
    after_lead = vocabulary.tokenize("\n" + text)
    for tokens in (vocabulary.tokenize(text), after_lead[len(lead) :]):
        if b"".join(map(vocabulary.piece, tokens)) == wanted:
            return tokens
    raise InvalidField("text: this model's vocabulary cannot spell it exactly; send output_tokens instead.")


def ambiguous_from(vocabulary: Vocabulary, tokens: Sequence[int], winners: Sequence[int]) -> int | None:
    """The first position from which a text's tokens may have been others, given the verifier's own draws; None if there is none."""
    pieces = [vocabulary.piece(token) for token in tokens]
    text = b"".join(pieces)
    edges = pairwise([0, *accumulate(map(len, pieces))])
    for position, (start, end) in enumerate(edges):
        if _touches_replacement(text, start, end):
            return position
        if winners[position] != tokens[position]:
            other = vocabulary.piece(winners[position])
            if other and (text.startswith(other, start) or other.startswith(text[start:])):
                return position
    return None


def _touches_replacement(text: bytes, start: int, end: int) -> bool:
    return _REPLACEMENT in text[max(start - 2, 0) : end + 2]
