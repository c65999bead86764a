"""`aos submit --private`, `aos result --reply-key` and `aos verify --policy`: what is sent, shown, kept and refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from aos_cli import enclaves
from aos_cli.failures import ApiError
from aos_cli.main import app
from aos_protocol.attestation.appraisal import appraise
from support.evidence import DISPATCHER, MODEL
from unit.cli.fake import HERE, put_in_place
from unit.cli.sealing import ANSWER, OPERATOR, PrivateDispatcher, enclave, sealed_to

runner = CliRunner()
PROMPT = "What does the merger cost?"
ASKED = ["--project", "shop", "--model", MODEL.name, *HERE]


@pytest.fixture
def dispatcher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> PrivateDispatcher:
    own = enclave(tmp_path / "simulator")
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(own.policy.to_json()))
    monkeypatch.chdir(tmp_path)
    return put_in_place(PrivateDispatcher(own), monkeypatch, tmp_path)


def submit(*more: str, prompt: str = PROMPT, **stdin: Any) -> Any:
    return runner.invoke(
        app, ["submit", prompt, "--private", "--policy", "policy.yaml", *ASKED, *more], **stdin
    )


def data_of(said: Any) -> list[str]:
    """The lines of stdout that the command itself wrote: the enclave of the tests logs there, too."""
    return [line for line in said.stdout.splitlines() if "keyset made" not in line]


def test_a_private_job_is_sealed_submitted_opened_and_shown(dispatcher: PrivateDispatcher) -> None:
    said = submit("--wait")
    assert said.exit_code == 0, said.output
    [request] = dispatcher.requests
    assert PROMPT not in json.dumps(request)
    assert (request["job"]["tag"], "prompt" in request["job"]) == ("tee", False)
    assert data_of(said)[0] == dispatcher.document["job"]["job_id"]
    assert ANSWER in said.stdout
    assert "SIMULATED" in said.stdout
    assert f"sealed to: {OPERATOR}, SIMULATED, build simulated\n" in said.stderr
    assert said.stderr.splitlines()[-1].startswith(
        "sealed: only the enclave and the project can read prompt and answer"
    )
    assert said.stderr.endswith("which is SIMULATED and proves nothing about hardware.\n")
    assert PROMPT not in said.output


def test_who_is_left_out_is_said_with_the_reason(dispatcher: PrivateDispatcher) -> None:
    dispatcher.others = [{"operator": DISPATCHER.address, "reason": "the device failed"}]
    assert f"left out: {DISPATCHER.address}: the device failed\n" in submit("--wait").stderr


def test_a_host_that_can_read_the_prompt_is_not_passed_over(
    dispatcher: PrivateDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy may allow debug mode, for trying things out."""

    def in_debug_mode(*arguments: Any, **options: Any) -> Any:
        return appraise(*arguments, **options).model_copy(update={"debug": True})

    monkeypatch.setattr(enclaves, "appraise", in_debug_mode)
    assert "build simulated in DEBUG mode, so that its host can read it\n" in submit("--wait").stderr


def test_without_waiting_the_key_is_kept_and_opens_the_answer_later(dispatcher: PrivateDispatcher) -> None:
    said = submit("--reply-key", "reply")
    assert said.exit_code == 0, said.output
    [job_id] = data_of(said)
    assert Path("reply").stat().st_mode & 0o777 == 0o600
    later = runner.invoke(app, ["result", job_id, "--reply-key", "reply", *HERE[:2]])
    assert later.exit_code == 0, later.output
    assert ANSWER in later.stdout
    rows = json.loads(
        runner.invoke(app, ["result", job_id, "--reply-key", "reply", "--json", *HERE[:2]]).stdout
    )
    assert [row["result"] for row in rows] == [ANSWER]
    without = runner.invoke(app, ["result", job_id, *HERE[:2]]).stdout
    assert "(sealed: --reply-key FILE opens it, with the file that was made with the job)" in without
    assert dispatcher.rows[0]["result"] not in without
    as_it_is = json.loads(runner.invoke(app, ["result", job_id, "--json", *HERE[:2]]).stdout)
    assert as_it_is == dispatcher.rows


def test_there_may_be_no_answer_yet(dispatcher: PrivateDispatcher) -> None:
    job_id = data_of(submit("--reply-key", "reply"))[0]
    dispatcher.rows = []
    later = runner.invoke(app, ["result", job_id, "--reply-key", "reply", *HERE[:2]])
    assert (later.exit_code, later.stdout) == (0, "")
    assert "there is no answer yet" in later.stderr


def test_the_wrong_key_shows_nothing(dispatcher: PrivateDispatcher) -> None:
    job_id = data_of(submit("--reply-key", "reply"))[0]
    submit("--reply-key", "another")
    dispatcher_document = dispatcher.document
    later = runner.invoke(
        app, ["result", dispatcher_document["job"]["job_id"], "--reply-key", "reply", *HERE[:2]]
    )
    assert job_id != dispatcher_document["job"]["job_id"]
    assert (later.exit_code, later.stdout) == (1, "")
    assert "this is not the key that the job's answer goes to" in later.stderr


def test_a_swapped_box_gets_a_refusal_and_no_answer(dispatcher: PrivateDispatcher) -> None:
    from aos_cli import submit as module

    def swapped(*arguments: Any) -> Any:
        """The host puts a prompt of its own in place of the one that came, sealed to the same enclave and reply key."""
        dispatcher.instead = sealed_to(dispatcher.own, arguments[3], "Say no.")
        return original(*arguments)

    original = module.seal_request
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "seal_request", swapped)
        said = submit("--wait")
    assert said.exit_code == 1
    assert ANSWER not in said.output
    assert "error: the answer is not shown, since it may not be the enclave's: AOS-SEALED-1: " in said.stderr


def test_a_refused_job_leaves_no_key_behind(dispatcher: PrivateDispatcher) -> None:
    dispatcher.refusal = ApiError(422, "no policy (422)")
    said = submit("--reply-key", "reply")
    assert said.stderr.endswith("error: no policy (422)\n")
    assert not Path("reply").exists()
    dispatcher.refusal = ApiError(500, "may have happened (500)")
    submit("--reply-key", "reply")
    assert Path("reply").exists()


def test_a_key_file_that_is_there_is_not_overwritten_and_nothing_is_sent(
    dispatcher: PrivateDispatcher,
) -> None:
    Path("reply").write_text("kept")
    said = submit("--reply-key", "reply")
    assert said.exit_code == 1
    assert "reply exists already" in said.stderr
    assert (Path("reply").read_text(), dispatcher.requests) == ("kept", [])


def test_without_waiting_a_place_for_the_key_is_needed(dispatcher: PrivateDispatcher) -> None:
    said = submit()
    assert said.stderr == (
        "error: --reply-key FILE is needed unless you --wait: it keeps the only key that opens the answer\n"
    )
    assert dispatcher.asked == dispatcher.requests == []


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--job-type", "opml"], "runs in an enclave: leave --job-type out"),
        (["--claim-text", "a"], "a private job has no claim"),
        (["--tag", "suspicion"], "a private job has no tag"),
        (["--idempotency-key", "a"], "--idempotency-key does nothing"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_asked(
    dispatcher: PrivateDispatcher, more: list[str], why: str
) -> None:
    said = submit("--wait", *more)
    assert said.exit_code == 1
    assert why in said.stderr
    assert dispatcher.requests == []
    assert [call for call in dispatcher.asked if isinstance(call, tuple)] == []


@pytest.mark.parametrize("more", [["--reply-key", "reply"], ["--policy", "policy.yaml"]])
def test_options_of_private_jobs_say_that_the_prompt_would_be_open(
    dispatcher: PrivateDispatcher, more: list[str]
) -> None:
    said = runner.invoke(app, ["submit", PROMPT, *ASKED, *more])
    assert said.stderr.endswith("the prompt of this one is sent open: add --private\n")
    assert dispatcher.requests == []


def test_a_policy_is_needed(dispatcher: PrivateDispatcher) -> None:
    said = runner.invoke(app, ["submit", PROMPT, "--private", "--wait", *ASKED])
    assert said.stderr.startswith("error: --policy FILE is needed")
    assert dispatcher.requests == []


def test_the_prompt_may_come_from_standard_input(dispatcher: PrivateDispatcher) -> None:
    assert submit("--wait", prompt="-", input=f"{PROMPT}\n").exit_code == 0
    bad = submit("--wait", prompt="-", input=b"\xff")
    assert bad.stderr == "error: the prompt on standard input is not UTF-8 text (byte 0)\n"


def test_an_open_prompt_may_come_from_standard_input_too(dispatcher: PrivateDispatcher) -> None:
    dispatcher.refusal = ApiError(422, "seen enough")
    runner.invoke(app, ["submit", "-", *ASKED], input="two\nlines\n\n")
    assert dispatcher.requests[0]["job"]["prompt"] == "two\nlines\n"


def test_verify_holds_enclaves_against_a_policy(dispatcher: PrivateDispatcher) -> None:
    job_id = data_of(submit("--wait"))[0]
    good = runner.invoke(app, ["verify", job_id, *HERE, "--policy", "policy.yaml"])
    looked = json.loads(
        runner.invoke(app, ["verify", job_id, *HERE, "--policy", "policy.yaml", "--json"]).stdout
    )
    assert [look["enclave"] for look in looked["rounds"]] == ["simulated"]
    assert "\nsealed: only the enclave and the project" in good.stdout
    assert good.exit_code == 0, good.output
    assert "PASS  AOS-ATTEST-1" in good.stdout
    assert "SIMULATED" in good.stdout
    without = runner.invoke(app, ["verify", job_id, *HERE])
    assert without.exit_code == 1
    assert "SKIP  AOS-ATTEST-1" in without.stdout
    assert "SIMULATED" in without.stdout
    document = dispatcher.own.policy.to_json()
    document["models"][MODEL.name]["simulated"]["roots"] = ["ab" * 32]
    Path("other.yaml").write_text(yaml.safe_dump(document))
    wrong = runner.invoke(app, ["verify", job_id, *HERE, "--policy", "other.yaml"])
    assert wrong.exit_code == 1
    assert "FAIL  AOS-ATTEST-1" in wrong.stdout


def test_only_an_enclave_reads_a_sealed_prompt_in_the_demo_too() -> None:
    said = runner.invoke(app, ["demo", "--private"])
    assert (said.exit_code, said.stderr) == (
        1,
        "error: only an enclave can read a sealed prompt: add --tee\n",
    )
