"""Second looks on a running `aos up`: suspected users, challenges, and where an operator stands."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from acceptance.processes import Network

JOB = {"tag": "opml", "prompt": "What is AI?", "params": {"top_p": 0.5, "max_tokens": 64}}
CHALLENGE = {
    "AOS-TICKET-1",
    "AOS-COMMITTEE-1",
    "AOS-ROLE-1",
    "AOS-SCORE-1",
    "AOS-CLOCK-1",
    "AOS-MODEL-1",
    "AOS-COMPLETE-1",
    "AOS-VERDICT-1",
    "AOS-CHALLENGE-1",
}
"""The checks of a challenge's round."""


def submit(network: Network, tag: str = "", user: str = "anybody") -> tuple[str, list[dict[str, Any]]]:
    """A job that has ended well: its id, and who did what, the executor first."""
    request = {"from": "demo", "tag": tag, "user": user, "job": JOB | {"model": network.model}}
    job_id = network.ask("/api/job/submit", request | {"verify": network.token})["result"]
    assert network.settled(job_id)["status"] == "completed"
    rows = network.ask("/api/job/result", {"job_id": job_id})["result"]
    return job_id, sorted(rows, key=lambda row: str(row["role"]))


def verified(network: Network, job_id: str, *options: str) -> dict[str, Any]:
    """What `aos verify` says of a job of which everything holds."""
    said = network.aos("verify", job_id, "--json", *options)
    table: dict[str, Any] = json.loads(said.stdout)
    assert said.returncode == 0, table
    assert table["passed"] is True
    assert {check["status"] for check in table["checks"]} == {"PASS"}
    return table


def rounds_of(network: Network, user: str) -> list[tuple[str, str, str, str]]:
    """Job, purpose, tag and verdict of each round that `aos rounds` lists, newest first."""
    page = json.loads(network.aos("rounds", user, "--json").stdout)
    assert page["next"] is None
    return [(row["job_id"], row["purpose"], row["tag"], row["verdict"]) for row in page["result"]]


def keystore(network: Network, operator: str) -> list[str]:
    """The options that make `aos` speak as one of the network's operators."""
    file = next(
        file
        for file in (network.data / "keys").glob("operator-*.json")
        if json.loads(file.read_text())["address"].lower() in operator.lower()
    )
    return ["--keystore", str(file), "--password-file", str(network.data / "keys" / "password")]


def test_a_suspected_user_is_looked_at_again(network: Network) -> None:
    before, _ = submit(network, user="walker")
    tagged, rows = submit(network, "suspicion", "walker")
    assert [row["role"] for row in rows] == ["executor", "verifier", "verifier"]
    assert {(row["tag"], row["verdict"]) for row in rows} == {("suspicion", "match")}
    network.settled(before)
    later, _ = submit(network, user="walker")

    assert rounds_of(network, "walker") == [
        (later, "job", "suspicion", "match"),
        (before, "before", "suspicion", "match"),
        (tagged, "job", "suspicion", "match"),
        (before, "audit", "", "match"),
    ]
    looks = [(look["round"], look["verdict"]) for look in verified(network, before)["rounds"]]
    assert looks == [("the job, audited", "match"), ("suspicion, looked at again", "match")]
    verified(network, tagged)
    verified(network, later)
    shown = network.aos("rounds", "walker").stdout
    assert re.search(rf"{before}  before suspicion before +match ", shown)


def test_verifiers_of_a_malicious_user_answer_themselves(network: Network) -> None:
    job_id, rows = submit(network, "malicious", "mallory")
    assert [row["role"] for row in rows] == ["executor", "verifier", "verifier"]
    assert {row["verdict"] for row in rows} == {"match"}
    assert len({row["signature"] for row in rows}) == 3
    assert all(len(row["result"].split()) > 5 for row in rows)
    shown = network.aos("result", job_id).stdout
    assert [shown.count(f"\n\n{row['operator']}  malicious\n") for row in rows] == [1, 1, 1]
    verified(network, job_id)


def test_the_project_challenges_an_answer_once(network: Network, demo_model: Path) -> None:
    job_id, rows = submit(network, user="doubted")
    executor = rows[0]["operator"]
    opened = network.aos("challenge", job_id, executor, "--reason", "it reads oddly")
    assert opened.stdout == f"challenge 1 of {executor}_{job_id}_ is open\n", opened.stderr
    assert f"aos verify {job_id} shows and checks it" in opened.stderr
    detail = network.settled(job_id)
    assert (detail["final"], detail["verdict"]["outcome"]) == (True, "match")

    table = verified(network, job_id, "--model", str(demo_model))
    of_challenge = {check["id"] for check in table["checks"] if "[challenge 1]" in check["what"]}
    assert of_challenge == CHALLENGE
    assert [check["id"] for check in table["checks"]][-2:] == ["AOS-FILE-1", "AOS-CALIBRATION-1"]
    look = table["rounds"][1]
    assert (look["round"], look["verdict"]) == ("challenge 1", "match")
    assert executor not in {member["operator"] for member in look["members"]}
    assert rounds_of(network, "doubted")[0] == (job_id, "challenge", "suspicion", "match")
    again = network.aos("challenge", job_id, executor)
    assert again.returncode == 1
    assert again.stderr == "error: the result was looked at again already: challenge 1 was rejected (409)\n"


def test_an_operator_challenges_another_one_s_answer_and_not_its_own(network: Network) -> None:
    job_id, rows = submit(network)
    executor, verifier = rows[0]["operator"], rows[1]["operator"]
    own = network.aos("challenge", job_id, executor, *keystore(network, executor))
    assert own.returncode == 1
    assert "nobody challenges a result of its own" in own.stderr
    other = network.aos("challenge", job_id, executor, *keystore(network, verifier), "--json")
    assert other.returncode == 0, other.stderr
    said = json.loads(other.stdout)
    assert (said["purpose"], said["challenge"], said["status"]) == ("challenge", 1, "open")
    network.settled(job_id)
    table = verified(network, job_id)
    (asked,) = (check for check in table["checks"] if check["id"] == "AOS-CHALLENGE-1")
    assert "asked for by the operator" in asked["what"]
    members = {member["operator"] for member in table["rounds"][1]["members"]}
    assert members.isdisjoint({executor, verifier})
    assert len(members) == 1


@pytest.mark.parametrize("tag", ["", "suspicion"])
def test_only_what_an_operator_answered_can_be_challenged(network: Network, tag: str) -> None:
    job_id, rows = submit(network, tag)
    verifier = rows[-1]["operator"]
    refused = network.aos("challenge", job_id, verifier)
    assert refused.returncode == 1, refused.stdout
    assert verifier in refused.stderr


def test_standing_of_an_honest_operator(network: Network) -> None:
    job_id, rows = submit(network)
    executor = rows[0]["operator"]
    assert network.aos("standing", executor).stdout == (
        f"{executor}  good\nfindings that stand: 0, 2 suspend an operator; appeal: none\n"
    )
    found = json.loads(network.aos("standing", executor, "--json").stdout)
    assert (found["standing"], found["suspended_at"], found["frauds"]) == ("good", None, [])
    nobody = network.aos("standing", "0x00000000000000000000000000000000000000AA")
    assert nobody.returncode == 1
    assert "there is no operator 0x00000000000000000000000000000000000000AA here" in nobody.stderr
    refused = network.aos("appeal", job_id, *keystore(network, executor))
    assert refused.returncode == 1
    assert f"{executor} is not suspended, so there is nothing to appeal against (409)" in refused.stderr
