"""How likely tokens were: the log-softmax of the model's logits, and the likeliest in order."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from aos_inference.likelihood import likely, named
from aos_inference.testing import ByteModel

LOGITS = np.array([0.0, 2.0, 1.0, -1.0, 2.0], dtype=np.float32)
WHOLE = math.log(sum(math.exp(value) for value in LOGITS.tolist()))


def test_the_token_comes_first_and_then_the_likeliest_in_order() -> None:
    (token, logprob), *best = likely(LOGITS, 3, 3)
    assert token == 3
    assert logprob == pytest.approx(-1.0 - WHOLE, abs=1e-6)
    assert [each for each, _ in best] == [1, 4, 2]  # of equals the lower id
    assert [value for _, value in best] == pytest.approx([2 - WHOLE, 2 - WHOLE, 1 - WHOLE], abs=1e-6)


def test_nobody_else_is_told_of_unless_asked_for() -> None:
    assert len(likely(LOGITS, 1, 0)) == 1


def test_a_vocabulary_may_be_smaller_than_what_is_asked_for() -> None:
    assert len(likely(LOGITS, 0, 20)) == 6


def test_what_the_model_forbids_is_none_of_the_likeliest() -> None:
    logits = np.array([0.0, -np.inf, 1.0, -np.inf], dtype=np.float32)
    assert [token for token, _ in likely(logits, 0, 4)] == [0, 2, 0]


def test_a_certain_token_has_logprob_nought() -> None:
    assert likely(np.array([200.0, -200.0], dtype=np.float32), 0, 1) == ((0, 0.0), (0, 0.0))


@given(
    arrays.arrays(np.float32, st.integers(2, 60), elements=st.floats(-80, 80, width=32)),
    st.data(),
    st.integers(0, 20),
)
def test_it_is_the_log_softmax(
    logits: "np.ndarray[tuple[int], np.dtype[np.float32]]", data: st.DataObject, count: int
) -> None:
    token = data.draw(st.integers(0, logits.size - 1))
    exact = logits.astype(np.float64)
    exact -= exact.max() + math.log(np.exp(exact - exact.max()).sum())
    (first, logprob), *best = likely(logits, token, count)
    assert first == token
    assert logprob == pytest.approx(exact[token], abs=2e-5)
    order = sorted(range(logits.size), key=lambda each: (-logits[each], each))
    assert [each for each, _ in best] == order[:count]
    assert [value for _, value in best] == pytest.approx([exact[each] for each in order[:count]], abs=2e-5)
    assert all(value <= 0 for _, value in best)


def test_tokens_are_named_by_their_texts_and_halves_of_characters_as_such() -> None:
    said = named(ByteModel(), ((65, -0.5), (0xC3, -1.0), (0, -2.0), (257, -3.0)))
    assert said.to_json() == {
        "token": "A", "logprob": -0.5, "top": [("\ufffd", -1.0), ("\ufffd", -2.0), ("", -3.0)],
    }  # fmt: skip
