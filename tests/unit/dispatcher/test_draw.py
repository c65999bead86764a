"""Whom a draw asks: everybody that it may, or of more than an electorate has, those whom the seed finds."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from aos_chain.registry import RegistryEntry
from aos_dispatcher.committee import Patience, Plan
from aos_dispatcher.draw import Electorate, electorate, hold_draw
from aos_dispatcher.errors import PeerGone
from aos_dispatcher.hub import Peer
from aos_dispatcher.operators import RegistrySnapshot, Shares
from aos_dispatcher.round import restore
from aos_dispatcher.rounds_store import Claimed
from aos_protocol import sortition
from aos_protocol.canonical import canonical
from aos_protocol.evidence import round_views
from aos_protocol.sortition import Holders
from support.evidence import Story

SEED = "11" * 32
MOST = sortition.electorate_size("")


def address(number: int) -> str:
    return f"0x{number:040x}"


def peers(*numbers: int) -> list[Any]:
    return [SimpleNamespace(address=address(number)) for number in numbers]


def snapshot(registered: int) -> RegistrySnapshot:
    shares = sortition.equal_shares([address(n) for n in range(registered)])
    entries = (RegistryEntry(operator, 2 + n, start, end) for n, (operator, start, end) in enumerate(shares))
    return RegistrySnapshot(Shares.of(entries), None, frozenset())


@pytest.mark.parametrize("chain", [None, {"block": 7, "chain_id": 1, "registry": "0xa", "block_hash": "é"}])
def test_a_registry_s_canonical_text_is_that_of_its_document(chain: dict[str, Any] | None) -> None:
    read = replace(snapshot(20), chain=chain)
    assert read.canonical() == canonical(read.document)


def facts(readers: frozenset[str] | None = None, without: str = "", tag: str = "") -> Any:
    def may_ask(operator: str) -> bool:
        return operator != without and (readers is None or operator in readers)

    return SimpleNamespace(tag=tag, seed=SEED, readers=readers, may_ask=may_ask)


def asked(found: Electorate) -> list[str]:
    return [peer.address for peer in found.peers]


def test_up_to_an_electorate_everybody_is_asked() -> None:
    everybody = peers(*range(MOST))
    assert electorate(everybody, facts(), snapshot(MOST), ()) == Electorate(everybody, None)


def test_of_more_the_seed_chooses() -> None:
    registry = snapshot(100)
    found = electorate(peers(*range(100)), facts(), registry, ())
    points = registry.shares.holders.electorate(bytes.fromhex(SEED), lambda _: True, MOST)
    assert asked(found) == list(points)
    assert found.points == points
    assert asked(electorate(peers(*reversed(range(100))), facts(), registry, ())) == list(points)


@pytest.mark.parametrize("tag", ["", "suspicion", "malicious"])
def test_how_many_goes_by_the_tag(tag: str) -> None:
    found = electorate(peers(*range(60)), facts(tag=tag), snapshot(60), ())
    assert len(found.peers) == sortition.electorate_size(tag)


def test_who_is_away_barred_or_a_party_is_passed_over() -> None:
    registry = snapshot(40)
    first, second, third, *rest = asked(electorate(peers(*range(40)), facts(), registry, ()))
    here = [peer for peer in peers(*range(40)) if peer.address != first]
    found = electorate(here, facts(without=second), registry, {third})
    assert asked(found)[: len(rest)] == rest
    assert len(found.peers) == MOST
    assert not {first, second, third} & set(asked(found))


def test_what_an_auditor_makes_of_those_asked_are_the_same_points() -> None:
    registry = snapshot(40)
    found = electorate(peers(*range(5, 40)), facts(), registry, {address(30)})
    shares = [(operator, start, end) for operator, (start, end) in registry.shares.ranges.items()]
    again = sortition.electorate_points(set(asked(found)), Holders(shares), bytes.fromhex(SEED), "")
    assert again == found.points


def test_with_less_than_an_electorate_left_ranges_decide() -> None:
    """So many are here, but may not all be asked."""
    barred = {address(n) for n in range(MOST)}
    found = electorate(peers(*range(MOST + 3)), facts(), snapshot(40), barred)
    assert sorted(asked(found)) == [address(n) for n in range(MOST, MOST + 3)]
    assert found.points is None


def test_who_is_not_registered_any_more_is_not_asked() -> None:
    found = electorate(peers(*range(30, 50)), facts(), snapshot(40), ())
    assert sorted(asked(found)) == [address(n) for n in range(30, 40)]
    assert found.points is None


@pytest.mark.parametrize("readers", [1, MOST - 1, MOST])
def test_a_sealed_prompt_s_readers_are_all_asked(readers: int) -> None:
    able = frozenset(address(n) for n in range(readers))
    found = electorate(peers(*range(40)), facts(readers=able), snapshot(40), ())
    assert set(asked(found)) == able
    assert (found.points is None) == (readers < MOST)


@pytest.mark.parametrize("operators", [MOST - 2, MOST, MOST + 4])
def test_a_round_taken_up_by_another_process_has_the_same_reserves(operators: int) -> None:
    story = Story(operators=operators)
    drawn = story.own()
    [view] = round_views(story.document())
    seats = [SimpleNamespace(**seat) for seat in drawn["committee"]]
    row = SimpleNamespace(**drawn, size=len(seats), sequence=1, session=None)
    known: Any = SimpleNamespace(
        tag="",
        position="",
        seed=story.seed["value"],
        deadline=99.0,
        plan=lambda size: Plan(True, False, size, 1),
    )
    claimed: Any = Claimed(cast("Any", row), cast("Any", seats), drawn["registry"])
    committee = restore(known, claimed, Patience(1, 1), cast("Any", None)).committee
    order = [seat.operator for seat in committee.seats] + [c.operator for c in committee.reserves]
    assert order == [candidate.operator for candidate in view.ranking]


class Gone(Peer):
    """A connection that breaks when it is asked."""

    def __init__(self, number: int) -> None:
        self.address = address(number)

    async def request(self, method: str, params: Any, timeout: float) -> Any:  # noqa: ASYNC109 - as in Peer
        raise PeerGone(f"{self.address} left before {method}")


async def test_everybody_asked_is_told_of_even_where_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aos_dispatcher.draw.call_for", lambda *_: SimpleNamespace(to_json=dict))
    asked_for = Electorate([Gone(1), Gone(2)], {address(1): 1, address(2): 3})
    bare: Any = SimpleNamespace(minimum=1, alone=False)
    drawn = await hold_draw(asked_for, bare, snapshot(2), {}, 1.0)
    assert [(answer.operator, answer.reason) for answer in drawn.answers] == [
        (address(n), f"absent: {address(n)} left before draw") for n in (1, 2)
    ]
    assert (drawn.ranking, drawn.members, drawn.tickets()) == ([], [], {})
