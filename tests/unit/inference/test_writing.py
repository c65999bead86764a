import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_inference.testing import ByteModel
from aos_inference.writing import Writing
from aos_protocol.transcript import Params

MODEL = ByteModel()


def writing(max_tokens: int = 50, stop: tuple[str, ...] = (), prompt: int = 3, context: int = 100) -> Writing:
    params = Params(temperature=1.0, top_p=1.0, max_tokens=max_tokens, stop=stop)
    return Writing(MODEL, params, prompt, context)


def test_an_end_token_ends_without_text() -> None:
    assert writing().whole([*b"abc", MODEL.eos]) == ("abc", "eos")
    assert writing(max_tokens=4).whole([*b"abc", MODEL.eos]) == ("abc", "eos")


def test_the_last_token_allowed_ends_with_length() -> None:
    assert writing(max_tokens=3).whole(b"abc") == ("abc", "length")
    assert writing(prompt=97).whole(b"abc") == ("abc", "length")


def test_a_stop_sequence_ends_before_it() -> None:
    assert writing(stop=("bc",)).whole(b"abc") == ("a", "stop")
    assert writing(stop=("bc",), max_tokens=3).whole(b"abc") == ("a", "stop")


def test_an_unfinished_character_is_shown_at_the_end() -> None:
    assert writing(max_tokens=2).whole("aé".encode()[:2]) == ("a\ufffd", "length")


@pytest.mark.parametrize("tokens", [b"abc", [*b"abc", MODEL.eos, 5], b"abXYc"])
def test_too_short_and_too_long_end_for_no_reason(tokens: list[int]) -> None:
    assert writing(stop=("XY",)).whole(tokens)[1] is None
    assert writing(max_tokens=2).whole(b"abc") == ("ab", None)


texts = st.lists(st.sampled_from([*"ab\né".encode(), MODEL.eos]), min_size=1, max_size=30)
stops = st.lists(st.text(alphabet="abé", min_size=1, max_size=3), max_size=2)


@given(texts, stops, st.integers(1, 20))
def test_writing_step_by_step_ends_where_the_whole_does(
    tokens: list[int], stop: list[str], most: int
) -> None:
    steps, count, finish = writing(most, tuple(stop)), 0, None
    shown = ""
    while finish is None and count < len(tokens):
        text, finish = steps.add(tokens[count])
        shown, count = shown + text, count + 1
    assert writing(most, tuple(stop)).whole(tokens[:count]) == (shown, finish)
    assert (finish is None) <= (count == len(tokens))
    if finish is not None:
        for longer in ([*tokens[:count], 97], tokens[: count - 1]):
            assert writing(most, tuple(stop)).whole(longer)[1] is None
