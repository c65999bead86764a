import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_operator.backends.chunks import MAX_TEXT_BYTES, Chunk, Gathered, count, logprobs, token_ids
from aos_operator.errors import WorkerRefused
from aos_protocol.job import MAX_LOGPROBS
from aos_protocol.messages import TokenLogprob

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["content", "token", "logprob", "tokens", "token_logprobs", "top_logprobs"]) | st.text(max_size=3),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
A = TokenLogprob(token="a", logprob=-0.5)


def gathered(*chunks: Chunk) -> Gathered:
    whole = Gathered()
    for chunk in chunks:
        whole.add(chunk)
    return whole


CHAT = {"content": [{"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "b", "logprob": -1}]}]}
LEGACY = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"b": -1.0}]}


@pytest.mark.parametrize("said", [CHAT, LEGACY, CHAT["content"]])
def test_logprobs_are_read_in_each_form(said: Any) -> None:
    assert logprobs(said) == [TokenLogprob(token="a", logprob=-0.5, top=[("b", -1.0)])]


@given(JSON)
def test_whatever_stands_for_logprobs_is_read_or_passed_over(said: Any) -> None:
    for token in logprobs(said) or []:
        assert token.logprob <= 0
        assert math.isfinite(token.logprob)
        assert len(token.top) <= MAX_LOGPROBS


@pytest.mark.parametrize(
    "said",
    [None, 5, {}, {"content": [5]}, {"content": [{"token": "a"}]}, {"tokens": ["a"], "token_logprobs": []}],
)
def test_what_is_in_no_form_shows_none(said: Any) -> None:
    assert logprobs(said) is None


def test_numbers_that_no_message_carries_are_brought_into_range() -> None:
    entries = [{"token": "\0", "logprob": number} for number in (1e-9, -math.inf, math.nan, -5)]
    assert [(token.token, token.logprob) for token in logprobs(entries) or []] == [
        ("\ufffd", 0.0),
        ("\ufffd", -9999.0),
        ("\ufffd", -9999.0),
        ("\ufffd", -5.0),
    ]


@pytest.mark.parametrize("said", [None, "5", [True], [-1], [2**24], [1.0], {}])
def test_what_is_no_list_of_ids_is_none(said: object) -> None:
    assert token_ids(said) is None


def test_counts_and_ids_are_whole_numbers() -> None:
    assert token_ids([0, 5]) == [0, 5]
    assert (count(5), count(-1), count(True), count("5")) == (5, None, None, None)


def test_an_answer_shows_token_ids_if_it_has_as_many_as_were_made() -> None:
    chunks = [Chunk("a", tokens=[1]), Chunk("b", tokens=[2, 3])]
    assert gathered(*chunks, Chunk(counted=3)).level == "token_ids"
    assert gathered(*chunks, Chunk(counted=4)).level == "token_ids"  # the one that ended it is not told
    for counted in (2, 5, None):
        assert gathered(*chunks, Chunk(counted=counted)).level == "text"


@pytest.mark.parametrize("shown", ["tokens", "logprobs"])
def test_a_text_without_them_spoils_the_rest(shown: str) -> None:
    more: dict[str, Any] = {shown: [1] if shown == "tokens" else [A]}
    whole = gathered(Chunk("a", **more), Chunk("b"), Chunk("c", **more, counted=2))
    assert getattr(whole, shown) is None
    assert whole.level == "text"


def test_logprobs_count_as_evidence_if_every_text_has_some() -> None:
    assert gathered(Chunk("a", logprobs=[A]), Chunk("", counted=1)).level == "logprobs"
    assert gathered(Chunk("a", logprobs=[])).level == "text"
    assert gathered(Chunk("")).level == "logprobs"  # nothing was said, so nothing is missing


def test_what_came_last_counts() -> None:
    whole = gathered(Chunk("a", engine="e1", counted=1, prompt_tokens=7), Chunk("b", ended="eos", counted=2))
    assert (whole.texts, whole.engine, whole.counted) == (["a", "b"], "e1", 2)
    assert (whole.prompt_tokens, whole.ended) == (7, "eos")


def test_a_text_is_bounded_in_bytes_and_holds_nothing_that_cannot_be_stored() -> None:
    whole = gathered(Chunk("\u263a" * (MAX_TEXT_BYTES // 3)))
    with pytest.raises(WorkerRefused, match="more than"):
        whole.add(Chunk("\u263a"))
    with pytest.raises(WorkerRefused, match=r"U\+0000"):
        gathered(Chunk("a\0"))
