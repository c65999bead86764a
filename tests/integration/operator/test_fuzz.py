"""A short run of the frame fuzzer against an operator process; a long one: python -m tests.fuzz.frames --against operator."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from fuzz.attack_operator import operator_under_attack
from fuzz.frames import attack_operator


@pytest.mark.timeout(120)
async def test_a_hostile_dispatcher_stops_no_honest_work(
    tmp_path: Path, new_database: Callable[[str], Awaitable[str]], redis_url: str
) -> None:
    async with operator_under_attack(tmp_path, await new_database("operator"), redis_url) as attack:
        outcome = await attack_operator(attack, 400, seed=6)
    assert outcome.problems == [], str(outcome)
    assert outcome.told[400] > 130, str(outcome)
    assert outcome.sent["wire"] == 2
