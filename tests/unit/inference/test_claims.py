from collections.abc import Sequence
from itertools import accumulate

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aos_inference.claims import ambiguous_from, spelling
from aos_inference.errors import InvalidField

WORDS = ("a", "b", "ab", "ba", "aba", "é", "\n", "\ufffd", " ", " a")


class Words:
    """A vocabulary of WORDS, the two bytes of "é" by themselves, and an end token, that takes the longest word it can.

    One that `leads` puts a space before every text, as SentencePiece does, unless it begins with a line break.
    """

    def __init__(self, *, leads: bool = False) -> None:
        self._leads = leads

    def tokenize(self, text: str) -> list[int]:
        if self._leads and not text.startswith("\n"):
            text = " " + text
        tokens: list[int] = []
        while text:
            word = max((word for word in WORDS if text.startswith(word)), key=len, default=None)
            if word is None:
                return [*tokens, END]
            tokens.append(WORDS.index(word))
            text = text[len(word) :]
        return tokens

    def piece(self, token: int) -> bytes:
        return [*(word.encode() for word in WORDS), b"\xc3", b"\xa9", b""][token]


END = len(WORDS) + 2
A, B, AB, BA, ABA, E, _, UNKNOWN, SPACE, SPACE_A = range(len(WORDS))
FIRST_BYTE, SECOND_BYTE = len(WORDS), len(WORDS) + 1


def test_a_spelling_is_the_tokenisers() -> None:
    assert spelling(Words(), "ababé") == [ABA, B, E]


@pytest.mark.parametrize("text", ["a", " a", "\na", "ab ba"])
def test_a_space_that_the_tokeniser_adds_is_left_out(text: str) -> None:
    tokens = spelling(Words(leads=True), text)
    assert b"".join(map(Words().piece, tokens)) == text.encode()


def test_a_text_that_cannot_be_spelt_is_refused() -> None:
    with pytest.raises(InvalidField, match=r"^text: .*send output_tokens"):
        spelling(Words(), "xyz")


def ambiguity(tokens: Sequence[int], winners: Sequence[int]) -> int | None:
    return ambiguous_from(Words(), tokens, winners)


def test_the_verifiers_own_tokens_are_not_ambiguous() -> None:
    assert ambiguity([ABA, B, E], [ABA, B, E]) is None


def test_another_spelling_of_the_same_is() -> None:
    assert ambiguity([B, ABA, B], [B, AB, B]) == 1  # "aba" may have been "ab" and "a"
    assert ambiguity([B, A, B], [B, AB, B]) == 1
    assert ambiguity([E, B], [FIRST_BYTE, B]) == 0


def test_another_text_is_not() -> None:
    assert ambiguity([B, A, A], [B, B, A]) is None
    assert ambiguity([B, A, A], [B, A, END]) is None


def test_a_text_cut_within_a_token_is() -> None:
    """A stop sequence may end the text in the middle of a token."""
    assert ambiguity([B, AB], [B, ABA]) == 1


def test_bytes_that_are_no_character_are_ambiguous() -> None:
    assert ambiguity([B, UNKNOWN, A], [B, UNKNOWN, A]) == 1


lists = st.lists(st.integers(0, len(WORDS) - 1), min_size=1, max_size=12)


@given(lists, st.data())
def test_an_honest_answer_is_never_held_against_its_text(drawn: list[int], data: st.DataObject) -> None:
    """Whatever was drawn: at the first place where the verifier draws something else, the claim counts as ambiguous."""
    text = b"".join(map(Words().piece, drawn)).decode()
    tokens = spelling(Words(), text)
    assume(tokens != drawn)
    # The verifier draws what the prover drew wherever both have read the same text.
    ends = [0, *accumulate(len(Words().piece(token)) for token in drawn)]
    own = dict(zip(ends, drawn, strict=False))
    start, winners = 0, []
    for token in tokens:
        winners.append(own.get(start, data.draw(st.integers(0, END))))
        start += len(Words().piece(token))
    first = next(
        place for place, (ours, theirs) in enumerate(zip(winners, tokens, strict=True)) if ours != theirs
    )
    found = ambiguity(tokens, winners)
    assert found is not None
    assert found <= first
