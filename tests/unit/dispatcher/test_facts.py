"""What a round asks of its committee, by its job, tag and challenge."""

import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from aos_dispatcher.committee import Plan
from aos_dispatcher.facts import RoundFacts


def facts(claim: dict[str, Any] | None = None, **changes: Any) -> RoundFacts:
    job: dict[str, Any] = {"tag": "opml", "prompt": "x", "model": "tiny.gguf"} | (
        {"claim": claim} if claim else {}
    )
    row = {
        "id": 1,
        "fencing_token": 1,
        "job_id": "ab" * 32,
        "tag": "",
        "position": "",
        "challenge": 0,
        "purpose": "job",
        "subject": None,
        "subject_frame": None,
        "request": {"from": "shop", "user": "device", "job": job},
        "sequence": 1,
        "request_digest": "cd" * 32,
        "receipt": "0" * 130,
        "seed": None,
        "seed_proof": None,
        "job_seed": "11" * 32,
        "job_seed_proof": "22" * 81,
        "model": "tiny.gguf",
        "model_sha256": "ef" * 32,
        "clock": {"1": "1"},
        "deadline": datetime.now(UTC) + timedelta(seconds=60),
        "least_evidence": None,
    }
    read: Any = SimpleNamespace(**row | changes)
    return RoundFacts.from_row(read)


@pytest.mark.parametrize(
    ("stored", "least"), [(None, "fingerprints"), ("fingerprints", "fingerprints"), ("text", "text")]
)
def test_answers_have_to_show_what_they_had_to_when_the_job_came(stored: str | None, least: str) -> None:
    assert facts(least_evidence=stored).least == least


@pytest.mark.parametrize(
    ("changes", "members", "plan"),
    [
        ({}, 1, Plan(executes=True, blind=False, minimum=1, needed=1)),
        ({"purpose": "audit"}, 2, Plan(executes=True, blind=False, minimum=2, needed=1)),
        ({"purpose": "audit"}, 1, Plan(executes=True, blind=False, minimum=1, needed=1)),
        ({"tag": "suspicion"}, 4, Plan(executes=True, blind=False, minimum=3, needed=1)),
        ({"tag": "malicious"}, 5, Plan(executes=True, blind=True, minimum=5, needed=1)),
        ({"claim": {"text": "so"}}, 1, Plan(executes=False, blind=False, minimum=1, needed=1)),
        (
            {"claim": {"text": "so"}, "tag": "malicious"},
            5,
            Plan(executes=False, blind=False, minimum=5, needed=1),
        ),
        ({"tag": "suspicion", "challenge": 1}, 4, Plan(executes=False, blind=False, minimum=3, needed=3)),
        ({"tag": "suspicion", "challenge": 2}, 2, Plan(executes=False, blind=False, minimum=2, needed=2)),
    ],
)
def test_the_plan_of_a_round(changes: dict[str, Any], members: int, plan: Plan) -> None:
    assert facts(**changes).plan(members) == plan


def test_a_challenge_is_drawn_on_its_own_seed_and_its_subject_was_sampled_with_the_jobs() -> None:
    challenged = facts(challenge=1, tag="suspicion", seed="33" * 32, seed_proof="44" * 81)
    assert (challenged.seed, challenged.job_seed) == ("33" * 32, "11" * 32)
    ordinary = facts()
    assert (ordinary.seed, ordinary.seed_proof) == (ordinary.job_seed, ordinary.job_seed_proof)


@pytest.mark.parametrize(
    ("changes", "own"),
    [
        ({}, True),
        ({"tag": "suspicion", "position": "after"}, True),
        ({"tag": "suspicion", "position": "before"}, False),
        ({"tag": "suspicion", "position": "after", "challenge": 1}, False),
    ],
)
def test_the_job_ends_with_its_own_round(changes: dict[str, Any], own: bool) -> None:
    assert facts(**changes).own is own


def test_the_deadline_is_seconds_of_this_process() -> None:
    before = time.monotonic()
    deadline = facts().deadline
    assert before + 59.9 < deadline < time.monotonic() + 60.1


READER = "0x" + "1" * 40
SEALED = {
    "suite": "0x0020-0x0001-0x0002",
    "reply_key": "ab" * 32,
    "boxes": [{"operator": READER, "keyset": "cd" * 32, "box": "AAAA"}],
}


def sealed() -> RoundFacts:
    job = {"tag": "tee", "sealed": SEALED, "model": "tiny.gguf"}
    return facts(request={"from": "shop", "user": "device", "job": job})


def test_a_sealed_prompt_is_for_its_readers_and_one_of_them_works_alone() -> None:
    assert (sealed().readers, sealed().alone) == (frozenset({READER}), True)
    assert sealed().may_ask(READER)
    assert not sealed().may_ask("0x" + "2" * 40)
    assert sealed().plan(1) == Plan(executes=True, blind=False, minimum=1, needed=1)


def test_an_open_prompt_is_for_everybody_but_who_made_the_claim() -> None:
    assert (facts().readers, facts().alone) == (None, False)
    assert facts().may_ask(READER)
    claim = {"output_tokens": [1], "seed": "ab" * 32, "prover": READER}
    assert not facts(claim).may_ask(READER)
    assert facts(claim).may_ask("0x" + "2" * 40)
