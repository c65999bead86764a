from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_operator.backends.lines import MAX_LINE_BYTES, Events, Lines
from aos_operator.errors import WorkerRefused


def lines_of(parts: list[bytes]) -> list[str]:
    lines = Lines()
    return [line for part in parts for line in lines.feed(part)] + list(lines.end())


def events_of(text: str) -> list[str]:
    events = Events()
    return [data for line in lines_of([text.encode()]) if (data := events.feed(line)) is not None]


@given(st.text(st.characters(codec="utf-8")), st.lists(st.integers(0, 200)))
def test_lines_are_the_same_however_they_arrive(text: str, cuts: list[int]) -> None:
    whole = text.encode()
    at = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    assert lines_of([whole[start:end] for start, end in pairwise(at)]) == lines_of([whole])
    assert (
        lines_of([whole])
        == [line.removesuffix("\r") for line in text.split("\n")][
            : None if text[-1:] not in {"", "\n"} else -1
        ]
    )


def test_a_character_may_come_in_pieces_but_not_half() -> None:
    assert lines_of([b"\xe2\x98", b"\xba\n"]) == ["\u263a"]
    with pytest.raises(WorkerRefused, match="not UTF-8"):
        lines_of([b"\xe2\x98\n"])
    with pytest.raises(WorkerRefused, match="not UTF-8"):
        lines_of([b"\xe2\x98"])


def test_a_long_line_is_refused_before_its_end() -> None:
    lines = Lines()
    assert list(lines.feed(b"x" * MAX_LINE_BYTES)) == []
    with pytest.raises(WorkerRefused, match="a line of more than"):
        list(lines.feed(b"x"))
    with pytest.raises(WorkerRefused, match="a line of more than"):
        lines_of([b"x" * (MAX_LINE_BYTES + 1) + b"\n"])


def test_an_event_is_its_data_whatever_else_it_has() -> None:
    said = ": hello\r\nevent: message\r\nid: 5\r\ndata: {}\r\n\r\ndata:[DONE]\n\nretry: 1\n\n"
    assert events_of(said) == ["{}", "[DONE]"]


def test_data_in_several_lines_is_one_event_and_without_an_end_it_is_none() -> None:
    assert events_of("data: a\ndata:  b\n\ndata: c\n") == ["a\n b"]


def test_an_event_of_many_lines_is_bounded_too() -> None:
    events = Events()
    line = "data: " + "x" * (MAX_LINE_BYTES // 2)
    events.feed(line)
    with pytest.raises(WorkerRefused, match="a line of more than"):
        events.feed(line), events.feed(line)
