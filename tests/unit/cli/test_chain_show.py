"""How `aos chain status` looks, and what it says to do next."""

import io
from typing import Any

import pytest
from rich.console import Console

from aos_chain.challenges import Challenge, Ground, Seat, State, Verdict
from aos_cli.chain_show import show_challenge, show_operator, show_status
from aos_cli.chain_words import GROUNDS, STATES, next_steps, states_of

OPERATOR, CHALLENGER, DISPATCHER = ("0x" + digit * 40 for digit in "abc")
ETHER = 10**18
TERMS = {
    "bond_per_slot": 10**13, "leave_delay": 3_600, "challenge_bond": ETHER, "answer_window": 60, "vote_window": 120, "max_age": 1_000,
}  # fmt: skip


def shown(show: Any, found: dict[str, Any]) -> list[str]:
    file = io.StringIO()
    show(Console(file=file, width=200), found)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def challenge(
    ground: Ground = Ground.MISMATCH, state: State = State.OPEN, deadline: int = 1_100
) -> Challenge:
    return Challenge(3, ground, state, OPERATOR, CHALLENGER, DISPATCHER, b"", deadline, 9, 0, bytes(32))


def status(**changes: Any) -> dict[str, Any]:
    contracts = dict.fromkeys(("registry", "sortition", "anchor", "challenge"), "0x" + "d" * 40)
    row = {"operator": OPERATOR, "number": 2, "start": 0, "end": 60_000, "bond": ETHER, "locks": 0}
    found = {
        "chain_id": 31337, "rpc": "http://127.0.0.1:8545", "block": 9, "contracts": contracts, "terms": TERMS, "operators": [row],
        "free": [[60_000, 600_000]], "anchors": [], "challenges": [],
    }  # fmt: skip
    return found | changes


def anchor(**changes: Any) -> dict[str, Any]:
    known = {
        "dispatcher": DISPATCHER,
        "size": 5,
        "root": "ab",
        "block": 8,
        "age": 65,
        "forked": False,
        "log_size": None,
    }
    return known | changes


def test_every_ground_and_state_has_a_word() -> None:
    assert set(GROUNDS) == {ground.name for ground in Ground}
    assert set(STATES) == {state.name for state in State}


def test_a_network_is_shown() -> None:
    lines = shown(show_status, status())
    assert lines[0] == "chain 31337 at http://127.0.0.1:8545, block 9"
    assert f"{OPERATOR}  2       [0, 60000)  10.00%  1 ETH" in lines
    assert "free: 540,000 slots of 600,000: [60000, 600000)" in lines
    assert "no log is anchored yet" in lines
    assert lines[-1] == "no challenge was opened yet"


def test_a_network_without_operators_says_how_to_become_one() -> None:
    assert "no operator is registered: aos chain register" in shown(show_status, status(operators=[]))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "5 entries anchored in block 8, 1 min 5 s ago"),
        ({"log_size": 5}, "1 min 5 s ago; that is all of it"),
        ({"log_size": 7}, "1 min 5 s ago; 2 more since"),
        ({"log_size": 4}, "it shows only 4 now: entries are hidden or lost"),
        ({"size": 0, "log_size": 3}, "nothing is anchored yet of its 3 entries"),
    ],
)
def test_an_anchor_is_held_against_the_log(changes: dict[str, Any], said: str) -> None:
    lines = shown(show_status, status(anchors=[anchor(**changes)]))
    [line] = [line for line in lines if line.startswith(f"log of {DISPATCHER}: ")]
    assert line.endswith(said)


def test_a_fork_is_not_overlooked() -> None:
    assert any("FORKED" in line for line in shown(show_status, status(anchors=[anchor(forked=True)])))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "bond 1 ETH; credit 0.5 ETH; account 2 ETH"),
        ({"locks": 2}, "bond 1 ETH, locked by 2 challenges;"),
        ({"end": 0, "withdrawable_in": 60}, "bond 1 ETH, to be withdrawn in 1 min;"),
        ({"end": 0, "withdrawable_in": 0}, "to be withdrawn now: aos chain withdraw;"),
    ],
)
def test_an_operator_is_shown(changes: dict[str, Any], said: str) -> None:
    found = {
        "operator": OPERATOR, "number": 2, "start": 0, "end": 60_000, "bond": ETHER, "locks": 0, "balance": 2 * ETHER,
        "credit": ETHER // 2, "withdrawable_in": None, "challenges": [],
    }  # fmt: skip
    lines = shown(show_operator, found | changes)
    assert said in lines[1]
    assert lines[0].endswith("no range" if "end" in changes else "[0, 60000), 10.00%")


def test_a_challenge_is_shown_with_its_votes_and_steps() -> None:
    found = {
        "id": 3, "ground": "mismatch", "state": "voting", "job_id": "ab" * 32, "operator": OPERATOR, "challenger": CHALLENGER,
        "votes": [{"juror": DISPATCHER, "verdict": "match"}], "next": ["somebody: something"],
    }  # fmt: skip
    assert shown(show_challenge, found) == [
        "challenge 3 (mismatch) waits for the jury",
        f"  job {'ab' * 32}",
        f"  {CHALLENGER} against {OPERATOR}",
        f"  {DISPATCHER} votes match",
        "  next: somebody: something",
    ]


@pytest.mark.parametrize(
    ("ground", "state", "now", "said"),
    [
        (Ground.MISMATCH, State.OPEN, 1_000, f"{OPERATOR}, for 1 min 40 s more: aos chain answer 3"),
        (
            Ground.MEMBERSHIP,
            State.OPEN,
            1_000,
            "anybody with the dispatcher's seat, for 1 min 40 s more: aos chain answer 3 --operator-config FILE (or --seat SIGNATURE)",
        ),
        (
            Ground.MISMATCH,
            State.OPEN,
            1_100,
            "anybody: aos chain close 3 (the operator loses, having said nothing)",
        ),
        (Ground.MISMATCH, State.VOTING, 1_099, "jurors, for 1 s more: aos chain vote 3 --worker URL"),
        (Ground.MISMATCH, State.VOTING, 1_200, "anybody: aos chain close 3"),
        (Ground.MISMATCH, State.UPHELD, 1_000, "whoever is owed something: aos chain credit --withdraw"),
    ],
)
def test_what_comes_next(ground: Ground, state: State, now: int, said: str) -> None:
    assert next_steps(challenge(ground, state), now) == [said]


def test_votes_are_counted() -> None:
    seats = [Seat(OPERATOR, verdict, 0) for verdict in (Verdict.MATCH, Verdict.MISMATCH, Verdict.MATCH)]
    assert states_of(seats) == "2 match, 1 mismatch"
    assert states_of([]) == "no votes"
