"""Each way to cheat, by one operator of a network of real parts: it is caught, and nobody honest is."""

import asyncio
from collections import defaultdict
from itertools import count
from typing import Any

import pytest

from integration.cheats.cheats import CHEATS, Cheat
from integration.cheats.conftest import HONEST, MODEL, Members

JOBS = 4
"""Jobs at a time; one operator of four cheats, so that it executes about one of them. There are more of them until one gives it away."""
QUESTIONS = ("What is AI?", "What does AOS do?", "What is machine learning?", "What is a language model?")


async def executed(members: Members, number: int) -> dict[str, Any]:
    """Submit a job of a suspected user of its own, and wait for its verdict: the executor's row."""
    params = {"temperature": 1.5, "top_p": 0.98, "max_tokens": 200}
    job = {"tag": "opml", "prompt": QUESTIONS[number % len(QUESTIONS)], "model": MODEL, "params": params}
    job_id = await members.network.submit(user=f"user {number}", tag="suspicion", job=job)
    detail = await members.network.finished(job_id)
    assert detail["status"] == "completed", detail
    (row,) = [row for row in await members.network.results(job_id) if row["role"] == "executor"]
    return row


async def findings(members: Members, operator: str) -> list[dict[str, Any]]:
    answer = await members.network.client.get(f"/api/operator/standing/{operator}")
    assert answer.status_code == 200, answer.text
    frauds: list[dict[str, Any]] = answer.json()["result"]["frauds"]
    return frauds


async def first_finding(members: Members, operator: str) -> dict[str, Any]:
    """What the second committee finds, once it does."""
    while not (found := await findings(members, operator)):
        await asyncio.sleep(0.05)
    return found[0]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("cheat", CHEATS)
async def test_it_is_caught_and_nobody_honest_is(
    cheat: type[Cheat], members: Members, workers: dict[str, str]
) -> None:
    honest = set(members.addresses)
    cheater = await members.add(members.keep(cheat(workers["true"], workers)))
    verdicts: dict[str, set[str]] = defaultdict(set)
    for batch in count():
        numbers = range(JOBS * batch, JOBS * (batch + 1))
        for row in await asyncio.gather(*[executed(members, number) for number in numbers]):
            verdicts[row["operator"]].add(row["verdict"])
        if "mismatch" in verdicts[cheater]:
            break
    del verdicts[cheater]
    assert "mismatch" not in set().union(*verdicts.values())
    found = await first_finding(members, cheater)
    assert (found["status"], found["verdict"]["outcome"]) == ("upheld", "mismatch")
    assert [await findings(members, operator) for operator in honest] == [[]] * HONEST
