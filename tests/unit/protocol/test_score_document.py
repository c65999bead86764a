"""The score document: closed, bounded, and one digest whoever writes it."""

import hashlib
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_protocol.canonical import canonical
from aos_protocol.errors import InvalidMessage
from aos_protocol.fields import parse_message
from aos_protocol.score_document import FORBIDDEN, MAX_POSITIONS, Score


def document(**changes: Any) -> dict[str, Any]:
    """A valid score as JSON, with members replaced; None takes one away."""
    base: dict[str, Any] = {
        "level": "fingerprint",
        "subject": "5b" * 32,
        "model": "3d" * 32,
        "engine": "llama.cpp b1",
        "positions": 2,
        "distances": [0.0125, 0.5],
        "margins": [0.0, 0.03125],
        "surprisals": [1.5, 0.0],
        "winners": [7, 2],
        "entropy": 1.25,
        "variance": 2.0,
    }
    return {name: value for name, value in (base | changes).items() if value is not None}


def measured(count: int, scale: float) -> dict[str, Any]:
    numbers = [round(scale * place, 6) for place in range(count)]
    return document(
        positions=count, distances=numbers, margins=numbers, surprisals=numbers, winners=[3] * count
    )


@given(st.integers(1, 9), st.floats(0, 10))
def test_json_round_trip(count: int, scale: float) -> None:
    value = measured(count, scale)
    score = parse_message(Score, value)
    assert score.to_json() == value
    again = parse_message(Score, json.loads(json.dumps(score.to_json())))
    assert (again, again.digest()) == (score, score.digest())


def test_the_digest_is_that_of_the_canonical_json() -> None:
    written = (
        '{"distances":[0.0125,0.5],"engine":"llama.cpp b1","entropy":1.25,"level":"fingerprint","margins":[0,0.03125],'
        '"model":"' + "3d" * 32 + '","positions":2,"subject":"' + "5b" * 32 + '","surprisals":[1.5,0],"variance":2,'
        '"winners":[7,2]}'
    )  # fmt: skip
    score = parse_message(Score, document())
    assert canonical(score.to_json()).decode() == written
    assert score.digest() == hashlib.sha256(written.encode()).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"subject": "5c" * 32},
        {"model": "3e" * 32},
        {"engine": "llama.cpp b2"},
        {"distances": [0.0125, 0.500001]},
        {"margins": [0.0, 0.031251]},
        {"surprisals": [1.5, 0.000001]},
        {"winners": [7, 3]},
        {"entropy": 1.250001},
        {"variance": 2.000001},
        {"ambiguous": 0},
        {"contradiction": "end"},
    ],
)
def test_the_digest_binds_every_member(change: dict[str, Any]) -> None:
    changed, original = parse_message(Score, document(**change)), parse_message(Score, document())
    assert changed.digest() != original.digest()


@pytest.mark.parametrize("level", ["fingerprint", "seeded", "greedy", "likelihood"])
@pytest.mark.parametrize("distances", [True, False])
@pytest.mark.parametrize("margins", [True, False])
def test_a_level_has_the_lists_that_it_compares_and_no_other(
    level: str, distances: bool, margins: bool
) -> None:
    value = document(level=level)
    for name, kept in (("distances", distances), ("margins", margins)):
        if not kept:
            del value[name]
    if (distances, margins) == (level == "fingerprint", level != "likelihood"):
        assert parse_message(Score, value).level == level
    else:
        with pytest.raises(InvalidMessage, match="belong to"):
            parse_message(Score, value)


@pytest.mark.parametrize("name", ["distances", "margins", "surprisals", "winners"])
@pytest.mark.parametrize("numbers", [[], [0], [0, 0, 0]])
def test_each_list_is_as_long_as_the_answer(name: str, numbers: list[int]) -> None:
    with pytest.raises(InvalidMessage, match=f"{name} has {len(numbers)} entries for 2 positions"):
        parse_message(Score, document(**{name: numbers}))


@pytest.mark.parametrize("name", ["distances", "margins", "surprisals"])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -1e-6, "1", True, [1.0]])
def test_numbers_in_lists_are_finite_and_not_negative(name: str, number: object) -> None:
    with pytest.raises(InvalidMessage, match=rf"{name}\.1: "):
        parse_message(Score, document(**{name: [0.0, number]}))


@pytest.mark.parametrize("name", ["margins", "surprisals"])
def test_what_has_a_bound_stays_within_it(name: str) -> None:
    assert parse_message(Score, document(**{name: [0.0, FORBIDDEN]}))
    with pytest.raises(InvalidMessage, match=rf"{name}\.1: "):
        parse_message(Score, document(**{name: [0.0, 100.000001]}))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"level": "exact"}, "level"),
        ({"subject": "5B" * 32}, "subject"),
        ({"model": "3d" * 31}, "model"),
        ({"engine": ""}, "engine"),
        ({"engine": "x" * 257}, "engine"),
        ({"engine": "a\0"}, "engine"),
        ({"positions": 0}, "positions"),
        ({"positions": 2.0}, "positions"),
        ({"positions": MAX_POSITIONS + 1}, "positions"),
        ({"winners": [7, -1]}, r"winners\.1"),
        ({"winners": [7, 2**24]}, r"winners\.1"),
        ({"winners": [7, 2.0]}, r"winners\.1"),
        ({"entropy": -0.1}, "entropy"),
        ({"entropy": math.inf}, "entropy"),
        ({"variance": -0.1}, "variance"),
        ({"variance": math.nan}, "variance"),
        ({"ambiguous": -1}, "ambiguous"),
        ({"ambiguous": 2}, "ambiguous is 2, which is none of 2 positions"),
        ({"contradiction": "other"}, "contradiction"),
        ({"verdict": "match"}, "verdict"),
    ],
)
def test_a_wrong_member_is_named(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidMessage, match=rf"Score: {field}"):
        parse_message(Score, document(**change))


@pytest.mark.parametrize(
    "name",
    ["level", "subject", "model", "engine", "positions", "surprisals", "winners", "entropy", "variance"],
)
def test_no_member_may_be_missing(name: str) -> None:
    with pytest.raises(InvalidMessage, match=f"{name}: Field required"):
        parse_message(Score, document(**{name: None}))


def test_the_longest_score_is_taken_and_a_longer_one_refused() -> None:
    assert parse_message(Score, measured(MAX_POSITIONS, 0.0)).positions == MAX_POSITIONS
    with pytest.raises(InvalidMessage, match="positions: "):
        parse_message(Score, measured(MAX_POSITIONS + 1, 0.0))
