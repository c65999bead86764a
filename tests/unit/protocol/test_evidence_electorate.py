"""AOS-ELECTORATE-1: who was asked, where there were more than an electorate has, is whom the seed finds."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from aos_protocol import sortition
from aos_protocol.evidence import Check, check_evidence, round_views
from support.evidence import CHAIN, DISPATCHER, Story, logged

CHECK = "AOS-ELECTORATE-1"
MOST = sortition.electorate_size("")
Document = dict[str, Any]


def checks(document: Document) -> dict[str, Check]:
    """The checks of a document whose dispatcher wrote down what it says."""
    told = document | {"log": logged(document)}
    made = check_evidence(told, dispatcher=DISPATCHER.address, job_id=document["job"]["job_id"])
    return {check.id: check for check in made}


def failing(document: Document) -> dict[str, str]:
    return {name: check.what for name, check in checks(document).items() if check.status == "FAIL"}


def story(operators: int, away: int = 0, **more: Any) -> Story:
    """A job of its own round; the last `away` of the operators are not connected."""
    told = Story(operators=operators, **more)
    for actor in told.crew[operators - away :]:
        actor.away = True
    told.own()
    return told


@cache
def chosen() -> Story:
    return story(MOST + 4, away=2)


@pytest.mark.parametrize("chain", [None, CHAIN])
def test_an_electorate_that_the_seed_chose_passes(chain: Document | None) -> None:
    document = story(MOST + 4, away=2, chain=chain).document()
    outcome = checks(document)
    assert {check.status for check in outcome.values()} == {"PASS"}
    assert len(document["rounds"][0]["electorate"]) == MOST
    assert outcome[CHECK].what == (
        f"of {MOST + 4} operators {MOST} were asked, the first {MOST} by the seed of those that could be, by the dispatcher's word"
    )


def test_fewer_than_an_electorate_are_all_that_there_were() -> None:
    outcome = checks(story(MOST + 1, away=2).document())
    assert {check.status for check in outcome.values()} == {"PASS"}
    assert outcome[CHECK].what == (
        f"of {MOST + 1} operators {MOST - 1} were asked, which by the dispatcher's word are all that could be"
    )


def test_where_nobody_can_be_left_out_by_the_seed_there_is_nothing_to_check() -> None:
    outcome = checks(story(MOST).document())
    assert CHECK not in outcome
    assert {check.status for check in outcome.values()} == {"PASS"}


def test_a_challenge_has_an_electorate_by_a_seed_of_its_own() -> None:
    told = Story("suspicion", operators=sortition.electorate_size("suspicion") + 6)
    told.own()
    told.challenge(by="operator")
    assert {check.status for check in checks(told.document()).values()} == {"PASS"}
    own, challenge = ([e["operator"] for e in round_["electorate"]] for round_ in told.rounds)
    assert len(own) == len(challenge)
    assert set(own) != set(challenge)


def somebody_else_first(round_: Document) -> None:
    """Have somebody asked in place of the first that the seed found, who comes behind all others."""
    told = chosen()
    asked = {elector["operator"] for elector in round_["electorate"]}
    other = next(actor for actor in told.crew if actor.address not in asked and not actor.away)
    round_["electorate"][0] = {"operator": other.address, "frame": None, "reason": "absent"}


def one_more(round_: Document) -> None:
    asked = {elector["operator"] for elector in round_["electorate"]}
    other = next(actor.address for actor in chosen().crew if actor.address not in asked)
    round_["electorate"].append({"operator": other, "frame": None, "reason": "absent"})


def two_swapped(round_: Document) -> None:
    electorate = round_["electorate"]
    electorate[4], electorate[9] = electorate[9], electorate[4]


@pytest.mark.parametrize(
    ("bend", "why"),
    [
        (one_more, f"{MOST + 1} operators were asked, and an electorate has {MOST} at most"),
        (two_swapped, "not in the order in which the seed finds them"),
        (somebody_else_first, "not in the order in which the seed finds them"),
    ],
)
def test_who_was_asked_out_of_the_seed_s_order_is_found(bend: Callable[[Document], object], why: str) -> None:
    document = chosen().document()
    round_ = document["rounds"][0] | {"electorate": list(document["rounds"][0]["electorate"])}
    bend(round_)
    assert why in failing(document | {"rounds": [round_]})[CHECK]


def test_a_committee_that_ranges_and_not_points_would_have_ordered_is_found() -> None:
    """By equal ranges the order is that of values; an operator with two points comes before one with one of a smaller value."""
    told = next(
        candidate
        for candidate in (story(MOST + 4, sequence=number) for number in range(1, 50))
        if _first_by_value(candidate) != candidate.rounds[0]["committee"][0]["operator"]
    )
    document = told.document()
    assert {check.status for check in checks(document).values()} == {"PASS"}
    seat = document["rounds"][0]["committee"][0] | {"operator": _first_by_value(told)}
    round_ = document["rounds"][0] | {"committee": [seat, *document["rounds"][0]["committee"][1:]]}
    assert "not the head of the draw" in failing(document | {"rounds": [round_]})["AOS-COMMITTEE-1"]


def _first_by_value(told: Story) -> str:
    """Whose ticket has the least value: the first of the draw if the width of ranges alone had decided."""
    [view] = round_views(told.document())
    return min((candidate for _, candidate in view.tickets.values()), key=lambda c: c.value).operator
