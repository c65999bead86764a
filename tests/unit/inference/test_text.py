import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_inference.text import StopScanner, TextStream

VECTORS = Path(__file__).parents[3] / ".." / "shared" / "vectors" / "detok_utf8.json"


def vectors(*path: str) -> list[Any]:
    """Cases from the shared file; one that skips when the folder is missing."""
    if not VECTORS.exists():
        return [
            pytest.param(None, marks=pytest.mark.skip(reason="the folder of shared test vectors is missing"))
        ]
    found: Any = json.loads(VECTORS.read_text())
    for key in path:
        found = found[key]
    return [pytest.param(case, id=case["label"]) for case in found]


@pytest.mark.parametrize("case", vectors("self_made_utf8_splits", "cases"))
def test_published_splits(case: dict[str, Any]) -> None:
    stream = TextStream()
    assert [stream.feed(bytes.fromhex(chunk)) for chunk in case["chunks_hex"]] == case[
        "incremental_utf8_output"
    ]
    assert stream.finish() == ""


@pytest.mark.parametrize("case", vectors("self_made_utf8_splits", "malformed"))
def test_published_malformed_bytes(case: dict[str, Any]) -> None:
    stream = TextStream()
    shown = [stream.feed(bytes.fromhex(chunk)) for chunk in case["chunks_hex"]]
    expected = case["python_incremental_replace_output_plus_flush"]
    assert [*shown, stream.finish()] == expected


@pytest.mark.parametrize("case", vectors("byte_fallback_public", "cases"))
def test_byte_tokens_that_make_up_characters(case: dict[str, Any]) -> None:
    """The public cases replace each stray byte, we replace each broken character: compare what is whole."""
    stream = TextStream()
    pieces = [bytes([int(t[3:5], 16)]) if t.startswith("<0x") else t.encode() for t in case["tokens"]]
    text = "".join(map(stream.feed, pieces)) + stream.finish()
    expected = "".join(case["decoded"])
    assert text.replace("\ufffd", "") == expected.replace("\ufffd", "")
    assert ("\ufffd" in text) == ("\ufffd" in expected)


def cuts(data: bytes, places: list[int]) -> list[bytes]:
    """`data` cut at the places, in order."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=20))
def test_cutting_bytes_changes_nothing(data: bytes, places: list[int]) -> None:
    stream = TextStream()
    assert "".join(map(stream.feed, cuts(data, places))) + stream.finish() == data.decode("utf-8", "replace")


def naive_stop(text: str, stops: list[str]) -> str | None:
    """The text before the first stop to be completed, by trying every end; None without one."""
    for end in range(len(text) + 1):
        lengths = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if lengths:
            return text[: end - max(lengths)]
    return None


few = st.text(alphabet="abé", max_size=30)
stop_lists = st.lists(st.text(alphabet="abé", min_size=1, max_size=5), max_size=4)


@given(few, stop_lists, st.lists(st.integers(0, 60), max_size=30))
def test_stops_are_found_however_the_text_is_cut(text: str, stops: list[str], places: list[int]) -> None:
    stream = TextStream(stops)
    shown = "".join(map(stream.feed, cuts(text.encode(), places)))
    expected = naive_stop(text, stops)
    assert stream.stopped == (expected is not None)
    assert shown + stream.finish() == (text if expected is None else expected)


@given(few, stop_lists)
def test_no_more_is_held_back_than_could_begin_a_stop(text: str, stops: list[str]) -> None:
    scanner = StopScanner(stops)
    shown = "".join(map(scanner.feed, text))
    if not scanner.stopped:
        held = text[len(shown) :]
        assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)


def test_text_is_shown_as_soon_as_it_is_safe() -> None:
    scanner = StopScanner(["\n\nUser:"])
    assert [scanner.feed(part) for part in ("Yes.", "\n", "\nUs", "ed. ", "\n\nUser", ":", "late")] == [
        "Yes.",
        "",
        "",
        "\n\nUsed. ",
        "",
        "",
        "",
    ]
    assert scanner.stopped
    assert scanner.finish() == ""
