"""`aos rounds`, `challenge`, `appeal` and `standing`: what is sent and signed, and how it is told."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from aos_cli.keys import new_keystore
from aos_cli.main import app
from aos_protocol.evidence_view import open_result
from aos_protocol.identity import Signer
from aos_protocol.typed_data import ChallengeClaim, recover_typed
from aos_service.keys import open_keystore
from support.evidence import DISPATCHER, DOMAIN, Story
from unit.cli.fake import DOCUMENT, HERE, JOB, ROWS, FakeDispatcher, installed

runner = CliRunner()
URL = HERE[:2]
MAKER: str = ROWS[0]["operator"]


@pytest.fixture
def dispatcher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeDispatcher:
    return installed(monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def keystore(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that open a new operator's keystore."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "password").write_text("correct horse\n")
    (folder / "password").chmod(0o600)
    new_keystore(folder / "key.json", "correct horse")
    return ["--keystore", str(folder / "key.json"), "--password-file", str(folder / "password")]


def signer_of(keystore: list[str]) -> Signer:
    return open_keystore(Path(keystore[1]), "correct horse")


def aos(*arguments: str) -> Any:
    return runner.invoke(app, [*arguments, *URL])


def test_the_project_challenges_by_its_token(
    dispatcher: FakeDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AOS_TOKEN", "aos_project")
    said = aos("challenge", JOB, MAKER.lower(), "--reason", "it reads oddly", "--tag", "suspicion")
    assert (said.exit_code, said.stdout) == (0, "challenge 1 of 0xAB_row is open\n")
    assert said.stderr == f"aos verify {JOB} shows and checks it once it is decided\n"
    body = {"job_id": JOB, "operator": MAKER, "reason": "it reads oddly", "tag": "suspicion"}
    assert dispatcher.asked[1] == body
    assert dispatcher.token == "aos_project"


def test_the_tag_is_left_to_the_dispatcher(dispatcher: FakeDispatcher) -> None:
    aos("challenge", JOB, MAKER)
    assert dispatcher.asked[1] == {"job_id": JOB, "operator": MAKER, "reason": ""}


def test_an_operator_challenges_by_its_signature(dispatcher: FakeDispatcher, keystore: list[str]) -> None:
    said = aos("challenge", JOB, MAKER, "--reason", "why not", *keystore)
    assert said.exit_code == 0
    body = dispatcher.asked[1]
    signer = signer_of(keystore)
    claim = ChallengeClaim(signer.address, "challenge", f"{MAKER}_{JOB}_", "why not")
    assert recover_typed(DOMAIN, claim, body.pop("signature")) == signer.address
    assert body == {
        "job_id": JOB, "operator": MAKER, "reason": "why not", "tag": "", "challenger": signer.address,
    }  # fmt: skip


def test_a_password_that_others_can_read_is_refused_and_nothing_is_sent(
    dispatcher: FakeDispatcher, keystore: list[str]
) -> None:
    Path(keystore[3]).chmod(0o644)
    said = aos("challenge", JOB, MAKER, "--json", *keystore)
    Path(keystore[3]).chmod(0o600)
    assert said.exit_code == 1
    assert "is open to other users (mode 0644)" in said.stderr
    assert dispatcher.asked == []


def test_what_is_open_is_printed_as_json(dispatcher: FakeDispatcher) -> None:
    said = aos("challenge", JOB, MAKER, "--json")
    assert json.loads(said.stdout) == {
        "job_id": JOB, "result": "0xAB_row", "challenge": 1, "purpose": "challenge", "status": "open",
    }  # fmt: skip


def test_an_operator_without_an_answer_has_nothing_to_challenge(
    dispatcher: FakeDispatcher, keystore: list[str]
) -> None:
    said = aos("challenge", JOB, DISPATCHER.address, *keystore)
    assert said.exit_code == 1
    assert said.stderr == (
        f"error: operator {DISPATCHER.address} has no answer to this job: aos result JOB lists who has\n"
    )


def test_one_of_several_answers_must_be_named(dispatcher: FakeDispatcher, keystore: list[str]) -> None:
    story = Story(operators=2)
    maker = open_result(story.own()["results"][0]).operator
    story.before("malicious")
    dispatcher.document = story.document()
    job = dispatcher.document["job"]["job_id"]
    said = aos("challenge", job, maker, *keystore)
    assert said.stderr == (
        "error: the operator answered under several tags: choose one of ['', 'malicious'] with --tag\n"
    )
    assert aos("challenge", job, maker, "--tag", "malicious", *keystore).exit_code == 0
    claim = ChallengeClaim(signer_of(keystore).address, "challenge", f"{maker}_{job}_malicious", "")
    signed = dispatcher.asked[-1]["signature"]
    assert recover_typed(DOMAIN, claim, signed) == signer_of(keystore).address


def test_evidence_that_cannot_be_read_is_signed_by_nobody(
    dispatcher: FakeDispatcher, keystore: list[str]
) -> None:
    dispatcher.document = DOCUMENT | {"version": "aos-evidence/9"}
    said = aos("challenge", JOB, MAKER, *keystore)
    assert said.exit_code == 1
    assert said.stderr.startswith("error: the job's evidence cannot be read: Evidence: version")


def test_an_operator_appeals_about_its_own_answer(
    dispatcher: FakeDispatcher, keystore: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    story = Story()
    story.own()
    maker = story.rounds[0]["committee"][0]["operator"]
    signer = next(actor.signer for actor in story.crew if actor.address == maker)
    monkeypatch.setattr("aos_cli.disputes.open_keystore", lambda *_: signer)
    said = aos("appeal", JOB, "--reason", "I did run it", *keystore)
    assert said.stdout == "appeal 1 of 0xAB_row is open\n"
    body = dispatcher.asked[1]
    claim = ChallengeClaim(maker, "appeal", f"{maker}_{JOB}_", "I did run it")
    assert recover_typed(DOMAIN, claim, body.pop("signature")) == maker
    assert body == {"operator": maker, "result": f"{maker}_{JOB}_", "reason": "I did run it"}


def test_an_appeal_needs_an_answer_of_one_s_own(dispatcher: FakeDispatcher, keystore: list[str]) -> None:
    said = aos("appeal", JOB, *keystore)
    assert said.exit_code == 1
    assert "has no answer to this job" in said.stderr


@pytest.mark.parametrize("command", [["challenge", JOB, "0x12"], ["standing", "0x12"]])
def test_what_is_no_address_is_never_sent(dispatcher: FakeDispatcher, command: list[str]) -> None:
    said = aos(*command)
    assert said.exit_code == 2
    assert "is no address" in said.stderr
    assert dispatcher.asked == []


ROUND = {
    "verify_id": "7",
    "job_id": JOB,
    "tag": "suspicion",
    "position": "before",
    "challenge": 0,
    "purpose": "before",
    "cause": "c" * 64,
    "status": "completed",
    "verdict": "match",
    "reason": "3 of 3 verifiers\x1b[2J: [red]fine",
    "created_at": "2026-01-02 03:04:05",
}


def test_a_user_s_rounds_are_listed(dispatcher: FakeDispatcher) -> None:
    dispatcher.page = {
        "result": [ROUND, ROUND | {"verify_id": "6", "verdict": None, "status": "created"}],
        "next": "6",
    }
    said = aos("rounds", "device 1", "--limit", "2")
    head, first, *_ = said.stdout.splitlines()
    assert head.split() == ["round", "at", "(UTC)", "job", "why", "verdict", "reason"]
    assert first.split()[:3] == ["7", "2026-01-02", "03:04:05"]
    assert "before suspicion before" in first
    assert "match" in first
    assert "\ufffd[2J: [red]fine" in said.stdout
    assert "created" in said.stdout
    assert said.stderr == "there are more: aos rounds device 1 --before 6\n"
    assert dispatcher.asked[1] == {"user": "device 1", "limit": 2}


def test_the_next_page_goes_on_behind_the_last(dispatcher: FakeDispatcher) -> None:
    said = aos("rounds", "u", "--before", "6")
    assert dispatcher.asked[1] == {"user": "u", "limit": 20, "before": "6"}
    assert (said.stdout, said.stderr) == ("", "no job of u was verified, as far as you may read them\n")


def test_rounds_are_printed_as_json(dispatcher: FakeDispatcher) -> None:
    dispatcher.page = {"result": [ROUND], "next": None}
    assert json.loads(aos("rounds", "u", "--json").stdout) == dispatcher.page


GOOD: dict[str, Any] = {
    "operator": MAKER,
    "standing": "good",
    "suspended_at": None,
    "suspend_after": 2,
    "appeal": "none",
    "frauds": [],
}
FRAUD = {
    "job_id": JOB,
    "result": f"{MAKER}_{JOB}_",
    "status": "upheld",
    "step": 3,
    "created_at": "2026-01-02 03:04:05",
}


def test_a_good_standing_is_two_lines(dispatcher: FakeDispatcher) -> None:
    dispatcher.found = GOOD
    said = aos("standing", MAKER)
    assert said.stdout.splitlines() == [
        f"{MAKER}  good",
        "findings that stand: 0, 2 suspend an operator; appeal: none",
    ]
    assert dispatcher.asked[1] == MAKER


def test_findings_are_listed_with_the_step_that_shows_them(dispatcher: FakeDispatcher) -> None:
    frauds = [
        FRAUD,
        FRAUD | {"step": None, "status": "withdrawn"},
        FRAUD | {"result": None, "step": None},
    ]
    dispatcher.found = GOOD | {
        "standing": "suspended",
        "suspended_at": "2026-01-03 00:00:00",
        "appeal": "available",
        "frauds": frauds,
    }
    assert aos("standing", MAKER).stdout.splitlines() == [
        f"{MAKER}  suspended since 2026-01-03 00:00:00 UTC",
        "findings that stand: 2, 2 suspend an operator; appeal: available",
        f"  2026-01-02 03:04:05  upheld: job {JOB}, first wrong step: 3",
        f"  2026-01-02 03:04:05  withdrawn: job {JOB}, no single step shows it",
        f"  2026-01-02 03:04:05  upheld: over many jobs, up to {JOB}",
    ]
    assert json.loads(aos("standing", MAKER, "--json").stdout) == dispatcher.found
