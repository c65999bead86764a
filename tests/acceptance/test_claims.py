"""Claims on a running `aos up`: answers that somebody says to have from the model, scored instead of generated."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from acceptance.processes import Network

SAMPLED = ("Tell me about the sea.", "--temperature", "1.6", "--max-tokens", "64")
"""Sampled so wildly that nobody could guess the tokens: with few tokens to guess, a claim proves nothing."""

ENOUGH = 24
"""Tokens of an answer that are hard enough to guess together, with many behind the one that is edited."""


TRIES = 4
"""Two tokens may be as good as equally likely, about once in 500 answers: then a score leaves open what else it would decide."""


def genuine(network: Network) -> dict[str, Any]:
    """A transcript of an answer that is no shorter than the tests need, as about one in fifty is."""
    for _ in range(20):
        said = network.aos("submit", *SAMPLED, "--wait")
        assert said.returncode == 0, said.stderr
        job_id = said.stdout.split("\n", 1)[0]
        (frame,) = network.ask(f"/api/job/evidence/{job_id}")["rounds"][0]["results"]
        made: dict[str, Any] = json.loads(frame)["params"][0]["transcript"]
        if len(made["output_tokens"]) >= ENOUGH:
            return made
    pytest.fail(f"none of 20 answers has {ENOUGH} tokens")


@pytest.fixture(scope="module")
def transcript(network: Network) -> dict[str, Any]:
    """A genuine answer's transcript."""
    return genuine(network)


def edited(tokens: list[int], at: int) -> list[int]:
    """With another token of the same answer in this place."""
    other = next(token for token in tokens if token != tokens[at])
    return [*tokens[:at], other, *tokens[at + 1 :]]


def scored(network: Network, folder: Path, claim: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Have a claim scored by `aos submit --claim-file`; its exit status, and the job's detail."""
    file = folder / "claim.json"
    file.write_text(json.dumps(claim))
    said = network.aos("submit", *SAMPLED, "--claim-file", str(file), "--wait")
    job_id = said.stdout.split("\n", 1)[0]
    rows = network.ask("/api/job/result", {"job_id": job_id})["result"]
    assert {row["role"] for row in rows} == {"verifier"}
    assert len(rows) >= 2
    detail = network.settled(job_id)
    assert f"verdict: {detail['verdict']['outcome']}. " in said.stderr
    return said.returncode, detail


LEVELS = {
    "likelihood": {"output_tokens"},
    "seeded": {"output_tokens", "seed"},
    "fingerprint": {"output_tokens", "seed", "prover", "fingerprints"},
}


@pytest.mark.parametrize(
    ("level", "outcome"), [("likelihood", "inconclusive"), ("seeded", "match"), ("fingerprint", "match")]
)
def test_a_genuine_claim_says_more_the_more_it_brings(
    network: Network, tmp_path: Path, transcript: dict[str, Any], level: str, outcome: str
) -> None:
    for _ in range(TRIES):
        status, detail = scored(network, tmp_path, {name: transcript[name] for name in LEVELS[level]})
        verdict = detail["verdict"]
        if verdict["outcome"] == outcome:
            break
        assert verdict["outcome"] == "inconclusive", verdict
        transcript = genuine(network)
    assert (status, verdict["level"], verdict["outcome"]) == (0, level, outcome), verdict
    if outcome == "inconclusive":
        assert verdict["tokens_needed"] > len(transcript["output_tokens"])


@pytest.mark.parametrize("level", ["seeded", "fingerprint"])
def test_a_single_edited_token_is_a_mismatch(
    network: Network, tmp_path: Path, transcript: dict[str, Any], level: str
) -> None:
    claim = {name: transcript[name] for name in LEVELS[level]}
    for at in range(10, 10 + TRIES):
        status, detail = scored(
            network, tmp_path, claim | {"output_tokens": edited(claim["output_tokens"], at)}
        )
        if detail["verdict"]["outcome"] != "inconclusive":
            break
    assert (status, detail["verdict"]["outcome"]) == (1, "mismatch"), detail["verdict"]
    checked = network.aos("verify", detail["id"])
    assert checked.returncode == 1
    assert checked.stdout.count("FAIL") == 1
    assert "FAIL  AOS-MATCH-1" in checked.stdout
    assert "verdict: mismatch. " in checked.stdout


def test_one_other_word_in_a_claimed_text_is_a_mismatch(network: Network) -> None:
    """A text alone says least: the verdict on the genuine one is how many tokens it would take."""
    greedy = ("What is AI?", "--temperature", "0", "--max-tokens", "64")
    job_id = network.aos("submit", *greedy, "--wait").stdout.split("\n", 1)[0]
    text = network.ask("/api/job/result", {"job_id": job_id})["result"][0]["result"]
    genuine = network.aos("submit", *greedy, "--claim-text", text, "--wait")
    assert genuine.returncode == 0, genuine.stderr
    assert re.search(
        r"verdict: inconclusive\. .*\(\d+ tokens cannot decide; about \d+ would\)", genuine.stderr
    )
    words = text.split(" ")
    words[len(words) // 2] = "banana"
    other = network.aos("submit", *greedy, "--claim-text", " ".join(words), "--wait")
    assert other.returncode == 1, other.stderr
    assert re.search(r"verdict: mismatch\. .*token \d+ is not the likeliest one", other.stderr)
    other_id = other.stdout.split("\n", 1)[0]
    assert other.stderr.endswith(f"error: do not rely on this: aos verify {other_id} shows what was found\n")


def test_text_and_file_of_a_claim_exclude_each_other(network: Network, tmp_path: Path) -> None:
    file = tmp_path / "claim.json"
    file.write_text('{"output_tokens": []}')
    both = network.aos("submit", *SAMPLED, "--claim-text", "the sea", "--claim-file", str(file))
    assert both.returncode == 1
    assert both.stderr == "error: give --claim-text or --claim-file, not both: a job has one claim\n"
    empty = network.aos("submit", *SAMPLED, "--claim-file", str(file))
    assert empty.returncode == 1
    assert f"error: the claim in {file} cannot be used: " in empty.stderr
