"""The command line: help that teaches, data on stdout, everything else on stderr."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from aos_cli import target
from aos_cli.client import DispatcherClient
from aos_cli.data import DataFolder, Running
from aos_cli.main import app
from support.evidence import CALIBRATION, DISPATCHER, NO_REGISTRY, REQUEST
from unit.cli.fake import DOCUMENT, HERE, JOB, ROWS, FakeDispatcher, installed

runner = CliRunner()
COMMANDS = [
    "demo", "up", "submit", "result", "detail", "verify", "cancel", "attest", "rounds", "challenge", "appeal", "standing", "chat", "provider",
    "doctor", "calibrate",
]  # fmt: skip
ON_CHAIN = [
    "deploy", "register", "update", "leave", "withdraw", "anchor", "status", "challenge", "answer", "vote", "close", "credit",
]  # fmt: skip
MEANS = "verdict: match. The verifiers ran the same prompt and tokens"


@pytest.fixture
def dispatcher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeDispatcher:
    return installed(monkeypatch, tmp_path)


def submit(*more: str) -> Any:
    """Submit the very request that the evidence is of."""
    params = ["--temperature", "1.0", "--top-p", "0.5", "--max-tokens", "1024"]
    who = ["--project", "shop", "--user", "device 1", "--model", "tiny.gguf"]
    return runner.invoke(app, ["submit", "What is AI?", *params, *who, *HERE, *more])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_teaches_with_an_example(command: str) -> None:
    shown = runner.invoke(app, [command, "--help"], terminal_width=200)
    assert shown.exit_code == 0
    assert f"Example: aos {command}" in shown.stdout


@pytest.mark.parametrize("command", ON_CHAIN)
def test_every_help_of_the_chain_teaches_with_an_example(command: str) -> None:
    shown = runner.invoke(app, ["chain", command, "--help"], terminal_width=200)
    assert shown.exit_code == 0
    assert f"Example: aos chain {command}" in " ".join(shown.stdout.split())


def test_the_chain_s_commands_are_those_of_its_help() -> None:
    group = typer.main.get_command(app)
    chain = group.get_command(None, "chain")  # type: ignore[attr-defined,arg-type]
    assert sorted(chain.list_commands(None)) == sorted(ON_CHAIN)


def test_help_needs_neither_web3_nor_a_database_s_libraries() -> None:
    """They take as long to import as all the rest, and few commands need them."""
    script = (
        "import sys, aos_cli.main; sys.exit(not {'web3', 'sqlalchemy', 'alembic'}.isdisjoint(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_commands_are_those_of_the_help() -> None:
    shown = runner.invoke(app, ["--help"], terminal_width=200)
    group = typer.main.get_command(app)
    assert sorted(group.list_commands(None)) == sorted([*COMMANDS, "chain", "keys"])  # type: ignore[attr-defined,arg-type]
    assert 'aos submit "What is AI?" --wait' in " ".join(shown.stdout.split())


def test_up_says_why_one_worker_is_shared() -> None:
    shown = " ".join(runner.invoke(app, ["up", "--help"], terminal_width=200).stdout.split())
    assert "The operators share one worker" in shown
    assert "the model is in memory once" in shown


def test_a_submitted_job_s_id_is_all_there_is_on_stdout(dispatcher: FakeDispatcher) -> None:
    said = submit("--idempotency-key", "order 1")
    assert (said.exit_code, said.stdout) == (0, f"{JOB}\n")
    assert said.stderr == f"number 1, receipt signed by {DISPATCHER.address}\n"
    assert dispatcher.asked == ["http://127.0.0.1:8000", (REQUEST, "order 1")]


def test_parameters_that_are_not_given_are_left_to_the_dispatcher(dispatcher: FakeDispatcher) -> None:
    arguments = [
        "--project",
        "p",
        "--model",
        "m",
        "--stop",
        "a",
        "--stop",
        "b",
        "--tag",
        "suspicion",
        "--job-type",
        "tee",
    ]
    runner.invoke(app, ["submit", "?", *HERE, *arguments])
    request, key = dispatcher.asked[1]
    job = {"tag": "tee", "prompt": "?", "model": "m", "params": {"stop": ["a", "b"]}}
    assert request == {"from": "p", "tag": "suspicion", "user": "aos-cli", "job": job}
    assert key is None


CLAIM = {"output_tokens": [4, 5, 2], "seed": "5" * 64}


def test_a_claimed_text_is_sent_to_be_scored(dispatcher: FakeDispatcher) -> None:
    runner.invoke(app, ["submit", "?", *HERE, "--project", "p", "--model", "m", "--claim-text", "an answer"])
    assert dispatcher.asked[1][0]["job"]["claim"] == {"text": "an answer"}


def test_a_claim_in_a_file_is_sent_as_it_is(dispatcher: FakeDispatcher, tmp_path: Path) -> None:
    file = tmp_path / "claim.json"
    file.write_text(json.dumps(CLAIM))
    runner.invoke(app, ["submit", "?", *HERE, "--project", "p", "--model", "m", "--claim-file", str(file)])
    assert dispatcher.asked[1][0]["job"]["claim"] == CLAIM


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "Expecting property name"),
        ("[]", "Claim: Input should be"),
        ("{}", "exactly one of text and output_tokens"),
        ('{"text": "a", "fingerprints": ""}', "fingerprints need output_tokens, seed and prover"),
        ('{"text": "a", "claimed_by": "me"}', "claimed_by"),
        (b"\xff", "codec can't decode"),
        (None, "No such file"),
    ],
)
def test_what_is_no_claim_is_never_sent(
    dispatcher: FakeDispatcher, tmp_path: Path, text: str | bytes | None, why: str
) -> None:
    file = tmp_path / "claim.json"
    if text is not None:
        file.write_bytes(text.encode() if isinstance(text, str) else text)
    said = runner.invoke(
        app, ["submit", "?", *HERE, "--project", "p", "--model", "m", "--claim-file", str(file)]
    )
    assert said.exit_code == 1
    assert said.stderr.startswith(f"error: the claim in {file} cannot be used: ")
    assert why in said.stderr
    assert dispatcher.asked == []


def test_a_job_has_one_claim(dispatcher: FakeDispatcher, tmp_path: Path) -> None:
    both = ["--claim-text", "a", "--claim-file", str(tmp_path / "claim.json")]
    said = runner.invoke(app, ["submit", "?", *HERE, "--project", "p", "--model", "m", *both])
    assert said.stderr == "error: give --claim-text or --claim-file, not both: a job has one claim\n"
    assert dispatcher.asked == []


def test_a_receipt_for_another_request_is_no_success(dispatcher: FakeDispatcher) -> None:
    said = submit("--tag", "malicious")
    assert (said.exit_code, said.stdout) == (1, "")
    assert said.stderr == (
        f"error: job {JOB}: the receipt is for another request than the one sent: do not rely on this job\n"
    )


def test_a_receipt_of_another_dispatcher_is_no_success(dispatcher: FakeDispatcher) -> None:
    said = submit("--dispatcher-address", NO_REGISTRY)
    assert (said.exit_code, said.stdout) == (1, "")
    assert f"not of {NO_REGISTRY}: do not rely on this job" in said.stderr


def test_evidence_that_cannot_be_read_is_no_success(dispatcher: FakeDispatcher) -> None:
    dispatcher.document = DOCUMENT | {"version": "aos-evidence/9"}
    said = submit()
    assert (said.exit_code, said.stdout) == (1, "")
    assert f"error: job {JOB}: its evidence cannot be read" in said.stderr


def test_waiting_prints_the_answers_and_the_verdict(dispatcher: FakeDispatcher) -> None:
    said = submit("--wait")
    executor, verifier = ROWS
    lines = said.stdout.splitlines()
    assert lines[0] == JOB
    assert [line.split()[:3] for line in lines[1:4]] == [
        ["operator", "role", "verdict"],
        [executor["operator"], "executor", "match"],
        [verifier["operator"], "verifier", "match"],
    ]
    assert lines[4:] == ["", executor["operator"], executor["result"]]
    assert said.stderr.splitlines()[-1].startswith(MEANS)


def test_waiting_for_an_answer_that_does_not_match_fails(dispatcher: FakeDispatcher) -> None:
    dispatcher.verdict = {"outcome": "mismatch", "reason": "likest to: weights Q4_0"}
    said = submit("--wait")
    assert said.exit_code == 1
    assert ROWS[0]["result"] in said.stdout
    assert "this answer is not what it is said to be. (likest to: weights Q4_0)" in said.stderr
    assert said.stderr.endswith(f"error: do not rely on this: aos verify {JOB} shows what was found\n")


def test_waiting_for_a_job_that_fails_fails(dispatcher: FakeDispatcher) -> None:
    dispatcher.status = "failed"
    said = submit("--wait")
    assert (said.exit_code, said.stdout) == (1, f"{JOB}\n")
    assert said.stderr.endswith(f"error: job {JOB} failed: no operator for this model\n")


@pytest.mark.parametrize(
    ("given", "missing"), [(["--project", "p"], "--model NAME"), (["--model", "m"], "--project ID")]
)
def test_what_only_a_local_stack_tells_must_be_given(
    dispatcher: FakeDispatcher, given: list[str], missing: str
) -> None:
    said = runner.invoke(app, ["submit", "?", *HERE, *given])
    assert said.exit_code == 1
    assert said.stderr.startswith(f"error: {missing} is needed")


def test_results_are_shown_or_printed_as_json(dispatcher: FakeDispatcher) -> None:
    assert ROWS[0]["result"] in runner.invoke(app, ["result", JOB, *HERE[:2]]).stdout
    assert json.loads(runner.invoke(app, ["result", JOB, "--json", *HERE[:2]]).stdout) == ROWS


@pytest.mark.parametrize(("kind", "shown"), [("simulated", "SIMULATED"), ("nitro", "nitro")])
def test_the_kind_of_an_enclave_has_a_column_only_where_there_is_one(
    dispatcher: FakeDispatcher, kind: str, shown: str
) -> None:
    without = runner.invoke(app, ["result", JOB, *HERE[:2]]).stdout
    assert without.split()[:4] == ["operator", "role", "verdict", "reason"]
    dispatcher.rows = [ROWS[0] | {"attestation": kind}, *ROWS[1:]]
    lines = runner.invoke(app, ["result", JOB, *HERE[:2]]).stdout.splitlines()
    assert lines[0].split() == ["operator", "role", "enclave", "verdict", "reason"]
    assert [line.split()[2] for line in lines[1:3]] == [shown, "-"]


def test_no_result_yet(dispatcher: FakeDispatcher) -> None:
    dispatcher.rows = []
    said = runner.invoke(app, ["result", JOB, *HERE[:2]])
    assert (said.exit_code, said.stdout) == (0, "")
    assert said.stderr == f"there is no answer yet: aos detail {JOB} tells how the job stands\n"


def test_detail_is_json_that_a_person_can_read(dispatcher: FakeDispatcher) -> None:
    said = runner.invoke(app, ["detail", JOB, *HERE[:2]])
    assert json.loads(said.stdout)["status"] == "completed"
    assert '"prompt": "naïve"' in said.stdout
    assert said.stderr.startswith(MEANS)


@pytest.mark.parametrize("verdict", [None, {}, {"outcome": None}, {"outcome": "\x1b[2J"}, "match"])
def test_a_verdict_that_is_none_is_said_to_be_none(dispatcher: FakeDispatcher, verdict: Any) -> None:
    dispatcher.verdict = verdict
    said = runner.invoke(app, ["detail", JOB, *HERE[:2]])
    assert said.stderr.startswith("no verdict: nobody has scored this answer")


def test_a_verified_job(dispatcher: FakeDispatcher) -> None:
    shown = runner.invoke(app, ["verify", JOB, *HERE])
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    assert lines[0] == "the job, audited"
    assert [line.split()[1:3] for line in lines[1:3]] == [["executor"], ["verifier", "match"]]
    assert lines[3].startswith(MEANS)
    assert [line.split()[0] for line in lines[5:]] == ["PASS"] * 20
    table = json.loads(runner.invoke(app, ["verify", JOB, "--json", *HERE]).stdout)
    assert (table["job_id"], table["passed"], len(table["checks"])) == (JOB, True, 20)
    [round_] = table["rounds"]
    assert (round_["round"], round_["verdict"]) == ("the job, audited", "match")
    assert [member["verdict"] for member in round_["members"]] == [None, "match"]
    assert round_["statistics"].keys() == DOCUMENT["rounds"][0]["verdict"]["statistics"].keys()


def test_a_job_is_held_against_one_s_own_copy_of_the_model(
    dispatcher: FakeDispatcher, tmp_path: Path
) -> None:
    model = tmp_path / "tiny.gguf"
    missing = runner.invoke(app, ["verify", JOB, *HERE, "--model", str(model)])
    assert (missing.exit_code, missing.stdout) == (1, "")
    assert f"there is no model file {model}" in missing.stderr
    model.write_bytes(b"tiny")
    uncalibrated = runner.invoke(app, ["verify", JOB, *HERE, "--model", str(model)])
    assert uncalibrated.exit_code == 1
    assert f"aos calibrate {model} makes one" in " ".join(uncalibrated.stdout.split())
    model.with_suffix(".calibration.json").write_text(json.dumps(CALIBRATION.to_json()))
    whole = runner.invoke(app, ["verify", JOB, *HERE, "--model", str(model)])
    assert whole.exit_code == 0
    assert "PASS  AOS-CALIBRATION-1" in whole.stdout


def test_a_job_that_is_not_verified_fails(dispatcher: FakeDispatcher) -> None:
    dispatcher.rows = [ROWS[0] | {"result": "another"}, *ROWS[1:]]
    for more in ([], ["--json"]):
        shown = runner.invoke(app, ["verify", JOB, *HERE, *more])
        assert shown.exit_code == 1
        assert "AOS-ANSWER-1" in shown.stdout
        assert shown.stderr == "error: not every check passed: this job is not verified\n"


def test_what_is_no_evidence_has_no_looks(dispatcher: FakeDispatcher) -> None:
    dispatcher.document = {"version": "aos-evidence/9"}
    shown = runner.invoke(app, ["verify", JOB, *HERE, "--json"])
    assert shown.exit_code == 1
    table = json.loads(shown.stdout)
    assert (table["rounds"], [check["id"] for check in table["checks"]]) == ([], ["AOS-DOCUMENT-1"])


def test_what_another_dispatcher_says_has_no_looks(dispatcher: FakeDispatcher) -> None:
    """Its scores may be well signed, by operators of its own making."""
    shown = runner.invoke(app, ["verify", JOB, *HERE[:2], "--dispatcher-address", NO_REGISTRY])
    assert shown.exit_code == 1
    assert shown.stdout.startswith("FAIL  AOS-DOCUMENT-1  ")
    assert "verdict" not in shown.stdout


def test_an_address_that_is_not_known_is_no_pass(dispatcher: FakeDispatcher) -> None:
    shown = runner.invoke(app, ["verify", JOB, *HERE[:2]])
    assert shown.exit_code == 1
    assert "\nSKIP  AOS-PIN-1" in shown.stdout


def test_an_error_of_the_api_is_one_line(dispatcher: FakeDispatcher) -> None:
    said = runner.invoke(app, ["cancel", JOB, *HERE[:2]])
    assert (said.exit_code, said.stdout, said.stderr) == (1, "", "error: an API token is required (401)\n")


@pytest.mark.parametrize("job_id", ["", "12", "AB" * 32, "../detail", "ab" * 33])
def test_what_is_no_job_id_is_never_sent(dispatcher: FakeDispatcher, job_id: str) -> None:
    for command in ("result", "detail", "verify", "cancel"):
        said = runner.invoke(app, [command, job_id, *HERE[:2]])
        assert said.exit_code == 2
        assert "a job id is 64 lower-case hex digits" in said.stderr.replace("\n", " ")
    assert dispatcher.asked == []


def test_what_is_no_address_is_a_usage_error(dispatcher: FakeDispatcher) -> None:
    said = runner.invoke(app, ["verify", JOB, "--dispatcher", "http://d", "--dispatcher-address", "0x12"])
    assert said.exit_code == 2
    assert "is no address" in said.stderr


def test_the_running_stack_is_found(dispatcher: FakeDispatcher, tmp_path: Path) -> None:
    import os

    folder = DataFolder(tmp_path / "data")
    folder.make()
    folder.keystore("dispatcher").write_text(json.dumps({"address": DISPATCHER.address}))
    folder.token_file.write_text("aos_local\n")
    running = Running(pid=os.getpid(), url="http://127.0.0.1:8123", project="shop", model="tiny.gguf")
    params = ["--temperature", "1.0", "--top-p", "0.5", "--max-tokens", "1024"]
    with folder.announced(running):
        said = runner.invoke(app, ["submit", "What is AI?", "--user", "device 1", *params])
        verified = runner.invoke(app, ["verify", JOB])
    assert (said.exit_code, verified.exit_code) == (0, 0)
    assert dispatcher.asked[0] == "http://127.0.0.1:8123"
    assert dispatcher.token == "aos_local"
    assert runner.invoke(app, ["verify", JOB]).stderr.startswith("error: no dispatcher is named")


def test_the_environment_names_dispatcher_and_token(
    dispatcher: FakeDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AOS_DISPATCHER", "https://dispatcher.example")
    monkeypatch.setenv("AOS_DISPATCHER_ADDRESS", DISPATCHER.address)
    monkeypatch.setenv("AOS_TOKEN", "aos_environment")
    assert runner.invoke(app, ["verify", JOB]).exit_code == 0
    assert dispatcher.asked == ["https://dispatcher.example"]
    assert dispatcher.token == "aos_environment"


def test_the_demo_model_is_the_default_and_must_be_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from aos_cli import models

    assert models.model_file(None) == models.DEMO_MODEL
    monkeypatch.setattr(models, "DEMO_MODEL", tmp_path / "gone.gguf")
    said = runner.invoke(app, ["up", "--data", str(tmp_path)])
    assert said.exit_code == 1
    assert "the demo model is part of the checkout; give another with --model" in said.stderr


def test_the_client_that_commands_use_is_the_real_one() -> None:
    assert target.DispatcherClient is DispatcherClient
